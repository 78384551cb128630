"""The command line that shows a config: ``tools/show_config.py``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from ..config import ConfigFileError, LazyConfig, diff, format_tree
from ..config.show import check_config, format_keys
from .mistakes import refuse, tell

_DESCRIPTION = """\
Show a config: what every value is, where it came from, what can be overridden. Nothing is built.

FILE is a config (.py), a saved one (.json, .pkl), or a run folder that holds config.py or config.json.
"""
_EPILOG = """\
examples:
  %(prog)s projects/digits/config.py                            the tree, with types and defaults
  %(prog)s projects/digits/config.py optimizer.lr=1 --blame     which line or argument set each value
  %(prog)s projects/digits/config.py --keys optimizer           what can be overridden there
  %(prog)s projects/digits/config.py --check                    targets, required arguments, types
  %(prog)s work_dirs/run1 --diff work_dirs/run2                 how two runs differ

exit codes: 0 done (--diff: equal; --check: nothing found); 1 --diff found differences; 2 the config, or the command
line, is wrong.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the config, or a run folder")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
    parser.add_argument("--blame", action="store_true", help="show which file:line or argument set each value")
    parser.add_argument("--diff", metavar="OTHER", help="show how OTHER (a config or a run folder) differs")
    parser.add_argument(
        "--keys", nargs="?", const="", metavar="PREFIX", help="list what can be overridden, below PREFIX if it is given"
    )
    parser.add_argument("--check", action="store_true", help="check targets, required arguments and types")
    parser.add_argument("--no-defaults", action="store_true", help="leave out arguments that are not set")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="MODULE", help="what a saved config may name besides the usual"
    )
    parser.add_argument(
        "--trust", action="store_true", help="read pickled values of a saved config: runs what is in it"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    args = build_parser().parse_intermixed_args(argv)
    try:
        text, code = _answer(args)
    except Exception as error:
        return refuse(error)
    tell(text)
    return code


def _answer(args: argparse.Namespace) -> tuple[str, int]:
    cfg = LazyConfig.apply_overrides(_load(args.file, args), args.overrides)
    if args.diff is not None:
        found = diff(cfg, _load(args.diff, args))
        return "\n".join(map(str, found)) or "no difference", 1 if found else 0
    if args.check:
        problems = check_config(cfg)
        return "\n".join(problems) or "every target resolves, every required argument is set, every type fits", (
            2 if problems else 0
        )
    if args.keys is not None:
        return format_keys(cfg, args.keys), 0
    return format_tree(cfg, defaults=not args.no_defaults, blame=args.blame), 0


def _load(path: str, args: argparse.Namespace) -> Any:
    if os.path.isdir(path):
        found = [os.path.join(path, name) for name in ("config.py", "config.json")]
        existing = [file for file in found if os.path.isfile(file)]
        if not existing:
            raise ConfigFileError(f"{path!r} is a folder without config.py and config.json.")
        path = existing[0]
    if path.endswith((".json", ".pkl")):
        return LazyConfig.load(path, allow=args.allow, trusted=args.trust)
    return LazyConfig.load(path)
