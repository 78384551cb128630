"""The same experiment as config.py in a plain loop, without the engine: the number that the engine has to reach.

Start it with ``python projects/shakespeare/plain_loop.py tinyshakespeare.txt``.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # the folder that holds `projects`
from projects.shakespeare.gpt import GPT

CONTEXT, BATCH, WARMUP, LR, MIN_LR = 64, 12, 100, 1e-3, 1e-4


def learning_rate(iteration: int, num_iters: int) -> float:
    """Linear warmup, then half a cosine down to a tenth."""
    if iteration < WARMUP:
        return LR * (iteration + 1) / (WARMUP + 1)
    done = (iteration - WARMUP) / (num_iters - WARMUP)
    return MIN_LR + 0.5 * (1 + math.cos(math.pi * done)) * (LR - MIN_LR)


def batch_of(data: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the windows that begin at ``starts``, and the characters that follow each of theirs."""
    windows = torch.stack([data[start : start + CONTEXT + 1] for start in starts.tolist()])
    return windows[:, :-1], windows[:, 1:]


def run(file: str, num_iters: int = 2000, seed: int = 0, num_val_batches: int = 400) -> float:
    """Train and return the validation loss over fixed batches."""
    text = pathlib.Path(file).read_text(encoding="utf-8")
    characters = sorted(set(text))
    tokens = torch.tensor([characters.index(c) for c in text])
    cut = int(0.9 * len(tokens))
    train, val = tokens[:cut], tokens[cut:]
    torch.manual_seed(seed)
    model = GPT(vocab_size=len(characters), context=CONTEXT)
    model.init_weights()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)], lr=LR, betas=(0.9, 0.99)
    )
    for iteration in range(num_iters):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration, num_iters)
        inputs, targets = batch_of(train, torch.randint(len(train) - CONTEXT, (BATCH,)))
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if iteration % 200 == 0:
            print(f"iteration {iteration}: loss {loss.item():.4f}", flush=True)
    model.eval()
    generator = torch.Generator().manual_seed(1337)
    total = 0.0
    with torch.no_grad():
        for _ in range(num_val_batches):
            starts = torch.randint(len(val) - CONTEXT, (BATCH,), generator=generator)
            inputs, targets = batch_of(val, starts)
            total += F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    return total / num_val_batches


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the text")
    parser.add_argument("--iters", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()
    result = run(arguments.file, arguments.iters, arguments.seed)
    print(f"validation loss {result:.4f} after {time.perf_counter() - start:.0f} s")
