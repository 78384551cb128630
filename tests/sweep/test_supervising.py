"""Runs that nobody watches: faults are told apart, answered once each, and written down."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from lazyengine.checkpoint import find_latest_checkpoint
from lazyengine.cli.main import main
from lazyengine.errors import UsageError, UsageValueError
from lazyengine.optim import NonFiniteError
from lazyengine.runs.verifying import hash_of_state
from lazyengine.sweep import Fault, Job, Supervised, Supervision
from lazyengine.sweep.faults import fault_of
from tests.ports import free_port

from .lab import decisions, make_project, plan, run, start, starts, wait_until

EPOCHS = "train_loop.max_epochs=3"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    make_project(folder)
    return folder


@pytest.fixture(scope="module")
def quiet(lab: Path) -> str:
    """The state at the end of a run to which nothing happened."""
    run("train", "lab/config.py", EPOCHS, "--work-dir", "quiet", cwd=lab)
    return last_state(lab / "quiet")


def last_state(folder: Path) -> str:
    return hash_of_state(str(find_latest_checkpoint(folder)))


def submit(lab: Path, name: str, *words: str, code: int = 0) -> list[tuple[str, int, str]]:
    run("submit", "lab/config.py", EPOCHS, *words, "--work-dir", name, cwd=lab, code=code)
    return [(each["fault"], each["iter"], each["decision"]) for each in decisions(lab / name)]


# ------------------------------------------------------------------ what is what, and what is done about it
def of_worker(text: str) -> RuntimeError:
    return RuntimeError(f"Caught OSError in DataLoader worker process 0.\nOriginal Traceback\n{text}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "out of memory"),
        (OSError(28, "No space left on device"), "full disk"),
        (of_worker("OSError: [Errno 28] No space left on device"), "full disk"),
        (NonFiniteError("loss is nan", 3, [None]), "non-finite"),
        (of_worker("ValueError: truncated\nwhile reading index 7 of Photos (batch 3 of epoch 0)"), "bad sample"),
        (RuntimeError("Connection closed by peer [10.0.0.2]:1234"), "lost node"),
        (UsageValueError("lr=-1"), "mistake"),
        (KeyError("x"), "error"),
    ],
)
def test_faults_are_told_apart(error, kind):
    found = fault_of(error, 3)
    assert (found.kind, found.iteration, found.error) == (kind, 3, type(error).__name__)
    assert Fault(**json.loads(json.dumps(asdict(found)))) == found


def test_what_caused_an_error_counts():
    error = RuntimeError("could not write the cache")
    error.__cause__ = OSError(28, "No space left on device")
    assert fault_of(error, 0).kind == "full disk"


def decided(policy: Supervision, *faults: Fault) -> list[str]:
    former, actions = [], []
    for fault in faults:
        decision = policy.decide(fault, former)
        actions.append(decision.action)
        former.append({"identity": fault.identity, "iter": fault.iteration})
    return actions


def test_an_error_that_comes_back_at_the_same_iteration_stops_whatever_the_policy_is():
    same = Fault("out of memory", "OutOfMemoryError", "", 40)
    assert decided(Supervision(), same, same) == ["retry", "stop"]
    elsewhere = Fault("out of memory", "OutOfMemoryError", "", 90)
    assert decided(Supervision(), same, elsewhere, same) == ["retry", "retry", "stop"]


def test_retries_without_getting_further_are_counted():
    faults = [Fault("lost node", "SIGKILL", "", iteration) for iteration in (10, 9, 8, 7)]
    assert decided(Supervision(max_retries=2), *faults) == ["retry", "retry", "retry", "stop"]
    further = [Fault("lost node", "SIGKILL", "", iteration) for iteration in range(20)]
    assert decided(Supervision(max_retries=1), *further) == ["retry"] * 20


def test_a_policy_is_followed_and_checked():
    assert decided(Supervision(hang="stop"), Fault("hang", "", "", 1)) == ["stop"]
    sample = Fault("bad sample", "ValueError", "", 1, (7, "Photos"))
    assert decided(Supervision(bad_sample="skip"), sample) == ["skip"]
    with pytest.raises(UsageError, match=r"hang='skip'\): expected one of retry, stop"):
        Supervision(hang="skip")


# ------------------------------------------------------------------ in real processes
@pytest.mark.suite
def test_faults_of_three_kinds_in_one_run_change_nothing(lab, quiet):
    kinds = [("full disk", 6), ("lost node", 8), ("non-finite", 13)]  # the suite has all
    assert submit(lab, "three", plan(lab, *kinds)) == [(kind, at, "retry") for kind, at in kinds]
    assert last_state(lab / "three") == quiet
    assert len(starts(lab / "three")) == 4


def test_a_deterministic_error_that_looks_like_memory_ends_the_run(lab):
    found = submit(lab, "lasting", plan(lab, ("out of memory", 7, "always")), code=1)
    assert found == [("out of memory", 7, "retry"), ("out of memory", 7, "stop")]
    assert "came back at iteration 7" in decisions(lab / "lasting")[1]["why"]


@pytest.mark.suite
def test_a_hang_is_ended_with_the_stacks_of_the_run_and_its_workers(lab, quiet):
    hang = plan(lab, ("hang", 7))
    words = [hang, "+train_loop.dataloader.num_workers=1", "supervision.silence_s=8"]
    assert submit(lab, "hang", *words) == [("hang", 7, "retry")]
    assert last_state(lab / "hang") == quiet
    printed = (lab / "hang" / "supervision" / "output.log").read_text()
    assert printed.count("Fatal Python error: Aborted") == 2
    assert "in wait_for_ever" in printed
    assert "_worker_loop" in printed


def test_a_bad_sample_is_named_and_left_out(lab):
    words = [plan(lab), "+dataset.bad=(3,)", "supervision.bad_sample=skip"]
    found = submit(lab, "bad", *words)
    assert [decision for _, _, decision in found] == ["skip"]
    assert "sample 3 of BadPoints" in decisions(lab / "bad")[0]["why"]
    assert [each.get("left_out") for each in starts(lab / "bad")] == [None, [3]]
    told = run("rerun", "bad", "--verify", cwd=lab)
    assert "equal: " in told
    assert [each.get("left_out") for each in starts(lab / "bad_rerun")] == [[3]]
    run("replay", "bad", "--iter", "4", cwd=lab)
    listed = run("replay", "bad", "--iter", "0:5", "--batch", cwd=lab).replace(":", ",").split()
    assert "3," not in listed
    assert "4," in listed
    for number, source in enumerate(("bad@2", "bad")):  # before the sample was read, and from the end
        run("fork", source, "--work-dir", f"forked{number}", "train_loop.max_epochs=4", cwd=lab)
        assert [each.get("left_out") for each in starts(lab / f"forked{number}")] == [[3]]


@pytest.mark.suite
def test_a_mistake_is_not_tried_again(lab, capsys):
    run("submit", "lab/config.py", "+train_loop.dataloader.limit=1", "--work-dir", "none", cwd=lab, code=2)
    assert submit(lab, "mistake", plan(lab), "optimizer.lr=-1.0", code=2) == [("mistake", 0, "stop")]
    assert main(["submit", str(lab / "lab" / "config.py"), "--gpus", "2"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "gpus=2 has no meaning with --on local; leave it out, or choose --on slurm or --on ray" in err


@pytest.mark.suite
def test_a_run_that_begins_anew_does_not_retry_with_an_earlier_runs_checkpoint(lab, quiet):
    plan(lab)
    run("train", "lab/config.py", EPOCHS, "optimizer.lr=0.5", "--work-dir", "used", cwd=lab)
    assert submit(lab, "used", plan(lab, ("error", 2))) == [("error", 2, "retry")]
    assert last_state(lab / "used") == quiet


@pytest.mark.suite
def test_ctrl_c_saves_and_a_resume_goes_on(lab, quiet):
    words = ["submit", "lab/config.py", EPOCHS, "--work-dir", "asked", plan(lab, ("wait to be stopped", 7))]
    process = start(*words, cwd=lab)
    wait_until((lab / "plan.json.0").exists, "iteration 7")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 130, out + err
    run(*words, "--resume", cwd=lab)
    assert [each["from"] and each["from"]["iter"] for each in starts(lab / "asked")] == [None, 8]
    assert last_state(lab / "asked") == quiet


@pytest.mark.suite
def test_two_ranks_of_which_one_is_lost(lab):
    plan(lab)
    words = [EPOCHS, "--ranks", "2", "train_loop.dataloader.batch_size=2"]
    run("submit", "lab/config.py", *words, "--work-dir", "ranks_quiet", cwd=lab)
    run("submit", "lab/config.py", *words, plan(lab, ("lost node", 3)), "--work-dir", "ranks", cwd=lab)
    assert [each["fault"] for each in decisions(lab / "ranks")] == ["lost node"]
    assert last_state(lab / "ranks") == last_state(lab / "ranks_quiet")


@pytest.mark.suite
@pytest.mark.timeout(1800)
def test_sixty_faults_of_six_kinds_need_no_hand(lab, quiet):
    rng = random.Random(0)
    kinds = ["out of memory", "full disk", "lost node", "non-finite", "error", "hang"]
    num_injected = 0
    for number in range(10):
        places = sorted(rng.sample(range(15), 6))
        faults = list(zip(rng.sample(kinds, 6), places))
        words = [plan(lab, *faults), "supervision.silence_s=8", "supervision.max_retries=6"]
        assert submit(lab, f"sixty_{number}", *words) == [(kind, at, "retry") for kind, at in faults]
        assert last_state(lab / f"sixty_{number}") == quiet
        num_injected += len(faults)
    assert num_injected == 60
    words = [plan(lab, ("out of memory", 9, "always")), "supervision.max_retries=6"]
    assert submit(lab, "lasting_60", *words, code=1)[-1] == ("out of memory", 9, "stop")


@pytest.mark.suite
def test_a_supervisor_on_two_machines_retries_on_both(lab):
    folder = lab / "machines"
    overrides = [EPOCHS, "train_loop.dataloader.batch_size=2", plan(lab, ("error", 3))]
    job = Job(str(lab / "lab" / "config.py"), str(folder), overrides, num_nodes=2)
    address = f"127.0.0.1:{free_port()}"
    nodes = [Supervised(Job(**vars(job)), node=node, address=address) for node in (0, 1)]
    outcomes = [None, None]

    def both_ended() -> bool:
        for number, node in enumerate(nodes):
            outcomes[number] = outcomes[number] or node.poll()
        return None not in outcomes

    wait_until(both_ended, "both machines")
    printed = Path(job.output).read_text()
    assert [each.how for each in outcomes] == ["finished", "finished"], f"{outcomes} {printed}"
    assert [each["fault"] for each in decisions(folder)] == ["error"]


@pytest.mark.suite
def test_a_hang_of_one_rank_shows_the_stacks_of_both_and_of_their_workers(lab):
    words = ["--ranks", "2", "train_loop.dataloader.batch_size=2", "+train_loop.dataloader.num_workers=1"]
    found = submit(lab, "ranks_hang", *words, plan(lab, ("hang", 3)), "supervision.silence_s=8")
    assert found == [("hang", 3, "retry")]
    printed = (lab / "ranks_hang" / "supervision" / "output.log").read_text()
    assert "in wait_for_ever" in printed
    assert printed.count("in _worker_loop") == 2
    assert printed.count("Fatal Python error: Aborted") >= 4
