"""Write mmengine.json with what mmengine 0.10.7 computes: python generate.py (in an environment that has it)."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import LogProcessor

NUM_ITERS, EPOCH_LENGTH = 75, 30
CONFIGS = {
    "default": {},
    "window 3": {"window_size": 3},
    "hierarchy": {"log_with_hierarchy": True},
    "by iter": {"by_epoch": False, "window_size": 7},
    "pattern": {"mean_pattern": r"acc"},
    "custom": {
        "custom_cfg": [
            {"data_src": "loss", "method_name": "mean", "window_size": "epoch", "log_name": "loss_epoch"},
            {"data_src": "loss", "method_name": "mean", "window_size": "global", "log_name": "loss_global"},
            {"data_src": "loss", "method_name": "max", "window_size": 20, "log_name": "loss_max"},
            {"data_src": "acc", "method_name": "min", "window_size": 5},
            {"data_src": "lr", "method_name": "current", "log_name": "lr_now"},
        ]
    },
}


def values(rng, num):
    """A history with large and small values of both signs."""
    return [rng.uniform(-1, 3) * 10 ** rng.choice([-4, 0, 0, 3]) for _ in range(num)]


def statistics_cases():
    rng = random.Random(0)
    for num, max_length, with_counts, with_ints in [
        (1, 1_000_000, False, False),
        (7, 1_000_000, True, False),
        (300, 1_000_000, False, False),
        (300, 1_000_000, True, False),
        (500, 40, False, False),
        (500, 333, True, False),
        (50, 1_000_000, False, True),
        (3000, 1_000_000, False, False),
    ]:
        log = [rng.randrange(-50, 50) for _ in range(num)] if with_ints else values(rng, num)
        count = [rng.randrange(1, 9) if with_counts else 1 for _ in range(num)]
        buffer = HistoryBuffer(max_length=max_length)
        for value, c in zip(log, count):
            buffer.update(value, c)
        results = {}
        for window in (None, 1, 2, 5, 10, 40, 257, 299, 1000, 5000):
            results[str(window)] = [float(buffer.statistics(m, window)) for m in ("mean", "min", "max")]
        yield {
            "log": log, "count": count, "max_length": max_length, "results": results,
            "current": float(buffer.current()), "length": len(buffer.data[0]),
        }  # fmt: skip


def processor_cases():
    rng = random.Random(1)
    history = {
        "train/lr": [0.1 * 0.99**i for i in range(NUM_ITERS)],
        "train/loss": values(rng, NUM_ITERS),
        "train/loss_aux": values(rng, NUM_ITERS),
        "train/acc": [rng.random() for _ in range(NUM_ITERS)],
        "train/grad_norm": [abs(v) for v in values(rng, NUM_ITERS)],
        "train/time": [rng.uniform(0.1, 0.2) for _ in range(NUM_ITERS)],
        "train/data_time": [rng.uniform(0.01, 0.02) for _ in range(NUM_ITERS)],
    }
    cases = []
    for name, config in CONFIGS.items():
        hub = MessageHub.get_instance(name)
        processor = LogProcessor(**config)
        for i in range(NUM_ITERS):
            for key, entries in history.items():
                hub.update_scalar(key, entries[i])
            hub.update_info("eta", 100.0 * (NUM_ITERS - i))
            runner = SimpleNamespace(
                message_hub=hub, iter=i, epoch=i // EPOCH_LENGTH, max_epochs=12, max_iters=NUM_ITERS, _train_loop=1,
                train_loop=SimpleNamespace(dataloader=range(EPOCH_LENGTH)), model=None,
            )  # fmt: skip
            if i in (0, 4, 9, 10, 29, 30, 44, 74):
                tag, line = processor.get_log_after_iter(runner, i % EPOCH_LENGTH, "train")
                tag = {key: float(value) for key, value in tag.items()}
                cases.append({"config": name, "iter": i, "tag": tag, "head": line.split("]  ")[0] + "]"})
    validation = {"val/acc": [0.5, 0.625], "val/time": [0.1, 0.2, 0.4], "val/data_time": [0.01, 0.03, 0.02]}
    hub = MessageHub.get_instance("validation")
    for key, entries in validation.items():
        for value in entries:
            hub.update_scalar(key, value)
    runner = SimpleNamespace(
        message_hub=hub,
        iter=30,
        epoch=1,
        max_epochs=12,
        _train_loop=1,
        model=None,
        val_loop=SimpleNamespace(dataloader=range(3)),
    )
    tag, line = LogProcessor().get_log_after_epoch(runner, 3, "val")
    after_val = {"tag": {key: float(value) for key, value in tag.items()}, "head": line.split("]  ")[0] + "]"}
    return {"history": history, "cases": cases, "validation": validation, "after_val": after_val}


if __name__ == "__main__":
    golden = {
        "statistics": list(statistics_cases()), "configs": CONFIGS, "epoch_length": EPOCH_LENGTH,
        "processor": processor_cases(),
    }  # fmt: skip
    Path(__file__).with_name("mmengine.json").write_text(json.dumps(golden) + "\n")
