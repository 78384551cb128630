"""The same runs and sweeps by processes here, by submitit (its local executor, and a Slurm of scripts), and by Ray."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazyengine.checkpoint import find_latest_checkpoint
from lazyengine.errors import UsageError
from lazyengine.runs.verifying import hash_of_state
from lazyengine.sweep import Job, SlurmLauncher, make_launcher, read_search, sweep, wait

from .lab import environment, make_project, plan, run, starts, wait_until

pytest.importorskip("optuna")
WORDS = ["optimizer.lr=grid(0.01,0.001)", "train_loop.max_epochs=2"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    make_project(folder)
    return folder


def table_of(lab: Path, name: str, launcher) -> list:
    search = read_search(str(lab / "lab" / "config.py"), WORDS, objective="val/error")
    found = sweep(search, str(lab / name), launcher)
    assert found.exit_code == 0
    states = [hash_of_state(str(find_latest_checkpoint(lab / name / each.folder))) for each in found.trials]
    return [(each.overrides, each.how, each.value, state) for each, state in zip(found.trials, states)]


@pytest.fixture(scope="module")
def by_processes(lab: Path) -> list:
    return table_of(lab, "local", make_launcher("local", str(lab)))


@pytest.fixture
def slurm(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a Slurm of scripts keeps its jobs."""
    pytest.importorskip("submitit")
    commands, folder = tmp_path / "bin", tmp_path / "slurm"
    folder.mkdir()
    commands.mkdir()
    for name in ("sbatch", "srun", "sacct", "scontrol", "scancel", "squeue"):
        shutil.copy(Path(__file__).with_name("slurm.py"), commands / name)
        text = (commands / name).read_text().replace("/usr/bin/env python3", sys.executable)
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    return folder


def test_slurm_gives_the_same_table_from_an_array(lab, by_processes, slurm):
    assert table_of(lab, "slurm", SlurmLauncher(str(lab / "slurm_jobs"))) == by_processes
    (script,) = slurm.glob("job.*")
    assert "#SBATCH --array=0-1" in script.read_text()


def test_a_job_of_slurm_whose_time_ends_is_queued_again_and_goes_on(lab, slurm):
    epochs, config = "train_loop.max_epochs=4", str(lab / "lab" / "config.py")
    run("train", config, epochs, "--work-dir", "quiet", cwd=lab)
    trouble = plan(lab, ("wait to be stopped", 7))
    job = Job(config, str(lab / "requeued"), [epochs, trouble], resume=False)
    (queued,) = SlurmLauncher(str(lab / "requeued_jobs")).launch([job])
    wait_until((lab / "plan.json.0").exists, "iteration 7")
    os.kill(int((slurm / f"pid.{queued.id}").read_text()), signal.SIGUSR2)
    assert wait(queued).how == "finished"
    assert [each["from"] and each["from"]["iter"] for each in starts(lab / "requeued")] == [None, 8]
    state, quiet = (hash_of_state(str(find_latest_checkpoint(lab / name))) for name in ("requeued", "quiet"))
    assert state == quiet


@pytest.mark.suite
def test_a_job_that_is_queued_is_found_by_the_next_call_and_can_be_stopped(lab, slurm):
    trouble, folder = plan(lab, ("wait to be stopped", 7)), str(lab / "found_jobs")
    job = Job(str(lab / "lab" / "config.py"), str(lab / "found"), [trouble], resume=False)
    (first,) = SlurmLauncher(folder).launch([job])
    wait_until((lab / "plan.json.0").exists, "iteration 7")
    (second,) = SlurmLauncher(folder).launch([job])
    assert (second.id, len(list(slurm.glob("job.*")))) == (first.id, 1)
    second.stop()
    assert wait(second).how == "stopped"
    assert starts(lab / "found")[-1]["ended"]["how"] == "stopped"


@pytest.mark.suite
def test_submitits_own_executor_gives_the_same_table(lab, by_processes):
    pytest.importorskip("submitit")
    launcher = SlurmLauncher(str(lab / "local_jobs"), cluster="local")
    assert table_of(lab, "submitit", launcher) == by_processes


def test_options_of_slurm_are_checked(lab, slurm):
    with pytest.raises(UsageError, match="partitionn"):
        SlurmLauncher(str(lab / "x"), slurm={"partitionn": "gpu"})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends what Ray starts on this machine."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    yield
    ray.shutdown()


@pytest.mark.suite
@pytest.mark.timeout(600)
def test_ray_gives_the_same_table(lab, by_processes, cluster):
    assert table_of(lab, "ray", make_launcher("ray", str(lab))) == by_processes


@pytest.mark.suite
@pytest.mark.timeout(600)
def test_runs_of_ray_are_stopped_at_work_and_in_the_queue_and_go_on(lab, cluster):
    config, cores = str(lab / "lab" / "config.py"), len(os.sched_getaffinity(0))
    launcher = make_launcher("ray", str(lab), num_ranks=cores)
    names = {"at_work": [plan(lab, ("wait to be stopped", 7))], "queued": []}
    jobs = [Job(config, str(lab / name), words) for name, words in names.items()]
    (at_work,) = launcher.launch(jobs[:1])
    wait_until((lab / "plan.json.0").exists, "iteration 7")
    (queued,) = launcher.launch(jobs[1:])
    for each in (queued, at_work):
        each.stop()
    assert [(wait(each).how, wait(each).exit_code) for each in (queued, at_work)] == [("stopped", 143)] * 2
    assert not (lab / "queued" / "run.json").exists()
    assert [wait(each).how for each in launcher.launch(jobs)] == ["finished"] * 2
    assert [each["from"] and each["from"]["iter"] for each in starts(lab / "at_work")] == [None, 8]


@pytest.mark.suite
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_ranks": 10_000}, "10000 processes"), ({"gpus": 10_000}, "10000 GPUs"), ({"address": "none"}, "none")],
)
def test_what_no_cluster_can_run_is_refused_and_does_not_wait_for_ever(lab, cluster, options, message):
    with pytest.raises(UsageError, match=message):
        make_launcher("ray", str(lab), **options)
