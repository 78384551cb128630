"""Run folders as data: read, compared, run again, cleaned. See README.md."""

from __future__ import annotations

from .bisecting import Bisection, bisect
from .cleaning import Cleaned, clean
from .comparing import Comparison, compare_runs
from .forking import fork, prepare_fork, split_name
from .lineage import Start, read_starts
from .loading import Loaded, load
from .reading import Run, choose_keys, from_branch_point, read_run, read_runs
from .replaying import Replay, replay, replay_range
from .rerunning import Rerun, rerun
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
