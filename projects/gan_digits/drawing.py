"""Shows what the generator draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lazyengine.hooks import Hook

if TYPE_CHECKING:
    from lazyengine.runner import Runner


class DrawImagesHook(Hook):
    """Send a picture of drawn digits to the visualizer: a column for each class, always from the same noise.

    Args:
        interval: Epochs between two pictures.
        num_rows: Images of each class.
        num_classes: Number of classes.
        zoom: Pixels that a pixel becomes, in both directions.
    """

    by_epoch = True

    def __init__(self, interval: int = 5, num_rows: int = 6, num_classes: int = 10, zoom: int = 4) -> None:
        self.interval = interval
        self.num_rows = num_rows
        self.num_classes = num_classes
        self.zoom = zoom

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw, when it is due."""
        if self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner):
            runner.visualizer.add_image("drawn", self.picture(runner.model), step=runner.iter)

    @torch.no_grad()
    def picture(self, model: Any) -> Tensor:
        """Return the picture, `(H, W)`, uint8, on the CPU."""
        device = next(model.parameters()).device
        label = torch.arange(self.num_classes, device=device).repeat(self.num_rows)
        images = F.pad(model.draw(label, torch.Generator().manual_seed(0)).squeeze(1), (1, 1, 1, 1))
        rows = images.unflatten(0, (self.num_rows, -1)).transpose(1, 2).flatten(2).flatten(0, 1)
        pixels = rows.repeat_interleave(self.zoom, 0).repeat_interleave(self.zoom, 1)
        return (pixels * 255).round().byte().cpu()
