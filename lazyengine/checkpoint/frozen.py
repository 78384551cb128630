"""Frozen weights, which a checkpoint of `Runner(save="trained")` leaves out: their hashes stand in its `meta`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..text import listed
from .errors import UsageCheckpointError
from .shards import is_sharded_tensor
from .state_dict import get_state_dict

_CHUNK = 1 << 22  # elements that are hashed at once
_STATES = ("state_dict", "ema_state_dict", "ema_wide")


class FrozenWeights:
    """Knows with which values a training begins, and so what of the model need not be saved.

    A parameter is left out while it is frozen and has the value of the start. One that was trained in between, or that
    something else moves (the average that a teacher is), has another value, and is saved.

    Collective for a model that is split over ranks: every rank must call.

    Args:
        model: Loaded and frozen as it is going to be trained, and before a resume.
        external: Tensors by name that never are in the model's state (see `lazyengine.model.ExternalModule`).
        leaves_out: Whether checkpoints leave frozen parameters out.
    """

    def __init__(self, model: nn.Module, external: Mapping[str, Tensor] | None = None, *, leaves_out: bool) -> None:
        self._model, self._leaves_out = model, leaves_out
        self._external = external or {}
        self._hashes = _hash_each(self._frozen())
        self._external_hashes = _hash_each(self._external)

    def prepare(self, checkpoint: dict[str, Any]) -> None:
        """Leave out of a checkpoint what is as it was at the start, and write the hashes into its `meta`.

        Raises:
            RuntimeError: When an external part has changed: nothing would save it.
        """
        now = _hash_each(self._external)
        if changed := [name for name, value in now.items() if value != self._external_hashes[name]]:
            raise RuntimeError(
                f"{listed(changed, 3)} changed while training, and no checkpoint would hold it: an ExternalModule has "
                "the same values throughout. Make it an ordinary child of the model."
            )
        left_out = {n: value for n, value in _hash_each(self._frozen()).items() if self._hashes.get(n) == value}
        if self._external:
            checkpoint["meta"]["external"] = now
        if self._leaves_out:
            checkpoint["meta"]["frozen"] = left_out
            for state in filter(None, map(checkpoint.get, _STATES)):
                for name in left_out:
                    state.pop(name, None)

    def check_external(self, meta: Mapping[str, Any]) -> None:
        """Make sure that the external parts are those with which a checkpoint was trained.

        Raises:
            CheckpointError: When they have other values.
        """
        _compare(meta.get("external") or {}, self._external_hashes, "the parts that do not belong to the model")

    def _frozen(self) -> dict[str, Tensor]:
        if not self._leaves_out:
            return {}
        state = get_state_dict(self._model, keep_vars=True)
        return {n: v for n, v in state.items() if isinstance(v, nn.Parameter) and not v.requires_grad}


def complete(checkpoint: Any, model: nn.Module | Mapping[str, Any]) -> None:
    """Put into a checkpoint, in place, the frozen weights that it leaves out, as the model has them.

    Args:
        checkpoint: Any; whole ones stay as they are.
        model: With the weights of `load_from` or of its constructor; or its state.

    Raises:
        CheckpointError: When the model has others than those with which the checkpoint was trained.
    """
    if not (expected := left_out_of(checkpoint)):
        return
    state = get_state_dict(model) if isinstance(model, nn.Module) else model
    own = {name: state[name] for name in expected if name in state}
    _compare(expected, _hash_each(own), "the frozen weights that the checkpoint leaves out")
    for state in filter(None, map(checkpoint.get, _STATES[:2])):
        for name, value in own.items():
            state.setdefault(name, value)


def left_out_of(checkpoint: Any) -> dict[str, str]:
    """Return the hashes of the weights that a checkpoint leaves out, by name."""
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    return dict(meta.get("frozen") or {}) if isinstance(meta, Mapping) else {}


def _compare(expected: Mapping[str, str], found: Mapping[str, str], what: str) -> None:
    if others := [name for name, value in expected.items() if found.get(name, value) != value]:
        raise UsageCheckpointError(
            f"{what} are not those with which it was trained: {len(others)} of {len(expected)} differ "
            f"({listed(others, 3)}). They come from load_from or from the model's constructor: give the same "
            "load_from, and the same seed where the constructor draws them."
        )


def _whole(value: Any) -> Tensor:
    return value.full_tensor() if is_sharded_tensor(value) else value


@torch.no_grad()
def _hash_each(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a hash of each tensor's bits, on its device: one wait for the device in all."""
    sums = {name: _checksum(_whole(value)) for name, value in tensors.items()}
    return {name: f"{int(value) % (1 << 64):016x}" for name, value in sums.items()}


def _checksum(tensor: Tensor) -> Tensor:
    """Return the sum of all words, each times its place from 1, modulo 2**64: one word that changes is always seen."""
    bits = tensor.detach().reshape(-1).view(torch.int32 if tensor.element_size() % 4 == 0 else torch.uint8)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for number, part in enumerate(bits.split(_CHUNK)):
        places = torch.arange(number * _CHUNK + 1, number * _CHUNK + len(part) + 1, device=bits.device)
        total += (part.long() * places).sum()
    return total
