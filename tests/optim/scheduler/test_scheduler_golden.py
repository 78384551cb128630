"""The curves are mmengine 0.10.7's, within 1e-12 relative (golden/generate.py wrote them)."""

import json
from pathlib import Path

import pytest
import torch

import lazyengine.optim.scheduler as ours

CASES = json.loads((Path(__file__).parent / "golden" / "schedulers.json").read_text())


def _optimizer(case):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in case["lrs"]]
    if case["optimizer"] == "SGD":
        return torch.optim.SGD(groups, lr=0.1, momentum=case["momentum"])
    return torch.optim.AdamW(groups, lr=0.1, betas=(case["momentum"], 0.999))


def _curve(case):
    optimizer = _optimizer(case)
    length = case.get("epoch_length")
    chain = [getattr(ours, name)(optimizer, epoch_length=length, **kwargs) if length else
             getattr(ours, name)(optimizer, **kwargs) for name, kwargs in case["schedulers"]]  # fmt: skip

    def read():
        if case["option"] == "momentum" and case["optimizer"] == "AdamW":
            return [group["betas"][0] for group in optimizer.param_groups]
        return [group[case["option"]] for group in optimizer.param_groups]

    values = [read()]
    optimizer.step()
    for step in range(1, 201):
        for scheduler in chain:
            if not scheduler.by_epoch:
                scheduler.step()
        for scheduler in chain:
            if scheduler.by_epoch and (length is None or step % length == 0):
                scheduler.step()
                if "metrics" in case:
                    scheduler.step({"val/loss": case["metrics"][step - 1]})
        values.append(read())
    return [list(column) for column in zip(*values)]


@pytest.mark.parametrize(
    "index", range(len(CASES)), ids=lambda i: f"{i}-" + "+".join(n for n, _ in CASES[i]["schedulers"])
)
def test_curve_equals_mmengine(index):
    case = CASES[index]
    for group, (got, expected) in enumerate(zip(_curve(case), case["values"], strict=True)):
        assert len(got) == len(expected) == 201
        assert len(set(expected)) > 1 or "metrics" in case, "the case does not move"
        for step, (a, b) in enumerate(zip(got, expected)):
            assert abs(a - b) <= 1e-12 * abs(b), (group, step, a, b)


def test_every_scheduler_of_mmengine_is_covered():
    covered = {name for case in CASES for name, _ in case["schedulers"]}
    public = {name for name in ours.__all__ if name.endswith(("LR", "Momentum", "ParamScheduler"))} - {
        "_ParamScheduler"
    }
    assert public - covered == {"OneCycleParamScheduler", "ReduceOnPlateauParamScheduler"}
