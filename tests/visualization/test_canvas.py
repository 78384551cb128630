"""Drawing on images, as the visualizers of detection and segmentation libraries do it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from lazyengine.errors import UsageError
from lazyengine.visualization import Visualizer

from . import golden

matplotlib = pytest.importorskip("matplotlib")
GOLDEN = np.load(golden.FILE)  # what mmengine 0.10.7 drew
ROUNDING = {"circles": 20, "lines": 1, "points": 1, "polygons": 1, "masks": 2, "one mask": 1, "mean": 1, "largest": 1}
BLACK = np.zeros((40, 60, 3), np.uint8)


@pytest.fixture
def canvas(tmp_path):
    visualizer = Visualizer("canvas", save_dir=tmp_path)
    visualizer.set_image(BLACK)
    yield visualizer
    visualizer.close()


def changed(image):
    """Return the rectangle around what is not black: left, top, right, bottom."""
    rows, columns = np.nonzero(image.sum(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def difference(image, name):
    """Return the largest difference of a pixel from mmengine's image."""
    assert image.shape == GOLDEN[name].shape
    return abs(image.astype(int) - GOLDEN[name].astype(int)).max()


@pytest.mark.parametrize("name", golden.DRAWINGS)
def test_drawings_are_those_of_mmengine(canvas, name):
    """A circle has 72 corners here."""
    if matplotlib.__version__.split(".")[:2] != ["3", "11"]:
        pytest.skip("the images were drawn by matplotlib 3.11")
    assert difference(golden.draw(canvas, name), name) <= ROUNDING.get(name, 0)


@pytest.mark.parametrize("name", golden.FEATURE_MAPS)
def test_feature_maps_have_the_colours_of_mmengine(canvas, name):
    image = canvas.draw_featmap(golden.MAPS, **golden.FEATURE_MAPS[name])
    assert difference(image, name) <= ROUNDING.get(name, 1)


def test_an_image_that_nothing_was_drawn_on_is_itself(canvas):
    rng = np.random.default_rng(0)
    for shape in ((40, 60, 3), (7, 11, 3), (40, 60), (1, 1, 3)):
        pixels = rng.integers(0, 256, shape, np.uint8)
        canvas.set_image(pixels)
        drawn = canvas.get_image()
        assert np.array_equal(drawn, pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2))


@pytest.mark.parametrize("boxes", [[10, 5, 30, 20], np.array([[10, 5, 30, 20]]), torch.tensor([[10.0, 5, 30, 20]])])
def test_boxes_lie_where_their_pixels_are(canvas, boxes):
    image = canvas.draw_bboxes(boxes, edge_colors="none", face_colors=(255, 0, 0), alpha=1).get_image()
    left, top, right, bottom = changed(image)
    assert (abs(left - 10), abs(top - 5), abs(right - 30), abs(bottom - 20)) < (2, 2, 2, 2)
    assert image[12, 20].tolist() == [255, 0, 0]
    assert image[30, 50].tolist() == [0, 0, 0]


def test_each_shape_has_its_own_colour(canvas):
    image = canvas.draw_circles([[15, 20], [45, 20]], [5, 8], edge_colors=["r", (0, 0, 255)], face_colors=["r", "b"])
    image = image.get_image()
    assert image[20, 15].argmax() == 0
    assert image[20, 45].argmax() == 2


def test_calls_are_chained_and_all_of_them_draw(canvas):
    before = canvas.get_image()
    for draw in (
        lambda: canvas.draw_points([[5, 5], [50, 30]], colors=["r", "b"], sizes=20),
        lambda: canvas.draw_lines([[0, 59]], [[0, 39]]),
        lambda: canvas.draw_texts(["a", "b"], [[10, 10], [30, 20]], colors=["r", "g"], font_sizes=12),
        lambda: canvas.draw_polygons([np.array([[30, 30], [50, 30], [40, 38]])], face_colors="w"),
        lambda: canvas.draw_polygons(torch.tensor([[3.0, 3], [9, 3], [6, 8]]), face_colors="w"),
    ):
        after = draw().get_image()
        assert not np.array_equal(before, after)
        before = after


def test_where_nothing_was_found_nothing_is_drawn(canvas):
    before = canvas.get_image()
    canvas.draw_bboxes([]).draw_bboxes(torch.zeros(0, 4)).draw_circles([], []).draw_polygons([])
    canvas.draw_points([]).draw_texts([], []).draw_binary_masks(np.zeros((0, 40, 60), bool))
    assert np.array_equal(canvas.get_image(), before)


def test_masks_colour_exactly_their_pixels(canvas):
    masks = np.zeros((2, 40, 60), bool)
    masks[0, :10, :10], masks[1, 20:, 30:] = True, True
    image = canvas.draw_binary_masks(masks, colors=["r", "b"], alphas=[1.0, 0.5]).get_image()
    assert np.array_equal(image.sum(axis=2) > 0, masks.any(axis=0))
    assert image[0, 0].tolist() == [255, 0, 0]
    assert np.allclose(image[39, 59], [0, 0, 127], atol=2)


def test_feature_maps(canvas):
    maps = torch.stack([torch.arange(12.0).reshape(3, 4), torch.full((3, 4), 100.0)])
    assert canvas.draw_featmap(maps).shape == (3, 4, 3)
    assert len(np.unique(canvas.draw_featmap(maps, channel_reduction="select_max"))) <= 2
    assert canvas.draw_featmap(maps, BLACK).shape == BLACK.shape


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda canvas: canvas.draw_bboxes([10, 5, 5, 20]), "x1 <= x2"),
        (lambda canvas: canvas.draw_bboxes([1, 2, 3]), r"expected numbers of shape \(N, 4\), got \(1, 3\)"),
        (
            lambda canvas: canvas.draw_binary_masks(np.ones((2, 2), bool)),
            r"masks of \(2, 2\), the image has \(40, 60\)",
        ),
        (lambda canvas: canvas.draw_featmap(np.ones((2, 2))), r"expected a map \(C, H, W\)"),
        (lambda canvas: Visualizer("another").draw_points([1, 2]), r"call set_image\(image\) first"),
    ],
)
def test_what_cannot_be_drawn_is_named(canvas, draw, message):
    with pytest.raises(UsageError, match=message):
        draw(canvas)


def test_without_matplotlib_the_extra_is_named(canvas, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'lazyengine\[plot\]'"):
        canvas.set_image(BLACK)


class Tracker:
    """A backend of another library."""

    def __init__(self):
        self.seen = []

    def add_scalars(self, scalar_dict, step=0, file_path=None):
        self.seen.append((dict(scalar_dict), step))

    def add_image(self, name, image, step=0, **kwargs):
        self.seen.append((name, image.shape, step))


class OneByOne:
    def __init__(self):
        self.seen = []

    def add_scalar(self, name, value, step=0):
        self.seen.append((name, value, step))


def test_backends_of_others_and_a_single_one(tmp_path):
    tracker, single = Tracker(), OneByOne()
    visualizer = Visualizer("both", vis_backends=[tracker, single], save_dir=tmp_path)
    visualizer.add_scalars({"loss": 1.5, "lr": 0.1}, 3, mode="train")
    visualizer.add_image("x", BLACK, 4)
    visualizer.add_config("a = 1")  # which they do not have
    assert tracker.seen == [({"train/loss": 1.5, "train/lr": 0.1}, 3), ("x", (40, 60, 3), 4)]
    assert single.seen == [("train/loss", 1.5, 3), ("train/lr", 0.1, 3)]
    assert visualizer.get_backend("Tracker") is tracker
    with pytest.raises(KeyError, match=r"the visualizer has .*Tracker.*OneByOne"):
        visualizer.get_backend("WandbVisBackend")
    visualizer.close()
    alone = Visualizer("alone", vis_backends=single, save_dir=tmp_path)
    alone.add_scalar("a", 2, 1)
    assert single.seen[-1] == ("a", 2, 1)
    alone.close()
    with pytest.raises(TypeError, match=r"vis_backends\[0\] must be a VisBackend, got 'tensorboard'"):
        Visualizer("none", vis_backends=["tensorboard"])


@pytest.mark.parametrize("size", [(30, 30), (31, 45), (90, 8)])
def test_a_resized_map_has_colours_of_the_scale_only(canvas, size):
    """Between blue and red lies green, as in mmengine, and not their mixture."""
    image = canvas.draw_featmap(np.array([[[0.0, 1.0], [1.0, 0.0]]]), np.zeros((*size, 3), np.uint8), alpha=1.0)
    assert image.shape[:2] == size
    assert image[..., 1].max() > 200
    assert not ((image[..., 0] > 100) & (image[..., 2] > 100) & (image[..., 1] < 100)).any()
