"""The detector at small size: its parts by hand, its metric against COCO's own code, one rank against two."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from lazyengine.config import LazyConfig
from lazyengine.runner import Runner
from projects.detection.average_precision import AveragePrecision
from projects.detection.detector import Detector, assign, generalized_iou, pairwise_iou, suppress
from projects.detection.shapes import CLASSES, RandomFlip, Shapes, draw, mask, pad_images

CONFIG = Path(__file__).resolve().parents[2] / "projects" / "detection" / "config.py"
SMALL = (
    *("model.width=8", "model.num_layers=1", "train_dataset.num_images=24", "val_dataset.num_images=9"),
    *("train_loop.max_epochs=2", "train_loop.val_interval=1", "default_hooks.checkpoint.interval=1"),
    *("runner.param_schedulers[0].end=2", "runner.param_schedulers[1].begin=2"),
)

# No augmentation, whose draws belong to a rank; and an optimizer that does not turn rounding into steps.
SAME = ("train_dataset.pipeline=[]", "optimizer.eps=1e-3")


def run(work_dir: Any, *overrides: str, **kwargs: Any) -> Runner:
    """Train the config at small size: 2 epochs of 3 iterations of 8 images."""
    cfg = LazyConfig.load(CONFIG)
    LazyConfig.apply_overrides(cfg, [*SMALL, *overrides])
    runner = Runner.from_cfg(cfg, work_dir=str(work_dir), **kwargs)
    runner.train()
    return runner


def state_of(runner: Runner) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in runner.model.parameters()])


def on_rank(rank: int, folder: str) -> None:
    """Train in two ranks what one rank trains, on the same eight images a step, and evaluate what it has trained."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        two = run(f"{folder}/two", *SAME, "train_loop.dataloader.batch_size=4", launcher="none")
        one = torch.load(f"{folder}/one.pt", weights_only=True)
        torch.testing.assert_close(state_of(two), one["trained"], rtol=1e-5, atol=1e-6)
        two.model.load_state_dict(one["state_dict"])
        two.model.min_score = 0.005
        assert two.val() == one["metrics"]  # to the bit
    finally:
        distributed.destroy_process_group()


def test_one_rank_and_two(tmp_path):
    one = run(tmp_path / "one", *SAME)
    trained = state_of(one)
    with torch.no_grad():
        one.model.sides.bias.fill_(2.0)  # boxes of a size that finds something after so short a training
    one.model.min_score = 0.005
    metrics = one.val()
    assert metrics["detection/mAP_50"] > 0
    torch.save({"trained": trained, "state_dict": one.model.state_dict(), "metrics": metrics}, tmp_path / "one.pt")
    spawn(on_rank, (str(tmp_path),), nprocs=2)


def test_a_run_resumed_in_mid_epoch_ends_with_the_same_weights(tmp_path):
    by_iter = ("default_hooks.checkpoint.by_epoch=false", "default_hooks.checkpoint.interval=4")
    whole = run(tmp_path / "whole", *by_iter)
    resumed = run(tmp_path / "resumed", *by_iter, resume=str(tmp_path / "whole" / "iter_4.pth"))
    assert torch.equal(state_of(whole), state_of(resumed))
    (log,) = Path(whole.log_dir).glob("*.log")
    assert "detection/mAP_50" in log.read_text()


# ------------------------------------------------------------------ the metric
def imagined(num_images: int, seed: int) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """Return objects and detections: some moved, some false, some of another class, some twice, some images empty."""
    generator = torch.Generator().manual_seed(seed)
    truth, found = [], []
    for image in range(num_images):
        num = 0 if image % 5 == 4 else int(torch.randint(1, 6, (), generator=generator))
        corner = 60 * torch.rand(num, 2, generator=generator)
        boxes = torch.cat((corner, corner + 8 + 20 * torch.rand(num, 2, generator=generator)), 1)
        labels = torch.randint(3, (num,), generator=generator)
        truth.append({"boxes": boxes, "labels": labels})
        which = torch.randint(max(num, 1), (2 * num,), generator=generator)
        moved = boxes[which] + 2.5 * torch.randn(2 * num, 4, generator=generator)
        moved = torch.cat((moved[:, :2], torch.maximum(moved[:, 2:], moved[:, :2] + 1)), 1)
        others = torch.where(torch.rand(2 * num, generator=generator) < 0.2, 1, labels[which])
        extra = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
        scores = torch.rand(2 * num + 1, generator=generator)
        found.append({"boxes": torch.cat((moved, extra)), "labels": torch.cat((others, torch.tensor([0])))})
        found[-1]["scores"] = scores
    return truth, found


def as_coco(truth: Any, found: Any) -> dict[str, float]:
    """Return what COCO's own code computes."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(images: Any) -> list[dict[str, Any]]:
        found = []
        for image_id, image in enumerate(images):
            for place, (box, label) in enumerate(zip(image["boxes"].double().tolist(), image["labels"].tolist())):
                x1, y1, x2, y2 = box
                entry = {"id": len(found) + 1, "image_id": image_id, "category_id": label, "iscrowd": 0}
                entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                found.append(entry | ({"score": image["scores"][place].item()} if "scores" in image else {}))
        return found

    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO()
        images = [{"id": image_id, "width": 100, "height": 100} for image_id in range(len(truth))]
        categories = [{"id": label, "name": str(label)} for label in range(3)]
        objects.dataset = {"images": images, "categories": categories, "annotations": entries(truth), "info": {}}
        objects.createIndex()
        evaluation = COCOeval(objects, objects.loadRes(entries(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("detection/mAP", "detection/mAP_50", "detection/mAP_75")
    return dict(zip(names, map(float, evaluation.stats[:3])))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_the_metric_is_that_of_coco(seed):
    truth, found = imagined(40, seed)
    metric = AveragePrecision()
    for start in range(0, 40, 7):
        metric.process(truth[start : start + 7], found[start : start + 7])
    metrics = metric.evaluate(40)
    assert metrics == pytest.approx(as_coco(truth, found), abs=1e-6)
    assert 0.05 < metrics["detection/mAP"] < metrics["detection/mAP_50"] < 0.9


def test_nothing_to_detect_tells_nothing_and_the_100_best_of_a_class_count():
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    none = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.long)}
    one = {"boxes": boxes, "labels": torch.zeros(1, dtype=torch.long)}

    def found(number):
        others = torch.cat((boxes.repeat(number, 1) + 50, boxes))  # the right one is the last
        scores = torch.linspace(1, 0.5, number + 1)
        return {"boxes": others, "labels": torch.zeros(number + 1, dtype=torch.long), "scores": scores}

    for truth, number, value in ((none, 3, None), (one, 99, 0.01), (one, 100, 0.0)):
        metric = AveragePrecision()
        metric.process([truth], [found(number)])
        values = metric.evaluate(1).values()
        assert all(v == pytest.approx(value) if value is not None else v != v for v in values)


def test_perfect_and_no_detections():
    truth, _ = imagined(6, 0)
    perfect = [{**image, "scores": torch.ones(len(image["labels"]))} for image in truth]
    nothing = [{name: value[:0] for name, value in image.items()} for image in perfect]
    for found, expected in ((perfect, 1.0), (nothing, 0.0)):
        metric = AveragePrecision()
        metric.process(truth, found)
        assert set(metric.evaluate(6).values()) == {expected}


# ------------------------------------------------------------------ the parts
def test_images_are_functions_of_their_number_and_boxes_hold_the_shapes():
    data = Shapes("train", 5)
    assert all(torch.equal(data[2][name], Shapes("train", 9)[2][name]) for name in ("image", "boxes", "labels"))
    assert not torch.equal(data[2]["image"][0, :40, :40], Shapes("val", 5)[2]["image"][0, :40, :40])
    assert len({data[i]["image"].shape for i in range(5)}) > 1
    for name, share in zip(CLASSES, (torch.pi / 4, 1, 0.5)):
        assert mask(name, 40).mean() == pytest.approx(share, abs=0.02)
        assert mask(name, 40).any(0).all()
    with pytest.raises(ValueError, match="expected 'train' or 'val'"):
        Shapes("test")  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        data[5]


def test_a_flip_moves_the_boxes_with_the_image():
    import numpy as np

    sample = draw(np.random.default_rng(3))
    torch.manual_seed(0)
    flipped = next(each for each in (RandomFlip()(sample) for _ in range(20)) if each is not sample)
    for (x1, y1, x2, y2), (left, top, right, bottom) in zip(sample["boxes"].int(), flipped["boxes"].int()):
        part = flipped["image"][:, top:bottom, left:right]
        assert torch.equal(part.flip(2), sample["image"][:, y1:y2, x1:x2])


def test_places_get_the_smallest_box_in_whose_middle_they_lie():
    places = torch.tensor([[10.0, 10.0], [14.0, 10.0], [40.0, 40.0], [17.0, 10.0]])
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [12.0, 8.0, 16.0, 12.0]])
    assert assign(places, boxes, 6.0).tolist() == [0, 1, -1, -1]
    assert assign(places, boxes[:0], 6.0).tolist() == [-1] * 4


def test_overlaps_and_suppression():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0], [0.0, 0.0, 2.0, 1.9]])
    torch.testing.assert_close(pairwise_iou(boxes[:1], boxes), torch.tensor([[1.0, 1 / 3, 0.0, 0.95]]))
    torch.testing.assert_close(generalized_iou(boxes[:1], boxes[2:3]), torch.tensor([-1 / 3]))
    assert suppress(boxes, torch.tensor([0, 0, 0, 0]), 0.6).tolist() == [0, 1, 2]
    assert suppress(boxes, torch.tensor([0, 0, 0, 1]), 0.6).tolist() == [0, 1, 2, 3]
    assert suppress(boxes, torch.tensor([0, 0, 0, 0]), 0.3).tolist() == [0, 2]


def test_an_image_without_objects_and_what_is_padded():
    torch.manual_seed(0)
    model = Detector(width=8, num_layers=1)
    model.init_weights()
    empty = {"image": torch.rand(3, 50, 61), "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model([empty, {**empty, **draw_with_one()}], mode="loss")
    assert {name: int(value.count) for name, value in losses.items()} == {"loss_class": 1, "loss_box": 1}
    assert losses["loss_class"].count is losses["loss_box"].count
    model.min_score = 0.005
    (found, _) = model([empty, draw_with_one()], mode="predict")
    assert len(found["boxes"])
    assert (found["boxes"][:, 2] <= 61).all()
    assert (found["boxes"][:, 3] <= 50).all()
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    assert pad_images([empty["image"]], 8).shape == (1, 3, 56, 64)


def draw_with_one() -> dict[str, Any]:
    return {
        "image": torch.rand(3, 64, 48),
        "boxes": torch.tensor([[10.0, 10.0, 30.0, 30.0]]),
        "labels": torch.tensor([2]),
    }


def test_an_image_is_seen_alike_alone_and_with_larger_ones():
    torch.manual_seed(0)
    model = Detector(width=8, num_layers=2).eval()
    model.init_weights()
    samples = [{"image": torch.randn(3, *size)} for size in ((53, 62), (70, 49), (48, 96))]
    height, width = (-(-size // 4) for size in samples[0]["image"].shape[1:])
    rows = -(-max(sample["image"].shape[2] for sample in samples) // 4)
    with torch.no_grad():
        alone, _ = model(samples[:1])
        together, _ = model(samples)
    assert together.shape[1] > alone.shape[1]
    part = together[0].unflatten(0, (-1, rows))[:height, :width]
    torch.testing.assert_close(part.flatten(0, 1), alone[0])
