"""Tensors reach the model whatever their keys are called, and what does not match is said."""

import copy
import logging
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from lazyengine.checkpoint import (
    CheckpointError,
    CheckpointLoader,
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    revise_state_dict,
    save_checkpoint,
    unwrap_module,
    weights_to_cpu,
)


class Model(nn.Module):
    def __init__(self, width=4, num_layers=1):
        super().__init__()
        self.backbone = nn.Sequential(*(nn.Linear(width, width) for _ in range(num_layers)), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 2)


class Log:
    """A logger and its messages."""

    def __init__(self):
        self.messages = []
        self.logger = logging.Logger("test")
        handler = logging.Handler()
        handler.emit = lambda record: self.messages.append((record.levelno, record.getMessage()))
        self.logger.addHandler(handler)


@pytest.fixture
def log():
    return Log()


def _equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_round_trip_through_a_file(tmp_path, log):
    model, other = Model(), Model()
    save_checkpoint({"state_dict": model.state_dict(), "meta": {"epoch": 3}}, tmp_path / "c.pth")
    checkpoint = load_checkpoint(other, str(tmp_path / "c.pth"), strict=True, logger=log.logger)
    assert checkpoint["meta"] == {"epoch": 3}
    assert _equal(model, other)
    assert [level for level, _ in log.messages] == [logging.INFO]
    save_checkpoint(model.state_dict(), tmp_path / "bare.pth")  # a file that is the state dict
    third = Model()
    load_checkpoint(third, str(tmp_path / "bare.pth"), strict=True, logger=log.logger)
    assert _equal(model, third)


def test_mismatches_are_listed_with_both_shapes(log):
    model = Model(num_layers=12)
    state = Model(width=3, num_layers=12).state_dict()
    state["extra.a"] = torch.ones(1)
    del state["head.bias"]
    before = copy.deepcopy(model.state_dict())
    missing, unexpected = load_state_dict(model, state, logger=log.logger)
    assert (missing, unexpected) == (["head.bias"], ["extra.a"])
    ((level, message),) = log.messages
    assert level == logging.WARNING
    assert "1 missing in the checkpoint:\n    head.bias" in message
    assert "1 unknown to the model:\n    extra.a" in message
    assert "29 of another shape" in message
    assert "backbone.0.weight: (3, 3) in the checkpoint, (4, 4) in the model" in message
    assert message.count(" in the model") == 10
    assert "... and 19 more" in message
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items() if k != "backbone.12.num_batches_tracked"
    )


def test_strict_raises(log):
    state = Model().state_dict()
    del state["head.bias"]
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        load_state_dict(Model(), state, strict=True, logger=log.logger)
    assert log.messages == []


def test_missing_batch_counters_are_no_mismatch(log):
    model = Model()
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert load_state_dict(model, state, strict=True, logger=log.logger) == ([], [])
    assert log.messages == []


def test_source_is_not_changed():
    state = Model().state_dict()
    keys, metadata = list(state), copy.deepcopy(state._metadata)
    load_state_dict(Model(), state)
    assert (list(state), state._metadata) == (keys, metadata)


class Versioned(nn.Module):
    """Version 2 calls ``scale`` what version 1 called ``gain``."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get("version", 1) < 2:
            state_dict[prefix + "scale"] = state_dict.pop(prefix + "gain")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@pytest.mark.parametrize("prefix", [None, "inner"])
def test_module_versions_survive_save_rename_and_load(tmp_path, prefix):
    holder = nn.ModuleDict({"inner": nn.ModuleDict({"v": Versioned()})})
    holder["inner"]["v"].scale.data.fill_(5)
    new = holder.state_dict()
    assert new._metadata["inner.v"]["version"] == 2
    old = revise_state_dict(new, [("scale$", "gain")])
    old._metadata["inner.v"] = {"version": 1}
    for state in (new, old):
        renamed = revise_state_dict(state, [("^", "module.")])
        save_checkpoint({"state_dict": renamed}, tmp_path / "c.pth")
        target = nn.ModuleDict({"inner": nn.ModuleDict({"v": Versioned()})})
        receiver = target["inner"] if prefix else target
        load_checkpoint(receiver, str(tmp_path / "c.pth"), strict=True, prefix=prefix)
        assert target["inner"]["v"].scale.item() == 5


def test_revise_keys(tmp_path):
    model = Model()
    state = {f"module.net.{k}": v for k, v in model.state_dict().items()}
    save_checkpoint({"state_dict": state}, tmp_path / "c.pth")
    other = Model()
    rules = [(r"^module\.", ""), (r"^net\.", "")]
    load_checkpoint(other, str(tmp_path / "c.pth"), strict=True, revise_keys=rules)
    assert _equal(model, other)
    with pytest.raises(RuntimeError, match=r"start with 'module\.net\.'.*revise_keys"):
        load_checkpoint(Model(), str(tmp_path / "c.pth"), strict=True)
    with pytest.raises(CheckpointError, match="gives 'x' to two keys"):
        revise_state_dict({"a": 1, "b": 2}, [("^.*$", "x")])


def test_hint_for_a_model_with_a_longer_prefix():
    holder = nn.ModuleDict({"backbone": nn.Linear(2, 2)})
    with pytest.raises(RuntimeError, match=r"model's keys start with 'backbone\.'"):
        load_state_dict(holder, nn.Linear(2, 2).state_dict(), strict=True)


def test_prefix(tmp_path):
    model = Model()
    save_checkpoint({"state_dict": model.state_dict()}, tmp_path / "c.pth")
    other = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    load_checkpoint(other, str(tmp_path / "c.pth"), strict=True, prefix="backbone")
    assert _equal(model.backbone, other)
    assert list(revise_state_dict(model.state_dict(), prefix="head.")) == ["weight", "bias"]
    with pytest.raises(CheckpointError, match=r"'neck\.'.*\['backbone', 'head'\]"):
        load_checkpoint(other, str(tmp_path / "c.pth"), prefix="neck")


def test_no_state_dict(tmp_path):
    save_checkpoint({"state_dict": [1]}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="got list"):
        load_checkpoint(Model(), str(tmp_path / "c.pth"))
    torch.save([1], tmp_path / "d.pth")
    with pytest.raises(CheckpointError, match="got list"):
        load_checkpoint(Model(), str(tmp_path / "d.pth"))


def test_wrappers_leave_no_trace_in_keys():
    model = Model()
    plain = copy.deepcopy(model.state_dict())
    wrapped = nn.DataParallel(model)
    assert unwrap_module(wrapped) is model
    nested = Model()
    nested.load_state_dict(plain)
    nested.backbone = nn.DataParallel(nn.DataParallel(nested.backbone))
    nested.head = torch.compile(nested.head, backend="eager")
    for module in (wrapped, nested, nn.DataParallel(nested)):
        state = get_state_dict(module)
        assert list(state) == list(plain)
        assert state._metadata == plain._metadata
        assert all(torch.equal(state[k], plain[k]) for k in plain)
        fresh = Model().state_dict()
        assert load_state_dict(module, fresh, strict=True) == ([], [])
        assert all(torch.equal(v, fresh[k]) for k, v in get_state_dict(module).items())
        load_state_dict(module, plain, strict=True)


def test_weights_to_cpu_keeps_the_structure():
    state = Model().state_dict()
    moved = weights_to_cpu({"a": state, "b": [torch.ones(1), 2]})
    assert moved["a"]._metadata == state._metadata
    assert type(moved["a"]) is type(state)
    assert moved["b"][1] == 2


def test_weights_from_mmengine(tmp_path, log, monkeypatch):
    """Its message hub holds objects of its own class, which is not installed here."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    exec("class HistoryBuffer:\n    pass", module.__dict__)
    module.HistoryBuffer.__module__ = module.__name__
    buffer = module.HistoryBuffer()
    buffer.history = np.arange(3)
    buffer.statistics = {"mean": getattr}
    model, other = Model(), Model()
    with monkeypatch.context() as patched:
        for name in ("mmengine", "mmengine.logging", module.__name__):
            patched.setitem(sys.modules, name, module)
        hub = {"log_scalars": {"train/loss": buffer}}
        torch.save({"state_dict": model.state_dict(), "message_hub": hub}, tmp_path / "c.pth")
    load_checkpoint(other, str(tmp_path / "c.pth"), strict=True, logger=log.logger)
    assert _equal(model, other)
    assert "are left out: ['message_hub']['log_scalars']['train/loss']" in log.messages[-1][1]


def test_own_schemes(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))

    @CheckpointLoader.register_scheme(["zoo://", "zoo2://"])
    def load_zoo(filename, map_location):
        return {"weight": torch.full((2, 2), 7.0), "bias": torch.zeros(2), "from": (filename, map_location)}

    model = nn.Linear(2, 2)
    checkpoint = load_checkpoint(model, "zoo://a", map_location="cpu", logger="silent")
    assert checkpoint["from"] == ("zoo://a", "cpu")
    assert model.weight.eq(7).all()
    with pytest.raises(KeyError, match="force=True"):
        CheckpointLoader.register_scheme("zoo://", load_zoo)
    CheckpointLoader.register_scheme("zoo://a/", lambda *_: "longer wins")
    assert CheckpointLoader.load_checkpoint("zoo://a/b", logger="silent") == "longer wins"
