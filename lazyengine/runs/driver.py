"""The process that `rerun` and `replay` start: trains a saved config, up to an iteration. Run by ``python -m``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NoReturn, cast

from .. import interpreter

with interpreter.paused():
    from .. import dist
    from ..checkpoint import list_checkpoints, summary_of
    from ..config import LazyConfig
    from ..runner import BaseTrainLoop, Runner
    from ..runner.state import PREEMPTED, leave_out
    from .probing import Probe, look_up


def main() -> None:
    """Train as the arguments say."""
    interpreter.keep()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="the saved config of the start")
    parser.add_argument("--work-dir", required=True, help="the new run folder")
    parser.add_argument("--resume", help="the checkpoint to go on from")
    parser.add_argument("--weights", help="the weights to begin with, instead of the config's")
    parser.add_argument("--stop", type=int, help="the number of iterations after which to save and stop")
    parser.add_argument("--as", dest="known_as", help="RUN_ID@START that it goes on being, instead of a run of its own")
    parser.add_argument("--keep", type=int, help="save also after so many iterations, in a file that nothing deletes")
    parser.add_argument("--probe", metavar="FILE", help="look at iterations, as the JSON says; see `probing.Probe`")
    parser.add_argument("--samples", metavar="FILE", help="only find out the samples of these iterations")
    parser.add_argument("--leave-out", type=int, action="append", help="a sample that a supervisor had left out")
    parser.add_argument("overrides", nargs="*", help="changes to the config")
    args = parser.parse_intermixed_args()
    cfg: Any = LazyConfig.load(args.config)
    LazyConfig.apply_overrides(cfg, args.overrides)
    cfg.runner.work_dir = args.work_dir
    if args.stop is not None or args.keep is not None:
        stop_at(args.stop, args.keep)
    runner = Runner.from_cfg(cfg, resume=args.resume or False)
    leave_out(runner, args.leave_out or ())
    if args.known_as is not None:
        runner.folder.run_id, _, start = args.known_as.partition("@")
        runner.folder.start = int(start) - 1  # the next one begins here
    if args.weights is not None:
        runner.set_checkpoint(args.weights)
    if args.samples is not None:
        spec = read_spec(args.samples)
        look_up(runner, spec["iterations"], args.resume, spec["folder"])
    elif args.probe is not None:
        probe = Probe(**read_spec(args.probe))
        if probe.debug:
            runner.dist_timeout_s = 7 * 86400.0  # the other ranks wait for who debugs
        probe.install()
        try:
            runner.train()
        finally:  # also where training fails
            probe.write()
    else:
        runner.train()
        if args.stop == runner.num_iters_completed:  # the end, which no hook may have saved
            leave(runner)


def read_spec(path: str) -> dict[str, Any]:
    """Return what a JSON file says."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def stop_at(iteration: int | None, keep: int | None = None) -> None:
    """Let training stop where a signal would stop it once so many are done, with a checkpoint of that position.

    Args:
        iteration: How many are done then; None for no stop.
        keep: After how many to save in a file of its own, and go on.
    """
    run_iter, stop_if_asked = BaseTrainLoop.run_iter, Runner.stop_if_asked  # this process does nothing else

    def run_or_stop(loop: BaseTrainLoop, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if loop.position.iter == iteration:  # where it began
            leave(runner)
        run_iter(loop, runner, *args, **kwargs)

    def stop_or_go_on(runner: Runner) -> None:
        loop = runner.train_loop
        position = loop.position
        if position.iter == iteration < loop.max_iters and not (loop.stop_training or position.val_due):
            leave(runner)
        if position.iter == keep < loop.max_iters and runner.optim_wrapper.can_be_saved:
            runner.save_checkpoint(f"asked_iter_{keep}.pth", is_latest=False)
        stop_if_asked(runner)

    BaseTrainLoop.run_iter, Runner.stop_if_asked = cast("Any", (run_or_stop, stop_or_go_on))


def leave(runner: Runner) -> NoReturn:
    """Save where no checkpoint of this position is, and exit. Collective: every rank must call."""
    runner.wait_for_checkpoints()
    folder, iteration = runner.work_dir, runner.num_iters_completed
    is_saved = [any(summary_of(path).iter == iteration for path in list_checkpoints(folder))]
    dist.broadcast_object_list(is_saved)
    if not is_saved[0] and runner.optim_wrapper.can_be_saved:
        runner.save_checkpoint(PREEMPTED)
    raise SystemExit(0)


if __name__ == "__main__":
    main()
