"""Runs the trials of a search, as many at once as fit, and goes on with what an earlier call left."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..config import arguments_of, instantiate, is_node, target_of
from ..config.saving import to_json
from ..errors import UsageValueError
from ..evaluator import is_better
from ..fileio import atomic_write
from ..record import CODE_FOLDER, RUN_FILE, changed_in_common, collect_code, flat_config, load_code, read_run_file
from ..runner.lock import FolderLock
from ..runs import Run, read_run
from ..text import columns_of, listed, table
from .faults import Supervision
from .job import Job, Outcome
from .launchers import POLL_S, Launched, Launcher, LocalLauncher, Stopping, wait
from .search import NO_IDENTITY, Search, validates_as_engine
from .study import IN_MEMORY, Study, Trial

SWEEP_FILE = "sweep.json"
_MAX_LOST = 3


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to.

    Attributes:
        folder: Its folder, with one run folder for each trial.
        objective: The metric that counts.
        direction: ``"maximize"`` or ``"minimize"``.
        trials: Its trials, of one that was retried the last attempt.
        num_missing: How many trials are still to be run.
        exit_code: 0; 1 where trials failed; 143 or 130 where it was stopped.
    """

    folder: str
    objective: str
    direction: str
    trials: list[Trial]
    num_missing: int = 0
    exit_code: int = 0

    def ranked(self) -> list[Trial]:
        """Return the trials, the best first, and those without a value last."""
        sign = -1 if self.direction == "maximize" else 1
        rank = {"finished": 0, "pruned": 1, "running": 2, "failed": 3}
        return sorted(self.trials, key=lambda t: (rank[t.how], sign * t.value if t.value is not None else 0.0, t.point))

    def as_text(self) -> str:
        """Return the table."""
        rows: list[tuple[str, ...]] = [("trial", "state", self.objective, "changes")]
        for each in self.ranked():
            value = "" if each.value is None else f"{each.value:.6g}"
            how = each.how if each.same_as is None else f"{each.how}, the same as {each.same_as:04d}"
            rows.append((each.folder, how, value, " ".join(each.overrides)))
        more = [f"{self.num_missing} trials are still to be run; the same command goes on"] if self.num_missing else []
        best = next((each for each in self.ranked() if each.how == "finished"), None)
        end = [] if best is None else [f"best: {best.value:.6g} in {os.path.join(self.folder, best.folder)}"]
        failed = [f"{t.folder} failed: {t.reason.partition(chr(10))[0]}" for t in self.trials if t.how == "failed"]
        return "\n".join([table(rows, columns=columns_of(sys.stdout)), *failed, *more, *end])


def sweep(
    search: Search,
    folder: str,
    launcher: Launcher | None = None,
    *,
    storage: str | None = None,
    num_ranks: int = 1,
    report: Callable[[str], object] = lambda line: None,
) -> Sweep:
    """Run the trials of a search that have not ended yet.

    In a folder with trials it goes on: finished and pruned ones stay, those that were cut off resume from their
    checkpoints, those that failed are started once more.

    Args:
        search: What is looked for.
        folder: The sweep's folder.
        launcher: Where trials run; None for processes here.
        storage: URL of Optuna's storage; None for a journal file in the folder.
        num_ranks: Processes of each trial.
        report: Called with a line about what happens.

    Raises:
        UsageError: The search does not fit its config, or the folder has another search, or a run.
        FolderBusyError: Another sweep is at work in the folder.
    """
    cfg = search.check()
    policy = supervision_of(cfg)
    _refuse_run(folder)
    os.makedirs(folder, exist_ok=True)
    lock = FolderLock(folder)
    lock.acquire()
    try:
        study = Study(folder, search, storage)
        _check_same(search, folder, study)
        if changed := _changes_since(search, folder, study):
            report(changed)
        with Stopping() as stopping:
            trials = _Trials(search, folder, study, policy, num_ranks, report)
            trials.is_sure = validates_as_engine(arguments_of(cfg)["runner"])
            try:
                return trials.run(launcher or LocalLauncher(num_ranks, report=report), stopping)
            except BaseException:
                trials.stop(lambda: stopping.count)
                raise
    finally:
        lock.release()


class _Trials:
    """The trials of one call of `sweep`."""

    def __init__(
        self,
        search: Search,
        folder: str,
        study: Study,
        policy: dict[str, Any],
        num_ranks: int,
        report: Callable[[str], object],
    ) -> None:
        self._search, self._folder, self._study = search, folder, study
        self._policy, self._num_ranks, self._report = policy, num_ranks, report
        self._running: dict[int, tuple[Trial, Launched]] = {}
        self._same: list[Trial] = []  # those whose run another one is, which has not ended
        self._num_lost: dict[int, int] = {}  # how often the job of a trial was lost, by point
        self._resumed: Iterator[Trial] = iter(())
        self.is_sure = False  # whether what the first validation does not record no later one will
        # when to look next whether a trial has recorded the objective; None where that is known, or of another mode
        self._look_s = 0.0 if search.objective.startswith("val/") else None

    def run(self, launcher: Launcher, stopping: Stopping) -> Sweep:
        """Run everything to its end, or until a signal."""
        self._resumed = iter(self._left_over())
        is_told = False
        while True:
            if not stopping.number:
                self._fill(launcher)
            elif not is_told or stopping.count > 1:
                is_told = True
                for _, launched in self._running.values():
                    launched.kill() if stopping.count > 1 else launched.stop()
                if stopping.count == 1:
                    self._report(f"stopping: {len(self._running)} trials save and end; the same command goes on")
            for number, (trial, launched) in list(self._running.items()):
                if (outcome := launched.poll()) is not None:
                    del self._running[number]
                    self._end(trial, outcome)
            if not self._running:
                if stopping.number or not self._fill(launcher):
                    return self._result(128 + stopping.number if stopping.number else None)
            else:
                self._look_for_objective()
                time.sleep(POLL_S)

    def stop(self, num_asked: Callable[[], int]) -> None:
        """Ask all trials at work to save and end, and wait until they have; `num_asked` as for `wait`."""
        for _, launched in self._running.values():
            launched.stop()
        for _, launched in self._running.values():
            wait(launched, num_asked)

    def _left_over(self) -> list[Trial]:
        """Return the trials that were cut off, and further attempts at those that failed."""
        latest = {trial.point: trial for trial in self._study.trials()}
        left = [trial for trial in latest.values() if trial.how == "running"]
        return left + [self._study.again(trial) for trial in latest.values() if trial.how == "failed"]

    def _fill(self, launcher: Launcher) -> bool:
        """Start as many trials as fit; return whether any is at work now."""
        fresh: list[Trial] = []
        while len(self._running) + len(fresh) < launcher.capacity:
            trial = next(self._resumed, None) or self._study.next_trial()
            if trial is None:
                break
            if trial.same_as is not None:
                self._same.append(trial)
                self._end_same()
            elif not self._has_ended(trial):
                fresh.append(trial)
        jobs = [self._job(trial) for trial in fresh]
        for trial, launched in zip(fresh, launcher.launch(jobs) if jobs else ()):
            self._running[trial.number] = (trial, launched)
            self._report(f"trial {trial.folder} begins: {' '.join(trial.overrides)}")
        return bool(self._running)

    def _work_dir(self, trial: Trial) -> str:
        return os.path.join(self._folder, trial.folder)

    def _job(self, trial: Trial) -> Job:
        return Job(
            config=self._search.config,
            work_dir=self._work_dir(trial),
            overrides=[*self._search.overrides, *trial.overrides],
            experiment_name=f"{os.path.basename(os.path.abspath(self._folder))}_{trial.folder}",
            num_ranks=self._num_ranks,
            pruning=self._study.pruning_of(trial),
            supervision=self._policy,
        )

    def _has_ended(self, trial: Trial) -> bool:
        """Whether the run of a trial ended before the sweep could write it down; then it is written down now."""
        work_dir = self._work_dir(trial)
        starts = read_run_file(work_dir, "Remove the trial's folder to run it anew.").get("starts", [])
        if not starts or (starts[-1].get("ended") or {}).get("how") != "finished":
            return False
        is_pruned = Job("", work_dir).pruned_file.exists()
        self._end(trial, Outcome("pruned" if is_pruned else "finished"))
        return True

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        """Write down how a trial ended."""
        value = self._value_of(trial) if outcome.how in ("finished", "pruned") else None
        if outcome.how == "finished" and value is None:
            outcome = Outcome("failed", f"{self._search.objective} was never recorded as a finite number")
        if outcome.how == "finished" and value is not None:
            self._study.finish(trial, value)
            self._report(f"trial {trial.folder} finished: {self._search.objective} {value:.6g}")
        elif outcome.how == "pruned":
            self._study.prune(trial, value)
            self._report(f"trial {trial.folder} was pruned")
        elif outcome.how == "failed":
            self._check_objective(trial)
            self._study.fail(trial, outcome.reason)
            self._report(f"trial {trial.folder} failed: {outcome.reason.partition(chr(10))[0]}")
        else:  # it can go on: now where its job was lost, else when the sweep is called again
            self._report(f"trial {trial.folder} was {outcome.how}: {outcome.reason.partition(chr(10))[0]}")
            self._num_lost[trial.point] = self._num_lost.get(trial.point, 0) + 1
            if outcome.how == "lost" and self._num_lost[trial.point] <= _MAX_LOST:
                self._resumed = iter([*self._resumed, trial])
        self._end_same()

    def _end_same(self) -> None:
        """Give trials that are the run of another one its result, when it has one."""
        ended = {trial.number: trial for trial in self._study.trials() if trial.how != "running"}
        for trial in [each for each in self._same if each.same_as in ended]:
            self._same.remove(trial)
            other = ended[trial.same_as or 0]
            if other.how == "finished":
                self._study.finish(trial, other.value or 0.0)
            elif other.how == "pruned":
                self._study.prune(trial, other.value)
            else:
                self._study.fail(trial, other.reason)

    def _look_for_objective(self) -> None:
        """See whether the first trial that has validated recorded the objective: end the sweep, or say that it did not.

        Where hooks of the user may record it later, the first trial that ends decides.
        """
        began = time.monotonic()
        if self._look_s is None or began < self._look_s:
            return
        is_decided = True
        try:
            is_decided = any(self._check_objective(trial) for trial, _ in self._running.values())
        except UsageValueError as error:
            if self.is_sure:
                raise
            self._report(f"the objective was not recorded at the first validation of a trial: {error}")
        self._look_s = None if is_decided else time.monotonic() + max(1.0, 20 * (time.monotonic() - began))

    def _check_objective(self, trial: Trial) -> bool:
        """End the sweep where a run validated and has no such metric, as all others would; the trial may go on.

        Returns:
            Whether it has it.
        """
        try:
            run = read_run(self._work_dir(trial))
        except (OSError, ValueError):  # it has recorded nothing, or writes just now
            return False
        return any(name.startswith("val/") for name in run.curves) and bool(self._curve_of(run))

    def _curve_of(self, run: Run) -> str | None:
        """Return the name of the curve that is the objective; None where other trials have it, and this run has not.

        Raises:
            UsageValueError: No trial has such a metric yet; says what there is.
        """
        try:
            return self._search.curve_of(run)
        except UsageValueError:
            if any(trial.value is not None for trial in self._study.trials()):
                return None
            raise

    def _value_of(self, trial: Trial) -> float | None:
        """Return the best value of the objective that a run recorded; None where it was never finite."""
        run = read_run(self._work_dir(trial))
        key = self._curve_of(run)
        rule = "greater" if self._search.direction == "maximize" else "less"
        best: float | None = None
        for value in run.curves[key][1] if key else ():
            best = value if is_better(value, best, rule) else best
        return best

    def _result(self, exit_code: int | None) -> Sweep:
        latest = {trial.point: trial for trial in self._study.trials()}
        trials = [latest[point] for point in sorted(latest)]
        num_left = self._search.num_trials - sum(trial.how in ("finished", "pruned", "failed") for trial in trials)
        code = 1 if any(trial.how == "failed" for trial in trials) else 0
        about = (self._folder, self._search.objective, str(self._search.direction))
        return Sweep(*about, trials, num_left, code if exit_code is None else exit_code)


def supervision_of(cfg: Any) -> dict[str, Any]:
    """Return the arguments of a config's `Supervision`, its defaults where it has none.

    Raises:
        UsageValueError: Its ``supervision`` is something else, or a policy stands under another name.
    """
    values = arguments_of(cfg)
    given = values.get("supervision")
    others = [name for name, value in values.items() if is_node(value) and target_of(value) is Supervision]
    if given is None and others:
        raise UsageValueError(f"{others[0]} is a Supervision that nothing reads: call it supervision.")
    policy = Supervision() if given is None else instantiate(given)
    if not isinstance(policy, Supervision):
        raise UsageValueError(f"supervision is a {type(policy).__name__}: expected LazyCall(Supervision)(...).")
    return dict(vars(policy))


def _refuse_run(folder: str) -> None:
    if folder and os.path.isfile(os.path.join(folder, RUN_FILE)):
        raise UsageValueError(f"{folder} is the folder of a run: name another one for the sweep by --work-dir.")


def _check_same(search: Search, folder: str, study: Study, writes: bool = True) -> None:
    """Write down what the folder's search is, or see that it is this one.

    Another objective of the same direction is accepted as long as no trial has a value, so that a wrong name can be
    corrected.

    Raises:
        UsageValueError: It is another one.
    """
    path = os.path.join(folder, SWEEP_FILE)
    now = json.loads(json.dumps(search.identity()))
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            was = json.load(file)
        changed = [name for name in now if now[name] != was.get(name)]
        if not changed:
            return
        if changed != ["objective"] or any(trial.value is not None for trial in study.trials()):
            lines = "; ".join(f"{name} was {was.get(name)}, is {now[name]}" for name in changed)
            raise UsageValueError(f"{folder} has another search: {lines}. Name a new folder by --work-dir.")
    if writes:
        with atomic_write(path, "w", encoding="utf-8") as file:
            json.dump(now, file, indent=1)


def _changes_since(search: Search, folder: str, study: Study) -> str:
    """Return what to say where the config or the code is no longer what the newest ended trial had, else nothing."""
    ended = [trial for trial in study.trials() if trial.how in ("finished", "pruned") and trial.same_as is None]
    work_dir = os.path.join(folder, ended[-1].folder) if ended else ""
    if not os.path.isfile(os.path.join(work_dir, RUN_FILE)):
        return ""
    run, cfg = read_run(work_dir), search.load(ended[-1].overrides)
    is_, was = (
        {path: value for path, value in config.items() if not path.startswith(NO_IDENTITY)}
        for config in (flat_config(to_json(cfg)), run.config)
    )
    found = [
        f"{path} was {was.get(path, 'not set')}, is {is_.get(path, 'not set')}"
        for path in {**was, **is_}
        if was.get(path) != is_.get(path)
    ]
    kept = os.path.join(work_dir, CODE_FOLDER, f"{run.starts[-1].code}.zip")
    if os.path.isfile(kept):
        found += changed_in_common(load_code(kept), collect_code(cfg.__record__.configs))
    if not found:
        return ""
    return (
        f"since trial {ended[-1].folder} ran this has changed: {listed(found, 4)}. What has ended stays as it is, "
        "and what begins now is another experiment; name a new folder by --work-dir to compare like with like"
    )


def planned(search: Search, limit: int = 20, folder: str = "", storage: str | None = None) -> list[list[str]]:
    """Return the overrides of the first trials of a search, as a sweep would run them, without running any.

    What a sampler draws of the results of earlier trials is drawn here as if there were none.

    Raises:
        UsageValueError: The folder, where one is named, has another search, or a run.
    """
    _refuse_run(folder)
    if os.path.isfile(os.path.join(folder, SWEEP_FILE)):
        _check_same(search, folder, Study(folder, search, storage), writes=False)
    study = Study("", search, IN_MEMORY)
    found = []
    while len(found) < limit and (trial := study.next_trial()) is not None:
        found.append(trial.overrides)
    return found
