"""Recipes of today: killed with SIGKILL in mid-epoch and resumed, each ends with the same checkpoint, to the bit."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import Any

import pytest

from lazyengine.checkpoint import read_checkpoint

from ..faults.conftest import end_of, lab  # noqa: F401
from . import recipes

NEEDS = {"causal_lm": "transformers", "lora": "peft"}
KILL = {"point": "after_train_iter", "count": 9, "action": "KILL"}
SPEC: dict[str, Any] = {"module": "tests.boundaries.recipes"}


def check(lab: Any, folder: Any, world: int = 1, **spec: Any) -> None:  # noqa: F811
    """Kill a run, resume it with workers that it did not have, and compare its end with that of a run in one go."""
    spec = {**SPEC, **spec}
    expected = lab.expect(world=world, **spec)
    codes = lab.run(KILL, work_dir=folder, world=world, **spec)
    assert codes[0] == -9, lab.log
    assert lab.resume(folder, world=world, num_workers=2, **spec) == expected
    assert "iter_8.pth: 1 epoch and 8 iterations are done" in lab.log


ALONE = ("causal_lm", "lora", "classification", "ddpm", "distillation", "detection", "gan", "muon")


@pytest.mark.parametrize("recipe", ALONE)
def test_killed_once_and_resumed(lab, tmp_path, recipe):  # noqa: F811
    if recipe in NEEDS:
        pytest.importorskip(NEEDS[recipe])
    check(lab, tmp_path, recipe=recipe)


@pytest.mark.parametrize("recipe", ["simclr", "sam", "unfreezing"])
def test_killed_once_and_resumed_on_two_ranks(lab, tmp_path, recipe):  # noqa: F811
    check(lab, tmp_path, world=2, recipe=recipe)


def told(folder: Path) -> list[Any]:
    """Return what a study knows of each trial, and the end of each run."""
    trials = recipes.Study(str(folder), {}).load().trials
    known = [(trial.number, trial.state.name, trial.params, trial.intermediate_values, trial.value) for trial in trials]
    return [(*each, end_of(folder / str(each[0]))) for each in known]


def test_a_study_of_optuna_with_pruning(lab, tmp_path):  # noqa: F811
    pytest.importorskip("optuna")
    spec = {**SPEC, "recipe": "study"}
    assert lab.run(work_dir=tmp_path / "whole", **spec) == [0], lab.log
    whole = told(tmp_path / "whole")
    assert {"COMPLETE", "PRUNED"} == {state for _, state, *_ in whole}
    second = {"point": "after_train_iter", "count": recipes.NUM_ITERS + 3, "action": "KILL"}
    assert lab.run(second, work_dir=tmp_path / "killed", **spec) == [-9], lab.log
    assert lab.run(work_dir=tmp_path / "killed", **spec) == [0], lab.log
    assert "iter_2.pth: 0 epochs and 2 iterations are done" in lab.log
    assert told(tmp_path / "killed") == whole


@pytest.mark.suite
def test_thirty_kills_over_a_stream_with_changing_workers(lab, tmp_path):  # noqa: F811
    """Every sample once a pass, by a count that the model keeps, and the end of a run that was not killed."""
    spec = {**SPEC, "recipe": "stream", "num_iters": 150}
    expected = lab.expect(**spec)
    chance, workers, begins = random.Random(0), itertools.cycle([0, 2, 4]), set()
    for _ in range(30):  # at least to the next checkpoint
        fault = {"point": "after_train_iter", "count": chance.randint(3, 6), "action": "KILL"}
        assert lab.run(fault, work_dir=tmp_path, resume="auto", num_workers=next(workers), **spec) == [-9], lab.log
        begins.update(re.findall(r"and (\d+) iterations are done", lab.log))
    assert lab.run(work_dir=tmp_path, resume="auto", num_workers=2, **spec) == [0], lab.log
    assert len(begins) > 25  # resumed at as many places, most of them within a pass
    found = end_of(tmp_path)
    assert {k: v for k, v in found.items() if k != "ranks"} == {k: v for k, v in expected.items() if k != "ranks"}
    times = read_checkpoint(str(tmp_path / "iter_150.pth"))["state_dict"]["times"]
    assert (times[:9] == 1).all()
