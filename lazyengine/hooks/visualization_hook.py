"""Shows predictions as images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner

Draw = Callable[[Any, Any], Iterable[tuple[Any, Any]]]


class VisualizationHook(Hook):
    """Send images of a validation or a test, with what the model predicted, to the visualizer.

    Args:
        draw: Takes the batch and the outputs of the step, and yields pairs of an image (`(H, W)` or `(H, W, C)`,
            uint8) and a sample: a dict whose entries ``gt...``, ``label...`` and ``pred...`` are written below it (see
            `Visualizer.draw`).
        interval: Batches between two that are shown.
        max_images: Images shown of one evaluation, at most.
        name: Name of the images; a number is added.
    """

    priority = Priority.NORMAL

    def __init__(self, draw: Draw, interval: int = 1, max_images: int = 16, name: str = "predictions") -> None:
        if interval < 1 or max_images < 1:
            raise ValueError(f"interval={interval}, max_images={max_images}: expected numbers of at least 1")
        self.draw = draw
        self.interval = interval
        self.max_images = max_images
        self.name = name
        self._num_shown = 0

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        self._num_shown = 0

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if mode == "train" or batch_idx % self.interval or self._num_shown >= self.max_images:
            return
        for image, sample in self.draw(data_batch, outputs):
            if self._num_shown >= self.max_images:
                break
            name = f"{mode}/{self.name}/{self._num_shown}"
            runner.visualizer.add_datasample(name, image, sample, step=runner.iter)
            self._num_shown += 1
