"""A backend is given the config, the model and the run's id, at each start."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lazyengine.config import Config
from lazyengine.visualization import VisBackend, Visualizer

from ..runner.toy import StopAt, toy_runner


class Recording(VisBackend):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def start(self, save_dir, run_dir, resumed_step):
        self.seen.append((self.run_id, resumed_step))

    def add_config(self, text):
        self.seen.append(text)

    def add_graph(self, text):
        self.seen.append(text)


def test_each_start_hands_over_what_it_is(tmp_path):
    first, second = Recording(), Recording()
    runner = toy_runner(str(tmp_path), hooks={"stop": StopAt(7)}, visualizer=Visualizer(vis_backends=[first]))
    runner.cfg = Config({"lr": 0.01})
    with pytest.raises(InterruptedError):
        runner.train()
    resumed = toy_runner(str(tmp_path), resume=True, visualizer=Visualizer(vis_backends=[second]))
    resumed.train()
    run_id = json.loads((tmp_path / "run.json").read_text())["run_id"]
    assert run_id
    assert first.seen == [(run_id, None), first.seen[1], repr(runner.model)]
    assert "0.01" in first.seen[1]
    assert second.seen == [(run_id, 5), repr(resumed.model)]
