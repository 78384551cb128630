"""The study behind a sweep: Optuna's storage in the sweep's folder, in which each trial and its value stand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageRuntimeError, UsageValueError
from .search import Search
from .spaces import Dimension, Paths, as_overrides, as_text, parse_call

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
IN_MEMORY = ":memory:"
"""The storage of a study that is not kept."""
NAME = "sweep"
_GRACE_S = 5  # after which the lock of a killed writer is taken away


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        number: Its number in the study, from 0.
        point: Which of the search's trials it is, from 0; a further attempt at one has the number of its own.
        how: ``"running"`` (or cut off), ``"finished"``, ``"pruned"`` or ``"failed"``.
        value: What the objective came to.
        overrides: What it changes in the config.
        key: Of its resolved config, seed and code.
        same_as: The trial whose run this one is too, because nothing runs twice.
        reason: Why it failed.
    """

    number: int
    point: int
    how: str
    value: float | None
    overrides: list[str]
    key: str
    same_as: int | None = None
    reason: str = ""

    @property
    def folder(self) -> str:
        """Name of its run folder, in that of the sweep."""
        return f"{self.point:04d}"


class Study:
    """The trials of a sweep, kept in a journal file, or another storage of Optuna's.

    Args:
        folder: The sweep's folder.
        search: What it looks for.
        storage: An URL such as ``sqlite:///study.db``; None for a journal in the folder.

    Raises:
        UsageRuntimeError: Optuna is missing, or the storage cannot be opened.
    """

    def __init__(self, folder: str, search: Search, storage: str | None = None) -> None:
        self._optuna = optuna = import_optuna()
        self._search = search
        self.storage = storage or os.path.join(folder, JOURNAL)
        self.name = NAME if storage is None else f"{NAME}:{os.path.basename(os.path.abspath(folder))}"
        if search.pruner is not None:
            make_pruner(search.pruner)
        options = {"study_name": self.name, "load_if_exists": True, "direction": search.direction}
        try:
            self._study = optuna.create_study(storage=open_storage(self.storage), **options)
        except Exception as error:
            if "://" not in self.storage or not isinstance(error, ImportError | _errors_of_databases()):
                raise
            raise UsageRuntimeError(
                f"--storage {self.storage}: {error} Name a database that is there, such as sqlite:///study.db."
            ) from error

    def trials(self) -> list[Trial]:
        """Return all trials by their number."""
        return [_trial_of(each) for each in self._study.get_trials(deepcopy=False)]

    def next_trial(self) -> Trial | None:
        """Draw, write down and return the next trial; None where all are there.

        One whose config, code and seed are those of an earlier one takes the result of that.
        """
        trials = self.trials()
        point = 1 + max((each.point for each in trials), default=-1)
        if point >= self._search.num_trials:
            return None
        values, params, distributions = self._draw(point)
        overrides = as_overrides(values)
        key = self._search.key_of(overrides)
        same = next((each.number for each in trials if each.key == key and each.how != "failed"), None)
        about = {"point": point, "overrides": overrides, "key": key, "same_as": same}
        return self._add(about, params, distributions)

    def again(self, trial: Trial) -> Trial:
        """Write down and return a further attempt at a trial that failed, in the same folder."""
        frozen = self._frozen(trial.number)
        key = self._search.key_of(trial.overrides)
        about = {"point": trial.point, "overrides": trial.overrides, "key": key}
        return self._add(about, frozen.params, frozen.distributions)

    def finish(self, trial: Trial, value: float) -> None:
        """Write down what a trial came to."""
        self._study.tell(trial.number, value)

    def prune(self, trial: Trial, value: float | None) -> None:
        """Write down that a trial was pruned."""
        if value is not None and not self._frozen(trial.number).intermediate_values:
            handle_of(self._study, trial.number).report(value, 1)
        self._study.tell(trial.number, state=self._optuna.trial.TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """Write down that a trial failed, and why."""
        handle_of(self._study, trial.number).set_user_attr("reason", reason[:2000])
        self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)

    def pruning_of(self, trial: Trial) -> dict[str, Any] | None:
        """Return what the process of a trial needs to ask the pruner."""
        if self._search.pruner is None:
            return None
        about = {"objective": self._search.objective, "pruner": self._search.pruner}
        storage = self.storage if "://" in self.storage else os.path.abspath(self.storage)
        return {**about, "storage": storage, "study": self.name, "number": trial.number}

    # ------------------------------------------------------------------ inside
    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _add(self, about: dict[str, Any], params: dict[str, Any], distributions: dict[str, Any]) -> Trial:
        """Write a trial down, as a whole or not at all."""
        number = len(self._study.get_trials(deepcopy=False))
        states, create = self._optuna.trial.TrialState, self._optuna.trial.create_trial
        values = {"params": params, "distributions": distributions, "user_attrs": about}
        self._study.add_trial(create(state=states.RUNNING, **values))
        return self.trials()[number]

    def _draw(self, point: int) -> tuple[dict[Paths, Any], dict[str, Any], dict[str, Any]]:
        """Return values, and Optuna's parameters, of a trial, as a function of seed, point and finished trials.

        Consecutive trials try each combination of the grids with the same drawn values.
        """
        optuna, search = self._optuna, self._search
        group, place = divmod(point, len(search.grid))
        values = dict(search.grid[place])
        kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        (seed,) = np.random.SeedSequence((search.seed, group)).generate_state(1)  # a sum would be that of other seeds
        sampler = kinds[search.sampler](seed=int(seed))
        scratch = optuna.create_study(direction=search.direction, sampler=sampler)
        if search.sampler != "random":
            states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
            scratch.add_trials(self._study.get_trials(deepcopy=False, states=states))
        if place:  # the first of its group has drawn already
            first = next(each for each in self.trials() if each.point == group * len(search.grid))
            scratch.enqueue_trial(self._frozen(first.number).params)
        trial = scratch.ask()
        _suggest(trial, search.space, values)
        _suggest(trial, search.more(values), values)
        return values, trial.params, trial.distributions


def _errors_of_databases() -> type[Exception]:
    """Return what Optuna's storages of URLs raise where a database is not there, or nothing knows its kind."""
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def _suggest(trial: optuna.Trial, space: Mapping[Paths, Dimension], values: dict[Paths, Any]) -> None:
    """Draw what a space draws into `values`.

    Raises:
        UsageValueError: A conditional part has a grid, where the number of trials is given.
    """
    for paths, each in space.items():
        name = paths if isinstance(paths, str) else ",".join(paths)
        if each.is_number:
            values[paths] = trial.suggest_float(name, *each.values, log=each.kind == "log_uniform")
        elif each.is_drawn:
            texts = [as_text(value) for value in each.values]
            values[paths] = each.values[texts.index(trial.suggest_categorical(name, texts))]
        elif paths not in values:
            if len(each.values) > 1:
                raise UsageValueError(f"conditional(): {name} is a grid; beside drawn values use choice(...) there.")
            values[paths] = next(iter(each.values))


def report_and_ask(about: Mapping[str, Any], value: float, step: int) -> bool:
    """Tell the study the value of a validation, and return whether the pruner ends the trial."""
    optuna = import_optuna()
    study = optuna.load_study(
        study_name=about["study"], storage=open_storage(about["storage"]), pruner=make_pruner(about["pruner"])
    )
    known = study.get_trials(deepcopy=False)[about["number"]].intermediate_values
    trial = handle_of(study, about["number"])
    if step not in known:  # a resumed run validates again
        trial.report(value, step)
    return trial.should_prune()


def make_pruner(text: str) -> Any:
    """Return Optuna's pruner; its unit is a validation.

    Raises:
        UsageValueError: The arguments are not those of its class.
    """
    name, args, kwargs = parse_call(text) or (text, [], {})
    pruners = import_optuna().pruners
    kinds = {
        "median": (pruners.MedianPruner, {"n_startup_trials": 4}),
        "asha": (pruners.SuccessiveHalvingPruner, {"min_resource": 1, "reduction_factor": 3}),
        "hyperband": (pruners.HyperbandPruner, {"min_resource": 1}),
    }
    kind, defaults = kinds[name]
    try:
        return kind(*args, **{**defaults, **kwargs})
    except (TypeError, ValueError) as error:
        raise UsageValueError(f"pruner {text!r}: {error}.") from None


def open_storage(where: str) -> Any:
    """Return Optuna's storage: of an URL, or a journal file, whose end a killed writer may have left torn."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    if where == IN_MEMORY:
        return None
    if "://" in where:
        return where
    lock = JournalFileSymlinkLock(where, grace_period=_GRACE_S)
    backend = JournalFileBackend(where, lock_obj=lock)
    lock.acquire()
    try:
        with open(where, "rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
    return JournalStorage(backend)


def handle_of(study: optuna.Study, number: int) -> optuna.Trial:
    """Return the object by which values of a running trial are reported."""
    frozen = study.get_trials(deepcopy=False)[number]
    return import_optuna().trial.Trial(study, frozen._trial_id)  # there is no public way from the number to the object


def import_optuna() -> Any:
    """Return Optuna.

    Raises:
        UsageRuntimeError: It is not installed; names the extra.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageRuntimeError("a sweep needs Optuna: pip install 'lazyengine[sweep]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _trial_of(frozen: optuna.trial.FrozenTrial) -> Trial:
    how = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}.get(frozen.state.name, "running")
    value = None if how == "failed" else frozen.value
    return Trial(number=frozen.number, how=how, value=value, **frozen.user_attrs)
