"""Any iteration of a run is made again to the bit, from what its folder keeps, and nothing is written into it."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lazyengine.cli import replay as command
from lazyengine.logging import METRICS_FILE
from lazyengine.runs import read_run, replay, replay_range
from lazyengine.runs.reading import PLACE
from lazyengine.runs.replaying import nearest_checkpoint
from lazyengine.runs.verifying import hash_of

from ..record.project import write
from . import logbook
from .toy import make_project
from .training import REPOSITORY, start

KEPT = "runner.hooks.checkpoint.max_keep_ckpts=100"
CLIP = "+runner.optim_wrapper.clip_grad={'max_norm':1.0}"


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """15 iterations, of which every third is recorded; stopped after the sixth, and resumed."""
    folder = tmp_path_factory.mktemp("replay")
    config = make_project(folder / "home")
    options = (KEPT, CLIP, "runner.hooks.logger.interval=3")
    start(config, folder / "run", *options, "--stop", "6", code=143)
    start(config, folder / "run", *options, "--resume=auto")
    return folder / "run"


def test_an_iteration_is_made_again_and_compared_with_what_was_recorded(run, tmp_path, capsys):
    before = files_of(run)
    found = replay(run, 7, save=tmp_path / "step.pt", trace=True)
    assert found.is_equal
    assert (found.step, found.window) == (8, 10)
    assert set(found.compared) == {"lr", "loss", "grad_norm"}
    assert Path(found.checkpoint or "").parent == run
    (rank,) = found.ranks
    assert (rank["epoch"], rank["batch"]) == (1, 2)
    assert rank["norms"]["train/grad_norm"] > 0
    assert rank["shapes"] == "{x: float32[4, 4], y: float32[4]}"
    indices = rank["samples"][""]["indices"]
    assert rank["samples"][""]["from"] == [f"Points[{index}]" for index in indices]
    kinds = list(dict.fromkeys(kind for kind, _, _ in rank["trace"]))
    assert kinds == [
        *("batch", "parameters", "buffers", "state of the optimizer", "output", "gradient", "loss", "update"),
        "random streams",
    ]
    (kept,) = torch.load(tmp_path / "step.pt", weights_only=True)["ranks"]
    assert kept["batch"]["x"].shape == (4, 4)
    assert kept["outputs"]["net.0"].shape == (4, 8)
    assert kept["gradients"]["net.3.weight"].shape == (1, 8)
    assert files_of(run) == before
    text = found.as_text()
    assert "iteration 7 (epoch 1, batch 2), from " in text
    assert "recorded at step 8, means over the 10 iterations up to it" in text


def test_samples_alone_are_those_of_the_run(run, capsys):
    whole = replay_range(run, [5, 11])
    alone = replay_range(run, [11, 5], only_samples=True)
    assert [each.iteration for each in alone] == [5, 11]
    assert [each.ranks[0]["samples"] for each in alone] == [each.ranks[0]["samples"] for each in whole]
    assert all(each.is_equal for each in whole)
    assert command.main([str(run), "--iter", "5:6", "--batch"]) == 0
    indices = ", ".join(map(str, alone[0].ranks[0]["samples"][""]["indices"]))
    assert f"samples  {indices} of Points" in capsys.readouterr().out


def test_the_nearest_checkpoint_is_taken(run):
    names = {n: Path(nearest_checkpoint(read_run(run), n) or "none").name for n in (0, 4, 5, 9, 10, 14)}
    assert names == {0: "none", 4: "none", 5: "epoch_1.pth", 9: "epoch_1.pth", 10: "epoch_2.pth", 14: "epoch_2.pth"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--iter", "15"], "has the iterations 0 to 14, counted from 0"),
        (["--iter", "3-4"], "expected an iteration such as 700, or several such as 700:710"),
        (["--iter", "4:4"], "no iteration is in it"),
        (["--iter", "1:3", "--pdb"], "--save and --pdb are for one iteration"),
        (["--iter", "1", "--at", "net"], "add --pdb"),
    ],
)
def test_what_makes_no_sense_is_refused(run, args, message, capsys):
    assert command.main([str(run), *args]) == 2
    assert message in capsys.readouterr().err


def test_the_debugger_stands_before_the_step_or_in_a_module(run):
    command = f"lazyengine replay {run} --iter 6 --pdb"
    assert "'optim_wrapper'" in debug(command, "p sorted(locals())", "c")
    assert "'input'" in debug(f"{command} --at net.0", "p sorted(locals())", "q")
    assert "nothing that a module makes, and no gradient, is other than finite" in debug(f"{command} --at nonfinite")


@pytest.mark.parametrize("at", ["net.9", "nett", "not_finite"])
def test_a_module_that_is_not_there_is_refused_before_the_way_to_the_iteration(run, at, capfd):
    assert command.main([str(run), "--iter", "8", "--pdb", "--at", at]) == 2
    err = capfd.readouterr().err
    assert f"--at: the model has no module '{at}'." in err
    assert "failed with code 1, as is said above" in err


def test_a_value_that_was_not_recorded_is_not_compared(tmp_path):
    config = make_project(tmp_path / "home")
    start(config, tmp_path / "run", "runner.hooks.logger.interval=12", "--kill", "8", code=-9)
    found = replay(tmp_path / "run", 6)
    assert found.is_equal is None
    assert "not recorded" in found.as_text()


@pytest.mark.parametrize(
    ("kept", "is_equal", "says"),
    [
        ({"time", "data_time"}, None, "nothing but times at step 8"),
        (set(), None, "nothing but times at step 8"),
        ({"time", "lr"}, True, "recorded at step 8"),
    ],
    ids=["times", "positions", "a value beside times"],
)
def test_a_record_that_has_only_times_says_so(run, tmp_path, capsys, kept, is_equal, says):
    shutil.copytree(run, copied := tmp_path / "run")
    for file in copied.glob(f"*/{METRICS_FILE}"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        records = [{k: v for k, v in each.items() if k in {*PLACE, "event", *kept}} for each in records]
        file.write_text("".join(json.dumps(each) + "\n" for each in records))
    found = replay(copied, 7)
    assert (found.is_equal, found.step) == (is_equal, 8)
    assert says in found.as_text()
    assert command.main([str(copied), "--iter", "7"]) == 0
    assert says in capsys.readouterr().out


def test_two_ranks(tmp_path):
    start(make_project(tmp_path / "home"), tmp_path / "run", KEPT, CLIP, ranks=2)
    found = replay(tmp_path / "run", 5)
    assert found.is_equal
    assert [rank["rank"] for rank in found.ranks] == [0, 1]
    assert found.ranks[0]["batch_hash"] != found.ranks[1]["batch_hash"]


def nan_project(folder: Path, body: str) -> Path:
    """Return the config of a project whose model has another forward and, in `net.py`, what it calls."""
    config = make_project(folder / "home")
    net = folder / "home" / "toy" / "net.py"
    net.write_text(net.read_text().replace("self.scale(self.net(x))", body))
    return config


def debug(command: str, *typed: str) -> str:
    """Run a `lazyengine replay` command line with what somebody types in the debugger; return what is printed."""
    program = "import sys; from lazyengine.cli.replay import main; sys.exit(main(sys.argv[1:]))"
    words = shlex.split(command)
    assert words[:2] == ["lazyengine", "replay"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words[2:]],
        input="".join(f"{line}\n" for line in typed),
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_run_that_stops_by_a_loss_that_is_not_finite_names_the_module_and_keeps_the_batch(tmp_path):
    config = nan_project(tmp_path, "self.scale(self.net(x) / (x.mean() > 0.55))")
    done = start(config, tmp_path / "run", KEPT, code=1)
    *_, kept, module, command = done.stderr.splitlines()
    assert module.startswith("first not finite: its output in the model, Net; then the gradient of net.")
    found = torch.load(kept.removeprefix("its batch is kept in "), weights_only=True)
    again = replay(tmp_path / "run", found["iteration"], trace=True)
    assert "NonFiniteError" in (again.error or "")
    assert (found["epoch"], found["batch"]) == (again.ranks[0]["epoch"], again.ranks[0]["batch"])
    assert hash_of(found["data"]) == again.ranks[0]["batch_hash"]
    assert again.not_finite[0] == "the output of scale"
    shown = debug(command, "p 'at hand', name, type(module).__name__, inputs[0].shape", "c")
    assert "'at hand', '', 'Net'" in shown


def test_a_gradient_that_is_not_finite_leads_to_its_module(tmp_path):
    config = nan_project(tmp_path, "self.scale((self.net(x) * (x.mean() <= 0.55)).square().sqrt())")
    done = start(config, tmp_path / "run", KEPT, code=1)
    module, command = done.stderr.splitlines()[-2:]
    assert module.startswith("first not finite: the gradient behind net in the model, Net; then the gradient of net.")
    assert "'at hand', 'Net'" in debug(command, "p 'at hand', type(module).__name__", "q")


@pytest.mark.suite
def test_of_two_ranks_the_one_with_the_nan_is_debugged(tmp_path):
    config = nan_project(tmp_path, "self.scale(self.net(x) / (x.mean() > 0.55))")
    done = start(config, tmp_path / "run", KEPT, ranks=2, code=None)
    command = next(line for line in done.stderr.splitlines() if "lazyengine replay" in line)
    command = command[command.index("lazyengine") :]
    rank = int(re.search(r"--rank (\d)", command)[1])  # pyright: ignore[reportOptionalSubscript]
    assert f"on rank {rank} the loss is" in done.stderr
    shown = debug(command, "import os", "p 'rank', os.environ['RANK']", "q")
    assert shown.count("'rank', ") == 1
    assert f"'rank', '{rank}'" in shown


# ------------------------------------------------------------------ 300 iterations against a log of the test's own
def digits(folder: Path) -> None:
    config, options = REPOSITORY / "projects" / "digits" / "config.py", ("model.width=4", "train_loop.max_epochs=4")
    kept = ("default_hooks.checkpoint.max_keep_ckpts=100", "+runner.optim_wrapper.accumulative_counts=2")
    start(config, folder / "run", *options, *kept, "--stop", "70", code=143, program=logbook.PROGRAM)
    start(config, folder / "run", *options, *kept, "--resume=auto", program=logbook.PROGRAM)


def shakespeare(folder: Path) -> None:
    write(folder, {"input.txt": ("".join(chr(code) for code in range(33, 97)) + "\n") * 40})
    start(
        REPOSITORY / "projects" / "shakespeare" / "config.py",
        folder / "run",
        *(f"dataset.file={folder / 'input.txt'}", "model.width=16", "model.num_layers=2", "model.num_heads=2"),
        *("dataset.context=16", "val_dataset.num_windows=24", "train_loop.max_iters=160", "train_loop.val_interval=40"),
        *("default_hooks.checkpoint.interval=40", "default_hooks.checkpoint.max_keep_ckpts=100", "model.dropout=0.1"),
        *("warmup.end=20", "decay.begin=20", "default_hooks.logger.interval=20"),
        *("default_hooks.sample_text.num_characters=20", "train_loop.dataloader.num_workers=2"),
        program=logbook.PROGRAM,
    )


def gan(folder: Path) -> None:
    start(
        REPOSITORY / "projects" / "gan_digits" / "config.py",
        folder / "run",
        *("generator.width=2", "discriminator.width=2", "generator.noise_size=4", "train_loop.max_epochs=3"),
        *("train_loop.val_interval=1", "default_hooks.checkpoint.max_keep_ckpts=100"),
        *("runner.param_schedulers.generator[0].end=4", "runner.param_schedulers.generator[1].begin=4"),
        *("default_hooks.checkpoint.by_epoch=false", "default_hooks.checkpoint.interval=30"),
        program=logbook.PROGRAM,
    )


def two_ranks_averaged(folder: Path) -> None:
    options = (KEPT, CLIP, "runner.hooks.checkpoint.interval=15", "train_loop.max_epochs=30")
    config = make_project(folder / "home")
    text = config.read_text().replace("import CheckpointHook", "import CheckpointHook, EMAHook")
    config.write_text(text.replace("timer=L(", "ema=L(EMAHook)(),\n        timer=L("))
    start(config, folder / "run", *options, "--stop", "43", ranks=2, code=None, program=logbook.PROGRAM)
    start(config, folder / "run", *options, "--resume=auto", ranks=2, program=logbook.PROGRAM)


@pytest.mark.suite
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("make", [digits, shakespeare, gan, two_ranks_averaged], ids=lambda make: make.__name__)
def test_75_random_iterations_are_those_of_an_independent_log(make, tmp_path, monkeypatch):
    (tmp_path / "log").mkdir()
    monkeypatch.setenv(logbook.LOGBOOK, str(tmp_path / "log"))
    make(tmp_path)
    monkeypatch.delenv(logbook.LOGBOOK)
    log, run = logbook.read(tmp_path / "log"), read_run(tmp_path / "run")
    known = sorted({iteration for iteration, _ in log})
    chosen = random.Random(0).sample(known, 75)
    groups: dict[str | None, list[int]] = {}
    for iteration in chosen:
        groups.setdefault(nearest_checkpoint(run, iteration), []).append(iteration)
    assert len(groups) >= 2
    num_equal = 0
    for wanted in groups.values():
        for found in replay_range(run.path, wanted, keep=True):
            assert found.is_equal is not False
            for rank in found.ranks:
                entry = log[found.iteration, rank["rank"]]
                assert rank["values"] == entry["loss"]
                assert rank["norms"] == (entry["norms"] if rank["stepped"] else {})
                assert logbook.digest(rank["kept"]["batch"]) == entry["hash"]
            num_equal += 1
    assert num_equal == 75
