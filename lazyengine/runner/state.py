"""Everything that a run needs to continue as if it had never stopped: collected, saved, found and restored."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from .. import __version__, dist
from ..checkpoint import (
    CheckpointError,
    CheckpointWriter,
    find_latest_checkpoint,
    find_valid_checkpoint,
    get_state_dict,
    load_checkpoint_to_model,
    load_state_dict,
    mark_latest_checkpoint,
    read_checkpoint,
    remove_checkpoint,
    remove_shards,
    save_shards,
    split_shards,
    verify_shards,
)
from ..hooks import CheckpointHook
from ..optim import param_schedulers_state_dict, resume_param_schedulers

if TYPE_CHECKING:
    from .runner import Runner

PREEMPTED = "preempted.pth"
"""The checkpoint of a run that a signal stopped; gone as soon as the resumed run has saved a regular one."""
_NEEDED = ("state_dict", "optimizer", "train_loop", "param_schedulers")


@dataclasses.dataclass
class LoadFrom:
    """Weights to begin with.

    Attributes:
        path: A file or a URL.
        revise_keys: Pairs ``(regular expression, replacement)`` applied to every key of the file, in order.
        prefix: Take only the keys below this prefix, and remove it.
        strict: Whether a missing, unexpected or mismatched key is an error; otherwise it is logged.
        trusted: Whether the file may run code while it is read (a pickle from somebody you trust).
    """

    path: str
    revise_keys: Sequence[tuple[str, str]] = ((r"^module\.", ""),)
    prefix: str | None = None
    strict: bool = False
    trusted: bool = False

    @classmethod
    def of(cls, given: str | LoadFrom | dict[str, Any] | None) -> LoadFrom | None:
        """Return what a runner is given as `load_from`: a path alone, this, a dict of its arguments, or nothing.

        Raises:
            ValueError: When a dict has no ``path``, or a key that is none of the attributes.
        """
        if isinstance(given, str):
            return cls(given)
        if not isinstance(given, dict):
            return given
        known = [field.name for field in dataclasses.fields(cls)]
        if "path" not in given or not given.keys() <= set(known):
            raise ValueError(f"load_from={given!r}: expected a path, or a dict with 'path' and some of {known[1:]}")
        return cls(**given)

    def load_into(self, model: nn.Module, logger: Any) -> dict[str, Any]:
        """Load the weights into `model` and log what did not fit.

        Returns:
            What the checkpoint says about itself, such as the ``epoch`` and ``iter`` of the weights; may be empty.

        Raises:
            CheckpointError: When the file is damaged or is no checkpoint.
            RuntimeError: With `strict`, when a key does not fit.
        """
        logger.info("loading weights from %s", self.path)
        checkpoint = read_checkpoint(self.path, trusted=self.trusted, skip_objects=True)  # weights alone are used
        load_checkpoint_to_model(model, checkpoint, self.strict, logger, self.revise_keys, self.prefix, self.path)
        meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
        return meta if isinstance(meta, dict) else {}


class RunState:
    """Saves and restores a runner.

    Args:
        runner: The runner, whose parts may not be built yet.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._writer: CheckpointWriter | None = None
        self._failure: OSError | None = None
        self.generators: dict[str, torch.Generator] = {}

    # ------------------------------------------------------------------ saving
    def collect(self, *, save_optimizer: bool = True, save_param_scheduler: bool = True) -> dict[str, Any]:
        """Return the whole state of the run, what FSDP2 split as it is. Collective: every rank must call."""
        runner = self._runner
        runner.message_hub.average_over_ranks()
        loop = runner.train_loop.state_dict()
        checkpoint: dict[str, Any] = {
            "meta": {
                "epoch": loop["epoch"],
                "iter": loop["iter"],
                "experiment_name": runner.experiment_name,
                "seed": runner.seed,
                "world_size": dist.get_world_size(),
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
                "lazyengine_version": __version__,
                "torch_version": torch.__version__,
                "dataset_meta": runner.message_hub.runtime_info.get("dataset_meta"),
                "cfg": self._config_text(),
            },
            "state_dict": get_state_dict(runner.model),
            "train_loop": loop,
            "message_hub": runner.message_hub.state_dict(),
            "hooks": {name: state for name, hook in runner.hooks.items() if (state := hook.state_dict())},
            "ranks": self._collect_ranks(),
        }
        if save_optimizer:
            checkpoint["optimizer"] = runner.optim_wrapper.state_dict()
        if save_param_scheduler:
            checkpoint["param_schedulers"] = param_schedulers_state_dict(runner.param_schedulers)
        return checkpoint

    def _collect_ranks(self) -> list[dict[str, Any]]:
        """Return what differs between ranks, by rank: generators of the user and positions in streams."""
        own: dict[str, Any] = {}
        if self.generators:
            own["generators"] = {name: generator.get_state() for name, generator in self.generators.items()}
        dataset: Any = getattr(self._runner.train_dataloader, "dataset", None)
        if hasattr(dataset, "state_dict"):
            own["dataset"] = dataset.state_dict()
        return dist.all_gather_object(own) if own else []

    def save(
        self,
        filename: str,
        *,
        out_dir: str | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        is_latest: bool = True,
        async_save: bool = False,
        then: Callable[[], None] | None = None,
    ) -> str:
        """Save the state of the run. Collective: every rank must call.

        The main process writes; what FSDP2 split, every rank does, and before training goes on.

        A file that cannot be written (a full disk) is logged as an error, and training goes on with the checkpoints
        that there are; the second one in a row is raised, and so is that of the last save, by `wait`.

        Args:
            filename: Name of the file, without a folder.
            out_dir: Its folder; None for the run folder.
            save_optimizer: Whether to save the optimizer. A checkpoint without it cannot be resumed.
            save_param_scheduler: The same for the schedulers.
            is_latest: Whether `last_checkpoint` points to it afterwards.
            async_save: Whether a thread writes while training goes on.
            then: Called when the file and the pointer are in place.

        Returns:
            The path of the file.

        Raises:
            OSError: When this file and the one before could not be written.
            CheckpointError: When the state holds a value that no checkpoint can hold.
        """
        runner = self._runner
        if self._writer is not None:
            self._tolerate_once(self._writer.wait)  # so that what is collected now is what the last save left
        folder = out_dir or runner.work_dir
        path = os.path.join(folder, filename)
        checkpoint = self.collect(save_optimizer=save_optimizer, save_param_scheduler=save_param_scheduler)
        runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        runner.visualizer.flush()
        checkpoint, tensors = split_shards(checkpoint)
        if tensors:
            self._tolerate_once(lambda: checkpoint.update(shards=save_shards(tensors, path)))
            if "shards" not in checkpoint:
                return path
            if not dist.is_main_process():
                self._failure = None
        if dist.is_main_process():

            def finish() -> None:
                remove_shards(path, keep=checkpoint["shards"]["folder"] if tensors else None)
                if is_latest:
                    mark_latest_checkpoint(path)
                    if filename != PREEMPTED:
                        remove_checkpoint(os.path.join(folder, PREEMPTED))
                if then is not None:
                    then()
                self._failure = None

            if self._writer is None or self._writer.async_save != async_save:
                self._writer = CheckpointWriter(async_save=async_save)
            self._tolerate_once(functools.partial(self._writer.save, checkpoint, path, then=finish))
        return path

    def wait(self) -> None:
        """Wait until everything saved is on disk.

        Raises:
            BaseException: What the writer raised, or what kept the last save from being written.
        """
        if self._writer is not None:
            self._writer.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _tolerate_once(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if self._failure is not None:
                self._failure = None
                error.add_note("the checkpoint before it could not be written either, so training was stopped")
                raise
            self._failure = error
            self._runner.logger.error("no checkpoint was saved, training goes on: %s", error)

    def stop(self, reason: str) -> NoReturn:
        """Save and leave, as a signal asked for. Collective: every rank must call.

        Raises:
            SystemExit: With code 143, when the checkpoint is on disk.
        """
        path = self.save(PREEMPTED, out_dir=self._folders()[-1])
        self.wait()
        self._runner.logger.warning("%s: saved %s; exiting with code 143", reason, path)
        raise SystemExit(143)

    def _folders(self) -> list[str]:
        """The run folder, and behind it the folders in which hooks save."""
        hooks = self._runner.hooks.values()
        saving = [h.out_dir for h in hooks if isinstance(h, CheckpointHook) and h.out_dir is not None]
        return list(dict.fromkeys([self._runner.work_dir, *saving]))

    def _config_text(self) -> str | None:
        """The resolved config as Python text: data for a reader, never executed when a checkpoint is loaded."""
        if self._runner.cfg is None:
            return None
        from ..config import to_python

        return to_python(self._runner.cfg)

    # ------------------------------------------------------------------ resuming
    def choose_checkpoint(self, resume_from: str | None) -> str | None:
        """Return the checkpoint to resume, or None to begin anew. Collective: every rank must call.

        Args:
            resume_from: None, ``"auto"`` for the newest valid checkpoint of the run folder, or a path, which is taken
                or refused but never replaced by another.

        Raises:
            CheckpointError: When the named file is damaged, or when there are checkpoints and all are damaged.
        """
        if resume_from is None:
            if dist.is_main_process():
                self._tell_of_earlier_checkpoints()
            return None
        chosen: str | None = None
        error: Exception | None = None
        if dist.is_main_process():
            try:
                chosen = self._find_newest() if resume_from == "auto" else resume_from
                if chosen is not None and resume_from != "auto":
                    verify_shards(chosen)  # here once: ranks read them in parts, and check only the file itself
            except (CheckpointError, OSError) as e:
                error = e
        shared = [chosen, None if error is None else str(error)]
        dist.broadcast_object_list(shared)
        if shared[1] is not None:
            raise error or CheckpointError(shared[1])
        return shared[0]

    def _tell_of_earlier_checkpoints(self) -> None:
        """Warn of a beginning in a folder in which another run has saved."""
        for folder in self._folders():
            if names := _checkpoint_names(folder):
                shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
                self._runner.logger.warning(
                    "%s holds checkpoints of an earlier run (%s), and this one begins anew: files of the same names "
                    "are replaced, and until it has saved, --resume goes on with the earlier run. Use a new work_dir, "
                    "or --resume",
                    folder,
                    shown,
                )

    def _find_newest(self) -> str | None:
        runner = self._runner
        rejected: list[str] = []

        def reject(path: str, reason: str) -> None:
            rejected.append(f"{path}: {reason}")
            runner.logger.warning("not resuming from %s: %s", path, reason)

        folders = self._folders()
        found = [find_valid_checkpoint(folder, reject, _why_not_resumable) for folder in folders]
        newest = max((path for path in found if path is not None), key=os.path.getmtime, default=None)
        where = " and ".join(folders)
        if newest is None and rejected:
            raise CheckpointError(
                f"no checkpoint in {where} can be resumed:\n  " + "\n  ".join(rejected) + "\nRemove them to "
                "begin anew, or name another checkpoint with --resume PATH"
            )
        if newest is None:
            runner.logger.info("no checkpoint in %s yet: beginning anew", where)
        return newest

    def resume(self, path: str) -> None:
        """Restore the whole state of the run from a checkpoint. Collective: every rank must call.

        Raises:
            CheckpointError: When the file is damaged, or was saved without what a resume needs.
            RuntimeError: When the model or the position does not fit.
        """
        runner = self._runner
        checkpoint = read_checkpoint(path, keep_shards=True)
        if lack := _what_is_missing(checkpoint):
            raise CheckpointError(f"{path} cannot be resumed: {lack}")
        runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if "ema_state_dict" in checkpoint:  # an EMAHook would have taken it
            runner.logger.warning(
                "the checkpoint holds averaged weights, and there is no EMAHook any more: training goes on from the "
                "weights themselves, the average ends here"
            )
            checkpoint["state_dict"] = checkpoint["ema_state_dict"]
        load_state_dict(runner.model, checkpoint["state_dict"], strict=True, logger=runner.logger)
        runner.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        runner.message_hub.load_state_dict(checkpoint["message_hub"])
        self._resume_hooks(checkpoint.get("hooks", {}))
        self._resume_rank(checkpoint.get("ranks", []))
        loop = runner.train_loop
        loop.load_state_dict(checkpoint["train_loop"])
        resume_param_schedulers(
            runner.param_schedulers,
            checkpoint["param_schedulers"],
            num_epochs=loop.epoch,
            num_iters=loop.iter,
            epoch_length=loop.epoch_length,
        )
        self._check_seed(checkpoint["meta"])
        runner.logger.info(
            "resumed from %s: %d epochs and %d iterations are done", path, runner.train_loop.epoch, runner.iter
        )

    def _resume_rank(self, ranks: list[dict[str, Any]]) -> None:
        if not ranks:
            return
        if len(ranks) != dist.get_world_size():
            raise RuntimeError(
                f"the checkpoint holds the {' and '.join(ranks[0])} of each of {len(ranks)} ranks, which cannot be "
                f"shared out among {dist.get_world_size()}; resume with {len(ranks)} ranks"
            )
        own = ranks[dist.get_rank()]
        for name, state in own.get("generators", {}).items():
            if name in self.generators:
                self.generators[name].set_state(state)
        dataset: Any = getattr(self._runner.train_dataloader, "dataset", None)
        if "dataset" in own and hasattr(dataset, "load_state_dict"):
            dataset.load_state_dict(own["dataset"])

    def _resume_hooks(self, saved: dict[str, Any]) -> None:
        runner = self._runner
        for name, state in saved.items():
            hook = runner.hooks.get(name)
            if hook is None:
                runner.logger.warning("the checkpoint holds the state of a hook %r that is not there any more", name)
            else:
                hook.load_state_dict(state)

    def _check_seed(self, meta: dict[str, Any]) -> None:
        runner = self._runner
        if meta.get("seed") != runner.seed:
            runner.logger.warning(
                "the checkpoint was trained with seed %s, this start has seed %d: the data order and the randomness "
                "inside the model change from here on",
                meta.get("seed"),
                runner.seed,
            )


def _what_is_missing(checkpoint: Any) -> str | None:
    """None for the state of a whole run; otherwise what a file such as published weights lacks."""
    keys = [str(key) for key in checkpoint] if isinstance(checkpoint, dict) else []
    missing = [key for key in _NEEDED if key not in keys]
    if not missing:
        return None
    held = ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")
    return (
        f"it has no {', '.join(missing)}. It holds {held or type(checkpoint).__name__}; weights alone are loaded with "
        "load_from (or --checkpoint)"
    )


def _why_not_resumable(path: str) -> str | None:
    """The reason for which a whole file is no candidate; its tensors are not read."""
    try:
        return _what_is_missing(read_checkpoint(path, map_location="meta", verify=False, keep_shards=True))
    except CheckpointError as error:
        return str(error)


def _checkpoint_names(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".pth")) if os.path.isdir(folder) else []


def find_named_checkpoint(work_dir: str, name: str) -> str:
    """Return the path of the ``"best"`` or ``"latest"`` checkpoint of a run folder; other names are paths already.

    Where runs that began anew in the folder have left several best ones of a metric, the newest is taken.

    Raises:
        FileNotFoundError: When there is none; lists what there is.
        ValueError: When several metrics have a best checkpoint.
    """
    if name not in ("best", "latest"):
        return name
    files = _checkpoint_names(work_dir)
    if name == "latest":
        latest = find_latest_checkpoint(work_dir) if files else None
        found = [] if latest is None else [latest]
    else:
        newest: dict[str, str] = {}  # of each metric: an earlier run in the same folder may have left one
        for path in sorted((os.path.join(work_dir, f) for f in files if f.startswith("best_")), key=os.path.getmtime):
            newest[re.sub(r"_(epoch|iter)_\d+\.pth$", "", path)] = path
        found = list(newest.values())
    if not found:
        raise FileNotFoundError(
            f"there is no {name} checkpoint in {work_dir}; it holds {', '.join(files) or 'no checkpoint'}. Name the "
            "folder with --work-dir, or a file with --checkpoint PATH"
        )
    if len(found) > 1:
        raise ValueError(f"{work_dir} has the best checkpoints of several metrics, name one: {', '.join(found)}")
    return found[0]
