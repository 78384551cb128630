"""Where two runs part is found: the iteration, and the first thing in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lazyengine.cli import bisect as command
from lazyengine.runs import bisect

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


def other(folder: Path, way: Callable[[Path], list[str]]) -> Path:
    config = make_project(folder / "home")
    (folder / "home" / "toy" / "flip.py").write_text("\n".join(line[4:] for line in HOOK.splitlines()))
    start(config, folder / "other", KEPT, *way(folder / "home" / "toy"))
    return folder / "other"


def test_a_run_and_itself_are_equal(run, capsys):
    assert command.main([str(run), str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "equal"


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


def test_another_order_of_operations_is_found(run, tmp_path):
    changed = edited("layers.py", "x * (1 + self.depth)", "x * self.depth + x * 1.0000001")
    found = bisect(run, other(tmp_path, changed))
    assert (found.iteration, found.kind, found.name) == (0, "output", "scale")


def test_another_rate_is_found_in_the_state_before_the_step(run, tmp_path):
    found = bisect(run, other(tmp_path, lambda package: ["optimizer.weight_decay=0.5"]))
    assert (found.iteration, found.kind) == (0, "state of the optimizer")
    assert "weight_decay" in found.name


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
