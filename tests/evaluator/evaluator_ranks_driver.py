"""Evaluate 11 samples on several ranks and print what each rank got; run by test_evaluator_ranks.py."""

import json
import sys
from typing import Any

import torch

from lazyengine import dist
from lazyengine.errors import UsageError
from lazyengine.evaluator import (
    Accuracy,
    BaseMetric,
    ConfusionMatrix,
    DumpResults,
    Evaluator,
    MeanLoss,
    TensorMetric,
    TorchMetric,
)

SIZE = 11


class Order(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples["index"].tolist()

    def compute_metrics(self, results):
        return {"order": results}


class Triples(BaseMetric):
    """Three results for each sample."""

    def process(self, data_batch, data_samples):
        self.results += [[i, k] for i in data_samples["index"].tolist() for k in range(3)]

    def compute_metrics(self, results):
        return {"triples": results}


class Varying(Triples):
    """As many results for a sample as its number says, and so no two ranks have equally many."""

    def process(self, data_batch, data_samples):
        self.results += [i for i in data_samples["index"].tolist() for _ in range(i)]

    def compute_metrics(self, results):
        return {"varying": sorted(results)}


class TripleRows(TensorMetric):
    def process(self, data_batch, data_samples):
        self.results.append(
            data_samples["index"].repeat_interleave(3) * 3 + torch.arange(3).repeat(len(data_samples["index"]))
        )

    def compute_metrics(self, results):
        return {"rows": results.tolist()}


class Broken(Order):
    def compute_metrics(self, results):
        raise ZeroDivisionError("on purpose")


class Spread:
    """Like a torchmetrics metric: the largest value seen and how many."""

    def __init__(self):
        self.reset()

    def update(self, preds):
        self.seen += preds.tolist()

    def compute(self):
        return {"max": max(self.seen), "count": len(self.seen)}

    def reset(self):
        self.seen = []

    def modules(self):
        return [self]


def counts(size, rank, world):
    """What metrics with several results a sample get, with padding where ranks would be unequal, and without."""
    found = {}
    padded = [i % size for i in range(-(-size // world) * world)]
    for name, indices in (("padded", padded), ("plain", range(size))):
        index = torch.tensor(indices[rank::world])
        for device in ("cpu", "gpu"):
            declared = Evaluator([kind(device, results_per_sample=3) for kind in (Triples, TripleRows)])
            declared.process({"index": index})
            free = Evaluator([Varying(device, results_per_sample="any"), Order(device, prefix="unknown")])
            free.process({"index": index})
            found[f"{name} {device}"] = declared.evaluate(size) | free.evaluate(size)
        unknown = Evaluator([Order(), TripleRows(results_per_sample=3)])
        unknown.process({"index": index})
        found[f"{name} unknown"] = unknown.evaluate(None)
        for metric in (Triples(), TripleRows(), Triples(results_per_sample=2), TorchMetric(Spread(), "index", None)):
            metric.process(None, {"index": index})
            if isinstance(metric, TorchMetric):
                metric.process(None, {"index": index})
            try:
                metric.evaluate(size)
                raise AssertionError(f"{metric} was cut")
            except UsageError as error:
                found.setdefault(f"{name} refused", []).append(str(error))
    return found


def main(folder):
    dist.init_dist("pytorch", backend="gloo")
    rank, world = dist.get_dist_info()
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(SIZE, 4, generator=generator), torch.randint(0, 4, (SIZE,), generator=generator)
    losses = torch.rand(SIZE, generator=generator)
    padded = [i % SIZE for i in range(-(-SIZE // world) * world)]  # as a sampler repeats samples
    own = padded[rank::world]
    values = {}
    for device in ("cpu", "gpu"):
        options: dict[str, Any] = {"collect_device": device}
        evaluator = Evaluator([
            Accuracy(topk=(1, 2), **options), MeanLoss(**options), ConfusionMatrix(4, **options), Order(**options),
            DumpResults(f"{folder}/{device}.pt", **options),
            TorchMetric(Spread(), pred_key="index", label_key=None, **options),
        ])  # fmt: skip
        for start in range(0, len(own), 3):
            index = torch.tensor(own[start : start + 3])
            evaluator.process({"scores": scores[index], "label": labels[index], "loss": losses[index], "index": index})
        values[device] = evaluator.evaluate(SIZE)
    values["counts"] = {size: counts(size, rank, world) for size in (11, 12)}
    broken = Broken()
    broken.process(None, {"index": torch.tensor([1])})
    try:
        broken.evaluate(2)
    except Exception as error:
        values["error"] = f"{type(error).__name__}: {error}"
    empty = Accuracy()
    if rank == 0:
        empty.process(None, (scores, scores.argmax(1)))
    values["one rank has none"] = empty.evaluate(SIZE)
    print(json.dumps(values), flush=True)
    dist.destroy_dist()


if __name__ == "__main__":
    main(sys.argv[1])
