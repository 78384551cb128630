"""What a run notes about its surroundings."""

from __future__ import annotations

import pytest
import torch

from lazyengine import dist
from lazyengine.runner import environment
from lazyengine.runner.environment import choose_device, set_determinism

from .toy import toy_runner


@pytest.mark.parametrize("log_all_ranks", [False, True])
def test_each_rank_has_a_log_file_where_asked(tmp_path, monkeypatch, log_all_ranks):
    """As rank 1 of 2, without the other."""
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    runner = toy_runner(str(tmp_path), log_all_ranks=log_all_ranks)
    runner.setup()
    logs = [path.name for path in tmp_path.glob("*/*.log")]
    assert logs == ([f"{runner.timestamp}.rank1.log"] if log_all_ranks else [])


def test_choices_that_are_none_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="deterministic='yes': expected 'off', 'warn' or 'strict'"):
        set_determinism("yes")  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(RuntimeError, match=r"device='cuda:1': this machine.*has no CUDA device"):
        choose_device("cuda:1")


@pytest.mark.parametrize(("local_rank", "current", "expected"), [(0, 0, 0), (2, 0, 2), (1, 1, 1), (0, 3, 3)])
def test_cuda_without_an_index_is_the_gpu_of_this_process(monkeypatch, local_rank, current, expected):
    """torch sets no device without an index."""
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: taken.append(torch.cuda._utils._get_device_index(device))
    )
    monkeypatch.setattr(environment, "get_local_rank", lambda: local_rank)
    assert choose_device("cuda") == torch.device("cuda", expected)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device(None) == torch.device("cuda", local_rank)
    assert taken == [expected, 1, local_rank]
    with pytest.raises(RuntimeError, match="4 CUDA devices, from 0"):
        choose_device("cuda:4")
