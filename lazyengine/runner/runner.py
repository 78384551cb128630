"""The Runner: builds the parts of a run in the right order and hands them to the loops.

The order, which the README of this folder explains::

    construction   keep the recipes; build nothing
    setup          environment, seed, work folder, logger, message hub, visualizer, hooks, model
    train          train loop, (weights or checkpoint), convert / freeze / wrap, optimizer, schedulers, resume, run
    val, test      val or test loop, weights, run; no optimizer and no train loader is ever built
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from .. import _torch, dist, interpreter
from ..checkpoint import LoadFrom, find_checkpoint
from ..config import Lazy, is_node
from ..dataset import find_generators
from ..errors import UsageError, UsageRuntimeError, UsageTypeError, UsageValueError
from ..hooks import Hook, HookSchedule, Priority, default_hooks, get_priority
from ..logging import LogProcessor, MessageHub, MMLogger
from ..model import BaseModule, ModelSetup, evaluating, set_training
from ..optim import OptimWrapper, OptimWrapperDict, SchedulerRecipes, autocast_for, build_param_schedulers, scale_lr
from ..seeding import ModelStream, derive_seed, seed_everything
from ..text import short
from ..visualization import LocalVisBackend, TensorboardVisBackend, Visualizer
from . import preemption
from .checks import (
    check_loop,
    check_parameters,
    check_shapes,
    check_training,
    claim_parts,
    untrained,
    warn_of_untrained,
)
from .describe import describe, describe_optimizer, describe_training
from .environment import Determinism, choose_device, report_nondeterminism, set_determinism
from .folder import TIME, RunFolder, settle_work_dir
from .loops import BaseTrainLoop, TestLoop, ValLoop, length_of_pass, loaders_of, seed_loaders
from .preemption import Preemption, seconds_of
from .sharing import global_batch_size
from .state import SEED_SCHEME, RunState

AnyOptimWrapper = OptimWrapper | OptimWrapperDict


class Runner:
    """Trains, validates and tests a model.

    Every part may be given as an object or, from a config, as a recipe that is built when it is needed; that is why
    an evaluation never builds an optimizer. Parts that are not given are left out (an experiment without validation)
    or have a default (the default hooks, a visualizer that writes locally and to TensorBoard). A part that was asked
    for is an ordinary attribute from then on.

    Args:
        model: The network: a `BaseModel`, or any module whose forward returns a dict of losses.
        train_loop: `EpochBasedTrainLoop` or `IterBasedTrainLoop`.
        val_loop: `ValLoop`; also run within training, at the intervals of the train loop.
        test_loop: `TestLoop`; where it is missing, `test` uses the validation's.
        optim_wrapper: `OptimWrapper`, `AmpOptimWrapper` or `OptimWrapperDict`.
        param_schedulers: One scheduler, a list, or a dict of lists for several optimizers.
        hooks: Hooks by name (or a list); these and no others. None for `lazyengine.hooks.default_hooks()`.
        visualizer: Receives curves and images.
        log_processor: Makes log lines out of the message hub.
        model_setup: What is done to the model between loading and the optimizer: freezing, SyncBN, activation
            checkpointing, compilation, wrapping.
        load_from: Weights to begin with: a path, a URL, or a `LoadFrom` with `revise_keys`, `prefix`, `strict` (or a
            dict of its arguments, which can be written on the command line).
        resume: True or ``"auto"`` to continue from the newest valid checkpoint of `work_dir` (or begin anew where
            there is none), or the path of a checkpoint.
        work_dir: The run folder; None for ``work_dirs/<experiment_name>``. ``{time}`` in it becomes the time of the
            start, for a folder each.
        experiment_name: Name of the experiment in logs and the folder.
        seed: Seed of every random stream of the run.
        deterministic: ``"off"``, ``"warn"`` or ``"strict"``, see `set_determinism`.
        exact_resume: Whether the randomness inside the model is seeded at each iteration; False saves a few
            microseconds of each, and a resumed run is then another one (see also ``seed_batches`` of the loader).
        seed_scheme: How random streams are derived from the seed: 2, or 1 as version 0.1 did (which did not seed what
            hooks draw around epochs and validations). A resumed run keeps that of its checkpoint.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …; None takes a GPU where there is one.
        launcher: ``"none"``, ``"pytorch"`` (torchrun), ``"slurm"``, ``"mpi"``; None finds out from the environment.
        log_all_ranks: Whether each of several ranks writes a log file of its own, instead of rank 0 alone.
        auto_scale_lr: Samples in an optimizer step, of all ranks and accumulated batches together, that the learning
            rates are meant for; they are multiplied by the number of this run over it. None leaves them. A dict is
            mmengine's: ``enable``, and ``base_batch_size``, in which accumulated batches are not counted.
        dist_timeout_s: After so many seconds without an answer from another rank, a rank fails instead of waiting on.
        save: ``"all"``, or ``"trained"``: checkpoints leave out the parameters that are frozen and have the value with
            which training began. A resume and an evaluation have them from `load_from`, or else from the model's
            constructor, and compare their hashes. Buffers, and what was ever trained, are saved.
        stop_after: After so long, counted from the construction of the runner, training saves and exits with code 143
            as after SIGTERM: seconds, or a text such as ``"3h50m"``. None for no limit.
        record: Patterns of files, relative to the current folder, that are kept with the code of each start.

    Attributes:
        is_training: Whether training is at work, its own validations included; not in an evaluation that a hook calls.
        is_own_validation: Set by the train loop: whether the evaluation that begins next is the training's own.
        is_resuming_epoch: Whether ``before_train_epoch`` is called a second time, in the middle of an epoch.
        announced_iters: The length of training that the optimizer wrapper knows of.
        untrained: Names of the parameters that require gradients and are in no optimizer, and are meant or said to.
        interrupt_saves: Whether Ctrl-C in `train` saves and exits with code 130, as the command line has it; else it
            raises KeyboardInterrupt after the iteration, and another call of `train` goes on.
        loaded_meta: What the checkpoint of the weights says about itself.
    """

    param_schedulers: Any = None

    def __init__(
        self,
        model: nn.Module | Lazy[nn.Module],
        *,
        train_loop: BaseTrainLoop | Lazy[BaseTrainLoop] | None = None,
        val_loop: ValLoop | Lazy[ValLoop] | None = None,
        test_loop: TestLoop | Lazy[TestLoop] | None = None,
        optim_wrapper: AnyOptimWrapper | Lazy[AnyOptimWrapper] | None = None,
        param_schedulers: SchedulerRecipes = None,
        hooks: Mapping[str, Hook | Lazy[Hook]] | Sequence[Hook | Lazy[Hook]] | None = None,
        visualizer: Visualizer | Lazy[Visualizer] | None = None,
        log_processor: LogProcessor | Lazy[LogProcessor] | None = None,
        model_setup: ModelSetup | None = None,
        load_from: str | LoadFrom | dict[str, Any] | None = None,
        resume: bool | str = False,
        work_dir: str | None = None,
        experiment_name: str = "experiment",
        seed: int = 0,
        deterministic: Determinism = "off",
        exact_resume: bool = True,
        seed_scheme: int = SEED_SCHEME,
        device: str | None = None,
        launcher: str | None = None,
        log_all_ranks: bool = False,
        auto_scale_lr: int | dict[str, Any] | None = None,
        dist_timeout_s: float = 1800.0,
        record: Sequence[str] = (),
        save: Literal["all", "trained"] = "all",
        stop_after: str | float | None = None,
    ) -> None:
        if save not in ("all", "trained"):
            raise UsageValueError(f"save={save!r}: expected 'all' or 'trained'.")
        if seed_scheme not in range(1, SEED_SCHEME + 1):
            raise UsageValueError(f"seed_scheme={seed_scheme}: expected 1 to {SEED_SCHEME}.")
        self._parts: dict[str, Any] = {
            "model": model,
            "train_loop": train_loop,
            "val_loop": val_loop,
            "test_loop": test_loop,
            "optim_wrapper": optim_wrapper,
            "param_schedulers": param_schedulers,
            "hooks": hooks,
            "visualizer": visualizer,
            "log_processor": log_processor,
        }
        self.model_setup = model_setup or ModelSetup()
        self.load_from = self._first_load_from = LoadFrom.of(load_from)
        self.resume_from = "auto" if resume is True else resume or None
        if self.resume_from == "auto" and TIME in (work_dir or ""):
            raise UsageValueError(
                f"work_dir={work_dir!r} is a new folder for each start, which holds nothing to resume from; name the "
                "checkpoint, or the run folder itself."
            )
        self.experiment_name = experiment_name
        self.work_dir = os.path.expanduser(work_dir) if work_dir else os.path.join("work_dirs", experiment_name)
        self.folder = RunFolder(self.work_dir)
        self.seed = seed
        self.deterministic: Determinism = deterministic
        self.exact_resume = exact_resume
        self.seed_scheme = seed_scheme
        self.launcher = launcher
        self.log_all_ranks = log_all_ranks
        given = {*auto_scale_lr, "enable"} if isinstance(auto_scale_lr, dict) else set()
        if given and given != {"enable", "base_batch_size"}:
            raise UsageValueError(f"auto_scale_lr={auto_scale_lr}: expected a number, or enable and base_batch_size.")
        self.auto_scale_lr = auto_scale_lr
        self.dist_timeout_s = dist_timeout_s
        self.record = list(record)
        self.save: Literal["all", "trained"] = save
        self.cfg: Any = None
        self.forward: Any = None
        self.is_training = self.is_own_validation = self.is_resuming_epoch = False
        self.announced_iters: int | None = None
        self.untrained: set[str] = set()
        self.interrupt_saves = False
        self.loaded_meta: dict[str, Any] = {}
        self._device_name = device
        self._num_batches: dict[str, int] = {}
        self._is_in_folder_of_config = False
        self._is_set_up = self._is_running = self._is_evaluating = self._has_weights = False
        self._evaluates_file = False  # the weights are a checkpoint's, not those that hooks follow
        self._is_prepared_for_training = False
        self._is_ready_to_train = False
        self._cut_off: tuple[str, str, dict[str, Any]] | None = None  # the hook that failed: point, name, arguments
        self._state = RunState(self)
        self._preemption = Preemption()
        self._preemption.wants_end = lambda: self.train_loop.stop_training
        self.folder.on_request = self._preemption.ask
        if stop_after is not None:
            self._preemption.stop_at_s = preemption.now() + seconds_of(stop_after)

    @classmethod
    def from_cfg(cls, cfg: Any, **kwargs: Any) -> Runner:
        """Build the runner of a loaded config and let it save that config in its folder.

        Args:
            cfg: What `LazyConfig.load` returned; its ``runner`` is built. Where it lies in a run folder, that is the
                work_dir, unless another one was set after it was loaded.
            **kwargs: Arguments of the runner that the config leaves open.
        """
        from ..config import instantiate

        folder = settle_work_dir(cfg) if hasattr(cfg, "runner") and "work_dir" not in kwargs else None
        runner = instantiate(cfg.runner, **kwargs)
        runner.cfg = cfg
        runner._is_in_folder_of_config = folder is not None
        return runner

    # ------------------------------------------------------------------ the three things to do
    @dist.named_rank()
    def train(self) -> nn.Module:
        """Train to the end and return the model. Collective: every rank must call.

        Called again after an interruption, it goes on where training stands.

        Raises:
            ValueError: When the experiment has no train loop or no optimizer, or parts of it do not go together.
            SystemExit: With code 143 after SIGTERM, SIGUSR1, SIGHUP or the time of `stop_after`, when a checkpoint has
                been written; with code 130 after Ctrl-C where `interrupt_saves` is on.
            KeyboardInterrupt: After Ctrl-C elsewhere, at the end of an iteration.
        """
        for name in ("train_loop", "optim_wrapper"):
            if not self.has(name):
                raise UsageValueError(f"Runner.train() cannot train without {name}, and none was given.")
        with torch.enable_grad(), self._running(), self._state.holding_folder():  # within a validation, too
            self._prepare_training()
            self.is_training = True
            with report_nondeterminism(self.deterministic, self.logger), self._preemption:
                self.call_point("before_run", 0)
                self._call_left_hooks()
                interpreter.with_room(self.train_loop.run, self)
                self.call_point("after_run", self.num_iters_completed)
        return self.model

    def val(self, checkpoint: str | int | None = None) -> dict[str, Any]:
        """Evaluate on the validation loader and return the metrics; see `test`. Collective: every rank must call."""
        return self._evaluate("val_loop", checkpoint)

    def test(self, checkpoint: str | int | None = None) -> dict[str, Any]:
        """Evaluate on the test loader and return the metrics. Collective: every rank must call.

        Args:
            checkpoint: The weights, see `set_checkpoint`: after a training, for this evaluation alone. None for those
                that the model has.

        Raises:
            ValueError: When there is nothing to evaluate on.
            RuntimeError: When a hook names a checkpoint while the run is at work.
        """
        return self._evaluate("test_loop" if self.has("test_loop") else "val_loop", checkpoint)

    @dist.named_rank()
    def _evaluate(self, name: str, checkpoint: str | int | None) -> dict[str, Any]:
        if not self.has(name):
            raise UsageValueError(f"the runner has no {name}, so there is nothing to evaluate on; give it one.")
        if self._is_running and checkpoint is not None:
            raise UsageRuntimeError(f"checkpoint={checkpoint!r}: the run is at work with weights of its own.")
        if self._is_running:  # a hook asks
            return getattr(self, name).run(self)
        with self._running(), self._with_weights_of(checkpoint):
            self.prepare_model(skip_weights=False, train=False)
            with self.visualizer.evaluation(self._state.record_evaluation()):
                self.call_point("before_run", 0)
                metrics = interpreter.with_room(getattr(self, name).run, self)
                self.call_point("after_run", self.num_iters_completed)
        return metrics

    @contextlib.contextmanager
    def _with_weights_of(self, checkpoint: str | int | None) -> Iterator[None]:
        """Evaluate a checkpoint as it is: afterwards a model that had weights has them again."""
        if checkpoint is None:
            yield
            return
        named, meta = self.load_from, self.loaded_meta
        self.set_checkpoint(checkpoint)
        if not self._has_weights:
            yield
            return
        former = {key: value.clone() for key, value in self.model.state_dict().items()}
        self._evaluates_file = True
        try:
            self._load_weights()
            yield
        finally:
            self.model.load_state_dict(former)
            self.load_from, self.loaded_meta, self._evaluates_file = named, meta, False

    # ------------------------------------------------------------------ building
    def setup(self) -> None:
        """Set the environment up and build what every run needs. Done once; train, val and test call it.

        Collective: every rank must call.
        """
        if self._is_set_up:
            return
        if self.launcher is None:
            self.launcher = dist.infer_launcher()
        if self.launcher != "none":
            dist.init_dist(self.launcher, timeout_s=self.dist_timeout_s)
        mesh = getattr(self.model_setup.wrapper, "data_parallel_mesh", None) if dist.is_distributed() else None
        dist.share_data_over(mesh() if callable(mesh) else mesh)
        self.device = choose_device(self._device_name)
        set_determinism(self.deterministic)
        self.folder.begin(self.cfg, self.device)
        self.work_dir = self.folder.path
        name = os.path.abspath(self.folder.log_dir)
        self.logger = MMLogger.get_instance(name, log_file=self.folder.log_file, distributed=self.log_all_ranks)
        self.message_hub = MessageHub.get_instance(name)
        self.visualizer.set_save_dir(self.folder.log_dir)
        self.model_stream = ModelStream(self.seed, self.device, dist.get_data_rank())
        self._is_set_up = True
        self.logger.info("run folder %s, device %s, seed %d", self.work_dir, self.device, self.seed)
        if self._is_in_folder_of_config:
            self.logger.info(
                "the config lies in the run folder %s, which is used; --work-dir names another", self.work_dir
            )
        check_shapes(self.model)
        self.logger.to_file("\n%s", self.describe())
        for warning in self.hooks.warnings():
            self.logger.warning(warning)

    def prepare_model(self, *, skip_weights: bool, train: bool) -> None:
        """Initialise or load the weights, move the model to its device, convert, freeze and wrap it; once.

        Args:
            skip_weights: Whether a checkpoint is about to be resumed, which holds all weights.
            train: Whether the model is going to be trained; evaluation neither freezes nor wraps.
        """
        model = self.model
        on_meta = any(parameter.is_meta for parameter in model.parameters())  # filled by ModelSetup.apply
        needs_weights = not self._has_weights and not skip_weights
        if needs_weights and not on_meta:
            if isinstance(model, BaseModule) and not model.is_init:  # other libraries use the name for something else
                model.init_weights()
            self._load_weights()
        if self.forward is None or (train and not self._is_prepared_for_training):
            with interpreter.paused():  # several ranks, shards and compilation import torch's compiler
                self.forward = self.model_setup.apply(model, self.device, train=train)
            self._is_prepared_for_training = train
        if needs_weights and on_meta:
            self._load_weights()
        self._has_weights = True

    def _load_weights(self) -> None:
        source = self.load_from
        if source is not None and source is self._first_load_from:  # of the experiment, and not set for this start
            source = dataclasses.replace(source, path=self.folder.weights_at(source.path, self._state.folders()))
        if source is not None:
            self.loaded_meta = source.load_into(self.model, self.logger)

    def _prepare_training(self) -> None:
        """Build what training needs and restore what a checkpoint holds; once."""
        if self._is_ready_to_train:
            return
        loop = self.train_loop
        loop.check_ranks()
        resume_from = self._state.choose_checkpoint(self.resume_from)
        is_whole = resume_from is not None and self.save == "all" and self._state.is_whole(resume_from)
        self.prepare_model(skip_weights=is_whole, train=True)
        self._state.begin_weights()
        for hook in self.hooks:
            hook.add_param_groups(self)
        check_parameters(self)
        self.untrained = untrained(self)
        self._scale_lr()
        for wrapper in self.optim_wrapper.named().values():
            wrapper.set_as_built()  # before a schedule changes them
        self.logger.to_file("parameter groups:\n%s", describe_optimizer(self))
        if self.param_schedulers is None:
            self.param_schedulers = build_param_schedulers(
                self._parts["param_schedulers"],
                self.optim_wrapper,
                max_epochs=loop.max_epochs,
                max_iters=loop.max_iters,
                epoch_length=loop.epoch_length,
            )
        check_training(self)
        if resume_from is not None:
            resume_from = self._state.resume(resume_from)
        claim_parts(self, is_new=resume_from is None)
        self._state.record_start(resume_from)
        self.logger.info("training\n%s", describe_training(self, resume_from))
        self._start_visualizer(loop.position.iter if resume_from is not None else None)
        set_training(self.model, self.model_setup)
        self._state.resume_switches()
        self.announce_length()
        self._is_ready_to_train = True

    # ------------------------------------------------------------------ the parts, each built on first use
    def has(self, name: str) -> bool:
        """Whether a part was given; builds nothing."""
        return self._parts[name] is not None

    def is_built(self, name: str) -> bool:
        """Whether a part has been built."""
        return name in self.__dict__

    @cached_property
    def model(self) -> nn.Module:
        """The model, without any wrapper around it."""
        # Weights drawn in constructors depend on nothing built before. (Scheme 1 gave 2k and 2k + 1 the same ones.)
        seed_everything(self.seed % 2**63 if self.seed_scheme > 1 else derive_seed(self.seed))
        model = _torch.compiled_in_place(build_part(self._parts["model"]))
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise UsageTypeError(
                f"model: got a {type(model).__name__}, which hides what the model's forward accepts; give the model "
                "itself, and ModelSetup(wrapper=DDP(...)) for other options than the usual ones."
            )
        return model

    @cached_property
    def train_loop(self) -> BaseTrainLoop:
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
        _torch.spare_compiler()
        built = build_part(self._parts["optim_wrapper"])
        if isinstance(built, Optimizer):
            name = type(built).__name__
            raise UsageTypeError(f"optim_wrapper: got a bare {name}; wrap it, as in OptimWrapper(optimizer=...).")
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
    def hooks(self) -> HookSchedule:
        """The hooks in calling order, also by their names."""
        hooks = self._parts["hooks"]
        return HookSchedule(default_hooks() if hooks is None else build_part(hooks))

    @cached_property
    def device(self) -> torch.device:
        """Where the model computes; asking for it sets the run up, as asking for its logger or its folder does."""
        self.setup()
        return self.__dict__["device"]

    @cached_property
    def logger(self) -> MMLogger:
        """The logger of this start."""
        self.setup()
        return self.__dict__["logger"]

    @cached_property
    def message_hub(self) -> MessageHub:
        """The message hub of this start."""
        self.setup()
        return self.__dict__["message_hub"]

    def _build_loop(self, name: str) -> Any:
        loop = build_part(self._parts[name])
        if name == "train_loop" and loop is not None:
            check_loop(loop)
        if loop is not None and not hasattr(loop, "dataloader"):
            raise UsageTypeError(f"{name}: got {short(loop)}; expected a loop, as ValLoop(loader, metrics).")
        if loop is not None:
            seed_loaders(loop.dataloader, self.seed)
        return loop

    # ------------------------------------------------------------------ where the run stands (mmengine's names)
    @property
    def _own_loop(self) -> BaseTrainLoop | None:
        """The train loop, whose position is that of the weights; None where it is not built, or a file is evaluated."""
        return None if self._evaluates_file else self.__dict__.get("train_loop")

    @property
    def epoch(self) -> int:
        """Completed training epochs; in an evaluation, of the weights that were loaded."""
        loop = self._own_loop
        return int(self.loaded_meta.get("epoch") or 0) if loop is None else loop.position.shown_epoch

    @property
    def iter(self) -> int:
        """Completed training iterations, without the one whose hooks are running; see `num_iters_completed`."""
        loop = self._own_loop
        return self.num_iters_completed if loop is None else loop.position.shown_iter

    @property
    def num_iters_completed(self) -> int:
        """Completed training iterations; in an evaluation, of the weights that were loaded."""
        loop = self._own_loop
        return int(self.loaded_meta.get("iter") or 0) if loop is None else loop.position.iter

    @property
    def max_epochs(self) -> int | None:
        """Epochs to train; None in a loop that counts iterations, and in an evaluation."""
        loop = self.__dict__.get("train_loop")
        return None if loop is None else loop.max_epochs

    @property
    def max_iters(self) -> int | None:
        """Iterations to train; None in an evaluation."""
        loop = self.__dict__.get("train_loop")
        return None if loop is None else loop.max_iters

    @property
    def timestamp(self) -> str:
        """Name of this start's folder."""
        self.setup()
        return self.folder.timestamp

    @property
    def log_dir(self) -> str:
        """Path of this start's folder."""
        self.setup()
        return self.folder.log_dir

    @property
    def rank(self) -> int:
        """This process's place among all of the run."""
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        """Processes of the run."""
        return dist.get_world_size()

    @property
    def distributed(self) -> bool:
        """Whether the run has several processes."""
        return dist.is_distributed()

    @property
    def model_name(self) -> str:
        """Name of the model's class."""
        return type(self.model).__name__

    @property
    def val_interval(self) -> int:
        """Epochs or iterations between two validations within training."""
        return self.train_loop.val_interval

    @property
    def val_begin(self) -> int:
        """Epoch or iteration after which the first validation within training may be."""
        return self.train_loop.val_begin

    @property
    def val_evaluator(self) -> Any:
        """The evaluator of the validation loop, or several by name, or None."""
        return None if self.val_loop is None else self.val_loop.evaluator

    @property
    def test_evaluator(self) -> Any:
        """The evaluator of the test loop; without one, the validation's."""
        return self.val_evaluator if self.test_loop is None else self.test_loop.evaluator

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

    def num_batches(self, mode: str) -> int | None:
        """Return the number of batches of one pass over the loaders of `mode`; None where one is endless."""
        if mode not in self._num_batches:
            limit = getattr(getattr(self, f"{mode}_loop") or self.val_loop, "limit", None)
            loaders = loaders_of(getattr(self, f"{mode}_dataloader")).values()
            lengths = [length_of_pass(each, limit) for each in loaders]
            if None in lengths:
                return None
            self._num_batches[mode] = sum(length for length in lengths if length is not None)
        return self._num_batches[mode]

    # ------------------------------------------------------------------ called by loops and hooks
    def call_hook(self, point: str, *, behind: str = "", **kwargs: Any) -> None:
        """Call every hook of a point, in order; an exception keeps its type and says which hook raised it.

        Args:
            point: The point.
            behind: Name of a hook, to call those that come after it alone.
            **kwargs: What hooks get at this point.
        """
        hooks = self.hooks
        methods = hooks.points[point]
        if behind:
            names = list(methods)
            methods = {name: methods[name] for name in names[names.index(behind) + 1 :]}
        for name, method in methods.items():
            try:
                method(self, **kwargs)
            except BaseException as error:
                if self.is_training:
                    self._cut_off = point, name, kwargs
                error.add_note(f"raised in hook {type(hooks[name]).__name__}.{point} (hooks[{name!r}])")
                raise

    def _call_left_hooks(self) -> None:
        """Call the hooks that another one's exception has cut off from what is not repeated when training goes on."""
        (point, behind, kwargs), self._cut_off = self._cut_off or ("", "", {}), None
        if point not in ("after_train_iter", "after_train_epoch", "after_val_epoch", "after_val"):
            return
        self.logger.info("%s: going on behind hooks[%r], whose exception had ended training", point, behind)
        self.is_own_validation = "val" in point
        with self.evaluation() if self.is_own_validation else contextlib.nullcontext():
            self.call_hook(point, behind=behind, **kwargs)
            if point == "after_val_epoch":
                self.call_point("after_val", 0)

    def call_point(self, point: str, position: int, **kwargs: Any) -> None:
        """Seed the random streams for a point around epochs and evaluations, and call its hooks."""
        if self.seed_scheme > 1 or point == "before_train_epoch":
            self.seed_model_stream(position, point)
        if self.is_training and point in ("before_val", "after_train_epoch"):
            warn_of_untrained(self)  # what hooks or the notebook have changed
        self.call_hook(point, **kwargs)
        if point == "before_train_epoch":
            warn_of_untrained(self)

    def seed_model_stream(self, position: int, purpose: str = "train") -> None:
        """Seed the randomness of user code for a position; see `ModelStream`."""
        if self.exact_resume:
            self.model_stream.seed(position, purpose)

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[bool]:
        """Surround an evaluation: the model evaluates, with averaged weights where a hook has them.

        Yields whether another one is at work around it.

        Afterwards each submodule has the mode that it had. An evaluation in the middle of training that is not its own
        leaves the random streams as they were, too.
        """
        was_training, is_own, was_evaluating = self.is_training, self.is_own_validation, self._is_evaluating
        self._state.note_switches()
        self.is_training, self.is_own_validation, self._is_evaluating = was_training and is_own, False, True
        try:
            with contextlib.ExitStack() as stack:
                if was_training and not is_own:
                    stack.enter_context(self.model_stream.kept())
                stack.enter_context(evaluating(self.model))
                if self.is_built("optim_wrapper") and not self._evaluates_file:
                    stack.enter_context(self.optim_wrapper.evaluation_weights())
                for hook in () if self._evaluates_file else self.hooks:
                    stack.enter_context(hook.evaluation_context(self))
                yield was_evaluating
        finally:
            self.is_training, self._is_evaluating = was_training, was_evaluating

    def precision_of(self, loop: ValLoop | None) -> dict[str, Any] | None:
        """Return the precision in which a loop (or, without one, a hook) evaluates, None for float32.

        It is that of the loop, where it has one; else that of the optimizer wrapper, where one is built; else the one
        in which the checkpoint says that it was validated.

        Raises:
            RuntimeError: When several optimizer wrappers compute in different ones.
        """
        if loop is not None and loop.precision is not None:
            return None if loop.precision == "float32" else {"dtype": loop.precision, "amp_modules": None}
        wrapper = self.__dict__.get("optim_wrapper", self._parts["optim_wrapper"])
        if isinstance(wrapper, AnyOptimWrapper):  # no recipe is read: it says what training would compute in
            return wrapper.precision
        return self.loaded_meta.get("precision")

    def eval_context(self, loop: ValLoop | None = None) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which an evaluation computes; see `precision_of` (None: of the validation loop)."""
        return autocast_for(self.model, self.precision_of(loop or self.val_loop))

    def save_checkpoint(self, filename: str, *, out_dir: str | None = None, **options: Any) -> str:
        """Save everything that the run needs to continue; see `RunState.save`. Collective: every rank must call."""
        return self._state.save(filename, out_dir=out_dir, **options)

    def wait_for_checkpoints(self) -> None:
        """Wait until everything saved is on disk; an error of the writing thread is raised here at the latest."""
        self._state.wait()

    def set_checkpoint(self, checkpoint: str | int, *, strict: bool = False) -> None:
        """Take the weights to begin with from a checkpoint, instead of those that `load_from` named.

        Args:
            checkpoint: A path, a URL, or of this run ``"best"``, ``"latest"`` or a number of iterations.
            strict: Whether a key that does not fit is an error.

        Raises:
            FileNotFoundError: When the run folder has no such checkpoint.
            ValueError: When there are several best ones.
        """
        if isinstance(checkpoint, int) or checkpoint in ("best", "latest"):
            path, former = find_checkpoint(self._state.own_folders(), checkpoint), None  # own keys need no rules
        else:
            path, former = self.folder.moved(checkpoint, self._state.folders()), self.load_from
        base, former = self.load_from, former or LoadFrom(path)
        self.load_from = dataclasses.replace(former, path=path, strict=strict or former.strict, base=base)

    def load_checkpoint(self, filename: str, **options: Any) -> dict[str, Any]:
        """Load weights into the model now, instead of those that `load_from` named.

        Args:
            filename: A path or a URL.
            **options: ``revise_keys``, ``prefix``, ``strict`` and ``trusted`` of `LoadFrom`.

        Returns:
            What the checkpoint says about itself.
        """
        self.load_from = LoadFrom(filename, **options)
        self._load_weights()
        self._has_weights = True
        return self.loaded_meta

    def load_or_resume(self) -> None:
        """Load weights now, as training would: of the checkpoint that `resume` names, else of `load_from`; once.

        Optimizer, schedules and position are restored when training begins. Collective: every rank must call.
        """
        self.setup()
        named = self.load_from
        path = None if self._has_weights else self._state.choose_checkpoint(self.resume_from)
        if path is not None:
            self.set_checkpoint(path)
        self.prepare_model(skip_weights=False, train=False)
        self.load_from = named

    def register_hook(self, hook: Hook | Lazy[Hook], priority: int | str | Priority | None = None) -> None:
        """Add a hook, under the name of its class, to those that the runner was given; before training.

        Args:
            hook: The hook.
            priority: Its place in the calling order, instead of its own.

        Raises:
            RuntimeError: When training is at work: the hook would have missed a part of it.
        """
        if self._is_running:
            raise UsageRuntimeError("register_hook: training is at work, which a new hook would know in part only.")
        built = build_part(hook)
        if priority is not None:
            built.priority = get_priority(priority)
        self.hooks.register(built)

    def get_hooks_info(self) -> str:
        """Return which hooks run at each point, in calling order, and what each is."""
        return self.hooks.timeline()

    def describe(self, columns: int | None = None) -> str:
        """Return the hooks timeline and a summary of the model, in lines of at most so many columns (None: 120).

        Builds neither datasets nor loops.
        """
        return describe(self, columns)

    def register_generator(self, name: str, generator: Any) -> None:
        """Let a random generator of your own be saved and resumed under `name`.

        Args:
            name: Its name in checkpoints.
            generator: One of torch or numpy, or a ``random.Random``.

        Raises:
            UsageTypeError: It is something else, or a global one.
        """
        if name not in find_generators({name: generator}):
            raise UsageTypeError(
                f"register_generator: {name!r} is {type(generator).__name__}; accepted are generators of torch and "
                "numpy and random.Random, but not the global ones, which are seeded from the position."
            )
        self._state.generators[name] = generator

    def announce_length(self) -> None:
        """Tell the optimizer where training ends, which completes its last accumulation; again when that changes."""
        loop = self.train_loop
        self.announced_iters = loop.max_iters
        self.optim_wrapper.initialize_count_status(self.forward, loop.position.iter, loop.max_iters)

    def stop_if_asked(self) -> None:
        """Do what somebody asked for where the run can be saved: save, validate, save and exit, or interrupt.

        Collective: every rank must call.
        """
        preemption = self._preemption
        if not self.optim_wrapper.can_be_saved:
            return
        is_stopped = preemption.is_agreed()
        if preemption.asked:
            self._do_as_asked()
        if not is_stopped:
            return
        if preemption.is_interrupt and not self.interrupt_saves:
            raise KeyboardInterrupt("training stands between two iterations; train() goes on from there")
        self._state.stop(preemption.reason, 128 + preemption.number if preemption.is_interrupt else 143)

    def _do_as_asked(self) -> None:
        asked, self._preemption.asked = self._preemption.asked, 0
        if asked & preemption.END:
            self.train_loop.note_agreement(True)
        if asked & preemption.REQUESTS["save"]:
            path = self.save_checkpoint(f"asked_iter_{self.num_iters_completed}.pth")
            self.logger.info("asked to save: %s", path)
        if asked & preemption.REQUESTS["validate"]:
            if not self.has("val_loop"):
                self.logger.warning("asked to validate, and this run has no val_loop")
            elif not self.train_loop.position.val_due:  # else the validation is due, or at work
                self.logger.info("asked to validate")
                self.val()

    # ------------------------------------------------------------------ inside
    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """While it runs, a runner's logger and hub are the current ones; its files are closed afterwards."""
        self.setup()
        dist.set_position_source(lambda: f"epoch {self.epoch}, iteration {self.iter}")
        self._preemption.says = (
            "saving at the next step; Ctrl-C again stops now"
            if self.interrupt_saves
            else "stopping after this iteration; Ctrl-C again stops now"
        )
        self._is_running = True
        with contextlib.ExitStack() as ending:  # the last first, and all of them, whichever fails
            ending.callback(self.logger.close)
            ending.callback(self.message_hub.close)
            ending.enter_context(self.logger.as_current())
            ending.enter_context(self.logger.keeping_warnings())
            ending.enter_context(self.message_hub.as_current())
            ending.callback(self._rest)
            ending.callback(self.visualizer.close)
            for hook in self.hooks:
                ending.callback(hook.close)
            ending.callback(self.wait_for_checkpoints)
            try:
                yield
            except UsageError:
                raise
            except Exception:
                rank = f" on rank {dist.get_rank()}" if dist.is_distributed() else ""
                self.logger.error("the run failed%s at epoch %d, iteration %d", rank, self.epoch, self.iter)
                self.logger.to_file("%s", traceback.format_exc().rstrip(), level=logging.ERROR)  # Python prints it
                raise

    def _rest(self) -> None:
        self.is_training = self._is_running = False

    def _start_visualizer(self, resumed_step: int | None) -> None:
        """Let a resumed run go on with the curves of the start that it continues, where they are still there."""
        recorded = self.message_hub.get_info("first_start") if resumed_step is not None else None
        first = self.folder.first_start(recorded)
        self.message_hub.update_info("first_start", first)
        self.visualizer.set_save_dir(self.log_dir, run_dir=os.path.join(self.work_dir, first))
        self.visualizer.run_id = self.folder.run_id
        self.visualizer.start(resumed_step)
        if self.cfg is not None:
            self.visualizer.add_config(self.cfg)
        self.visualizer.add_graph(self.model)

    def _scale_lr(self) -> None:
        given = self.auto_scale_lr
        if isinstance(given, dict):
            given = given["base_batch_size"] * self._state.accumulation() if given.get("enable") else None
        if given is None:
            return
        size = global_batch_size(self.train_dataloader)
        if size is None:
            raise UsageValueError(
                f"auto_scale_lr={self.auto_scale_lr} needs to know the size of a batch, and the train loader "
                f"({type(self.train_dataloader).__name__}) has no batch_size; leave auto_scale_lr out."
            )
        scale_lr(self.optim_wrapper, given, size)


def build_part(part: Any) -> Any:
    """Build recipes, also inside lists and dicts; objects pass through."""
    if isinstance(part, Lazy):
        return part()
    if is_node(part):
        raise UsageTypeError(
            f"Runner: got {short(part)}, a node of a config, which only a whole config builds: instantiate(L(Runner)"
            "(...)) with all nodes that belong together; or give built objects."
        )
    if isinstance(part, dict):  # not any Mapping: an OptimWrapperDict is an object
        return {key: build_part(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [build_part(value) for value in part]
    return part
