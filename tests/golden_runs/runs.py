"""The golden folders: where they are, how to copy one, and what differs from what it should end with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from .driver import EXPERIMENTS, HERE
from .states import largest_difference

RUN, EXPECTED, WEIGHTS = "run", "expected.json", "expected_weights.npz"
EXACT = ("first_iter", "epochs", "iters", "num_batches", "batches", "draws", "schedulers")
HASHED = ("weights", "optimizer")


@dataclasses.dataclass
class GoldenRun:
    """A kept run: ``run/`` as a version of the engine left it, and beside it what it ends with.

    Attributes:
        folder: ``v<version>/<name>``.
        expected: The content of its ``expected.json``.
    """

    folder: Path
    expected: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> GoldenRun:
        """Read the one in a folder."""
        return cls(folder, json.loads((folder / EXPECTED).read_text(encoding="utf-8")))

    @property
    def name(self) -> str:
        """Version and name, as tests are called."""
        return f"{self.folder.parent.name}-{self.folder.name}"

    @property
    def experiment(self) -> Path:
        """The config file that goes on with it, in the present engine's words."""
        return EXPERIMENTS / f"{self.expected['experiment']}.py"

    def copy_to(self, folder: Path) -> Path:
        """Copy the run folder and return the copy.

        Of several checkpoints the engine resumes the one with the newest time, and git keeps no times.
        """
        copy = folder / self.folder.name
        shutil.copytree(self.folder / RUN, copy)
        for second, name in enumerate(self.expected["checkpoints"], 1_000_000_000):
            os.utime(copy / name, (second, second))
        return copy


def find_runs() -> list[GoldenRun]:
    """Return all golden runs of all versions."""
    return [GoldenRun.read(path.parent) for path in sorted(HERE.glob(f"v*/*/{EXPECTED}"))]


def end_of(report: dict[str, Any], first_iter: int) -> dict[str, Any]:
    """Return what an end is compared by, of the part of a run after its first `first_iter` iterations."""
    skipped = first_iter - report["first_iter"]
    batches, draws = report["batches"][skipped:], report["draws"][skipped:]
    return {
        "first_iter": first_iter,
        "num_batches": len(batches),
        "batches": hashlib.sha256(json.dumps(batches).encode()).hexdigest(),
        "draws": hashlib.sha256(json.dumps(draws).encode()).hexdigest(),
        # One that was due when the checkpoint was written is done after the resume.
        "validations": [each for each in report["validations"] if each["iter"] >= first_iter],
        **{key: report[key] for key in ("epochs", "iters", "weights", "optimizer", "learning_rates", "schedulers")},
    }


def differences(golden: GoldenRun, end: dict[str, Any], numerics: dict[str, Any], weights: Path) -> list[str]:
    """Return what differs from the expected end, one line each; empty when nothing does.

    Where hashes cannot repeat (another torch, another kind of CPU), numbers have to be close instead.

    Args:
        golden: The golden run.
        end: What `end_of` returned.
        numerics: What `states.numerics` returned where that was computed.
        weights: The final weights.
    """
    expected = golden.expected["end"]
    found = [f"{key}: {end[key]}, expected {expected[key]}" for key in EXACT if end[key] != expected[key]]
    if numerics == golden.expected["numerics"]:
        keys = (*HASHED, "learning_rates", "validations")
        return found + [f"{key}: {end[key]}, expected {expected[key]}" for key in keys if end[key] != expected[key]]
    tolerance = golden.expected["tolerance"]
    if end["weights"] != expected["weights"]:
        apart = largest_difference(weights, golden.folder / WEIGHTS, rtol=tolerance["weights"])
        if not apart <= tolerance["weights"]:
            found.append(f"weights: {apart} apart, of {tolerance['weights']}, on {numerics}")
    for key, atol in (("learning_rates", 1e-12), ("validations", tolerance["metrics"])):
        if not are_close(end[key], expected[key], atol):
            found.append(f"{key}: {end[key]}, expected about {expected[key]}")
    return found


def are_close(one: Any, other: Any, atol: float) -> bool:
    """Whether two nestings of numbers are the same but for `atol`, and a relative 1e-9, in each of them."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_close(one[key], other[key], atol) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(are_close(a, b, atol) for a, b in zip(one, other))
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=atol)
