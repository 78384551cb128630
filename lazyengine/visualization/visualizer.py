"""One interface to everything that shows a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..logging.manager import ManagerMixin
from ..logging.metrics import MetricsWriter
from .backend import LocalVisBackend, VisBackend
from .caption import add_caption, labels_of
from .png import as_image


class Visualizer(ManagerMixin):
    """Passes scalars, images, the config and the model's description to its backends, in the main process only.

    The axis ``step`` is the number of training iterations completed, for training and evaluation alike. The visualizer
    that was constructed last is ``Visualizer.get_current_instance()``, also if it is of a subclass.

    Args:
        name: Name of the instance.
        vis_backends: Where to show things; None: one `LocalVisBackend`.
        save_dir: Folder to write in; None: the runner gives it by `set_save_dir`.

    Raises:
        TypeError: When a backend is no `VisBackend`.
    """

    def __init__(
        self,
        name: str = "visualizer",
        vis_backends: Sequence[VisBackend] | None = None,
        save_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(name)
        backends: list[VisBackend] = [LocalVisBackend()] if vis_backends is None else list(vis_backends)
        for i, backend in enumerate(backends):
            if not isinstance(backend, VisBackend):
                raise TypeError(
                    f"Visualizer: vis_backends[{i}] must be a VisBackend, got {backend!r:.80}; "
                    "pass instances such as LocalVisBackend(), or subclass VisBackend"
                )
        self.vis_backends = backends
        self._is_started = False
        self._save_dir = self._run_dir = None if save_dir is None else Path(save_dir)
        self._files: dict[str, MetricsWriter] = {}
        Visualizer._instances.pop(name, None)
        Visualizer._instances[name] = self

    # ---------------------------------------------------------------- life
    def set_save_dir(self, save_dir: str | os.PathLike[str], run_dir: str | os.PathLike[str] | None = None) -> None:
        """Say where to write, before anything is added.

        Args:
            save_dir: Folder of this start of the run.
            run_dir: Folder that all starts of the run share, where backends that join them write; None: ``save_dir``.
        """
        self._save_dir = Path(save_dir)
        self._run_dir = self._save_dir if run_dir is None else Path(run_dir)
        self._is_started = False

    def start(self, resumed_step: int | None = None) -> None:
        """Begin to write; called by the runner once it knows whether the run is resumed.

        Args:
            resumed_step: Training iterations completed before; later steps of earlier starts become void. None: a new
                run, which is also assumed when something is added without a start.

        Raises:
            RuntimeError: When no folder was given.
        """
        if self._save_dir is None or self._run_dir is None:
            raise RuntimeError(
                f"visualizer {self.instance_name!r} has no folder to write in; pass save_dir or call set_save_dir"
            )
        self._is_started = True
        if _is_main_process():
            for backend in self.vis_backends:
                backend.start(self._save_dir, self._run_dir, resumed_step)

    def flush(self) -> None:
        """Write what backends have queued."""
        for writer in (*self._active(), *self._files.values()):
            writer.flush()

    def close(self) -> None:
        """Write what is queued and close files; adding more is still possible."""
        for writer in (*self._active(), *self._files.values()):
            writer.close()

    def _active(self) -> list[VisBackend]:
        return self.vis_backends if self._is_started and _is_main_process() else []

    def _ready(self) -> list[VisBackend]:
        if not self._is_started:
            self.start()
        return self._active()

    # ---------------------------------------------------------------- adding
    def add_config(self, config: Any) -> None:
        """Keep the config: text, or a loaded config, which is written as Python."""
        if not isinstance(config, str):
            from ..config import to_python

            config = to_python(config)
        for backend in self._ready():
            backend.add_config(config)

    def add_graph(self, model: Any, data_batch: Any = None) -> None:
        """Keep the description of the model: its modules as text, so nothing is run and any model will do."""
        text = model if isinstance(model, str) else repr(model)
        for backend in self._ready():
            backend.add_graph(text)

    def add_image(self, name: str, image: Any, step: int = 0) -> None:
        """Show an image.

        Args:
            name: Its name; ``/`` groups names.
            image: ``(H, W)`` or ``(H, W, C)`` with 1 to 4 channels, uint8 in [0, 255], an array or a tensor; or a
                matplotlib figure.
            step: Training iterations completed.
        """
        try:
            pixels = as_image(image)
        except (TypeError, ValueError) as error:
            error.add_note(f"image {name!r} given to the visualizer")
            raise
        for backend in self._ready():
            backend.add_image(name, pixels, int(step))

    def add_scalar(self, name: str, value: Any, step: int = 0) -> None:
        """Add a point to the curve ``name``; see `add_scalars`."""
        self.add_scalars({name: value}, step)

    def add_scalars(
        self,
        scalar_dict: Mapping[str, Any],
        step: int = 0,
        file_path: str | None = None,
        *,
        mode: str | None = None,
        epoch: int | None = None,
        iter: int | None = None,
    ) -> None:
        """Add a point to several curves.

        Args:
            scalar_dict: Python or numpy numbers or one-element tensors (read now) by name. ``epoch`` and ``iter``
                among them are taken as the arguments of those names.
            step: Training iterations completed.
            file_path: Name of a further line-JSON file in the save folder to write them to.
            mode: Stage that they belong to; curves of one name in several stages are kept apart.
            epoch: The epoch, noted beside the step.
            iter: The iteration; None: ``step``.

        Raises:
            TypeError: When a value is no scalar.
        """
        scalars = {name: _number(name, value) for name, value in scalar_dict.items()}
        found_epoch, found_iter = scalars.pop("epoch", None), scalars.pop("iter", None)
        epoch = epoch if epoch is not None or found_epoch is None else int(found_epoch)
        iter = iter if iter is not None or found_iter is None else int(found_iter)
        for backend in self._ready():
            backend.add_scalars(scalars, int(step), mode, epoch, iter)
        if file_path is not None and self._save_dir is not None and _is_main_process():
            writer = self._files.setdefault(file_path, MetricsWriter(self._save_dir / file_path))
            writer.write(scalars, step=step, epoch=epoch, iter=iter, mode=mode or "custom")

    def add_datasample(
        self,
        name: str,
        image: Any,
        data_sample: Any = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        step: int = 0,
    ) -> None:
        """Show an image with what is known about it.

        Args:
            name: Name of the image.
            image: As in `add_image`.
            data_sample: A dict, a dataclass or another object with fields; see `draw`.
            draw_gt: Whether to draw the truth.
            draw_pred: Whether to draw the prediction.
            step: Training iterations completed.
        """
        if _is_main_process():
            self.add_image(name, self.draw(as_image(image), data_sample, draw_gt, draw_pred), step)

    def draw(self, image: np.ndarray, data_sample: Any, draw_gt: bool, draw_pred: bool) -> np.ndarray:
        """Draw a data sample on its image; override it for boxes, masks and the like.

        By default the scalar fields called ``gt...``, ``label...`` and ``pred...`` are written below the image.

        Args:
            image: ``(H, W, C)``, uint8.
            data_sample: The sample, or None.
            draw_gt: Whether to draw the truth.
            draw_pred: Whether to draw the prediction.

        Returns:
            The picture, ``(H', W', C')``, uint8.
        """
        return add_caption(image, labels_of(data_sample, draw_gt, draw_pred))


def _number(name: str, value: Any) -> float:
    if value.__class__ is float or value.__class__ is int:
        return value
    number = value
    if hasattr(value, "item"):
        size = value.numel() if hasattr(value, "numel") else value.size
        number = value.item() if size == 1 else value
    if isinstance(number, int | float):
        return number
    raise TypeError(
        f"scalar {name!r} given to the visualizer must be a number or have one element, "
        f"got {value!r:.80} ({type(value).__name__})"
    )


def _is_main_process() -> bool:
    from ..dist import is_main_process

    return is_main_process()
