"""What a run shows: images of predictions and plots in every backend, bars on a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lazyengine.dataset import DataLoader
from lazyengine.evaluator import ConfusionMatrix
from lazyengine.hooks import VisualizationHook
from lazyengine.runner import ValLoop

from ..logging.test_terminal import run_in_terminal
from ..runner.toy import MeanError, ToyData, toy_runner


def draw(data_batch, outputs):
    """A grey image of each point, with truth and prediction."""
    for x, y, error in zip(data_batch["x"], data_batch["y"], outputs["error"]):
        pixels = ((x.reshape(2, 2) + 2) * 60).clamp(0, 255).to(torch.uint8)
        yield pixels.repeat_interleave(16, 0).repeat_interleave(16, 1), {"label": float(y), "pred": float(y + error)}


def images_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder / "images")) for path in (folder / "images").rglob("*.png"))


def test_images_with_predictions_are_on_disk_and_in_tensorboard(tmp_path):
    hook = VisualizationHook(draw, interval=2, max_images=5, name="points")
    runner = toy_runner(str(tmp_path), max_epochs=2, hooks={"images": hook})
    runner.train()
    folder = tmp_path / runner.timestamp
    assert images_of(folder) == sorted(f"val/points/{i}_{step}.png" for i in range(5) for step in (5, 10))
    curves = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = curves.Tags()["images"]
    assert sorted(tags) == [f"val/points/{i}" for i in range(5)]
    first = curves.Images(tags[0])
    assert [image.step for image in first] == [5, 10]
    assert first[0].height > 32  # a caption below the image
    assert (folder / "images/val/points/0_5.png").read_bytes()[:4] == b"\x89PNG"


def test_each_loader_has_images_of_its_own(tmp_path):
    runner = toy_runner(str(tmp_path), hooks={"images": VisualizationHook(draw, max_images=2)})
    loaders = {"a": DataLoader(ToyData(8), 4), "b": DataLoader(ToyData(8), 4)}
    runner._parts["val_loop"] = ValLoop(loaders, {"a": MeanError(), "b": MeanError()})
    runner.val()
    expected = [f"val/{loader}/predictions/{i}_0.png" for loader in "ab" for i in range(2)]
    assert images_of(tmp_path / runner.timestamp) == expected


class Sign(ConfusionMatrix):
    """Whether the sum of a point is positive, predicted as its mirror."""

    def process(self, data_batch, data_samples):
        label = (data_batch["y"] > 0).long()
        super().process(None, {"scores": 1 - label, "label": label})


def test_plots_of_metrics_go_to_the_visualizer(tmp_path):
    runner = toy_runner(str(tmp_path), hooks={"plots": VisualizationHook()})
    runner._parts["val_loop"] = ValLoop(DataLoader(ToyData(), 4), [MeanError(), Sign(num_classes=2)])
    metrics = runner.val()
    assert metrics["confusion_matrix/mean_recall"] == 0.0
    assert images_of(tmp_path / runner.timestamp) == ["val/confusion_matrix_0.png"]
    pixels = EventAccumulator(str(tmp_path / runner.timestamp / "tensorboard")).Reload().Images("val/confusion_matrix")
    assert pixels[0].width > 100


def test_arguments_are_checked_when_they_are_given():
    with pytest.raises(ValueError, match="interval=0, max_images=16"):
        VisualizationHook(draw, interval=0)


def test_a_caption_is_drawn_below_the_image():
    from lazyengine.visualization import Visualizer

    image = np.zeros((32, 32, 1), np.uint8)
    drawn = Visualizer("captions").draw(image, {"label": 3, "pred_label": 5}, True, True)
    assert drawn.shape[0] > 40
    assert drawn[:32, :32].max() == 0
    assert drawn[32:].min() < 100


RUN = """
    import sys
    from lazyengine.hooks import LoggerHook, ProgressBarHook
    from tests.runner.toy import toy_runner
    hooks = {"logger": LoggerHook(interval=2), "progress_bar": ProgressBarHook(refreshes_per_s=1e6)}
    toy_runner(sys.argv[1], max_epochs=2, hooks=hooks).train()
"""


def test_bars_of_training_and_validation_on_a_terminal_do_not_break_log_lines(tmp_path):
    output = run_in_terminal(RUN.replace("sys.argv[1]", repr(str(tmp_path))))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    lines = [line.strip() for line in plain.replace("\r", "\n").split("\n")]
    assert any(re.fullmatch(r"epoch 2/2 \S*[━╸╺ ]+5/5 loss \d\S*  lr 0\.0\d+  eta 0:00:00", line) for line in lines)
    assert any(re.fullmatch(r"validation \S*[━╸╺ ]+[1-5]/5 eta 0:00:00", line) for line in lines)
    logged = [line for line in lines if "logger_hook.py" in line and "Epoch(train)" in line]
    assert len(logged) == 4
    assert all(re.search(r"loss: \d\.\d{4}  time: .*data_time: \d\.\d{4}$", line) for line in logged)
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") > 0  # the cursor comes back
