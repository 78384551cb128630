"""What Slurm and Open MPI say in the environment, and a run that they start."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from lazyengine import dist

from .experiment import experiment
from .launching import REPO

SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODELIST": "n7", "SLURM_JOB_ID": "31"}
MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.fixture
def environment(monkeypatch):
    """The environment without what launchers set; what a test sets is gone afterwards, and so is its group."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "MASTER_")) or name.endswith(("RANK", "WORLD_SIZE")):
            del os.environ[name]
    yield os.environ
    dist.destroy_dist()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def joined(monkeypatch, environment) -> list[Any]:
    """The arguments of process groups, which are not made: there are no other processes."""
    calls: list[Any] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **kwargs: calls.append(kwargs))
    return calls


@pytest.mark.parametrize(
    ("launcher", "variables", "rank", "world_size", "local_rank", "host", "port"),
    [
        ("slurm", SLURM, "5", "8", "1", "n7", "20031"),
        ("slurm", {**SLURM, "MASTER_ADDR": "head", "MASTER_PORT": "29123"}, "5", "8", "1", "head", "29123"),
        ("mpi", {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "3", "4", "1", "127.0.0.1", "29500"),
        ("mpi", {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_ADDR": "head"}, "3", "4", "1", "head", "29500"),
    ],
)
def test_a_rank_learns_who_it_is(environment, joined, launcher, variables, rank, world_size, local_rank, host, port):
    environment.update(variables)
    assert dist.infer_launcher() == launcher
    dist.init_dist(launcher, timeout_s=7)
    assert [call["timeout"].total_seconds() for call in joined] == [7]
    found = [environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")]
    assert found == [rank, world_size, local_rank, host, port]


def test_the_first_of_several_hosts_is_the_master(environment, joined, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[7-8]" ] && printf "n7\\nn8\\n"\n')
    scontrol.chmod(0o755)
    environment.update({**SLURM, "SLURM_NODELIST": "n[7-8]", "SLURM_NTASKS_PER_NODE": "4"})
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    dist.init_dist("slurm")
    assert (environment["MASTER_ADDR"], environment["LOCAL_WORLD_SIZE"]) == ("n7", "4")


def test_mpi_on_several_machines_needs_the_address_of_the_first(environment, joined):
    environment.update({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})
    with pytest.raises(RuntimeError, match="MASTER_ADDR: start the script with `mpirun`, and set MASTER_ADDR"):
        dist.init_dist("mpi")


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_NODELIST": "localhost"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
        | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
    ],
)
def test_a_run_joins_what_started_it(environment, variables, tmp_path):
    environment.update({**variables, "MASTER_PORT": "0"})
    runner = experiment(tmp_path, max_epochs=1)
    runner.train()
    assert runner.launcher == ("slurm" if "SLURM_PROCID" in variables else "mpi")
    assert dist.is_distributed()
    assert runner.iter == 6


def test_a_share_has_to_be_whole(environment, joined, monkeypatch):
    assert dist.per_rank(7) == 7
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 4)
    assert dist.per_rank(8) == 2
    with pytest.raises(ValueError, match="6 cannot be shared out equally among 4 ranks"):
        dist.per_rank(6)
    monkeypatch.undo()


def test_an_unknown_environment_is_one_process(environment, tmp_path):
    runner = experiment(tmp_path, max_epochs=1)
    runner.setup()
    assert runner.launcher == "none"
    assert not dist.is_distributed()


def test_one_process_imports_nothing_more_of_torch_distributed(environment, tmp_path):
    """An optimizer does (torch's own imports torch's compiler), so the run is an evaluation."""
    code = (
        "import sys, torch; before = set(sys.modules); from tests.distributed.experiment import experiment; "
        f"experiment({str(tmp_path)!r}).val(); "
        "print('more:', *(m for m in sys.modules if m.startswith('torch.distributed.') and m not in before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "more:"
