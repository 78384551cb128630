"""A sweep goes on where it stood, whatever was killed; nothing runs twice; pruned trials are no errors."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

from lazyengine.checkpoint import find_latest_checkpoint
from lazyengine.errors import UsageError
from lazyengine.runs import read_run
from lazyengine.runs.verifying import hash_of_state
from lazyengine.runs.watching import owner_of
from lazyengine.sweep import LocalLauncher, Search, choice, grid, planned, read_search, sweep

from .lab import decisions, make_project, plan, rows, run, start, starts, wait_until

pytest.importorskip("optuna")
OBJECTIVE = ["--objective", "val/error"]
GRID = ["optimizer.lr=0.02", "runner.seed=range(2)", *OBJECTIVE]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    make_project(folder)
    return folder


@pytest.fixture(scope="module")
def config(lab: Path) -> str:
    return str(lab / "lab" / "config.py")


@pytest.fixture(scope="module")
def undisturbed(lab: Path, config: str) -> list:
    return rows(lab / "undisturbed", config, *GRID, cwd=lab)


def test_every_combination_is_an_ordinary_run(lab, config, undisturbed):
    assert [how for _, how, _ in undisturbed] == ["finished"] * 2
    curve = read_run(lab / "undisturbed" / "0001").curves["val/error"][1]
    (value,) = (value for overrides, _, value in undisturbed if overrides == ["runner.seed=1"])
    assert value == min(curve)
    run("train", config, "optimizer.lr=0.02", "runner.seed=1", "--work-dir", "alone", cwd=lab)
    assert last_state(lab / "alone") == last_state(lab / "undisturbed" / "0001")


def test_the_same_command_runs_nothing_again(lab, config, undisturbed):
    before = [starts(lab / "undisturbed" / f"{n:04d}") for n in range(2)]
    assert rows(lab / "undisturbed", config, *GRID, cwd=lab) == undisturbed
    assert [starts(lab / "undisturbed" / f"{n:04d}") for n in range(2)] == before


def test_another_search_is_refused_in_the_folder(lab, config, undisturbed):
    search = read_search(config, ["optimizer.lr=grid(0.5)"], objective="val/error")
    for folder in ("undisturbed", "undisturbed/0000"):
        with pytest.raises(UsageError, match=r"has another search|is the folder of a run"):
            planned(search, folder=str(lab / folder))
    assert len(planned(search, folder=str(lab / "nowhere"))) == 1
    with pytest.raises(UsageError, match=r"has another search: space was .*grid\(0, 1\).* is .*grid\(0.5\)"):
        sweep(search, str(lab / "undisturbed"))


def test_the_folder_of_a_run_is_no_place_for_a_sweep(lab, config, undisturbed):
    search = read_search(config, GRID[:2], objective="val/error")
    with pytest.raises(UsageError, match="0000 is the folder of a run: name another one"):
        sweep(search, str(lab / "undisturbed" / "0000"))


def test_a_config_that_has_changed_since_is_told(lab, config, undisturbed):
    shutil.copytree(lab / "undisturbed", lab / "changed")
    other = Path(config).read_text() + "\nmodel.width = 5\n"
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.callback(Path(config).write_text, Path(config).read_text())
        Path(config).write_text(other)
        found = sweep(read_search(config, GRID[:2], objective="val/error"), str(lab / "changed"), report=said.append)
    assert [each.how for each in found.trials] == ["finished"] * 2
    (line,) = said
    assert line.startswith("since trial 0001 ran this has changed: model.width was not set, is 5. What has ended stays")
    sweep(read_search(config, GRID[:2], objective="val/error"), str(lab / "changed"), report=said.append)
    assert len(said) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.suite)])
def test_a_sweep_that_was_stopped_goes_on(lab, config, undisturbed, number):
    folder = lab / f"stopped_{number}"
    process = start("sweep", config, *GRID, "--work-dir", str(folder), "--jobs", "1", cwd=lab)
    wait_until(lambda: len(list(folder.glob("*/epoch_*.pth"))) > 0, "a first checkpoint")
    process.send_signal(number)
    process.communicate(timeout=280)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert rows(folder, config, *GRID, cwd=lab) == undisturbed


@pytest.mark.suite
def test_a_trial_that_was_killed_resumes(lab, config, undisturbed):
    folder = lab / "killed_trial"
    process = start("sweep", config, *GRID, "--work-dir", str(folder), "--jobs", "1", cwd=lab)
    wait_until(lambda: (folder / "0001" / "last_checkpoint").exists(), "a checkpoint of the second trial")
    if (owner := owner_of(folder / "0001")) is not None:
        os.kill(owner["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out + err
    assert rows(folder, config, *GRID, cwd=lab) == undisturbed


def test_the_same_run_is_found_and_not_made_again(lab, config):
    search = Search(config, {"model.width": choice(4), "train_loop.max_epochs": 1}, objective="val/error", trials=3)
    found = sweep(search, str(lab / "twice"))
    assert [(each.how, each.same_as) for each in found.trials] == [("finished", None), ("finished", 0), ("finished", 0)]
    assert len({each.value for each in found.trials}) == 1
    assert sorted(path.name for path in (lab / "twice").glob("0*")) == ["0000"]


def test_a_trial_that_fails_is_named_and_tried_again_by_the_next_call(lab, config):
    broken = plan(lab, ("error", 3, "always"))
    search = Search(config, {"runner.seed": grid(0)}, objective="val/error", overrides=[broken])
    found = sweep(search, str(lab / "failing"))
    assert (found.exit_code, found.trials[0].how) == (1, "failed")
    assert "KeyError" in found.trials[0].reason
    assert "(KeyError: 'no such thing'): stop, it came back at iteration 3" in found.as_text()
    plan(lab)
    assert [each.how for each in sweep(search, str(lab / "failing")).trials] == ["finished"]


@pytest.mark.parametrize("change", ["model.width", "runner.model.width"])
def test_a_trial_whose_values_a_constructor_refuses_fails_at_once_and_the_others_go_on(lab, config, change):
    folder = lab / f"refused_{change}"
    search = Search(config, {change: grid(-2, 4), "train_loop.max_epochs": 1}, objective="val/error")
    found = sweep(search, str(folder), LocalLauncher(capacity=1))
    assert [(each.how, each.number) for each in found.trials] == [("failed", 0), ("finished", 1)]
    assert f"0000 failed: mistake at iteration 0 (RuntimeError: {change}=-2: Trying to create" in found.as_text()
    assert [each["decision"] for each in decisions(folder / "0000")] == ["stop"]


def test_a_class_that_refuses_what_no_trial_sets_is_named_by_its_path(lab, config):
    search = Search(config, {"runner.seed": grid(0)}, objective="val/error", overrides=["optimizer.lr=-1"])
    (trial,) = sweep(search, str(lab / "refused_by_path")).trials
    assert "(ValueError: optimizer.lr=-1: Invalid learning rate" in trial.reason
    broken = str(Path(config).with_name("broken.py"))
    Path(broken).write_text("from .config import *\n\nmodel.width = -2\n")
    (trial,) = sweep(Search(broken, {"runner.seed": grid(0)}, objective="val/error"), str(lab / "broken")).trials
    assert "(RuntimeError: model: Trying to create tensor" in trial.reason


def test_a_wrong_objective_ends_the_sweep_at_the_first_validation(lab, config):
    """The run of a trial is far from its end then."""
    plain, folder = Path(config).with_name("plain.py"), lab / "wrong_objective"
    plain.write_text("from .config import *\n\ndel runner.hooks['trouble'], runner.hooks['diary']\n")
    space = {"runner.seed": grid(0, 1), "train_loop.max_epochs": 100_000}
    search = Search(str(plain), space, objective="val/eror", direction="minimize")
    with pytest.raises(UsageError, match=r"no curve is called 'val/eror'. Did you mean 'val/error'\?"):
        sweep(search, str(folder), LocalLauncher(capacity=1))
    assert [path.name for path in folder.glob("0*")] == ["0000"]
    assert starts(folder / "0000")[-1]["ended"]["how"] == "stopped"


LATE = """
    import time
    from pathlib import Path
    from lazyengine.hooks import Hook

    class Late(Hook):
        def __init__(self, path):
            self.path = path

        def after_val_epoch(self, runner, metrics=None):
            while runner.epoch == 2 and not Path(self.path).exists():
                time.sleep(0.01)
            if runner.epoch == 3:
                runner.visualizer.add_scalars({"late_error": 0.5}, step=runner.num_iters_completed, mode="val")
"""


def test_an_objective_that_a_hook_records_late_is_waited_for(lab, config):
    """It is told at the first validation, where the run waits until it has been."""
    told, late = lab / "told", Path(config).with_name("late.py")
    Path(config).with_name("late_hook.py").write_text(textwrap.dedent(LATE))
    lines = "from .config import *\nfrom .late_hook import Late\n\n"
    late.write_text(f"{lines}runner.hooks['late'] = L(Late)(path={str(told)!r})\n")

    def report(line: str) -> None:
        if line.startswith("the objective was not recorded at the first validation of a trial: no curve is called"):
            told.touch()

    search = Search(str(late), {"runner.seed": grid(0)}, objective="val/late_error")
    (trial,) = sweep(search, str(lab / "late_objective"), report=report).trials
    assert (trial.how, trial.value, told.exists()) == ("finished", 0.5, True)


@pytest.mark.parametrize("pruner", [None, "median"])
def test_an_objective_that_no_run_records_ends_the_sweep_and_can_be_corrected(lab, config, pruner):
    """No trial is marked for it."""
    folder = str(lab / f"no_such_{pruner}")
    space = {"runner.seed": grid(0, 1), "train_loop.max_epochs": 2}

    def search(objective: str) -> Search:
        return Search(config, space, objective=objective, direction="minimize", pruner=pruner)

    for _ in range(2):  # as often as it is called
        with pytest.raises(UsageError, match=r"no curve is called 'val/eror'. Did you mean 'val/error'\?"):
            sweep(search("val/eror"), folder, LocalLauncher(capacity=1))
    found = sweep(search("val/error"), folder, LocalLauncher(capacity=1))
    assert [(each.number, each.how) for each in found.trials] == [(0, "finished"), (1, "finished")]
    with pytest.raises(UsageError, match="objective was val/error, is "):
        sweep(search("val/eror"), folder)


SELDOM = """
    from lazyengine.hooks import Hook

    class Seldom(Hook):
        def __init__(self, every):
            self.every = every

        def after_val_epoch(self, runner, metrics=None):
            if runner.epoch % self.every == 0:
                found = {"seldom_error": 1.0 / self.every}
                metrics.update(found)
                runner.visualizer.add_scalars(found, runner.num_iters_completed, mode="val")
"""


@pytest.mark.parametrize("pruner", [None, "median"])
def test_a_trial_that_never_records_the_objective_fails_and_the_others_go_on(lab, config, pruner):
    """The first one records it at every second validation, the next at none, the last at all."""
    Path(config).with_name("seldom_hook.py").write_text(textwrap.dedent(SELDOM))
    seldom = Path(config).with_name("seldom.py")
    lines = "from .config import *\nfrom .seldom_hook import Seldom\n\n"
    seldom.write_text(f"{lines}runner.hooks['seldom'] = L(Seldom)(every=1)\n")
    space = {"runner.hooks.seldom.every": grid(2, 50, 1)}
    search = Search(str(seldom), space, objective="val/seldom_error", pruner=pruner)
    for _ in range(2):  # as often as it is called
        found = sweep(search, str(lab / f"seldom_{pruner}"), LocalLauncher(capacity=1))
        assert [(each.how, each.value) for each in found.trials] == [
            ("finished", 0.5),
            ("failed", None),
            ("finished", 1),
        ]
        assert found.trials[1].reason == "val/seldom_error was never recorded as a finite number"


def last_state(folder: Path) -> str:
    """A hash of the weights and the optimizer at the end of a run."""
    return hash_of_state(str(find_latest_checkpoint(folder)))


def computed(diary: Path) -> collections.Counter[str]:
    """How often each iteration of each trial was computed."""
    return collections.Counter(diary.read_text().split("\n")[:-1])


def asha(lab: Path, config: str, num_seeds: int, name: str, capacity: int):
    diary = lab / f"{name}.diary"
    overrides = [f"runner.hooks.diary.path={diary}", "train_loop.max_epochs=9"]
    space = {"optimizer.lr": grid(1e-1, 1e-2, 1e-4), "runner.seed": range(num_seeds)}
    search = Search(config, space, "val/error", overrides=overrides, pruner="asha(reduction_factor=3)")
    return sweep(search, str(lab / name), LocalLauncher(capacity=capacity)), computed(diary)


def check_asha(found, counts):
    hows = collections.Counter(each.how for each in found.trials)
    assert found.exit_code == 0
    assert hows["finished"] >= 1
    assert hows["pruned"] >= len(found.trials) // 3
    assert set(counts.values()) == {1}
    assert sum(counts.values()) < 0.9 * len(found.trials) * 45


def test_successive_halving_computes_no_iteration_twice(lab, config):
    found, counts = asha(lab, config, 1, "asha", 1)
    check_asha(found, counts)
    assert (
        json.loads((lab / "asha" / found.ranked()[-1].folder / "supervision" / "pruned.json").read_text())["iter"] < 45
    )


@pytest.mark.suite
@pytest.mark.timeout(900)
def test_asha_of_27_trials_computes_no_iteration_twice(lab, config):
    check_asha(*asha(lab, config, 9, "asha_27", 2))


def num_starts(folder: Path) -> int:
    """How many starts of all trials have recorded something."""
    return len(list(folder.glob("0*/*/metrics.jsonl")))


def check_no_finished_trial_ran_again(folder: Path, finished: dict[str, int]) -> None:
    """Compare the number of starts of each trial with what it was when the trial had finished."""
    for path in folder.glob("0*/run.json"):
        entries = json.loads(path.read_text())["starts"]
        if entries and (entries[-1]["ended"] or {}).get("how") == "finished":
            assert finished.setdefault(path.parent.name, len(entries)) == len(entries), f"{path} ran again"


@pytest.mark.suite
@pytest.mark.timeout(3600)
def test_fifty_kills_change_nothing(lab, config):
    words = ["optimizer.lr=grid(0.1,0.01,0.001)", "runner.seed=range(4)", "train_loop.max_epochs=6", *OBJECTIVE]
    quiet = rows(lab / "quiet", config, *words, cwd=lab)
    folder, rng, num_kills = lab / "fifty", random.Random(0), 0
    finished: dict[str, int] = {}
    devnull = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = start("sweep", config, *words, "--work-dir", str(folder), cwd=lab, **devnull)
    while num_kills < 50:
        check_no_finished_trial_ran_again(folder, finished)
        if process.poll() == 0:  # it is through: some of its trials once more
            for name in rng.sample(sorted(finished), 4):
                del finished[name]
                shutil.rmtree(folder / name)
            (folder / "study.journal").unlink()
        if process.poll() is not None:
            process = start("sweep", config, *words, "--work-dir", str(folder), cwd=lab, **devnull)
        more, alive = num_starts(folder) + rng.randrange(1, 4), process
        wait_until(lambda p=alive, n=more: p.poll() is not None or num_starts(folder) >= n, "more starts")
        at_work = [owner["pid"] for path in folder.glob("0*") if (owner := owner_of(path)) is not None]
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim := rng.choice([process.pid, *at_work]), signal.SIGKILL)
            num_kills += 1
            if victim == process.pid:
                process.wait()
    process.wait(timeout=600)
    check_no_finished_trial_ran_again(folder, finished)
    assert rows(folder, config, *words, cwd=lab) == quiet
