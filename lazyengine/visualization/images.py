"""Images as arrays, as PNG files, and with a line of text below them; by Pillow."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import UsageTypeError, UsageValueError
from ..logging import as_number


def as_array(value: Any, dtype: Any = None) -> np.ndarray:
    """Return an array, a tensor on any device or a list as an array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype)


def as_image(value: Any) -> np.ndarray:
    """Return ``value`` as an image of shape ``(H, W, C)``, uint8.

    Args:
        value: An array or a tensor, ``(H, W)`` or ``(H, W, C)`` with 1 to 4 channels, uint8 in [0, 255] or bool; or a
            matplotlib figure, which is drawn.

    Raises:
        TypeError: When the dtype is another one.
        ValueError: When the shape is another one.
    """
    if hasattr(value, "canvas") and hasattr(value, "savefig"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        agg = FigureCanvasAgg(value)
        agg.draw()
        value = agg.buffer_rgba()
    image = as_array(value)
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    if image.dtype != np.uint8:
        raise UsageTypeError(
            f"an image is uint8 in [0, 255], got {image.dtype}; "
            "convert it, for example (255 * x).round().astype('uint8')"
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or not 1 <= image.shape[2] <= 4 or 0 in image.shape:
        raise UsageValueError(
            f"an image has the shape (H, W) or (H, W, C) with 1 to 4 channels, got {tuple(image.shape)}; "
            "of a (C, H, W) tensor pass x.permute(1, 2, 0)"
        )
    return image


def _to_pillow(image: np.ndarray) -> Any:
    from PIL import Image  # here, since most runs draw nothing before their first iteration

    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image without loss.

    Args:
        image: ``(H, W, C)`` with 1 to 4 channels (grey, grey + alpha, RGB, RGBA), uint8.
    """
    buffer = io.BytesIO()
    _to_pillow(image).save(buffer, "PNG")
    return buffer.getvalue()


def labels_of(data_sample: Any, draw_gt: bool, draw_pred: bool) -> str:
    """Return the scalar fields of a sample called ``gt...``, ``label...`` or ``pred...`` as one line of text."""
    fields = data_sample if isinstance(data_sample, Mapping) else dict(getattr(data_sample, "__dict__", {}))
    if dataclasses.is_dataclass(data_sample):  # one with slots, too
        fields = {field.name: getattr(data_sample, field.name) for field in dataclasses.fields(data_sample)}
    beginnings = ("gt", "label") * draw_gt + ("pred",) * draw_pred
    texts = []
    for name, value in fields.items():
        value = value if isinstance(value, str) else as_number(value)
        if value is not None and str(name).startswith(beginnings):
            texts.append(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    return "  ".join(texts)


def add_caption(image: np.ndarray, text: str) -> np.ndarray:
    """Write ``text`` below an image ``(H, W, C)`` uint8, wide enough for both.

    Returns:
        The image with its caption, ``(H + ..., max(W, ...), 3)`` uint8; without text the image as it is.
    """
    if not text:
        return image
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(text)
    height, width = image.shape[:2]
    canvas = Image.new("RGB", (max(width, int(right - left) + 4), height + int(bottom - top) + 6), "white")
    canvas.paste(_to_pillow(image).convert("RGB"), (0, 0))
    ImageDraw.Draw(canvas).text((2 - left, height + 3 - top), text, fill="black", font=font)
    return np.asarray(canvas)
