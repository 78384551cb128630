"""Look at, check, convert and average checkpoints. Nothing in them is run. FILE is a path or a URL; a run folder stands
for the checkpoint that its last_checkpoint names.

examples:
  %(prog)s show work_dirs/run/epoch_3.pth                   what is in it, and its SHA-256
  %(prog)s show work_dirs/run --depth 4                     deeper
  %(prog)s verify work_dirs/run/*.pth                       compare every record with its checksum
  %(prog)s export work_dirs/run model.safetensors           the model alone; also to .pth
  %(prog)s export best.pth backbone.pth --prefix backbone   a part of it
  %(prog)s export run/epoch_3.pth ema.pth --key ema_state_dict
  %(prog)s merge run/epoch_3.pth whole.pth                   one file of a checkpoint of FSDP2 and its shards
  %(prog)s average run/epoch_8.pth run/epoch_9.pth -o soup.pth
  %(prog)s export run/epoch_3.pth whole.pth --base pretrained.pth   of Runner(save='trained')

exit codes: 0 done; 1 a checkpoint is damaged or cannot be used; 2 a mistake in the command line.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..checkpoint import (
    CheckpointError,
    UsageCheckpointError,
    complete,
    find_latest_checkpoint,
    left_out_of,
    read_checkpoint,
    revise_state_dict,
    save_checkpoint,
    state_dict_of,
    verify_checkpoint,
)
from ..errors import UsageValueError
from ..fileio import atomic_write, get_local_path
from ..fileio.remote import sha256_of
from ..nesting import iter_leaves
from ..text import listed, printable, short
from .command import Arguments, CommandParser, command, say

_BASE = "the frozen weights that a checkpoint of Runner(save='trained') leaves out"


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="list what a checkpoint holds")
    show.add_argument("file")
    show.add_argument("--depth", type=int, default=2, metavar="N", help="levels of nesting to list (default: 2)")
    show.add_argument("--trusted", action="store_true", help="load objects of any class; this can run code in FILE")
    verify = commands.add_parser("verify", help="compare every record of checkpoints with its checksum")
    verify.add_argument("files", nargs="+", metavar="file")
    verify.add_argument("--json", action="store_true", help="print the results as JSON, for other programs")
    export = commands.add_parser("export", help="write the model alone, as .safetensors or .pth")
    export.add_argument("file")
    export.add_argument("output")
    export.add_argument("--key", metavar="NAME", help="entry with the model's tensors (default: state_dict, if any)")
    export.add_argument("--prefix", metavar="P", help="only the keys under it, without it")
    export.add_argument("--base", metavar="FILE", help=_BASE)
    merge = commands.add_parser("merge", help="write a checkpoint and its folder of shards (FSDP2) as one file")
    merge.add_argument("file")
    merge.add_argument("output")
    average = commands.add_parser("average", help="average the models of several checkpoints")
    average.add_argument("files", nargs="+", metavar="file")
    average.add_argument("-o", "--output", required=True)
    average.add_argument("--base", metavar="FILE", help=_BASE)


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Do what the first word says."""
    try:
        return _COMMANDS[args.command](args)
    except (CheckpointError, OSError, ValueError) as error:
        say(f"error: {error}")
        return 1


def _resolve(path: str) -> str:
    if not os.path.isdir(path):
        return path
    latest = find_latest_checkpoint(path)
    if latest is None:
        raise CheckpointError(f"the folder {path} has no last_checkpoint; name the file in it")
    return latest


def _show(args: Arguments) -> str:
    path = _resolve(args.file)
    checkpoint = read_checkpoint(path, trusted=args.trusted, skip_objects=True)
    local = get_local_path(path)
    tensors = _tensors(checkpoint)
    lines = [
        f"{path}: {os.path.getsize(local):,} bytes, sha256 {sha256_of(local)}",
        f"{len(tensors):,} tensors, {sum(t.numel() for t in tensors):,} elements",
        *_tree(checkpoint, args.depth, ""),
    ]
    return "\n".join(lines)


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for _, leaf in iter_leaves(value) if isinstance(leaf, torch.Tensor)]


def _tree(value: Any, depth: int, indent: str) -> list[str]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    lines = []
    for key, item in items:
        is_nested = isinstance(item, (Mapping, list, tuple)) and len(item) > 0
        is_open = is_nested and depth > 1 and (isinstance(item, Mapping) or len(item) <= 20)
        lines.append(f"{indent}{printable(key)}: {_summary(item)}")
        if is_open:
            lines += _tree(item, depth - 1, indent + "  ")
    return lines


def _summary(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {tuple(value.shape)}" + (f" = {value.item()}" if value.dim() == 0 else "")
    if isinstance(value, (Mapping, list, tuple, set)) and len(value) > 0:
        tensors = _tensors(value)
        held = f", {sum(t.nbytes for t in tensors):,} bytes in {len(tensors)} tensors" if tensors else ""
        return f"{type(value).__name__} of {len(value)}{held}"
    return short(value, 100)


def _verify(args: Arguments) -> int:
    faults: dict[str, str | None] = {}
    for path in args.files:
        faults[path] = None
        try:
            verify_checkpoint(_resolve(path))
        except (CheckpointError, OSError) as error:
            faults[path] = str(error)
        if not args.json:
            print(f"ok       {path}" if faults[path] is None else f"damaged  {path}: {faults[path]}")
    if args.json:
        print(json.dumps([{"file": path, "ok": fault is None, "fault": fault} for path, fault in faults.items()]))
    return 1 if any(faults.values()) else 0


def _export(args: Arguments) -> int:
    path = _resolve(args.file)
    checkpoint = read_checkpoint(path, skip_objects=True)
    _make_whole(checkpoint, path, args.base, args.prefix)
    if args.key is not None:
        if not isinstance(checkpoint, Mapping) or args.key not in checkpoint:
            entries = list(checkpoint) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
            raise CheckpointError(f"{path} has no entry {args.key!r}; it has {entries}")
        checkpoint = {"state_dict": checkpoint[args.key]}
    state = revise_state_dict(state_dict_of(checkpoint, path), prefix=args.prefix)
    _write_model(state, args.output)
    return 0


def _merge(args: Arguments) -> int:
    save_checkpoint(read_checkpoint(_resolve(args.file)), args.output)
    print(f"{args.output}: {os.path.getsize(args.output):,} bytes, sha256 {sha256_of(args.output)}")
    return 0


def _average(args: Arguments) -> int:
    _write_model(average_checkpoints([_resolve(path) for path in args.files], args.base), args.output)
    return 0


def _make_whole(checkpoint: Any, path: str, base: str | None, prefix: str | None = None) -> None:
    """Put into a checkpoint the frozen weights that it leaves out, those of a file."""
    weights = {} if base is None else state_dict_of(read_checkpoint(_resolve(base), skip_objects=True), base)
    under = "" if prefix is None else f"{prefix.rstrip('.')}."
    if missing := [n for n in left_out_of(checkpoint) if n.startswith(under) and n not in weights]:
        advice = f"so does {base}" if base else "give --base FILE, with the load_from of the run or a whole checkpoint"
        raise UsageCheckpointError(
            f"{path} leaves out the frozen weights {listed(missing, 3)}, as Runner(save='trained') does; {advice}"
        )
    complete(checkpoint, weights)


def _write_model(state: Mapping[str, Any], output: str) -> None:
    left_out = []
    if output.endswith(".safetensors"):
        left_out = export_safetensors(state, output)
    else:
        save_checkpoint({"state_dict": state}, output)
    num_tensors, num_bytes = len(state) - len(left_out), os.path.getsize(output)
    print(f"{output}: {num_tensors} tensors, {num_bytes:,} bytes, sha256 {sha256_of(output)}")
    if left_out:
        print(f"left out, since they are no tensors: {', '.join(left_out[:10])}")


def export_safetensors(state_dict: Mapping[str, Any], path: str | os.PathLike[str]) -> list[str]:
    """Write the tensors of a state dict as a safetensors file.

    Tensors that share memory are written once each, since the format has no sharing.

    Args:
        state_dict: Tensors by name; entries that are no tensors (``_extra_state``) are left out.
        path: The file; written atomically.

    Returns:
        The names left out.

    Raises:
        CheckpointError: There is no tensor, or safetensors is not installed.
    """
    try:
        from safetensors.torch import save  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageCheckpointError("safetensors is not installed: pip install 'lazyengine[export]'") from error
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state_dict.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise UsageCheckpointError(f"nothing to export: the state dict has no tensors, only {list(state_dict)[:10]}")
    with atomic_write(path) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    return [key for key in state_dict if key not in tensors]


def average_checkpoints(paths: Sequence[str | os.PathLike[str]], base: str | None = None) -> OrderedDict[str, Any]:
    """Average the models of several checkpoints ("model soup", or the last epochs of one run).

    Floating-point and complex tensors are summed in float64 and divided; all others are taken from the last checkpoint.
    Only one checkpoint is in memory beside the sums. Statistics of batch normalization are averaged too, which is not
    what the averaged network would measure: run some training batches through it if it has such layers.

    Args:
        paths: At least one checkpoint, each with the same keys and shapes.
        base: Where the frozen weights are that checkpoints of ``Runner(save="trained")`` leave out.

    Returns:
        The averaged state dict, with the dtypes of the last checkpoint.

    Raises:
        CheckpointError: Keys or shapes differ, or frozen weights are left out; the first ones and the file are named.
        ValueError: ``paths`` is empty.
    """
    if not paths:
        raise UsageValueError("average_checkpoints needs at least one checkpoint")
    sums: dict[str, torch.Tensor] = {}
    last: Mapping[str, Any] = {}
    for number, path in enumerate(paths):
        checkpoint = read_checkpoint(path, skip_objects=True)
        _make_whole(checkpoint, os.fspath(path), base)
        state = state_dict_of(checkpoint, os.fspath(path))
        if number:
            _require_same(last, state, os.fspath(paths[0]), os.fspath(path))
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
                wide = value.to(torch.complex128 if value.is_complex() else torch.float64)
                sums[key] = sums[key].add_(wide) if number else wide.clone()
        last = state
    result: OrderedDict[str, Any] = OrderedDict(last)
    for key, total in sums.items():
        result[key] = (total / len(paths)).to(last[key].dtype)
    result._metadata = getattr(last, "_metadata", OrderedDict())  # pyright: ignore[reportAttributeAccessIssue]
    return result


def _require_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], first: str, path: str) -> None:
    keys = sorted(set(ours) ^ set(theirs))
    shapes = [
        f"{key}: {tuple(ours[key].shape)} and {tuple(theirs[key].shape)}"
        for key in ours
        if key in theirs and getattr(ours[key], "shape", None) != getattr(theirs[key], "shape", None)
    ]
    if keys or shapes:
        what = [f"only one has {keys[:10]}"] if keys else []
        what += [f"shapes differ: {'; '.join(shapes[:10])}"] if shapes else []
        raise UsageCheckpointError(f"cannot average {first} and {path}: {'; '.join(what)}")


_COMMANDS = {"show": _show, "verify": _verify, "export": _export, "merge": _merge, "average": _average}
