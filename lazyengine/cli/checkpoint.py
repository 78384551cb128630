"""The command line about checkpoint files: ``tools/checkpoint.py``."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..checkpoint import (
    CheckpointError,
    average_checkpoints,
    export_safetensors,
    find_latest_checkpoint,
    read_checkpoint,
    revise_state_dict,
    save_checkpoint,
    state_dict_of,
    verify_checkpoint,
)
from ..fileio import get_local_path
from .mistakes import until_the_reader_leaves

_DESCRIPTION = """\
Look at, check, convert and average checkpoints. Nothing in them is run. FILE is a path or a URL; a run folder stands
for the checkpoint that its last_checkpoint names.
"""
_EPILOG = """\
examples:
  %(prog)s show work_dirs/run/epoch_3.pth                   what is in it, and its SHA-256
  %(prog)s show work_dirs/run --depth 4                     deeper
  %(prog)s verify work_dirs/run/*.pth                       compare every record with its checksum
  %(prog)s export work_dirs/run model.safetensors           the model alone; also to .pth
  %(prog)s export best.pth backbone.pth --prefix backbone   a part of it
  %(prog)s export run/epoch_3.pth ema.pth --key ema_state_dict
  %(prog)s merge run/epoch_3.pth whole.pth                   one file of a checkpoint of FSDP2 and its shards
  %(prog)s average run/epoch_8.pth run/epoch_9.pth -o soup.pth

exit codes: 0 done; 1 a checkpoint is damaged or cannot be used; 2 a mistake in the command line.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="list what a checkpoint holds")
    show.add_argument("file")
    show.add_argument("--depth", type=int, default=2, metavar="N", help="levels of nesting to list (default: 2)")
    show.add_argument("--trusted", action="store_true", help="load objects of any class; this can run code in FILE")
    verify = commands.add_parser("verify", help="compare every record of checkpoints with its checksum")
    verify.add_argument("files", nargs="+", metavar="file")
    export = commands.add_parser("export", help="write the model alone, as .safetensors or .pth")
    export.add_argument("file")
    export.add_argument("output")
    export.add_argument("--key", metavar="NAME", help="entry with the model's tensors (default: state_dict, if any)")
    export.add_argument("--prefix", metavar="P", help="only the keys under it, without it")
    merge = commands.add_parser("merge", help="write a checkpoint and its folder of shards (FSDP2) as one file")
    merge.add_argument("file")
    merge.add_argument("output")
    average = commands.add_parser("average", help="average the models of several checkpoints")
    average.add_argument("files", nargs="+", metavar="file")
    average.add_argument("-o", "--output", required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Its arguments; by default those of the process.

    Returns:
        The exit code.
    """
    args = build_parser().parse_args(argv)
    try:
        with until_the_reader_leaves():
            return _COMMANDS[args.command](args)
        return 0
    except (CheckpointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _resolve(path: str) -> str:
    if not os.path.isdir(path):
        return path
    latest = find_latest_checkpoint(path)
    if latest is None:
        raise CheckpointError(f"the folder {path} has no last_checkpoint; name the file in it")
    return latest


def _show(args: argparse.Namespace) -> int:
    path = _resolve(args.file)
    checkpoint = read_checkpoint(path, trusted=args.trusted, skip_objects=True)
    local = get_local_path(path)
    print(f"{path}: {os.path.getsize(local):,} bytes, sha256 {_sha256(local)}")
    tensors = _tensors(checkpoint)
    print(f"{len(tensors):,} tensors, {sum(t.numel() for t in tensors):,} elements")
    for line in _tree(checkpoint, args.depth, ""):
        print(line)
    return 0


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in _tensors(item)]
    return [t for item in value for t in _tensors(item)] if isinstance(value, (list, tuple)) else []


def _tree(value: Any, depth: int, indent: str) -> list[str]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    lines = []
    for key, item in items:
        is_nested = isinstance(item, (Mapping, list, tuple)) and len(item) > 0
        is_open = is_nested and depth > 1 and (isinstance(item, Mapping) or len(item) <= 20)
        lines.append(f"{indent}{key}: {_summary(item)}")
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
    text = repr(value).replace("\n", "\\n")
    return text if len(text) <= 100 else f"{text[:97]}..."


def _verify(args: argparse.Namespace) -> int:
    num_bad = 0
    for path in args.files:
        try:
            verify_checkpoint(_resolve(path))
            print(f"ok       {path}")
        except (CheckpointError, OSError) as error:
            num_bad += 1
            print(f"damaged  {path}: {error}")
    return 1 if num_bad else 0


def _export(args: argparse.Namespace) -> int:
    path = _resolve(args.file)
    checkpoint = read_checkpoint(path, skip_objects=True)
    if args.key is not None:
        if not isinstance(checkpoint, Mapping) or args.key not in checkpoint:
            entries = list(checkpoint) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
            raise CheckpointError(f"{path} has no entry {args.key!r}; it has {entries}")
        checkpoint = {"state_dict": checkpoint[args.key]}
    state = revise_state_dict(state_dict_of(checkpoint, path), prefix=args.prefix)
    _write_model(state, args.output)
    return 0


def _merge(args: argparse.Namespace) -> int:
    save_checkpoint(read_checkpoint(_resolve(args.file)), args.output)
    print(f"{args.output}: {os.path.getsize(args.output):,} bytes, sha256 {_sha256(args.output)}")
    return 0


def _average(args: argparse.Namespace) -> int:
    _write_model(average_checkpoints([_resolve(path) for path in args.files]), args.output)
    return 0


def _write_model(state: Mapping[str, Any], output: str) -> None:
    left_out = []
    if output.endswith(".safetensors"):
        left_out = export_safetensors(state, output)
    else:
        save_checkpoint({"state_dict": state}, output)
    num_tensors, num_bytes = len(state) - len(left_out), os.path.getsize(output)
    print(f"{output}: {num_tensors} tensors, {num_bytes:,} bytes, sha256 {_sha256(output)}")
    if left_out:
        print(f"left out, since they are no tensors: {', '.join(left_out[:10])}")


_COMMANDS = {"show": _show, "verify": _verify, "export": _export, "merge": _merge, "average": _average}
