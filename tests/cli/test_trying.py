"""Trying an experiment from the command line: the config as the first argument, few batches, everything once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lazyengine.cli import checkpoint, show, test, train
from lazyengine.cli.command import parse_arguments
from lazyengine.config import LazyConfig

REPO = Path(__file__).resolve().parents[2]
DIGITS = str(REPO / "projects/digits/config.py")


def parsed(*argv):
    """Return the arguments as the command understands them."""
    return parse_arguments(train.main.build_parser(), train.tell_overrides_apart(argv))


@pytest.mark.parametrize(
    "argv",
    [
        ["c.py", "a.b=1"],
        ["--config", "c.py", "a.b=1"],
        ["a.b=1", "--config", "c.py"],
        ["--fast-dev-run", "c.py", "a.b=1"],
        ["--resume", "c.py", "a.b=1"],
        ["--limit", "train=5", "val=2", "c.py", "a.b=1"],
    ],
)
def test_the_config_is_the_first_argument_or_an_option(argv):
    args = parsed(*argv)
    assert (args.config, args.overrides) == ("c.py", ["a.b=1"])


def test_options_whose_value_may_be_left_out():
    assert parsed("--fast-dev-run", "c.py").fast_dev_run == 2
    assert parsed("--fast-dev-run", "5", "c.py").fast_dev_run == 5
    assert parsed("c.py", "--fast-dev-run").fast_dev_run == 2
    assert parsed("c.py").fast_dev_run is None
    assert parsed("--resume", "c.py").resume == "auto"
    assert parsed("c.py", "--limit", "train=5", "val=2", "train.lr=1").limit == {"train": 5, "val": 2}


@pytest.mark.parametrize("argv", [[], ["a.b=1"], ["--resume"]])
def test_no_config_is_named(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(argv)
    assert stop.value.code == 2
    assert "name the config of the experiment" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["trian=5", "train=0", "train", "val=-1"])
def test_a_limit_that_is_none(limit, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main([DIGITS, "--limit", limit])
    assert stop.value.code == 2
    assert "expected train=N, val=N or test=N" in capsys.readouterr().err


def test_mistakes_are_told_before_anything_runs(capsys):
    assert train.main([DIGITS, "--limit", "test=2"]) == 2
    assert "--limit test=2: the config's runner has no test_loop" in capsys.readouterr().err
    assert train.main([DIGITS, "--fast-dev-run", "--resume"]) == 2
    assert "--resume must be left out" in capsys.readouterr().err
    assert train.main([DIGITS, "--fast-dev-run", "0"]) == 2
    assert "--fast-dev-run 0: expected a number of batches" in capsys.readouterr().err


def test_limits_are_in_the_saved_config_and_its_record(tmp_path):
    options = ["--limit", "train=2", "val=1", "--overfit", "1", "model.width=4", "train_loop.max_epochs=1"]
    assert train.main([DIGITS, "--work-dir", str(tmp_path), *options]) == 0
    cfg = LazyConfig.load(str(tmp_path / "config.py"))
    assert (cfg.train_loop.limit, cfg.train_loop.overfit, cfg.val_loop.limit) == (2, 1, 1)
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert re.search(r"Epoch\(train\).*\[1\]\[2/2\]", log)
    assert re.search(r"Epoch\(val\).*\[1\]\[1/1\]", log)


def test_everything_is_tried_in_a_folder_that_goes_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main([DIGITS, "--fast-dev-run", "model.width=4"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "fast-dev-run: 2 batches of each: trained, resumed, tested"
    assert "resumed from" in out
    assert "changed since the checkpoint" not in out
    assert "schedule was changed" not in out
    assert "fast-dev-run: exact: " in out
    assert not list(tmp_path.iterdir())


def test_the_output_says_that_one_batch_is_trained_on_over_and_over(tmp_path, capsys):
    options = ["--overfit", "1", "model.width=4", "train_loop.max_epochs=1", "--limit", "train=2", "val=1"]
    assert train.main([DIGITS, "--work-dir", str(tmp_path), *options]) == 0
    out = capsys.readouterr().out
    assert "2 batches an epoch, of which the first 1 batch over and over" in out
    assert re.search(r"length +1 epoch, 2 iterations", out)


def test_each_of_train_and_test_has_its_own_page(capsys):
    pages = {}
    for name, module in (("train", train), ("test", test)):
        with pytest.raises(SystemExit):
            module.main(["--help"])
        pages[name] = capsys.readouterr().out
    assert "Train or evaluate" in pages["train"]
    assert "--fast-dev-run" in pages["train"]
    assert not [option for option in ("--fast-dev-run", "--resume", "--overfit") if option in pages["test"]]
    assert "Evaluate the experiment" in pages["test"]


def test_a_dry_run_ends_with_what_it_found(capsys):
    assert train.main([DIGITS, "--dry-run"]) == 0
    assert "every type fits; nothing was trained" in capsys.readouterr().out.splitlines()[-1]


def test_an_experiment_by_iterations_without_saving(tmp_path, capsys):
    options = ["model.width=4", "~default_hooks.checkpoint"]
    config = str(REPO / "projects/digits/iter_config.py")
    assert train.main([config, "--fast-dev-run", "1", "--work-dir", str(tmp_path), *options]) == 0
    out = capsys.readouterr().out
    assert "trained, nothing was saved, since no hook saves, so nothing was resumed, tested" in out


def test_the_metrics_of_a_test_as_json(tmp_path):
    command = [
        sys.executable,
        "-m",
        "lazyengine",
        "test",
        DIGITS,
        "--json",
        "--work-dir",
        str(tmp_path),
        "--checkpoint",
        "none",
    ]
    done = subprocess.run([*command, "model.width=4", "--limit", "val=1"], capture_output=True, text=True, check=True)
    assert list(json.loads(done.stdout)) == ["accuracy/top1"]


def test_the_hooks_are_shown_when_they_are_asked_for(capsys):
    assert show.main([DIGITS, "--hooks", "+runner.load_from=nowhere.pth"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("hooks, point by point:\nbefore_run ")
    assert "CheckpointHook" in out
    assert show.main([str(REPO / "projects/common/runtime_config.py"), "--hooks"]) == 2
    assert "has no `runner`" in capsys.readouterr().err


def test_differences_and_damages_as_json(capsys, tmp_path):
    assert show.main([DIGITS, "optimizer.lr=1.0", "--diff", DIGITS, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [{"path": "optimizer.lr", "old": "1.0", "new": "0.003"}]
    (tmp_path / "empty.pth").touch()
    assert checkpoint.main(["verify", str(tmp_path / "empty.pth"), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["file"], found["ok"]) == (str(tmp_path / "empty.pth"), False)


def test_what_is_not_exact_is_named_while_trying(capsys, monkeypatch):
    from projects.digits.digits import Digits

    counted = iter(range(1_000_000))
    monkeypatch.setattr(Digits, "prepare_data", changing(Digits.prepare_data, counted))
    assert train.main([DIGITS, "--fast-dev-run", "1", "model.width=4"]) == 0
    assert "fast-dev-run: not exact: " in capsys.readouterr().out


def changing(function, numbers):
    """Return a method of a dataset that gives something else at every call."""

    def prepare(self, index):
        sample = function(self, index)
        return {**sample, "image": sample["image"] + next(numbers)}

    return prepare


def test_a_loader_that_cannot_be_tried_fails_nothing(capsys, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise AttributeError("num_workers")

    monkeypatch.setattr("lazyengine.cli.trying.check_exact", fail)
    assert train.main([DIGITS, "--fast-dev-run", "1", "model.width=4"]) == 0
    out = capsys.readouterr().out
    assert "whether it is exact cannot be tried: AttributeError: num_workers" in out
    assert out.splitlines()[-1].endswith("trained, resumed, tested")
