"""Evaluate 11 samples on several ranks and print what each rank got; run by test_evaluator_ranks.py."""

import json
import sys

import torch

from lazyengine import dist
from lazyengine.evaluator import Accuracy, BaseMetric, ConfusionMatrix, DumpResults, Evaluator, MeanLoss, TorchMetric

SIZE = 11


class Order(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples["index"].tolist()

    def compute_metrics(self, results):
        return {"order": results}


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
        options = {"collect_device": device}
        evaluator = Evaluator([
            Accuracy(topk=(1, 2), **options), MeanLoss(**options), ConfusionMatrix(4, **options), Order(**options),
            DumpResults(f"{folder}/{device}.pt", **options),
            TorchMetric(Spread(), pred_key="index", label_key=None, **options),
        ])  # fmt: skip
        for start in range(0, len(own), 3):
            index = torch.tensor(own[start : start + 3])
            evaluator.process({"scores": scores[index], "label": labels[index], "loss": losses[index], "index": index})
        values[device] = evaluator.evaluate(SIZE)
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
