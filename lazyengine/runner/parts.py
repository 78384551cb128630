"""What a runner is made of: each part built on first use, and where the run stands."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..config import Lazy
from ..hooks import Hook, HookSchedule, default_hooks
from ..logging import LogProcessor
from ..optim import OptimWrapper, OptimWrapperDict
from ..seeding import derive_seed
from ..visualization import LocalVisBackend, TensorboardVisBackend, Visualizer
from .environment import seed_everything
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop, loaders_of, seed_loaders

TrainLoop = EpochBasedTrainLoop | IterBasedTrainLoop
AnyOptimWrapper = OptimWrapper | OptimWrapperDict


class RunnerParts:
    """The parts of a run, given as objects or as recipes; a recipe is built when its part is first asked for.

    A part that was asked for is an ordinary attribute from then on.

    Args:
        seed: Seed of the run; what a loader without a seed of its own gets.
        parts: The parts by name, None for those that were not given.
    """

    def __init__(self, seed: int, parts: dict[str, Any]) -> None:
        self.seed = seed
        self._parts = parts
        self._num_batches: dict[str, int] = {}
        self.loaded_meta: dict[str, Any] = {}

    def has(self, name: str) -> bool:
        """Whether a part was given; builds nothing."""
        return self._parts[name] is not None

    def is_built(self, name: str) -> bool:
        """Whether a part has been built."""
        return name in self.__dict__

    def recipe_of(self, name: str) -> Any:
        """Return a part if it is built, else what it would be built from."""
        return self.__dict__.get(name, self._parts[name])

    @cached_property
    def model(self) -> nn.Module:
        """The model, without any wrapper around it."""
        seed_everything(derive_seed(self.seed))  # weights drawn in constructors depend on nothing built before
        return build_part(self._parts["model"])

    @cached_property
    def train_loop(self) -> TrainLoop:
        """The train loop."""
        return self._build_loop("train_loop")

    @cached_property
    def val_loop(self) -> ValLoop | None:
        """The validation loop, or None."""
        return self._build_loop("val_loop")

    @cached_property
    def test_loop(self) -> TestLoop | None:
        """The test loop, or None."""
        return self._build_loop("test_loop")

    @cached_property
    def optim_wrapper(self) -> AnyOptimWrapper:
        """The optimizer wrapper.

        Raises:
            TypeError: When a bare optimizer was given.
        """
        built = build_part(self._parts["optim_wrapper"])
        if isinstance(built, Optimizer):
            name = type(built).__name__
            raise TypeError(f"optim_wrapper: got a bare {name}; wrap it, as in OptimWrapper(optimizer=...)")
        return built

    @cached_property
    def visualizer(self) -> Visualizer:
        """The visualizer; where none was given, one that writes locally and to TensorBoard."""
        given = build_part(self._parts["visualizer"])
        return given or Visualizer(vis_backends=[LocalVisBackend(), TensorboardVisBackend()])

    @cached_property
    def log_processor(self) -> LogProcessor:
        """What makes log lines; where none was given, one that counts as the train loop does."""
        given = build_part(self._parts["log_processor"])
        return given or LogProcessor(by_epoch=self.max_epochs is not None)

    @cached_property
    def hook_schedule(self) -> HookSchedule:
        """The hooks and the order in which they run."""
        hooks = self._parts["hooks"]
        return HookSchedule(default_hooks() if hooks is None else build_part(hooks))

    @property
    def hooks(self) -> dict[str, Hook]:
        """The hooks by name, in calling order."""
        return self.hook_schedule.hooks

    # ------------------------------------------------------------------ where the run stands (mmengine's names)
    @property
    def epoch(self) -> int:
        """Completed training epochs; in an evaluation, of the weights that were loaded."""
        return self.train_loop.epoch if self.is_built("train_loop") else int(self.loaded_meta.get("epoch") or 0)

    @property
    def iter(self) -> int:
        """Completed training iterations; in an evaluation, of the weights that were loaded."""
        return self.train_loop.iter if self.is_built("train_loop") else int(self.loaded_meta.get("iter") or 0)

    @property
    def max_epochs(self) -> int | None:
        """Epochs to train; None in a loop that counts iterations, and in an evaluation."""
        return self.train_loop.max_epochs if self.is_built("train_loop") else None

    @property
    def max_iters(self) -> int | None:
        """Iterations to train; None in an evaluation."""
        return self.train_loop.max_iters if self.is_built("train_loop") else None

    @property
    def train_dataloader(self) -> Any:
        """The loader of the train loop."""
        return self.train_loop.dataloader

    @property
    def val_dataloader(self) -> Any:
        """The loader of the validation loop, or several by name, or None."""
        return None if self.val_loop is None else self.val_loop.dataloader

    @property
    def test_dataloader(self) -> Any:
        """The loader of the test loop, or several by name; without a test loop, the validation's."""
        return self.val_dataloader if self.test_loop is None else self.test_loop.dataloader

    def num_batches(self, mode: str) -> int:
        """Return the number of batches of one pass over the loader of `mode`, or over all of them."""
        if mode not in self._num_batches:
            loaders = loaders_of(getattr(self, f"{mode}_dataloader"))
            self._num_batches[mode] = sum(len(loader) for loader in loaders.values())
        return self._num_batches[mode]

    def _build_loop(self, name: str) -> Any:
        loop = build_part(self._parts[name])
        if loop is not None:
            seed_loaders(loop.dataloader, self.seed)
        return loop


def build_part(part: Any) -> Any:
    """Build recipes, also inside lists and dicts; objects pass through."""
    if isinstance(part, Lazy):
        return part()
    if isinstance(part, dict):  # not any Mapping: an OptimWrapperDict is an object
        return {key: build_part(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [build_part(value) for value in part]
    return part
