"""Everything that a run needs to continue as if it had never stopped: collected, saved, found and restored."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from .. import __version__, dist, record
from .. import checkpoint as ckpt
from ..config.saving import to_json, to_python
from ..dataset import OwnGenerators, merge_loader_states
from ..errors import UsageError, UsageRuntimeError
from ..fileio.remote import sha256_of
from ..hooks import CheckpointHook
from ..hooks.checkpoint_hook import PREEMPTED
from ..model import external_tensors
from ..model.finite import broken_buffers
from ..model.modes import set_switches, switches_of
from ..optim import OptimWrapper, param_schedulers_state_dict, resume_param_schedulers
from ..text import counted, listed
from .folder import RunFolder
from .loops import goes_on_by_state, loaders_of

if TYPE_CHECKING:
    from .runner import Runner

SEED_SCHEME = 2
"""How random streams are derived from the seed, see `Runner`; version 0.1 had scheme 1."""
_OWN = tuple(map(os.path.dirname, (os.path.dirname(os.path.abspath(__file__)), os.path.abspath(torch.__file__))))


class RunState:
    """Saves and restores a runner.

    Args:
        runner: The runner, whose parts may not be built yet.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._writer = ckpt.CheckpointWriter()
        self._failure: OSError | None = None
        self._num_failed = 0  # planned saves in a row of which nothing could be written
        self._is_planned = False  # the save that is written now
        self._recorder: record.Recorder | None = None
        self._frozen: ckpt.FrozenWeights | None = None
        self._shard_group: Any = None  # all ranks, for what the writing threads send
        self._shard_memory: dict[str, Any] = {}
        self._passed_over: dict[str, str] = {}  # checkpoints that were chosen and do not fit, and why
        self._rejected: set[str] = set()  # those of which the log says why they are no candidates
        self._built: dict[str, bool | str] = {}  # what trains as training begins, see `switches_of`
        self._switches: dict[str, bool | str] = {}  # what does, outside of evaluations
        self._infinite: dict[str, str] = {}  # the buffers that begin so, or of which it was said
        self._former: dict[str, Any] | None = None  # meta of the checkpoint that this start goes on from
        self._compared: tuple[dict[str, str], dict[str, str]] = ({}, {})  # its values and those of this start, by path
        self.generators: dict[str, Any] = {}

    @functools.cached_property
    def _experiment(self) -> dict[str, str]:
        """The values of the experiment by path, as they were before a resume; kept in each checkpoint."""
        runner = self._runner
        of_config = {} if runner.cfg is None else record.flat_config(to_json(runner.cfg))
        wrappers = runner.optim_wrapper.named()
        return {**of_config, **record.built_values(runner.train_dataloader, wrappers, runner.param_schedulers)}

    # ------------------------------------------------------------------ the run folder
    @functools.cached_property
    def _config_text(self) -> str | None:
        """The config as Python before anything is trained: objects in it may change, and have no text then."""
        return None if self._runner.cfg is None else to_python(self._runner.cfg)

    @contextlib.contextmanager
    def holding_folder(self) -> Iterator[None]:
        """Hold the run folder while training, and record how it ended. Collective: every rank must call.

        Raises:
            FolderBusyError: When another training is at work in it.
        """
        runner, folder = self._runner, self._runner.folder
        is_main = dist.is_main_process()
        former = self._on_main(folder.take)
        if former and is_main:
            runner.logger.warning("the lock of %s, which is dead, on %s was taken over", former, folder.path)
        how, reason = "failed", ""
        try:
            try:
                yield
            finally:
                self.wait()  # what a thread still writes needs the folder, and belongs to this training
            how = "finished"
        except BaseException as error:
            how = "failed" if isinstance(error, Exception) else "stopped"
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            if is_main:
                code = self._end_record()
                folder.record_end(how, runner.num_iters_completed, reason, code)
                folder.leave()

    def record_start(self, path: str | None) -> None:
        """Write into the run folder that this start trains, and what it goes on from."""
        _ = self._config_text, self._experiment  # before anything is trained
        if not dist.is_main_process():
            return
        runner, folder = self._runner, self._runner.folder
        source = None if path is None else _origin_of(path, ckpt.summary_of(path)._asdict())
        values = record.changed_values(*self._compared, runner.optim_wrapper.named())
        changes = values + self._begin_record(source)
        is_over = runner.num_iters_completed >= runner.train_loop.max_iters
        for change in changes:
            change["from_iter"] = runner.num_iters_completed
            if is_over and not change["why"]:
                change |= {"effect": "without effect", "why": "nothing is left to train"}
            runner.logger.warning("changed since the checkpoint: %s", record.as_line(change))
        if sizes := folder.sizes_in_starts(self.folders()):
            text = "the folders of earlier starts hold %d checkpoints of earlier runs, or dumps: %.1f MB"
            runner.logger.info(text, len(sizes), sum(sizes) / 1e6)
        weights: dict[str, Any] | None = None
        if runner.load_from is not None and self._former is None:  # they were loaded
            about = {key: runner.loaded_meta.get(key) for key in ("run_id", "iter")}
            weights = {"path": runner.load_from.path, **about}
        is_fork = path is not None and not folder.holds(path, self.folders())
        passed_over = None if source is None or is_fork else self._newest_beside(source)
        folder.record_start(source, changes, is_fork=is_fork, weights=weights, passed_over=passed_over)

    def _newest_beside(self, source: dict[str, Any]) -> dict[str, Any] | None:
        """Return the newest checkpoint of the run that a start goes on with, where its `source` is another one."""
        if self._runner.resume_from == "auto":  # what is newer cannot be read
            return None
        path = ckpt.find_valid_checkpoint(self.own_folders(), reject_if=self._why_not_resumable)
        newest = None if path is None else ckpt.summary_of(path)
        if newest is None or newest.run_id != source["run_id"]:
            return None
        if (newest.start, newest.iter) == (source["start"], source["iter"]):
            return None
        text = "until this start has saved, run folder and curves stay those of %s (iteration %d)"
        self._runner.logger.info(text, path, newest.iter)
        return {"path": path, "iter": newest.iter}

    def _compare(self, path: str, meta: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the values of the checkpoint's experiment and of this one, as far as both can be known."""
        runner, built = self._runner, self._experiment
        if former := meta.get("experiment"):
            return former, built
        if not isinstance(meta.get("cfg"), str):  # built by hand: what the optimizer loaded is compared
            return {}, {}
        former = record.saved_config(os.path.dirname(os.path.abspath(path)), meta["cfg"])
        if runner.cfg is None or former is None:
            runner.logger.warning(
                "what was changed in the config since the checkpoint is not known: it was saved by version 0.1, and no "
                "config.json of it is there"
            )
            return {}, {}
        return former, record.flat_config(to_json(runner.cfg))

    def record_evaluation(self) -> str:
        """Write that an evaluation begins, and of which weights; return its folder. The record of training stays."""
        runner = self._runner
        has_trained = runner._own_loop is not None and runner.num_iters_completed > 0  # since they were loaded
        path = None if runner.load_from is None or has_trained else runner.load_from.path
        if dist.is_main_process():
            runner.folder.record_evaluation(None if path is None else _origin_of(path, runner.loaded_meta))
        is_known = runner.loaded_meta.get("iter") is not None
        at = f"iteration {runner.loaded_meta['iter']}" if is_known else "which does not say of which iteration it is"
        runner.logger.info("evaluating %s", "the weights that the model has" if path is None else f"{path}, {at}")
        return runner.folder.evaluation_dir

    def _begin_record(self, source: dict[str, Any] | None) -> list[dict[str, Any]]:
        """Keep code, environment and data of this start, and return what of the code was changed since the checkpoint.

        Raises:
            UsageRuntimeError: When something was, with ``deterministic="strict"``, unless the loop allows it.
        """
        runner, folder = self._runner, self._runner.folder
        self._recorder = record.Recorder(folder.path, folder.log_dir, runner.device, runner.cfg, runner.record)
        datasets = {"train": getattr(runner.train_dataloader, "dataset", None)}
        for name, loader in loaders_of(runner.val_dataloader).items():
            if loader is not None:
                datasets["/".join(filter(None, ("val", name)))] = getattr(loader, "dataset", None)
        for line in self._recorder.begin(datasets):
            runner.logger.warning(line)
        former, changed = self._kept_code(source), []
        with contextlib.suppress(OSError):
            changed = [] if former is None else self._recorder.changed_code(former)
        if changed and runner.deterministic == "strict" and not runner.train_loop.allow_inexact_resume:
            raise UsageRuntimeError(
                f"the code was changed since the checkpoint: {'; '.join(changed)}. Undo that, or set "
                "train_loop.allow_inexact_resume=True, or leave deterministic='strict' out."
            )
        data = record.changed_data((self._former or {}).get("data") or {}, self._recorder.data)
        return record.changed_lines("code", changed, former) + record.changed_lines("data", data)

    def _kept_code(self, source: dict[str, Any] | None) -> str | None:
        """Return the zip of the code of the start that wrote the checkpoint, which may lie elsewhere."""
        if source is None or not source["run_id"]:
            return None
        at = os.path.dirname(os.path.abspath(source["path"]))
        for folder in (self._runner.folder, RunFolder(at), RunFolder(os.path.dirname(at))):
            with contextlib.suppress(UsageError):  # the record of another folder is damaged
                if (code := folder.code_of(source["run_id"], source["start"])) is not None:
                    return os.path.join(folder.path, record.CODE_FOLDER, f"{code}.zip")
        return None

    def _end_record(self) -> str | None:
        """Keep what was imported meanwhile, and return the hash of the code."""
        if self._recorder is None:
            return None
        for line in self._recorder.complete():
            self._runner.logger.warning(line)
        return self._recorder.code_hash

    def _on_main(self, function: Callable[[], Any]) -> Any:
        """Call a function on the main process; every rank gets its result, or raises what it raised. Collective."""
        shared: list[Any] = [None, None]
        error: Exception | None = None
        if dist.is_main_process():
            try:
                shared[0] = function()
            except (UsageError, ckpt.CheckpointError, OSError) as e:
                error, shared[1] = e, str(e)
        dist.broadcast_object_list(shared)
        if shared[1] is not None:
            raise error or UsageRuntimeError(shared[1])
        return shared[0]

    # ------------------------------------------------------------------ saving
    def begin_weights(self) -> None:
        """Note with which frozen weights training begins. Collective: every rank must call."""
        model = self._runner.model
        self._frozen = ckpt.FrozenWeights(model, external_tensors(model), leaves_out=self._runner.save == "trained")
        self._infinite = {name: what for name, what in broken_buffers(model).items() if what == "inf"}

    def check_buffers(self) -> None:
        """Log, once, which buffers of the model are not finite any more; for a validation or a checkpoint."""
        if new := {n: what for n, what in broken_buffers(self._runner.model).items() if n not in self._infinite}:
            self._infinite |= new
            self._runner.logger.warning(
                "%s of the model is not finite (%s): evaluations of it, and checkpoints, will not be, although the "
                "weights may be. A batch that was not finite has passed through it, or one whose squares are not: look "
                "for it in the data, and go on from an earlier checkpoint",
                *(listed(new, 6), ", ".join(sorted(set(new.values())))),
            )

    def note_switches(self) -> None:
        """Note what trains and what evaluates, before an evaluation sets that for a while."""
        if not self._runner._is_evaluating:
            self._switches = switches_of(self._runner.model)

    def resume_switches(self) -> None:
        """Let train and evaluate what did when the checkpoint was saved, where a hook had changed that by then.

        As for the options of an optimizer, what is built otherwise now holds. DDP, which learns what trains when it is
        made, is made anew.
        """
        runner, saved = self._runner, (self._former or {}).get("switches", {})
        self._built = switches_of(runner.model)
        now = {name: value for name, (built, value) in saved.items() if self._built.get(name) == built}
        if not now:
            return
        trains = {name: value for name, value in now.items() if value is True}
        set_switches(runner.model, trains)
        if isinstance(runner.forward, DistributedDataParallel) and not trains.keys().isdisjoint(
            name for name, _ in runner.model.named_parameters()
        ):
            runner.forward = runner.model_setup.wrap(runner.model, runner.device)
        set_switches(runner.model, now)
        others = [name for name in now if name not in trains]
        for names, what in ((trains, "trains"), (others, "is frozen or evaluates")):
            if names:
                runner.logger.info("as in the checkpoint, after a change by a hook, %s: %s", what, listed(names, 6))

    def collect(self, *, save_optimizer: bool = True, save_param_scheduler: bool = True) -> dict[str, Any]:
        """Return the whole state of the run, what FSDP2 split as it is. Collective: every rank must call."""
        runner = self._runner
        runner.message_hub.average_over_ranks()
        self.note_switches()
        weights = self._weights()
        self.check_buffers()
        if self._recorder is not None:
            self._recorder.wait()
        loop = {**runner.train_loop.state_dict(), "accumulative_counts": self.accumulation()}
        checkpoint: dict[str, Any] = {
            "meta": {
                "format_version": ckpt.FORMAT_VERSION,
                "epoch": loop["epoch"],
                "iter": loop["iter"],
                "run_id": runner.folder.run_id,
                "start": runner.folder.start,
                "experiment_name": runner.experiment_name,
                "seed": runner.seed,
                "seed_scheme": runner.seed_scheme,
                "precision": self._precision(),
                "freeze_mode": runner.model_setup.freeze_mode,
                "world_size": dist.get_world_size(),
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
                "lazyengine_version": __version__,
                "torch_version": torch.__version__,
                "dataset_meta": runner.message_hub.runtime_info.get("dataset_meta"),
                "cfg": self._config_text,  # a reader's, which is never run
                "experiment": self._experiment,
                "data": self._recorder.data if self._recorder is not None else {},
                "left_out": runner.folder.left_out,
                "switches": {n: [self._built[n], v] for n, v in self._switches.items() if v != self._built.get(n, v)},
            },
            "state_dict": weights,
            "train_loop": loop,
            "message_hub": runner.message_hub.state_dict(),
            "hooks": runner.hooks.state_dict(),
            "ranks": self._collect_ranks(),
        }
        if save_optimizer:
            checkpoint["optimizer"] = runner.optim_wrapper.state_dict()
        if save_param_scheduler:
            checkpoint["param_schedulers"] = param_schedulers_state_dict(runner.param_schedulers)
        return checkpoint

    def _weights(self) -> dict[str, Any]:
        """Return the model's weights; where the optimizer evaluates with others than it trains, those, copied."""
        with self._runner.optim_wrapper.evaluation_weights() as are_others:
            weights = ckpt.get_state_dict(self._runner.model)
            if are_others:
                for key, value in weights.items():
                    weights[key] = value.clone()
        return weights

    def _precision(self) -> dict[str, Any] | None:
        """The precision of validations, which an evaluation alone computes in too; None where it is not one."""
        with contextlib.suppress(UsageRuntimeError):  # several optimizers that differ, and nothing validates
            return self._runner.precision_of(self._runner.val_loop)
        return None

    def _collect_ranks(self) -> list[dict[str, Any]]:
        """Return what differs between ranks, by rank: generators of the user and positions in streams."""
        own: dict[str, Any] = {}
        if self.generators:
            own["generators"] = OwnGenerators(self.generators).state_dict()
        loader = self._runner.train_dataloader
        if hasattr(loader, "state_dict") and (state := loader.state_dict()):
            own["loader"] = state
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
        give_up_after: int = 3,
        then: Callable[[], None] | None = None,
    ) -> str:
        """Save the state of the run. Collective: every rank must call.

        The main process writes; what FSDP2 split, every rank does.

        A file that cannot be written (a full disk) is logged as an error, and training goes on with the checkpoints
        that there are, until nothing could be written for `give_up_after` planned saves in a row. What the pointer
        shall name is planned; a best file beside it counts for nothing. An error of the last save is raised by `wait`.

        Args:
            filename: Name of the file, without a folder.
            out_dir: Its folder; None for the run folder.
            save_optimizer: Whether to save the optimizer. A checkpoint without it cannot be resumed.
            save_param_scheduler: The same for the schedulers.
            is_latest: Whether `last_checkpoint` points to it afterwards.
            async_save: Whether a thread writes while training goes on.
            give_up_after: After so many planned saves of which nothing could be written, the error is raised.
            then: Called when the file and the pointer are in place.

        Returns:
            The path of the file.

        Raises:
            OSError: When `give_up_after` planned saves in a row could not be written.
            CheckpointError: When the state holds a value that no checkpoint can hold.
        """
        runner, folder = self._runner, out_dir or self._runner.work_dir
        self._tolerate(self._writer.wait, give_up_after)  # what is collected now is what the last save left
        self._writer.async_save = async_save
        self._is_planned = is_latest
        path = os.path.join(folder, filename)
        checkpoint = self.collect(save_optimizer=save_optimizer, save_param_scheduler=save_param_scheduler)
        runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        if self._frozen is not None:
            self._frozen.prepare(checkpoint)
        runner.visualizer.flush()
        checkpoint, tensors = ckpt.split_shards(checkpoint)
        shards: dict[str, Any] = {}
        write_shards = self._shard_writer(tensors, path, shards) if tensors else None
        if write_shards is not None and not (async_save and dist.is_main_process()):
            self._tolerate(functools.partial(self._writer.call, write_shards, path), give_up_after)
            if not async_save:
                if not shards:
                    return path
                write_shards = lambda: {"shards": shards}  # noqa: E731 - they are there
        if dist.is_main_process():

            def finish() -> None:
                runner.folder.settle(path)
                ckpt.remove_shards(path, keep=shards.get("folder"))
                if is_latest:
                    ckpt.mark_latest_checkpoint(path)
                    stopped = os.path.join(folder, PREEMPTED)
                    if filename != PREEMPTED and ckpt.run_of(stopped) == runner.folder.run_id:
                        ckpt.remove_checkpoint(stopped)
                if then is not None:
                    then()
                self._failure, self._num_failed = None, 0

            ready = functools.partial(runner.folder.make_room, path=path)
            options = {"then": finish, "ready": ready, "before": write_shards}
            self._tolerate(functools.partial(self._writer.save, checkpoint, path, **options), give_up_after)
        return path

    def _shard_writer(
        self, tensors: dict[str, torch.Tensor], path: str, shards: dict[str, Any]
    ) -> Callable[[], dict[str, Any]]:
        """Return what writes split tensors as they are now, and says so in `shards`. Collective, as what it returns."""
        group = None
        if self._writer.async_save:
            if self._shard_group is None:  # the thread's messages must not come between those of training
                self._shard_group = torch.distributed.new_group(backend="gloo")
            tensors, group = ckpt.copy_shards(tensors, self._shard_memory), self._shard_group

        def write() -> dict[str, Any]:
            shards.update(ckpt.save_shards(tensors, path, group))
            if not dist.is_main_process():
                self._failure, self._num_failed = None, 0
            return {"shards": shards}

        return write

    def wait(self) -> None:
        """Wait until everything saved is on disk.

        Raises:
            BaseException: What the writer raised, or what kept the last save from being written.
        """
        self._writer.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _tolerate(self, write: Callable[[], None], give_up_after: int) -> None:
        """Log an error of writing; raise that of the `give_up_after`-th planned save in a row."""
        try:
            write()
        except OSError as error:
            self._failure = error
            if not self._is_planned:
                self._runner.logger.error("a best checkpoint was not saved, training goes on: %s", error)
                return
            self._num_failed += 1
            if self._num_failed >= give_up_after:
                error.add_note(f"nothing could be written for {self._num_failed} planned saves: training was stopped")
                self._failure, self._num_failed = None, 0
                raise
            self._runner.logger.error(
                "no checkpoint was saved, training goes on: %s (%d in a row; training stops at %d, see "
                "CheckpointHook(give_up_after=))",
                *(error, self._num_failed, give_up_after),
            )

    def stop(self, reason: str, exit_code: int) -> NoReturn:
        """Save and leave, as a signal asked for. Collective: every rank must call.

        Raises:
            SystemExit: With `exit_code`, when the checkpoint is on disk.
        """
        path = self.save(PREEMPTED, out_dir=self.folders()[-1])
        self.wait()
        self._runner.logger.warning("%s: saved %s; exiting with code %d", reason, path, exit_code)
        raise SystemExit(exit_code)

    def folders(self) -> list[str]:
        """Return the run folder, and behind it the folders in which hooks save."""
        saving = [hook.folder(self._runner) for hook in self._runner.hooks if isinstance(hook, CheckpointHook)]
        return list(dict.fromkeys([self._runner.work_dir, *saving]))

    def own_folders(self) -> list[str]:
        """Return `folders` without those in which another run, whose folder has the same name, saves."""
        own = {"", *(str(each.get("run_id")) for each in self._runner.folder.read()["starts"])}

        def is_own(folder: str) -> bool:
            runs = (run for path in ckpt.list_checkpoints(folder) if (run := ckpt.run_of(path)) is not None)
            return next(runs, "") in own

        return [folder for folder in self.folders() if folder == self._runner.work_dir or is_own(folder)]

    # ------------------------------------------------------------------ resuming
    def choose_checkpoint(self, resume_from: str | None) -> str | None:
        """Return the checkpoint to resume, or None to begin anew. Collective: every rank must call.

        Args:
            resume_from: None, ``"auto"`` for the newest valid checkpoint of the run folder, or a path, which is taken
                or refused but never replaced by another.

        Raises:
            CheckpointError: When the named file is damaged, or when there are checkpoints and all are damaged.
        """

        def choose() -> str | None:
            if resume_from is None:
                self._log_earlier_run()
                return None
            if resume_from == "auto":
                return self._find_newest()
            path = self._runner.folder.moved(resume_from, self.folders())
            ckpt.verify_shards(path)  # here once: ranks read them in parts, and check only the file itself
            return path

        return self._on_main(choose)

    def _log_earlier_run(self) -> None:
        """Log where the files of an earlier run in the folder are going to be moved."""
        for target in self._runner.folder.earlier_run(self.folders()):
            self._runner.logger.warning(
                "%s holds the checkpoints of an earlier run, and this one begins anew: with its first checkpoint they "
                "are moved to %s, from where --resume PATH can go on; until then, --resume goes on with that run",
                os.path.dirname(target),
                target,
            )

    def _find_newest(self) -> str | None:
        runner = self._runner
        rejected: list[str] = []

        def reject(path: str, reason: str) -> None:
            rejected.append(f"{path}: {reason}")
            if path not in self._rejected:  # said once, however often one is chosen
                self._rejected.add(path)
                runner.logger.warning("not resuming from %s: %s", path, reason)

        folders = self.own_folders()
        newest = ckpt.find_valid_checkpoint(folders, reject, self._why_not_resumable)
        where = " and ".join(folders)
        if newest is not None:
            self._mend_pointer(newest)
            return newest
        if others := [folder for folder in self.folders() if folder not in folders]:
            raise ckpt.UsageCheckpointError(
                f"{where} has no checkpoint, and what is in {' and '.join(others)} is of another run, whose folder has "
                "the same name. Use another out_dir or work_dir, or name a checkpoint with --resume PATH."
            )
        if rejected:
            raise ckpt.UsageCheckpointError(
                f"no checkpoint in {where} can be resumed:\n  " + "\n  ".join(rejected) + "\nRemove them to "
                "begin anew, or name another checkpoint with --resume PATH"
            )
        runner.logger.info("no checkpoint in %s yet: beginning anew", where)
        return None

    def _why_not_resumable(self, path: str) -> str | None:
        """The reason for which a whole file is no candidate; its tensors are not read."""
        flaw = ckpt.summary_of(path).flaw or None  # raises for a file of another kind
        if unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(path):
            return f"it holds an object of {unsafe[0]}, which was not loaded because loading it can run code"
        return flaw or self._passed_over.get(path)

    def _flaw_of_optimizer(self, checkpoint: dict[str, Any]) -> str | None:
        weights = checkpoint["state_dict"]
        for key, own in ckpt.get_state_dict(self._runner.model, keep_vars=True).items():
            if isinstance(own, Parameter) and getattr(weights.get(key, own), "shape", own.shape) != own.shape:
                return None  # the model is another one: loading the weights says in what
        for name, wrapper in self._runner.optim_wrapper.named().items():
            state = checkpoint["optimizer"].get(name) if name else checkpoint["optimizer"]
            if state and "param_groups" in state and (flaw := wrapper.flaw_of(state)):
                return f"it is damaged, or not a checkpoint of lazyengine: its optimizer cannot be this one, {flaw}"
        return None

    def _mend_pointer(self, newest: str) -> None:
        """Let the pointer name the last regular checkpoint: a kill between a file and its pointer has left an older."""
        furthest = ckpt.summary_of(newest).iter
        for path in ckpt.list_checkpoints(os.path.dirname(newest)):
            with contextlib.suppress(ckpt.CheckpointError, OSError):
                if not os.path.basename(path).startswith("best_") and ckpt.summary_of(path).iter <= furthest:
                    if path != newest:  # which was verified when it was chosen
                        ckpt.verify_checkpoint(path)
                    ckpt.mark_latest_checkpoint(path)
                    return

    def is_whole(self, path: str) -> bool:
        """Return whether a checkpoint holds all weights; true of a file that `resume` is going to refuse."""
        summary = ckpt.or_none(ckpt.summary_of, path)
        return summary is None or not summary.leaves_out

    def resume(self, path: str) -> str:
        """Restore the whole state of the run from a checkpoint. Collective: every rank must call.

        Returns:
            The path; with ``"auto"`` of an earlier checkpoint, where the saved optimizer cannot be this one.

        Raises:
            CheckpointError: When the file is damaged, or was saved without what a resume needs.
            RuntimeError: When the model or the position does not fit.
        """
        runner = self._runner
        _ = self._experiment  # as built: schedules change below
        checkpoint = ckpt.read_checkpoint(path, keep_shards=True)
        if flaw := ckpt.why_not_resumable(checkpoint) or self._flaw_of_optimizer(checkpoint):
            earlier = None
            if runner.resume_from == "auto":
                self._passed_over[path] = flaw
                earlier = self.choose_checkpoint("auto")
            if earlier is None:
                raise ckpt.UsageCheckpointError(f"{path} cannot be resumed: {flaw}")
            return self.resume(earlier)
        with _contents_explained(path):
            self._compared = self._on_main(lambda: self._compare(path, checkpoint["meta"]))
            try:
                self._restore(checkpoint)
            except RuntimeError as error:
                changes = record.changed_values(*self._compared, runner.optim_wrapper.named())
                if lines := [f"{change['path']}: {change['was']} -> {change['is']}" for change in changes]:
                    error.add_note(f"changed since the checkpoint: {listed(lines)}")
                raise
        runner.logger.info(
            "resumed from %s: %s and %s are done",
            path,
            counted(runner.epoch, "epoch"),
            counted(runner.num_iters_completed, "iteration"),
        )
        return path

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        runner = self._runner
        ckpt.complete(checkpoint, runner.model)
        if self._frozen is not None:
            self._frozen.check_external(checkpoint["meta"])
        runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if "ema_state_dict" in checkpoint:  # an EMAHook would have taken it
            runner.logger.warning(
                "the checkpoint holds averaged weights, and there is no EMAHook any more: training goes on from the "
                "weights themselves, the average ends here"
            )
            checkpoint["state_dict"] = checkpoint["ema_state_dict"]
        ckpt.load_state_dict(runner.model, checkpoint["state_dict"], strict=True, logger=runner.logger)
        for name, wrapper in runner.optim_wrapper.named().items() if all(self._compared) else ():
            changed = record.changed_options(*self._compared, name, wrapper.optimizer.defaults)
            wrapper.set_saved_as_built(checkpoint["optimizer"][name] if name else checkpoint["optimizer"], changed)
        runner.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        runner.message_hub.load_state_dict(checkpoint["message_hub"])
        for name in runner.hooks.load_state_dict(checkpoint.get("hooks", {})):
            runner.logger.warning("the checkpoint holds the state of a hook %r that is not there any more", name)
        leave_out(runner, checkpoint["meta"].get("left_out", []), is_former=True)
        self._resume_position(checkpoint)
        self._resume_rank(checkpoint.get("ranks", []))
        self._resume_meta(checkpoint["meta"])

    def _resume_position(self, checkpoint: dict[str, Any]) -> None:
        """Restore the loop's position and the schedules, also where an optimizer step now has other samples."""
        runner, loop, saved = self._runner, self._runner.train_loop, checkpoint["train_loop"]
        loop.load_state_dict(saved)
        num_steps = None
        if loop.allow_inexact_resume:
            accumulation = self.accumulation()
            if advice := loop.translate(saved, accumulation):
                runner.logger.warning(advice)
            if isinstance(runner.optim_wrapper, OptimWrapper):  # of several, each counts for itself
                runner.optim_wrapper.inner_count = loop.position.iter
            if loop.position.iter != saved["iter"]:
                num_steps = loop.position.iter // accumulation
        resume_param_schedulers(
            runner.param_schedulers,
            checkpoint["param_schedulers"],
            num_epochs=loop.position.epoch,
            num_optimizer_steps=num_steps,
            num_iters=loop.position.iter,
            epoch_length=loop.epoch_length,
            optim_wrapper=runner.optim_wrapper,
        )

    def accumulation(self) -> int:
        """Batches in an optimizer step; of several wrappers, the most."""
        return max(wrapper.accumulative_counts for wrapper in self._runner.optim_wrapper.named().values())

    def _resume_rank(self, ranks: list[dict[str, Any]]) -> None:
        if not ranks:
            return
        of_dataset = [{"dataset": rank["dataset"]} if "dataset" in rank else {} for rank in ranks]  # version 0.1
        self._resume_loader([rank.get("loader", former) for rank, former in zip(ranks, of_dataset)])
        if len(ranks) == dist.get_world_size():
            OwnGenerators(self.generators).load_state_dict(ranks[dist.get_rank()].get("generators", {}))
        elif "generators" in ranks[0]:
            raise UsageRuntimeError(
                f"the checkpoint holds the generators of each of {len(ranks)} ranks, which cannot be "
                f"shared out among {dist.get_world_size()}; resume with {len(ranks)} ranks"
            )

    def _resume_loader(self, states: list[dict[str, Any]]) -> None:
        """Let the train loader go on from the states that it had on the ranks."""
        loop: Any = self._runner.train_loop
        if not any(states) or loop.overfit is not None or not hasattr(loop.dataloader, "load_state_dict"):
            return  # the batches of `overfit` are read from the beginning at each pass
        try:
            loop.dataloader.load_state_dict(merge_loader_states(states, dist.get_world_size(), dist.get_rank()))
            if loop.limit is not None and loop.position.batch == 0 and goes_on_by_state(loop.dataloader):
                iter(loop.dataloader)  # the pass that the limit ended: the next one is another
        except UsageRuntimeError as error:
            if not loop.allow_inexact_resume:
                raise
            self._runner.logger.warning("the data of this epoch begins anew: %s", error)

    def _resume_meta(self, meta: dict[str, Any]) -> None:
        """Keep what belongs to the run that the checkpoint is of."""
        runner, self._former = self._runner, meta
        runner.seed_scheme = meta.get("seed_scheme", 1)
        if "freeze_mode" not in meta:
            runner.model_setup.freeze_mode = "train"  # as version 0.1 had it
        if meta.get("seed") != runner.seed:
            runner.logger.warning(
                "the checkpoint was trained with seed %s, this start has seed %d: the data order and the randomness "
                "inside the model change from here on",
                meta.get("seed"),
                runner.seed,
            )


def leave_out(runner: Runner, indices: Iterable[int], *, is_former: bool = False) -> None:
    """Leave out training samples that cannot be read, besides those that are, and note them with the start.

    Args:
        runner: The runner.
        indices: The samples.
        is_former: Whether the run that this start goes on from did so; a loader that cannot is warned of, then.

    Raises:
        UsageRuntimeError: The loader cannot do so.
    """
    left_out = sorted({*runner.folder.left_out, *indices})
    if left_out == runner.folder.left_out:
        return
    try:
        if not hasattr(runner.train_dataloader, "leave_out"):
            name = type(runner.train_dataloader).__name__
            raise UsageRuntimeError(f"no sample can be left out of a {name}: set supervision.bad_sample='stop'.")
        runner.train_dataloader.leave_out(left_out)
    except UsageRuntimeError as error:
        if not is_former:
            raise
        runner.logger.warning("the samples %s, which were left out before, are read again: %s", listed(left_out), error)
        return
    runner.folder.left_out = left_out
    if is_former:
        runner.logger.info("left out as before, their neighbours are read instead: samples %s", listed(left_out, 10))


def _origin_of(path: str, meta: dict[str, Any]) -> dict[str, Any]:
    """What a record says of the checkpoint that a start goes on from, or evaluates."""
    about = {key: meta.get(key) for key in ("iter", "epoch", "run_id", "start")}
    return {"path": path, **about, "hash": sha256_of(path)[:16] if os.path.isfile(path) else None}


@contextlib.contextmanager
def _contents_explained(path: str) -> Iterator[None]:
    """Raise what strange contents of a checkpoint lead to as a CheckpointError, which keeps the traceback.

    What code of the user raises, a hook's or the model's, stays as it is.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, UsageError) or not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_OWN):
            raise
        raise ckpt.CheckpointError(
            f"{path} cannot be resumed: {type(error).__name__}: {error}. It was changed after it was saved, or was not "
            "saved by lazyengine: use another one."
        ) from error
