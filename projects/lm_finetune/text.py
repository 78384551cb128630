"""A text as pieces of whole speeches, in bytes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lazyengine import fileio

IGNORED = -100
"""The label of what does not count; the value that transformers has."""


class Speeches(Dataset[dict[str, Tensor]]):
    """Pieces of a text: as many whole speeches after one another as go into the context.

    A speech ends with an empty line. One that is longer than the context is cut. A token is a byte.

    Args:
        file: The text: a path or a URL, which is downloaded once.
        split: ``"train"``, the first nine tenths, or ``"val"``, the rest.
        context: Bytes of a piece, at most.
        capitals: Whether the text is changed into capital letters.

    Raises:
        ValueError: ``split`` is another word, or the split is empty.
    """

    def __init__(
        self, file: str, split: Literal["train", "val"] = "train", context: int = 128, capitals: bool = False
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"split={split!r}: expected 'train' or 'val'")
        with open(fileio.get_local_path(file), "rb") as opened:
            text = opened.read()
        speeches = [speech + b"\n\n" for speech in (text.upper() if capitals else text).split(b"\n\n") if speech]
        cut = int(len(speeches) * 0.9)
        self.pieces = pieces_of(speeches[:cut] if split == "train" else speeches[cut:], context)
        if not self.pieces:
            raise ValueError(f"the {split} part of {file} is empty: it has {len(speeches)} speeches in all")

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``labels``, the same bytes, `(T,)`, int64, with `T <= context`."""
        tokens = encode(self.pieces[index])
        return {"input_ids": tokens, "labels": tokens}


def pieces_of(speeches: list[bytes], context: int) -> list[bytes]:
    """Return a text of speeches in pieces of at most ``context`` bytes, which begin with a speech where they can."""
    pieces = [b""]
    for speech in speeches:
        if len(pieces[-1]) + len(speech) <= context:
            pieces[-1] += speech
        else:
            pieces += [speech[start : start + context] for start in range(0, len(speech), context)]
    return [piece for piece in pieces if len(piece) > 1]  # of a single byte there is nothing to predict


def pad(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Collate pieces of different lengths: `(N, T)` both, and what was added does not count."""
    fill = {"input_ids": 0, "labels": IGNORED}
    return {
        name: pad_sequence([sample[name] for sample in samples], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }


def encode(text: bytes) -> Tensor:
    """Return the tokens of a text, `(len(text),)`, int64."""
    return torch.tensor(list(text))


def decode(tokens: Any) -> str:
    """Return the text of a sequence of tokens; bytes that are no UTF-8 are shown as a replacement character."""
    return bytes(tokens).decode("utf-8", errors="replace")


def loss_of_each(output: Any, labels: Tensor) -> dict[str, Tensor]:
    """Return what a language model's loss is for each sample, so that an evaluation is exact on any number of ranks.

    Args:
        output: What the model returned; its ``logits`` are `(N, T, 256)`.
        labels: The tokens, `(N, T)`, int64; a model predicts the next one.

    Returns:
        ``loss``, the mean negative log-likelihood of a sample's tokens in nats, and ``num``, how many there are; both
        `(N,)`.
    """
    logits, targets = output.logits[:, :-1].float(), labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    num = (targets != IGNORED).sum(1)
    return {"loss": losses.sum(1) / num.clamp(min=1), "num": num}
