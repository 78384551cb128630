"""The default picture of a data sample: the image with its labels written below."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np


def labels_of(data_sample: Any, draw_gt: bool, draw_pred: bool) -> str:
    """Return the scalar fields of a sample called ``gt...``, ``label`` or ``pred...`` as one line of text."""
    if isinstance(data_sample, Mapping):
        fields = dict(data_sample)
    elif dataclasses.is_dataclass(data_sample):
        fields = {field.name: getattr(data_sample, field.name) for field in dataclasses.fields(data_sample)}
    else:
        fields = dict(getattr(data_sample, "__dict__", {}))
    texts = []
    for name, value in fields.items():
        is_gt, is_pred = str(name).startswith(("gt", "label")), str(name).startswith("pred")
        if not ((is_gt and draw_gt) or (is_pred and draw_pred)):
            continue
        if hasattr(value, "item") and (value.numel() if hasattr(value, "numel") else value.size) == 1:
            value = value.item()
        if isinstance(value, float):
            texts.append(f"{name}: {value:.4g}")
        elif isinstance(value, int | str):
            texts.append(f"{name}: {value}")
    return "  ".join(texts)


def add_caption(image: np.ndarray, text: str) -> np.ndarray:
    """Write ``text`` below an image ``(H, W, C)`` uint8, wide enough for both; without Pillow the image stays as it is.

    Returns:
        The image with its caption, ``(H + ..., max(W, ...), 3)`` uint8.
    """
    if not text or importlib.util.find_spec("PIL") is None:
        return image
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(text)
    height, width = image.shape[:2]
    canvas = Image.new("RGB", (max(width, int(right - left) + 4), height + int(bottom - top) + 6), "white")
    squeezed = image[:, :, 0] if image.shape[2] == 1 else image
    canvas.paste(Image.fromarray(squeezed).convert("RGB"), (0, 0))
    ImageDraw.Draw(canvas).text((2 - left, height + 3 - top), text, fill="black", font=font)
    return np.asarray(canvas)
