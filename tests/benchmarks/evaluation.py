"""Accuracy over many batches, over the tensor operations that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .table import Options, Row, Samples, in_process, rows_over, take_turns

Batches = Sequence[tuple[Any, Any]]  # scores (N, C), labels (N,)


def run(options: Options) -> list[Row]:
    """Return the rows of the accuracy metric, in microseconds a batch of 100 samples."""
    num_batches = 200 if options.quick else 1000
    peers = options.find_peers(["mmengine", "torchmetrics"])
    samples = in_process("evaluation:measure", num_batches=num_batches, rounds=2 * options.rounds, peers=peers)
    goals = {"lazyengine": "<= 1.2"}
    return rows_over("tensor operations", samples, "accuracy, per batch of 100", goals, scale=1e6 / num_batches)


def measure(num_batches: int, rounds: int, peers: list[str]) -> Samples:
    """In a fresh process: all ways over the same batches."""
    import torch

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(100, 10, generator=generator), torch.randint(10, (100,), generator=generator))
        for _ in range(num_batches)
    ]
    ways: dict[str, Callable[[Batches], float]] = {"tensor operations": _tensor_operations, "lazyengine": evaluate}
    ways |= {name: way for name, way in PEERS.items() if name in peers}
    right = _tensor_operations(batches)
    assert all(abs(way(batches) - right) < 1e-6 for way in ways.values())
    return take_turns({name: lambda way=way: way(batches) for name, way in ways.items()}, rounds)


def _tensor_operations(batches: Batches) -> float:
    import torch

    num_right, size = torch.zeros((), dtype=torch.int64), 0
    for scores, labels in batches:
        num_right += (scores.argmax(1) == labels).sum()
        size += len(labels)
    return num_right.item() / size


def evaluate(batches: Batches) -> float:
    """Return the top-1 accuracy of batches of ``(scores (N, C), labels (N,))``."""
    from lazyengine.evaluator import Accuracy, Evaluator

    evaluator = Evaluator([Accuracy()])
    size = 0
    for scores, labels in batches:
        evaluator.process({"scores": scores, "label": labels})
        size += len(labels)
    return evaluator.evaluate(size)["accuracy/top1"]


def _mmengine(batches: Batches) -> float:
    from mmengine.evaluator import BaseMetric, Evaluator

    class AccuracyOfBatches(BaseMetric):
        def process(self, data_batch: Any, data_samples: Any) -> None:
            scores, labels = data_samples
            self.results.append((len(labels), (scores.argmax(1) == labels).sum()))

        def compute_metrics(self, results: Any) -> dict[str, float]:
            return {"accuracy": sum(int(right) for _, right in results) / sum(size for size, _ in results)}

    evaluator = Evaluator(AccuracyOfBatches())
    for batch in batches:
        evaluator.process(batch)
    return evaluator.evaluate(10**9)["accuracy"]


def _torchmetrics(batches: Batches) -> float:
    from torchmetrics.classification import MulticlassAccuracy

    metric = MulticlassAccuracy(10, average="micro")
    for scores, labels in batches:
        metric.update(scores, labels)
    return float(metric.compute())


PEERS = {"mmengine": _mmengine, "torchmetrics": _torchmetrics}
