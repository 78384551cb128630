"""Data preprocessors: move a batch to the model's device and bring it into the form that ``forward`` takes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BaseDataPreprocessor", "ImgDataPreprocessor", "move_data", "stack_batch"]


def move_data(data: Any, device: torch.device | None, non_blocking: bool = False) -> Any:
    """Move every tensor inside ``data`` to ``device`` and leave everything else as it is.

    Mappings (returned as dicts), lists, tuples, named tuples, dataclass instances and objects with a ``to`` method
    are walked; the given containers are not changed.

    Args:
        data: Any nesting of the above.
        device: Where to; None returns ``data`` unchanged.
        non_blocking: Passed to ``Tensor.to``; of use when the loader pins memory.
    """
    if device is None:
        return data
    if isinstance(data, Tensor):
        return data if data.device == device else data.to(device, non_blocking=non_blocking)
    if data is None or isinstance(data, (str, bytes, int, float)):
        return data
    if isinstance(data, Mapping):
        return {key: move_data(value, device, non_blocking) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        items = [move_data(value, device, non_blocking) for value in data]
        if type(data) is list:
            return items
        return type(data)(*items) if hasattr(data, "_fields") else type(data)(items)
    if isinstance(data, type):
        return data
    if dataclasses.is_dataclass(data):
        moved = copy.copy(data)
        for field in dataclasses.fields(data):
            if hasattr(data, field.name):  # frozen dataclasses are copied too, hence not setattr
                object.__setattr__(moved, field.name, move_data(getattr(data, field.name), device, non_blocking))
        return moved
    if callable(getattr(data, "to", None)):
        return data.to(device)
    return data


def stack_batch(tensors: Sequence[Tensor], pad_size_divisor: int = 1, pad_value: float = 0) -> Tensor:
    """Stack tensors of different sizes, padded at the end of every dimension but the first.

    Args:
        tensors: ``N`` tensors with the same number of dimensions and the same first one, such as ``(C, H, W)``.
        pad_size_divisor: Every padded size is rounded up to a multiple of it.
        pad_value: What the padding holds.

    Returns:
        A tensor ``(N, C, H_max, W_max)``.

    Raises:
        ValueError: ``tensors`` is empty or the numbers of dimensions differ.
    """
    if not tensors:
        raise ValueError("stack_batch got no tensor · it needs at least one")
    dims = {tensor.dim() for tensor in tensors}
    if len(dims) != 1:
        raise ValueError(f"stack_batch got tensors with {sorted(dims)} dimensions · they must all have the same number")
    sizes = [
        -(-max(tensor.shape[dim] for tensor in tensors) // pad_size_divisor) * pad_size_divisor
        for dim in range(1, dims.pop())
    ]
    return torch.stack([_pad_end(tensor, sizes, pad_value) for tensor in tensors])


def _pad_end(tensor: Tensor, sizes: Sequence[int], pad_value: float) -> Tensor:
    """Pad the last ``len(sizes)`` dimensions at their ends up to ``sizes``."""
    missing = [size - actual for size, actual in zip(sizes, tensor.shape[tensor.dim() - len(sizes) :], strict=True)]
    if not any(missing):
        return tensor
    return functional.pad(tensor, [pad for size in reversed(missing) for pad in (0, size)], value=pad_value)


class BaseDataPreprocessor(nn.Module):
    """Moves a batch to the model's device. Subclass it to augment or mix batches on the device.

    It follows the model: ``model.to(...)``, ``.cuda()``, ``.cpu()`` and ``.to_empty(...)`` set its `device`.

    Args:
        non_blocking: Copy without waiting; of use when the loader pins memory.
    """

    def __init__(self, non_blocking: bool = False) -> None:
        super().__init__()
        self.non_blocking = non_blocking
        self._device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Where batches are moved to."""
        return self._device

    def cast_data(self, data: Any) -> Any:
        """Move every tensor inside ``data`` to `device`; see `move_data` for what is walked."""
        return move_data(data, self._device, self.non_blocking)

    def forward(self, data: Any, training: bool = False) -> Any:
        """Prepare one batch.

        Args:
            data: A batch as the loader gives it.
            training: Whether the batch is trained on; augmentation belongs under it.

        Returns:
            The batch as the model's forward takes it.
        """
        return move_data(data, self._device, self.non_blocking)

    def _apply(self, fn: Any, recurse: bool = True) -> BaseDataPreprocessor:
        super()._apply(fn, recurse)
        self._device = fn(torch.empty(0, device=self._device)).device
        return self

    def extra_repr(self) -> str:
        return f"device={self._device}, non_blocking={self.non_blocking}"


class ImgDataPreprocessor(BaseDataPreprocessor):
    """Normalizes, flips the channels of, pads and stacks images on the device.

    Takes a dict with ``inputs`` or a list or tuple whose first item is the inputs: a tensor ``(N, C, H, W)`` or a
    list of tensors ``(C, H, W)`` of different sizes, of any dtype; the rest of the batch is only moved. In this
    order: channels swapped, converted to float32, ``(x - mean) / std``, padded at the bottom and on the right,
    stacked.

    Args:
        mean: One value, or three in the order of the channels after swapping. Given together with ``std`` or not at
            all.
        std: As ``mean``.
        pad_size_divisor: Height and width are padded up to a multiple of it.
        pad_value: What the padding holds, in normalized units.
        bgr_to_rgb: Swap the first and the third channel.
        rgb_to_bgr: The same swap, named for the other direction; only one of the two may be set.
        non_blocking: Copy without waiting; of use when the loader pins memory.

    Raises:
        ValueError: The arguments contradict one another or are out of range.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std belong together, got mean={mean}, std={std} · give both or neither")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) not in (1, 3):
                raise ValueError(f"{name} needs 1 or 3 values, got {len(values)}: {values}")
        if std is not None and not all(value > 0 for value in std):
            raise ValueError(f"std must be positive, got {std}")
        if bgr_to_rgb and rgb_to_bgr:
            raise ValueError("bgr_to_rgb and rgb_to_bgr cannot both be set · they are the same swap")
        if pad_size_divisor < 1:
            raise ValueError(f"pad_size_divisor must be at least 1, got {pad_size_divisor}")
        self._mean_values = None if mean is None else tuple(mean)
        self._std_values = None if std is None else tuple(std)
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value
        self.swaps_channels = bgr_to_rgb or rgb_to_bgr
        # Not buffers: constants that DDP need not broadcast and that survive construction on the meta device.
        self._constants: tuple[torch.device, Tensor, Tensor] | None = None

    @property
    def mean(self) -> Tensor | None:
        """The means on the current device, shape ``(1 or 3, 1, 1)``, or None."""
        constants = self._normalization()
        return None if constants is None else constants[0]

    @property
    def std(self) -> Tensor | None:
        """The standard deviations on the current device, shape ``(1 or 3, 1, 1)``, or None."""
        constants = self._normalization()
        return None if constants is None else constants[1]

    def forward(self, data: Any, training: bool = False) -> Any:
        """Prepare one batch; see the class."""
        data = self.cast_data(data)
        if isinstance(data, dict) and "inputs" in data:
            data["inputs"] = self._prepare(data["inputs"])
            return data
        if isinstance(data, (list, tuple)) and data:
            return [self._prepare(data[0]), *data[1:]]
        keys = f" with keys {list(data)}" if isinstance(data, dict) else ""
        raise TypeError(
            f"ImgDataPreprocessor got {type(data).__name__}{keys} · it takes a dict with 'inputs', or a list or tuple "
            "whose first item is the images"
        )

    def extra_repr(self) -> str:
        parts = [f"mean={self._mean_values}, std={self._std_values}", f"pad_size_divisor={self.pad_size_divisor}"]
        parts += [f"pad_value={self.pad_value}", f"swaps_channels={self.swaps_channels}", super().extra_repr()]
        return ", ".join(parts)

    def _normalization(self) -> tuple[Tensor, Tensor] | None:
        if self._mean_values is None:
            return None
        if self._constants is None or self._constants[0] != self._device:
            mean, std = (
                torch.tensor(values, dtype=torch.float32, device=self._device).view(-1, 1, 1)
                for values in (self._mean_values, self._std_values)
            )
            self._constants = (self._device, mean, std)
        return self._constants[1:]

    def _prepare(self, inputs: Any) -> Tensor:
        if isinstance(inputs, Tensor):
            if inputs.dim() != 4:
                raise ValueError(f"images must be (N, C, H, W) or a list of (C, H, W), got shape {tuple(inputs.shape)}")
            batch = self._prepare_images(inputs)
            sizes = [-(-size // self.pad_size_divisor) * self.pad_size_divisor for size in batch.shape[2:]]
            return _pad_end(batch, sizes, self.pad_value)
        if isinstance(inputs, (list, tuple)) and inputs and all(isinstance(image, Tensor) for image in inputs):
            images = [self._prepare_images(image) for image in inputs]
            return stack_batch(images, self.pad_size_divisor, self.pad_value)
        raise TypeError(f"images must be a tensor or a list of tensors, got {type(inputs).__name__}")

    def _prepare_images(self, images: Tensor) -> Tensor:
        """Prepare ``(N, C, H, W)`` or ``(C, H, W)``."""
        if (self.swaps_channels or len(self._mean_values or ()) == 3) and (images.dim() < 3 or images.shape[-3] != 3):
            raise ValueError(
                f"images have shape {tuple(images.shape)} · swapping channels or three values in mean need 3 channels "
                "in the third dimension from the end"
            )
        converted = images.flip(-3) if self.swaps_channels else images
        converted = converted.float()
        constants = self._normalization()
        if constants is None:
            return converted
        mean, std = constants
        if converted is images:  # the caller's own tensor stays as it is
            return (converted - mean).div_(std)
        return converted.sub_(mean).div_(std)
