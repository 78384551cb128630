"""Write the model of a run for use without its training: its weights, or its computation. What was written is read
again and compared: it must give the same for a batch of the validation data.

examples:
  %(prog)s work_dirs/digits                                      work_dirs/digits/export/model.safetensors
  %(prog)s work_dirs/digits --format torch-export --fields image   model.pt2, for torch.export.load
  %(prog)s work_dirs/digits --format onnx --fields image           model.onnx (extra onnx)
  %(prog)s work_dirs/digits --format hub-folder                    a folder to upload: weights, config, README

exit codes: 0 written, and the outputs are equal; 1 the outputs differ; 2 a mistake in the command line.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import itertools
import os
import shutil
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ConfigError, arguments_of, instantiate
from ..errors import UsageValueError
from ..model import BaseDataPreprocessor, move_data
from ..nesting import iter_leaves
from ..runner.loops import loaders_of
from ..runs import Loaded, load
from ..text import listed
from .checkpoint import export_safetensors
from .command import Arguments, CommandParser, command

_FILES = {"safetensors": "model.safetensors", "torch-export": "model.pt2", "onnx": "model.onnx", "hub-folder": "hub"}


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", metavar="RUN", help="the run folder")
    parser.add_argument("--format", choices=_FILES, default="safetensors", help="default: safetensors")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help="best (default), latest or a path")
    parser.add_argument("--fields", nargs="+", metavar="NAME", help="the inputs (default: all of a batch, labels too)")
    parser.add_argument("--output", metavar="FILE", help="where to write (default: in RUN/export)")
    parser.add_argument("--tolerance", type=float, default=1e-5, metavar="T", help="relative, of outputs (1e-5)")


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Write the model of a run, read it again and compare."""
    loaded = load(args.folder, args.checkpoint)
    path = args.output or os.path.join(args.folder, "export", _FILES[args.format])
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    inputs = example_inputs(loaded, args.fields)
    again = _WRITERS[args.format](loaded, inputs, path)
    difference = largest_difference(Tensors(loaded.model, list(inputs)), again, inputs)
    is_equal = difference <= args.tolerance
    files = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
    lines = [
        f"written: {path}, {sum(map(os.path.getsize, files)):,} bytes, from {loaded.checkpoint}",
        f"inputs: {listed(f'{name} {tuple(value.shape)}' for name, value in inputs.items())}{_prepared(loaded)}",
        f"outputs {'equal' if is_equal else 'DIFFER'}: largest relative difference {difference:.1e}",
    ]
    return "\n".join(lines), 0 if is_equal else 1


def _prepared(loaded: Loaded) -> str:
    """Return what the inputs have gone through that is not part of what was written; empty where that changes none."""
    kind = type(getattr(loaded.model, "data_preprocessor", None))
    return "" if kind in (type(None), BaseDataPreprocessor) else f", as {kind.__name__} returns them"


class Tensors(nn.Module):
    """A model in its mode ``"tensor"``, where it has modes, called with fields of a batch, in the order of `names`."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)
        self.options = {"mode": "tensor"} if "mode" in inspect.signature(model.forward).parameters else {}
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD  # of `*fields` torch 2.9 makes a program that cannot be run
        call: Any = functools.partial(self._call)
        call.__signature__ = inspect.Signature([inspect.Parameter(f"fields_{i}", kind) for i in range(len(names))])
        self.forward = call

    def _call(self, *fields: Tensor) -> Any:
        return self.model(**dict(zip(self.names, fields)), **self.options)


def example_inputs(loaded: Loaded, fields: Sequence[str] | None) -> dict[str, Tensor]:
    """Return three samples of the validation data, as the model's forward gets them; no training data is built.

    Raises:
        UsageValueError: There is no validation, its batches are no dicts of tensors, or lack one of the `fields`.
    """
    runner = arguments_of(loaded.config.runner)
    loop = runner.get("val_loop") or runner.get("test_loop")
    if loop is None:
        raise UsageValueError("the config has no val_loop and no test_loop, of which a batch could be taken.")
    loader = next(iter(loaders_of(instantiate(arguments_of(loop)["dataloader"])).values()))
    batch = next(iter(loader))
    prepare = getattr(loaded.model, "data_preprocessor", None)
    batch = move_data(batch, torch.device("cpu")) if prepare is None else prepare(batch, False)
    if not isinstance(batch, dict):
        raise UsageValueError(f"a batch is a {type(batch).__name__}; expected a dict of tensors.")
    names = inspect.signature(loaded.model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in names.values())  # as LossAdapter does
    accepted = (name for name, value in batch.items() if isinstance(value, Tensor) and (takes_any or name in names))
    found = {name: torch.cat([batch[name][:3]] * 3)[:3] for name in accepted}  # also of a batch with fewer
    if missing := [name for name in fields or () if name not in found]:
        raise UsageValueError(f"--fields {' '.join(missing)}: the model's inputs of a batch are {listed(found)}.")
    needed = [
        name for name, p in names.items() if p.default is p.empty and name in found and name not in (fields or found)
    ]
    if needed:
        raise UsageValueError(f"--fields: the model's forward needs {listed(needed)} too: give it a default there.")
    return {name: found[name] for name in fields or found}


def largest_difference(model: nn.Module, other: nn.Module, inputs: dict[str, Tensor]) -> float:
    """Return the largest difference of two models' outputs, over the largest value of the output it is in.

    A model that draws random numbers, as a generator of a GAN does, draws the same ones both times. Infinity and NaN
    are equal to themselves, and infinitely far from all else.
    """
    outputs = []
    for each in (model, other):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs.append([leaf for _, leaf in iter_leaves(each(*inputs.values()))])
    pairs = [(a, b) for a, b in itertools.zip_longest(*outputs) if isinstance(a, Tensor)]
    if any(not isinstance(b, Tensor) or a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max((_difference(a.double(), b.double()) for a, b in pairs if a.numel()), default=0.0)


def _difference(a: Tensor, b: Tensor) -> float:
    largest = a.nan_to_num(0.0, 0.0, 0.0).abs().max().clamp(min=1e-12)
    gaps = ((a - b).abs() / largest).nan_to_num(float("inf"), float("inf"))
    return gaps.masked_fill((a == b) | (a.isnan() & b.isnan()), 0.0).max().item()


def _write_weights(loaded: Loaded, inputs: dict[str, Tensor], path: str) -> nn.Module:
    export_safetensors(loaded.model.state_dict(), path)
    from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]

    again = instantiate(arguments_of(loaded.config.runner)["model"])
    again.load_state_dict(load_file(path), strict=True)
    return Tensors(again.eval(), list(inputs))


def _write_program(loaded: Loaded, inputs: dict[str, Tensor], path: str) -> nn.Module:
    if not path.endswith(".pt2"):
        raise ConfigError(f"--output {path}: a program of torch.export is a file that ends in .pt2")
    torch.export.save(torch.export.export(Tensors(loaded.model, list(inputs)), **_any_number(inputs)), path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.9 about what it reads itself
        return torch.export.load(path).module()


def _any_number(inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of an exporter for a batch of any number: two samples, as the comparison has three."""
    shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    return {"args": tuple(value[:2] for value in inputs.values()), "dynamic_shapes": shapes}


class _OnnxProgram(nn.Module):
    """A program of ONNX, run by onnxruntime."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        import onnxruntime  # pyright: ignore[reportMissingImports]

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(self, *fields: Tensor) -> list[Tensor]:
        """Return the outputs, in the order of the program."""
        used = {each.name for each in self.session.get_inputs()}  # what computes nothing is left out
        given = {name: field.numpy() for name, field in zip(self.names, fields) if name in used}
        outputs = self.session.run(None, given)
        return [torch.from_numpy(output) for output in outputs]


def _write_onnx(loaded: Loaded, inputs: dict[str, Tensor], path: str) -> nn.Module:
    lacks = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lacks:
        raise ConfigError(f"--format onnx needs {listed(lacks)}: pip install 'lazyengine[onnx]'")
    options: Any = {"input_names": list(inputs), "external_data": False, "verbose": False, **_any_number(inputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(Tensors(loaded.model, list(inputs)), f=path, dynamo=True, **options)
    return _OnnxProgram(path, list(inputs))


def _write_folder(loaded: Loaded, inputs: dict[str, Tensor], path: str) -> nn.Module:
    """Write weights, the experiment and a page about them; a model of transformers in the way of that library."""
    os.makedirs(path, exist_ok=True)
    run = os.path.dirname(loaded.checkpoint)
    for name in ("config.py", "config.json"):  # a model of transformers writes a config.json of its own over it
        if os.path.isfile(os.path.join(run, name)):
            shutil.copy(os.path.join(run, name), os.path.join(path, name))
    owner: Any = next((m for m in (loaded.model, getattr(loaded.model, "network", None)) if _is_pretrained(m)), None)
    if owner is None:
        again = _write_weights(loaded, inputs, os.path.join(path, "model.safetensors"))
        how = "`lazyengine.config.instantiate` of the config's `runner.model`, then `safetensors.torch.load_file`"
    else:
        owner.save_pretrained(path)
        model = copy.deepcopy(loaded.model)
        read: Any = type(owner).from_pretrained(path)
        if owner is loaded.model:
            model = read
        else:
            model.network = read
        again = Tensors(model.eval(), list(inputs))
        how = f"`{type(owner).__module__.partition('.')[0]}.{type(owner).__name__}.from_pretrained`"
    rows = [
        f"- {name}: {loaded.meta[name]}" for name in ("epoch", "iter", "time", "torch_version") if name in loaded.meta
    ]
    page = ["---", "library_name: pytorch", "---", f"# {type(loaded.model).__name__}", "", *rows]
    page += [
        "",
        f"Inputs: {', '.join(inputs)}{_prepared(loaded)}. Loaded by {how}. `config.py` is the experiment that made it.",
        "",
    ]
    with open(os.path.join(path, "README.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(page))
    return again


def _is_pretrained(model: Any) -> bool:
    return callable(getattr(model, "save_pretrained", None)) and callable(getattr(type(model), "from_pretrained", None))


_WRITERS = {
    "safetensors": _write_weights,
    "torch-export": _write_program,
    "onnx": _write_onnx,
    "hub-folder": _write_folder,
}
