"""Runs golden experiments in processes of their own, with arithmetic that is the same on as many machines as possible.

``python -m tests.golden_runs.driver`` reads requests, one JSON line each, forks for each of them (so that torch is
imported once), and answers with the exit code. `Driver` is its other end.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.forks import Server, serve

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
EXPERIMENTS = HERE / "experiments"
NUMERIC_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "CUDA_VISIBLE_DEVICES": "",
}
_OF_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_PREFIXES = ("SLURM_", "OMPI_", "MASTER_", "TORCHELASTIC")


class Driver:
    """A process that runs requests, each in a fork of its own.

    Args:
        folder: Where to write what they print and report.
        root: The folder from which the engine and these tests are imported.
    """

    def __init__(self, folder: Path, root: Path = REPO) -> None:
        self._folder = folder
        self._num_requests = 0
        kept = {k: v for k, v in os.environ.items() if k not in _OF_LAUNCHERS and not k.startswith(_PREFIXES)}
        path = os.pathsep.join(filter(None, [str(root), kept.get("PYTHONPATH")]))
        env = kept | {"PYTHONPATH": path} | NUMERIC_ENVIRONMENT
        self._server = Server(["-m", "tests.golden_runs.driver"], env, root)

    def run(self, do: str, expect: int = 0, **request: Any) -> dict[str, Any]:
        """Run a request and return its report, which is empty for a process that was stopped.

        Args:
            do: ``"train"``, ``"evaluate"`` or ``"describe"``.
            expect: The exit code that the process must have; negative for a signal.
            **request: The arguments of what is done.

        Raises:
            RuntimeError: When it ended otherwise; with what it printed.
        """
        self._num_requests += 1
        log, report = (self._folder / f"{kind}_{self._num_requests}" for kind in ("log", "report"))
        code = self._server.ask({"do": do, "log": str(log), "report": str(report), "arguments": request})
        if code != expect:
            printed = log.read_text(encoding="utf-8") if log.exists() else ""
            raise RuntimeError(f"{do} {request} ended with {code}, not {expect}:\n{printed[-6000:]}")
        return json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}

    def close(self) -> None:
        """End the process."""
        self._server.close()


# ---------------------------------------------------------------------- in the forked process
def train(
    config: str, work_dir: str, resume: bool = False, stop: dict[str, Any] | None = None, weights: str | None = None
) -> dict[str, Any]:
    """Train an experiment through the public API and return what its end is compared by.

    Args:
        config: The config file.
        work_dir: The run folder.
        resume: Whether to continue from the newest checkpoint in it.
        stop: Where to end the process, see `Probe`.
        weights: Where to write the final weights.
    """
    from lazyengine.config import LazyConfig
    from lazyengine.optim import param_schedulers_state_dict
    from lazyengine.runner import Runner
    from tests.golden_runs import states

    runner = Runner.from_cfg(LazyConfig.load(config), work_dir=work_dir, resume=resume)
    probe: Any = runner.hooks["probe"]
    probe.stop = stop
    runner.train()
    optimizer = states.optimizer_part(runner.optim_wrapper.state_dict())
    trained = {"model." + name: value for name, value in runner.model.state_dict().items()}
    if "ema" in runner.hooks:
        ema: Any = runner.hooks["ema"]
        trained |= {"average." + name: value for name, value in ema.ema_model.module.state_dict().items()}
    if weights is not None:
        states.save_weights(Path(weights), trained)
    return {
        "first_iter": probe.first_iter,
        "batches": probe.batches,
        "draws": probe.draws,
        "validations": probe.validations,
        "epochs": runner.epoch,
        "iters": runner.iter,
        "weights": states.digest(trained),
        "optimizer": states.digest(optimizer),
        "learning_rates": states.learning_rates(optimizer),
        "schedulers": states.scheduler_part(param_schedulers_state_dict(runner.param_schedulers)),
    }


def evaluate(config: str, work_dir: str, checkpoint: str, precision: str | None = None) -> dict[str, float]:
    """Validate with the weights of a checkpoint and return the metrics.

    Args:
        config: The config file.
        work_dir: The run folder.
        checkpoint: The name of a file in it, or ``"best"``.
        precision: Of the validation, where the checkpoint does not say it.
    """
    from lazyengine.config import LazyConfig
    from lazyengine.runner import Runner

    cfg = LazyConfig.load(config)
    if checkpoint == "best":
        runner = Runner.from_cfg(cfg, work_dir=work_dir)
        runner.set_checkpoint("best", strict=True)
    else:
        runner = Runner.from_cfg(cfg, work_dir=work_dir, load_from=os.path.join(work_dir, checkpoint))
    if precision is not None:
        runner.val_loop.precision = precision
    return {name: float(value) for name, value in runner.val().items()}


def describe() -> dict[str, Any]:
    """Return the version of the engine, and the arithmetic."""
    import lazyengine
    from tests.golden_runs import states

    return {"version": lazyengine.__version__, "numerics": states.numerics()}


def _child(request: dict[str, Any]) -> None:
    """Do what a request says and end as an interpreter would."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdin.close()
    code = 1
    try:
        report = {"train": train, "evaluate": evaluate, "describe": describe}[request["do"]](**request["arguments"])
        Path(request["report"]).write_text(json.dumps(report), encoding="utf-8")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def answer(request: dict[str, Any]) -> int:
    """Return the exit code of a process that does what a request says."""
    pid = os.fork()
    if pid == 0:
        _child(request)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Import what all forks have, and answer requests until the input ends."""
    import torch

    import tests.golden_runs.parts  # noqa: F401

    torch.set_num_threads(1)
    serve(answer)


if __name__ == "__main__":
    main()
