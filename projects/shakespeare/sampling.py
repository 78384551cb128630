"""Writes what the model would write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from lazyengine.dist import is_main_process
from lazyengine.hooks import Hook

from .text import decode, encode

if TYPE_CHECKING:
    from lazyengine.runner import Runner


class SampleTextHook(Hook):
    """Let the model write a text after each validation, into the log and ``samples.txt`` beside it.

    Args:
        prompt: The beginning of the text.
        num_characters: Characters to add.
        temperature: See `GPT.generate`.
        seed: Seed of the draws, so that texts differ by the model alone.
    """

    def __init__(self, prompt: str = "\n", num_characters: int = 200, temperature: float = 0.8, seed: int = 0) -> None:
        if not prompt:
            raise ValueError("SampleTextHook needs a prompt of at least one character, such as '\\n'")
        self.prompt = prompt
        self.num_characters = num_characters
        self.temperature = temperature
        self.seed = seed

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write a text; every rank draws the same one, and the main process shows it."""
        characters = runner.val_dataloader.dataset.metainfo["characters"]
        model: Any = runner.model
        with runner.eval_context():
            tokens = model.generate(
                encode(self.prompt, characters),
                self.num_characters,
                self.temperature,
                torch.Generator().manual_seed(self.seed),
            )
        text = decode(tokens.tolist(), characters)
        runner.logger.info("after %d iterations the model writes:\n%s", runner.iter, text)
        if is_main_process():
            with open(os.path.join(runner.log_dir, "samples.txt"), "a", encoding="utf-8") as file:
                file.write(f"==== after {runner.iter} iterations\n{text}\n")
