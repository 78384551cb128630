"""Conversion of batch norm layers to synchronized ones and back."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["convert_sync_batchnorm", "revert_sync_batchnorm"]


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every batch norm layer by ``torch.nn.SyncBatchNorm``, which shares statistics between ranks.

    Parameters and buffers are the same objects before and after, so state keys and an existing optimizer stay valid.

    Args:
        module: Changed in place, unless it is itself a batch norm layer.

    Returns:
        The module, or its replacement.
    """
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace every ``torch.nn.SyncBatchNorm`` by a batch norm layer that takes inputs of any number of dimensions.

    Of use to run a model that was trained in many processes in one, on a CPU too. Parameters and buffers are the same
    objects before and after.

    Args:
        module: Changed in place, unless it is itself a synchronized layer.

    Returns:
        The module, or its replacement.
    """
    if isinstance(module, nn.SyncBatchNorm):
        return _reverted(module)
    for name, child in module.named_children():
        reverted = revert_sync_batchnorm(child)
        if reverted is not child:
            setattr(module, name, reverted)
    return module


class _BatchNormXd(_BatchNorm):
    """Batch norm for inputs ``(N, C, ...)`` of any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        return


def _reverted(layer: nn.SyncBatchNorm) -> _BatchNormXd:
    plain = _BatchNormXd(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(plain, name, getattr(layer, name))
    plain.training = layer.training
    return plain
