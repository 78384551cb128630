"""One interface to everything that shows a run."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import dist
from ..config import to_python
from ..config.flat import flat_config
from ..config.saving import to_json
from ..errors import UsageKeyError, UsageRuntimeError, UsageTypeError
from ..logging import ManagerMixin, MetricsWriter, print_log, require_number
from ..text import listed, short
from .backend import ForeignBackend, LocalVisBackend, VisBackend, file_of
from .canvas import Canvas
from .images import add_caption, as_image, labels_of

_MAX_SHOWN = 10_000  # images whose names are remembered


class Visualizer(Canvas, ManagerMixin):
    """Passes scalars, images, the config and the model's description to its backends, in the main process only.

    The axis ``step`` is the number of training iterations completed, for training and evaluation alike.
    ``Visualizer.get_current_instance()`` is that of the running runner, else the one that was constructed last, also if
    it is of a subclass.

    Args:
        name: Name of the instance.
        vis_backends: Where to show things, one backend or several: of `VisBackend`, or objects with methods of
            mmengine's names (``add_scalars``, ``add_image``, ...). None: one `LocalVisBackend`.
        save_dir: Folder to write in; None: the runner gives it by `set_save_dir`.

    Attributes:
        run_id: Of the run, the same in all its starts; the runner sets it before `start`, which hands it to backends.

    Raises:
        TypeError: When a backend can show neither scalars nor images.
    """

    def __init__(
        self,
        name: str = "visualizer",
        vis_backends: Sequence[Any] | Any = None,
        save_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(name)
        given = [LocalVisBackend()] if vis_backends is None else vis_backends
        backends: list[VisBackend] = []
        for i, backend in enumerate(given if isinstance(given, list | tuple) else [given]):
            if isinstance(backend, type) or not any(
                callable(getattr(backend, name, None)) for name in ("add_scalars", "add_scalar", "add_image")
            ):
                found = f"vis_backends[{i}] must be a VisBackend, got {short(backend)}"
                raise UsageTypeError(f"Visualizer: {found}; pass instances such as LocalVisBackend()")
            backends.append(backend if isinstance(backend, VisBackend) else ForeignBackend(backend))
        self.dataset_meta: dict[str, Any] = {}
        self.vis_backends = backends
        self.run_id = ""
        self._is_started = self._is_evaluation = False
        self._save_dir = self._run_dir = None if save_dir is None else Path(save_dir)
        self._files: dict[Path, MetricsWriter] = {}
        self._shown: dict[tuple[Path | None, str, int], int] = {}  # how many images of a name
        self._register()

    def _register(self) -> None:
        Visualizer.discard_instance(self.instance_name)
        Visualizer._instances[self.instance_name] = self

    # ---------------------------------------------------------------- life
    def set_save_dir(self, save_dir: str | os.PathLike[str], run_dir: str | os.PathLike[str] | None = None) -> None:
        """Set where to write, before anything is added.

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
            raise UsageRuntimeError("the visualizer has no folder to write in; pass save_dir or call set_save_dir")
        self._is_started = True
        self._register()
        for backend in self._active():
            backend.run_id = self.run_id
            backend.start(self._save_dir, self._run_dir, resumed_step)

    @contextlib.contextmanager
    def evaluation(self, save_dir: str | os.PathLike[str]) -> Iterator[None]:
        """Surround an evaluation: it writes into another folder, and backends that mirror the training get nothing.

        Args:
            save_dir: The folder.
        """
        former = self._save_dir, self._run_dir
        self.set_save_dir(save_dir)
        self._is_evaluation = True
        if left_out := [type(each).__name__ for each in self.vis_backends if not each.shows_evaluations]:
            print_log(f"an evaluation is not sent to {listed(left_out)}; its records are in {save_dir}", "current")
        try:
            yield
        finally:
            for backend in self._active():
                backend.close()
            self._is_started = self._is_evaluation = False
            self._save_dir, self._run_dir = former

    def flush(self) -> None:
        """Write what backends have queued."""
        for writer in (*self._active(), *self._files.values()):
            writer.flush()

    def close(self) -> None:
        """Write what is queued, close files, and remove the visualizer from those that are found by name.

        Adding more is still possible.
        """
        with contextlib.ExitStack() as stack:  # also where one of them raises
            for writer in reversed((*self._active(), *self._files.values())):
                stack.callback(writer.close)
        self._is_started = False
        super().close()

    def _active(self) -> list[VisBackend]:
        if not (self._is_started and dist.is_main_process()):
            return []
        return [each for each in self.vis_backends if each.shows_evaluations or not self._is_evaluation]

    def _ready(self) -> list[VisBackend]:
        if not self._is_started:
            self.start()
        return self._active()

    def get_backend(self, name: str) -> Any:
        """Return a backend by the name of its class.

        Raises:
            KeyError: When there is none.
        """
        found = {type(backend).__name__: backend for backend in map(_itself, self.vis_backends)}
        if name not in found:
            raise UsageKeyError(f"get_backend({name!r}): the visualizer has {listed(list(found))}.")
        return found[name]

    # ---------------------------------------------------------------- adding
    def add_config(self, config: Any) -> None:
        """Keep the config: text, or a loaded config, which is written as Python."""
        text = config if isinstance(config, str) else to_python(config)
        for backend in self._ready():
            backend.add_config(text)
            if not isinstance(config, str):
                backend.add_config_values(flat_config(to_json(config)))

    def add_graph(self, model: Any, data_batch: Any = None) -> None:
        """Keep the description of the model: its modules as text, so nothing is run and any model will do."""
        text = model if isinstance(model, str) else repr(model)
        for backend in self._ready():
            backend.add_graph(text)

    def add_image(self, name: str, image: Any, step: int = 0) -> None:
        """Show an image.

        Args:
            name: Its name; ``/`` groups names. A second one of this name at this step is ``<name>_2`` in all backends.
            image: ``(H, W)`` or ``(H, W, C)`` with 1 to 4 channels, uint8 in [0, 255], an array or a tensor; or a
                matplotlib figure.
            step: Training iterations completed.
        """
        try:
            pixels = as_image(image)
        except (TypeError, ValueError) as error:
            error.add_note(f"image {name!r} given to the visualizer")
            raise
        backends, name = self._ready(), self._free_name(name, int(step))
        for backend in backends:
            backend.add_image(name, pixels, int(step))

    def _free_name(self, name: str, step: int) -> str:
        """Return the name of an image, with a number where there is one already, in this folder and at this step."""

        def place(name: str) -> tuple[Path | None, str, int]:
            return self._save_dir, re.sub(r"[=+]", "_", file_of(name)), step  # some backends have fewer signs

        shown = self._shown
        number = shown.get(place(name), 0) + 1
        while number > 1 and place(f"{name}_{number}") in shown:
            number += 1
        shown[place(name)] = number
        free = f"{name}_{number}" if number > 1 else name
        shown.setdefault(place(free), 1)
        while len(shown) > _MAX_SHOWN:
            del shown[next(iter(shown))]
        return free

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
        scalars = {n: require_number(v, f"scalar {n!r} given to the visualizer") for n, v in scalar_dict.items()}
        found_epoch: Any = scalars.pop("epoch", None)
        found_iter: Any = scalars.pop("iter", None)
        epoch, iter = (found_epoch if epoch is None else epoch), (found_iter if iter is None else iter)
        for backend in self._ready():
            backend.add_scalars(scalars, int(step), mode, epoch, iter)
        if file_path is not None and self._save_dir is not None and dist.is_main_process():
            path = self._save_dir / file_path
            if path not in self._files:
                self._files[path] = MetricsWriter(path)
            self._files[path].write(scalars, step=step, epoch=epoch, iter=iter, mode=mode or "custom")

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
        if dist.is_main_process():
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


def _itself(backend: VisBackend) -> Any:
    return backend.experiment if isinstance(backend, ForeignBackend) else backend
