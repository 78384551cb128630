"""Recording a scalar: what it costs early and late in a run."""

from __future__ import annotations

import collections
from typing import Any

from .table import Options, Row, Samples, in_process, rows_over, take_turns

NUM_UPDATES = 500


def run(options: Options) -> list[Row]:
    """Return the rows of a short history and of one just below the million at which peers begin to drop values."""
    peers = options.find_peers(["mmengine", "fvcore"])
    rows = []
    for length, goal in ((100, "<= 0.3 us"), (990_000, "<= 0.5 us")):
        samples = in_process("history:measure", length=length, rounds=3 * options.rounds, peers=peers)
        work = f"HistoryBuffer.update after {length:,} values"
        rows += rows_over("deque.append", samples, work, {"lazyengine": goal}, scale=1e6 / NUM_UPDATES)
    return rows


def measure(length: int, rounds: int, peers: list[str]) -> Samples:
    """In a fresh process: append to histories of `length` values."""
    from lazyengine.logging import HistoryBuffer

    ours = HistoryBuffer()
    values = collections.deque([1.0] * length, maxlen=1_000_000)
    updates: dict[str, Any] = {"deque.append": values.append, "lazyengine": ours.update}
    if "fvcore" in peers:
        from fvcore.common.history_buffer import HistoryBuffer as FVHistoryBuffer

        updates["fvcore"] = FVHistoryBuffer().update
    for name in updates.keys() - {"deque.append"}:
        for _ in range(length):
            updates[name](1.0)
    if "mmengine" in peers:
        from mmengine.logging import HistoryBuffer as MMHistoryBuffer

        updates["mmengine"] = MMHistoryBuffer([1.0] * length, [1] * length).update

    def repeat(update: Any) -> Any:
        def several() -> None:
            for _ in range(NUM_UPDATES):
                update(1.0)

        return several

    return take_turns({name: repeat(update) for name, update in updates.items()}, rounds)
