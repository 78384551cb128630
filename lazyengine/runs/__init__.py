"""Run folders as data: read, compared, run again, cleaned. See README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..late import late_names

if TYPE_CHECKING:
    from .bisecting import Bisection, bisect
    from .cleaning import Cleaned, clean
    from .comparing import Comparison, compare_runs, differences
    from .filtering import parse_conditions
    from .forking import fork, prepare_fork, split_name
    from .index import Outline, read_outlines
    from .lineage import Start, read_starts
    from .loading import Loaded, load
    from .querying import Answer, query
    from .reading import Run, choose_keys, from_branch_point, read_run, read_runs
    from .replaying import Replay, replay, replay_range
    from .reporting import report
    from .rerunning import Rerun, rerun
    from .significance import Verdict, judge
    from .tables import Cell, FilledTable, Table, commands_for, fill, load_table
    from .watching import Status, find_runs, status_of, stop

__all__ = [  # noqa: RUF022 - in reading order
    "Run",
    "Start",
    "read_run",
    "read_runs",
    "read_starts",
    "choose_keys",
    "from_branch_point",
    "Comparison",
    "compare_runs",
    "differences",
    "Outline",
    "read_outlines",
    "parse_conditions",
    "Answer",
    "query",
    "report",
    "Cell",
    "Table",
    "FilledTable",
    "load_table",
    "fill",
    "commands_for",
    "Verdict",
    "judge",
    "Loaded",
    "load",
    "Rerun",
    "rerun",
    "Replay",
    "replay",
    "replay_range",
    "Bisection",
    "bisect",
    "fork",
    "prepare_fork",
    "split_name",
    "Status",
    "find_runs",
    "status_of",
    "stop",
    "Cleaned",
    "clean",
]

__getattr__, __dir__ = late_names(__name__)
