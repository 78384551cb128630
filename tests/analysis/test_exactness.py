"""Where two results of the same computation first differ."""

import pytest
import torch

from lazyengine.analysis import first_difference


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3, requires_grad=True),
        torch.nn.Linear(1, 1)(torch.ones(1, 1)).mean(),
        torch.tensor([1.0, float("nan")], dtype=torch.bfloat16),
        torch.tensor(True),
        torch.zeros(0, 3),
        torch.arange(6).reshape(2, 3).T,
    ],
)
def test_tensors_of_any_kind_are_compared_by_their_bits(value):
    assert first_difference({"a": value}, {"a": value.clone()}) is None
    assert first_difference({"a": value}, {"a": value.detach().double()}) is not None


def test_a_bit_that_differs_is_found():
    log = {"loss": torch.tensor([0.0, 1.0], requires_grad=True), "x": torch.tensor(0.0)}
    assert first_difference(log, {**log, "x": torch.tensor(-0.0)}) == "['x']"
