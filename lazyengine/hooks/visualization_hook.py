"""Shows predictions as images."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from .. import dist
from ..errors import UsageValueError
from .hook import Hook, Runner

Draw = Callable[[Any, Any], Iterable[tuple[Any, Any]]]


@dataclasses.dataclass(eq=False)
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

    draw: Draw | None = None
    interval: int = 1
    max_images: int = 16
    name: str = "predictions"
    plots: bool = True
    _num_shown: Counter[str] = dataclasses.field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        if self.interval < 1 or self.max_images < 1:
            found = f"interval={self.interval}, max_images={self.max_images}"
            raise UsageValueError(f"{found}: expected numbers of at least 1")

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        self._num_shown.clear()

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if self.draw is None or mode == "train" or batch_idx % self.interval or not dist.is_main_process():
            return
        prefix = _join(mode, getattr(runner, f"{mode}_loop").loader_name, self.name)
        if self._num_shown[prefix] < self.max_images:
            left = self.max_images - self._num_shown[prefix]
            for image, sample in itertools.islice(self.draw(data_batch, outputs), left):
                name = f"{prefix}/{self._num_shown[prefix]}"
                runner.visualizer.add_datasample(name, image, sample, step=runner.num_iters_completed)
                self._num_shown[prefix] += 1

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None:
        if not self.plots or mode == "train" or not dist.is_main_process():
            return
        for loader, evaluator in getattr(runner, f"{mode}_loop").evaluators.items():
            for metric in evaluator.metrics:
                if hasattr(metric, "plot"):
                    name = _join(mode, loader, metric.prefix or type(metric).__name__)
                    runner.visualizer.add_image(name, metric.plot(), step=runner.num_iters_completed)

    def describe_interval(self) -> str:
        """Return how much is shown as text for the hook timeline."""
        return "metrics' plots" if self.draw is None else f"up to {self.max_images} images a loader"


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)
