"""Writes golden.npz: what mmengine's visualizer draws.

Run it with an interpreter that has mmengine 0.10.7 and matplotlib: `python -m tests.visualization.golden`. The images
are those of matplotlib 3.11; another version may put the edge of a shape a shade differently.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
HEIGHT, WIDTH = 48, 64
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
IMAGE = np.stack([ROWS // 16 * 80, COLUMNS // 16 * 60, 0 * ROWS + 90], axis=2).astype(np.uint8)
MASKS = np.stack([ROWS < 20, COLUMNS > ROWS])
MAPS = np.stack([ROWS * COLUMNS, ROWS - COLUMNS, COLUMNS * 0.5 + 3]).astype(np.float32)

DRAWINGS = {
    "nothing": [],
    "box": [("draw_bboxes", [[8, 6, 40, 30]], {})],
    "boxes": [
        (
            "draw_bboxes",
            [[[8, 6, 40, 30], [20.5, 10.25, 60, 44]]],
            {"edge_colors": ["r", (0, 0, 255)], "line_widths": [1, 2], "face_colors": ["none", "y"], "alpha": 0.5},
        )
    ],
    "thick box": [("draw_bboxes", [[10, 10, 50, 40]], {"line_widths": 9, "edge_colors": "w", "alpha": 1})],
    "thin box": [("draw_bboxes", [[10, 10, 50, 40]], {"line_widths": 0.2, "line_styles": "--"})],
    "circles": [
        ("draw_circles", [[[20, 20], [44, 24]], [10, 6]], {}),
        ("draw_circles", [[32, 30], [8]], {"face_colors": "r", "edge_colors": "none", "alpha": 1.0}),
    ],
    "polygons": [
        ("draw_polygons", [[[5, 5], [50, 10], [30, 40]]], {"face_colors": "m"}),
        ("draw_polygons", [[[40, 20], [60, 20], [60, 45], [40, 45]]], {"edge_colors": (255, 128, 0), "alpha": 0.3}),
    ],
    "lines": [
        ("draw_lines", [[[2, 60], [60, 2]], [[3, 40], [3, 40]]], {"colors": ["r", "b"], "line_styles": ["-", "--"]}),
        ("draw_lines", [[0, 63], [24, 24]], {"line_widths": 6}),
    ],
    "points": [
        ("draw_points", [[[10, 10], [30, 20]]], {"sizes": [20.0, 60.0], "marker": "o"}),
        ("draw_points", [[[50, 40]]], {"colors": "r", "marker": "s", "sizes": [80.0]}),
    ],
    "texts": [
        ("draw_texts", ["one", [3, 2]], {}),
        (
            "draw_texts",
            [["two", "3"], [[32, 24], [60, 46]]],
            {
                "font_sizes": [8, 12],
                "colors": ["w", (255, 255, 0)],
                "vertical_alignments": ["center", "bottom"],
                "horizontal_alignments": ["center", "right"],
                "bboxes": [{"facecolor": "k", "alpha": 0.5, "pad": 1}, {"facecolor": "b", "pad": 0}],
            },
        ),
    ],
    "masks": [("draw_binary_masks", [MASKS], {"colors": ["r", (0, 255, 0)], "alphas": [0.5, 0.25]})],
    "one mask": [("draw_binary_masks", [MASKS[0]], {})],
}
FEATURE_MAPS = {
    "mean": {"channel_reduction": "squeeze_mean"},
    "largest": {"channel_reduction": "select_max"},
    "overlaid": {"overlaid_image": IMAGE, "channel_reduction": "squeeze_mean", "alpha": 0.3},
}


def as_given(value):
    """Return positions as arrays, which mmengine asks for."""
    is_text = isinstance(value, str) or isinstance(value[0], str)
    return value if is_text else np.array(value)


def draw(visualizer, name):
    """Return the image of a drawing."""
    visualizer.set_image(IMAGE)
    for method, positional, options in DRAWINGS[name]:
        getattr(visualizer, method)(*map(as_given, positional), **options)
    return visualizer.get_image()


def main():
    """Write the images."""
    import torch
    from mmengine.visualization import Visualizer

    visualizer = Visualizer()
    images = {name: draw(visualizer, name) for name in DRAWINGS}
    for name, options in FEATURE_MAPS.items():
        images[name] = visualizer.draw_featmap(torch.from_numpy(MAPS), **options)
    np.savez_compressed(FILE, **images)


if __name__ == "__main__":
    main()
