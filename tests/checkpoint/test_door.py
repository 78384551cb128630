"""One door for weights: whatever wraps them, they reach the model, and a file of which nothing fits is refused."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from lazyengine.checkpoint import (
    CheckpointError,
    CheckpointLoader,
    LoadFrom,
    load_checkpoint,
    save_checkpoint,
    state_dict_of,
)
from lazyengine.errors import UsageError
from lazyengine.model import BaseModel, PretrainedInit
from lazyengine.runner import Runner

from ..runner.toy import toy_runner


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Inner(BaseModel):
    """The weights under `net`, loaded when it is initialised."""

    def __init__(self, init_cfg=None) -> None:
        super().__init__(init_cfg)
        self.net = net()

    def forward(self, x, mode="tensor"):
        return self.net(x)


def through_load_checkpoint(model, path, **options):
    load_checkpoint(model, path, logger="silent", **options)


def through_load_from(model, path, **options):
    LoadFrom(path, **options).load_into(model, logging.getLogger("door"))


def through_pretrained_init(model, path, **options):
    PretrainedInit(path, **options)(model)


def through_the_runner(model, path, **options):
    runner = Runner(model, load_from={"path": path, **options}, device="cpu")
    runner.load_from.load_into(model, logging.getLogger("door"))


DOORS = [through_load_checkpoint, through_load_from, through_pretrained_init, through_the_runner]


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def renamed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


WRAPPED = {
    "bare": lambda state: state,
    "compiled": lambda state: {"state_dict": renamed(state, "_orig_mod.")},
    "DDP": lambda state: {"state_dict": renamed(state, "module.")},
    "DDP of a compiled model": lambda state: renamed(state, "module._orig_mod."),
    "compiled DDP": lambda state: renamed(state, "_orig_mod.module."),
    "Lightning": lambda state: {"state_dict": renamed(state, "model."), "pytorch-lightning_version": "2.4"},
    "Lightning, compiled": lambda state: {"state_dict": renamed(state, "model._orig_mod."), "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 1},
    "timm's average": lambda state: {"state_dict_ema": state, "arch": "net"},
    "DeepSpeed": lambda state: {"module": state, "dp_world_size": 1},
    "detectron2": lambda state: {"model": state, "__author__": "zoo", "matching_heuristics": True},
    "two containers": lambda state: {"model": {"state_dict": renamed(state, "module.")}},
    "AveragedModel": lambda state: {"n_averaged": torch.tensor(3), **renamed(state, "module.")},
    "a compiled part": lambda state: {k.replace("0.", "0._orig_mod.", 1): v for k, v in state.items()},
    "FSDP": lambda state: renamed(state, "_fsdp_wrapped_module."),
    "activation checkpointing": lambda state: {
        k.replace("2.", "2._checkpoint_wrapped_module.", 1): v for k, v in state.items()
    },
}


@pytest.mark.seam(12, "compiled or DDP", "Lightning", "FSDP", "another container", "PretrainedInit", "load_from")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", WRAPPED)
def test_what_wraps_the_weights_is_looked_through(tmp_path, door, kind):
    source, model = net(), net()
    torch.save(WRAPPED[kind](source.state_dict()), tmp_path / "c.pth")
    door(model, str(tmp_path / "c.pth"), strict=kind != "AveragedModel")
    assert_same(model, source)


@pytest.mark.seam(12, "a model with a part called module")
def test_a_prefix_is_stripped_only_where_the_key_fits_better_without(tmp_path):
    """This model has parts that are called `module` and `model` itself, beside ones of the same names without."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.model, self.lin = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    source = Named()
    for prefix in ("", "module.", "model.", "_orig_mod.module."):
        model = Named()
        torch.save(renamed(source.state_dict(), prefix), tmp_path / "c.pth")
        load_checkpoint(model, str(tmp_path / "c.pth"), strict=True, logger="silent")
        assert_same(model, source)


def test_a_key_that_fits_with_and_without_is_taken_once(tmp_path):
    source, model = net(), net()
    other = {f"model.{k}": torch.full_like(v, 9) for k, v in source.state_dict().items()}
    torch.save({**other, **source.state_dict()}, tmp_path / "c.pth")
    load_checkpoint(model, str(tmp_path / "c.pth"), logger="silent")
    assert_same(model, source)


NOTHING_FITS = {
    "other names": lambda state: {f"encoder.{k}": v for k, v in state.items()},
    "other shapes": lambda state: {k: v.new_zeros((*v.shape, 2)) for k, v in state.items()},
    "an optimizer": lambda state: {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "counters alone": lambda state: {k: v for k, v in state.items() if k.endswith("num_batches_tracked")},
    "an empty state dict": lambda state: {"state_dict": {}},
    "another container": lambda state: {"student": {"weights of": state}},
}


@pytest.mark.seam(12, "nothing fits", "other shapes", "an optimizer's file")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", NOTHING_FITS)
def test_a_file_of_which_nothing_fits_is_refused(tmp_path, door, kind):
    source, model = net(), net()
    before = copy.deepcopy(model)
    torch.save(NOTHING_FITS[kind](source.state_dict()), tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"(?s)c\.pth.*0\.weight") as caught:
        door(model, str(tmp_path / "c.pth"))
    assert isinstance(caught.value, UsageError)
    for name in ("0.weight", "2.weight"):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name))


def test_near_keys_of_both_sides_are_named(tmp_path):
    torch.save({"layers.0.weights": torch.zeros(4, 3), "layers.0.biases": torch.zeros(4)}, tmp_path / "c.pth")
    model = nn.ModuleDict({"layer": nn.Sequential(nn.Linear(3, 4))})
    with pytest.raises(CheckpointError, match=r"'layers\.0\.weights' .* 'layer\.0\.weight'"):
        load_checkpoint(model, str(tmp_path / "c.pth"), logger="silent")


@pytest.mark.seam(12, "nothing fits", "an evaluation")
@pytest.mark.parametrize("mode", ["train", "val"])
def test_the_runner_refuses_weights_of_another_model(tmp_path, mode):
    torch.save({"state_dict": net().state_dict()}, tmp_path / "c.pth")
    runner = toy_runner(str(tmp_path / "run"))
    runner.set_checkpoint(str(tmp_path / "c.pth"))
    with pytest.raises(CheckpointError, match=r"no tensor of .*c\.pth fits"):
        getattr(runner, mode)()


def test_a_part_that_fits_goes_on_and_the_rest_is_logged(tmp_path, caplog):
    source, model = net(), net()
    state = {**source.state_dict(), "2.weight": torch.zeros(5, 4), "extra": torch.zeros(1)}
    torch.save({"state_dict": renamed(state, "module.")}, tmp_path / "c.pth")
    with caplog.at_level(logging.WARNING):
        LoadFrom(str(tmp_path / "c.pth")).load_into(model, logging.getLogger("door"))
    assert torch.equal(model[0].weight, source[0].weight)
    assert "2.weight: (5, 4) in the checkpoint, (2, 4) in the model" in caplog.text
    assert "1 unknown to the model" in caplog.text
    with pytest.raises(RuntimeError, match=r"2\.weight"):
        LoadFrom(str(tmp_path / "c.pth"), strict=True).load_into(model, logging.getLogger("door"))


@pytest.mark.seam(12, "prefix", "revise_keys")
def test_prefix_and_revised_keys_work_below_a_wrapper(tmp_path):
    source = Inner()
    for state in (renamed(source.state_dict(), "module."), {"model": renamed(source.state_dict(), "_orig_mod.")}):
        torch.save(state, tmp_path / "c.pth")
        for door in DOORS:
            model = net()
            door(model, str(tmp_path / "c.pth"), prefix="net", strict=True)
            assert_same(model, source.net)
            inner = Inner()
            door(inner, str(tmp_path / "c.pth"), revise_keys=[(r"net\.", "xyz."), (r"xyz\.", "net.")], strict=True)
            assert_same(inner, source)


@pytest.mark.seam(12, "a scheme")
def test_registered_schemes_are_known_to_every_door(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    source = net()
    CheckpointLoader.register_scheme("zoo://", lambda filename, map_location: {"model": source.state_dict()})
    for door in DOORS:
        model = net()
        door(model, "zoo://net", strict=True)
        assert_same(model, source)


def test_versions_of_modules_follow_their_keys(tmp_path):
    """BatchNorm of version 1 has no counter, and says so by its version."""
    state = net().state_dict()
    wrapped = torch.nn.Sequential()
    wrapped.module = net()
    state = wrapped.state_dict()
    assert state._metadata["module.1"] == {"version": 2}
    save_checkpoint({"state_dict": state}, tmp_path / "c.pth")
    load_checkpoint(net(), str(tmp_path / "c.pth"), strict=True, logger="silent")


def test_objects_of_other_classes_are_left_out_at_every_door(tmp_path, caplog):
    torch.save({"state_dict": net().state_dict(), "hyper_parameters": logging.Formatter()}, tmp_path / "c.pth")
    for door in DOORS:
        with caplog.at_level(logging.WARNING):
            door(net(), str(tmp_path / "c.pth"), strict=True)
    assert "['hyper_parameters']" in caplog.text


def test_the_state_dict_of_the_usual_containers():
    state = {"w": torch.zeros(1)}
    for checkpoint in ({"model": state}, {"state_dict": state, "ema_state_dict": {}}, {"model_ema": state}, state):
        assert state_dict_of(checkpoint) == state


def test_a_model_without_tensors_takes_any_file(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1)}}, tmp_path / "c.pth")
    load_checkpoint(nn.Identity(), str(tmp_path / "c.pth"), logger="silent")


@pytest.mark.parametrize("path", ["missing.pth", "damaged.pth", "folder", "empty.pth", "page.pth"])
def test_a_file_that_the_user_named_wrongly_is_a_usage_error(tmp_path, path):
    save_checkpoint({"state_dict": net().state_dict()}, tmp_path / "damaged.pth")
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "damaged.pth").read_bytes()[:-50])
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pth").touch()
    (tmp_path / "page.pth").write_text("<html>")
    for door in DOORS:
        with pytest.raises(UsageError):
            door(net(), str(tmp_path / path))
