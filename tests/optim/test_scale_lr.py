"""Learning rates that follow the global batch."""

import pytest
import torch

from lazyengine.optim import ConstantLR, OptimWrapper, OptimWrapperDict, scale_lr


def wrapper(lr: float | torch.Tensor, accumulative_counts: int = 1) -> OptimWrapper:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr}]
    groups.append({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr * 0.1})
    return OptimWrapper(torch.optim.AdamW(groups), accumulative_counts=accumulative_counts)


def test_every_group_by_the_samples_of_an_optimizer_step():
    one = wrapper(0.2, accumulative_counts=2)
    scale_lr(one, base_batch_size=256, batch_size=64)
    assert one.get_lr()["lr"] == [0.1, pytest.approx(0.01)]


def test_several_optimizers_and_learning_rates_as_tensors():
    both = OptimWrapperDict(first=wrapper(0.2), second=wrapper(torch.tensor(0.5), accumulative_counts=4))
    scale_lr(both, base_batch_size=32, batch_size=16)
    assert both.get_lr()["first.lr"][0] == pytest.approx(0.1)
    assert float(both.get_lr()["second.lr"][0]) == 1.0


@pytest.mark.parametrize("sizes", [(0, 4), (4, -1), (4.0, 4), (True, 4)])
def test_bad_sizes(sizes):
    with pytest.raises((TypeError, ValueError), match=r"must be (at least 1|an int); got"):
        scale_lr(wrapper(0.1), *sizes)


def test_schedulers_that_have_taken_their_values_already():
    one = wrapper(0.1)
    ConstantLR(one, factor=0.5)
    with pytest.raises(RuntimeError, match="schedulers over this optimizer were built already"):
        scale_lr(one, 32, 64)


def test_training_again_multiplies_nothing_twice():
    both = OptimWrapperDict(first=wrapper(0.2), second=wrapper(torch.tensor(0.5)))
    for _ in range(2):
        scale_lr(both, base_batch_size=32, batch_size=16)
        for each in both.values():
            if "initial_lr" not in each.param_groups[0]:
                ConstantLR(each, factor=1.0, end=5)  # the second time they are there
    assert both["first"].get_lr()["lr"][0] == pytest.approx(0.1)
    assert float(both["second"].get_lr()["lr"][0]) == 0.25
    assert [each.lr_factor for each in both.values()] == [0.5, 0.5]
    with pytest.raises(RuntimeError, match="built already"):
        scale_lr(both, base_batch_size=32, batch_size=64)


def test_another_size_replaces_the_former():
    one = wrapper(0.2)
    scale_lr(one, 32, 16)
    scale_lr(one, 32, 64)
    assert one.get_lr()["lr"][0] == pytest.approx(0.4)
    assert one.as_built[0]["lr"] == pytest.approx(0.4)
