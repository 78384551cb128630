"""What a run shows: images of predictions and plots in every backend, bars on a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lazyengine.dataset import DataLoader
from lazyengine.evaluator import ConfusionMatrix, DumpResults, Evaluator, load_results
from lazyengine.hooks import ProfilerHook, VisualizationHook
from lazyengine.logging import MMLogger
from lazyengine.runner import ValLoop
from lazyengine.visualization import TensorboardVisBackend, Visualizer

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


def writing_runner(work_dir: Path, **kwargs):
    """A runner whose metrics, hooks and backends name relative files, and one absolute one."""
    profiler = ProfilerHook(wait=0, warmup=1, active=1, row_limit=0, out_dir="traces")
    visualizer = Visualizer(vis_backends=TensorboardVisBackend("curves"))
    runner = toy_runner(str(work_dir), max_epochs=1, hooks={"profiler": profiler}, visualizer=visualizer, **kwargs)
    dumps = [DumpResults("deep/y.pt"), DumpResults(str(work_dir / "given.jsonl"))]
    runner._parts["val_loop"] = ValLoop(DataLoader(ToyData(), 4), [MeanError(), Sign(2, picture="x.png"), *dumps])
    return runner


@pytest.mark.parametrize("trains", [True, False])
def test_files_with_relative_names_are_the_start_s_and_the_log_has_their_paths(tmp_path, monkeypatch, trains):
    """Two runs, as of a sweep, share neither pictures nor dumps; nothing is left where they were started."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in ("a", "b"):
        runner = writing_runner(tmp_path / name)
        _ = runner.train() if trains else runner.val()
        start = tmp_path / name / runner.timestamp
        assert (start / "x.png").read_bytes()[:4] == b"\x89PNG"
        assert len(load_results(start / "deep/y.pt")) == len(load_results(tmp_path / name / "given.jsonl")) == 20
        log = Path(runner.logger.log_file or "").read_text()
        assert f"the picture is {start / 'x.png'}\n" in log
        assert f"20 results are in {start / 'deep/y.pt'}\n" in log
        if trains:
            assert [path.name for path in (start / "traces").iterdir()] == ["trace_rank0_iter2.json"]
            assert len(list((start / "curves").iterdir())) == 1
    assert list(here.iterdir()) == []


def test_outside_a_run_relative_names_lie_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = MMLogger.get_instance("a log of one's own", log_file="logs/some.log")
    evaluator = Evaluator([ConfusionMatrix(picture="x.png"), DumpResults("deep/y.pt")])
    evaluator.process({"scores": torch.eye(2), "label": torch.tensor([0, 1])})
    evaluator.evaluate(2)
    logger.close()
    assert (tmp_path / "x.png").exists()
    assert len(load_results("deep/y.pt")) == 2


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
    status = r"epoch 2/2 \S*[━╸╺ ]+5/5 loss \d\S*  it/s \d\S*  eta 0:00:00  memory \d+ MiB"
    assert any(re.fullmatch(status, line) for line in lines)
    assert any(re.fullmatch(r"validation \S*[━╸╺ ]+[1-5]/5 eta 0:00:00", line) for line in lines)
    logged = [line for line in lines if "Epoch(train)" in line]
    assert len(logged) == 4
    assert all(re.search(r"\]  loss: \d\.\d{4}  lr: \d\.\d{4}e-\d\d  eta: \d:\d\d:\d\d$", line) for line in logged)
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") > 0  # the cursor comes back
