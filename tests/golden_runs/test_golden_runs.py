"""Every release resumes the kept runs of all earlier ones to the end that they would have had; see README.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lazyengine.config import LazyConfig

from . import states
from .driver import Driver
from .runs import WEIGHTS, GoldenRun, are_close, differences, end_of, find_runs

# Version 0.1 read the precision of an evaluation from the config; since then the checkpoint says it, or the loop does.
UNRECORDED_PRECISION = {"v0.1.0-ema_amp": "bfloat16"}
RUNS = find_runs()
of_every_run = pytest.mark.parametrize("golden", RUNS, ids=lambda golden: golden.name)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A process that runs experiments with portable arithmetic."""
    made = Driver(tmp_path_factory.mktemp("driver"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def numerics(driver: Driver) -> dict[str, Any]:
    """What the last bits depend on, here."""
    return driver.run("describe")["numerics"]


def test_there_are_runs_of_the_first_version():
    names = {golden.name for golden in RUNS}
    assert {f"v0.1.0-{name}" for name in ("ema_amp", "epochs", "gan", "iterations", "preempted")} <= names


@of_every_run
def test_it_is_resumed_to_the_same_end(golden: GoldenRun, driver: Driver, numerics: dict[str, Any], tmp_path: Path):
    copy, weights = golden.copy_to(tmp_path), tmp_path / WEIGHTS
    report = driver.run("train", config=golden.experiment, work_dir=copy, resume=True, weights=weights)
    end = end_of(report, report["first_iter"])
    assert differences(golden, end, numerics, weights) == []


@of_every_run
def test_its_checkpoints_evaluate_to_the_recorded_metrics(golden, driver, numerics, tmp_path):
    copy = golden.copy_to(tmp_path)
    recorded = dict(golden.expected["evaluations"])
    if best := [name for name in recorded if name.startswith("best_")]:
        recorded["best"] = recorded[best[-1]]
    is_exact = numerics == golden.expected["numerics"]
    atol = 0.0 if is_exact else golden.expected["tolerance"]["metrics"]
    for name, metrics in recorded.items():
        precision = UNRECORDED_PRECISION.get(golden.name)
        found = driver.run("evaluate", config=copy / "config.py", work_dir=copy, checkpoint=name, precision=precision)
        assert (found == metrics) if is_exact else are_close(found, metrics, atol), name


@of_every_run
def test_its_saved_config_loads(golden, tmp_path):
    copy = golden.copy_to(tmp_path)
    cfg = LazyConfig.load(copy / "config.py")
    assert cfg.runner.experiment_name == f"golden_{golden.expected['experiment']}"
    LazyConfig.save(cfg, tmp_path / "again.py")
    assert LazyConfig.load(tmp_path / "again.py").runner == cfg.runner


# ---------------------------------------------------------------------- the comparison itself
def test_the_digest_is_of_content_not_of_order():
    state = {"b": torch.arange(4.0), "a": [1, (2.5, None)]}
    same = {"a": [1, (2.5, None)], "b": torch.arange(8.0)[::2] / 2}
    assert states.digest(state) == states.digest(same)
    others = [
        {**state, "b": torch.arange(4.0).reshape(2, 2)},
        {**state, "b": torch.arange(4.0).double()},
        {**state, "b": torch.tensor([0.0, 1.0, 2.0, 3.0000002])},
        {**state, "a": [1, (2.5, 0)]},
        {"b": state["b"]},
    ]
    assert len({states.digest(each) for each in [state, *others]}) == 6


def test_what_a_later_version_adds_to_groups_and_schedulers_does_not_count():
    def optimizer(**more: Any) -> dict[str, Any]:
        group = {"lr": torch.tensor(0.5), "betas": (0.9, 0.99), "params": [0], **more}
        return {"state": {0: {"step": torch.ones(())}}, "param_groups": [group], "wrapper": more}

    part = states.optimizer_part(optimizer())
    assert states.digest(part) == states.digest(states.optimizer_part(optimizer(fused=True)))
    assert states.digest(part) != states.digest(states.optimizer_part(optimizer(weight_decay=0.1)))
    assert states.learning_rates({"one": part}) == {"one": [0.5]}
    assert states.scheduler_part([{"last_step": 2, "_global_step": 3, "end": 9}]) == [
        {"last_step": 2, "_global_step": 3}
    ]


def test_differences_are_found_where_hashes_repeat_and_where_they_cannot(tmp_path):
    golden, weights = RUNS[0], RUNS[0].folder / WEIGHTS
    end, here = golden.expected["end"], golden.expected["numerics"]
    assert differences(golden, end, here, weights) == []
    other = {**end, "weights": "other", "optimizer": "other"}
    assert [line.partition(":")[0] for line in differences(golden, other, here, weights)] == ["weights", "optimizer"]
    elsewhere = {**here, "torch": "another"}
    assert differences(golden, other, elsewhere, weights) == []
    with np.load(weights) as file:
        moved = {name: torch.tensor(file[name]) + ("head.bias" in name) for name in file.files}
    states.save_weights(tmp_path / WEIGHTS, moved)
    wrong = {**other, "batches": "other", "validations": end["validations"][1:]}
    lines = differences(golden, wrong, elsewhere, tmp_path / WEIGHTS)
    assert [line.partition(":")[0] for line in lines] == ["batches", "weights", "validations"]
