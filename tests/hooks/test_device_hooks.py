"""Hooks that deal with devices and ranks: profiles, memory, buffers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lazyengine import dist
from lazyengine.hooks import EmptyCacheHook, ProfilerHook, SyncBuffersHook

from ..runner.test_runner import StopAt
from ..runner.toy import toy_runner


def test_the_profiler_writes_a_chrome_trace_of_the_iterations_asked_for(tmp_path, capsys):
    hook = ProfilerHook(wait=1, warmup=1, active=2, row_limit=3, record_shapes=True)
    runner = toy_runner(str(tmp_path), max_epochs=2, val_interval=0, hooks={"profiler": hook})
    runner.train()
    (trace,) = (tmp_path / runner.timestamp / "profile").iterdir()
    assert trace.name == "trace_rank0_iter4.json"
    names = [event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]]
    assert any(name.startswith("ProfilerStep") for name in names)
    assert "aten::addmm" in names
    out = capsys.readouterr().out
    assert "profile of 2 iterations" in out
    assert "Self CPU time total" in out


def test_the_profiler_stops_when_the_run_fails(tmp_path):
    for name in "ab":  # the second could not start while the first is on
        hooks = {"profiler": ProfilerHook(wait=0, warmup=1, active=100, row_limit=0), "stop": StopAt(2)}
        with pytest.raises(InterruptedError):
            toy_runner(str(tmp_path / name), hooks=hooks).train()


def test_a_profile_without_iterations_is_refused():
    with pytest.raises(ValueError, match="active=0"):
        ProfilerHook(active=0)


def test_memory_is_given_back_at_the_points_asked_for(monkeypatch):
    calls: list[str] = []
    point = ""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(point))
    points = ("before_train_epoch", "after_train_iter", "after_train_epoch", "after_val_iter", "after_val_epoch")
    for hook, expected in (
        (EmptyCacheHook(), ["after_train_epoch", "after_val_epoch"]),
        (EmptyCacheHook(True, False, True), ["before_train_epoch", "after_train_iter", "after_val_iter"]),
    ):
        calls.clear()
        for point in points:
            getattr(hook, point)(None, **({"batch_idx": 0} if "iter" in point else {}))
        assert calls == expected


def test_without_a_gpu_no_memory_is_given_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("called"))
    EmptyCacheHook(True, True, True).after_train_iter(None, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("world_size", [1, 2])
def test_floating_buffers_are_averaged_over_ranks(monkeypatch, world_size):
    """The reduction itself is tested with processes; here, what is handed to it."""
    model = torch.nn.BatchNorm1d(2)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "get_world_size", lambda: world_size)
    monkeypatch.setattr(dist, "all_reduce_params", lambda tensors, op: seen.extend(tensors) or seen.append(op))
    runner: Any = SimpleNamespace(model=model)
    SyncBuffersHook().after_train_epoch(runner)
    if world_size == 1:
        assert seen == []
    else:
        assert seen[0] is model.running_mean
        assert seen[1] is model.running_var
        assert seen[2:] == ["mean"]
