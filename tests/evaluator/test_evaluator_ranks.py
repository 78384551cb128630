"""Several ranks compute what one would: in the dataset's order, cut to its size, the same everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lazyengine.evaluator import load_results
from tests.ports import free_port

DRIVER = Path(__file__).with_name("evaluator_ranks_driver.py")


def _run(world, folder):
    port = str(free_port())
    processes = []
    for rank in range(world):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        env = os.environ | ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
                                    "PYTHONPATH": str(DRIVER.parents[2])}  # fmt: skip
        command = [sys.executable, str(DRIVER), str(folder)]
        processes.append(subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    outputs = [process.communicate(timeout=280) for process in processes]
    for process, (out, error) in zip(processes, outputs):
        assert process.returncode == 0, error + out
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs], [error + out for out, error in outputs]


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_agree_with_one_process(world, tmp_path):
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(11, 4, generator=generator), torch.randint(0, 4, (11,), generator=generator)
    losses = torch.rand(11, generator=generator)
    top1 = (scores.argmax(1) == labels).float().mean().item()
    top2 = (scores.topk(2, 1).indices == labels[:, None]).any(1).float().mean().item()
    found_by_rank, logs = _run(world, tmp_path)
    assert "Varying with 'any' counts twice what a sampler repeats; DefaultSampler(round_up=False) does not" in logs[0]
    for rank, values in enumerate(found_by_rank):
        _check_counts(values["counts"], world)
        for device in ("cpu", "gpu"):
            found = values[device]
            assert found["accuracy/top1"] == pytest.approx(top1)
            assert found["accuracy/top2"] == pytest.approx(top2)
            assert found["loss"] == pytest.approx(losses.double().mean().item(), rel=1e-12)
            assert found["order"] == list(range(11))
            assert (found["max"], found["count"]) == (10, 11)
            assert [int(s["index"]) for s in load_results(tmp_path / f"{device}.pt")] == list(range(11))
        assert values["error"].startswith(
            "ZeroDivisionError: on purpose" if rank == 0 else "RuntimeError: the metric Broken"
        )
        assert "on purpose" in values["error"]
        assert values["one rank has none"] == {"accuracy/top1": 1.0}


def _check_counts(counts, world):
    """Several results a sample: all of them, those of repeated samples left out, or an error."""
    for size in (11, 12):
        found = counts[str(size)]
        padded = [i % size for i in range(-(-size // world) * world)]
        for device in ("cpu", "gpu"):
            for name, indices in (("padded", padded), ("plain", range(size))):
                values = found[f"{name} {device}"]
                assert values["triples"] == [[i, k] for i in range(size) for k in range(3)]
                assert values["rows"] == list(range(3 * size))
                assert values["varying"] == sorted(i for i in indices for _ in range(i))
                assert values["unknown/order"] == list(range(size))
        assert found["padded unknown"]["order"] == padded
        assert found["plain unknown"]["rows"] == list(range(3 * size))
        for name, total in (("padded", len(padded)), ("plain", size)):
            triples, rows, twos, torch_metric = found[f"{name} refused"]
            assert f"Triples kept {3 * total} results on {world} processes (" in triples
            assert f") for {size} samples, with results_per_sample=1. Keep one" in triples
            assert f"TripleRows kept {3 * total} results" in rows
            assert "results_per_sample=2" in twos
            assert f"TorchMetric kept {2 * total} results" in torch_metric
