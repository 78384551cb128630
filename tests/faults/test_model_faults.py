"""What goes wrong in a step or in the data: no weight changes, the message says where, and the run can be resumed."""

from __future__ import annotations

import pytest

from lazyengine.checkpoint import read_checkpoint

from .experiments import digest

ERRORS = {
    "nan": "the loss is nan at iteration 4. The update was discarded before any weight changed",
    "inf_gradient": r"the gradient norm is nan (gradient of parameter",
    "oom": "OutOfMemoryError: CUDA out of memory",
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_in_the_fifth_step(lab, tmp_path, kind):
    expected = lab.expect()
    assert lab.run({"kind": kind, "count": 5}, work_dir=tmp_path) == [1]
    assert ERRORS[kind] in lab.log
    assert "in training iteration 4 (epoch 0, batch 4) on {image: float32[4, 1, 6, 6], " in lab.log
    assert lab.report()["num_optimizer_steps"] == 4
    weights = {k: v for k, v in read_checkpoint(tmp_path / "iter_4.pth")["state_dict"].items() if "head" in k}
    assert lab.report()["parameters"] == digest(weights)
    assert lab.resume(tmp_path) == expected


def test_a_bad_update_can_be_skipped(lab, tmp_path):
    assert lab.run({"kind": "nan", "count": 5}, work_dir=tmp_path, wrapper={"nonfinite": "skip"}) == [0]
    assert "Skipped the update (1 in a row" in lab.log
    before, after = (read_checkpoint(tmp_path / f"iter_{step}.pth")["state_dict"] for step in (4, 5))
    assert digest(before["head.weight"]) == digest(after["head.weight"])
    assert read_checkpoint(tmp_path / "iter_12.pth")["optimizer"]["optim_wrapper"]["num_optimizer_steps"] == 11


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("Killer", "DataLoader worker"), ("Hanging", "timed out after 2 seconds")],
)
def test_a_dataset_that_kills_its_worker_or_hangs(lab, tmp_path, dataset, message):
    """The run fails, with advice, and its process ends."""
    spec = {"num_workers": 2, "dataset": [dataset], "loader_timeout": 2 if dataset == "Hanging" else 0}
    assert lab.run(work_dir=tmp_path, **spec) == [1]
    assert message in lab.log
    assert "run with num_workers=0" in lab.log
    assert "the run failed at epoch 0" in lab.log


def test_operators_without_a_deterministic_implementation_are_listed(lab, tmp_path):
    assert lab.run({"kind": "unpool", "count": 5}, work_dir=tmp_path, deterministic="warn") == [0]
    assert "operators without a deterministic implementation: max_unpooling2d_forward_out" in lab.log
    assert lab.log.count("does not have a deterministic implementation, but") == 1
    assert lab.run({"kind": "unpool", "count": 5}, work_dir=tmp_path, deterministic="strict") == [1]
    assert "max_unpooling2d_forward_out does not have a deterministic implementation" in lab.log
