"""A small GPT over characters."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lazyengine.model import BaseModel


class Attention(nn.Module):
    """Causal self-attention.

    Args:
        width: Size of the features.
        num_heads: Number of heads; divides ``width``.
        dropout: Probability of dropping an attention weight or an output feature.
        rotary: Whether queries and keys are turned by their position (Su et al. 2021, arXiv:2104.09864).
        qk_norm: Whether queries and keys are normalized, which allows greater learning rates (Henry et al. 2020,
            arXiv:2010.04245).
    """

    def __init__(self, width: int, num_heads: int, dropout: float, rotary: bool, qk_norm: bool) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width={width} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.rotary = rotary
        self.qk_norm = qk_norm
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix each position of ``x`` `(N, T, width)` with those before it; the same shape comes back."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (N, heads, T, size)
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if self.rotary:
            q, k = rotate(q), rotate(k)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return F.dropout(self.out(y.transpose(1, 2).flatten(2)), self.dropout, self.training)


def rotate(x: Tensor) -> Tensor:
    """Turn pairs of features of ``x`` `(..., T, size)` by angles proportional to the position, fastest pair first."""
    length, size = x.shape[-2:]
    position = torch.arange(length, device=x.device, dtype=torch.float32)
    speed = 10000.0 ** (torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / -size)
    angle = position[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normalized before and added to what it was given."""

    def __init__(self, width: int, num_heads: int, dropout: float, rotary: bool, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, num_heads, dropout, rotary, qk_norm)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``x`` `(N, T, width)`; the same shape comes back."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(BaseModel):
    """A decoder-only transformer that predicts the next character.

    As nanoGPT's: GELU, no biases, the output layer shares its weights with the embedding, weights drawn from a normal
    distribution of 0.02, those that end a residual branch from a smaller one.

    Args:
        vocab_size: Number of different characters.
        context: Characters that it sees at most.
        num_layers: Number of blocks.
        num_heads: Attention heads in each.
        width: Size of the features; a multiple of ``num_heads``.
        dropout: Probability of dropping a feature.
        rotary: Rotary positions instead of learned ones.
        qk_norm: Normalize queries and keys.
        data_preprocessor: Moves the batch to the model's device.
    """

    def __init__(
        self,
        vocab_size: int = 65,
        context: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        rotary: bool = False,
        qk_norm: bool = False,
        data_preprocessor: nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.context = context
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = None if rotary else nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout, rotary, qk_norm) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width, bias=False)

    def init_weights(self) -> None:
        """Draw all weights; the runner calls it unless it resumes."""
        self.is_init = True
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                ends_branch = name.endswith(("attention.out.weight", "mlp.2.weight"))
                std = 0.02 / math.sqrt(2 * len(self.blocks)) if ends_branch else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, mode: Literal["loss", "predict", "tensor"] = "tensor"
    ) -> dict[str, Tensor] | Tensor:
        """Run the network.

        Args:
            tokens: Characters `(N, T)`, int64, with `T <= context`.
            targets: The characters that follow each, `(N, T)`, int64.
            mode: ``"loss"`` for training, ``"predict"`` for evaluation, ``"tensor"`` for the scores alone.

        Returns:
            A dict with the mean negative log-likelihood ``loss``; the same for each sample, `(N,)`; or the scores
            `(N, T, vocab_size)`.
        """
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        scores = F.linear(self.norm(x), self.embedding.weight)
        if mode == "tensor":
            return scores
        assert targets is not None
        if mode == "loss":
            return {"loss": F.cross_entropy(scores.flatten(0, 1), targets.flatten())}
        return {"loss": F.cross_entropy(scores.transpose(1, 2), targets, reduction="none").mean(1)}

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, num_new: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Continue a text, one drawn character after the other.

        Args:
            tokens: The beginning, `(T,)`, int64, on any device, at least one character.
            num_new: Characters to add.
            temperature: Divides the scores: below 1 the text is safer, above 1 wilder; 0 takes the likeliest.
            generator: Random generator on the CPU; None is torch's own.

        Returns:
            The whole text, `(T + num_new,)`, int64, on the CPU. Collective under FSDP2: every rank must call.
        """
        text = tokens.tolist()
        device = self.embedding.weight.device
        for _ in range(num_new):
            seen = text[-self.context :]
            window = torch.tensor([seen + [0] * (self.context - len(seen))], device=device)  # one shape: compiles once
            output: Any = self(window)
            scores = output[0, len(seen) - 1].float().cpu()
            if temperature == 0:
                text.append(int(scores.argmax()))
            else:
                text.append(int(torch.multinomial((scores / temperature).softmax(0), 1, generator=generator)))
        return torch.tensor(text)
