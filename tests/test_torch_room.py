"""What leans on private parts of torch stands in `lazyengine/_torch.py`, and the public way beside it does the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchLoader

from lazyengine import _torch
from lazyengine.dataset import DataLoader, set_epoch
from lazyengine.errors import UsageError

from .dataset.samples import Augmented, Broken, Stream, jittered_collate
from .dataset.test_epochs import Follower, epochs_seen

PACKAGE = Path(__file__).resolve().parents[1] / "lazyengine"
PRIVATE_MEMBERS = {  # of torch's classes: called on objects, so their module is not seen
    "_next_data", "_num_yielded", "_shutdown_workers", "_get_iterator", "_index_sampler", "_profiler_enabled",
    "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks", "_step_supports_amp_scaling", "_set_SIGCHLD_handler",
}  # fmt: skip


def private_uses(source: str) -> list[tuple[int, str]]:
    """Line and name of each use of a private part of torch in a file."""
    found, roots = [], set[str]()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] == "torch"]
            found += [(node.lineno, name) for name in names if "._" in name]
            roots |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names if alias.name in names}
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == "torch":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name) for name in names if "._" in name]
            roots |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
            text = f"{ast.unparse(node.args[0])}.{ast.unparse(node.args[1]).strip(chr(39))}"
            if text.partition(".")[0] in roots and "._" in text and ".__" not in text:
                found.append((node.lineno, text))
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            is_private = node.attr.startswith("_") and not node.attr.startswith("__")
            root = text.partition(".")[0]
            if node.attr in PRIVATE_MEMBERS or (is_private and root in roots and text.replace(".", "").isidentifier()):
                found.append((node.lineno, text))
    return found


def test_the_search_finds_private_parts():
    source = (
        "import torch\nimport torch.distributed as td\nfrom torch import distributed\nfrom torch.utils import _pytree\n"
        "import torch._dynamo\nfrom torch.utils._pytree import tree_map\ntorch._foreach_add_([], 1)\n"
        "td._get_pg()\ndistributed._x\ntorch.nn.Linear.__call__\nself._mine\nloader._next_data()\n"
        "getattr(torch, '_y')\ngetattr(self, '_mine')\n"
    )
    assert sorted(line for line, _ in private_uses(source)) == [4, 5, 6, 7, 8, 9, 12, 13]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_parts_of_torch_stand_in_one_room(path):
    if path != PACKAGE / "_torch.py":
        assert not private_uses(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- reading batches by the public way
def three_passes(dataset: Any = None, **options: Any) -> list[Any]:
    """A pass, another epoch, and that one resumed after two batches."""
    options = {"multiprocessing_context": "fork", "seed": 3, **options}
    loader = DataLoader(dataset or Augmented(), 5, collate_fn=jittered_collate, **options)
    passes = []
    for epoch, start in ((0, 0), (1, 0), (1, 2)):
        set_epoch(loader, epoch)
        loader.set_start(start)
        passes.append([[part.tolist() for part in batch] for batch in loader])
    return passes


@pytest.fixture
def public(monkeypatch):
    """Let the package use torch's public parts only."""
    monkeypatch.setattr(_torch, "PRIVATE", False)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_public_way_reads_the_same_batches(monkeypatch, num_workers, persistent):
    options = {"num_workers": num_workers, "persistent_workers": persistent, "shuffle": True}
    expected = three_passes(**options)
    monkeypatch.setattr(_torch, "PRIVATE", False)
    assert three_passes(**options) == expected
    assert expected[2] == expected[1][2:]


def test_the_public_way_seeds_a_stream_and_resumes_it(monkeypatch):
    def read(state=None):
        loader = DataLoader(Stream(), 2, seed=1)
        if state is not None:
            loader.load_state_dict(state)
            loader.set_start(2)
        return [[part.tolist() for part in batch] for batch in loader]

    expected = read()
    monkeypatch.setattr(_torch, "PRIVATE", False)
    assert read() == expected
    assert read({"dataset": {"position": 4}}) == expected[2:]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_public_way_names_the_sample_that_failed(public, num_workers):
    loader = DataLoader(Broken("raises"), 4, num_workers=num_workers, multiprocessing_context="fork")
    with pytest.raises(ValueError, match="a broken image") as caught:
        list(loader)
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert "while reading index 5 of Broken (batch 1 of epoch 0)" in text
    assert "To find the cause" not in text


def test_the_public_way_advises_when_a_worker_dies(public):
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        list(DataLoader(Broken("dies"), 4, num_workers=1, multiprocessing_context="fork"))
    assert "run with num_workers=0" in "\n".join(caught.value.__notes__)


def test_the_public_way_leaves_a_range_for_the_profiler(public):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        assert [batch.tolist() for batch in DataLoader(list(range(4)), 2)] == [[0, 1], [2, 3]]
    assert any(event.key.startswith("enumerate(DataLoader)") for event in profiler.key_averages())


def test_the_public_way_computes_the_same(monkeypatch):
    kinds = [nn.BatchNorm1d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.InstanceNorm2d(2), nn.LayerNorm(2)]
    wrapper = torch.nested.nested_tensor([torch.ones(2), torch.ones(1)], layout=torch.jagged)

    def results():
        targets, sources = [torch.ones(3), torch.ones(2, 2)], [torch.arange(3.0), torch.zeros(2, 2)]
        _torch.change_all("lerp_", targets, sources, 0.25)
        moved = [target.tolist() for target in targets]
        _torch.change_all("copy_", targets, sources)
        kinds_found = [(isinstance(k, _torch.batch_norms()), isinstance(k, _torch.instance_norms())) for k in kinds]
        wraps = [_torch.holds_other_tensors(tensor) for tensor in (wrapper, torch.ones(1), nn.Parameter(torch.ones(1)))]
        return moved, [target.tolist() for target in targets], kinds_found, wraps

    expected = results()
    assert expected[2] == [(True, False)] * 3 + [(False, True), (False, False)]
    assert expected[3] == [True, False, False]
    monkeypatch.setattr(_torch, "PRIVATE", False)
    assert results() == expected


STEPS = """
import sys
import torch
from lazyengine import _torch
from lazyengine.optim import OptimWrapper
{before}
torch.manual_seed(0)
net = torch.nn.Linear(4, 2)
_torch.spare_compiler()
made = [{optimizer} for _ in range(2)]
wrapper = OptimWrapper(made[0], clip_grad={{"max_norm": 1.0}})
wrapper.update_params(net(torch.randn(3, 4)).square().sum())
made[1].load_state_dict(made[0].state_dict())
wrapper = OptimWrapper(made[1])
wrapper.update_params(net(torch.randn(3, 4)).square().sum())
assert wrapper.flaw_of(made[0].state_dict()) is None
print("torch._dynamo" in sys.modules, net.weight.tolist(), torch.is_grad_enabled())
{after}
"""


def steps(optimizer: str, before: str = "", after: str = "") -> list[str]:
    """Take two steps in a process of its own, and return what it prints."""
    program = STEPS.format(optimizer=optimizer, before=before, after=after)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_optimizers_do_without_the_compiler_to_the_same_bits():
    name = "AdamW(net.parameters(), amsgrad=True)"
    compiled = """
import warnings; warnings.simplefilter("ignore")
step = torch.compile(made[1].step, backend="eager")
net(torch.ones(3, 4)).sum().backward()
step(); made[1].zero_grad(); made[1].state_dict()
methods = [getattr(torch.optim.Optimizer, each).__wrapped__ for each in ("zero_grad", "state_dict")]
print("torch._dynamo" in sys.modules, [getattr(each, "__dynamo_disable").__module__ for each in methods])
"""
    without, then = steps(f"torch.optim.{name}", after=compiled)
    (imported,) = steps(f"torch.optim.{name}", before="import torch._dynamo")
    (public,) = steps(f"torch.optim.{name}", before="_torch.PRIVATE = False")
    assert without.startswith("False")
    assert imported == public == without.replace("False", "True", 1)
    assert then == "True ['torch._dynamo.eval_frame', 'torch._dynamo.eval_frame']"


def test_workers_that_cannot_be_told_are_refused(public):
    loader = TorchLoader(Follower(), 2, num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"Follower has `set_epoch`.*persistent_workers=False"):
        set_epoch(loader, 1)
    own = DataLoader(Follower(), 2, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    for epoch in (1, 2):
        set_epoch(own, epoch)
        assert epochs_seen(own) == [epoch]


@pytest.mark.parametrize("private", [True, False])
def test_workers_end_with_a_script_that_failed_in_the_middle(private, tmp_path):
    """They ignore SIGTERM, by which multiprocessing would end them; the traceback keeps torch's iterator alive."""
    script = tmp_path / "script.py"
    script.write_text(
        "import itertools, torch\n"
        "from lazyengine import _torch\n"
        "from lazyengine.dataset import DataLoader\n"
        f"_torch.PRIVATE = {private}\n"
        "batches = iter(DataLoader(list(range(100)), 1, num_workers=2, multiprocessing_context='fork'))\n"
        "next(batches)\n"
        "raise ValueError('in the middle')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=280, cwd=PACKAGE.parent, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ValueError: in the middle")
