"""What a visualizer's backend has to do, what those have in common that queue, and the one that writes plain files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageValueError
from ..fileio import QueuedFile
from ..logging import METRICS_FILE, MetricsWriter
from .images import encode_png


class VisBackend:
    """Base class of backends: each method does nothing until it is overridden.

    Only the main process calls backends. Values are checked and converted before: scalars are Python numbers, images
    are uint8 arrays of shape ``(H, W, C)``, configs and graphs are text. ``step`` is the number of training iterations
    completed, in all of them.

    Attributes:
        run_id: Of the run, the same in all its starts, as in ``run.json``; set before `start`. Empty by hand.
        shows_evaluations: Whether it also gets what an evaluation shows; one that mirrors the training does not.
    """

    run_id = ""
    shows_evaluations = True

    def start(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> None:
        """Begin to write.

        Args:
            save_dir: Folder of this start of the run.
            run_dir: Folder that all starts of the run share; the same as ``save_dir`` if there is no such folder.
            resumed_step: Step after which the run goes on; what was shown beyond it is void. None: a new run.
        """

    def add_config(self, text: str) -> None:
        """Keep the run's config."""

    def add_config_values(self, values: Mapping[str, str]) -> None:
        """Keep the values of the config as text, by path; called with `add_config`, for a config that was loaded."""

    def add_graph(self, text: str) -> None:
        """Keep the description of the model."""

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Show an image."""

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Add a point to several curves; ``mode`` is None for scalars that belong to no stage."""

    @property
    def experiment(self) -> Any:
        """What the backend writes to: its own object of a tracker's library, where it has one."""
        return self

    def add_scalar(self, name: str, value: float, step: int = 0) -> None:
        """Add a point to one curve."""
        self.add_scalars({name: value}, step, None, None, step)

    def flush(self) -> None:
        """Write what is queued."""

    def close(self) -> None:
        """Write what is queued and close files."""
        self.flush()


def curve_names(scalars: Mapping[str, float], mode: str | None) -> dict[str, float]:
    """Return scalars under the names that curves have everywhere: ``<mode>/<name>``."""
    prefix = f"{mode}/" if mode else ""
    return {prefix + name.removeprefix(prefix): value for name, value in scalars.items()}


def file_of(name: str) -> str:
    """Return the name of an image with the signs that file names have; slashes make folders."""
    parts = [re.sub(r"[^\w.=+-]", "_", part) for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "image"


class ForeignBackend(VisBackend):
    """An object with methods of the names of mmengine's backends; those that it has are called.

    Args:
        backend: The object.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    @property
    def experiment(self) -> Any:
        """The object itself."""
        return self._backend

    def _call(self, name: str, *args: Any, **kwargs: Any) -> bool:
        method = getattr(self._backend, name, None)
        if callable(method):
            method(*args, **kwargs)
        return callable(method)

    def add_config(self, text: str) -> None:
        """Pass the config on, as text."""
        self._call("add_config", text)

    def add_graph(self, text: str) -> None:
        """Pass the description of the model on."""
        self._call("add_graph", text, None)

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Pass an image on."""
        self._call("add_image", name, image, step=step)

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Pass a point on under the names that curves have; by ``add_scalar`` where there is nothing else."""
        named = curve_names(scalars, mode)
        if not self._call("add_scalars", named, step=step):
            for name, value in named.items():
                self._call("add_scalar", name, value, step=step)

    def close(self) -> None:
        """Close it."""
        self._call("close")


class QueuedBackend(VisBackend):
    """Base class of backends that write to a `QueuedFile`, which holds no file open.

    Args:
        interval_s: Least time between two writes, in seconds.

    Raises:
        ValueError: When ``interval_s`` is negative.
    """

    file: QueuedFile | None = None

    def __init__(self, interval_s: float = 1.0) -> None:
        if not interval_s >= 0:
            raise UsageValueError(f"{type(self).__name__}: interval_s must be at least 0, got {interval_s!r}")
        self.interval_s = interval_s

    def flush(self) -> None:
        """Write what is queued."""
        if self.file is not None:
            self.file.flush()


class LocalVisBackend(QueuedBackend):
    """Writes plain files in the folder of the start.

    ``metrics.jsonl`` (see `lazyengine.logging.MetricsWriter`), ``images/<name>_<step>.png``, ``config.txt`` and
    ``graph.txt``.

    Args:
        interval_s: Least time between two writes of ``metrics.jsonl``, in seconds.
    """

    _metrics: MetricsWriter | None = None

    def start(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> None:
        """Set ``save_dir``; mark in ``metrics.jsonl`` where a resumed run goes on."""
        self.close()
        self.file = self._metrics = MetricsWriter(save_dir / METRICS_FILE, self.interval_s)
        self._metrics.start(resumed_step)

    def add_config(self, text: str) -> None:
        """Write ``config.txt``."""
        self._write("config.txt", text.encode())

    def add_graph(self, text: str) -> None:
        """Write ``graph.txt``."""
        self._write("graph.txt", text.encode())

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Write ``images/<name>_<step>.png``; slashes in the name make folders."""
        self._write(f"images/{file_of(name)}_{step}.png", encode_png(image))

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Queue a record; scalars of no stage have the mode ``"custom"``."""
        if self._metrics is not None:
            self._metrics.write(scalars, step=step, epoch=epoch, iter=iter, mode=mode or "custom")

    def _write(self, name: str, data: bytes) -> None:
        if self.file is not None:
            path = self.file.path.parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
