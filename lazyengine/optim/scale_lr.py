"""Scales learning rates by the size of the global batch."""

from __future__ import annotations

from torch import Tensor

from ..errors import UsageRuntimeError
from ..logging import print_log
from ._checks import require_int
from .optim_wrapper import OptimWrapper
from .optim_wrapper_dict import OptimWrapperDict


def scale_lr(optim_wrapper: OptimWrapper | OptimWrapperDict, base_batch_size: int, batch_size: int) -> None:
    """Multiply learning rates by (samples in an optimizer step) / (samples that they were chosen for).

    The linear rule of Goyal et al., Accurate, Large Minibatch SGD, 2017, https://arxiv.org/abs/1706.02677. Call it
    before schedulers are built, which start from the learning rates that they find. Logs the factor, and keeps it as
    ``lr_factor`` of each wrapper: a second call (training again) changes nothing where the sizes are the same.

    Args:
        optim_wrapper: The wrapper, or several; the accumulation of each counts.
        base_batch_size: Samples in an optimizer step, of all ranks together, that the learning rates are meant for.
        batch_size: Samples in a batch of this run, of all ranks together, without accumulation.

    Raises:
        UsageTypeError: A size is no int.
        UsageValueError: A size is not positive.
        UsageRuntimeError: Schedulers were built already.
    """
    require_int("scale_lr: the number of samples base_batch_size", base_batch_size, 1)
    require_int("scale_lr: the number of samples batch_size", batch_size, 1)
    for name, wrapper in optim_wrapper.named().items():
        samples = batch_size * wrapper.accumulative_counts
        factor = samples / base_batch_size
        if factor == wrapper.lr_factor:
            continue
        if any("initial_lr" in group for group in wrapper.param_groups):
            what = "the learning rate cannot be scaled: schedulers over this optimizer were built already"
            raise UsageRuntimeError(f"{what}. Give the Runner recipes of them, or scale the learning rate by hand")
        for index, group in enumerate(wrapper.param_groups):
            if group["lr"] is None:
                what = f"the learning rate cannot be scaled: {type(wrapper.optimizer).__name__} sets that of group"
                raise UsageRuntimeError(f"{what} {index} itself (lr=None); leave auto_scale_lr out")
            if isinstance(group["lr"], Tensor):
                group["lr"].mul_(factor / wrapper.lr_factor)
            else:
                group["lr"] *= factor / wrapper.lr_factor
        wrapper.lr_factor = factor
        wrapper.set_as_built()
        what = f"learning rates of {name}" if name else "learning rates"
        sizes = f"{samples} samples in an optimizer step, chosen for {base_batch_size}"
        print_log(f"{what} times {factor:g}: {sizes}", logger="current")
