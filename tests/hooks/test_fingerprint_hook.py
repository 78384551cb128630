"""Hashes of batches and weights: equal for equal runs, other ones for any bit, any order, any value."""

from __future__ import annotations

import json

import pytest
import torch

from lazyengine.hooks import FINGERPRINTS, FingerprintHook, Hook
from lazyengine.hooks.fingerprint_hook import hash_tensors

from ..runner.toy import toy_runner


class Flip(Hook):
    """Flips a bit of a weight before an iteration."""

    def __init__(self, at: int) -> None:
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            with torch.no_grad():
                runner.model.net[0].weight.view(torch.int32)[0, 0] ^= 1


def train(folder, **hooks: Hook) -> list[dict]:
    toy_runner(str(folder), max_epochs=3, hooks={"fingerprints": FingerprintHook(4), **hooks}).train()
    (file,) = folder.glob(f"*/{FINGERPRINTS}_rank0.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_equal_runs_have_equal_fingerprints_and_a_flipped_bit_shows(tmp_path):
    one, other, flipped = train(tmp_path / "a"), train(tmp_path / "b"), train(tmp_path / "c", flip=Flip(8))
    assert [entry["iter"] for entry in one] == [0, 4, 8, 12]
    assert one == other
    assert flipped[:2] == one[:2]
    assert flipped[2]["batch"] == one[2]["batch"]
    assert all(a[name] != b[name] for a, b in zip(one[2:], flipped[2:]) for name in ("weights", "update"))
    assert len({entry[name] for entry in one for name in ("weights", "update")}) == 8


class Add(Hook):
    """Gives the model another tensor before an iteration, as pruning does."""

    def __init__(self, at: int, value: float) -> None:
        self.at, self.value = at, value

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            runner.model.register_buffer("mask", torch.full((3,), self.value))


def test_the_present_tensors_of_the_model_are_hashed(tmp_path):
    one, other = (train(tmp_path / str(value), add=Add(6, value)) for value in (0.0, 1.0))
    assert one[:2] == other[:2]
    assert all(a["weights"] != b["weights"] for a, b in zip(one[2:], other[2:]))


@pytest.mark.parametrize("size", [1, 7, 8, 1000, 20_001, 200_003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_each_bit_and_the_order_count(size, dtype):
    torch.manual_seed(0)
    values = torch.randn(size)
    tensor = values > 0 if dtype is torch.bool else values.mul(3).to(dtype)
    former = hash_tensors([tensor, "a", 3])
    assert hash_tensors([tensor.clone(), "a", 3]) == former
    assert hash_tensors([tensor, "b", 3]) != former
    for place in {0, size // 2, size - 1}:
        changed = tensor.clone()
        changed.view(torch.uint8)[place * tensor.element_size()] ^= 1
        assert hash_tensors([changed, "a", 3]) != former
    if size > 8:
        first = int((tensor != tensor[0]).nonzero()[0])
        swapped = tensor.clone()
        swapped[0], swapped[first] = tensor[first], tensor[0]
        assert hash_tensors([swapped, "a", 3]) != former
    padded = torch.cat([tensor[:1], tensor])  # words that begin in the middle of eight bytes
    assert hash_tensors([padded[1:], "a", 3]) == former


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match="expected at least 1 iteration"):
        FingerprintHook(0)
