import dataclasses
import gc
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lazyengine.logging import read_metrics
from lazyengine.visualization import LocalVisBackend, TensorboardVisBackend, VisBackend, Visualizer


class Recorder(VisBackend):
    """Remembers its calls."""

    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name not in vars(VisBackend) or name.startswith("_"):
            return super().__getattribute__(name)
        return lambda *args: self.calls.append((name, *args))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def visualizer(recorder, tmp_path):
    return Visualizer("test", [recorder], tmp_path)


def test_backends_get_plain_values(visualizer, recorder, tmp_path):
    visualizer.start(7)
    visualizer.add_scalar("a", torch.tensor([2.5]), 3)
    visualizer.add_scalars({"a": np.float32(0.5), "b": 1, "epoch": 2, "iter": 4}, step=4, mode="train")
    visualizer.add_scalars({"a": True, "epoch": 9}, step=5, mode="val", epoch=3, iter=6)
    visualizer.add_config("x = 1")
    visualizer.add_graph(torch.nn.Linear(1, 2))
    visualizer.flush()
    visualizer.close()
    assert recorder.calls == [
        ("start", tmp_path, tmp_path, 7),
        ("add_scalars", {"a": 2.5}, 3, None, None, None),
        ("add_scalars", {"a": 0.5, "b": 1}, 4, "train", 2, 4),
        ("add_scalars", {"a": True}, 5, "val", 3, 6),
        ("add_config", "x = 1"),
        ("add_graph", "Linear(in_features=1, out_features=2, bias=True)"),
        ("flush",),
        ("close",),
    ]


def test_it_starts_by_itself_as_a_new_run(visualizer, recorder, tmp_path):
    visualizer.flush()
    assert recorder.calls == []
    visualizer.set_save_dir(tmp_path / "start", run_dir=tmp_path)
    visualizer.add_scalar("a", 1.0)
    assert recorder.calls[0] == ("start", tmp_path / "start", tmp_path, None)


def test_only_the_main_process_shows_anything(visualizer, recorder, monkeypatch):
    monkeypatch.setattr("lazyengine.dist.is_main_process", lambda: False)
    visualizer.start()
    visualizer.add_scalar("a", 1.0)
    visualizer.add_datasample("x", np.zeros((2, 2), np.uint8))
    visualizer.close()
    assert recorder.calls == []


def test_it_is_found_by_name_however_it_was_made():
    class Mine(Visualizer):
        pass

    mine = Mine("mine", [])
    assert Visualizer.get_current_instance() is mine
    other = Visualizer.get_instance("other", vis_backends=[])
    assert Visualizer.get_instance("other") is other is Visualizer.get_current_instance()


@pytest.mark.parametrize("value", ["0.5", None, [1.0], np.ones(2), torch.ones(2), 1j])
def test_scalars_are_checked(visualizer, value):
    with pytest.raises(TypeError, match="scalar 'loss' given to the visualizer must be a number"):
        visualizer.add_scalar("loss", value)


def test_errors_of_setup():
    with pytest.raises(TypeError, match=r"vis_backends\[0\] must be a VisBackend.*pass instances"):
        Visualizer("x", [LocalVisBackend])  # type: ignore[list-item]
    with pytest.raises(RuntimeError, match="has no folder to write in; pass save_dir or call set_save_dir"):
        Visualizer("x").add_scalar("a", 1.0)


def test_a_further_file(tmp_path):
    visualizer = Visualizer("x", [], tmp_path)
    visualizer.add_scalars({"a": 1.0}, step=3, file_path="other.jsonl")
    visualizer.close()
    assert read_metrics(tmp_path / "other.jsonl") == [{"step": 3, "epoch": None, "iter": 3, "mode": "custom", "a": 1.0}]


# ---------------------------------------------------------------- images


def read_png(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (64, 200)])
def test_images_are_written_without_loss(tmp_path, channels, size):
    shape = size if channels is None else (*size, channels)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    visualizer = Visualizer("x", [LocalVisBackend()], tmp_path)
    visualizer.add_image("val/a b", image, step=7)
    visualizer.add_image("../odd", torch.from_numpy(image), step=8)
    for path in ("images/val/a_b_7.png", "images/odd_8.png"):
        read = read_png((tmp_path / path).read_bytes())
        assert np.array_equal(read, image.squeeze(-1) if channels == 1 else image)


def test_masks_and_figures(visualizer, recorder):
    visualizer.add_image("mask", torch.tensor([[True, False]]))
    assert recorder.calls[-1][2].tolist() == [[[255], [0]]]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([0, 1])
    visualizer.add_image("figure", figure)
    assert recorder.calls[-1][2].shape == (50, 100, 4)
    assert recorder.calls[-1][2].std() > 0


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((2, 2)), TypeError, "uint8 in .*got float64; convert it"),
        (np.zeros((3, 20, 20), np.uint8), ValueError, r"got \(3, 20, 20\); of a \(C, H, W\) tensor pass x.permute"),
        (np.zeros((0, 2), np.uint8), ValueError, "shape"),
        (np.zeros(3, np.uint8), ValueError, "shape"),
    ],
)
def test_images_are_checked(visualizer, image, error, message):
    with pytest.raises(error, match=message) as caught:
        visualizer.add_image("x", image)
    assert caught.value.__notes__ == ["image 'x' given to the visualizer"]


@dataclasses.dataclass
class Sample:
    gt_label: int
    pred_label: torch.Tensor
    pred_scores: torch.Tensor
    path: str = "a.png"


SAMPLES = [
    Sample(3, torch.tensor(5), torch.tensor([0.1, 0.9])),
    {"gt_label": 3, "pred_label": np.int64(5), "other": 1},
]


@pytest.mark.parametrize("sample", SAMPLES, ids=["dataclass", "dict"])
def test_labels_are_written_below_the_image(visualizer, recorder, sample):
    image = np.full((28, 28), 7, np.uint8)
    pictures = []
    for draw_gt, draw_pred in [(True, True), (True, False), (False, False)]:
        visualizer.add_datasample("x", image, sample, draw_gt, draw_pred, step=2)
        pictures.append(recorder.calls[-1][2])
        assert recorder.calls[-1][3] == 2
        assert (pictures[-1][:28, :28] == 7).all()
    both, only_gt, nothing = pictures
    assert both.shape[0] > 28
    assert both.shape[1] > only_gt.shape[1] > 28
    assert nothing.shape == (28, 28, 1)


def test_subclasses_draw_what_they_like(recorder, tmp_path):
    class Boxes(Visualizer):
        def draw(self, image, data_sample, draw_gt, draw_pred):
            image = image.copy()
            image[data_sample["row"]] = 255
            return image

    Boxes("x", [recorder], tmp_path).add_datasample("x", np.zeros((2, 2), np.uint8), {"row": 1})
    assert recorder.calls[-1][2][:, :, 0].tolist() == [[0, 0], [255, 255]]


# ---------------------------------------------------------------- files


def test_local_files(tmp_path):
    visualizer = Visualizer("x", save_dir=tmp_path)
    visualizer.add_config("lr = 1")
    visualizer.add_graph("Net()")
    visualizer.add_scalars({"loss": 1.0}, step=1, mode="train", epoch=1)
    visualizer.add_scalar("mine", 2.0, step=1)
    visualizer.close()
    assert (tmp_path / "config.txt").read_text() == "lr = 1"
    assert (tmp_path / "graph.txt").read_text() == "Net()"
    assert read_metrics(tmp_path) == [
        {"step": 1, "epoch": 1, "iter": 1, "mode": "train", "loss": 1.0},
        {"step": 1, "epoch": None, "iter": 1, "mode": "custom", "mine": 2.0},
    ]


def make_runs(root: Path) -> list[int]:
    """A run that is killed and resumed three times; returns the steps that a reader shall see."""
    for i, (resumed, stop) in enumerate([(None, 47), (30, 66), (60, 95), (90, 120)]):
        visualizer = Visualizer("x", [LocalVisBackend(), TensorboardVisBackend()])
        visualizer.set_save_dir(root / f"start{i}", run_dir=root)
        visualizer.start(resumed)
        for step in range((resumed or 0) + 1, stop + 1):
            if step % 5 == 0:
                visualizer.add_scalars({"loss": float(i), "lr": 0.1}, step=step, mode="train")
            if step % 10 == 0:
                visualizer.add_scalars({"loss": i + 0.5}, step=step, mode="val")
                visualizer.add_image("picture", np.full((2, 2), i, np.uint8), step=step)
        visualizer.close()
    return list(range(5, 121, 5))


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_resumed_three_times_has_one_curve_in_every_backend(tmp_path):
    steps = make_runs(tmp_path)
    value_of = {step: 0 if step <= 30 else 1 if step <= 60 else 2 if step <= 90 else 3 for step in steps}
    events = read_events(tmp_path / "tensorboard")
    train = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert train == [(step, value_of[step]) for step in steps]
    val = [(event.step, event.value) for event in events.Scalars("val/loss")]
    assert val == [(step, value_of[step] + 0.5) for step in steps if step % 10 == 0]
    assert [event.step for event in events.Images("picture")] == [step for step in steps if step % 10 == 0]
    records = read_metrics(tmp_path)
    local = [(record["step"], record["loss"]) for record in records if record["mode"] == "train"]
    assert local == train
    assert [(record["step"], record["loss"]) for record in records if record["mode"] == "val"] == val


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_files(tmp_path):
    visualizer = Visualizer("x", [TensorboardVisBackend(tmp_path / "events")], tmp_path)
    visualizer.start()
    assert not (tmp_path / "events").exists()
    visualizer.add_config("lr = 1")
    visualizer.add_graph("Net()")
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    visualizer.add_image("picture", image, step=4)
    visualizer.add_scalars({"train/loss": 0.5, "acc": float("nan"), "num": 3}, step=4, mode="train")
    visualizer.add_scalar("mine", 2.0, step=5)
    visualizer.close()
    visualizer.add_scalar("late", 3.0, step=6)
    visualizer.close()
    events = read_events(tmp_path / "events")
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/acc", "train/num", "mine", "late"}
    assert events.Scalars("train/num")[0].value == 3
    (picture,) = events.Images("picture")
    assert (picture.step, picture.width, picture.height) == (4, 2, 2)
    assert np.array_equal(read_png(picture.encoded_image_string), image)
    assert events.Tensors("config")[0].tensor_proto.string_val[0] == b"    lr = 1\n"
    assert events.Tensors("graph")[0].tensor_proto.string_val[0] == b"    Net()\n"
    assert events.summary_metadata["config"].plugin_data.plugin_name == "text"


def test_tensorboard_events_are_written_once_an_interval(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lazyengine.fileio.queued.time.monotonic", lambda: now[0])
    backend = TensorboardVisBackend()
    backend.start(tmp_path, tmp_path, None)
    sizes = []
    for step in range(8):
        backend.add_scalars({"loss": 1.0, "lr": 0.1}, step, "train", None, None)
        sizes.append(sum(path.stat().st_size for path in tmp_path.glob("tensorboard/*")))
        now[0] += 0.3
    backend.close()
    assert [b > a for a, b in itertools.pairwise(sizes)] == [False, False, False, True, False, False, False]
    assert sizes[0] == 0  # nothing that takes imports is done before the first iteration
    with pytest.raises(ValueError, match="interval_s must be at least 0, got -1"):
        TensorboardVisBackend(interval_s=-1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_queued_is_written_when_the_backend_goes(tmp_path):
    visualizer = Visualizer("x", [LocalVisBackend(), TensorboardVisBackend()], tmp_path)
    for step in range(5):
        visualizer.add_scalars({"loss": 1.0}, step=step, mode="train")
    Visualizer.discard_instance("x")
    del visualizer
    gc.collect()
    assert [event.step for event in read_events(tmp_path / "tensorboard").Scalars("train/loss")] == list(range(5))
    assert [record["step"] for record in read_metrics(tmp_path)] == list(range(5))


def test_events_are_kept_while_they_cannot_be_written(tmp_path, capsys):
    blocked = tmp_path / "tensorboard"
    blocked.write_text("a file where the folder should be")
    backend = TensorboardVisBackend(interval_s=0)
    backend.start(tmp_path, tmp_path, None)
    for step in (1, 2):
        backend.add_scalars({"loss": 0.5}, step, "train", None, None)
    assert capsys.readouterr().out.count("its records are kept until it can, training goes on") == 1
    blocked.unlink()
    backend.add_scalars({"loss": 0.5}, 3, "train", None, None)
    backend.close()
    assert [event.step for event in read_events(blocked).Scalars("train/loss")] == [1, 2, 3]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_backend_that_fails_while_closing_leaves_the_others_closed(tmp_path, place):
    closed = []

    class Backend(VisBackend):
        def close(self):
            closed.append(self)
            if self is backends[place]:
                raise OSError("no network")

    backends = [Backend() for _ in range(3)]
    visualizer = Visualizer(vis_backends=backends, save_dir=tmp_path)
    visualizer.start()
    with pytest.raises(OSError, match="no network"):
        visualizer.close()
    assert closed == backends


# ---------------------------------------------------------------- several of one name at one step


def one_and_one(visualizer: Visualizer, kind: str, name: str, other: str | None = None) -> None:
    """Show two different pictures at step 3."""
    from matplotlib.figure import Figure

    for value, called in ((1, name), (2, other or name)):
        image = np.full((2, 2), value, np.uint8)
        if kind == "sample":
            visualizer.add_datasample(called, image, {"label": value}, step=3)
        else:
            visualizer.add_image(called, Figure(figsize=(value, 1)) if kind == "figure" else image, step=3)


@pytest.mark.parametrize("kind", ["image", "figure", "sample"])
def test_two_pictures_of_one_name_and_step_are_both_kept_in_every_backend(tmp_path, kind, recorder):
    """The second one took the place of the first, in silence."""

    class Foreign:
        names: list[str] = []  # noqa: RUF012

        def add_image(self, name, image, step=0):
            self.names.append(name)

    visualizer = Visualizer("x", [LocalVisBackend(), TensorboardVisBackend(), Foreign(), recorder], tmp_path)
    one_and_one(visualizer, kind, "val/a")
    visualizer.close()
    files = sorted((tmp_path / "images/val").iterdir())
    assert [path.name for path in files] == ["a_2_3.png", "a_3.png"]
    assert files[0].read_bytes() != files[1].read_bytes()
    assert sorted(read_events(tmp_path / "tensorboard").Tags()["images"]) == ["val/a", "val/a_2"]
    assert Foreign.names == [call[1] for call in recorder.calls if call[0] == "add_image"] == ["val/a", "val/a_2"]


@pytest.mark.parametrize(
    ("name", "other", "kept"),
    [("a b", "a_b", ["a b", "a_b_2"]), ("/a", "a", ["/a", "a_2"]), ("lr=1", "lr+1", ["lr=1", "lr+1_2"])],
)
def test_names_that_are_the_same_file_are_told_apart(visualizer, recorder, name, other, kept):
    one_and_one(visualizer, "image", name, other)
    assert [call[1] for call in recorder.calls if call[0] == "add_image"] == kept


def test_the_number_passes_over_names_that_are_taken(visualizer, recorder, tmp_path):
    picture = np.zeros((2, 2), np.uint8)
    for name, step in (("a_2", 0), ("a", 0), ("a", 0), ("a", 0), ("a", 1), ("a_2", 0)):
        visualizer.add_image(name, picture, step)
    visualizer.set_save_dir(tmp_path / "elsewhere")
    visualizer.add_image("a", picture, 0)
    names = [call[1] for call in recorder.calls if call[0] == "add_image"]
    assert names == ["a_2", "a", "a_3", "a_4", "a", "a_2_2", "a"]
