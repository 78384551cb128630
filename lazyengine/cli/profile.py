"""The command line that says where the time of an iteration goes: ``lazyengine profile``."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence

from ..config import ConfigError
from .mistakes import as_json, refuse, tell
from .plan import maker_of
from .show import add_config_argument, settle_config

_DESCRIPTION = """\
Train some iterations in a temporary folder and say where their time goes: by phase, with what the engine and its hooks
take of it; the ten largest operators; and a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    epilog = "exit codes: 0 done; 2 a mistake in the config or the command line"
    parser = argparse.ArgumentParser(description=_DESCRIPTION, epilog=epilog)
    add_config_argument(parser)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the config")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="iterations to measure (10)")
    parser.add_argument("--items", type=int, default=10, metavar="N", help="operators to list (10)")
    parser.add_argument("--output", default="profile", metavar="DIR", help="folder of the trace (profile)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for other programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a mistake in the config or the command line.

    Args:
        argv: Arguments without the program's name; None for those of the process.
    """
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    settle_config(parser, args)
    try:
        if min(args.steps, args.items) < 1:
            raise ConfigError(f"--steps {args.steps} --items {args.items}: expected at least 1.")
        from ..analysis.profiling import profile

        with tempfile.TemporaryDirectory(prefix="lazyengine-") as folder:
            make = maker_of(args.config, args.overrides, folder)
            found = profile(make, args.steps, os.path.abspath(args.output), args.items)
    except Exception as error:
        return refuse(error)
    tell(as_json(found.as_json()) if args.json else found.as_text())
    return 0
