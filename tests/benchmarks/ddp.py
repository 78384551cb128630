"""Two processes on one machine: the loop over plain DDP, and collecting results over gathering objects."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from .table import Options, Row, Samples, in_process, rows_over, take_turns

TWO_RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]


def run(options: Options) -> list[Row]:
    """Return the rows of a DDP loop and of collecting 100,000 results."""
    n, size = (200, 10_000) if options.quick else (2000, 100_000)
    arguments = {"way": "lazyengine", "base": "bare", "n": n, "interval": 10, "kind": "mlp", "num_ranks": 2}
    pairs = [in_process("loop:measure_pair", TWO_RANKS, **arguments) for _ in range(options.rounds)]
    loops = {"lazyengine": [pair[0] for pair in pairs], "plain DDP": [pair[1] for pair in pairs]}
    rows = rows_over("plain DDP", loops, "iteration, MLP, 2 ranks, log every 10", {"lazyengine": "<= 1.10"})
    peers = options.find_peers(["mmengine"])
    samples = in_process("ddp:measure_collect", TWO_RANKS, size=size, rounds=options.rounds, peers=peers)
    goals = {
        "collect_results, folder": "<= 1.0",
        "collect_results, sent": "<= 1.0",
        "collect_results, tensor": "<= 0.1",
    }
    work = f"collecting {size:,} results of 2 ranks"
    return rows + rows_over("all_gather_object", samples, work, goals, unit="ms", scale=1e3)


def measure_collect(size: int, rounds: int, peers: list[str]) -> Samples:
    """On each rank of a fresh group: gather what the ranks hold, in several ways in turns."""
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    part = [{"img_id": i, "pred": i % 80, "score": i / size} for i in range(rank, size, 2)]
    ways: dict[str, Callable[[], Any]] = {
        "all_gather_object": lambda: torch.distributed.all_gather_object([None, None], part),
        "collect_results, folder": lambda: through_folder(part, size),
        "collect_results, sent": lambda: sent(part, size),
        "collect_results, tensor": lambda: as_tensor(part, size),
    }
    if peers:
        from mmengine.dist import collect_results

        ways["mmengine, folder"] = lambda: collect_results(part, size, "cpu")
    return take_turns(ways, rounds)


# ---------------------------------------------------------------- ways of collecting: (part, size) -> list on rank 0
def through_folder(part: list[Any], size: int) -> Any:
    """Collect objects through a temporary folder."""
    from lazyengine.dist import collect_results

    return collect_results(part, size, device="cpu")


def sent(part: list[Any], size: int) -> Any:
    """Collect objects through the process group."""
    from lazyengine.dist import collect_results

    return collect_results(part, size, device="gpu")


_tensors: dict[int, Any] = {}


def as_tensor(part: list[Any], size: int) -> Any:
    """Collect the same numbers as one row a sample; made once, as a metric that keeps tensors never had dicts."""
    import torch

    if id(part) not in _tensors:
        _tensors[id(part)] = torch.tensor([list(result.values()) for result in part], dtype=torch.float64)
    return sent(_tensors[id(part)], size)
