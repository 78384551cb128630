"""The loops: what happens in which order while training, validating and testing.

Training, in pseudo-code::

    before_train
    for each epoch                                   (IterBasedTrainLoop: no epochs, the rest is the same)
        seed the random streams from (seed, epoch, rank)
        before_train_epoch
        for each batch
            seed the random streams from (seed, iteration, rank)
            before_train_iter
            outputs = train_step(model, batch, optim_wrapper)      forward, backward, optimizer step
            after_train_iter                                       log, step schedulers, save
        after_train_epoch
        validate, if it is due
    after_train
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import dist
from ..dist.comm import exchange_numbers
from ..evaluator import Evaluator
from ..model import test_step, train_step, val_step
from .batch import note_batch
from .sharing import check_global_batch_size, check_shared_out, global_batch_size, share_buffers

if TYPE_CHECKING:
    from .runner import Runner


class BaseTrainLoop:
    """What the two training loops share: counters, the validation schedule, and one iteration.

    Counters are completed counts. While the hooks of an iteration run, `iter` is still the number of iterations
    completed before it (mmengine's convention), and `state_dict` already counts the one whose weights are there.

    The two loops differ in what they count to: `max_epochs` (None without epochs), `max_iters`, and `epoch_length`,
    the batches of one pass over the loader (None where it does not end).

    Attributes:
        epoch: Completed epochs (of `IterBasedTrainLoop`: passes over the loader).
        iter: Completed iterations.
        batch: Completed batches of the current epoch or pass.
        stop_training: Set it to True to end training at the next boundary, as `EarlyStoppingHook` does.
    """

    def __init__(
        self,
        dataloader: Any,
        val_begin: int,
        val_interval: int,
        dynamic_intervals: Sequence[tuple[int, int]] | None,
        allow_inexact_resume: bool,
    ) -> None:
        if val_interval < 0:
            raise ValueError(f"val_interval={val_interval}: expected a number of epochs or iterations, or 0 for never")
        self.dataloader = dataloader
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.dynamic_intervals = sorted(dynamic_intervals or [])
        self.allow_inexact_resume = allow_inexact_resume
        self.epoch = 0
        self.iter = 0
        self.batch = 0
        self.num_iters_completed = 0
        self.epoch_length: Any = None
        self.val_due = False
        self.stop_training = False

    def run(self, runner: Runner) -> None:
        """Train from where the counters stand to the end."""
        raise NotImplementedError

    def current_val_interval(self, position: int) -> int:
        """Return the validation interval in force at `position` (epochs or iterations, as the loop counts)."""
        interval = self.val_interval
        for begin, value in self.dynamic_intervals:
            if position >= begin:
                interval = value
        return interval

    def is_val_due(self, position: int, last: int) -> bool:
        """Whether to validate after `position` completed epochs or iterations of `last`."""
        interval = self.current_val_interval(position)
        if interval == 0 or position < self.val_begin:
            return False
        return position % interval == 0 or position == last

    def run_iter(self, runner: Runner, batch_idx: int, data_batch: Any) -> None:
        """Run one training iteration."""
        runner.seed_model_stream(self.iter)
        runner.call_hook("before_train_iter", batch_idx=batch_idx, data_batch=data_batch)
        try:
            outputs = train_step(runner.model, data_batch, runner.optim_wrapper, forward=runner.forward)
        except Exception as error:
            note_batch(error, f"training iteration {self.iter} (epoch {self.epoch}, batch {batch_idx})", data_batch)
            dist.note_lost_rank(error, "train_step")
            raise
        self.num_iters_completed = self.iter + 1
        self.batch += 1
        runner.call_hook("after_train_iter", batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)
        self.iter += 1

    def check_ranks(self) -> None:
        """Make sure that all ranks have the same number of batches. Collective: every rank must call.

        Raises:
            ValueError: On every rank, when they have not: the last ones would wait for the others for ever.
        """
        if dist.get_world_size() == 1:
            return
        lengths = [length for (length,) in exchange_numbers([self.epoch_length or -1])]
        if len(set(lengths)) > 1:
            listed = ", ".join(f"rank {rank}: {length}" for rank, length in enumerate(lengths))
            raise ValueError(
                f"the train loader has a different number of batches on each rank ({listed}); give every rank the same "
                "dataset and batch size, and a sampler with round_up=True"
            )

    def validate_if_due(self, runner: Runner) -> None:
        """Run the validation that is due at this position, also one that a restart cut off."""
        if self.val_due:
            if runner.val_loop is not None:
                runner.val_loop.run(runner)
            self.val_due = False

    def skip_to(self, batch: int) -> None:
        """Let the next pass over the loader begin at `batch`.

        Raises:
            RuntimeError: When the loader can do it only by reading, and so not exactly.
        """
        if batch == 0:
            return
        reason = _why_no_exact_resume(self.dataloader)
        if reason is None:
            self.dataloader.set_start(batch)
        elif not self.allow_inexact_resume:
            raise RuntimeError(
                f"cannot resume exactly in the middle of an epoch (at batch {batch}): {reason}. Use "
                "lazyengine.dataset.DataLoader over a map-style dataset, resume from a checkpoint at the end of an "
                "epoch, or set allow_inexact_resume=True on the train loop to begin the epoch's data anew"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the position: completed epochs, iterations, batches of this epoch, and whether validation is due.

        An iteration is a global batch, the batches of all ranks together, so that the position stays right for another
        number of ranks as long as ranks x batch_size does.
        """
        state = {"epoch": self.epoch, "iter": self.num_iters_completed, "batch": self.batch, "val_due": self.val_due}
        return {**state, "global_batch_size": global_batch_size(self.dataloader)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a position back.

        Raises:
            RuntimeError: When a global batch now has another number of samples, so that the position means something
                else.
        """
        if not self.allow_inexact_resume:
            check_global_batch_size(self.dataloader, state.get("global_batch_size"))
        self.epoch, self.iter, self.batch = state["epoch"], state["iter"], state["batch"]
        self.num_iters_completed = self.iter
        self.val_due = state["val_due"]


class EpochBasedTrainLoop(BaseTrainLoop):
    """Train for a number of epochs.

    Args:
        dataloader: Any iterable of batches with a length.
        max_epochs: Number of epochs, at least 1.
        val_begin: First epoch (counted from 1) after which validation may happen.
        val_interval: Validate every so many epochs, and after the last one; 0 for never.
        dynamic_intervals: Pairs ``(epoch, val_interval)``: from that epoch on, the interval changes.
        allow_inexact_resume: Where a loader cannot skip (a stream without state), begin the epoch's data anew after a
            resume in mid-epoch instead of refusing.
    """

    def __init__(
        self,
        dataloader: Any,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        *,
        allow_inexact_resume: bool = False,
    ) -> None:
        super().__init__(dataloader, val_begin, val_interval, dynamic_intervals, allow_inexact_resume)
        if max_epochs < 1:
            raise ValueError(f"max_epochs={max_epochs}: expected at least 1")
        self.max_epochs = max_epochs
        self.epoch_length = _length(dataloader)
        self.max_iters = max_epochs * self.epoch_length
        self._epoch_ended = False

    def run(self, runner: Runner) -> None:
        """Train from where the counters stand to the last epoch."""
        self.iter = self.num_iters_completed  # one behind when a hook was interrupted in a notebook
        runner.call_hook("before_train")
        self.validate_if_due(runner)
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch(runner)
            self.validate_if_due(runner)
            runner.stop_if_asked()
        runner.call_hook("after_train")

    def run_epoch(self, runner: Runner) -> None:
        """Run what is left of the current epoch."""
        runner.seed_model_stream(self.epoch, "epoch")
        runner.call_hook("before_train_epoch")
        runner.model.train()
        if self.batch < self.epoch_length:  # not so after a restart that stopped between the last batch and the end
            self.skip_to(self.batch)
            for batch_idx, data_batch in enumerate(self.dataloader, self.batch):
                self.run_iter(runner, batch_idx, data_batch)
                if self.batch < self.epoch_length:
                    runner.stop_if_asked()
        if self.batch != self.epoch_length:
            raise RuntimeError(
                f"the train loader has a length of {self.epoch_length} batches, and gave {self.batch} in epoch "
                f"{self.epoch}; every rank would wait for the others. Mend its __len__, or use IterBasedTrainLoop"
            )
        # From here on the epoch counts as completed: what is saved now continues with the next one.
        self._epoch_ended = True
        self.val_due = runner.has("val_loop") and self.is_val_due(self.epoch + 1, self.max_epochs)
        runner.call_hook("after_train_epoch")
        self._epoch_ended = False
        self.epoch += 1
        self.batch = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position; an epoch that ended is the beginning of the next."""
        state = super().state_dict()
        if self._epoch_ended:
            state["epoch"], state["batch"] = state["epoch"] + 1, 0
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a position back.

        Raises:
            RuntimeError: When the epoch now has another length, so that the position means something else.
        """
        super().load_state_dict(state)
        if self.iter != self.epoch * self.epoch_length + self.batch and not self.allow_inexact_resume:
            raise RuntimeError(
                f"the checkpoint was saved after {self.iter} iterations, at batch {self.batch} of epoch {self.epoch}, "
                f"but an epoch now has {self.epoch_length} batches. The dataset, the batch size or the number of "
                "ranks changed: undo that, or set train_loop.allow_inexact_resume=True"
            )
        self.batch = min(self.batch, self.epoch_length)


class IterBasedTrainLoop(BaseTrainLoop):
    """Train for a number of iterations over a loader that may end (it is then begun again) or not.

    Args:
        dataloader: Any iterable of batches.
        max_iters: Number of iterations, at least 1.
        val_begin: First iteration (counted from 1) after which validation may happen.
        val_interval: Validate every so many iterations, and after the last one; 0 for never.
        dynamic_intervals: Pairs ``(iteration, val_interval)``: from that iteration on, the interval changes.
        allow_inexact_resume: See `EpochBasedTrainLoop`.
    """

    def __init__(
        self,
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        *,
        allow_inexact_resume: bool = False,
    ) -> None:
        super().__init__(dataloader, val_begin, val_interval, dynamic_intervals, allow_inexact_resume)
        if max_iters < 1:
            raise ValueError(f"max_iters={max_iters}: expected at least 1")
        self.max_epochs = None
        self.max_iters = max_iters
        try:
            self.epoch_length = len(dataloader)
        except TypeError:  # a stream
            self.epoch_length = None

    def run(self, runner: Runner) -> None:
        """Train from where the counters stand to the last iteration."""
        self.iter = self.num_iters_completed  # one behind when a hook was interrupted in a notebook
        runner.call_hook("before_train")
        self.validate_if_due(runner)
        runner.seed_model_stream(self.epoch, "epoch")
        runner.call_hook("before_train_epoch")
        batches = self._batches()
        runner.model.train()
        while self.iter < self.max_iters and not self.stop_training:
            data_batch = next(batches)
            self.val_due = runner.has("val_loop") and self.is_val_due(self.iter + 1, self.max_iters)
            self.run_iter(runner, self.iter, data_batch)
            self.validate_if_due(runner)
            runner.stop_if_asked()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and the length of a pass, which gives it its meaning."""
        return {**super().state_dict(), "epoch_length": self.epoch_length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a position back.

        Raises:
            RuntimeError: When a pass over the loader now has another length, so that the position means something else.
        """
        super().load_state_dict(state)
        saved = state.get("epoch_length")
        if None not in (saved, self.epoch_length) and saved != self.epoch_length and not self.allow_inexact_resume:
            raise RuntimeError(
                f"the checkpoint was saved at batch {self.batch} of a pass of {saved} batches, and a pass now has "
                f"{self.epoch_length}. The dataset or the batch size changed: undo that, or set "
                "train_loop.allow_inexact_resume=True"
            )

    def _batches(self) -> Iterator[Any]:
        """Yield batches without end; a finite loader begins a new pass."""
        while True:
            start = self.batch
            self.skip_to(start)
            empty = True
            for data_batch in self.dataloader:
                empty = False
                yield data_batch
            if empty and start == 0:
                raise RuntimeError("the train loader gave no batch; check the dataset's length and drop_last")
            self.epoch += 1
            self.batch = 0
            if hasattr(self.dataloader, "set_epoch"):
                self.dataloader.set_epoch(self.epoch)


class ValLoop:
    """Evaluate a model on a loader, or on several with names, each with its own metrics.

    One pass over all loaders is one evaluation: ``before_val_epoch`` and ``after_val_epoch`` are called once, the
    batches are counted through, and the metrics of a named loader are called ``<name>/<metric>``. So whatever follows
    a metric (the best checkpoint, early stopping, a plateau scheduler) sees all of them together. Hooks find the name
    of the loader at work in `loader_name`.

    Args:
        dataloader: Any iterable of batches with a length whose ``dataset`` has one; or several by name.
        evaluator: An `Evaluator`, a metric or a list of metrics; with several loaders, one of these for each name.

    Raises:
        ValueError: When loaders and evaluators do not have the same names.

    Attributes:
        loader_name: Name of the loader whose batches are evaluated now; empty where there is only one.
        evaluators: The evaluators by the names of the loaders.
    """

    mode = "val"
    step = staticmethod(val_step)

    def __init__(self, dataloader: Any | Mapping[str, Any], evaluator: Evaluator | Any | Mapping[str, Any]) -> None:
        self.dataloader = dataloader
        loaders = loaders_of(dataloader)
        given = evaluator if isinstance(evaluator, Mapping) else {"": evaluator}
        if given.keys() != loaders.keys() or not loaders:
            raise ValueError(
                f"{type(self).__name__}: the loaders are called {list(loaders)}, the evaluators {list(given)}; give a "
                "dict with one evaluator for each loader, or one loader and one evaluator without names"
            )
        self.evaluators = {name: e if isinstance(e, Evaluator) else Evaluator(e) for name, e in given.items()}
        self.loader_name = ""

    @torch.no_grad()
    def run(self, runner: Runner) -> dict[str, Any]:
        """Run over every loader once and return the metrics. Collective: every rank must call."""
        mode = self.mode
        runner.call_hook(f"before_{mode}")
        runner.call_hook(f"before_{mode}_epoch")
        was_training = runner.model.training
        runner.model.eval()
        share_buffers(runner.model)
        metrics: dict[str, Any] = {}
        done = 0
        for name, loader in loaders_of(self.dataloader).items():
            self.loader_name = name
            evaluator = self.evaluators[name]
            evaluator.reset()
            meta = getattr(getattr(loader, "dataset", None), "metainfo", None)
            if meta:
                evaluator.dataset_meta = meta
            with runner.eval_context():
                for data_batch in loader:
                    self.run_iter(runner, done, data_batch)
                    done += 1
            values = evaluator.evaluate(len(loader.dataset))
            prefix = f"{name}/" if name else ""
            metrics.update({prefix + key: value for key, value in values.items()})
        if runner.is_training:
            runner.train_loop.val_due = False  # what hooks save from here on has this validation behind it
        runner.call_hook(f"after_{mode}_epoch", metrics=metrics)
        runner.call_hook(f"after_{mode}")
        runner.model.train(was_training)
        return metrics

    def run_iter(self, runner: Runner, batch_idx: int, data_batch: Any) -> None:
        """Run one batch."""
        runner.seed_model_stream(batch_idx, self.mode)
        runner.call_hook(f"before_{self.mode}_iter", batch_idx=batch_idx, data_batch=data_batch)
        try:
            outputs = self.step(runner.model, data_batch)  # not by DDP, which would send buffers at every batch
            self.evaluators[self.loader_name].process(data_samples=outputs, data_batch=data_batch)
        except Exception as error:
            where = f" of {self.loader_name!r}" if self.loader_name else ""
            note_batch(error, f"{self.mode} batch {batch_idx}{where}", data_batch)
            raise
        runner.call_hook(f"after_{self.mode}_iter", batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)


class TestLoop(ValLoop):
    """Evaluate a model on the test loader; the same as `ValLoop` with ``test_step`` and the test hook points."""

    __test__ = False  # not a test, whatever pytest thinks of the name
    mode = "test"
    step = staticmethod(test_step)


def loaders_of(dataloader: Any) -> dict[str, Any]:
    """Return loaders by name; a single one is called ``""``."""
    return dict(dataloader) if isinstance(dataloader, Mapping) else {"": dataloader}


def seed_loaders(dataloader: Any, seed: int) -> None:
    """Give the loaders the seed of the run, unless they have their own; refuse those that ranks do not share out."""
    for loader in loaders_of(dataloader).values():
        check_shared_out(loader)
        if hasattr(loader, "set_seed") and getattr(loader, "seed", None) is None:
            loader.set_seed(seed)


def _length(dataloader: Any) -> int:
    """The number of batches of an epoch.

    Raises:
        TypeError: When the loader has no length.
        ValueError: When it is zero.
    """
    try:
        length = len(dataloader)
    except TypeError as error:
        raise TypeError(
            f"EpochBasedTrainLoop needs a loader with a length, and {type(dataloader).__name__} has none ({error}); "
            "use IterBasedTrainLoop for streams"
        ) from error
    if length == 0:
        raise ValueError("the train loader has no batch: the dataset is empty, or drop_last dropped its only batch")
    return length


def _why_no_exact_resume(dataloader: Any) -> str | None:
    """None when the loader can begin at any batch exactly; otherwise why it cannot."""
    if not hasattr(dataloader, "set_start"):
        return f"{type(dataloader).__name__} cannot begin in the middle"
    reason = getattr(dataloader, "exact_resume_reason", None)
    return reason() if reason is not None else None
