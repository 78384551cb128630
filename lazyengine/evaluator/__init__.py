"""Metrics over a dataset, on one or several ranks. See README.md beside this file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..late import late_names

if TYPE_CHECKING:
    from .classification import Accuracy, ConfusionMatrix, MeanIoU
    from .dump import DumpResults, load_results, save_results
    from .evaluator import Evaluator
    from .loss import MeanLoss, Perplexity
    from .metric import BaseMetric, TensorMetric
    from .rules import Rule, get_metric_value, is_better, rule_of, score_of
    from .samples import iter_samples
    from .torch_metric import TorchMetric

__all__ = [  # noqa: RUF022 - in reading order
    "Evaluator",
    # what is asked of a metric by its name
    "get_metric_value",
    "score_of",
    "Rule",
    "is_better",
    "rule_of",
    # to write a metric
    "BaseMetric",
    "TensorMetric",
    "iter_samples",
    # metrics
    "Accuracy",
    "MeanLoss",
    "Perplexity",
    "ConfusionMatrix",
    "MeanIoU",
    "TorchMetric",
    # saved predictions
    "DumpResults",
    "load_results",
    "save_results",
]

__getattr__, __dir__ = late_names(__name__)
