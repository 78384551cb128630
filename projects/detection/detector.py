"""A small detector without anchors, for batches that are lists of images of several sizes."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazyengine.model import BaseModel, Weighted

from .shapes import pad_images

Samples = list[dict[str, Any]]


class Layer(nn.Module):
    """A convolution, a norm over the channels of each place, and ReLU. What is padding stays 0.

    So what is computed for an image does not depend on the other images of its batch.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Stride of the convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new map and the heights and widths of the images in it.

        Args:
            x: Maps `(N, inputs, H, W)`, 0 outside of the images.
            sizes: Height and width of each image in them, `(N, 2)`, int64.
        """
        x, sizes = self.convolution(x), -(-sizes // self.stride)
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1).relu()
        return x * inside(x, sizes)[:, None], sizes


def inside(x: Tensor, sizes: Tensor) -> Tensor:
    """Return which places of maps `(N, C, H, W)` lie in images of heights and widths `(N, 2)`: bool `(N, H, W)`."""
    rows, columns = (torch.arange(x.shape[2 + i], device=x.device) < sizes[:, i, None].to(x.device) for i in (0, 1))
    return rows[:, :, None] & columns[:, None, :]


class Detector(BaseModel):
    """Finds objects: each place of a map that lies in the middle of a box says its class and how far its sides are.

    As FCOS (Tian et al. 2019, arXiv:1904.01355), with one map and without centerness: focal loss for the classes (Lin
    et al. 2017, arXiv:1708.02002), generalized IoU for the boxes (Rezatofighi et al. 2019, arXiv:1902.09630).

    Args:
        num_classes: Number of classes.
        width: Channels of the map; a multiple of 4.
        num_layers: Convolutions on the map.
        radius: How far from the middle of a box places belong to it, in places.
        min_score: Detections below are left out.
        max_iou: Of two detections of a class that overlap more, the one with the lower score is left out.
        max_detections: The best so many of an image are kept.
        data_preprocessor: Moves the batch to the model's device.
    """

    stride = 4

    def __init__(
        self,
        num_classes: int = 3,
        width: int = 48,
        num_layers: int = 4,
        radius: float = 1.5,
        min_score: float = 0.05,
        max_iou: float = 0.6,
        max_detections: int = 50,
        data_preprocessor: nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.radius, self.min_score = radius, min_score
        self.max_iou, self.max_detections = max_iou, max_detections
        layers = [Layer(width, width) for _ in range(num_layers)]
        self.backbone = nn.ModuleList([Layer(3, width // 2, 2), Layer(width // 2, width, 2), *layers])
        self.classes = nn.Conv2d(width, num_classes, 1)
        self.sides = nn.Conv2d(width, 4, 1)

    def init_weights(self) -> None:
        """Let every class begin at a score of 0.01, as the focal loss needs it; the rest is as torch made it."""
        self.is_init = True
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, -math.log(99))

    def forward(self, samples: Samples, mode: Literal["loss", "predict", "tensor"] = "tensor") -> Any:
        """Run the network.

        Args:
            samples: A dict for each image: ``image`` `(3, H, W)`, float, of any size, and for ``"loss"`` ``boxes``
                `(n, 4)` in pixels and ``labels`` `(n,)`, int64.
            mode: ``"loss"`` for training, ``"predict"`` for evaluation, ``"tensor"`` for what the network computes.

        Returns:
            A dict of losses, whose count is the number of objects; a dict for each image with ``boxes`` `(m, 4)`,
            ``scores`` and ``labels`` `(m,)`, the best first; or the logits of the classes `(N, L, num_classes)` and
            the boxes `(N, L, 4)` at the L places of the map.
        """
        images = [sample["image"] - 0.5 for sample in samples]
        features, sizes = pad_images(images, self.stride), torch.tensor([image.shape[1:] for image in images])
        for layer in self.backbone:
            features, sizes = layer(features, sizes)
        logits = self.classes(features).flatten(2).transpose(1, 2)
        sides = F.softplus(self.sides(features).flatten(2).transpose(1, 2)) * self.stride
        places = places_of(features, self.stride)
        boxes = torch.cat((places - sides[..., :2], places + sides[..., 2:]), dim=-1)
        if mode == "tensor":
            return logits, boxes
        is_image = inside(features, sizes).flatten(1)
        if mode == "loss":
            return self.losses(samples, places, is_image, logits, boxes)
        scores = logits.sigmoid()
        return [
            self.detections(sample, scores[i][is_image[i]], boxes[i][is_image[i]]) for i, sample in enumerate(samples)
        ]

    def losses(
        self, samples: Samples, places: Tensor, is_image: Tensor, logits: Tensor, boxes: Tensor
    ) -> dict[str, Weighted]:
        """Return ``loss_class`` and ``loss_box``, each a sum over the places of images and the number of objects."""
        num_objects = torch.tensor(sum(len(sample["labels"]) for sample in samples), device=logits.device)
        of_class, of_box = [], []
        for sample, own, logit, box in zip(samples, is_image, logits, boxes):
            chosen = assign(places, sample["boxes"], self.radius * self.stride)
            is_object = (chosen >= 0) & own
            target = torch.zeros_like(logit)
            target[is_object, sample["labels"][chosen[is_object]]] = 1.0
            of_class.append(focal_loss(logit[own], target[own]))
            of_box.append((1 - generalized_iou(box[is_object], sample["boxes"][chosen[is_object]])).sum())
        return {
            "loss_class": Weighted(torch.stack(of_class).sum(), num_objects),
            "loss_box": Weighted(torch.stack(of_box).sum(), num_objects),
        }

    def detections(self, sample: dict[str, Any], scores: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """Return what is found in one image, from the scores `(L, num_classes)` and boxes `(L, 4)` of all places."""
        height, width = sample["image"].shape[1:]
        place, label = (scores > self.min_score).nonzero().unbind(1)
        score, order = scores[place, label].sort(descending=True, stable=True)
        place, label, score = (each[: 4 * self.max_detections] for each in (place[order], label[order], score))
        box = boxes[place].clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        kept = suppress(box, label, self.max_iou)[: self.max_detections]
        return {"boxes": box[kept], "scores": score[kept], "labels": label[kept]}


def places_of(features: Tensor, stride: int) -> Tensor:
    """Return the middles ``x, y`` of the places of a map `(N, C, H, W)` in pixels of the image, `(H * W, 2)`."""
    y, x = ((torch.arange(size, device=features.device) + 0.5) * stride for size in features.shape[2:])
    return torch.stack((x.repeat(len(y)), y.repeat_interleave(len(x))), dim=1)


def assign(places: Tensor, boxes: Tensor, radius: float) -> Tensor:
    """Return for each place `(L, 2)` in which box's middle it lies, `(L,)`: the smallest of several, or -1."""
    if not len(boxes):
        return torch.full((len(places),), -1, device=places.device)
    near, far = places[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - places[:, None]
    is_inside = torch.minimum(near, far).amin(-1) > 0
    is_middle = (near - far).abs().amax(-1) / 2 <= radius
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1).expand(len(places), -1)
    smallest, chosen = area.masked_fill(~(is_inside & is_middle), math.inf).min(1)
    return chosen.masked_fill(smallest.isinf(), -1)


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of logits and targets in [0, 1] of the same shape, added up: shape `()`."""
    probability = logits.sigmoid()
    miss = torch.where(targets > 0, 1 - probability, probability)
    weight = torch.where(targets > 0, alpha, 1 - alpha)
    return (weight * miss**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum()


def areas_of(boxes: Tensor) -> Tensor:
    """Return the areas of boxes `(..., 4)`."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection_and_union(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return both areas for boxes `(..., 4)` whose shapes broadcast."""
    common = torch.cat((torch.maximum(one, other)[..., :2], torch.minimum(one, other)[..., 2:]), dim=-1)
    intersection = areas_of(common)
    return intersection, areas_of(one) + areas_of(other) - intersection


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """Return the intersection over union of all pairs of boxes `(n, 4)` and `(m, 4)`: `(n, m)`."""
    intersection, union = intersection_and_union(one[:, None], other[None])
    return intersection / union.clamp(min=1e-9)


def generalized_iou(one: Tensor, other: Tensor) -> Tensor:
    """Return the generalized IoU of boxes `(n, 4)`, pair by pair: `(n,)`."""
    intersection, union = intersection_and_union(one, other)
    hull = torch.cat((torch.minimum(one, other)[:, :2], torch.maximum(one, other)[:, 2:]), dim=1)
    around = areas_of(hull)
    return intersection / union - (around - union) / around


def suppress(boxes: Tensor, labels: Tensor, max_iou: float) -> Tensor:
    """Return which boxes, the best first, overlap with no better one of their class by more: indices `(k,)`."""
    covers = ((pairwise_iou(boxes, boxes) > max_iou) & (labels[:, None] == labels)).triu(1).cpu()
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for row in range(len(boxes)):
        if kept[row]:
            kept &= ~covers[row]
    return kept.nonzero().squeeze(1).to(boxes.device)
