"""The loops: what happens in which order while training, validating and testing.

Training, in pseudo-code::

    before_train
    for each epoch                                   (IterBasedTrainLoop: no epochs, the rest is the same)
        before_train_epoch
        tell loader, samplers and dataset which epoch it is
        for each batch
            seed the random streams from (seed, iteration, rank)
            before_train_iter
            outputs = train_step(model, batch, optim_wrapper)      forward, backward, optimizer step
            count the iteration
            after_train_iter                                       log, step schedulers, save
        after_train_epoch
        validate, if it is due
    after_train

Before every hook point the random streams are seeded from the position and the point, so that what user code draws
there is the same after a resume.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from torch.utils.data import DataLoader, IterableDataset

from .. import dist
from ..dataset import CombinedLoader, check_stream, seed_order, set_epoch, set_seed
from ..dist import exchange_numbers
from ..errors import UsageRuntimeError, UsageTypeError, UsageValueError
from ..evaluator import DumpResults, Evaluator
from ..model import test_step, train_step, val_step
from ..optim import NonFiniteError
from ..record import fingerprint
from .batch import note_batch
from .sharing import check_global_batch_size, check_sampler_is_distributed, global_batch_size, synchronize_buffers
from .triage import copied_buffers, note_nonfinite, warn_of_repetition

if TYPE_CHECKING:
    from .runner import Runner


@dataclasses.dataclass
class Position:
    """Completed counts, and what is due.

    mmengine's convention, which hooks rely on, is that `iter` and `epoch` do not count the iteration or epoch whose
    ``after_...`` hooks are running; `shown_iter` and `shown_epoch` are these.

    Attributes:
        epoch: Completed epochs (of `IterBasedTrainLoop`: passes over the loader).
        batch: Completed batches of the current epoch.
        iter: Completed iterations, of all epochs.
        samples: Samples that all ranks together have trained on, counted in whole batches; 0 where a loader does not
            say how many a batch has.
        val_due: Whether a validation is due before training goes on.
        shown_epoch: Completed epochs, without the one whose hooks are running.
        shown_iter: Completed iterations, without the one whose hooks are running.
    """

    epoch: int = 0
    batch: int = 0
    iter: int = 0
    samples: int = 0
    val_due: bool = False
    shown_epoch: int = dataclasses.field(default=0, init=False)
    shown_iter: int = dataclasses.field(default=0, init=False)

    def advance(self, num_samples: int = 0) -> None:
        """Count an iteration; until `settle`, its hooks are running."""
        self.iter += 1
        self.batch += 1
        self.samples += num_samples

    def end_epoch(self) -> None:
        """Count an epoch: what is saved from here on goes on with the next one; until `settle`, its hooks run."""
        self.epoch += 1
        self.batch = 0

    def settle(self) -> None:
        """Note that the hooks of the iteration or epoch have run, or that an exception has ended them."""
        self.shown_iter, self.shown_epoch = self.iter, self.epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the counts in plain types."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts; those that an earlier version did not save stay."""
        for name in self.state_dict():
            setattr(self, name, state.get(name, getattr(self, name)))
        self.settle()


class TrainLoopOptions(TypedDict, total=False):
    """Options that every train loop has.

    Attributes:
        dynamic_intervals: Pairs ``(begin, val_interval)``: from that epoch or iteration on, the interval changes.
        allow_inexact_resume: Where the epoch, the batch size or the accumulation is another one on a resume, or a
            loader cannot skip (a stream without state), go on at the same fraction of training instead of refusing; in
            a loop that counts iterations, with another accumulation, the optimizer steps stay.
        limit: Batches in an epoch, or in a pass over the loader, at most; None for all that the loader has.
        overfit: Train on the first so many batches of epoch 0 over and over, through epochs of the usual length.
        sanity_val: Batches of every validation loader to run before the first epoch, which nothing records, so that a
            mistake in the validation is found at once. ``val_begin=0`` is a whole, recorded validation there.
    """

    dynamic_intervals: Sequence[tuple[int, int]] | None
    allow_inexact_resume: bool
    limit: int | None
    overfit: int | None
    sanity_val: int


class BaseTrainLoop:
    """What training loops share: the position, the validation schedule, and one iteration.

    A loop of one's own derives from it, sets what it counts to, and writes `run`; LOOPS.md in this folder has the
    protocol and an example.

    Args:
        dataloader: Any iterable of batches; several by name; None for a loop that makes its batches.
        val_begin: First epoch or iteration (counted from 1) after which validation may happen; 0 for before the first.
        val_interval: Validate every so many epochs or iterations, and after the last one; 0 for never.
        dynamic_intervals: This and the following are those of `TrainLoopOptions`.
        allow_inexact_resume: See there.
        limit: See there.
        overfit: See there.
        sanity_val: See there.

    Attributes:
        max_epochs: Epochs to train; None without epochs. This, and the next two, a subclass sets.
        max_iters: Iterations to train.
        epoch_length: Batches of one pass over the loader; None where it does not end.
        position: Where training stands.
        stop_training: Set it to True, and leave it, to end training at the next boundary, as `EarlyStoppingHook` does.
            Of several ranks one is enough: all end together at the end of the epoch or of the validation or, in a loop
            that counts iterations, some optimizer steps later, when they have asked one another. A hook that every
            rank has calls `agree_to_stop` behind it, to end at this very iteration.
    """

    max_epochs: Any
    max_iters: Any
    epoch_length: Any
    _kept: list[Any] | None = None  # the batches of `overfit`
    _is_agreed = False  # whether all ranks know of `stop_training`
    _failed: list[str] | None = None  # which optimizers have stepped in an iteration that is going to be repeated

    def __init__(
        self,
        dataloader: Any = None,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: Sequence[tuple[int, int]] | None = None,
        allow_inexact_resume: bool = False,
        limit: int | None = None,
        overfit: int | None = None,
        sanity_val: int = 0,
    ) -> None:
        if val_interval < 0:
            raise UsageValueError(
                f"val_interval={val_interval}: expected a number of epochs or iterations, or 0 for never."
            )
        _check_numbers(1, limit=limit, overfit=overfit)
        _check_numbers(0, sanity_val=sanity_val)
        self.dataloader = CombinedLoader(dataloader) if isinstance(dataloader, Mapping) else dataloader
        self.limit = limit
        self.overfit = overfit
        self.sanity_val = sanity_val
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.dynamic_intervals = sorted(dynamic_intervals or [])
        self.allow_inexact_resume = allow_inexact_resume
        self.position = Position()
        self.stop_training = False
        self._samples_per_batch = global_batch_size(self.dataloader) or 0

    def run(self, runner: Runner) -> None:
        """Train from where the position stands to the end."""
        raise NotImplementedError

    # ------------------------------------------------------------------ mmengine's counters
    @property
    def epoch(self) -> int:
        """Completed epochs or passes, without the one whose hooks are running."""
        return self.position.shown_epoch

    @property
    def iter(self) -> int:
        """Completed iterations, without the one whose hooks are running."""
        return self.position.shown_iter

    # ------------------------------------------------------------------ when to validate
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

    def validates(self) -> bool:
        """Whether this training validates at all."""
        intervals = [self.val_interval, *(interval for _, interval in self.dynamic_intervals)]
        return any(intervals) and self.val_begin <= (self.max_epochs or self.max_iters)

    def validate_if_due(self, runner: Runner) -> None:
        """Run the validation that is due at this position, also one that a restart cut off."""
        if self.position.val_due:
            if runner.val_loop is not None:
                runner.is_own_validation = True
                with _triage(runner):
                    runner.val_loop.run(runner)
            self.position.val_due = False
            self.agree_to_stop()

    def agree_to_stop(self) -> None:
        """Let what one rank's hook says of `stop_training` hold for all. Collective: every rank must call."""
        if dist.get_world_size() > 1:
            self.note_agreement(any(says for (says,) in exchange_numbers([int(self.stop_training)])))

    def note_agreement(self, stops: bool) -> None:
        """Note what all ranks have agreed on."""
        self.stop_training = self._is_agreed = stops

    @property
    def is_stopped(self) -> bool:
        """Whether training ends between these two iterations: `stop_training`, of several ranks when all know."""
        return self.stop_training and (self._is_agreed or dist.get_world_size() == 1)

    # ------------------------------------------------------------------ one iteration, one pass
    def run_iter(self, runner: Runner, batch_idx: int, data_batch: Any) -> None:
        """Run one training iteration."""
        position, optim_wrapper = self.position, runner.optim_wrapper
        if self.max_iters != runner.announced_iters:
            runner.announce_length()
        runner.seed_model_stream(position.iter)
        runner.call_hook("before_train_iter", batch_idx=batch_idx, data_batch=data_batch)
        optim_wrapper.begin_iteration()
        before = None if self._failed is None else copied_buffers(runner.model)
        try:
            outputs = train_step(runner.model, data_batch, optim_wrapper, forward=runner.forward)
        except BaseException as error:
            stepped = [name or "the optimizer" for name, each in optim_wrapper.named().items() if each.stepped]
            self._failed = None if optim_wrapper.abandon_iteration() and not stepped else stepped
            if not isinstance(error, Exception):
                raise
            where = f"training iteration {position.iter} (epoch {position.epoch}, batch {batch_idx})"
            note_batch(error, where, data_batch)
            if isinstance(error, NonFiniteError):
                note_nonfinite(error, runner, data_batch)
            dist.note_lost_rank(error, "train_step")
            raise
        if before is not None:
            warn_of_repetition(runner, before, self._failed or [])
            self._failed = None
        position.advance(self._samples_per_batch)
        if position.iter == self.max_iters:
            _flush(runner)
        runner.call_hook("after_train_iter", batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)
        position.settle()

    def batches_of_pass(self, runner: Runner) -> Iterator[Any]:
        """Begin the pass of this epoch and return its batches, from the one where the position stands.

        With `overfit` they are copies of the first batches of epoch 0, read once for the call of `run`.
        """
        begin, limit = self.position.batch, self.limit
        if self.overfit is None:
            if 0 < begin == self.epoch_length and why_not_exact(self.dataloader) is not None:
                return iter(())  # saved behind the last batch: nothing is left that would have to be skipped
            self.begin_pass(runner)
            return itertools.islice(
                _batches_of(runner, self.dataloader), None if limit is None else max(limit - begin, 0)
            )
        if self._kept is None:
            set_epoch(self.dataloader, 0)
            self._seed_pass(runner, 0)
            self._kept = list(itertools.islice(self.dataloader, self.overfit))
        kept = self._kept
        end = self.epoch_length or limit
        places = itertools.count(begin) if end is None else range(begin, end)
        return (copy.deepcopy(kept[place % len(kept)]) for place in places if kept)

    def begin_pass(self, runner: Runner) -> None:
        """Let the next iteration over the loader be the pass of this epoch, from the batch where the position stands.

        Raises:
            RuntimeError: When the loader can begin in the middle only by reading, and so not exactly.
        """
        epoch, batch = self.position.epoch, self.position.batch
        set_epoch(self.dataloader, epoch)
        if batch > 0:
            try:
                _start_at(self.dataloader, batch)
            except UsageRuntimeError as error:
                if not self.allow_inexact_resume:
                    raise UsageRuntimeError(
                        f"cannot resume exactly in the middle of an epoch (at batch {batch}): {error}. Use "
                        "lazyengine.dataset.DataLoader over a map-style dataset, or a stream with shards, resume from "
                        "a checkpoint at the end of an epoch, or set allow_inexact_resume=True on the loop to begin "
                        "the epoch's data anew."
                    ) from None
        self._seed_pass(runner, epoch)

    def _seed_pass(self, runner: Runner, epoch: int) -> None:
        """Seed what a loader that is not ours draws the order of an epoch from."""
        if runner.seed_scheme > 1:
            runner.seed_model_stream(epoch, "before_train_epoch")
            _seed_order(runner, self.dataloader, epoch)

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
            raise UsageValueError(
                f"the train loader has a different number of batches on each rank ({listed}); give every rank the same "
                "dataset and batch size, and a sampler with round_up=True."
            )

    def enter_epoch(self, runner: Runner) -> None:
        """Call ``before_train_epoch``; in the middle of an epoch again, which no state of a hook counts."""
        hooks = runner.hooks
        runner.is_resuming_epoch = self.position.batch > 0
        states = hooks.state_dict() if runner.is_resuming_epoch else {}
        runner.call_point("before_train_epoch", self.position.epoch)
        if runner.is_resuming_epoch:
            hooks.load_state_dict(states)
        runner.is_resuming_epoch = False

    def begin(self, runner: Runner) -> None:
        """Call ``before_train``, and validate as far as that is asked for or a restart cut it off; `run` does it first.

        Without epochs (`max_epochs` is None) all of training is one for hooks: it begins here, and `finish` ends it.
        """
        position, self._kept, self._is_agreed = self.position, None, False
        position.settle()
        seed_loaders(self.dataloader, runner.seed)
        self._samples_per_batch = global_batch_size(self.dataloader) or 0
        runner.call_point("before_train", 0)
        if position.iter == 0 and runner.has("val_loop"):
            if self.sanity_val and runner.val_loop is not None:
                runner.val_loop.try_batches(runner, self.sanity_val)
            position.val_due |= self.val_begin == 0 and self.is_val_due(0, self.max_epochs or self.max_iters)
        self.validate_if_due(runner)
        if self.max_epochs is None:
            self.enter_epoch(runner)

    def finish(self, runner: Runner) -> None:
        """Step with the gradients that are left, and call ``after_train``; the last thing that `run` does.

        In ``after_train``, ``runner.optim_wrapper.stepped`` says whether there was such a step, as training that is
        stopped within an accumulation has it; averages and schedules follow it there.
        """
        if self.max_epochs is None:
            runner.call_point("after_train_epoch", self.position.epoch)
        runner.optim_wrapper.begin_iteration()
        _flush(runner)
        runner.call_point("after_train", self.position.iter)

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what gives it its meaning: the batches of an epoch, the samples of a global batch.

        An iteration is a global batch, the batches of all ranks together, so that the position stays right for another
        number of ranks as long as ranks x batch_size does.
        """
        state = {**self.position.state_dict(), "epoch_length": self.epoch_length}
        return {**state, "global_batch_size": global_batch_size(self.dataloader)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position.

        Raises:
            RuntimeError: When an epoch or a global batch is now another one, so that the position means something
                else, and `allow_inexact_resume` is off.
        """
        self.position.load_state_dict(state)
        saved = state.get("epoch_length")
        if saved is None and self.position.epoch and self.max_epochs is not None:  # version 0.1 left it out
            saved = (self.position.iter - self.position.batch) / self.position.epoch
        length = self.epoch_length
        if not self.allow_inexact_resume:
            check_global_batch_size(self.dataloader, state.get("global_batch_size"))
            if (length and self.position.batch > length) if saved is None else (length and saved != length):
                raise UsageRuntimeError(
                    f"the checkpoint was saved after {self.position.iter} iterations, at batch {self.position.batch} "
                    f"of epoch {self.position.epoch}, whose length was {saved or 'not saved'}, but an epoch now has "
                    f"{length} batches. The dataset, the batch size or the number of ranks changed: undo that, or set "
                    "train_loop.allow_inexact_resume=True to go on at the same fraction of training."
                )
        elif saved and length and saved != length:
            self.position.batch = min(round(self.position.batch / saved * length), length)

    def translate(self, saved: Mapping[str, Any], accumulative_counts: int) -> str | None:
        """Move a restored position to a boundary between optimizer steps that now have other numbers of batches.

        Args:
            saved: The state that was restored.
            accumulative_counts: Batches in an optimizer step now.

        Returns:
            What the user should know, or None.
        """
        excess = min(self.position.iter % accumulative_counts, self.position.batch)
        self.position.iter -= excess
        self.position.batch -= excess
        return None


def _flush(runner: Runner) -> None:
    """Step with the gradients that are left."""
    with _triage(runner):
        runner.optim_wrapper.flush()


@contextlib.contextmanager
def _triage(runner: Runner) -> Iterator[None]:
    """Add to an error of an update that is found behind its iteration what is known of it."""
    try:
        yield
    except NonFiniteError as error:
        note_nonfinite(error, runner)
        raise


class EpochBasedTrainLoop(BaseTrainLoop):
    """Train for a number of epochs.

    Args:
        dataloader: Any iterable of batches with a length; a dict of them is a `CombinedLoader`, all in step.
        max_epochs: Number of epochs, at least 1.
        val_begin: First epoch (counted from 1) after which validation may happen; 0 for one before the first epoch.
        val_interval: Validate every so many epochs, and after the last one; 0 for never.
        **options: See `TrainLoopOptions`.
    """

    def __init__(
        self,
        dataloader: Any,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        **options: Unpack[TrainLoopOptions],
    ) -> None:
        super().__init__(dataloader, val_begin, val_interval, **options)
        if max_epochs < 1:
            raise UsageValueError(f"max_epochs={max_epochs}: expected at least 1.")
        self.epoch_length = _epoch_length(self.dataloader, self.limit)
        self.max_epochs = max_epochs

    @property
    def max_epochs(self) -> int:
        """Epochs to train; somebody may change them at any time, and the iterations with them."""
        return self._max_epochs

    @max_epochs.setter
    def max_epochs(self, number: int) -> None:
        self._max_epochs, position = number, self.position
        self.max_iters = position.iter - position.batch + (number - position.epoch) * self.epoch_length

    def run(self, runner: Runner) -> None:
        """Train from where the position stands to the last epoch."""
        if self.position.batch == 0:  # between two calls of train() somebody may have changed the data
            self.epoch_length = _epoch_length(self.dataloader, self.limit)
        self.max_epochs = self._max_epochs  # and the iterations
        self.begin(runner)
        while self.position.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch(runner)
            self.validate_if_due(runner)
            runner.stop_if_asked()
        self.finish(runner)

    def run_epoch(self, runner: Runner) -> None:
        """Run what is left of the current epoch."""
        position = self.position
        self.enter_epoch(runner)
        # A restart may have stopped between the last batch and the end, which a loader with a state has yet to reach.
        if position.batch < self.epoch_length or goes_on_by_state(self.dataloader):
            for batch_idx, data_batch in enumerate(self.batches_of_pass(runner), position.batch):
                self.run_iter(runner, batch_idx, data_batch)
                if position.batch < self.epoch_length:
                    runner.stop_if_asked()
        else:
            set_epoch(self.dataloader, position.epoch)  # who passes over it once more passes over this epoch's
        if position.batch != self.epoch_length:
            raise RuntimeError(
                f"an epoch has {self.epoch_length} batches, and the train loader gave {position.batch} in epoch "
                f"{position.epoch}; every rank would wait for the others. Mend the loader's __len__ (of one that has "
                "none, lower train_loop.limit), or use IterBasedTrainLoop"
            )
        position.end_epoch()
        position.val_due = runner.has("val_loop") and self.is_val_due(position.epoch, self.max_epochs)
        runner.call_point("after_train_epoch", position.epoch)
        position.settle()
        self.agree_to_stop()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position; with another length of an epoch, at the same fraction of it."""
        super().load_state_dict(state)
        self.position.iter = self.position.epoch * self.epoch_length + self.position.batch


class IterBasedTrainLoop(BaseTrainLoop):
    """Train for a number of iterations over a loader that may end (it is then begun again) or not.

    Args:
        dataloader: Any iterable of batches.
        max_iters: Number of iterations, at least 1.
        val_begin: First iteration (counted from 1) after which validation may happen; 0 for one before it.
        val_interval: Validate every so many iterations, and after the last one; 0 for never.
        **options: See `TrainLoopOptions`.
    """

    max_epochs = None

    def __init__(
        self,
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        **options: Unpack[TrainLoopOptions],
    ) -> None:
        super().__init__(dataloader, val_begin, val_interval, **options)
        if max_iters < 1:
            raise UsageValueError(f"max_iters={max_iters}: expected at least 1.")
        self.max_iters = max_iters
        self.epoch_length = length_of_pass(self.dataloader, self.limit)

    def run(self, runner: Runner) -> None:
        """Train from where the position stands to the last iteration."""
        position = self.position
        length = self.epoch_length if self.dataloader is None else length_of_pass(self.dataloader, self.limit)
        if length != self.epoch_length and position.batch in (0, self.epoch_length):  # other data since the last call
            self.epoch_length = length
            if position.batch:
                position.end_epoch()
        self.begin(runner)
        batches = self._batches(runner)
        while position.iter < self.max_iters and not self.is_stopped:
            data_batch = next(batches)
            position.val_due = runner.has("val_loop") and self.is_val_due(position.iter + 1, self.max_iters)
            self.run_iter(runner, position.iter, data_batch)
            self.validate_if_due(runner)
            runner.stop_if_asked()
        self.finish(runner)

    def state_dict(self) -> dict[str, Any]:
        """Return the position and the number of iterations to train."""
        return {**super().state_dict(), "max_iters": self.max_iters}

    def translate(self, saved: Mapping[str, Any], accumulative_counts: int) -> str | None:
        """Keep the number of optimizer steps; say which `max_iters` would keep the number of samples."""
        former = saved.get("accumulative_counts", accumulative_counts)
        self.position.iter = saved["iter"] // former * accumulative_counts
        size, saved_size = global_batch_size(self.dataloader), saved.get("global_batch_size")
        if size is None or saved_size is None or "max_iters" not in saved:
            return None
        left = (saved["max_iters"] - saved["iter"]) * saved_size
        if abs((self.max_iters - self.position.iter) * size - left) <= 0.01 * left:
            return None
        return (
            f"{left} samples were left to train on, and max_iters={self.max_iters} now means "
            f"{(self.max_iters - self.position.iter) * size}; "
            f"max_iters={self.position.iter + round(left / size)} keeps their number"
        )

    def _batches(self, runner: Runner) -> Iterator[Any]:
        """Yield batches without end; a finite loader begins a new pass."""
        position = self.position
        while True:
            begin = position.batch
            empty = True
            for data_batch in self.batches_of_pass(runner):
                empty = False
                yield data_batch
            if empty and begin == 0:
                what = "check the dataset's length and drop_last"
                if position.epoch:
                    what = f"a {type(self.dataloader).__name__} ends for good: give an iterable that begins anew"
                raise RuntimeError(f"the train loader gave no batch in pass {position.epoch}; {what}")
            position.end_epoch()
            position.settle()


class ValLoop:
    """Evaluate a model on a loader, or on several with names, each with its own metrics.

    One pass over all loaders is one evaluation: ``before_val_epoch`` and ``after_val_epoch`` are called once, the
    batches are counted through, and the metrics of a named loader are called ``<name>/<metric>``. So whatever follows
    a metric (the best checkpoint, early stopping, a plateau scheduler) sees all of them together. Hooks find the name
    of the loader at work in `loader_name`.

    A hook may call `run` (or ``runner.val()``, ``runner.test()``) at any time in a training: such an evaluation is
    nobody's validation, and training, its random streams included, goes on as if it had not been.

    Args:
        dataloader: Any iterable of batches; or several by name.
        evaluator: An `Evaluator`, a metric or a list of metrics; with several loaders, one of these for each name.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` to evaluate in; None evaluates as training computes:
            as the built optimizer wrapper does or, in a run that only evaluates, as the checkpoint says that it was
            validated; else in float32.
        limit: Batches of each loader to evaluate, at most; None for all.

    Raises:
        ValueError: When loaders and evaluators do not have the same names, when two metrics write the same file, or for
            another precision.

    Attributes:
        loader_name: Name of the loader whose batches are evaluated now; empty where there is only one.
        evaluators: The evaluators by the names of the loaders.
        evaluator: The only one, or those by name, as they were given.
    """

    mode = "val"
    step = staticmethod(val_step)

    def __init__(
        self,
        dataloader: Any | Mapping[str, Any],
        evaluator: Evaluator | Any | Mapping[str, Any],
        *,
        precision: str | None = None,
        limit: int | None = None,
    ) -> None:
        _check_numbers(1, limit=limit)
        if precision not in (None, "float32", "bfloat16", "float16"):
            raise UsageValueError(f"precision={precision!r}: expected 'float32', 'bfloat16', 'float16' or None.")
        self.dataloader = dataloader
        self.precision = precision
        self.limit = limit
        self._told = set[str]()  # the loaders of which it was said that they leave samples out
        loaders = loaders_of(dataloader)
        given = evaluator if isinstance(evaluator, Mapping) else {"": evaluator}
        if given.keys() != loaders.keys() or not loaders:
            raise UsageValueError(
                f"{type(self).__name__}: the loaders are called {list(loaders)}, the evaluators {list(given)}; give a "
                "dict with one evaluator for each loader, or one loader and one evaluator without names."
            )
        self.evaluators = {name: e if isinstance(e, Evaluator) else Evaluator(e) for name, e in given.items()}
        self.evaluator = self.evaluators if isinstance(evaluator, Mapping) else self.evaluators[""]
        Evaluator.check_files(metric for each in self.evaluators.values() for metric in each.metrics)
        for self.loader_name, loader in loaders.items():  # hooks may ask for it before the first evaluation
            self._put_meta(loader)
        self.loader_name = ""

    @torch.no_grad()
    def run(self, runner: Runner) -> dict[str, Any]:
        """Run over every loader once and return the metrics. Collective: every rank must call."""
        mode = self.mode
        with runner.evaluation() as is_nested, self._own_results(is_nested):
            runner.call_point(f"before_{mode}", 0)
            runner.call_point(f"before_{mode}_epoch", 0)
            synchronize_buffers(runner.model)
            runner._state.check_buffers()
            metrics: dict[str, Any] = {}
            done = 0
            for name, loader in loaders_of(self.dataloader).items():
                self.loader_name = name
                done = self._run_loader(runner, loader, done)
                values = self.evaluators[name].evaluate(_num_samples(loader))
                named = {f"{name}/{key}" if name else key: value for key, value in values.items()}
                if taken := sorted(named.keys() & metrics.keys()):
                    raise UsageValueError(f"{taken} of the loader {name!r} are another's too: rename it, or a prefix.")
                metrics |= named
            if runner.is_training:
                runner.train_loop.position.val_due = False  # what hooks save from here on has this validation behind it
            runner.call_point(f"after_{mode}_epoch", 0, metrics=metrics)
            runner.call_point(f"after_{mode}", 0)
        return metrics

    @torch.no_grad()
    def try_batches(self, runner: Runner, number: int) -> None:
        """Run the first batches of every loader and compute the metrics, which are thrown away; no hook is called.

        Of metrics that write files, nothing is computed.

        The random streams, the modes of the model and what is recorded stay as they were. Collective: every rank must
        call.
        """
        with runner.evaluation():
            for name, loader in loaders_of(self.dataloader).items():
                self.loader_name = name
                evaluator = self._begin_loader(loader)
                with runner.eval_context(self):
                    for index, data_batch in enumerate(itertools.islice(loader, limited(number, self.limit))):
                        self._evaluate_batch(runner, index, data_batch)
                writing_none = copy.copy(evaluator)
                writing_none.metrics = [metric for metric in evaluator.metrics if not metric.files]
                writing_none.evaluate(_num_samples(loader))
                evaluator.reset()
        runner.logger.info("sanity_val: %d batches of each validation loader ran", number)

    @contextlib.contextmanager
    def _own_results(self, is_nested: bool) -> Iterator[None]:
        """Let an evaluation within another one compute with copies of its metrics, which may be at work there."""
        kept, name = self.evaluators, self.loader_name
        if is_nested:
            results: dict[int, Any] = {id(m.results): [] for each in kept.values() for m in each.metrics}
            self.evaluators = copy.deepcopy(kept, results)  # without the results, which may be many
        try:
            yield
        finally:
            self.evaluators, self.loader_name = kept, name if is_nested else self.loader_name

    def _begin_loader(self, loader: Any) -> Evaluator:
        evaluator = self.evaluators[self.loader_name]
        evaluator.reset()
        self._put_meta(loader)
        for metric in evaluator.metrics:
            if isinstance(metric, DumpResults) and metric.data is None:
                metric.data = fingerprint(getattr(loader, "dataset", loader))
        set_epoch(loader, 0, samplers_only=True)
        return evaluator

    def _put_meta(self, loader: Any) -> None:
        if meta := getattr(getattr(loader, "dataset", None), "metainfo", None):
            self.evaluators[self.loader_name].dataset_meta = meta

    def _run_loader(self, runner: Runner, loader: Any, done: int) -> int:
        """Run over one loader whose first batch is the `done`-th of this evaluation; return the number after it."""
        if meta := self._begin_loader(loader).dataset_meta:
            runner.visualizer.dataset_meta = meta
        _seed_order(runner, loader, 0)
        num_common = limited(_common_length(loader), self.limit) if runner.is_training else 0
        begun = done
        with runner.eval_context(self):
            for index, data_batch in enumerate(itertools.islice(_batches_of(runner, loader), self.limit)):
                self.run_iter(runner, done, data_batch)
                done += 1
                if index + 1 < num_common:  # a boundary that every rank passes
                    runner.stop_if_asked()
        is_map = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        if is_map and done - begun < limited(len(loader), self.limit):  # the iterator of workers that stay is one
            raise UsageRuntimeError(
                f"the {self.mode} loader gave {done - begun} of {len(loader)} batches, so the metrics would be of a "
                "part: a hook began a pass over the same torch DataLoader within this one, and its workers stay. Use "
                "lazyengine.dataset.DataLoader, or persistent_workers=False."
            )
        size = length_of(loader.sampler) if is_map and loader.drop_last and self.limit is None else None
        if size and loader.batch_size and size % loader.batch_size and self.loader_name not in self._told:
            self._told.add(self.loader_name)
            text = "the %s loader%s leaves %d of %d samples out of the metrics: drop_last=True"
            where = f" {self.loader_name!r}" if self.loader_name else ""
            runner.logger.warning(text, self.mode, where, size % loader.batch_size, size)
        return done

    def run_iter(self, runner: Runner, batch_idx: int, data_batch: Any) -> None:
        """Run one batch."""
        runner.seed_model_stream(batch_idx, self.mode)
        runner.call_hook(f"before_{self.mode}_iter", batch_idx=batch_idx, data_batch=data_batch)
        outputs = self._evaluate_batch(runner, batch_idx, data_batch)
        runner.call_hook(f"after_{self.mode}_iter", batch_idx=batch_idx, data_batch=data_batch, outputs=outputs)

    def _evaluate_batch(self, runner: Runner, batch_idx: int, data_batch: Any) -> Any:
        try:
            outputs = self.step(runner.model, data_batch)  # not by DDP, which would send buffers at every batch
            self.evaluators[self.loader_name].process(data_samples=outputs, data_batch=data_batch)
        except Exception as error:
            where = f" of {self.loader_name!r}" if self.loader_name else ""
            note_batch(error, f"{self.mode} batch {batch_idx}{where}", data_batch)
            raise
        return outputs


class TestLoop(ValLoop):
    """Evaluate a model on the test loader; the same as `ValLoop` with ``test_step`` and the test hook points."""

    __test__ = False  # not a test, whatever pytest thinks of the name
    mode = "test"
    step = staticmethod(test_step)


def loaders_of(dataloader: Any) -> dict[str, Any]:
    """Return loaders by name; a single one is called ``""``."""
    return dict(dataloader) if isinstance(dataloader, Mapping) else {"": dataloader}


def _batches_of(runner: Runner, loader: Any) -> Iterator[Any]:
    """Begin an iteration over a loader, each batch of which is followed by `seed_model_stream`."""
    iterate = getattr(loader, "iterate_for_steps", None) if runner.exact_resume else None
    return iter(loader) if iterate is None else iterate()


def _seed_order(runner: Runner, loader: Any, epoch: int) -> None:
    if runner.exact_resume and runner.seed_scheme > 1:
        seed_order(loader, runner.seed, epoch, runner._state.generators.values())


def seed_loaders(dataloader: Any, seed: int) -> None:
    """Give the loaders the seed of the run, unless they have their own; refuse those that ranks do not share out."""
    for loader in loaders_of(dataloader).values():
        for inner in getattr(loader, "loaders", {"": loader}).values():
            check_sampler_is_distributed(inner)
        check_stream(loader)
        set_seed(loader, seed)


def limited(length: int, limit: int | None) -> int:
    """Return a number of batches, at most `limit`, where one is set."""
    return length if limit is None else min(length, limit)


def _check_numbers(least: int, **options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < least:
            raise UsageValueError(f"{name}={value}: expected a number of batches, at least {least}.")


def _epoch_length(dataloader: Any, limit: int | None) -> int:
    """The number of batches of an epoch.

    Raises:
        TypeError: When the loader has no length, and there is no limit.
        ValueError: When it is zero.
    """
    try:
        length = len(dataloader)
    except TypeError as error:
        if limit is not None:
            return limit
        raise UsageTypeError(
            f"EpochBasedTrainLoop needs a loader with a length, and {type(dataloader).__name__} has none ({error}); "
            "set train_loop.limit to the batches of an epoch, or use IterBasedTrainLoop."
        ) from error
    if length == 0:
        raise UsageValueError(
            "the train loader has no batch: the dataset is empty, or drop_last dropped its only batch."
        )
    return limited(length, limit)


def length_of(sized: Any) -> int | None:
    """Return the length of a loader or a dataset; None for a stream, which has none."""
    try:
        return len(sized)
    except TypeError:
        return None


def length_of_pass(loader: Any, limit: int | None) -> int | None:
    """Return the number of batches of one pass, at most `limit`; None for a stream without a limit."""
    length = length_of(loader)
    return limit if length is None else limited(length, limit)


def _num_samples(loader: Any) -> int | None:
    """The number of samples of a loader's dataset; None for a stream, or a loader that is no more than its batches."""
    return length_of(getattr(loader, "dataset", None))


def _common_length(loader: Any) -> int:
    """The number of batches that every rank has, 0 where one does not know. Collective: every rank must call."""
    length = length_of(loader) or 0
    return length if dist.get_world_size() == 1 else min(number for (number,) in exchange_numbers([length]))


def why_not_exact(dataloader: Any) -> str | None:
    """Return why a loader cannot go on exactly in the middle of an epoch, or None when it can."""
    if not hasattr(dataloader, "set_start") and not hasattr(dataloader, "load_state_dict"):
        return f"{type(dataloader).__name__} cannot begin in the middle"
    reason = getattr(dataloader, "why_no_exact_resume", None)
    return reason() if reason is not None else None


def goes_on_by_state(dataloader: Any) -> bool:
    """Return whether a loader that cannot begin at a batch goes on from its own state, as torchdata's does."""
    return hasattr(dataloader, "load_state_dict") and not hasattr(dataloader, "set_start")


def _start_at(dataloader: Any, batch: int) -> None:
    """Let the next pass over a loader begin at a batch; one without `set_start` has gone on from its state already."""
    if (reason := why_not_exact(dataloader)) is not None:
        raise UsageRuntimeError(reason)
    if hasattr(dataloader, "set_start"):
        dataloader.set_start(batch)
