"""Recipes of today: killed with SIGKILL in mid-epoch and resumed, each ends with the same checkpoint, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..faults.conftest import end_of, lab  # noqa: F401
from . import recipes

NEEDS = {"causal_lm": "transformers", "lora": "peft"}
KILL = {"point": "after_train_iter", "count": 9, "action": "KILL"}
SPEC: dict[str, Any] = {"module": "tests.boundaries.recipes"}


def check(lab: Any, folder: Any, world: int = 1, **spec: Any) -> None:  # noqa: F811
    """Kill a run, resume it, and compare its end with that of a run that was not killed."""
    spec = {**SPEC, **spec}
    expected = lab.expect(world=world, **spec)
    codes = lab.run(KILL, work_dir=folder, world=world, **spec)
    assert codes[0] == -9, lab.log
    assert lab.resume(folder, world=world, **spec) == expected
    assert "iter_8.pth: 1 epochs and 8 iterations are done" in lab.log


ALONE = ("causal_lm", "lora", "classification", "ddpm", "distillation", "detection", "gan", "muon")


@pytest.mark.parametrize("recipe", ALONE)
def test_killed_once_and_resumed(lab, tmp_path, recipe):  # noqa: F811
    if recipe in NEEDS:
        pytest.importorskip(NEEDS[recipe])
    check(lab, tmp_path, recipe=recipe)


def test_contrastive_learning_on_two_ranks(lab, tmp_path):  # noqa: F811
    check(lab, tmp_path, world=2, recipe="simclr")


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
