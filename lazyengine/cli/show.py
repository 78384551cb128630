"""The command line that shows a config: ``tools/show_config.py``."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from ..config import ConfigError, ConfigFileError, LazyConfig, check_config, diff, format_tree
from ..config.saving import check_saving
from .keys import format_keys
from .mistakes import refuse, tell

_DESCRIPTION = """\
Show a config: what every value is, where it came from, what can be overridden. Nothing is built.

FILE is a config (.py), or a run folder that holds config.py.
"""
_EPILOG = """\
examples:
  %(prog)s projects/digits/config.py                            the tree, with types and defaults
  %(prog)s projects/digits/config.py optimizer.lr=1 --blame     which line or argument set each value
  %(prog)s projects/digits/config.py --keys optimizer           what can be overridden there
  %(prog)s projects/digits/config.py --check                    targets, required arguments, types
  %(prog)s projects/digits/config.py --hooks                    what is called when, and in which order
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
    parser.add_argument("--hooks", action="store_true", help="show which hook of the runner acts at which point")
    parser.add_argument("--json", action="store_true", help="with --diff: print the differences as JSON")
    parser.add_argument("--no-defaults", action="store_true", help="leave out arguments that are not set")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    try:
        args = build_parser().parse_intermixed_args(arguments_without_dashes(argv))
        text, code = _answer(args)
    except Exception as error:
        return refuse(error)
    tell(text)
    return code


def arguments_without_dashes(argv: Sequence[str] | None) -> Sequence[str]:
    """Return the arguments of the command, None for those of the process.

    Raises:
        ConfigError: An override is written as an option, `--optimizer.lr=1`.
    """
    argv = sys.argv[1:] if argv is None else argv
    for argument in argv:
        if re.match(r"--[\w-]+[.\[]", argument):
            raise ConfigError(f"{argument} is no option. An override has no dashes: write {argument[2:]}.")
    return argv


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add the config of an experiment: the first argument, or ``--config``; see `settle_config`."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the experiment: a Python config file")
    parser.add_argument("--config", dest="config_option", metavar="FILE", help="the same, as an option")


def settle_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Set ``args.config`` to the config that was named in either way; exits with code 2 where none was."""
    if args.config_option is not None:
        args.overrides = [*([args.config] if args.config is not None else []), *args.overrides]
        args.config = args.config_option
    elif args.config is None or re.match(r"[+~]?[\w.]+=", args.config):
        parser.error(f"name the config of the experiment, as in: {parser.prog} path/to/config.py")


def _answer(args: argparse.Namespace) -> tuple[str, int]:
    cfg = LazyConfig.apply_overrides(_load(args.file), args.overrides)
    if args.diff is not None:
        found = diff(cfg, _load(args.diff))
        if args.json:
            return json.dumps([each._asdict() for each in found], indent=1), 1 if found else 0
        return "\n".join(map(str, found)) or "no difference", 1 if found else 0
    if args.check:
        problems = check_config(cfg) + check_saving(cfg)
        return "\n".join(problems) or "every target resolves, every required argument is set, every type fits", (
            2 if problems else 0
        )
    if args.hooks:
        return _hooks(cfg, args.file), 0
    if args.keys is not None:
        return format_keys(cfg, args.keys), 0
    return format_tree(cfg, defaults=not args.no_defaults, blame=args.blame), 0


def _hooks(cfg: Any, file: str) -> str:
    """Return the timeline of the runner's hooks; of the runner, nothing else is built."""
    if not hasattr(cfg, "runner"):
        raise ConfigError(f"{file} has no `runner`, whose hooks could be shown.")
    from ..runner import Runner
    from ..runner.describe import describe_hooks

    return describe_hooks(Runner.from_cfg(cfg))


def _load(path: str) -> Any:
    if os.path.isdir(path):
        folder, path = path, os.path.join(path, "config.py")
        if not os.path.isfile(path):
            raise ConfigFileError(f"{folder!r} is a folder without config.py. Name a config, or the folder of a run.")
    return LazyConfig.load(path)
