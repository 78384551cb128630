"""Bad input: each a clear error at the right time, and nothing outside of the run folder is touched."""

from __future__ import annotations

import os
import re

import pytest
import torch

from lazyengine.checkpoint import CheckpointError, read_checkpoint
from lazyengine.hooks import CheckpointHook, Hook
from lazyengine.visualization import TensorboardVisBackend, Visualizer

from . import experiments
from .experiments import Crops, build
from .faults import AtPoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with a checkpoint at its sixth step."""
    folder = tmp_path_factory.mktemp("whole")
    build(str(folder), checkpoint={"interval": 6}).train()
    return folder


def edited(whole, tmp_path, change):
    """Write a changed copy of a checkpoint and return its path."""
    state = read_checkpoint(whole / "iter_6.pth")
    change(state)
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run" / "iter_6.pth")
    return str(tmp_path / "run" / "iter_6.pth")


class Beyond(Crops):
    def __getitem__(self, index):
        return super().__getitem__(index + 20 if index == 5 else index)


class Mixed(Crops):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "image": sample["image"][:, : 5 if index == 5 else 6]}


@pytest.mark.parametrize(
    ("dataset", "parts"),
    [
        (lambda: Crops(size=0), ["the dataset (Crops) is empty"]),
        (Beyond, ["IndexError", "while reading index 5 of Beyond (batch "]),
        (Mixed, ["cannot stack ['image']", "(1, 5, 6)", "(1, 6, 6)", "while collating the samples of indices ["]),
    ],
    ids=["empty", "index_out_of_range", "mixed_shapes"],
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_datasets(tmp_path, dataset, parts, num_workers):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of any type
        build(str(tmp_path), dataset=dataset(), num_workers=num_workers).train()
    told = "\n".join([f"{caught.type.__name__}: {caught.value}", *getattr(caught.value, "__notes__", [])])
    assert all(part in told for part in parts), told


def test_drop_last_that_leaves_nothing():
    with pytest.raises(ValueError, match="drop_last=True leaves no batch: this rank has 3 samples, fewer than"):
        experiments.DataLoader(Crops(size=3), 4, drop_last=True)


def test_a_web_page_is_no_checkpoint(tmp_path):
    (tmp_path / "iter_9.pth").write_text("<!DOCTYPE html><title>404</title>")
    for resume in ("auto", str(tmp_path / "iter_9.pth")):
        with pytest.raises(CheckpointError, match=r"not a checkpoint: it starts with b'<!DOCTYPE html>.*a web page"):
            build(str(tmp_path), resume=resume).train()


class Malicious:
    def __reduce__(self):
        return (os.mkdir, (os.environ["SENTINEL"],))


@pytest.mark.parametrize("way", ["auto", "path", "load_from"])
def test_a_malicious_pickle_is_refused(whole, tmp_path, monkeypatch, way):
    monkeypatch.setenv("SENTINEL", str(tmp_path / "sentinel"))
    path = edited(whole, tmp_path, lambda state: state["hooks"].update(evil=Malicious()))
    how = {"load_from": path} if way == "load_from" else {"resume": "auto" if way == "auto" else path}
    with pytest.raises(CheckpointError, match=r"mkdir, which was not loaded because loading it can run code"):
        build(os.path.dirname(path), **how).train()
    assert not (tmp_path / "sentinel").exists()


def test_a_config_in_a_checkpoint_is_data(whole, tmp_path):
    code = f"import os; os.mkdir({str(tmp_path / 'sentinel')!r})"
    path = edited(whole, tmp_path, lambda state: state["meta"].update(cfg=code))
    build(os.path.dirname(path), resume=path).train()
    assert not (tmp_path / "sentinel").exists()


def test_what_no_checkpoint_can_hold_is_named_at_the_save(tmp_path):
    class Stateful(Hook):
        def state_dict(self):
            return {"calls": [0, {"fn": print}]}

    with pytest.raises(CheckpointError, match=re.escape("checkpoint['hooks']['mine']['calls'][1]['fn']")):
        build(str(tmp_path), hooks={"mine": Stateful()}).train()
    assert not list(tmp_path.glob("*.pth"))


def test_wrong_shapes_are_listed(whole, tmp_path):
    def change(state):
        weights = state["state_dict"]
        weights["head.weight"] = torch.zeros(2, 64)
        weights.update({f"old.{i}": torch.zeros(1) for i in range(12)})

    with pytest.raises(RuntimeError) as caught:
        build(str(tmp_path), resume=edited(whole, tmp_path, change)).train()
    message = str(caught.value)
    assert "head.weight: (2, 64) in the checkpoint, (1, 64) in the model" in message
    assert "12 unknown to the model" in message
    assert "old.9" in message
    assert "old.10" not in message
    assert "... and 2 more" in message


@pytest.mark.parametrize("template", ["../{}.pth", "/tmp/{}.pth", "sub/{}.pth", "last.pth"])
def test_templates_cannot_leave_the_folder(template):
    with pytest.raises(ValueError, match=r"for the number and without a folder, that ends in \.pth"):
        CheckpointHook(filename_tmpl=template)


def test_names_in_a_checkpoint_cannot_leave_the_folder(whole, tmp_path):
    """What the state says is to be deleted, or to be the first start's folder, is looked for in the run folder only."""
    (tmp_path / "victim.pth").write_text("")
    (tmp_path / "other_run").mkdir()

    def change(state):
        names = ["../victim.pth", str(tmp_path / "victim.pth")]
        state["hooks"]["checkpoint"].update(stale=names, kept=names)
        state["message_hub"]["runtime_info"]["first_start"] = "../other_run"

    path = edited(whole, tmp_path, change)
    curves = Visualizer(vis_backends=[TensorboardVisBackend()])
    build(os.path.dirname(path), resume=path, checkpoint={"max_keep_ckpts": 1}, visualizer=curves).train()
    assert (tmp_path / "victim.pth").exists()
    assert not list((tmp_path / "other_run").iterdir())


def test_a_pointer_cannot_leave_the_folder(whole, tmp_path):
    (tmp_path / "iter_1.pth").write_bytes((whole / "iter_6.pth").read_bytes())
    (tmp_path / "last_checkpoint").write_text(str(whole / "iter_6.pth"))
    runner = build(str(tmp_path))
    runner.set_checkpoint("latest")
    assert runner.load_from.path == str(tmp_path / "iter_1.pth")  # as a resume: nothing outside is loaded


def test_a_point_that_is_none_is_refused():
    """The faults themselves: a misspelt one would test nothing."""
    with pytest.raises(AssertionError):
        AtPoint("after_train_step", 1, "KILL")
