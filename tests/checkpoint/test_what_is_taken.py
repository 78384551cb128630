"""Row 12: of several values that a file has for a weight, the log says which one is taken; no code is taken for one."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch import nn

from lazyengine.checkpoint import LoadFrom

LOGGER = logging.getLogger("taken")


class Tied(nn.Module):
    """A language model's ends, with one weight or two."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        if tie:
            self.head.weight = self.embedding.weight


class Shared(nn.Module):
    """One layer under two names."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = self.first if tie else nn.Linear(2, 2)


def load(tmp_path, model, state, caplog, name="file.pth", **options) -> str:
    torch.save(state, tmp_path / name)
    with caplog.at_level(logging.INFO, "taken"):
        LoadFrom(str(tmp_path / name), **options).load_into(model, LOGGER)
    return caplog.text


@pytest.mark.seam(12, "tied weights", "strict")
@pytest.mark.parametrize("kind", [Tied, Shared])
@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_values_for_a_tied_weight_the_last_is_taken_and_said(tmp_path, kind, backwards, caplog):
    state = kind(tie=False).state_dict()
    given = dict(reversed(state.items())) if backwards else state
    model = kind()
    text = load(tmp_path, model, given, caplog)
    last = list(state)[-1]
    assert torch.equal(model.state_dict()[last], state[last])
    assert "shared in the model and several tensors in the checkpoint, the last of which is taken" in text
    first = "embedding.weight, head.weight" if kind is Tied else "first.weight, second.weight"
    assert first in text
    with pytest.raises(RuntimeError, match=first):
        load(tmp_path, model, given, caplog, strict=True)


@pytest.mark.seam(12, "tied weights")
def test_equal_values_and_one_name_of_a_tied_weight_are_in_order(tmp_path, caplog):
    source, model = Tied(), Tied()
    assert "match" not in load(tmp_path, model, source.state_dict(), caplog)
    one = {"embedding.weight": torch.ones(5, 3)}
    assert "match" not in load(tmp_path, model, one, caplog, strict=True)
    assert torch.equal(model.head.weight, torch.ones(5, 3))


@pytest.mark.seam(12, "codes of a quantized weight", "complex", "half")
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_another_kind_of_number_is_no_weight(tmp_path, dtype, caplog):
    state = {key: value.clone() for key, value in Tied(tie=False).state_dict().items()}
    state["head.weight"] = torch.ones(5, 3).to(dtype)
    model = Tied(tie=False)
    before = model.head.weight.clone()
    text = load(tmp_path, model, state, caplog)
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.embedding.weight, state["embedding.weight"])
    assert f"head.weight: {dtype} in the checkpoint, torch.float32 in the model" in text
    assert "match" not in load(tmp_path, model, model.half().state_dict(), caplog, name="half.pth").split("\n")[-2]


@pytest.mark.seam(12, "an average beside the weights", "prefix")
@pytest.mark.parametrize("place", ["model_ema", "state_dict_ema", "ema"])
def test_of_weights_and_their_average_the_weights_are_taken_and_it_is_said(tmp_path, place, caplog):
    weights, average, model = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    file = {"model": weights.state_dict(), place: average.state_dict()}
    text = load(tmp_path, model, file, caplog)
    assert torch.equal(model.weight, weights.weight)
    assert f"the weights are those of 'model', not of {place}" in text
    assert repr(place) in text
    load(tmp_path, model, file, caplog, prefix=place)
    assert torch.equal(model.weight, average.weight)


@pytest.mark.seam(12, "an index of several files")
def test_an_index_of_several_files_is_one_checkpoint(tmp_path):
    source, model = Tied(tie=False), Tied(tie=False)
    names = {key: f"pytorch_model-{i}-of-2.bin" for i, key in enumerate(source.state_dict(), 1)}
    for key, name in names.items():
        torch.save({key: source.state_dict()[key]}, tmp_path / name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    LoadFrom(str(index), strict=True).load_into(model, LOGGER)
    assert torch.equal(model.head.weight, source.head.weight)
    assert torch.equal(model.embedding.weight, source.embedding.weight)
    (tmp_path / names["head.weight"]).unlink()
    with pytest.raises(FileNotFoundError, match="pytorch_model-2-of-2"):
        LoadFrom(str(index)).load_into(model, LOGGER)
