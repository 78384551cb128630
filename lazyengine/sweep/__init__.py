"""Many runs: search spaces, studies, launchers, and the supervisor of runs that nobody watches. See README.md."""

from __future__ import annotations

from .faults import Fault, Supervision
from .job import Job, Outcome
from .launchers import LAUNCHERS, LocalLauncher, RayLauncher, SlurmLauncher, Stopping, make_launcher, wait
from .search import Search, read_search
from .spaces import choice, grid, log_uniform, uniform, zipped
from .study import Study, Trial
from .supervising import Supervised
from .sweeping import Sweep, planned, supervision_of, sweep

__all__ = [  # noqa: RUF022 - in reading order
    # a search
    "uniform",
    "log_uniform",
    "choice",
    "grid",
    "zipped",
    "Search",
    "read_search",
    # a sweep
    "sweep",
    "planned",
    "Sweep",
    "Study",
    "Trial",
    # one run under supervision
    "Supervision",
    "supervision_of",
    "Fault",
    "Job",
    "Outcome",
    "Supervised",
    # where jobs run
    "LAUNCHERS",
    "make_launcher",
    "LocalLauncher",
    "SlurmLauncher",
    "RayLauncher",
    "wait",
    "Stopping",
]
