"""What a visualizer's backend has to do, and the one that writes plain files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..logging.metrics import METRICS_FILE, MetricsWriter
from .png import encode_png


class VisBackend:
    """Base class of backends: each method does nothing until it is overridden.

    Only the main process calls backends. Values are checked and converted before: scalars are Python numbers, images
    are uint8 arrays of shape ``(H, W, C)``, configs and graphs are text. ``step`` is the number of training iterations
    completed, in all of them.
    """

    def start(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> None:
        """Begin to write.

        Args:
            save_dir: Folder of this start of the run.
            run_dir: Folder that all starts of the run share; the same as ``save_dir`` if there is no such folder.
            resumed_step: Step after which the run goes on; what was shown beyond it is void. None: a new run.
        """

    def add_config(self, text: str) -> None:
        """Keep the run's config."""

    def add_graph(self, text: str) -> None:
        """Keep the description of the model."""

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Show an image."""

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Add a point to several curves; ``mode`` is None for scalars that belong to no stage."""

    def flush(self) -> None:
        """Write what is queued."""

    def close(self) -> None:
        """Write what is queued and let go of files."""


class LocalVisBackend(VisBackend):
    """Writes plain files in the folder of the start.

    ``metrics.jsonl`` (see `lazyengine.logging.MetricsWriter`), ``images/<name>_<step>.png``, ``config.txt`` and
    ``graph.txt``.

    Args:
        interval_s: Least time between two writes of ``metrics.jsonl``, in seconds.
    """

    def __init__(self, interval_s: float = 1.0) -> None:
        self.interval_s = interval_s
        self._dir = Path()
        self._metrics: MetricsWriter | None = None

    def start(self, save_dir: Path, run_dir: Path, resumed_step: int | None) -> None:
        """Take ``save_dir``; mark in ``metrics.jsonl`` where a resumed run goes on."""
        self.close()
        self._dir = save_dir
        self._metrics = MetricsWriter(save_dir / METRICS_FILE, self.interval_s)
        self._metrics.start(resumed_step)

    def add_config(self, text: str) -> None:
        """Write ``config.txt``."""
        self._write("config.txt", text.encode())

    def add_graph(self, text: str) -> None:
        """Write ``graph.txt``."""
        self._write("graph.txt", text.encode())

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Write ``images/<name>_<step>.png``; slashes in the name make folders."""
        parts = [re.sub(r"[^\w.=+-]", "_", part) for part in name.split("/") if part not in ("", ".", "..")]
        self._write(f"images/{'/'.join(parts) or 'image'}_{step}.png", encode_png(image))

    def add_scalars(
        self, scalars: Mapping[str, float], step: int, mode: str | None, epoch: int | None, iter: int | None
    ) -> None:
        """Queue a record; scalars of no stage have the mode ``"custom"``."""
        if self._metrics is not None:
            self._metrics.write(scalars, step=step, epoch=epoch, iter=iter, mode=mode or "custom")

    def flush(self) -> None:
        """Write queued records."""
        if self._metrics is not None:
            self._metrics.flush()

    def close(self) -> None:
        """Write queued records."""
        self.flush()

    def _write(self, name: str, data: bytes) -> None:
        path = self._dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
