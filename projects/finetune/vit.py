"""A classifier on a backbone of transformers, and digits for pretraining and fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lazyengine.dataset import BaseDataset
from lazyengine.model import BaseModel


def few(dataset: BaseDataset, num_each: int) -> BaseDataset:
    """Return the first samples of each label: a dataset of which little is labelled.

    Args:
        dataset: Its records have a ``label``.
        num_each: Samples of each label.
    """
    labels = [dataset.get_data_info(index)["label"] for index in range(len(dataset))]
    return dataset.get_subset([i for i, label in enumerate(labels) if labels[:i].count(label) < num_each])


def mirrored(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the sample with left and right exchanged, under the names that the models of transformers use."""
    return {"pixel_values": sample["image"].flip(-1), "labels": sample["label"]}


class Classifier(BaseModel):
    """A linear head on the first token of a vision transformer.

    Args:
        backbone: A model of transformers that takes ``pixel_values`` and returns ``last_hidden_state``.
        num_classes: Number of classes.
        data_preprocessor: Moves the batch to the model's device.
    """

    def __init__(self, backbone: nn.Module, num_classes: int = 10, data_preprocessor: nn.Module | None = None) -> None:
        super().__init__(data_preprocessor)
        config: Any = backbone.config
        self.backbone = backbone
        self.head = nn.Linear(config.hidden_size, num_classes)

    def children_to_init(self) -> Iterable[nn.Module]:
        """Return the head alone: the backbone was initialized by its maker, or holds pretrained weights."""
        return [self.head]

    def forward(
        self, image: Tensor, label: Tensor, mode: Literal["loss", "predict", "tensor"] = "tensor"
    ) -> dict[str, Tensor] | Tensor:
        """Run the network.

        Args:
            image: Images `(N, C, H, W)`, float.
            label: Classes `(N,)`, int64.
            mode: ``"loss"`` for training, ``"predict"`` for evaluation, ``"tensor"`` for the scores alone.

        Returns:
            A dict with the scalar ``loss``; a dict with ``scores`` `(N, num_classes)` and ``label`` `(N,)`; or the
            scores.
        """
        scores = self.head(self.backbone(pixel_values=image).last_hidden_state[:, 0])
        if mode == "loss":
            return {"loss": F.cross_entropy(scores, label)}
        return {"scores": scores, "label": label} if mode == "predict" else scores
