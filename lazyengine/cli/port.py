"""Port configs and code of mmengine, detectron2 (LazyConfig), Hydra and LightningCLI.

PATH is a file or a folder. Nothing of the project is imported: classes are found by reading its sources. What needs a
hand is marked `# TODO port: <reason>` in the new files, and listed.

examples:
  %(prog)s my_project --to my_project_lazy              everything below the folder
  %(prog)s configs/resnet50.py --to new                 one config, and the base configs that it needs
  %(prog)s configs/resnet50.py --to new --flat          one config as one file
  %(prog)s configs --to new --classes ../mmdetection    where classes of another library are found
  %(prog)s configs --to new --prove                     compare the old and the new experiments
  %(prog)s configs --to new --keep --prove              compare again, after changes by hand to the new ones

exit codes: 0 done; 1 something needs a hand, or a proof found a difference; 2 the command line is wrong.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..port import Ported, PortError, port_path, prove
from ..text import table
from .command import Arguments, CommandParser, command


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("path", metavar="PATH", type=Path, help="the file or folder to port")
    parser.add_argument("--to", metavar="DIR", type=Path, help="folder for the ports (default: PATH with _lazy)")
    parser.add_argument("--flat", action="store_true", help="write each config as one file, without base configs")
    parser.add_argument(
        "--classes", nargs="+", metavar="DIR", type=Path, default=[], help="more source trees that define classes"
    )
    parser.add_argument("--keep", action="store_true", help="keep the files of DIR as they are; write what is missing")
    parser.add_argument("--prove", action="store_true", help="compare what was ported with the original")


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Port a project."""
    target = args.to or args.path.with_name(f"{args.path.stem}_lazy")
    if not args.path.exists():
        raise PortError(f"{args.path} does not exist. Name a file or folder of the project to port.")
    classes = [folder.resolve() for folder in args.classes]
    ported, kinds = port_path(args.path, target.resolve(), classes=classes, flat=args.flat, keep=args.keep)
    lines = _report(ported, kinds)
    is_clean = not ported.todos and not ported.failed
    if args.prove:
        proof = prove(ported, args.path, classes)
        lines += ["", *proof.lines]
        is_clean = is_clean and proof.is_equal
    return "\n".join(lines), 0 if is_clean else 1


def _report(ported: Ported, kinds: dict[str, list[Path]]) -> list[str]:
    rows = [(kind, len(files)) for kind, files in sorted(kinds.items()) if kind != "other"]
    lines = [table([("read", "files"), *rows, ("written", len(ported.written))])]
    if ported.dropped:
        lines += ["", f"left out, since they only serve to compute others: {', '.join(sorted(ported.dropped))}"]
    lines += [f"{old}: written flat, because {reason}" for old, reason in ported.flat.items()]
    if ported.failed:
        lines += ["", "not ported:", *(f"  {old}: {reason}" for old, reason in ported.failed.items())]
    if ported.todos:
        counts = Counter(todo.reason.partition(": ")[2] or todo.reason for todo in ported.todos)
        lines += ["", "to be done by hand:", *(f"  {todo}" for todo in ported.todos)]
        lines += ["", table([("times", "what"), *((n, what) for what, n in counts.most_common(20))])]
    return lines
