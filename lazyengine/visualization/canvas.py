"""Drawing on images: boxes, texts, masks and the like, by matplotlib."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..errors import UsageRuntimeError, UsageValueError
from .images import as_array, as_image

Reduction = Literal["squeeze_mean", "select_max"]


class Canvas:
    """An image that one draws on, in pixels; what `draw_...` returns is the canvas, so that calls can be chained.

    Coordinates count from the upper left corner of the image; the pixel in row 0 and column 0 lies between 0 and 1.
    Numbers may be arrays, tensors or lists. Options that are lists hold one value for each thing that is drawn; a
    colour is what matplotlib takes, or three numbers from 0 to 255. Needs matplotlib (``pip install
    'lazyengine[plot]'``).
    """

    _axes: Any = None
    _size = (0, 0)

    def set_image(self, image: Any) -> None:
        """Take an image to draw on, ``(H, W)`` or ``(H, W, C)``, uint8; what was drawn before is gone."""
        pixels = as_image(image)
        height, width = self._size = pixels.shape[:2]
        # A figure of exactly the image's size may be cut to one pixel less.
        figsize = ((width + 0.01) / 100, (height + 0.01) / 100)
        figure = _matplotlib("figure").Figure(figsize=figsize, dpi=100, frameon=False)
        self._axes = figure.add_axes((0, 0, 1, 1))
        colored = pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels
        self._fill(colored)
        self._axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self._axes.set_axis_off()

    def get_image(self) -> np.ndarray:
        """Return the image with what was drawn, ``(H, W, 3)``, uint8."""
        height, width = self._size
        return as_image(self._ready_axes().figure)[:height, :width, :3].copy()

    def show(self, drawn_img: Any = None, win_name: str = "image", wait_time: float = 0.0) -> None:
        """Show an image, or what was drawn, in a window.

        Args:
            drawn_img: The image; None for what was drawn.
            win_name: Title of the window.
            wait_time: After so many seconds it is closed; 0 waits until the user does.
        """
        pyplot = _matplotlib("pyplot")
        figure = pyplot.figure(num=win_name)
        figure.figimage(self.get_image() if drawn_img is None else as_image(drawn_img).squeeze(), resize=True)
        pyplot.show(block=wait_time == 0)
        if wait_time > 0:
            pyplot.pause(wait_time)
            pyplot.close(figure)

    @property
    def _font_size(self) -> float:
        return max(math.sqrt(math.prod(self._size)) // 90, 10)

    def _ready_axes(self) -> Any:
        if self._axes is None:
            raise UsageRuntimeError("there is no image to draw on; call set_image(image) first")
        return self._axes

    # ---------------------------------------------------------------- points, lines and texts
    def draw_points(self, positions: Any, colors: Any = "g", marker: str = "o", sizes: Any = None) -> Canvas:
        """Draw points at ``(N, 2)`` positions ``(x, y)``; `sizes` are in square points."""
        places = _numbers(positions, 2)
        self._ready_axes().scatter(*places.T, c=_colors(colors), marker=marker, s=sizes)
        return self

    def draw_lines(
        self, x_datas: Any, y_datas: Any, colors: Any = "g", line_styles: Any = "-", line_widths: Any = 2
    ) -> Canvas:
        """Draw lines, each from ``(x[i, 0], y[i, 0])`` over its further points; both ``(N, P)``."""
        xs, ys = _numbers(x_datas), _numbers(y_datas)
        lines = [np.stack(pair, axis=1) for pair in zip(xs, ys, strict=True)]
        return self._add("LineCollection", lines, edge_colors=colors, line_styles=line_styles, line_widths=line_widths)

    def draw_texts(
        self,
        texts: str | Sequence[str],
        positions: Any,
        font_sizes: Any = None,
        colors: Any = "g",
        vertical_alignments: Any = "top",
        horizontal_alignments: Any = "left",
        font_families: Any = "sans-serif",
        bboxes: Any = None,
    ) -> Canvas:
        """Write texts at ``(N, 2)`` positions; `bboxes` are matplotlib's options of a box around a text."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        sizes = font_sizes if font_sizes is not None else self._font_size
        given = (_colors(colors), vertical_alignments, horizontal_alignments, font_families, bboxes, sizes)
        options = (_each(value, len(texts)) for value in given)
        for text, place, *values in zip(texts, _numbers(positions, 2), *options, strict=True):
            names = ("color", "verticalalignment", "horizontalalignment", "family", "bbox", "size")
            self._ready_axes().text(*place, text, clip_on=True, **dict(zip(names, values)))
        return self

    # ---------------------------------------------------------------- shapes
    def draw_bboxes(self, bboxes: Any, **options: Any) -> Canvas:
        """Draw boxes ``(N, 4)`` as ``(x1, y1, x2, y2)``; options as of `draw_polygons`.

        Raises:
            ValueError: When a box ends before it begins.
        """
        boxes = _numbers(bboxes, 4)
        if not ((boxes[:, :2] <= boxes[:, 2:]).all()):
            raise UsageValueError(f"draw_bboxes: a box is (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, got {bboxes}")
        corners = np.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [2, 3]], boxes[:, [0, 3]]], axis=1)
        return self.draw_polygons(list(corners), **options)

    def draw_circles(self, center: Any, radius: Any, **options: Any) -> Canvas:
        """Draw circles around ``(N, 2)`` centers with ``(N,)`` radii; options as of `draw_polygons`."""
        angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        sizes = np.atleast_1d(as_array(radius))
        return self.draw_polygons([c + circle * r for c, r in zip(_numbers(center, 2), sizes, strict=True)], **options)

    def draw_polygons(
        self,
        polygons: Any,
        edge_colors: Any = "g",
        line_styles: Any = "-",
        line_widths: Any = 2,
        face_colors: Any = "none",
        alpha: float = 0.8,
    ) -> Canvas:
        """Draw polygons.

        Args:
            polygons: Corners ``(P, 2)`` of one, or a list of such.
            edge_colors: Colour of the line.
            line_styles: Style of the line.
            line_widths: Its width in points, at least 1; at most a quarter of the usual font size, 2.5 in small images.
            face_colors: Colour of the area; ``"none"`` for none.
            alpha: Opacity of both, from 0 to 1.
        """
        is_one = not isinstance(polygons, list | tuple) and as_array(polygons).ndim == 2
        shapes = [_numbers(polygon, 2) for polygon in ([polygons] if is_one else polygons)]
        widths = [min(max(width, 1), self._font_size / 4) for width in _each(line_widths, len(shapes))]
        drawn = {"edge_colors": edge_colors, "line_styles": line_styles, "line_widths": widths}
        return self._add("PolyCollection", shapes, face_colors=face_colors, alpha=alpha, **drawn)

    def _add(self, kind: str, shapes: list[np.ndarray], **options: Any) -> Canvas:
        named = {n.replace("_", ""): _colors(v) if n.endswith("colors") else v for n, v in options.items()}
        self._ready_axes().add_collection(getattr(_matplotlib("collections"), kind)(shapes, **named))
        return self

    # ---------------------------------------------------------------- areas
    def draw_binary_masks(self, binary_masks: Any, colors: Any = "g", alphas: Any = 0.8) -> Canvas:
        """Colour the pixels of masks ``(H, W)`` or ``(N, H, W)`` of booleans.

        Raises:
            ValueError: When a mask is not of the image's size.
        """
        masks = as_array(binary_masks, bool)
        masks = masks[None] if masks.ndim == 2 else masks
        if masks.shape[1:] != self._size:
            raise UsageValueError(f"draw_binary_masks: masks of {masks.shape[1:]}, the image has {self._size}")
        to_rgba, number = _matplotlib("colors").to_rgba, len(masks)
        for mask, color, alpha in zip(masks, _each(_colors(colors), number), _each(alphas, number)):
            layer = mask[..., None] * np.array(to_rgba(color, alpha))
            self._ready_axes()
            self._fill(layer)
        return self

    def _fill(self, pixels: np.ndarray) -> None:
        height, width = self._size
        self._axes.imshow(pixels, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")

    @staticmethod
    def draw_featmap(
        featmap: Any, overlaid_image: Any = None, channel_reduction: Reduction = "squeeze_mean", alpha: float = 0.5
    ) -> np.ndarray:
        """Return a feature map as colours, on an image if one is given.

        Args:
            featmap: ``(C, H, W)``.
            overlaid_image: ``(H', W')`` or ``(H', W', C)``, uint8; the map is resized to it.
            channel_reduction: The mean of the channels, or the channel whose mean is largest.
            alpha: Opacity of the colours on the image.

        Returns:
            ``(H, W, 3)``, or of the image's size, uint8.
        """
        from PIL import Image

        values = as_array(featmap, np.float64)
        if values.ndim != 3 or channel_reduction not in ("squeeze_mean", "select_max"):
            raise UsageValueError(
                f"draw_featmap: expected a map (C, H, W) and channel_reduction 'squeeze_mean' or 'select_max', got "
                f"{values.shape} and {channel_reduction!r}"
            )
        means = values.mean(axis=(1, 2))
        flat = values.mean(axis=0) if channel_reduction == "squeeze_mean" else values[means.argmax()]
        image = None
        if overlaid_image is not None:  # the values are resized, not the colours: between blue and red lies green
            image = Image.fromarray(as_image(overlaid_image).squeeze()).convert("RGB")
            resized = Image.fromarray(flat.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
            flat = np.asarray(resized, np.float64)
        span = flat.max() - flat.min()
        level = (255 * (flat - flat.min()) / (span or 1.0)).astype(np.uint8)[..., None] / 255
        jet = np.clip(1.5 - abs(4 * level - np.array([3, 2, 1])), 0, 1)  # from blue over green to red, as OpenCV has it
        colored = np.rint(255 * jet).astype(np.uint8)
        return colored if image is None else np.asarray(Image.blend(image, Image.fromarray(colored), alpha))


def _matplotlib(name: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{name}")
    except ImportError as error:
        raise UsageRuntimeError("drawing on images needs matplotlib: pip install 'lazyengine[plot]'") from error


def _numbers(value: Any, columns: int | None = None) -> np.ndarray:
    """Return ``(N, columns)`` numbers; a single row may be given without its first axis."""
    found = np.atleast_2d(as_array(value, np.float64))
    if found.size == 0 and columns:  # nothing was found
        found = found.reshape(0, columns)
    if found.ndim != 2 or columns not in (None, found.shape[1]):
        raise UsageValueError(f"expected numbers of shape (N, {columns or 'points'}), got {found.shape}")
    return found


def _each(value: Any, number: int) -> list[Any]:
    return list(value) if isinstance(value, list) else [value] * number


def _colors(value: Any) -> Any:
    """Return colours as matplotlib has them."""
    if isinstance(value, list):
        return [_colors(each) for each in value]
    is_of_bytes = isinstance(value, tuple) and len(value) in (3, 4) and any(channel > 1 for channel in value)
    return tuple(channel / 255 for channel in value) if is_of_bytes else value
