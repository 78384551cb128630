"""A PNG encoder in a few lines, so that no image library is needed."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: grey, grey + alpha, RGB, RGBA


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image without loss, by the PNG specification (W3C, third edition) with filter type 1 ("Sub").

    Args:
        image: ``(H, W, C)`` with 1 to 4 channels (grey, grey + alpha, RGB, RGBA), uint8.
    """
    height, width, channels = image.shape
    rows = np.empty((height, width * channels + 1), dtype=np.uint8)
    rows[:, 0] = 1
    flat = image.reshape(height, -1)
    rows[:, 1 : channels + 1] = flat[:, :channels]
    np.subtract(flat[:, channels:], flat[:, :-channels], out=rows[:, channels + 1 :])
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 4)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def as_image(value: object) -> np.ndarray:
    """Return ``value`` as an image of shape ``(H, W, C)``, uint8.

    Args:
        value: An array or a tensor, ``(H, W)`` or ``(H, W, C)`` with 1 to 4 channels, uint8 in [0, 255] or bool; or a
            matplotlib figure, which is drawn.

    Raises:
        TypeError: When the dtype is another one.
        ValueError: When the shape is another one.
    """
    canvas = getattr(value, "canvas", None)
    if canvas is not None and hasattr(value, "savefig"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        agg = FigureCanvasAgg(value)  # type: ignore[arg-type]
        agg.draw()
        value = np.asarray(agg.buffer_rgba())
    elif hasattr(value, "detach"):
        value = value.detach().cpu().numpy()  # type: ignore[attr-defined]
    image = np.asarray(value)
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    if image.dtype != np.uint8:
        raise TypeError(
            f"an image is uint8 in [0, 255], got {image.dtype}; "
            "convert it, for example (255 * x).round().astype('uint8')"
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or not 1 <= image.shape[2] <= 4 or 0 in image.shape:
        raise ValueError(
            f"an image has the shape (H, W) or (H, W, C) with 1 to 4 channels, got {tuple(image.shape)}; "
            "of a (C, H, W) tensor pass x.permute(1, 2, 0)"
        )
    return image
