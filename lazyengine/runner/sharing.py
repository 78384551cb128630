"""What the ranks share: the samples of a loader, and the buffers of the model."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.data import RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler

from .. import dist
from ..checkpoint import is_sharded_tensor
from ..dataset import DataLoader
from ..errors import UsageRuntimeError, UsageValueError

_UNAWARE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


def check_sampler_is_distributed(dataloader: Any) -> None:
    """Refuse a loader that gives every rank the same samples.

    `lazyengine.dataset.DataLoader` shares them out by itself. Samplers that nobody knows are taken as they are.

    Raises:
        ValueError: When its sampler is one of torch's that know nothing of ranks.
        RuntimeError: When its sampler was made before the process group.
    """
    num_ranks = dist.get_data_world_size()
    if num_ranks == 1:
        return
    batch_sampler = getattr(dataloader, "batch_sampler", None)
    samplers = [getattr(dataloader, "sampler", None), getattr(batch_sampler, "sampler", None)]
    if batch_sampler is not None and getattr(dataloader, "batch_size", None) is None:  # `sampler` is a filler
        samplers = [batch_sampler] if isinstance(dataloader, DataLoader) else [batch_sampler, samplers[1]]  # ours deals
    for sampler in samplers:
        known = getattr(sampler, "world_size", getattr(sampler, "num_replicas", num_ranks))
        if known != num_ranks:
            raise UsageRuntimeError(
                f"{type(sampler).__name__} shares the samples out among {known}, but there are {num_ranks} ranks: it "
                "was made before the process group. Call lazyengine.dist.init_dist(lazyengine.dist.infer_launcher()) "
                "before you build loaders by hand, or give the Runner recipes (LazyCall) that it builds itself."
            )
        if isinstance(sampler, _UNAWARE):
            raise UsageValueError(
                f"every one of {num_ranks} ranks would read all samples of {type(dataloader.dataset).__name__}, since "
                f"{type(sampler).__name__} knows nothing of ranks. Use lazyengine.dataset.DataLoader without a sampler "
                "(shuffle=True to shuffle), its DefaultSampler, or torch's DistributedSampler."
            )


def synchronize_buffers(model: nn.Module) -> None:
    """Copy the buffers of rank 0, which are those that are saved, to every rank. Collective: every rank must call.

    Batch norm statistics differ between ranks after a training step, so that each would evaluate a model of its own.
    """
    if dist.get_world_size() > 1:
        for buffer in model.buffers():
            if not is_sharded_tensor(buffer):
                dist.broadcast(buffer)


def global_batch_size(dataloader: Any) -> int | None:
    """Return the number of samples in a whole batch of all ranks together, None where the loader does not say."""
    size = getattr(dataloader, "batch_size", None)
    if size is None:
        size = getattr(getattr(dataloader, "batch_sampler", None), "batch_size", None)
    return size * dist.get_data_world_size() if isinstance(size, int) else None


def check_global_batch_size(dataloader: Any, saved: int | None) -> None:
    """Refuse to continue at a position that was counted in other global batches.

    Args:
        dataloader: The train loader.
        saved: Samples in a global batch when the checkpoint was saved; None for unknown.

    Raises:
        RuntimeError: When it is another one now; says what to change.
    """
    present, num_ranks = global_batch_size(dataloader), dist.get_data_world_size()
    if saved is None or present is None or saved == present:
        return
    now = f"it is now {present} ({num_ranks} x batch_size={present // num_ranks})"
    if saved % num_ranks:
        advice = f"start a number of ranks that divides {saved}, each with its share as the batch_size"
    else:
        advice = f"set the batch_size of the train loader to {saved // num_ranks} (or to LazyCall(per_rank)({saved}))"
    raise UsageRuntimeError(
        f"the checkpoint counts global batches of {saved} samples (ranks x batch_size), and {now}, so its position "
        f"would mean another one: {advice}, or set train_loop.allow_inexact_resume=True."
    )
