"""One run as data: what a process on any machine needs to start it, or to go on with it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..fileio import atomic_write
from ..record import PRUNED_FILE
from .faults import Fault, Supervision

FOLDER = "supervision"
"""Of a run folder: what its supervisor and its processes tell one another, and the output of the processes."""
OUTPUT = "output.log"


@dataclass
class Job:
    """A run to be started.

    Attributes:
        config: The config file.
        work_dir: The run folder.
        overrides: Changes to the config.
        mixins: Configs that change it.
        experiment_name: Of a config that has none.
        resume: Whether the first attempt already goes on with what is in the folder.
        num_ranks: Processes on each machine, by torchrun where there are several.
        num_nodes: Machines.
        env: Environment variables of the processes.
        pruning: What its processes need to ask the pruner; None where nothing is pruned.
        supervision: Arguments of `Supervision`.
        skipped: Indices of training samples that are left out.
        attempt: Number of the attempt that is at work.
        id: Tells the decisions about this job from those about an earlier one in the same folder.
    """

    config: str
    work_dir: str
    overrides: list[str] = field(default_factory=list)
    mixins: list[str] = field(default_factory=list)
    experiment_name: str | None = None
    resume: bool = True
    num_ranks: int = 1
    num_nodes: int = 1
    env: dict[str, str] = field(default_factory=dict)
    pruning: dict[str, Any] | None = None
    supervision: dict[str, Any] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    attempt: int = 0
    id: str = field(default_factory=lambda: os.urandom(6).hex())

    @property
    def folder(self) -> Path:
        """Where its processes and its supervisor write."""
        return Path(self.work_dir) / FOLDER

    @property
    def policy(self) -> Supervision:
        """What is done about faults."""
        return Supervision(**self.supervision)

    @property
    def output(self) -> Path:
        """What its processes print, and the stacks of a hanging one."""
        return self.folder / OUTPUT

    @property
    def pruned_file(self) -> Path:
        """There when the run was pruned."""
        return Path(self.work_dir) / PRUNED_FILE

    @property
    def stop_file(self) -> Path:
        """Asks its supervisor, which no signal reaches from elsewhere, to stop."""
        return self.folder / "stop"

    def beat_file(self, rank: int) -> Path:
        """Where a rank writes how many iterations are done."""
        return self.folder / f"beat.{rank}"

    def fault_file(self, rank: int) -> Path:
        """Where a rank writes what ended it."""
        return self.folder / f"fault.{rank}.json"

    def faults(self) -> list[Fault]:
        """Return what ended the ranks on this attempt, the first one first."""
        files = sorted(self.folder.glob("fault.*.json"), key=lambda file: file.stat().st_mtime_ns)
        return [Fault(**json.loads(file.read_text(encoding="utf-8"))) for file in files]

    def iteration(self) -> int:
        """Return how many iterations were done by what the ranks wrote last."""
        return max((int(file.read_text() or 0) for file in self.folder.glob("beat.*")), default=0)

    def beats(self) -> list[tuple[str, int, str]]:
        """Return what changes with each iteration of any rank."""
        return [(file.name, file.stat().st_mtime_ns, file.read_text()) for file in sorted(self.folder.glob("beat.*"))]

    def clear(self) -> None:
        """Remove what an earlier attempt left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in (*self.folder.glob("fault.*.json"), *self.folder.glob("beat.*")):
            file.unlink(missing_ok=True)

    def write(self) -> Path:
        """Write it into its folder and return the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "job.json"
        with atomic_write(path, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
        return path

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Job:
        """Return the job of a file."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def command(self, node: int = 0, address: str = "") -> list[str]:
        """Return the command of its processes on one machine.

        Args:
            node: Which of several machines it is.
            address: Host and port of the first one.
        """
        program = ["-m", "lazyengine.sweep.process", str(self.folder / "job.json")]
        if self.num_ranks == self.num_nodes == 1:
            return [sys.executable, *program]
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={self.num_ranks}"]
        if self.num_nodes == 1:
            return [*launcher, "--standalone", *program]
        host, _, port = address.partition(":")
        place = [f"--nnodes={self.num_nodes}", f"--node_rank={node}", f"--master_addr={host}", f"--master_port={port}"]
        return [*launcher, *place, *program]


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        how: ``"finished"``, ``"pruned"``, ``"stopped"`` (it saved, and can go on), ``"lost"`` (its job is gone, and
            can go on) or ``"failed"``.
        reason: Why it stopped or failed.
        exit_code: Of the command that ran it: 0, 143, or that of the failure.
    """

    how: str
    reason: str = ""
    exit_code: int = 0
