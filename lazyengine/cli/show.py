"""Show a config: what every value is, where it came from, what can be overridden. Nothing is built.

FILE is a config (.py), or a run folder that holds config.py.

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

from __future__ import annotations

import sys
from typing import Any

from ..config import check_config, diff, format_tree
from ..config.saving import check_saving
from ..text import columns_of
from .command import Arguments, CommandParser, add_overrides, as_json, command, config_in, load_config
from .keys import format_keys


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("file", metavar="FILE", help="the config, or a run folder")
    add_overrides(parser)
    parser.add_argument("--blame", action="store_true", help="show which file:line or argument set each value")
    parser.add_argument("--diff", metavar="OTHER", help="show how OTHER (a config or a run folder) differs")
    parser.add_argument(
        "--keys", nargs="?", const="", metavar="PREFIX", help="list what can be overridden, below PREFIX if it is given"
    )
    parser.add_argument("--check", action="store_true", help="check targets, required arguments and types")
    parser.add_argument("--hooks", action="store_true", help="show which hook of the runner acts at which point")
    parser.add_argument("--json", action="store_true", help="with --diff: print the differences as JSON")
    parser.add_argument("--no-defaults", action="store_true", help="leave out arguments that are not set")


@command(__doc__, add_arguments)
def main(args: Arguments) -> object:
    """Show a config."""
    cfg = load_config(config_in(args.file), args.overrides, needs_runner=args.hooks)
    if args.diff is not None:
        found = diff(cfg, load_config(config_in(args.diff), needs_runner=False))
        text = as_json([each._asdict() for each in found]) if args.json else "\n".join(map(str, found))
        return text or "no difference", 1 if found else 0
    if args.check:
        problems = check_config(cfg) + check_saving(cfg)
        right = "every target resolves, every required argument is set, every type fits"
        return "\n".join(problems) or right, 2 if problems else 0
    if args.hooks:
        return _hooks(cfg)
    if args.keys is not None:
        return format_keys(cfg, args.keys, columns_of(sys.stdout))
    return format_tree(cfg, defaults=not args.no_defaults, blame=args.blame)


def _hooks(cfg: Any) -> str:
    """Return the timeline of the runner's hooks; of the runner, nothing else is built."""
    from ..runner import Runner
    from ..runner.describe import describe_hooks

    return describe_hooks(Runner.from_cfg(cfg), columns_of(sys.stdout))
