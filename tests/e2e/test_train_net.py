"""The command line on the digits project, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import forks

REPO = Path(__file__).resolve().parents[2]
SMALL = ("model.width=4", "train_loop.max_epochs=2", "default_hooks.logger.interval=20")


def train_net(*args: str, check: int | None = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``tools/train_net.py`` from the repository's root and compare its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    done = forks.run(["tools/train_net.py", *args], cwd=REPO, env=environment)
    assert check is None or done.returncode == check, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short training of the digits: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("digits")
    done = train_net("--config", "projects/digits/config.py", "--work-dir", str(folder), *SMALL)
    return folder, done.stdout


def accuracy_in(text: str, pattern: str) -> float:
    found = re.findall(pattern, text)
    assert found, text[-2000:]
    return float(found[-1])


def test_training_prints_a_short_banner_progress_and_a_final_table(digits_run):
    folder, out = digits_run
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if "Epoch(train)" in line)
    assert first <= 10
    assert all(len(line) <= 100 or str(folder) in line for line in lines)
    banner = "\n".join(lines[:first])
    assert re.search(r"model +DigitNet: [\d,]+ parameters", banner)
    assert re.search(r"optimizer +AdamW, 1 parameter group, lr 0.003", banner)
    assert re.search(r"data +Digits, 1,438 samples, 45 batches an epoch", banner)
    assert re.search(r"length +2 epochs, 90 iterations", banner)
    assert re.search(r"begins +anew", banner)
    (log,) = folder.glob("*/*.log")
    assert str(log) in banner
    for text in ("hooks, point by point:", "CheckpointHook", "parameter groups:", "mean of 10"):
        assert text in log.read_text()
        assert text not in out
    assert re.search(r"Epoch\(train\).*\[2\]\[40/45\]  loss: .*lr: .*eta: ", out)
    assert re.search(r"best accuracy/top1 +\d\.\d+ \(best_accuracy_top1_epoch_\d\.pth\)", out)


def test_the_run_folder_holds_what_the_readme_says(digits_run):
    folder, _ = digits_run
    names = {p.name for p in folder.iterdir()}
    assert {"config.py", "config.json", "last_checkpoint", "epoch_1.pth", "epoch_2.pth"} <= names
    assert any(re.fullmatch(r"best_accuracy_top1_epoch_\d\.pth", name) for name in names)
    (start,) = [p for p in folder.iterdir() if re.fullmatch(r"\d{8}_\d{6}", p.name)]
    assert {f"{start.name}.log", "metrics.jsonl", "env.json", "tensorboard"} <= {p.name for p in start.iterdir()}
    records = [json.loads(line) for line in (start / "metrics.jsonl").read_text().splitlines()]
    assert {r["mode"] for r in records} == {"train", "val"}
    assert all({"step", "epoch", "iter", "mode"} <= set(r) for r in records)
    assert [r["step"] for r in records if r["mode"] == "val"] == [45, 90]
    checkpoint = torch.load(folder / "epoch_2.pth", weights_only=True)
    assert {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers"} <= set(checkpoint)


def test_tensorboard_reads_the_events(digits_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = digits_run
    (events,) = folder.glob("*/tensorboard")
    curves = EventAccumulator(str(events)).Reload()
    assert [e.step for e in curves.Scalars("train/loss")] == [20, 40, 65, 85]
    assert [e.step for e in curves.Scalars("val/accuracy/top1")] == [45, 90]


def test_eval_only_gives_the_accuracy_of_training_and_builds_no_optimizer(digits_run):
    folder, out = digits_run
    best = accuracy_in(out, r"best accuracy/top1 +(\d\.\d+)")
    # An optimizer or a train loader that cannot be built shows that neither is.
    done = train_net(
        *("--config", "projects/digits/config.py", "--work-dir", str(folder), "--eval-only", "--checkpoint", "best"),
        *(*SMALL, "optimizer.lr=-1.0", "train_dataset.file=missing.csv"),
    )
    assert accuracy_in(done.stdout, r"(?m)^  val/accuracy/top1 +(\d\.\d+)") == pytest.approx(best, abs=5e-5)


def test_the_saved_config_runs_again_and_gives_the_same_weights(digits_run, tmp_path):
    folder, _ = digits_run
    train_net("--config", str(folder / "config.py"), "--work-dir", str(tmp_path))
    first, second = (torch.load(d / "epoch_2.pth", weights_only=True)["state_dict"] for d in (folder, tmp_path))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_evaluation_does_not_resume_and_says_when_there_are_no_weights(tmp_path, capsys):
    from lazyengine.cli.train import main

    args = ["--config", "projects/digits/config.py", "--work-dir", str(tmp_path), "--eval-only"]
    assert main([*args, "--resume"]) == 2
    assert "name the weights to evaluate by --checkpoint latest" in capsys.readouterr().err
    assert main(args) == 2
    assert "--checkpoint none is for those that the model is built with" in capsys.readouterr().err
    assert main([*args, "--checkpoint", "none"]) == 0


def test_a_dry_run_checks_types_and_arguments(capsys):
    from lazyengine.cli.train import main

    assert main(["--config", "projects/digits/config.py", "--dry-run", "train_loop.max_epochs=null"]) == 2
    assert "max_epochs" in capsys.readouterr().err


def test_overrides_change_exactly_what_they_name(tmp_path):
    args = ("--config", "projects/digits/config.py", "--dry-run")
    plain = train_net(*args).stdout.splitlines()
    changed = train_net(*args, "optimizer.lr=3e-4", "train_loop.max_epochs=2").stdout.splitlines()
    differing = [new.strip() for old, new in zip(plain, changed, strict=True) if old != new]
    assert [line.split(":")[0] for line in differing] == ["lr", "max_epochs"]
    assert [line.split("= ")[1] for line in differing] == ["0.0003", "2"]


def test_a_misspelt_key_stops_before_anything_is_built(tmp_path):
    args = ("--config", "projects/digits/config.py", "--work-dir", str(tmp_path / "run"))
    done = train_net(*args, "optimizer.lrr=1", check=2)
    assert "optimizer.lrr=1" in done.stderr
    assert "lr" in done.stderr
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in done.stderr


def test_dry_run_prints_the_experiment_and_makes_no_folder(tmp_path):
    args = ("--config", "projects/digits/config.py", "--work-dir", str(tmp_path / "run"), "--dry-run")
    done = train_net(*args, "train_dataset.file=missing.csv")
    assert "hooks, point by point:" in done.stdout
    assert re.search(r"parameters?.*\d", done.stdout)
    assert "missing.csv" in done.stdout
    assert not (tmp_path / "run").exists()


def test_missing_config_and_config_without_runner(tmp_path):
    done = train_net("--config", "projects/digits/confg.py", check=2)
    assert "confg.py" in done.stderr
    (tmp_path / "empty.py").write_text("x = 1\n")
    done = train_net("--config", str(tmp_path / "empty.py"), check=2)
    assert "has no `runner`" in done.stderr


def test_help_explains_options_and_overrides():
    out = train_net("--help").stdout
    for text in ("--resume", "--eval-only", "--checkpoint", "--dry-run", "--seed", "--work-dir", "optimizer.lr=3e-4"):
        assert text in out


@pytest.mark.slow
def test_iteration_based_training_by_replacing_one_node(tmp_path):
    done = train_net(
        *("--config", "projects/digits/iter_config.py", "--work-dir", str(tmp_path)),
        *("model.width=4", "train_loop.max_iters=60", "train_loop.val_interval=30"),
    )
    assert re.search(r"Iter\(train\) \[60/60\]", done.stdout)
    assert (tmp_path / "iter_60.pth").exists()


@pytest.mark.slow
def test_killed_and_resumed_ends_as_the_uninterrupted_run(digits_run, tmp_path):
    folder, _ = digits_run
    args = [sys.executable, "tools/train_net.py", "--config", "projects/digits/config.py", "--work-dir", str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*args, *SMALL], cwd=REPO, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "[2][20/45]" in line:
                process.kill()
    assert process.returncode == -9
    assert not (tmp_path / "epoch_2.pth").exists()
    done = train_net(*args[2:], *SMALL, "--resume")
    assert "resumed from" in done.stdout
    first, second = (torch.load(d / "epoch_2.pth", weights_only=True)["state_dict"] for d in (folder, tmp_path))
    assert all(torch.equal(first[key], second[key]) for key in first)
