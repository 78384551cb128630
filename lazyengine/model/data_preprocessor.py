"""Data preprocessors: move a batch to the model's device and bring it into the form that ``forward`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageValueError
from ..nesting import map_leaves


def move_data(data: Any, device: torch.device | None, non_blocking: bool = True) -> Any:
    """Move every tensor inside ``data`` to ``device`` and leave everything else as it is.

    Mappings (returned as dicts), lists, tuples, named tuples, dataclass instances and objects with a ``to`` method
    are walked; the given containers are not changed.

    Args:
        data: Any nesting of the above.
        device: Where to; None returns ``data`` unchanged.
        non_blocking: Copy without waiting for what the device has yet to compute, where it can: to the host none does.
    """
    if device is None:
        return data
    non_blocking = non_blocking and device.type not in ("cpu", "mps")  # there it could be read before it has arrived

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value if value.device == device else value.to(device, non_blocking=non_blocking)
        if isinstance(value, str | bytes | int | float | type) or not callable(getattr(value, "to", None)):
            return value
        return value.to(device)

    return map_leaves(move, data)


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
    if len(dims := {tensor.dim() for tensor in tensors}) != 1:
        raise ValueError(f"stack_batch got tensors with {sorted(dims)} dimensions · they must all have the same number")
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.stack([_pad_end(tensor, sizes, pad_size_divisor, pad_value) for tensor in tensors])


def _pad_end(tensor: Tensor, sizes: Sequence[int], divisor: int, value: float) -> Tensor:
    """Pad the last ``len(sizes)`` dimensions at their ends up to ``sizes``, rounded up to multiples of ``divisor``."""
    present = tensor.shape[tensor.dim() - len(sizes) :]
    missing = [-(-size // divisor) * divisor - own for size, own in zip(sizes, present, strict=True)]
    if not any(missing):
        return tensor
    return functional.pad(tensor, [pad for size in reversed(missing) for pad in (0, size)], value=value)


class BaseDataPreprocessor(nn.Module):
    """Moves a batch to the model's device. Subclass it to augment or mix batches on the device.

    It follows the model: ``model.to(...)``, ``.cuda()``, ``.cpu()`` and ``.to_empty(...)`` set its `device`.

    Args:
        non_blocking: Copy without waiting for the device; large tensors only where the loader pins memory.

    Attributes:
        device: Where batches are moved to.
    """

    def __init__(self, non_blocking: bool = True) -> None:
        super().__init__()
        self.non_blocking = non_blocking
        self.device = torch.device("cpu")

    def cast_data(self, data: Any) -> Any:
        """Move every tensor inside ``data`` to `device`; see `move_data` for what is walked."""
        return move_data(data, self.device, self.non_blocking)

    def forward(self, data: Any, training: bool = False) -> Any:
        """Prepare one batch.

        Args:
            data: A batch as the loader gives it.
            training: Whether the batch is trained on; augmentation belongs under it.

        Returns:
            The batch as the model's forward takes it.
        """
        return move_data(data, self.device, self.non_blocking)

    def _apply(self, fn: Any, recurse: bool = True) -> BaseDataPreprocessor:
        super()._apply(fn, recurse)
        self.device = fn(torch.empty(0, device=self.device)).device
        return self

    def extra_repr(self) -> str:
        return f"device={self.device}, non_blocking={self.non_blocking}"


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
        non_blocking: Copy without waiting for the device; large tensors only where the loader pins memory.

    Attributes:
        mean: The means on the current device, float32 ``(1 or 3, 1, 1)``, or None.
        std: The standard deviations, likewise.

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
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking)
        if (mean is None) != (std is None):
            raise UsageValueError(f"mean and std belong together, got mean={mean}, std={std} · give both or neither")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) not in (1, 3):
                raise UsageValueError(f"{name} needs 1 or 3 values, got {len(values)}: {values}")
        if std is not None and not all(value > 0 for value in std):
            raise UsageValueError(f"std must be positive, got {std}")
        if bgr_to_rgb and rgb_to_bgr:
            raise UsageValueError("bgr_to_rgb and rgb_to_bgr cannot both be set · they are the same swap")
        if pad_size_divisor < 1:
            raise UsageValueError(f"pad_size_divisor must be at least 1, got {pad_size_divisor}")
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value
        self.swaps_channels = bgr_to_rgb or rgb_to_bgr
        self._values = None if mean is None or std is None else (tuple(mean), tuple(std))
        self._place_constants()

    def _place_constants(self) -> None:
        """Put mean and std on the device: constants that are no buffers, so that DDP need not send them."""
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(-1, 1, 1) if values else None
            for values in self._values or (None, None)
        )

    def _apply(self, fn: Any, recurse: bool = True) -> ImgDataPreprocessor:
        super()._apply(fn, recurse)
        self._place_constants()
        return self

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
        mean, std = self._values or (None, None)
        padding = f"pad_size_divisor={self.pad_size_divisor}, pad_value={self.pad_value}"
        return f"mean={mean}, std={std}, {padding}, swaps_channels={self.swaps_channels}, {super().extra_repr()}"

    def _prepare(self, inputs: Any) -> Tensor:
        if isinstance(inputs, Tensor):
            if inputs.dim() != 4:
                raise ValueError(f"images must be (N, C, H, W) or a list of (C, H, W), got shape {tuple(inputs.shape)}")
            return _pad_end(self._prepare_images(inputs), inputs.shape[2:], self.pad_size_divisor, self.pad_value)
        if isinstance(inputs, (list, tuple)) and inputs and all(isinstance(image, Tensor) for image in inputs):
            images = [self._prepare_images(image) for image in inputs]
            return stack_batch(images, self.pad_size_divisor, self.pad_value)
        raise TypeError(f"images must be a tensor or a list of tensors, got {type(inputs).__name__}")

    def _prepare_images(self, images: Tensor) -> Tensor:
        """Prepare ``(N, C, H, W)`` or ``(C, H, W)``."""
        needs_three = self.swaps_channels or (self.mean is not None and len(self.mean) == 3)
        if needs_three and (images.dim() < 3 or images.shape[-3] != 3):
            raise ValueError(
                f"images have shape {tuple(images.shape)} · swapping channels or three values in mean need 3 channels "
                "in the third dimension from the end"
            )
        converted = (images.flip(-3) if self.swaps_channels else images).float()
        if self.mean is None or self.std is None:
            return converted
        if converted is images:  # the caller's own tensor stays as it is
            return (converted - self.mean).div_(self.std)
        return converted.sub_(self.mean).div_(self.std)
