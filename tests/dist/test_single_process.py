"""Launching, and what needs one process only."""

import os
import subprocess
import sys
from collections import namedtuple

import pytest
import torch

from lazyengine import dist


@pytest.fixture
def environment(monkeypatch):
    """The environment without what launchers set, restored afterwards; ends the process group."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_")) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
    os.environ.pop("MASTER_ADDR", None)
    os.environ["MASTER_PORT"] = "0"
    yield os.environ
    dist.destroy_dist()
    os.environ.clear()
    os.environ.update(before)


SLURM = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_NODELIST": "localhost"}
MPI = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
MPI["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1"
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [({}, "none"), (TORCHRUN, "pytorch"), (SLURM, "slurm"), (MPI, "mpi"), (SLURM | TORCHRUN, "pytorch")],
)
def test_launcher_is_found_and_joined(environment, variables, launcher):
    environment.update(variables)
    assert dist.infer_launcher() == launcher
    dist.init_dist(launcher, timeout_s=20)
    assert dist.is_distributed() == (launcher != "none")
    assert dist.get_dist_info() == (0, 1)
    if launcher != "none":
        assert dist.get_backend() == "gloo"
        assert (environment["RANK"], environment["WORLD_SIZE"], environment["LOCAL_RANK"]) == ("0", "1", "0")
        dist.init_dist(launcher)  # a second call changes nothing
        dist.barrier()
        data = torch.tensor([1, 2])
        dist.all_reduce(data, "mean")
        assert data.tolist() == [1, 2]
        assert dist.collect_results([1, 2], 1) == [1]
        dist.destroy_dist()
        assert not dist.is_distributed()


@pytest.mark.parametrize(
    ("launcher", "part"),
    [
        ("pytorch", "RANK, WORLD_SIZE, MASTER_ADDR: start the script with `torchrun"),
        ("slurm", "SLURM_PROCID, SLURM_NTASKS: start the script with `srun`"),
        ("mpi", "start the script with `mpirun`"),
    ],
)
def test_missing_variables_are_named(environment, launcher, part):
    with pytest.raises(RuntimeError, match=part):
        dist.init_dist(launcher)


def test_bad_arguments(environment):
    with pytest.raises(ValueError, match="none, pytorch, slurm, mpi, not 'torchrun'"):
        dist.init_dist("torchrun")
    for timeout_s in (0, -1, "30", None):
        with pytest.raises(ValueError, match="positive number of seconds"):
            dist.init_dist("none", timeout_s=timeout_s)


def test_slurm_port_and_hosts(environment):
    del environment["MASTER_PORT"]
    environment.update(SLURM | {"SLURM_JOB_ID": "123456"})
    dist.init_dist("slurm", timeout_s=20)
    assert environment["MASTER_ADDR"] == "localhost"
    assert environment["MASTER_PORT"] == str(20000 + 123456 % 20000)
    dist.destroy_dist()
    environment["SLURM_NODELIST"] = "node[1-3]"
    del environment["MASTER_ADDR"]
    environment["PATH"] = ""
    with pytest.raises(RuntimeError, match="set MASTER_ADDR"):
        dist.init_dist("slurm")


Pair = namedtuple("Pair", "a b")


def test_nested_devices():
    cpu = torch.device("cpu")
    nested = {"a": [torch.ones(1), (torch.zeros(2), {"b": torch.ones(3)})], "p": Pair(torch.ones(1), torch.ones(2))}
    assert dist.get_data_device(nested) == cpu
    moved = dist.cast_data_device(nested, torch.device("meta"))
    assert moved["a"][1][1]["b"].device.type == "meta"
    assert type(moved["a"][1]) is tuple
    assert type(moved["p"]) is Pair
    with pytest.raises(ValueError, match=r"one device.*cpu.*meta"):
        dist.get_data_device([torch.ones(1), torch.ones(1, device="meta")])
    target = {"a": [torch.zeros(1), (torch.ones(2), {"b": torch.zeros(3)})], "p": Pair(torch.zeros(1), torch.zeros(2))}
    inner = target["a"][1][1]["b"]
    assert dist.cast_data_device(nested, cpu, out=target) is target
    assert inner.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("data", "out", "error", "part"),
    [
        ([], None, ValueError, "no tensor"),
        ({}, None, ValueError, "no tensor"),
        ("text", None, TypeError, "not str"),
        ([1], None, TypeError, "not int"),
        ([torch.ones(1)], (torch.ones(1),), TypeError, "out must be a list"),
        ([torch.ones(1)], [], ValueError, r"data\[0\]"),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, ValueError, r"\['a'\].*\['b'\]"),
    ],
)
def test_bad_nesting(data, out, error, part):
    with pytest.raises(error, match=part):
        dist.cast_data_device(data, torch.device("cpu"), out)


def test_data_device_names_the_place():
    with pytest.raises(TypeError, match=r"data\['a'\]\[1\]"):
        dist.get_data_device({"a": [torch.ones(1), 3]})
    with pytest.raises(ValueError, match="no tensor"):
        dist.get_data_device([])


def test_errors_outside_a_group_stay_as_they_are():
    with pytest.raises(RuntimeError) as caught, dist.named_communication("step"):
        raise RuntimeError("other")
    assert not hasattr(caught.value, "__notes__")


def test_note_with_the_position(environment):
    environment.update(TORCHRUN)
    dist.init_dist("pytorch", timeout_s=20)
    dist.set_position_source(lambda: "iteration 7")
    try:
        with pytest.raises(RuntimeError) as caught, dist.named_communication("outer"), dist.named_communication("step"):
            raise RuntimeError("Timed out waiting 2000ms")
    finally:
        dist.set_position_source(None)
    assert caught.value.__notes__[0] == "in the communication step on rank 0 of 1, iteration 7"
    assert "did not take part" in caught.value.__notes__[1]
    assert len(caught.value.__notes__) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the threads")
@pytest.mark.parametrize(("name", "is_waited_for"), [("pt_gloo_runloop", True), ("another", False)])
def test_a_thread_of_gloo_that_takes_up_python_has_done_so_before_the_end(tmp_path, name, is_waited_for):
    """A thread of that name is outside Python when the script ends; without the time it would be cut off there."""
    code = f"""
import ctypes, os, pathlib, threading, lazyengine.dist.launch
def work():
    pathlib.Path(f"/proc/self/task/{{threading.get_native_id()}}/comm").write_text("{name}")
    sleep, done = ctypes.CDLL(None).usleep, pathlib.Path({str(tmp_path / "done")!r})
    outside.set()
    sleep({1000 if is_waited_for else 60_000_000})
    done.touch()
outside = threading.Event()
threading.Thread(target=work, daemon=True).start()
outside.wait()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240, cwd=os.getcwd())
    assert (tmp_path / "done").exists() == is_waited_for
