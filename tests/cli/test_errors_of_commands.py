"""The errors of the first hour with every command but train: exit code 2, and a message that says what to do.

Those of train and of config files are in `tests/test_errors_first_hour.py`.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lazyengine.cli.command import say, say_running
from lazyengine.cli.main import main
from lazyengine.cli.mistakes import refuse
from tests.imports import imports_from
from tests.test_errors_first_hour import CONFIG, PARTS

REPO = Path(__file__).resolve().parents[2]
SEARCH = ["--objective", "accuracy/top1", "--trials", "2"]
MISTAKES = [
    ("show confg.py", ["'confg.py' does not exist", "Did you mean 'config.py'?"]),
    ("show config.py --keys optimzer", ["'optimzer'", "Did you mean 'optimizer'?"]),
    ("show config.py --diff nothere.py", ["'nothere.py' does not exist"]),
    ("show norunner.py --hooks", ["norunner.py has no `runner`", "LazyCall(Runner)", "optimizer"]),
    ("show empty", ["'empty' is a folder without config.py", "the folder of a run"]),
    ("train empty", ["empty", "a folder"]),
    ("train configs/config.py", ["there is no folder configs", "The current folder is"]),
    ("train bases/deep.py", ["there is no folder bases", "Did you mean 'base'?"]),
    ("train deep.py", ["has no 'deep.py'", "There is base/deep.py: cd base"]),
    ("test config.py --checkpoint bst", ["no checkpoint there: bst", "Did you mean 'best'?"]),
    ("test config.py --work-dir fresh", ["no checkpoint in fresh", "--checkpoint"]),
    ("plan config.py --gpu Z100", ["--gpu Z100: not known", "Did you mean 'V100'?", "H200"]),
    ("plan config.py --against nothere.py", ["'nothere.py' does not exist"]),
    ("plan config.py --ranks 0", ["--ranks 0", "at least 1 rank"]),
    ("summary config.py model.widht=3", ["model is Net", "Did you mean 'width'?", "Nothing was changed"]),
    ("summary norunner.py", ["has no `runner`"]),
    ("profile config.py --steps 0", ["--steps 0", "at least 1"]),
    ("profile config.py --steps 10", ["fewer than 26 iterations", "lower --steps 10"]),
    ("lr-find run@999", ["iteration 998", "iterations 0 to 1"]),
    ("lr-find config.py --low 1 --high 0.1", ["low=1.0, high=0.1", "0 < low < high"]),
    ("batch-find config.py --gpu Z100", ["--gpu Z100: not known", "H100"]),
    ("batch-find config.py --memory 1e-9", ["a batch of 1 needs", "bytes at its peak"]),
    ("batch-find config.py --memory 1 --key train_loop.dataloader.batchsize", ["Did you mean 'batch_size'?"]),
    ("schedule config.py ~runner.optim_wrapper", ["the schedule needs", "missing: optim_wrapper"]),
    ("plot nothere", ["nothere does not exist"]),
    ("plot config.py", ["config.py is no file of records", "name a run folder"]),
    ("plot run --keys los", ["no curve is called 'los'", "There are"]),
    ("compare empty", ["empty is no run that has logged", "it holds nothing"]),
    ("compare run --sort los", ["no column is called 'los'", "There are"]),
    ("table nothere.py", ["nothere.py is no file", "defines `table`"]),
    ("table notable.py", ["defines no `table`", "table = Table(...)"]),
    ("report empty", ["empty is no run that has logged"]),
    ("report run --output norunner.py/x.html", ["norunner.py/x.html cannot be read or written: Not a directory. Name"]),
    ("report run --output empty", ["UsageOSError: empty cannot be read or written: Is a directory."]),
    ("report run --output nowhere/x.html", ["nowhere/x.html cannot be read or written: No such file or directory."]),
    ("new norunner.py/x", ["cannot be read or written: Not a directory."]),
    ("rerun run --to norunner.py/x", ["cannot be read or written: Not a directory. Name another place."]),
    ("query run selct", ["'selct'", "The views are runs, metrics and events"]),
    ("query nothere select", ["nothere is no folder"]),
    ("rerun nothere", ["nothere does not exist"]),
    ("replay run --iter abc", ["--iter abc", "such as 700"]),
    ("replay run --iter 999", ["iteration 999", "iterations 0 to 1"]),
    ("replay run --iter 0 --at net", ["add --pdb"]),
    ("bisect run nothere", ["nothere does not exist"]),
    ("sweep config.py optimizer.lr=log_uniform(1e-4,1e-1)", ["needs an objective", "val/accuracy/top1"]),
    (["sweep", "config.py", "optimizer.lr=log_unifrm(1e-4,1e-1)", *SEARCH], ["Did you mean 'log_uniform'?"]),
    (["sweep", "config.py", "optimizer.lr=1e-4,1e-3", *SEARCH], ["accepts float", "'optimizer.lr=grid(1e-4,1e-3)'"]),
    (["sweep", "config.py", "optimzer.lr=grid(1,2)", *SEARCH, "--dry-run"], ["Did you mean 'optimizer'?"]),
    (["sweep", "config.py", "optimizer.lr=uniform(1,2)", *SEARCH, "--sampler", "tpx"], ["Did you mean 'tpe'?"]),
    ("submit config.py --on sge", ["--on sge", "local, slurm, ray"]),
    ("submit config.py --on slurm --slurm partition", ["--slurm partition", "KEY=VALUE"]),
    ("submit norunner.py", ["has no `runner`"]),
    ("fork run@1", ["name its folder by --work-dir"]),
    ("fork run@999 --work-dir new", ["iteration 998", "iterations 0 to 1"]),
    ("ps nothere", ["nothere is no folder"]),
    ("stop run", ["nothing trains in run", "lazyengine ps"]),
    ("clean run --keep foo", ["foo is not accepted", "best, last"]),
    ("clean nothere", ["nothere is no folder"]),
    ("export nothere", ["nothere is no run folder"]),
    ("export run", ["no best checkpoint in run", "epoch_1.pth"]),
    ("export run --checkpoint latest --fields nothere", ["--fields nothere", "x", "label"]),
    ("export run --checkpoint latest --format torch-export --output a.bin", ["a.bin", ".pt2"]),
    ("check confg.py --exact", ["Did you mean 'config.py'?"]),
    ("evaluate nothere.pt --metric Accuracy", ["no file nothere.pt", "DumpResults"]),
    ("evaluate config.py --metric Accuracy", ["config.py", ".jsonl"]),
    ("port nothere", ["nothere does not exist", "Name a file or folder"]),
    ("new 1st", ["'1st' cannot be the name", "my-shapes"]),
    ("trian config.py", ["no command 'trian'", "Did you mean 'train'?"]),
]
MISSING = [  # the module that is not there; the command; its code, what it prints without, what it says
    ("matplotlib", "plot run --keys train/* --output curves.png", "┤", "lazyengine[plot]"),
    ("matplotlib", "schedule config.py --output schedule.png", "┤", "lazyengine[plot]"),
    ("safetensors", "export run --checkpoint latest", "", "lazyengine[export]"),
    ("onnx", "export run --checkpoint latest --format onnx", "", "lazyengine[onnx]"),
    ("libcst", "port config.py --to ported", "", "lazyengine[port]"),
    (
        "optuna",
        "sweep config.py optimizer.lr=uniform(1,2) --objective accuracy/top1 --trials 2",
        "",
        "lazyengine[sweep]",
    ),
    ("submitit", "submit config.py --on slurm", "", "lazyengine[slurm]"),
    ("ray", "submit config.py --on ray", "", "lazyengine[ray]"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with one experiment and a run of it; what was imported from it is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("project")
    logged = CONFIG.replace(
        "import CheckpointHook, LoggerHook", "import CheckpointHook, IterTimerHook, LoggerHook, RuntimeInfoHook"
    ).replace('hooks = {"logger"', 'hooks = {"info": L(RuntimeInfoHook)(), "timer": L(IterTimerHook)(), "logger"')
    for name, text in (("pyproject.toml", ""), ("parts.py", PARTS), ("config.py", logged)):
        (folder / name).write_text(text)
    (folder / "notable.py").write_text("x = 1\n")
    (folder / "norunner.py").write_text("from .config import *\ndel runner\n")
    (folder / "empty").mkdir()
    (folder / "base").mkdir()
    (folder / "base" / "deep.py").write_text("")
    with imports_from(folder):
        with contextlib.chdir(folder):
            assert main(["train", "config.py"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["lazyengine"])
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize(
    ("line", "expected"), MISTAKES, ids=[line if isinstance(line, str) else " ".join(line) for line, _ in MISTAKES]
)
def test_a_mistake_ends_with_a_message_and_exit_code_2(line, expected, capsys):
    assert main(line.split() if isinstance(line, str) else line) == 2
    err = capsys.readouterr().err
    assert not [part for part in expected if part not in err], err
    assert "Traceback" not in err
    assert len(err.splitlines()) < 6


def test_a_file_that_code_of_the_user_cannot_open_keeps_its_traceback():
    for name in ("nothere", "empty", "norunner.py/x"):
        try:
            os.close(os.open(name, os.O_WRONLY))
        except OSError as error:
            with pytest.raises(type(error)):
                refuse(error)


@pytest.mark.parametrize(
    ("module", "line", "printed", "extra"), MISSING, ids=[f"{m[0]}-{m[1].split()[0]}" for m in MISSING]
)
def test_a_missing_extra_is_named_and_the_rest_is_done(module, line, printed, extra, capsys, monkeypatch):
    for name in [each for each in sys.modules if each == module or each.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert extra in captured.err
    assert printed in captured.out
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("train config.py --lr 0.1", "there is no option --lr 0.1. A value of the config is changed without dashes"),
        ("train config.py --overfitt 1", "there is no option --overfitt 1. Did you mean '--overfit'?"),
        ("ps --jsn", "there is no option --jsn. Did you mean '--json'?"),
        ("ps --far", "there is no option --far."),
    ],
)
def test_an_unknown_option_says_what_to_do(line, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err


def test_an_error_fits_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["train", "config.py", "optimizer.lrr=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60


def test_a_package_that_is_not_found_says_where_it_was_looked_for(capsys, tmp_path):
    (tmp_path / "alone.py").write_text("from my_missing_package import x\n")
    assert main(["train", str(tmp_path / "alone.py")]) == 2
    err = capsys.readouterr().err
    assert "A package is found if it is installed, or lies in" in err
    assert "pyproject.toml" in err


def fail(
    project: Path, work_dir: Path, program: tuple[str, ...] = ("-m", "lazyengine"), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own until the model fails."""
    words = [*program, "train", "config.py", "model.fault=labels", "--work-dir", str(work_dir)]
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, *words], cwd=project, env=env, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 1
    return done


def test_a_failing_run_prints_its_traceback_once_from_the_users_frame_on_and_the_hint_last(project, tmp_path):
    done = fail(project, tmp_path)
    assert (done.stdout + done.stderr).count("Traceback (most recent call last)") == 1
    lines = done.stderr.splitlines()
    frames = [line for line in lines if line.startswith("  File")]
    assert f'File "{project / "parts.py"}", line' in frames[0]
    assert "lazyengine/runner" not in done.stderr
    assert lines[-1] == "in training iteration 0 (epoch 0, batch 0) on {x: float32[4, 2], label: int64[4]}"
    (log,) = tmp_path.glob("2*/*.log")
    assert "lazyengine/runner/loops.py" in log.read_text()


def test_the_whole_traceback_is_shown_to_who_asks(project, tmp_path):
    done = fail(project, tmp_path, LAZYENGINE_WHOLE_TRACEBACK="1")
    assert "lazyengine/runner/loops.py" in done.stderr
    assert "left out" not in done.stderr


@pytest.mark.parametrize("folder", ["bin", "tools", "."])
def test_the_script_that_an_installation_makes_is_no_code_of_the_user(project, tmp_path, folder):
    script = tmp_path / folder / "lazyengine"
    script.parent.mkdir(exist_ok=True)
    script.write_text("import sys\nfrom lazyengine.cli.main import main\nsys.exit(main())\n")
    done = fail(project, tmp_path / "run", program=(str(script),))
    frames = [line for line in done.stderr.splitlines() if line.startswith("  File")]
    assert f'File "{project / "parts.py"}", line' in frames[0]


def test_a_reader_that_has_seen_enough_does_not_end_a_training(tmp_path):
    words = ["train", "projects/digits/config.py", "train_loop.max_epochs=1", "--limit", "train=20", "val=1"]
    command = [sys.executable, "-m", "lazyengine", *words, "--work-dir", str(tmp_path)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as process:
        assert "run folder" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    (log,) = tmp_path.glob("2*/*.log")
    assert "done\n" in log.read_text()


@pytest.mark.parametrize("kind", [BrokenPipeError, OSError])
def test_a_terminal_that_is_closed_ends_no_command_that_says_what_it_does(kind, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise kind

    monkeypatch.setattr(sys, "stderr", Closed())
    say("trial 3 has begun")
    say_running("trial 4")
