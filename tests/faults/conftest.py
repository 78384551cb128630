"""The laboratory: one server for all fault tests, and what the uninterrupted experiments end with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazyengine.checkpoint import verify_checkpoint
from tests.forks import Server
from tests.ports import free_port

from .experiments import fingerprint

REPO = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """The environment of drivers: one thread, the repository importable, no launcher's variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "MASTER_", "TORCHELASTIC"))}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        kept.pop(name, None)
    path = os.pathsep.join(filter(None, [str(REPO), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Lab:
    """Runs experiments with faults in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = Server(["-m", "tests.faults.driver"], environment(), REPO)
        self._expected: dict[str, dict[str, str]] = {}
        self._num_logs = 0
        self.log = ""
        self.logs: list[str] = []
        self.order: list[int] = []

    def run(self, *faults: dict[str, Any], world: int = 1, timeout_s: float = 240, **spec: Any) -> list[int | str]:
        """Run an experiment and return the exit code of each rank.

        Afterwards `logs` has what each printed, `log` all of it, and `order` the ranks as they ended.
        """
        self._num_logs += 1
        log = str(self._folder / f"log_{self._num_logs}")
        spec["work_dir"] = str(spec["work_dir"])
        request = {
            "spec": spec,
            "faults": faults,
            "world": world,
            "port": free_port(),
            "timeout_s": timeout_s,
            "log": log,
        }
        ended = self._server.ask(request)
        self.order = ended["order"]
        self.logs = [Path(f"{log}_{rank}").read_text() for rank in range(world)]
        self.log = "".join(self.logs)
        return ended["codes"]

    def expect(self, world: int = 1, **spec: Any) -> dict[str, str]:
        """Return the fingerprint that the uninterrupted experiment ends with; each runs once."""
        key = json.dumps([world, spec], sort_keys=True)
        if key not in self._expected:
            folder = self._folder / f"whole_{len(self._expected)}"
            assert self.run(work_dir=folder, world=world, **spec) == [0] * world, self.log
            self._expected[key] = end_of(folder)
        return dict(self._expected[key])  # a test may take parts out of its own

    def resume(self, folder: Path, world: int = 1, **spec: Any) -> dict[str, str]:
        """Resume from the newest checkpoint in a folder and return the fingerprint that it ends with."""
        spec = {"resume": "auto", **spec}
        assert self.run(work_dir=folder, world=world, **spec) == [0] * world, self.log
        return end_of(folder)

    def report(self) -> dict[str, Any]:
        """Return what the driver said about a runner whose training failed."""
        lines = [line for line in self.log.splitlines() if line.startswith("REPORT ")]
        return json.loads(lines[0].removeprefix("REPORT "))

    def close(self) -> None:
        """End the server."""
        self._server.close()


def end_of(folder: Path) -> dict[str, str]:
    """Return the fingerprint of the checkpoint that a folder's pointer names."""
    return fingerprint(folder / (folder / "last_checkpoint").read_text().strip())


def visible(folder: Path) -> list[str]:
    """Return the names of the checkpoints in a folder, each of which must be whole."""
    names = sorted(path.name for path in folder.glob("*.pth"))
    for name in names:
        verify_checkpoint(folder / name)
    pointer = folder / "last_checkpoint"
    assert not pointer.exists() or pointer.read_text().strip() in names
    return names


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The laboratory."""
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()
