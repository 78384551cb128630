"""Average precision of detections, as COCO defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lazyengine.evaluator import BaseMetric

from .detector import pairwise_iou

IOUS = np.linspace(0.5, 0.95, 10)  # as COCO's code makes them: a recall of 0.3 is exactly one of these
LARGEST = 100  # detections of a class in an image that count, the best ones
RECALLS = torch.from_numpy(np.linspace(0.0, 1.0, 101))


class AveragePrecision(BaseMetric):
    """Mean average precision over classes and over overlaps from 0.50 to 0.95, in steps of 0.05.

    Detections, the best of all images first, and 100 of a class in an image at most, are matched with the object of
    their class in their image that they overlap most and that no better one has; precision is read at 101 values of
    recall, as the best at that recall or above (Lin et al. 2014, arXiv:1405.0312, and its evaluation code).

    Reads ``boxes``, ``scores`` and ``labels`` of the predictions and ``boxes`` and ``labels`` of the batch, both a list
    with a dict for each image.
    """

    default_prefix = "detection"
    names = ("detection/mAP", "detection/mAP_50", "detection/mAP_75")

    def process(self, data_batch: list[dict[str, Any]], data_samples: list[dict[str, Any]]) -> None:
        """Keep detections and objects of each image."""
        names = ("boxes", "scores", "labels")
        for truth, found in zip(data_batch, data_samples, strict=True):
            kept = {f"true_{name}": truth[name].cpu() for name in ("boxes", "labels")}
            self.results.append(kept | {name: found[name].cpu() for name in names})

    def compute_metrics(self, results: list[dict[str, Tensor]]) -> dict[str, float]:
        """Return ``mAP``, and those at an overlap of 0.50 and of 0.75; classes without objects do not count."""
        labels = torch.cat([image["true_labels"] for image in results]).unique().tolist()
        nothing = [torch.full((len(IOUS),), torch.nan)]  # what no object can tell
        precision = torch.stack([precision_of_class(results, label) for label in labels] or nothing).mean(0)
        return {"mAP": precision.mean().item(), "mAP_50": precision[0].item(), "mAP_75": precision[5].item()}


def precision_of_class(images: list[dict[str, Tensor]], label: int) -> Tensor:
    """Return the average precision of a class at each of the ten overlaps, `(10,)`, float64."""
    scores, hits, num_objects = [], [], 0
    for image in images:
        is_own, is_true = image["labels"] == label, image["true_labels"] == label
        order = image["scores"][is_own].sort(descending=True, stable=True).indices[:LARGEST]
        iou = pairwise_iou(image["boxes"][is_own][order], image["true_boxes"][is_true])
        scores.append(image["scores"][is_own][order])
        hits.append(torch.stack([match(iou, float(least)) for least in IOUS]))
        num_objects += int(is_true.sum())
    order = torch.cat(scores).sort(descending=True, stable=True).indices
    hit = torch.cat(hits, dim=1)[:, order].double()
    if not len(order):
        return torch.zeros(len(IOUS), dtype=torch.float64)
    num_hits = hit.cumsum(1)
    precision = num_hits / torch.arange(1, len(order) + 1)
    precision = precision.flip(1).cummax(1).values.flip(1)  # the best at this recall or above
    recall = num_hits / num_objects
    place = torch.searchsorted(recall, RECALLS.expand(len(IOUS), -1).contiguous())
    at = torch.cat((precision, precision.new_zeros(len(IOUS), 1)), dim=1).gather(1, place)
    return at.mean(1)


def match(iou: Tensor, least: float) -> Tensor:
    """Return which detections, the best first, get an object: bool `(n,)` from overlaps `(n, m)`."""
    hit = torch.zeros(len(iou), dtype=torch.bool)
    if not iou.shape[1]:
        return hit
    free = torch.ones(iou.shape[1], dtype=torch.bool)
    for row, overlaps in enumerate(iou):
        best, place = overlaps.masked_fill(~free, -1).max(0)
        if best >= least:
            hit[row], free[place] = True, False
    return hit
