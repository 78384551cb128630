"""The model of a run, loaded for inference and exported, with its outputs compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from lazyengine.checkpoint import read_checkpoint
from lazyengine.cli import export, train
from lazyengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from lazyengine.runs import load

DIGITS = str(Path(__file__).resolve().parents[2] / "projects/digits/config.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training of the digits."""
    folder = tmp_path_factory.mktemp("run")
    short = ["--limit", "train=10", "val=1", "model.width=4", "train_loop.max_epochs=2"]
    assert train.main([DIGITS, "--work-dir", str(folder), *short]) == 0
    return folder


def test_a_loaded_model_is_that_of_the_checkpoint_in_eval_mode(run, monkeypatch):
    monkeypatch.setattr(AdamW, "__init__", None)  # nothing of the training is built
    loaded = load(run)
    model, config, meta, checkpoint = loaded
    assert not model.training
    assert (config.model.width, config.val_loop.limit) == (4, 1)
    assert meta["epoch"] in (1, 2)
    assert Path(checkpoint).name == f"best_accuracy_top1_epoch_{meta['epoch']}.pth"
    for key, value in read_checkpoint(checkpoint)["state_dict"].items():
        assert torch.equal(value, model.state_dict()[key])
    scores = model(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))
    assert scores.shape == (1, 10)


def test_other_checkpoints_can_be_named(run):
    assert load(run, "latest").meta["epoch"] == 2
    assert load(run, "epoch_1.pth").meta["epoch"] == 1
    assert load(run, str(run / "epoch_1.pth")).meta["epoch"] == 1


def test_loading_writes_nothing_and_needs_no_training_data(run, monkeypatch):
    before = sorted(run.rglob("*"))
    from projects.digits.digits import Digits

    monkeypatch.setattr(Digits, "__init__", None)
    load(run)
    assert sorted(run.rglob("*")) == before


def test_what_is_no_run_has_no_model(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no config\.py"):
        load(tmp_path)
    shutil.copy(run / "config.py", tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no best checkpoint in"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "torch-export"])
def test_an_export_gives_the_same_outputs(run, tmp_path, capsys, kind):
    pytest.importorskip("safetensors")
    name = {"safetensors": "model.safetensors", "torch-export": "model.pt2"}[kind]
    assert export.main([str(run), "--format", kind, "--output", str(tmp_path / name)]) == 0
    out = capsys.readouterr().out
    assert f"written: {tmp_path / name}" in out
    assert "outputs equal" in out
    if kind == "torch-export":
        program = torch.export.load(tmp_path / name).module()
        image, label = torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64)
        torch.testing.assert_close(program(image, label), load(run).model(image, label))


def test_an_export_that_gives_something_else_is_found(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("safetensors")

    def damaged(state, path):
        write({name: value + 1 if value.is_floating_point() else value for name, value in state.items()}, path)

    write = export.export_safetensors
    monkeypatch.setattr(export, "export_safetensors", damaged)
    assert export.main([str(run), "--output", str(tmp_path / "model.safetensors")]) == 1
    assert "outputs DIFFER" in capsys.readouterr().out


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_compared(value):
    """A NaN in the second output was called equal, and a mask of infinities different."""
    inputs = {"x": torch.arange(6.0).reshape(2, 3)}
    masked = Function(lambda x: (x, x.masked_fill(x > 3, value)))
    assert export.largest_difference(masked, masked, inputs) == 0.0
    for function in (lambda x: (x, x), lambda x: (x, x.masked_fill(x > 2, value)), lambda x: (x * value, x)):
        assert export.largest_difference(masked, Function(function), inputs) == torch.inf
        assert export.largest_difference(Function(function), masked, inputs) == torch.inf
    near = Function(lambda x: (x, x.masked_fill(x > 3, value) + 0.3))
    assert export.largest_difference(masked, near, inputs) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("preprocessor", "said"),
    [(None, ""), (BaseDataPreprocessor(), ""), (ImgDataPreprocessor(mean=[0.5], std=[2.0]), "ImgDataPreprocessor")],
)
def test_it_says_what_the_inputs_have_gone_through(run, tmp_path, capsys, monkeypatch, preprocessor, said):
    """A program that was exported is called without the preprocessor, which may normalize."""
    pytest.importorskip("safetensors")
    loaded = load(run)
    loaded.model.data_preprocessor = preprocessor
    monkeypatch.setattr(export, "load", lambda *unused: loaded)
    monkeypatch.setattr(export, "example_inputs", lambda *unused: {"image": torch.rand(3, 1, 8, 8)})
    monkeypatch.setitem(export._WRITERS, "safetensors", lambda *unused: export.Tensors(loaded.model, ["image"]))
    (tmp_path / "model.safetensors").touch()
    loaded.model.forward = lambda image: image
    assert export.main([str(run), "--output", str(tmp_path / "model.safetensors")]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("inputs"))
    assert line == "inputs: image (3, 1, 8, 8)" + (f", as {said} returns them" if said else "")


@pytest.mark.parametrize("number", [1, 2])
def test_a_program_is_for_any_number_whatever_the_validation_has(run, tmp_path, capsys, monkeypatch, number):
    loaded = load(run)
    loaded.config.val_loop.dataloader.batch_size = number
    monkeypatch.setattr(export, "load", lambda *unused: loaded)
    path = tmp_path / "model.pt2"
    assert export.main([str(run), "--format", "torch-export", "--output", str(path)]) == 0
    assert "image (3, 1, 8, 8)" in capsys.readouterr().out
    image, label = torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64)
    torch.testing.assert_close(torch.export.load(path).module()(image, label), loaded.model(image, label))


@pytest.mark.parametrize(
    "forward",
    [
        lambda image: image * 2,
        lambda **fields: {"sum": fields["image"].sum((1, 2, 3)) + fields["label"]},
        lambda image, label=None, mode="loss": image.sum((1, 2, 3)) + (label if mode == "tensor" else 0),
    ],
    ids=["one field", "any field", "two fields and a mode"],
)
def test_a_program_is_called_with_the_fields_in_order(run, tmp_path, capsys, monkeypatch, forward):
    loaded = load(run)
    loaded.model.forward = forward
    monkeypatch.setattr(export, "load", lambda *unused: loaded)
    path = tmp_path / "model.pt2"
    assert export.main([str(run), "--format", "torch-export", "--output", str(path)]) == 0
    assert "outputs equal" in capsys.readouterr().out
    program = torch.export.load(path).module()
    names = export.example_inputs(loaded, None)
    values = {"image": torch.rand(5, 1, 8, 8), "label": torch.ones(5, dtype=torch.int64)}
    fields = [values[name] for name in names]
    torch.testing.assert_close(program(*fields), export.Tensors(loaded.model, list(names))(*fields))
    with pytest.raises((AssertionError, RuntimeError), match="8"):
        program(torch.rand(5, 1, 9, 9), *fields[1:])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--fields", "imagee"], "--fields imagee: the model's inputs of a batch are image, label"),
        (["--fields", "image"], "--fields: the model's forward needs label too: give it a default there"),
        (["--format", "torch-export", "--output", "model.onnx"], "is a file that ends in .pt2"),
        (["--checkpoint", "epoch_7.pth"], "epoch_7.pth"),
    ],
)
def test_mistakes(run, capsys, options, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export.main([str(run), *options]) == 2
    assert text in capsys.readouterr().err


def test_it_says_what_to_install(run, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    assert export.main([str(run)]) == 2
    assert "pip install 'lazyengine[export]'" in capsys.readouterr().err


def test_a_folder_for_the_hub_has_weights_experiment_and_a_page(run, tmp_path, capsys):
    pytest.importorskip("safetensors")
    assert export.main([str(run), "--format", "hub-folder", "--output", str(tmp_path / "hub")]) == 0
    assert "outputs equal" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert names == {"model.safetensors", "config.py", "config.json", "README.md"}
    assert "# DigitNet" in (tmp_path / "hub" / "README.md").read_text()


def test_a_model_of_transformers_is_saved_in_its_way(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    config = str(Path(DIGITS).parents[1] / "finetune/pretrain_config.py")
    short = ["--limit", "train=2", "val=1", "vit.num_hidden_layers=1", "train_loop.max_epochs=1"]
    assert train.main([config, "--work-dir", str(tmp_path / "run"), *short]) == 0
    arguments = ["--checkpoint", "latest", "--format", "hub-folder", "--output", str(tmp_path / "hub")]
    assert export.main([str(tmp_path / "run"), *arguments]) == 0
    assert "outputs equal" in capsys.readouterr().out
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "hub")
    assert model.config.num_hidden_layers == 1


def test_onnx_has_the_same_outputs(run, tmp_path, capsys):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    path = tmp_path / "model.onnx"
    assert export.main([str(run), "--format", "onnx", "--output", str(path)]) == 0
    assert "outputs equal" in capsys.readouterr().out


def test_onnx_without_its_packages_says_which(run, monkeypatch, capsys):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert export.main([str(run), "--format", "onnx"]) == 2
    assert "pip install 'lazyengine[onnx]'" in capsys.readouterr().err


def test_a_model_that_draws_numbers_draws_the_same_in_the_comparison():
    class Drawn(torch.nn.Module):
        def forward(self, x):
            return x + torch.randn(3)

    state = torch.get_rng_state()
    assert export.largest_difference(Drawn(), Drawn(), {"x": torch.zeros(3)}) == 0.0
    assert torch.equal(torch.get_rng_state(), state)
