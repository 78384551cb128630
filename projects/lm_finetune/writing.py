"""Lets a language model of transformers write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from lazyengine.dist import is_main_process
from lazyengine.hooks import Hook

from .text import decode, encode

if TYPE_CHECKING:
    from lazyengine.runner import Runner


class WriteTextHook(Hook):
    """Let the model write a text after each validation, into the log and ``samples.txt`` beside it.

    Args:
        prompt: The beginning of the text.
        num_bytes: Bytes to add; with the prompt at most the context.
        temperature: Divides the scores: below 1 the text is safer, above 1 wilder.
    """

    def __init__(self, prompt: str = "KING", num_bytes: int = 120, temperature: float = 0.8) -> None:
        if not prompt:
            raise ValueError("WriteTextHook needs a prompt of at least one character, such as 'KING'")
        self.prompt = prompt
        self.num_bytes = num_bytes
        self.temperature = temperature

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write a text; every rank draws the same one, and the main process shows it."""
        network: Any = runner.model.network
        tokens = encode(self.prompt.encode())[None].to(runner.device)
        with runner.eval_context(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # so that texts differ by the model alone
            written = network.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=self.num_bytes,
                do_sample=True,
                temperature=self.temperature,
                pad_token_id=0,
            )
        text = decode(written[0].tolist())
        runner.logger.info("after %d iterations the model writes:\n%s", runner.iter, text)
        if is_main_process():
            with open(os.path.join(runner.log_dir, "samples.txt"), "a", encoding="utf-8") as file:
                file.write(f"==== after {runner.iter} iterations\n{text}\n")
