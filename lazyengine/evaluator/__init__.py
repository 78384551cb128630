"""Metrics over a dataset, on one or several ranks. See README.md beside this file."""

from .accuracy import Accuracy
from .confusion import ConfusionMatrix
from .dump import DumpResults, load_results, save_results
from .evaluator import Evaluator
from .lookup import get_metric_value
from .loss import MeanLoss, Perplexity
from .metric import BaseMetric, TensorMetric
from .samples import iter_samples
from .torch_metric import TorchMetric

__all__ = [  # noqa: RUF022 - in reading order
    "Evaluator",
    "get_metric_value",
    # to write a metric
    "BaseMetric",
    "TensorMetric",
    "iter_samples",
    # metrics
    "Accuracy",
    "MeanLoss",
    "Perplexity",
    "ConfusionMatrix",
    "TorchMetric",
    # saved predictions
    "DumpResults",
    "load_results",
    "save_results",
]
