"""Write schedulers.json: the curves of mmengine 0.10.7's schedulers for random arguments.

Run where mmengine 0.10.7 is installed: ``python generate.py``. Each case has the optimizer, the schedulers with their
arguments, and the value of every group after construction and after each of 200 steps.
"""

import json
import random
from pathlib import Path

import torch
from mmengine.optim import scheduler as mm

STEPS = 200
BASES = ("Constant", "Linear", "Exponential", "MultiStep", "Step", "CosineAnnealing", "CosineRestart", "Poly")


def arguments(rng: random.Random, base: str) -> dict:
    """Return random arguments of one scheduler that acts within 200 steps."""
    begin = rng.choice([0, 0, rng.randint(1, 40)])
    common = {"begin": begin, "end": rng.randint(begin + 20, 220)}
    length = common["end"] - begin
    draw = {
        "Constant": lambda: {"factor": rng.uniform(0.05, 1)},
        "Linear": lambda: {"start_factor": rng.uniform(0.001, 1), "end_factor": rng.uniform(0.1, 1)},
        "Exponential": lambda: {"gamma": rng.uniform(0.9, 1.01)},
        "MultiStep": lambda: {"milestones": rng.choices(range(length), k=4), "gamma": rng.uniform(0.1, 0.9)},
        "Step": lambda: {"step_size": rng.randint(1, 50), "gamma": rng.uniform(0.1, 0.9)},
        "CosineAnnealing": lambda: rng.choice(
            [{}, {"T_max": rng.randint(3, 90), "eta_min": rng.uniform(0, 0.01)}, {"eta_min_ratio": rng.uniform(0, 0.5)}]
        ),
        "CosineRestart": lambda: {
            "periods": [rng.randint(5, 60) for _ in range(4)],
            "restart_weights": [rng.uniform(0.2, 1) for _ in range(4)],
            **rng.choice([{"eta_min": rng.uniform(0, 0.01)}, {"eta_min_ratio": rng.uniform(0, 0.1)}]),
        },
        "Poly": lambda: {"power": rng.uniform(0.5, 3), "eta_min": rng.uniform(0, 0.01)},
        "OneCycle": lambda: {
            "eta_max": rng.uniform(0.1, 1),
            "pct_start": rng.uniform(0.1, 0.45),
            "anneal_strategy": rng.choice(["cos", "linear"]),
            "div_factor": rng.uniform(2, 30),
            "three_phase": rng.random() < 0.5,
        },
    }[base]()
    return {**common, **draw}


def make_optimizer(case: dict) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in case["lrs"]]
    if case["optimizer"] == "SGD":
        return torch.optim.SGD(groups, lr=0.1, momentum=case["momentum"])
    return torch.optim.AdamW(groups, lr=0.1, betas=(case["momentum"], 0.999))


def curve(case: dict) -> list[list[float]]:
    """Return the scheduled option of every group: after construction, then after each step (or iteration)."""
    optimizer = make_optimizer(case)
    epoch_length = case.get("epoch_length")
    chain = []
    for name, kwargs in case["schedulers"]:
        cls = getattr(mm, name)
        if kwargs.get("convert_to_iter_based"):
            rest = {k: v for k, v in kwargs.items() if k != "convert_to_iter_based"}
            chain.append(cls.build_iter_from_epoch(optimizer, epoch_length=epoch_length, **rest))
        else:
            chain.append(cls(optimizer, **kwargs))

    def read() -> list[float]:
        if case["option"] == "momentum" and case["optimizer"] == "AdamW":
            return [group["betas"][0] for group in optimizer.param_groups]
        return [group[case["option"]] for group in optimizer.param_groups]

    values = [read()]
    optimizer.step()
    for step in range(1, STEPS + 1):
        for scheduler in chain:
            if not scheduler.by_epoch:
                scheduler.step()
        for scheduler in chain:
            if scheduler.by_epoch and (epoch_length is None or step % epoch_length == 0):
                scheduler.step()
                if "metrics" in case:
                    scheduler.step({"loss": case["metrics"][step - 1]})
        values.append(read())
    return [list(column) for column in zip(*values)]


def cases() -> list[dict]:
    rng = random.Random(20240115)
    found = []

    def add(schedulers: list, option: str = "lr", optimizer: str = "SGD", groups: int = 1, **more: object) -> None:
        lrs = [round(rng.uniform(0.01, 1), 4) for _ in range(groups)]
        momentum = round(rng.uniform(0.5, 0.99), 4)
        found.append(
            dict(optimizer=optimizer, lrs=lrs, momentum=momentum, option=option, schedulers=schedulers, **more)
        )

    for base in (*BASES, "OneCycle"):
        for repeat in range(3):
            add([[f"{base}LR", {**arguments(rng, base), "by_epoch": rng.random() < 0.5}]], groups=1 + (repeat == 0))
    for base in BASES:
        for optimizer in ("SGD", "AdamW"):
            add([[f"{base}Momentum", arguments(rng, base)]], option="momentum", optimizer=optimizer)
        add([[f"{base}ParamScheduler", {"param_name": "weight_decay", **arguments(rng, base)}]], option="weight_decay",
            optimizer="AdamW")  # fmt: skip
    for rule in ("less", "greater"):
        for threshold_rule in ("rel", "abs"):
            kwargs = {"rule": rule, "threshold_rule": threshold_rule, "patience": rng.randint(1, 8), "factor": 0.7,
                          "threshold": 0.01, "cooldown": rng.randint(0, 5), "min_value": 1e-3}  # fmt: skip
            add([["ReduceOnPlateauLR", kwargs]], groups=2, metrics=[round(rng.uniform(0, 1), 3) for _ in range(STEPS)])
    add([["ReduceOnPlateauMomentum", {"patience": 3}]], option="momentum", optimizer="AdamW",
        metrics=[round(rng.uniform(0, 1), 3) for _ in range(STEPS)])  # fmt: skip
    for _ in range(2):
        warm = rng.randint(5, 30)
        length = rng.choice([5, 7, 10])
        ratio = rng.uniform(0.001, 0.3)
        linear, cosine = (
            {"start_factor": ratio, "begin": 0, "end": warm},
            {"begin": warm, "end": STEPS, "eta_min": 1e-5},
        )
        add([["LinearLR", linear], ["CosineAnnealingLR", cosine]])
        by_iter = {"by_epoch": False}
        add([["LinearLR", {**linear, **by_iter}], ["CosineAnnealingLR", {**cosine, **by_iter}]], groups=2)
        add([["LinearLR", {**linear, **by_iter}], ["CosineAnnealingLR", {"begin": 0, "end": STEPS // length}]],
            epoch_length=length)  # fmt: skip
        convert = {"convert_to_iter_based": True}
        end = STEPS // length
        for first in (["LinearLR", dict(start_factor=ratio, begin=0, end=2, **convert)],
                      ["ConstantLR", dict(factor=ratio, begin=0, end=2, **convert)]):  # fmt: skip
            for second in (
                ["CosineAnnealingLR", dict(begin=2, end=end, T_max=end - 2, **convert)],
                ["MultiStepLR", dict(milestones=[3, 5, 9], **convert)],
                ["StepLR", dict(step_size=3, begin=1, end=end, **convert)],
                ["PolyLR", dict(begin=2, end=end, power=0.9, **convert)],
                ["ExponentialLR", dict(begin=2, end=end, gamma=0.99, **convert)],
            ):
                add([first, second], epoch_length=length)
        add([["CosineRestartLR", dict(periods=[3, 5, 8], restart_weights=[1, 0.5, 0.2], eta_min=0.0, **convert)]],
            epoch_length=length)  # fmt: skip
        add([["OneCycleLR", dict(eta_max=0.3, total_steps=end, end=end, **convert)]], epoch_length=length)
    return found


if __name__ == "__main__":
    rows = [{**case, "values": curve(case)} for case in cases()]
    text = "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]\n"
    Path(__file__).with_name("schedulers.json").write_text(text)
    print(len(rows), "cases")
