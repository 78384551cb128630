"""Recipes of today: killed with SIGKILL in mid-epoch and resumed, each ends with the same checkpoint, to the bit."""

from __future__ import annotations

from typing import Any

import pytest

from ..faults.conftest import lab  # noqa: F401

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


@pytest.mark.parametrize("recipe", ["causal_lm", "lora", "classification", "ddpm"])
def test_killed_once_and_resumed(lab, tmp_path, recipe):  # noqa: F811
    if recipe in NEEDS:
        pytest.importorskip(NEEDS[recipe])
    check(lab, tmp_path, recipe=recipe)
