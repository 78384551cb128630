"""Adapter for the evaluator benchmark: accuracy over batches of ``(scores (N, C), labels (N,))``.

``python evalbench.py --adapter tests.benchmarks.eval_adapter:evaluate`` from the repository's root.
"""

from lazyengine.evaluator import Accuracy, Evaluator


def evaluate(batches):
    """Return the top-1 accuracy of a list of batches."""
    evaluator = Evaluator([Accuracy()])
    size = 0
    for scores, labels in batches:
        evaluator.process({"scores": scores, "label": labels})
        size += len(labels)
    return evaluator.evaluate(size)["accuracy/top1"]
