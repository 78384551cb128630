"""The Fashion-MNIST project on small files of the same format."""

from __future__ import annotations

import functools
import gzip
import http.server
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from lazyengine.cli.train import main
from lazyengine.config import LazyConfig, instantiate
from projects.fashion_mnist.fashion_mnist import FashionMnist, ImagePreprocessor, read_idx
from projects.fashion_mnist.networks import SmallNet

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "fashion_mnist"
CONFIGS = ("config", "bf16_config", "ema_config", "layer_decay_config", "resnet_config")
BATCHES = ("train_loop.dataloader.batch_size=16", "val_loop.dataloader.batch_size=50")


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def stripes(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that shifting and mirroring leave in their class: stripes of five widths in two directions, and noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num, dtype=np.uint8) % 10
    place = np.arange(28)[None, :] + rng.integers(0, 28, (num, 1))
    line = np.uint8(180) * (place // (1 + labels[:, None] % 5) % 2 == 0)
    images = np.repeat(line[:, None, :], 28, axis=1)
    images[labels >= 5] = images[labels >= 5].transpose(0, 2, 1)
    return (images + rng.integers(0, 60, images.shape)).astype(np.uint8), labels


def write_split(folder: Path, prefix: str, num: int, seed: int, packed: bool = True) -> tuple[np.ndarray, np.ndarray]:
    images, labels = stripes(num, seed)
    for values, name in ((images, f"{prefix}-images-idx3-ubyte"), (labels, f"{prefix}-labels-idx1-ubyte")):
        content = idx_bytes(values)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content, 1) if packed else content)
    return images, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashion")
    write_split(folder, "train", 480, seed=0)
    write_split(folder, "t10k", 100, seed=1, packed=False)
    return folder


# ---------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("packed", [True, False])
def test_images_and_labels_are_those_of_the_files(tmp_path, packed):
    images, labels = write_split(tmp_path, "t10k", 25, seed=3, packed=packed)
    dataset = FashionMnist("test", root=str(tmp_path))
    assert len(dataset) == 25
    assert len(dataset.metainfo["classes"]) == 10
    assert np.array_equal(np.stack([sample["image"].numpy() for sample in dataset]), images)
    assert [sample["label"] for sample in dataset] == labels.tolist()
    assert len(FashionMnist("test", root=str(tmp_path), indices=7)) == 7


def test_files_come_from_a_url_packed_or_not(data, tmp_path, monkeypatch):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            """Keep the test's output clean."""

    monkeypatch.setenv("LAZYENGINE_CACHE", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=data)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert len(FashionMnist("train", root=url)) == 480
        assert len(FashionMnist("test", root=url)) == 100
        server.shutdown()
    assert len(FashionMnist("train", root=url)) == 480  # from the cache


def test_missing_files_are_named_with_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        FashionMnist("train", root=str(tmp_path))
    message = str(caught.value)
    for text in (str(tmp_path / "train-images-idx3-ubyte.gz"), "dataset-fashion-mnist", "root", "https://"):
        assert text in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<!DOCTYPE html><html>", "<!DOCTYPE html>"),
        (b"", "begins with b''"),
        (idx_bytes(np.zeros((3, 4), np.uint8))[:-2], r"header says \(3, 4\), which is 12 values, and 10 follow"),
        (b"\0\0\x08\x03\0\0", "cut off"),
        (gzip.compress(idx_bytes(np.zeros((300, 40), np.uint8)), mtime=0)[:-9], "damaged"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "no IDX file of bytes"),
    ],
)
def test_a_wrong_file_is_an_error_that_shows_what_is_in_it(tmp_path, content, expected):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=expected) as caught:
        read_idx(str(tmp_path), "x")
    assert str(tmp_path / "x") in str(caught.value)


def test_labels_of_another_split_are_noticed(tmp_path):
    write_split(tmp_path, "train", 20, seed=0)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.zeros(19, np.uint8)))
    with pytest.raises(ValueError, match=r"\(20, 28, 28\).*\(19,\)"):
        FashionMnist("train", root=str(tmp_path))


# ---------------------------------------------------------------------------------------------------- augmentation
def batch_of(num: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (num, 28, 28), dtype=torch.uint8, generator=generator),
        "label": torch.arange(num),
    }


def test_evaluation_only_normalizes():
    batch = batch_of(4)
    out = ImagePreprocessor(mean=100, std=50, shift=3, flip=1.0, erase=9)(batch, False)
    assert torch.equal(out["image"], (batch["image"][:, None].float() - 100) / 50)
    assert out["label"] is batch["label"]


def test_training_mirrors_and_erases_and_leaves_the_given_batch_alone():
    batch = batch_of(6)
    before = batch["image"].clone()
    out = ImagePreprocessor(mean=0, std=1, flip=1.0)(batch, True)
    assert torch.equal(out["image"][:, 0], before.flip(2).float())
    out = ImagePreprocessor(mean=-1, std=1, erase=8)(batch, True)["image"][:, 0]  # so that no pixel is 0 by itself
    erased = (out == 0).sum((1, 2))
    assert ((erased >= 16) & (erased <= 64)).all()  # half a square in each direction at a corner, a whole one inside
    assert torch.equal(torch.where(out == 0, before.float() + 1, out), before.float() + 1)
    assert torch.equal(batch["image"], before)


def test_every_moved_image_is_a_window_of_the_padded_one():
    batch = batch_of(64)
    out = ImagePreprocessor(mean=0, std=1, shift=1)(batch, True)["image"][:, 0]
    padded = torch.nn.functional.pad(batch["image"].float(), [1] * 4)
    windows = torch.stack([padded[:, y : y + 28, x : x + 28] for y in range(3) for x in range(3)])
    is_window = (windows == out).flatten(2).all(2)
    assert is_window.any(0).all()
    assert is_window.any(1).all()  # each of the nine positions occurs


def test_wrong_arguments_are_shown():
    with pytest.raises(ValueError, match=r"flip=1\.5"):
        ImagePreprocessor(flip=1.5)
    with pytest.raises(ValueError, match="split='val'"):
        FashionMnist("val")  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------------------------------------- configs
def train(config: str, data: Path, work_dir: Path, *args: str) -> None:
    place = ("--work-dir", str(work_dir), f"train_dataset.root={data}")
    assert main(["--config", str(PROJECT / f"{config}.py"), *place, *args]) == 0


def test_the_small_network_has_fewer_than_100_000_parameters():
    model = instantiate(LazyConfig.load(PROJECT / "config.py").model)
    assert isinstance(model, SmallNet)
    assert sum(parameter.numel() for parameter in model.parameters()) == 93_738


def test_layer_decay_shrinks_the_rate_from_the_head_to_the_first_block():
    cfg = LazyConfig.load(PROJECT / "layer_decay_config.py")
    rates = {
        name: group["lr"] / cfg.optimizer.lr
        for group in instantiate(cfg.optimizer).param_groups
        for name in group["param_names"]
    }
    assert rates["head.weight"] == 1
    assert [rates[f"blocks.{i}.0.weight"] for i in range(3)] == pytest.approx([0.8**3, 0.8**2, 0.8])


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_can_be_looked_at_without_data(config, capsys, tmp_path):
    train(config, Path("nowhere"), tmp_path / "run", "--dry-run")
    out = capsys.readouterr().out
    assert ("ResNet: 1,848,778" if config == "resnet_config" else "SmallNet: 93,738") in out
    assert ("AmpOptimWrapper" in out) == (config in ("bf16_config", "resnet_config"))
    assert ("EMAHook" in out) == (config == "ema_config")


@pytest.mark.parametrize("config", CONFIGS[1:])
def test_every_config_trains(config, data, tmp_path):
    width = "model.width=4" if config == "resnet_config" else "model.widths=[4,4,4]"
    train(config, data, tmp_path, width, *BATCHES, "train_loop.max_epochs=1", "train_dataset.indices=160")
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    assert ("ema_state_dict" in checkpoint) == (config == "ema_config")


def test_the_small_network_learns_and_resumes_exactly_with_augmentation(data, tmp_path, capsys):
    args = ("model.widths=[8,16,16]", "train_loop.max_epochs=4", *BATCHES)
    train("config", data, tmp_path / "whole", *args)
    checkpoint = torch.load(tmp_path / "whole" / "epoch_4.pth", weights_only=True)
    train("config", data, tmp_path / "resumed", *args, "--resume", str(tmp_path / "whole" / "epoch_3.pth"))
    resumed = torch.load(tmp_path / "resumed" / "epoch_4.pth", weights_only=True)
    assert all(torch.equal(value, resumed["state_dict"][key]) for key, value in checkpoint["state_dict"].items())
    capsys.readouterr()
    train("config", data, tmp_path / "whole", *args, "--eval-only", "--checkpoint", "best")
    accuracy = float(capsys.readouterr().out.split("accuracy/top1: ")[1].split()[0])
    assert accuracy >= 0.8
