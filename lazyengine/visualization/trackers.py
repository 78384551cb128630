"""Trackers as mirrors of the records: W&B, MLflow and trackio. What they hold is never read back by the engine."""

from __future__ import annotations

import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import RUN_FILE
from ..errors import UsageRuntimeError, UsageValueError
from ..logging import log_error
from .backend import VisBackend, curve_names

_MAX_WAITING = 10_000  # calls that a slow tracker has not taken yet; more are left out


class TrackerBackend(VisBackend):
    """Base class of backends of trackers.

    A thread calls the tracker, so that training never waits for it longer than a limit. The first call that fails is an
    error in the log, the next ones are tried and counted, and their number is told at the end. A tracker that cannot
    begin is left out for this start. A resumed run joins the tracker's run by the engine's ``run_id``; what an earlier
    start showed beyond the step that it was resumed from stays there beside the new points. An evaluation is not sent:
    it would end the run that another process trains, or begin one of its own.

    Args:
        timeout_s: How long `start` waits at most for the tracker's run to begin, and `close` for what is queued, in
            seconds.

    Raises:
        RuntimeError: The tracker's package is not installed.
        ValueError: ``timeout_s`` is negative.
    """

    package = ""
    shows_evaluations = False

    def __init__(self, timeout_s: float = 30.0) -> None:
        name = type(self).__name__
        if find_spec(self.package) is None:
            extra = f"pip install 'lazyengine[{self.package}]'"
            raise UsageRuntimeError(f"{name}: the package {self.package} is not installed; {extra} brings it.")
        if not timeout_s >= 0:
            raise UsageValueError(f"{name}: timeout_s must be at least 0, got {timeout_s!r}.")
        self.timeout_s = timeout_s
        self._run: Any = None
        self._num_failed = 0
        self._waiting: queue.Queue[Callable[[Any], object] | None]
        self._thread: threading.Thread | None = None

    @property
    def experiment(self) -> Any:
        """The tracker's own run; None before it began, and where it could not begin."""
        return self._run

    def begin(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> Any:
        """Return the tracker's run, which a resumed start joins; arguments as of `start`. Called by the thread."""
        raise NotImplementedError

    def end(self, run: Any, failed: bool) -> None:
        """End the tracker's run, once everything is sent.

        Args:
            run: What `begin` returned.
            failed: Whether an error ends it.
        """

    def start(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> None:
        """Begin or join the tracker's run; one that takes longer than the limit begins beside training."""
        self.close()
        self._num_failed = 0
        self._waiting = queue.Queue(_MAX_WAITING)  # a thread that was left behind keeps its own
        begun = threading.Event()
        given = (self._waiting, begun, save_dir, run_dir, resumed_step)
        self._thread = threading.Thread(target=self._work, args=given, name=type(self).__name__, daemon=True)
        self._thread.start()
        if not begun.wait(self.timeout_s):
            self._tell(f"{self.package} has not begun within {self.timeout_s:g} s; what is shown waits for it")

    def close(self) -> None:
        """Wait until the tracker has what is queued, for a limited time, and end its run.

        While an error is handled, as where a runner's training ends by one, the tracker's run ends as failed.
        """
        thread, self._thread, self._run = self._thread, None, None
        if thread is None:
            return
        until = time.monotonic() + self.timeout_s
        failed = isinstance(sys.exc_info()[1], Exception)
        for last in (lambda run: self.end(run, failed), None):
            try:
                self._waiting.put(last, timeout=max(0.0, until - time.monotonic()))
            except queue.Full:
                break
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            self._tell(f"{self.package} is left behind: it has not taken everything within {self.timeout_s:g} s")
        if self._num_failed > 1:
            self._tell(f"{self._num_failed} calls of {self.package} failed in all")

    def send(self, call: Callable[[Any], object]) -> None:
        """Let the thread make a call, which is given the tracker's run; one that is slower than training loses some."""
        if self._thread is None or not self._thread.is_alive():
            return
        try:
            self._waiting.put_nowait(call)
        except queue.Full:
            self._count(f"{self.package} is too slow, and loses points: {_MAX_WAITING} calls wait")

    def _work(self, waiting: queue.Queue[Callable[[Any], object] | None], begun: threading.Event, *where: Any) -> None:
        try:
            run = self.begin(*where)
        except (Exception, SystemExit) as error:  # whatever a library of somebody else raises
            self._tell(f"{self.package} cannot begin ({type(error).__name__}: {error})")
            return
        finally:
            begun.set()
        if waiting is self._waiting:
            self._run = run
        while (call := waiting.get()) is not None:
            try:
                call(run)
            except (Exception, SystemExit) as error:
                self._count(f"{self.package} failed ({type(error).__name__}: {error})")

    def _count(self, text: str) -> None:
        """Count a call that failed, and tell of the first."""
        self._num_failed += 1
        if self._num_failed == 1:
            self._tell(text)

    def _tell(self, text: str) -> None:
        log_error(f"{type(self).__name__}: {text}")


def _name_of(run_dir: Path) -> str:
    """Return the name of the run folder; its starts, in which backends write, are called after the time."""
    return (run_dir.parent if (run_dir.parent / RUN_FILE).is_file() else run_dir).name


class _LoggingBackend(TrackerBackend):
    """A tracker whose run has ``log``, ``config`` and ``finish``, as W&B's and trackio's have."""

    def log(self, run: Any, values: dict[str, Any], step: int) -> None:
        """Add values to the tracker's run."""
        run.log(values, step=step)

    def end(self, run: Any, failed: bool) -> None:
        """End the run."""
        run.finish()

    def add_config_values(self, values: Mapping[str, str]) -> None:
        """Keep the values of the config."""
        self.send(lambda run: run.config.update(dict(values)))

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Show an image."""
        pixels = np.ascontiguousarray(image.repeat(3, axis=2) if image.shape[2] == 1 else image)
        self.send(lambda run: self.log(run, {name: import_module(self.package).Image(pixels)}, step))

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Add a point to several curves."""
        values = curve_names(scalars, mode) | ({} if epoch is None else {"epoch": epoch})
        self.send(lambda run: self.log(run, values, step))


class WandbVisBackend(_LoggingBackend):
    """Mirrors a run to W&B (``pip install 'lazyengine[wandb]'``).

    Curves have the axis ``iteration``, so that a resumed run may go back: W&B's own step cannot.

    Args:
        project: The project.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``; None as the environment says.
        init: Further arguments of ``wandb.init``, such as ``entity`` and ``tags``.
        timeout_s: See `TrackerBackend`.
    """

    package = "wandb"

    def __init__(
        self,
        project: str = "lazyengine",
        mode: str | None = None,
        init: Mapping[str, Any] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(timeout_s)
        self.project, self.mode, self.init = project, mode, dict(init or {})

    def begin(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> Any:
        """Return the run of W&B with the id of the engine's run."""
        import wandb  # type: ignore

        given = {"project": self.project, "name": _name_of(run_dir), "dir": str(save_dir), "mode": self.mode}
        settings = wandb.Settings(console="off", silent=True, init_timeout=max(self.timeout_s, 1.0))
        given.update(id=self.run_id or None, resume="allow", settings=settings)
        run = wandb.init(**{**given, **self.init})
        run.define_metric("iteration", hidden=True)
        run.define_metric("*", step_metric="iteration")
        return run

    def log(self, run: Any, values: dict[str, Any], step: int) -> None:
        """Add values to W&B's run, by the engine's iteration."""
        run.log({**values, "iteration": step})

    def end(self, run: Any, failed: bool) -> None:
        """End the run."""
        run.finish(exit_code=int(failed))

    def add_config_values(self, values: Mapping[str, str]) -> None:
        """Keep the values of the config, also those that a resume changed."""
        self.send(lambda run: run.config.update(dict(values), allow_val_change=True))


class MLflowVisBackend(TrackerBackend):
    """Mirrors a run to MLflow (``pip install 'lazyengine[mlflow]'``).

    Args:
        experiment_name: The experiment, made where there is none.
        tracking_uri: The server or store, as ``"sqlite:///mlflow.db"``; None as the environment says.
        timeout_s: See `TrackerBackend`.
    """

    package = "mlflow"
    _client: Any = None

    def __init__(
        self, experiment_name: str = "lazyengine", tracking_uri: str | None = None, timeout_s: float = 30.0
    ) -> None:
        super().__init__(timeout_s)
        self.experiment_name, self.tracking_uri = experiment_name, tracking_uri

    def begin(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> Any:
        """Return the run of MLflow that has the engine's id as its tag ``lazyengine.run_id``."""
        from mlflow import MlflowClient  # type: ignore

        client = self._client = MlflowClient(tracking_uri=self.tracking_uri)
        found = client.get_experiment_by_name(self.experiment_name)
        where = found.experiment_id if found else client.create_experiment(self.experiment_name)
        if self.run_id:
            for run in client.search_runs([where], f"tags.`lazyengine.run_id` = '{self.run_id}'", max_results=1):
                client.update_run(run.info.run_id, status="RUNNING")
                return run
        return client.create_run(where, run_name=_name_of(run_dir), tags={"lazyengine.run_id": self.run_id})

    def end(self, run: Any, failed: bool) -> None:
        """End the run."""
        self._client.set_terminated(run.info.run_id, "FAILED" if failed else "FINISHED")

    def add_config(self, text: str) -> None:
        """Keep the config as the artifact ``config.py``."""
        self.send(lambda run: self._client.log_text(run.info.run_id, text, "config.py"))

    def add_config_values(self, values: Mapping[str, str]) -> None:
        """Keep the values of the config as parameters; one that a resume changed, which MLflow refuses, as a tag."""

        def keep(run: Any) -> None:
            from mlflow.entities import Param, RunTag  # type: ignore

            known = run.data.params
            named = {_mlflow_name(path): text[:500] for path, text in values.items()}
            params = [Param(path, text) for path, text in named.items() if path not in known]
            tags = [RunTag(f"now.{path}", text) for path, text in named.items() if known.get(path, text) != text]
            for begin in range(0, len(params), 100):
                self._client.log_batch(run.info.run_id, params=params[begin : begin + 100])
            self._client.log_batch(run.info.run_id, tags=tags)

        self.send(keep)

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Keep an image as the artifact ``images/<name>_<step>.png``."""
        pixels = image[:, :, 0] if image.shape[2] == 1 else image
        file = f"images/{_mlflow_name(name)}_{step}.png"
        self.send(lambda run: self._client.log_image(run.info.run_id, pixels, file))

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Add a point to several curves."""
        now = int(time.time() * 1000)

        def add(run: Any) -> None:
            from mlflow.entities import Metric  # type: ignore

            named = curve_names(scalars, mode).items()
            metrics = [Metric(_mlflow_name(name), float(value), now, step) for name, value in named]
            self._client.log_batch(run.info.run_id, metrics=metrics)

        self.send(add)


def _mlflow_name(name: str) -> str:
    """Return a name with the signs that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)


class TrackioVisBackend(_LoggingBackend):
    """Mirrors a run to trackio (``pip install 'lazyengine[trackio]'``).

    Args:
        project: The project.
        init: Further arguments of ``trackio.init``, such as ``space_id``.
        timeout_s: See `TrackerBackend`.
    """

    package = "trackio"

    def __init__(
        self, project: str = "lazyengine", init: Mapping[str, Any] | None = None, timeout_s: float = 30.0
    ) -> None:
        super().__init__(timeout_s)
        self.project, self.init = project, dict(init or {})

    def begin(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> Any:
        """Return the run of trackio, which is found by its name: the first start's, and the id of the engine's run."""
        import trackio  # type: ignore

        name = "-".join(filter(None, (run_dir.name, self.run_id)))
        return trackio.init(**{"project": self.project, "name": name, "resume": "allow", "embed": False, **self.init})
