"""Shows predictions as images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .. import dist
from .hook import Hook, Priority

if TYPE_CHECKING:
    from ..runner import Runner

Draw = Callable[[Any, Any], Iterable[tuple[Any, Any]]]


class VisualizationHook(Hook):
    """Send pictures of each validation and test to the visualizer: images with predictions, and plots of metrics.

    Args:
        draw: Takes the batch and the outputs of the step, and yields pairs of an image (`(H, W)` or `(H, W, C)`,
            uint8) and a sample: a dict whose entries ``gt...``, ``label...`` and ``pred...`` are written below it (see
            `Visualizer.draw`). None shows no images.
        interval: Batches between two whose images are shown.
        max_images: Images shown of one loader in one evaluation, at most.
        name: Name of the images; a number is added.
        plots: Whether to send what the metrics' method ``plot`` returns, as `ConfusionMatrix` has one.

    Raises:
        ValueError: When `interval` or `max_images` is not positive.
    """

    priority = Priority.NORMAL

    def __init__(
        self,
        draw: Draw | None = None,
        interval: int = 1,
        max_images: int = 16,
        name: str = "predictions",
        plots: bool = True,
    ) -> None:
        if interval < 1 or max_images < 1:
            raise ValueError(f"interval={interval}, max_images={max_images}: expected numbers of at least 1")
        self.draw = draw
        self.interval = interval
        self.max_images = max_images
        self.name = name
        self.plots = plots
        self._num_shown: dict[str, int] = {}

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        self._num_shown.clear()

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if self.draw is None or mode == "train" or batch_idx % self.interval or not dist.is_main_process():
            return
        prefix = _join(mode, getattr(runner, f"{mode}_loop").loader_name, self.name)
        if self._num_shown.get(prefix, 0) >= self.max_images:
            return
        for image, sample in self.draw(data_batch, outputs):
            number = self._num_shown.get(prefix, 0)
            if number >= self.max_images:
                break
            runner.visualizer.add_datasample(f"{prefix}/{number}", image, sample, step=runner.iter)
            self._num_shown[prefix] = number + 1

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None:
        if not self.plots or mode == "train" or not dist.is_main_process():
            return
        for loader, evaluator in getattr(runner, f"{mode}_loop").evaluators.items():
            for metric in evaluator.metrics:
                if hasattr(metric, "plot"):
                    name = _join(mode, loader, metric.prefix or type(metric).__name__)
                    runner.visualizer.add_image(name, metric.plot(), step=runner.iter)

    def describe_interval(self) -> str:
        """Say how much is shown, for the timeline."""
        return "metrics' plots" if self.draw is None else f"up to {self.max_images} images a loader"


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)
