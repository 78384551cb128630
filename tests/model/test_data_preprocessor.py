"""Data preprocessors against mmengine's values, and moving nested data."""

import json
from collections import UserDict, namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lazyengine.model import BaseDataPreprocessor, BaseModel, ImgDataPreprocessor, move_data, stack_batch

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())["preprocessed"]
IMAGES = [torch.tensor(image, dtype=torch.uint8) for image in GOLDEN["images"]]
BATCH = torch.tensor(GOLDEN["batch"], dtype=torch.uint8)
META = torch.device("meta")

Pair = namedtuple("Pair", ["first", "second"])


@dataclass(frozen=True)
class Packed:
    image: torch.Tensor
    name: str
    derived: int = field(init=False, default=3)


class HasTo:
    def to(self, device):
        return f"moved to {device}"


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("kind", ["images", "batch"])
def test_images_are_prepared_as_by_mmengine(kind, swap):
    preprocessor = ImgDataPreprocessor(**GOLDEN["options"], bgr_to_rgb=swap)
    inputs = IMAGES if kind == "images" else BATCH
    before = [image.clone() for image in inputs]
    expected = torch.tensor(GOLDEN["outputs"]["swap" if swap else "plain"][kind])
    assert torch.equal(preprocessor({"inputs": inputs}, True)["inputs"], expected)
    assert all(torch.equal(image, kept) for image, kept in zip(inputs, before, strict=True))


def test_one_mean_for_all_channels_and_float_images_that_stay_as_they_are():
    preprocessor = ImgDataPreprocessor(mean=[127.5], std=[63.0])
    floats = BATCH.float()
    for inputs in (BATCH, floats):
        assert torch.equal(preprocessor({"inputs": inputs})["inputs"], torch.tensor(GOLDEN["outputs"]["gray"]["batch"]))
    assert torch.equal(floats, BATCH.float())


def test_the_first_item_of_a_tuple_is_the_images():
    preprocessor = ImgDataPreprocessor(rgb_to_bgr=True)
    images, labels = preprocessor([BATCH, torch.arange(2)])
    assert torch.equal(images, BATCH[:, [2, 1, 0]].float())
    assert torch.equal(labels, torch.arange(2))


def test_constants_are_no_state_and_follow_the_device():
    preprocessor = ImgDataPreprocessor(mean=[1.0], std=[2.0])
    assert not preprocessor.state_dict()
    assert not list(preprocessor.buffers())
    assert preprocessor.mean.shape == (1, 1, 1)
    preprocessor.to_empty(device="meta")
    assert preprocessor.std.device == META
    assert ImgDataPreprocessor().mean is None
    assert "mean=(1.0,), std=(2.0,)" in repr(preprocessor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": [1.0]}, "give both or neither"),
        ({"mean": [1.0, 2.0], "std": [1.0, 2.0]}, "mean needs 1 or 3 values, got 2"),
        ({"mean": [0.0], "std": [0.0]}, "std must be positive"),
        ({"bgr_to_rgb": True, "rgb_to_bgr": True}, "cannot both be set"),
        ({"pad_size_divisor": 0}, "must be at least 1, got 0"),
    ],
)
def test_contradicting_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImgDataPreprocessor(**arguments)


def test_wrong_inputs_are_refused():
    preprocessor = ImgDataPreprocessor(mean=[1.0] * 3, std=[1.0] * 3)
    with pytest.raises(TypeError, match=r"got dict with keys \['img'\]"):
        preprocessor({"img": BATCH})
    with pytest.raises(ValueError, match=r"got shape \(3, 5, 6\)"):
        preprocessor({"inputs": BATCH[0]})
    with pytest.raises(ValueError, match=r"shape \(2, 1, 5, 6\)"):
        preprocessor({"inputs": BATCH[:, :1]})
    with pytest.raises(TypeError, match="got list"):
        preprocessor({"inputs": []})


def test_tensors_are_moved_in_every_container_and_the_rest_stays():
    tensor = torch.ones(2)
    data = {
        "list": [tensor, "text", None, 3],
        "tuple": (tensor, b"bytes"),
        "named": Pair(tensor, 1.5),
        "packed": Packed(tensor, "a"),
        "mapping": UserDict(x=tensor),
        "object": HasTo(),
        "class": HasTo,
    }
    moved = move_data(data, META)
    assert moved["list"][0].device == META
    assert moved["list"][1:] == ["text", None, 3]
    assert type(moved["tuple"]) is tuple
    assert moved["tuple"][0].device == META
    assert isinstance(moved["named"], Pair)
    assert moved["named"].first.device == META
    assert isinstance(moved["packed"], Packed)
    assert (moved["packed"].image.device, moved["packed"].name, moved["packed"].derived) == (META, "a", 3)
    assert moved["mapping"]["x"].device == META
    assert moved["object"] == "moved to meta"
    assert moved["class"] is HasTo
    assert data["packed"].image is tensor
    assert move_data(tensor, torch.device("cpu")) is tensor


nested = st.recursive(
    st.one_of(st.integers(), st.text(), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.text(), inner)),
)


@given(nested)
def test_data_without_tensors_comes_back_equal(data):
    assert move_data(data, META) == data


def test_a_preprocessor_follows_its_model():
    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x, mode="tensor"):
            return self.fc(x)

    model = Model().to_empty(device="meta")
    assert model.data_preprocessor.device == META
    assert model.val_step([torch.ones(1, 2)]).device == META
    assert model.to_empty(device="cpu").half().data_preprocessor.device.type == "cpu"


def test_stack_batch_pads_at_the_end():
    stacked = stack_batch([image.float() for image in IMAGES], pad_size_divisor=3, pad_value=-1)
    assert torch.equal(stacked, torch.tensor(GOLDEN["stacked"]))
    with pytest.raises(ValueError, match="needs at least one"):
        stack_batch([])
    with pytest.raises(ValueError, match=r"\[1, 2\] dimensions"):
        stack_batch([torch.ones(2), torch.ones(2, 2)])


def test_non_blocking_is_passed_on():
    calls = []

    class Spy(torch.Tensor):
        def to(self, *args, **kwargs):
            calls.append(kwargs)
            return self

    preprocessor = BaseDataPreprocessor(non_blocking=True).to_empty(device="meta")
    preprocessor([torch.ones(1).as_subclass(Spy)])
    assert calls == [{"non_blocking": True}]
