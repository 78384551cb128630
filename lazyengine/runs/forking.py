"""Begin a new run as another one stood at an iteration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import dist
from ..checkpoint import summary_of
from ..config import LazyConfig, set_argument
from ..errors import UsageRuntimeError, UsageValueError
from ..fileio import atomic_write
from .reading import Run, read_run
from .replaying import PREFIX, index_of, nearest_checkpoint, reach, temporary_folder
from .rerunning import chain_of
from .steps import accumulation_of
from .verifying import checkpoints_of

if TYPE_CHECKING:
    from ..runner import Runner


def fork(
    folder: str | os.PathLike[str],
    iteration: int | None,
    work_dir: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    report: Callable[[str], object] = lambda line: None,
) -> Runner:
    """Return the runner of a new run that begins as a run stood when so many iterations were done; `train` trains it.

    It has the config of that run with the overrides, the code of today, and an identity of its own; its ``run.json``
    says where it comes from and what was changed. Where no checkpoint stands there, one is computed, see
    `prepare_fork`.

    Args:
        folder: The folder of the run to branch from.
        iteration: How many of its iterations are done; None for its last checkpoint.
        work_dir: The new run folder. It must not be there.
        overrides: Changes to the config, as on the command line.
        report: Called with a line about what is being done.

    Raises:
        ValueError: There is no such iteration, or the new folder is there already.
        RuntimeError: The state cannot be computed; says what is missing.
    """
    from ..runner import Runner
    from ..runner.state import leave_out

    if os.path.lexists(work_dir):
        raise UsageValueError(f"{os.fspath(work_dir)} is there already; name a new folder.")
    run = read_run(folder)
    path = prepare_fork(run, iteration, report=report)
    chain = chain_of(run)
    start = chain[min(len(chain) - 1, index_of(run, chain, max(0, summary_of(path).iter - 1)))]
    config = start.folder / "config.py"
    if not config.is_file():
        raise UsageRuntimeError(f"{run.path} keeps no config: its program built it by hand, and alone can fork it.")
    cfg: Any = LazyConfig.load(str(config))
    LazyConfig.apply_overrides(cfg, list(overrides))
    set_argument(cfg.runner, "work_dir", os.fspath(work_dir), source="fork")
    runner = Runner.from_cfg(cfg, resume=path)
    leave_out(runner, chain[-1].about.get("left_out", ()), is_former=True)
    return runner


def prepare_fork(run: Run, iteration: int | None = None, *, report: Callable[[str], object] = lambda line: None) -> str:
    """Return a checkpoint of a run at an iteration, which is computed where there is none, once for all forks.

    A computed one lies in the run's folder ``prefix/``, which no resume looks into.

    Args:
        run: The run.
        iteration: How many iterations are done; None for its last checkpoint.
        report: Called with a line about what is being done.

    Raises:
        ValueError: There is no such iteration.
        RuntimeError: It cannot be computed; says what is missing.
    """
    path = nearest_checkpoint(run, 2**62 if iteration is None else iteration)
    if iteration is None and path is None:
        raise UsageValueError(f"{run.path} keeps no checkpoint; say at which iteration to fork: RUN@ITER.")
    if path is not None and (iteration is None or summary_of(path).iter == iteration):
        return path
    if iteration is None or iteration < 1:
        raise UsageValueError(f"a fork at iteration {iteration}: expected 1 or more; at 0, train the config anew.")
    if "RANK" in os.environ or dist.is_distributed():
        raise UsageRuntimeError(
            f"{run.path} has no checkpoint at iteration {iteration}, and several ranks cannot compute it here: do it "
            f"before, in one process: lazyengine fork {run.path}@{iteration} --prepare"
        )
    with temporary_folder() as to:
        begin, steps = reach(run, iteration - 1, to, report)
        report(f"up to iteration {iteration}, from {begin or 'the begin of the run'}")
        failure = steps[-1].make(iteration, "--as", f"{steps[-1].start.run_id}@{steps[-1].start.number}")
        made = checkpoints_of([to], iteration=iteration)
        if not made:
            if (count := accumulation_of(run)) > 1 and not failure:
                failure = f"{count} batches are accumulated, and between them nothing is saved; take a multiple"
            raise UsageRuntimeError(f"{run.path}: no checkpoint at iteration {iteration}: {failure or 'it ended'}")
        target = run.path / PREFIX / f"iter_{iteration}.pth"
        target.parent.mkdir(exist_ok=True)
        with open(made[0][0], "rb") as source, atomic_write(target) as file:
            shutil.copyfileobj(source, file)
    return str(target)


def split_name(text: str) -> tuple[str, int | None]:
    """Return the folder and the iteration of ``RUN@ITER``.

    Raises:
        ValueError: What stands behind the @ is no number.
    """
    folder, at, number = text.rpartition("@")
    if not at or Path(text).exists():
        return text, None
    if not number.isdigit():
        raise UsageValueError(f"{text}: expected RUN@ITER with a number of iterations, such as work_dirs/digits@700.")
    return folder, int(number)
