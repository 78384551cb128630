"""Delete checkpoints of old runs below a folder. Records, logs, configs, code and copies under other names stay, and so
does what another run below that folder went on from.

examples:
  %(prog)s work_dirs --dry-run
  %(prog)s work_dirs --keep best --older 7d

exit codes: 0 done; 2 a mistake in the command line.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from ..runs import Cleaned, clean
from ..text import columns_of, listed, table
from .command import Arguments, CommandParser, as_json, command

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("root", metavar="ROOT", help="a run folder, or a folder of run folders at any depth")
    parser.add_argument(
        "--keep", default="best,last", metavar="WHAT", help="what stays of each run: best, last or best,last (default)"
    )
    parser.add_argument(
        "--older",
        type=_seconds,
        default=_UNITS["d"] * 30,
        metavar="TIME",
        help="leave folders alone in which something was written within this time: 12h, 30d, 8w (default 30d)",
    )
    parser.add_argument("--dry-run", action="store_true", help="delete nothing, print what would be deleted")


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Delete checkpoints, or say which."""
    cleaned = clean(args.root, keep=args.keep.split(","), older_s=args.older, dry_run=args.dry_run)
    return as_json(cleaned) if args.json else _describe(cleaned, args.dry_run)


def _describe(cleaned: Sequence[Cleaned], is_dry_run: bool) -> str:
    word = "would be deleted" if is_dry_run else "deleted"
    rows = [["folder", word, "MB", "stays"]]
    for each in cleaned:
        deleted = f"nothing: {each.reason}" if each.reason else listed(each.deleted, 4)
        rows.append([each.folder, deleted, f"{each.num_bytes / 1e6:.1f}", listed(each.kept, 4)])
    total = sum(each.num_bytes for each in cleaned) / 1e6
    is_recent = any(each.reason.startswith("written") for each in cleaned)
    note = "\nWhat was written within --older stays; --older 1h names another time." if is_recent else ""
    return f"{table(rows, columns=columns_of(sys.stdout))}\n{total:.1f} MB {word}{note}"


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: expected a number with a unit, m, h, d or w, such as 30d")
    return float(found[1]) * _UNITS[found[2]]
