"""Where jobs run: processes here, Slurm, or Ray. The same jobs on each."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from ..errors import UsageRuntimeError, UsageValueError
from ..text import did_you_mean, listed
from .job import Job, Outcome
from .supervising import Supervised, is_own_checkpoint

POLL_S = 0.1
"""Seconds between two looks at jobs that run."""
_SLURM_ID = "slurm_id"
_GONE = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "CANCELLED")
_PREEMPTION_S = 120.0
_PORT = 29_400  # of the first machine's meeting point, beside which the number of the job is added


class Launched(Protocol):
    """A job that was handed to a launcher."""

    def poll(self) -> Outcome | None:
        """Return how it ended, None while it has not."""
        ...

    def stop(self) -> None:
        """Ask it to save and end."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Launcher(Protocol):
    """Runs jobs. `capacity` says how many at once."""

    capacity: int

    def launch(self, jobs: Sequence[Job]) -> list[Launched]:
        """Start jobs, or queue them."""
        ...


class LocalLauncher:
    """Processes on this machine, as many at once as fit: each has its GPUs, or its share of the cores.

    Args:
        num_ranks: Processes of each job.
        capacity: Jobs at once; None for as many as there are GPUs, or cores, for their processes.
        report: Called with a line about each decision.
    """

    def __init__(
        self, num_ranks: int = 1, capacity: int | None = None, report: Callable[[str], object] = lambda line: None
    ) -> None:
        self._gpus = _visible_gpus()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if capacity is None and len(self._gpus) and num_ranks > len(self._gpus):
            raise UsageValueError(f"{num_ranks} processes for each run, and {len(self._gpus)} GPUs here; use fewer.")
        self.capacity = capacity or max(1, (len(self._gpus) or cores) // num_ranks)
        self._num_ranks, self._report, self._cores = num_ranks, report, cores
        self._running: dict[int, Supervised] = {}

    def launch(self, jobs: Sequence[Job]) -> list[Launched]:
        """Start jobs, each on GPUs that no other one has."""
        return [self._launch(job) for job in jobs]

    def _launch(self, job: Job) -> Supervised:
        place = next(place for place in range(len(self._running) + 1) if place not in self._running)
        env = {}
        if self._gpus:
            first = place * self._num_ranks % len(self._gpus)
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[first : first + self._num_ranks])
        elif "OMP_NUM_THREADS" not in os.environ:
            env["OMP_NUM_THREADS"] = str(max(1, self._cores // (self.capacity * self._num_ranks)))
        run = Supervised(replace(job, env={**job.env, **env}), self._report)
        self._running[place] = run
        run.then = lambda: self._running.pop(place, None)
        return run


class SlurmLauncher:
    """Jobs of Slurm by submitit, several at once as an array.

    A job whose time ends saves and is queued again, and goes on; so is one that is preempted.

    Args:
        folder: Where submitit keeps scripts, pickles and output; every machine must see it.
        timeout_min: The time limit of a job.
        num_nodes: Machines of each job.
        num_ranks: Processes on each machine.
        gpus: GPUs on each machine.
        cpus: Cores on each machine.
        capacity: Jobs of an array at once.
        slurm: Further parameters of sbatch, such as ``partition``; their values as text.
        cluster: ``"slurm"``, or submitit's ``"local"``, which runs the same jobs here.

    Raises:
        UsageRuntimeError: submitit is missing, or there is no Slurm here.
    """

    def __init__(
        self,
        folder: str,
        *,
        timeout_min: int = 60,
        num_nodes: int = 1,
        num_ranks: int = 1,
        gpus: int = 0,
        cpus: int | None = None,
        capacity: int = 1000,
        slurm: dict[str, Any] | None = None,
        cluster: str = "slurm",
    ) -> None:
        submitit = _import("submitit", "slurm", "Slurm")
        self.capacity, self._cluster = capacity, cluster
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=1000)
        except RuntimeError as error:
            raise UsageRuntimeError(f"--on slurm: {error} Run it where sbatch and srun are.") from error
        resources = {"nodes": num_nodes, "tasks_per_node": 1, "gpus_per_node": gpus, "cpus_per_task": cpus or num_ranks}
        if cluster == "slurm":
            resources |= {"slurm_signal_delay_s": 120, "slurm_array_parallelism": capacity}
            resources |= {f"slurm_{name}": value for name, value in (slurm or {}).items()}
        try:
            self._executor.update_parameters(timeout_min=timeout_min, **resources)
        except (ValueError, NameError) as error:
            raise UsageValueError(f"--slurm: {error}") from None

    def launch(self, jobs: Sequence[Job]) -> list[Launched]:
        """Queue jobs, several as one array."""
        found = [self._queued_before(job) for job in jobs]
        fresh = [job for job, queued in zip(jobs, found) if queued is None]
        for job in fresh:
            job.write()
            job.stop_file.unlink(missing_ok=True)
        queued = [self._executor.submit(SlurmTask(job)) for job in fresh[:1]] if len(fresh) == 1 else []
        if len(fresh) > 1:
            with self._executor.batch():
                queued = [self._executor.submit(SlurmTask(job)) for job in fresh]
        waiting = iter(queued)
        return [SlurmJob(each or next(waiting), job) for each, job in zip(found, jobs)]

    def _queued_before(self, job: Job) -> Any:
        """Return the job of submitit's that an earlier call has queued and that has not ended; None for none."""
        file = job.folder / _SLURM_ID
        if not file.exists() or self._cluster != "slurm":
            return None
        number = file.read_text(encoding="utf-8")
        former = importlib.import_module("submitit").SlurmJob(folder=self._executor.folder, job_id=number)
        return None if former.done(force_check=True) or former.state == "UNKNOWN" else former


class SlurmTask:
    """What runs inside a job of Slurm: the supervisor, on each of its machines.

    Args:
        job: The run.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._run: Supervised | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"job": self.job, "_run": None}

    def __call__(self) -> Outcome:
        """Run the job to its end."""
        env = importlib.import_module("submitit").JobEnvironment()
        number = int("".join(filter(str.isdigit, str(env.job_id))) or 0)
        address = f"{env.hostnames[0]}:{_PORT + number % 10_000}"
        times = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if times and not self.job.resume:  # Slurm itself has queued it again
            self.job.resume = is_own_checkpoint(self.job.work_dir)
        self._run = Supervised(self.job, print, node=env.node, address=address, first_attempt=1000 * times)
        outcome = wait(self._run, self.job.stop_file.exists)
        if outcome.how == "stopped" and not self.job.stop_file.exists():
            _wait_for_preemption()
        return outcome

    def checkpoint(self) -> Any:
        """Save, end, and return what the job goes on with when it is queued again; submitit calls it."""
        if self._run is not None:
            self._run.stop()
            while self._run.is_at_work:
                time.sleep(POLL_S)
        again = replace(self.job, resume=self.job.resume or is_own_checkpoint(self.job.work_dir))
        return importlib.import_module("submitit").helpers.DelayedSubmission(SlurmTask(again))


def _wait_for_preemption() -> None:
    """Let a signal come that queues the job again: the one that the run had was the first of two."""
    end = time.monotonic() + _PREEMPTION_S
    while time.monotonic() < end:
        time.sleep(POLL_S)


class SlurmJob:
    """A job that is queued, or at work.

    Args:
        queued: What submitit returned.
        job: The run.
    """

    def __init__(self, queued: Any, job: Job) -> None:
        self._queued, self._job = queued, job
        self.id = queued.job_id
        (job.folder / _SLURM_ID).write_text(str(self.id), encoding="utf-8")

    def poll(self) -> Outcome | None:
        """Return how it ended, None while it has not."""
        if not self._queued.done():
            return None
        try:
            return self._queued.results()[0]
        except Exception as error:  # the job is gone without a result: what Slurm says of it
            state = self._queued.state
            reason = f"job {self.id} ended as {state}: {str(error).strip().splitlines()[-1]}"
            return Outcome("lost" if state.startswith(_GONE) else "failed", reason, 1)

    def stop(self) -> None:
        """Ask it to save and end."""
        self._job.stop_file.touch()
        if self._queued.state == "PENDING":
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._queued.cancel(check=False)


class RayLauncher:
    """Tasks of a Ray cluster, each with its resources; the folders must be seen by all machines.

    Args:
        address: Of the cluster; None starts one on this machine, or joins the one that is there.
        num_ranks: Processes of each job.
        gpus: GPUs of each job.
        capacity: Jobs at once; those for which there is no room wait in Ray's queue.

    Raises:
        UsageRuntimeError: ray is missing, or there is no cluster at the address.
        UsageValueError: A job has no room on any machine of a cluster that was not named, and so may not grow.
    """

    def __init__(self, address: str | None = None, *, num_ranks: int = 1, gpus: int = 0, capacity: int = 1000) -> None:
        self._ray = _import("ray", "ray", "a Ray cluster")
        self.capacity = capacity
        if not self._ray.is_initialized():
            try:
                self._ray.init(address=address, log_to_driver=False, include_dashboard=False, configure_logging=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UsageRuntimeError(f"--address {address}: {error} Name a cluster that is at work.") from error
        rooms = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if address is None and not any(r.get("CPU", 0) >= num_ranks and r.get("GPU", 0) >= gpus for r in rooms):
            there = "; ".join(f"{r.get('CPU', 0):g} cores and {r.get('GPU', 0):g} GPUs" for r in rooms)
            raise UsageValueError(
                f"--on ray: a run with {num_ranks} processes and {gpus} GPUs finds no room on any machine of the "
                f"cluster, with {there}: it would wait for ever. Use fewer, or name another cluster by --address."
            )
        self._task = self._ray.remote(num_cpus=num_ranks, num_gpus=gpus, max_retries=3)(_run_in_ray)

    def launch(self, jobs: Sequence[Job]) -> list[Launched]:
        """Hand jobs to the cluster."""
        here = os.getcwd()
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
        found: list[Launched] = []
        for job in jobs:
            job = replace(job, work_dir=os.path.abspath(job.work_dir), env={"PYTHONPATH": path, **job.env})
            job.write()
            found.append(RayJob(self._ray, self._task.remote(job, here)))
        return found


class RayJob:
    """A job that was handed to Ray.

    Args:
        ray: The module.
        task: What Ray returned.
    """

    def __init__(self, ray: Any, task: Any) -> None:
        self._ray, self._task = ray, task

    def poll(self) -> Outcome | None:
        """Return how it ended, None while it has not."""
        ready, _ = self._ray.wait([self._task], timeout=0)
        if not ready:
            return None
        try:
            return self._ray.get(self._task)
        except self._ray.exceptions.TaskCancelledError:
            return Outcome("stopped", "it was asked to stop before it began", 143)
        except self._ray.exceptions.RayError as error:
            lost = (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.NodeDiedError)
            reason = f"{type(error).__name__}: {str(error).strip().rpartition(chr(10))[2]}"
            return Outcome("lost" if isinstance(error, lost) else "failed", reason, 1)

    def stop(self) -> None:
        """Ask it to save and end; one that waits in the queue leaves it."""
        self._ray.cancel(self._task)

    def kill(self) -> None:
        """End its processes at once, by asking once more; a task that Ray itself ended would leave them at work."""
        self._ray.cancel(self._task)


def _run_in_ray(job: Job, cwd: str) -> Outcome:
    os.chdir(cwd)
    with Stopping() as stopping:  # a task that is cancelled is interrupted
        return wait(Supervised(job, print), lambda: stopping.count)


def wait(run: Launched, num_asked: Callable[[], int] = lambda: 0) -> Outcome:
    """Wait until a job has ended and return how.

    Args:
        run: The job.
        num_asked: Returns how often it was asked to end: the first time it saves, the second time it is killed.
    """
    asked = 0
    while (outcome := run.poll()) is None:
        if num_asked() > asked:
            asked += 1
            run.stop() if asked == 1 else run.kill()
        time.sleep(POLL_S)
    return outcome


def make_launcher(on: str, folder: str, **options: Any) -> Launcher:
    """Return the launcher of a name.

    Args:
        on: ``"local"``, ``"slurm"`` or ``"ray"``.
        folder: Where it may keep files.
        **options: Of the launcher's class; None for what was not given.

    Raises:
        UsageValueError: There is no such launcher, or an option has no meaning for it.
    """
    if on not in LAUNCHERS:
        raise UsageValueError(f"--on {on}: expected one of {listed(LAUNCHERS)}.{did_you_mean(on, LAUNCHERS)}")
    given = {name: value for name, value in options.items() if value is not None}
    known = inspect.signature(LAUNCHERS[on]).parameters
    if wrong := [name for name in given if name not in known and name != "report"]:
        others = [f"--on {each}" for each, made in LAUNCHERS.items() if wrong[0] in inspect.signature(made).parameters]
        hint = f"; leave it out, or choose {' or '.join(others)}" if others else ""
        raise UsageValueError(f"{wrong[0]}={given[wrong[0]]!r} has no meaning with --on {on}{hint}.")
    if on == "slurm":
        given["folder"] = os.path.join(folder, "slurm")
    return LAUNCHERS[on](**{name: value for name, value in given.items() if name in known})


LAUNCHERS: dict[str, Callable[..., Launcher]] = {"local": LocalLauncher, "slurm": SlurmLauncher, "ray": RayLauncher}


@dataclass
class Stopping:
    """Notes SIGTERM and Ctrl-C while it is entered, so that jobs can be asked to save.

    Attributes:
        number: The signal; 0 before.
        count: How many have arrived; the second one ends everything at once.
    """

    number: int = 0
    count: int = 0

    def __enter__(self) -> Stopping:
        is_main = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        self._former = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.number = number
        self.count += 1


def _visible_gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]


def _import(name: str, extra: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageRuntimeError(f"{what} needs {name}: pip install 'lazyengine[{extra}]'.") from error
