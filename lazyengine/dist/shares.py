"""Over which processes data is shared out: all of them, unless several hold parts of one model."""

from __future__ import annotations

from typing import Any

from torch import distributed as torch_dist

from .. import dist
from ..errors import UsageValueError

# this rank's share, the number of shares, whether it is the first rank of its share
_data_share: tuple[int, int, bool] | None = None


def share_data_over(mesh: Any) -> None:
    """Set over which ranks data is shared out; ranks that hold parts of one model see the same. Collective.

    Call it before loaders are built. The runner does so with the ``data_parallel_mesh`` of the model's wrapper.

    Args:
        mesh: The dimension of a `torch.distributed.device_mesh.DeviceMesh` along which data differs; None for all
            ranks.

    Raises:
        ValueError: It has several dimensions.
    """
    global _data_share
    if mesh is None:
        _data_share = None
        return
    if mesh.ndim != 1:
        raise UsageValueError(
            f"data_parallel_mesh is {mesh} · accepted is one dimension, along which data differs, such as "
            'init_device_mesh("cuda", (4, 2), mesh_dim_names=("data", "tensor"))["data"]'
        )
    shares: list[Any] = [None] * dist.get_world_size()
    torch_dist.all_gather_object(shares, own := mesh.get_local_rank())
    _data_share = own, mesh.size(), shares.index(own) == dist.get_rank()


def get_data_rank() -> int:
    """Return which share of the data this process sees, from 0: its rank, unless `share_data_over` says otherwise."""
    return dist.get_rank() if _data_share is None else _data_share[0]


def get_data_world_size() -> int:
    """Return among how many the data is shared out: all processes, unless `share_data_over` says otherwise."""
    return dist.get_world_size() if _data_share is None else _data_share[1]


def is_first_of_data_rank() -> bool:
    """Return whether this process is the first of those that see its share of the data, and counts in metrics."""
    return _data_share is None or _data_share[2]


def per_rank(total: int) -> int:
    """Return the share of each process in a number, such as the samples of a global batch.

    As a recipe, `batch_size=LazyCall(per_rank)(total=256)`, it keeps the global batches whatever the number of
    processes, so that a run may be resumed with another one.

    Raises:
        ValueError: The number of processes does not divide `total`.
    """
    world_size = get_data_world_size()
    if total < 1 or total % world_size:
        raise UsageValueError(f"per_rank: {total} cannot be shared out equally among {world_size} ranks")
    return total // world_size
