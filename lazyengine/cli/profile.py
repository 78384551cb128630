"""Train some iterations in a temporary folder and say where their time goes: by phase, with what the engine and its
hooks take of it; the ten largest operators; and a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

exit codes: 0 done; 2 a mistake in the config or the command line
"""

from __future__ import annotations

import os
import tempfile

from ..config import ConfigError
from .command import Arguments, CommandParser, add_config, command
from .plan import maker_of


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of the command."""
    add_config(parser)
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="iterations to measure (10)")
    parser.add_argument("--items", type=int, default=10, metavar="N", help="operators to list (10)")
    parser.add_argument("--output", default="profile", metavar="DIR", help="folder of the trace (profile)")


@command(__doc__, add_arguments, with_json=True)
def main(args: Arguments) -> object:
    """Say where the time goes."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler writes into the status line that it begins
    from ..analysis.profiling import profile

    if min(args.steps, args.items) < 1:
        raise ConfigError(f"--steps {args.steps} --items {args.items}: expected at least 1.")
    with tempfile.TemporaryDirectory(prefix="lazyengine-") as folder:
        make = maker_of(args.config, args.overrides, folder)
        return profile(make, args.steps, os.path.abspath(args.output), args.items)
