"""Scales learning rates by the size of the global batch."""

from __future__ import annotations

from torch import Tensor

from lazyengine.logging import print_log

from .optim_wrapper import OptimWrapper
from .optim_wrapper_dict import OptimWrapperDict


def scale_lr(optim_wrapper: OptimWrapper | OptimWrapperDict, base_batch_size: int, batch_size: int) -> None:
    """Multiply learning rates by (samples in an optimizer step) / (samples that they were chosen for).

    The linear rule of Goyal et al., Accurate, Large Minibatch SGD, 2017, https://arxiv.org/abs/1706.02677. Call it
    before schedulers are built, which start from the learning rates that they find. Logs the factor.

    Args:
        optim_wrapper: The wrapper, or several; the accumulation of each counts.
        base_batch_size: Samples in an optimizer step, of all ranks together, that the learning rates are meant for.
        batch_size: Samples in a batch of this run, of all ranks together, without accumulation.

    Raises:
        ValueError: A size is not positive.
        RuntimeError: Schedulers were built already.
    """
    for name, size in (("base_batch_size", base_batch_size), ("batch_size", batch_size)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"scale_lr: {name} must be a positive number of samples, got {size!r}")
    wrappers = dict(optim_wrapper.items()) if isinstance(optim_wrapper, OptimWrapperDict) else {"": optim_wrapper}
    for name, wrapper in wrappers.items():
        if any("initial_lr" in group for group in wrapper.param_groups):
            raise RuntimeError(
                "the learning rate cannot be scaled any more: schedulers over this optimizer were built already. Give "
                "the Runner recipes of them (in a config, LazyCall), or scale the learning rate by hand"
            )
        samples = batch_size * wrapper.accumulative_counts
        factor = samples / base_batch_size
        for group in wrapper.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].mul_(factor)
            else:
                group["lr"] *= factor
        print_log(
            f"learning rates {f'of {name} ' if name else ''}times {factor:g}: {samples} samples in an optimizer step, "
            f"chosen for {base_batch_size}",
            logger="current",
        )
