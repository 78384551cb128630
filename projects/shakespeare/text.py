"""A text as windows of characters."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lazyengine import fileio

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


class CharText(Dataset[dict[str, Tensor]]):
    """Windows of a text: what is seen, and the same moved by one character.

    Args:
        file: The text, UTF-8: a path or a URL, which is downloaded once.
        split: ``"train"``, the first nine tenths, or ``"val"``, the rest.
        context: Characters of a window.
        num_windows: Take only so many windows, at places drawn once and for all; None: one at every character.

    Attributes:
        metainfo: ``characters``, all that occur, in order. Their positions in it are the tokens.

    Raises:
        ValueError: The split is shorter than a window.
    """

    def __init__(
        self,
        file: str = URL,
        split: Literal["train", "val"] = "train",
        context: int = 64,
        num_windows: int | None = None,
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r}: expected 'train' or 'val'")
        with open(fileio.get_local_path(file), encoding="utf-8", newline="") as opened:
            text = opened.read()
        self.metainfo = {"characters": "".join(sorted(set(text)))}
        tokens = encode(text, self.metainfo["characters"])
        cut = int(len(tokens) * 0.9)
        self.tokens = tokens[:cut] if split == "train" else tokens[cut:]
        self.context = context
        num_places = len(self.tokens) - context
        if num_places < 1:
            raise ValueError(
                f"the {split} part of {file} has {len(self.tokens)} characters; a window takes {context + 1}"
            )
        # None means every place; kept as a range, so that a million of them cost nothing.
        self.places = range(num_places)
        if num_windows is not None:
            self.places = np.random.default_rng(0).integers(num_places, size=num_windows).tolist()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``tokens`` and ``targets``, both `(context,)`, int64."""
        place = self.places[index]
        window = self.tokens[place : place + self.context + 1].long()
        return {"tokens": window[:-1], "targets": window[1:]}


def encode(text: str, characters: str) -> Tensor:
    """Return the tokens of a text, `(len(text),)`, uint8 or int16.

    Raises:
        ValueError: A character is not among ``characters``.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    known = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    tokens = np.searchsorted(known, codes).clip(max=len(known) - 1)
    if not np.array_equal(known[tokens], codes):
        unknown = sorted(set(text) - set(characters))
        raise ValueError(f"the model knows no {', '.join(map(repr, unknown))}; it knows {characters!r}")
    return torch.from_numpy(tokens.astype(np.uint8 if len(known) < 256 else np.int16))


def decode(tokens: Any, characters: str) -> str:
    """Return the text of a sequence of tokens."""
    return "".join(characters[token] for token in tokens)
