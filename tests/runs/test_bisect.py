"""Where two runs part is found: the iteration, and the first thing in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lazyengine.cli import bisect as command
from lazyengine.runs import bisect

from . import logbook
from .toy import make_project
from .training import start

KEPT = "runner.hooks.checkpoint.max_keep_ckpts=100"
HOOK = """
    import torch
    from lazyengine.hooks import Hook

    class Flip(Hook):
        def __init__(self, at):
            self.at = at

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == self.at:
                with torch.no_grad():
                    bits = runner.model.net[3].weight.view(torch.int32)
                    bits[0, 2] ^= 1
"""


Way = Callable[[Path], list[str]]


def edited(name: str, old: str, new: str) -> Callable[[Path], list[str]]:
    def edit(package: Path) -> list[str]:
        text = (package / name).read_text()
        assert old in text
        (package / name).write_text(text.replace(old, new))
        return []

    return edit


def flipped_bit(package: Path) -> list[str]:
    text = (package / "config.py").read_text().replace("from .data", "from .flip import Flip\nfrom .data")
    (package / "config.py").write_text(text.replace("timer=L(", "flip=L(Flip)(at=8),\n        timer=L("))
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bisect")
    start(make_project(folder / "home"), folder / "run", KEPT)
    return folder / "run"


# ------------------------------------------------------------------------------------------- thirty differences
AT = """
def at():
    from lazyengine.logging import MessageHub
    return MessageHub.get_current_instance().get_info("iter")
"""
AT_ITERATION = "import lazyengine.logging as L; at = L.MessageHub.get_current_instance().get_info('iter')"
CHANGES = """
    import torch
    from lazyengine.hooks import Hook

    class Change(Hook):
        def __init__(self, at, name, is_after=False):
            self.at, self.name, self.is_after = at, name, is_after

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if self.name == "dropout" and runner.iter >= self.at:
                runner.model.net[2].p = 0.25
            elif runner.iter == self.at and not self.is_after and self.name != "dropout":
                self.flip(runner)

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == self.at and self.is_after:
                self.flip(runner)

        @torch.no_grad()
        def flip(self, runner):
            bits = runner.model.state_dict()[self.name].view(torch.int32).view(-1)
            bits[-1] ^= 1
"""


def changed(at: int, name: str, is_after: bool = False) -> Way:
    def edit(package: Path) -> list[str]:
        (package / "flip.py").write_text("\n".join(line[4:] for line in CHANGES.splitlines()))
        text = (package / "config.py").read_text().replace("from .data", "from .flip import Change\nfrom .data")
        hook = f"change=L(Change)(at={at}, name={name!r}, is_after={is_after}),\n        timer=L("
        (package / "config.py").write_text(text.replace("timer=L(", hook))
        return []

    return edit


def layer(new: str) -> Way:
    def edit(package: Path) -> list[str]:
        text = (package / "layers.py").read_text()
        assert "return x * (1 + self.depth)" in text
        (package / "layers.py").write_text(AT + text.replace("return x * (1 + self.depth)", new))
        return []

    return edit


def item(new: str, *options: str) -> Way:
    def edit(package: Path) -> list[str]:
        text = (package / "data.py").read_text()
        former = 'return {"x": self.x[index] + 0.1 * torch.randn(4), "y": self.x[index].sum()}'
        assert former in text
        head = "class Points(torch.utils.data.Dataset):"
        told = "    epoch = 0\n\n    def set_epoch(self, epoch):\n        self.epoch = epoch\n"
        text = text.replace(former, f"{new}\n        {former}").replace(head, f"{head}\n{told}")
        (package / "data.py").write_text(text)
        return list(options)

    return edit


def threads(package: Path) -> list[str]:
    return ["--threads"]


SLOPE = "torch.arange(200_000.0).mul(0.37).sin().sum()"
GRADIENT = """y = x * (1 + self.depth)
        if at() == 123 and y.requires_grad:
            y.register_hook(lambda gradient: gradient * 1.000001)
        return y"""
DIFFERENCES: dict[str, tuple[Way, int | None, str, str]] = {
    **{f"dropout from {at}": (changed(at, "dropout"), at, "output", "net.2") for at in (17, 60, 133, 200, 221)},
    **{
        f"a bit of {name} at {at}": (changed(at, name), at, kind, name)
        for at, kind, name in (
            (31, "parameters", "net.0.weight"),
            (88, "parameters", "net.3.weight"),
            (200, "parameters", "net.1.bias"),
            (141, "buffers", "net.1.running_mean"),
        )
    },
    "a bit behind 54": (changed(54, "net.3.weight", is_after=True), 55, "parameters", "net.3.weight"),
    **{
        f"a swapped sample in epoch {epoch}": (
            item(f"index = {{3: 4, 4: 3}}.get(index, index) if self.epoch == {epoch} else index"),
            None,
            "batch",
            "['x']",
        )
        for epoch in (0, 7, 21, 40)
    },
    **{
        f"a worker from epoch {epoch}": (
            item(
                f"info = torch.utils.data.get_worker_info()\n        if info and info.id and self.epoch >= {epoch}:\n"
                '            return {"x": self.x[index] + 0.2 * torch.randn(4), "y": self.x[index].sum()}',
                "train_loop.dataloader.num_workers=2",
            ),
            None,
            "batch",
            "['x']",
        )
        for epoch in (0, 12, 30, 44)
    },
    **{
        f"another order from {at}": (
            layer(f"return x + x * self.depth * 1.0000002 if at() >= {at} else x * (1 + self.depth)"),
            at,
            "output",
            "scale",
        )
        for at in (0, 99, 200)
    },
    "a changed line of the loss": (edited("net.py", ".square().mean()", ".abs().mean()"), 0, "output", "the model"),
    "a changed line of the data": (edited("data.py", "0.1 * torch", "0.11 * torch"), 0, "batch", "['x']"),
    "weight decay": (lambda package: ["optimizer.weight_decay=0.5"], 0, "state of the optimizer", "weight_decay"),
    "seed": (lambda package: ["runner.seed=1"], 0, "batch", "['x']"),
    "schedule": (lambda package: ["runner.param_schedulers[0].end=11"], 1, "state of the optimizer", "lr"),
    "a gradient at 123": (layer(GRADIENT), 123, "gradient", "net.3."),
    "a bit of net.0.bias at 187": (changed(187, "net.0.bias"), 187, "parameters", "net.0.bias"),
    "threads, a sum": (threads, 0, "output", "net.1"),  # torch adds up otherwise in batch norm, before the sum
    "threads, a mean": (threads, 0, "output", "net.1"),
}
FADES = ("a bit of net.1.running_mean at 141",)
"""What nothing that was recorded shows: the bit is rounded away before the next checkpoint."""
LONG = ("train_loop.max_epochs=45", "runner.val_loop=None", "runner.hooks.checkpoint.interval=3", KEPT)


@pytest.fixture(scope="module")
def long_runs(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """Return the run to compare with, and the log that the test keeps of it, by the code of its last layer."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(code: str) -> tuple[Path, Path]:
        if code not in made:
            folder = tmp_path_factory.mktemp("long")
            config = make_project(folder / "home")
            if code:
                layer(code)(folder / "home" / "toy")
            (folder / "log").mkdir()
            start(config, folder / "run", *LONG, program=logbook.PROGRAM, env={logbook.LOGBOOK: str(folder / "log")})
            made[code] = folder / "run", folder / "log"
        return made[code]

    return make


@pytest.mark.suite
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", DIFFERENCES)
def test_thirty_injected_differences_are_found_to_the_iteration(name, long_runs, tmp_path):
    way, iteration, kind, what = DIFFERENCES[name]
    reduction = {"threads, a sum": SLOPE, "threads, a mean": SLOPE.replace("sum()", "mean()")}.get(name)
    code = f"import torch; return x * (1 + 1e-3 * {reduction})" if reduction else ""
    run, log = long_runs(code)
    config = make_project(tmp_path / "home")
    if code:
        layer(code)(tmp_path / "home" / "toy")
    options = way(tmp_path / "home" / "toy")
    (tmp_path / "log").mkdir()
    env = {logbook.LOGBOOK: str(tmp_path / "log")}
    start(config, tmp_path / "other", *LONG, *options, program=logbook.PROGRAM, env=env)
    if iteration is None:  # where the batches part by the log that the test kept of both
        mine, theirs = logbook.read(log), logbook.read(tmp_path / "log")
        iteration = min(key[0] for key in mine if mine[key]["hash"] != theirs[key]["hash"])
    found = bisect(run, tmp_path / "other", whole=name in FADES)
    assert (found.iteration, found.kind) == (iteration, kind)
    assert what in found.name
    assert found.num_replays <= 2


def other(folder: Path, way: Callable[[Path], list[str]]) -> Path:
    config = make_project(folder / "home")
    (folder / "home" / "toy" / "flip.py").write_text("\n".join(line[4:] for line in HOOK.splitlines()))
    start(config, folder / "other", KEPT, *way(folder / "home" / "toy"))
    return folder / "other"


def test_a_run_and_itself_are_equal(run, capsys):
    assert command.main([str(run), str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "equal"


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [("train", "loss", "train/loss"), ("train", "lr", "train/lr"), ("val", "error", "val/error")],
)
def test_a_record_that_differs_alone_is_named(run, tmp_path, kind, name, what):
    shutil.copytree(run, tmp_path / "run")
    (file,) = (tmp_path / "run").glob("*/metrics.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    (first, *_) = [each for each in records if each["mode"] == kind and each["step"] > 6]
    was, first[name] = first[name], first[name] + 1
    file.write_text("".join(json.dumps(each) + "\n" for each in records))
    found = bisect(run, tmp_path / "run")
    assert found.kind == "records"
    assert found.name.startswith(f"{what} at step {first['step']}: {was!r} | {was + 1!r}; when both are made again")


def test_a_flipped_bit_is_found(run, tmp_path, capsys):
    found = bisect(run, other(tmp_path, flipped_bit))
    assert (found.iteration, found.kind, found.name) == (8, "parameters", "net.3.weight")
    assert found.interval[0] == 5
    assert found.num_replays == 1
    assert any(line.startswith("config: runner.hooks.flip") for line in found.differences)
    assert any(line.startswith("code: toy/flip.py") for line in found.differences)


def test_other_data_are_found(run, tmp_path):
    found = bisect(run, other(tmp_path, edited("data.py", "0.1 * torch", "0.1 * (1 + (index == 3)) * torch")))
    assert (found.kind, found.name) == ("batch", "['x']")
    assert found.iteration is not None
    assert any(line.startswith("code: toy/data.py: Points.__getitem__") for line in found.differences)


@pytest.mark.suite
def test_another_order_of_operations_is_found(run, tmp_path):
    changed = edited("layers.py", "x * (1 + self.depth)", "x * self.depth + x * 1.0000001")
    found = bisect(run, other(tmp_path, changed))
    assert (found.iteration, found.kind, found.name) == (0, "output", "scale")


@pytest.mark.suite
def test_another_rate_is_found_in_the_state_before_the_step(run, tmp_path):
    found = bisect(run, other(tmp_path, lambda package: ["optimizer.weight_decay=0.5"]))
    assert (found.iteration, found.kind) == (0, "state of the optimizer")
    assert "weight_decay" in found.name


LOSS = 'return {"loss": (out - y).square().mean()'


def test_a_difference_that_no_later_checkpoint_has_is_found_by_the_records_that_it_left(run, tmp_path):
    way = edited("net.py", LOSS, f"{AT_ITERATION}; {LOSS} + (at == 6)")
    found = bisect(run, other(tmp_path, way))
    assert (found.iteration, found.kind, found.name) == (6, "output", "the model")
    assert found.interval == (5, 7)


def test_a_difference_that_left_nothing_is_found_among_all_iterations(run, tmp_path, capsys):
    there = other(tmp_path, edited("net.py", LOSS, f"{AT_ITERATION}; at == 6 and __import__('torch').rand(1); {LOSS}"))
    assert command.main([str(run), str(there)]) == 0
    assert "by what was recorded up to iteration" in capsys.readouterr().out
    assert command.main([str(run), str(there), "--whole"]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "iteration 6: random streams: torch"


def averaged(momentum: float) -> Way:
    def edit(package: Path) -> list[str]:
        text = (package / "config.py").read_text().replace("import CheckpointHook", "import CheckpointHook, EMAHook")
        hook = f"ema=L(EMAHook)(momentum={momentum}, begin_iter=6),\n        timer=L("
        (package / "config.py").write_text(text.replace("timer=L(", hook))
        return []

    return edit


@pytest.mark.suite
def test_another_average_of_the_weights_is_found(tmp_path):
    folders = [other(tmp_path / str(momentum), averaged(momentum)) for momentum in (0.1, 0.2)]
    found = bisect(*folders)
    assert (found.iteration, found.kind) == (7, "averaged weights")  # the sixth, counted from 1, copies
    assert "ema.ema_model" in found.name


@pytest.mark.suite
def test_a_gradient_that_differs_in_an_accumulated_batch_is_found_in_that(tmp_path):
    accumulating = ["+runner.optim_wrapper.accumulative_counts=4"]
    start(make_project(tmp_path / "home"), tmp_path / "run", KEPT, *accumulating)
    way = layer(GRADIENT.replace("123", "5").replace("000001", "01"))
    found = bisect(tmp_path / "run", other(tmp_path / "there", lambda package: [*way(package), *accumulating]))
    assert (found.iteration, found.kind) == (5, "gradient")


def accumulated(package: Path) -> list[str]:
    return ["train_loop.dataloader.batch_size=2", "+runner.optim_wrapper.accumulative_counts=2"]


def without_norm(package: Path) -> None:
    net = (package / "net.py").read_text()
    (package / "net.py").write_text(net.replace("nn.BatchNorm1d(width), nn.Dropout(0.5)", "nn.Tanh(), nn.Tanh()"))
    data = (package / "data.py").read_text()
    (package / "data.py").write_text(data.replace(" + 0.1 * torch.randn(4)", ""))


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory) -> Path:
    """Without anything that depends on the size of a batch."""
    folder = tmp_path_factory.mktemp("plain")
    config = make_project(folder / "home")
    without_norm(folder / "home" / "toy")
    start(config, folder / "run", KEPT)
    return folder / "run"


@pytest.mark.suite
def test_accumulated_batches_are_equal_but_for_the_order_of_summation(plain_run, tmp_path):
    config = make_project(tmp_path / "home")
    without_norm(tmp_path / "home" / "toy")
    start(config, tmp_path / "same", KEPT, *accumulated(tmp_path))
    found = bisect(plain_run, tmp_path / "same")
    assert (found.tolerance or 0) > 1e-7
    assert (found.kind, found.iteration, found.interval) == ("", None, (0, 15))
    start(config, tmp_path / "other", KEPT, *accumulated(tmp_path), "runner.param_schedulers[0].end=10")
    found = bisect(plain_run, tmp_path / "other")
    assert (found.kind, found.iteration) == ("update", 1)
    assert found.num_replays == 2
