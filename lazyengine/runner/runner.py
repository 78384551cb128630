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
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .. import dist
from ..config import Lazy
from ..hooks import Hook
from ..logging import LogProcessor, MessageHub, MMLogger
from ..model import BaseModule, ModelSetup, unwrap
from ..optim import OptimWrapperDict, SchedulerRecipes, build_param_schedulers, scale_lr
from ..visualization import Visualizer
from .describe import describe, describe_optimizer
from .environment import (
    Determinism,
    ModelStream,
    choose_device,
    evaluation_context,
    report_nondeterminism,
    set_determinism,
    write_env,
)
from .loops import TestLoop, ValLoop
from .parts import AnyOptimWrapper, RunnerParts, TrainLoop
from .preemption import Preemption
from .sharing import global_batch_size
from .state import LoadFrom, RunState, find_named_checkpoint


class Runner(RunnerParts):
    """Trains, validates and tests a model.

    Every part may be given as an object or, from a config, as a recipe that is built when it is needed; that is why
    an evaluation never builds an optimizer. Parts that are not given are left out (an experiment without validation)
    or have a default (the default hooks, a visualizer that writes locally and to TensorBoard).

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
        work_dir: The run folder; None for ``work_dirs/<experiment_name>``.
        experiment_name: Name of the experiment in logs and the folder.
        seed: Seed of every random stream of the run.
        deterministic: ``"off"``, ``"warn"`` or ``"strict"``, see `set_determinism`.
        exact_resume: Whether the randomness inside the model is seeded at each iteration; False saves a few
            microseconds of each, and a resumed run is then another one (see also ``seed_batches`` of the loader).
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …; None takes a GPU where there is one.
        launcher: ``"none"``, ``"pytorch"`` (torchrun), ``"slurm"``, ``"mpi"``; None finds out from the environment.
        log_all_ranks: Whether each of several ranks writes a log file of its own, instead of rank 0 alone.
        auto_scale_lr: Samples in an optimizer step, of all ranks and accumulated batches together, that the learning
            rates are meant for; they are multiplied by the number of this run over it. None leaves them.
        dist_timeout_s: After so many seconds without an answer from another rank, a rank fails instead of waiting on.
    """

    def __init__(
        self,
        model: nn.Module | Lazy[nn.Module],
        *,
        train_loop: TrainLoop | Lazy[TrainLoop] | None = None,
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
        device: str | None = None,
        launcher: str | None = None,
        log_all_ranks: bool = False,
        auto_scale_lr: int | None = None,
        dist_timeout_s: float = 1800.0,
    ) -> None:
        parts = {
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
        super().__init__(seed, parts)
        self.model_setup = model_setup or ModelSetup()
        self.load_from = LoadFrom.of(load_from)
        self.resume_from = "auto" if resume is True else resume or None
        self.experiment_name = experiment_name
        self.work_dir = os.path.expanduser(work_dir) if work_dir else os.path.join("work_dirs", experiment_name)
        self.deterministic: Determinism = deterministic
        self.exact_resume = exact_resume
        self.launcher = launcher
        self.log_all_ranks = log_all_ranks
        self.auto_scale_lr = auto_scale_lr
        self.dist_timeout_s = dist_timeout_s
        self.cfg: Any = None
        self.forward: Any = None
        self.is_training = False
        self._device_name = device
        self._is_set_up = False
        self._has_weights = False
        self._is_prepared_for_training = False
        self._state = RunState(self)
        self._preemption = Preemption()

    @classmethod
    def from_cfg(cls, cfg: Any, **kwargs: Any) -> Runner:
        """Build the runner of a loaded config and let it save that config in its folder.

        Args:
            cfg: What `LazyConfig.load` returned; its ``runner`` is built.
            **kwargs: Arguments of the runner that the config leaves open.
        """
        from ..config import instantiate

        runner = instantiate(cfg.runner, **kwargs)
        runner.cfg = cfg
        return runner

    # ------------------------------------------------------------------ the three things to do
    @dist.named_rank()
    def train(self) -> nn.Module:
        """Train to the end and return the model. Collective: every rank must call.

        Raises:
            ValueError: When the experiment has no train loop or no optimizer.
            SystemExit: With code 143 after SIGTERM or SIGUSR1, when a checkpoint has been written.
        """
        for name in ("train_loop", "optim_wrapper"):
            if not self.has(name):
                raise ValueError(f"Runner.train() cannot train without {name}, and none was given")
        self.setup()
        self._save_config(self.work_dir)  # of the training, not of a later evaluation with other overrides
        loop = self.train_loop
        loop.check_ranks()
        resume_from = self._state.choose_checkpoint(self.resume_from)
        self.prepare_model(skip_weights=resume_from is not None, train=True)
        self._check_parameters()
        self._scale_lr()
        self.logger.info("parameter groups:\n%s", describe_optimizer(self))
        self.param_schedulers = build_param_schedulers(
            self._parts["param_schedulers"],
            self.optim_wrapper,
            max_epochs=loop.max_epochs,
            max_iters=loop.max_iters,
            epoch_length=loop.epoch_length,
        )
        if resume_from is not None:
            self._state.resume(resume_from)
        self.optim_wrapper.initialize_count_status(self.forward, loop.iter, loop.max_iters)
        self._start_visualizer(loop.iter if resume_from is not None else None)
        self.is_training = True
        with report_nondeterminism(self.deterministic, self.logger), self._preemption, self._running():
            self.call_hook("before_run")
            loop.run(self)
            self.call_hook("after_run")
        return self.model

    def val(self) -> dict[str, Any]:
        """Evaluate on the validation loader and return the metrics. Collective: every rank must call."""
        return self._evaluate("val_loop")

    def test(self) -> dict[str, Any]:
        """Evaluate on the test loader and return the metrics. Collective: every rank must call."""
        return self._evaluate("test_loop" if self.has("test_loop") else "val_loop")

    @dist.named_rank()
    def _evaluate(self, name: str) -> dict[str, Any]:
        if not self.has(name):
            raise ValueError(f"the runner has no {name}, so there is nothing to evaluate on; give it one")
        self.setup()
        self.prepare_model(skip_weights=False, train=False)
        with self._running():
            self.call_hook("before_run")
            metrics = getattr(self, name).run(self)
            self.call_hook("after_run")
        return metrics

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
            dist.set_position_source(lambda: f"epoch {self.epoch}, iteration {self.iter}")
        self.device = choose_device(self._device_name)
        set_determinism(self.deterministic)
        self.timestamp = self._make_log_dir()
        self.log_dir = os.path.join(self.work_dir, self.timestamp)
        name = os.path.abspath(self.log_dir)
        log_file = os.path.join(self.log_dir, f"{self.timestamp}.log")
        self.logger = MMLogger.get_instance(name, log_file=log_file, distributed=self.log_all_ranks)
        self.message_hub = MessageHub.get_instance(name)
        self.visualizer.set_save_dir(self.log_dir)
        if dist.is_main_process():
            write_env(os.path.join(self.log_dir, "env.json"), self.device)
        self._save_config(self.log_dir)
        self.model_stream = ModelStream(self.seed, self.device)
        self._is_set_up = True
        self.logger.info("run folder %s, device %s, seed %d", self.work_dir, self.device, self.seed)
        self.logger.info("\n%s", self.describe())

    def prepare_model(self, *, skip_weights: bool, train: bool) -> None:
        """Initialise or load the weights, move the model to its device, convert, freeze and wrap it; once.

        Args:
            skip_weights: Whether a checkpoint is about to be resumed, which holds all weights.
            train: Whether the model is going to be trained; evaluation neither freezes nor wraps.
        """
        model = self.model
        on_meta = any(parameter.is_meta for parameter in model.parameters())  # filled by ModelSetup.apply
        if not self._has_weights and not skip_weights and not on_meta:
            self._give_weights(model)
        if self.forward is None or (train and not self._is_prepared_for_training):
            self.forward = self.model_setup.apply(model, self.device, train=train)
            self._is_prepared_for_training = train
        if not self._has_weights and not skip_weights and on_meta and self.load_from is not None:
            self.loaded_meta = self.load_from.load_into(model, self.logger)
        self._has_weights = True

    def _give_weights(self, model: nn.Module) -> None:
        """Initialise, then load: a checkpoint may hold a part of the model only."""
        if isinstance(model, BaseModule) and not model.is_init:  # never what a foreign class calls init_weights
            model.init_weights()
        if self.load_from is not None:
            self.loaded_meta = self.load_from.load_into(model, self.logger)

    # ------------------------------------------------------------------ called by loops and hooks
    def call_hook(self, point: str, **kwargs: Any) -> None:
        """Call every hook of a point, in order; an exception keeps its type and says which hook raised it."""
        schedule = self.hook_schedule
        for method in schedule.points[point]:
            try:
                method(self, **kwargs)
            except Exception as error:
                schedule.add_note(error, method, point)
                raise

    def seed_model_stream(self, position: int, mode: str = "train") -> None:
        """Seed the randomness inside the model for iteration `position` of `mode`."""
        if self.exact_resume:
            self.model_stream.seed(position, mode)

    def eval_context(self) -> contextlib.AbstractContextManager[Any]:
        """The context of validation: training's precision, where training has one."""
        return evaluation_context(self.recipe_of("optim_wrapper"), self.model)

    def save_checkpoint(self, filename: str, *, out_dir: str | None = None, **options: Any) -> str:
        """Save everything that the run needs to continue; see `RunState.save`. Collective: every rank must call."""
        return self._state.save(filename, out_dir=out_dir, **options)

    def wait_for_checkpoints(self) -> None:
        """Wait until everything saved is on disk; an error of the writing thread is raised here at the latest."""
        self._state.wait()

    def set_checkpoint(self, checkpoint: str, *, strict: bool = False) -> None:
        """Take the weights to begin with from a checkpoint, instead of those that `load_from` named.

        Args:
            checkpoint: A path, a URL, ``"best"`` or ``"latest"`` of the run folder.
            strict: Whether a key that does not fit is an error.

        Raises:
            FileNotFoundError: When the run folder has no such checkpoint.
            ValueError: When there are several best ones.
        """
        path = find_named_checkpoint(self.work_dir, checkpoint)
        former = self.load_from or LoadFrom(path)
        self.load_from = dataclasses.replace(former, path=path, strict=strict or former.strict)

    def describe(self) -> str:
        """Return the hooks timeline and a summary of the model; builds neither datasets nor loops."""
        return describe(self)

    def register_generator(self, name: str, generator: torch.Generator) -> None:
        """Let a random generator of your own be saved and resumed under `name`."""
        self._state.generators[name] = generator

    def stop_if_asked(self) -> None:
        """Where the run can be saved, save and exit with code 143 when a signal asked for it. Collective."""
        if self.optim_wrapper.can_be_saved and self._preemption.is_agreed():
            self._state.stop(self._preemption.reason)

    # ------------------------------------------------------------------ inside
    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Whatever happens in a run, its log, curves and checkpoints are on disk afterwards."""
        try:
            yield
        except Exception:
            rank = f" on rank {dist.get_rank()}" if dist.is_distributed() else ""
            self.logger.exception("the run failed%s at epoch %d, iteration %d", rank, self.epoch, self.iter)
            raise
        finally:
            self.is_training = False
            with contextlib.ExitStack() as ending:  # the last first, and all of them, whichever fails
                ending.callback(self.wait_for_checkpoints)
                ending.callback(self.visualizer.close)
                for hook in reversed(self.hooks.values()):
                    ending.callback(hook.close)

    def _start_visualizer(self, resumed_step: int | None) -> None:
        """Let a resumed run go on with the curves of the start that it continues, where they are still there."""
        first = self.message_hub.get_info("first_start") if resumed_step is not None else None
        if first is None or first != os.path.basename(first) or not os.path.isdir(os.path.join(self.work_dir, first)):
            first = self.timestamp
        self.message_hub.update_info("first_start", first)
        self.visualizer.set_save_dir(self.log_dir, run_dir=os.path.join(self.work_dir, first))
        self.visualizer.start(resumed_step)

    def _make_log_dir(self) -> str:
        """Make the folder of this start, named after the time; a second start in one second gets a number."""
        names = [""]
        if dist.is_main_process():
            try:
                os.makedirs(self.work_dir, exist_ok=True)
                stamp = time.strftime("%Y%m%d_%H%M%S")
                for number in itertools.count(1):
                    names[0] = stamp if number == 1 else f"{stamp}_{number}"
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(os.path.join(self.work_dir, names[0]))
                        break
            except OSError as error:
                error.add_note(f"the run folder {self.work_dir} cannot be used; set work_dir to a writable folder")
                raise
        dist.broadcast_object_list(names)
        return names[0]

    def _scale_lr(self) -> None:
        """Fit the learning rates to the global batch, where that was asked for."""
        if self.auto_scale_lr is None:
            return
        size = global_batch_size(self.train_dataloader)
        if size is None:
            raise ValueError(
                f"auto_scale_lr={self.auto_scale_lr} needs to know the size of a batch, and the train loader "
                f"({type(self.train_dataloader).__name__}) has no batch_size; leave auto_scale_lr out"
            )
        scale_lr(self.optim_wrapper, self.auto_scale_lr, size)

    def _check_parameters(self) -> None:
        """Refuse an optimizer that was built over another model than this one."""
        own = {id(p) for p in self.model.parameters()} | {id(p) for p in unwrap(self.forward).parameters()}
        wrapper = self.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        parameters = [p for w in wrappers for group in w.param_groups for p in group["params"]]
        foreign = sum(id(p) not in own for p in parameters)
        if foreign:
            raise RuntimeError(
                f"{foreign} of the optimizer's parameters are not the model's: it was built over a second model. In a "
                "config, let the optimizer refer to the very node that the runner has (params=L(param_groups)(model="
                "model)); by hand, build the optimizer over the model object that you pass"
            )

    def _save_config(self, folder: str) -> None:
        """Write the resolved config, runnable and as data."""
        if self.cfg is not None and dist.is_main_process():
            from ..config import LazyConfig

            for name in ("config.py", "config.json"):
                LazyConfig.save(self.cfg, os.path.join(folder, name))
