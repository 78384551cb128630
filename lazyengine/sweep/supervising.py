"""Watches the processes of a run, tells apart what ends them, and starts them again as the policy says."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..record import read_run_file
from ..runner.folder import RunFolder
from ..runner.lock import started_at
from ..runs.watching import owner_of
from .faults import FULL_DISK, HANG, LOST_NODE, MISTAKE, OUT_OF_MEMORY, Fault, kind_in
from .job import Job, Outcome

BUSY = 75
_NO_USR2 = ("sh", "-c", 'trap "" USR2; exec "$@"', "sh")  # which Slurm sends to all processes, for the supervisor
_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Variables by which a process would take itself for a rank: those of the supervisor, which is none of the run's."""
_LOOK_S = 1.0  # between two looks at the processes below the run's
_BEGIN = 5  # so many times longer may it take to the first iteration: data is read, a model is compiled
_MIN_FREE = 1_000_000
_END_S = 5.0  # for a process that was asked to write its stacks and end
_EXIT_CODE = "exit code "  # of a process that did not say what ended it: the last line of the log may
_ADVICE = "Restore it, or move it away."


class Supervised:
    """One run under supervision: `poll` is called again and again until it returns how the run ended.

    Args:
        job: The run.
        report: Called with a line about each decision.
        node: Which of several machines this is; the first one decides, the others do as it does.
        address: Host and port of the first one.
        first_attempt: Number of the first attempt, which is greater after each time that the job was queued again.
    """

    def __init__(
        self,
        job: Job,
        report: Callable[[str], object] = lambda line: None,
        *,
        node: int = 0,
        address: str = "",
        first_attempt: int = 0,
    ) -> None:
        self.job = job
        self._report, self._node, self._address, self._attempt = report, node, address, first_attempt
        self.then: Callable[[], object] = lambda: None  # called when it has ended
        self._num_decisions: int | None = None  # before the one that the first machine is about to make
        self._process: subprocess.Popen[bytes] | None = None
        self._num_starts = self._num_seen = 0
        self._family: dict[int, str] = {}  # processes of the run, and when each was started
        self._looked_s = self._changed_s = time.monotonic()
        self._beats: Any = None
        self._hangs = self._has_begun = self._is_stopping = False
        self._num_kills = 0
        self._waits_for_space = False
        self._unwritten: list[dict[str, Any]] = []

    def poll(self) -> Outcome | None:
        """Return how the run ended; None while it goes on, or is to be started."""
        outcome = self._poll()
        if outcome is not None:
            self.then()
        return outcome

    def _poll(self) -> Outcome | None:
        """Start what is to be started, look at what runs, and return how the run ended; None while it goes on."""
        if self._process is None:
            if self._is_stopping:
                return Outcome("stopped", "it was asked to stop", 143)
            if self._num_decisions is not None:
                return self._follow(self._num_decisions)
            if self._may_start():
                self._start()
            return None
        code = self._process.poll()
        if code is None:
            self._watch()
            return None
        self._end_family()
        self._process = None
        return self._judge(code)

    @property
    def is_at_work(self) -> bool:
        """Whether its processes run."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ask the run to save and end; `poll` goes on to be called until it has."""
        self._is_stopping = True
        if self._process is not None and self.is_at_work:
            self._process.terminate()

    def kill(self) -> None:
        """End its processes at once."""
        self._is_stopping = True
        if self._process is not None:
            self._look()
            self._end_family()
            self._process.kill()

    # ------------------------------------------------------------------ one attempt
    def _may_start(self) -> bool:
        """Whether nobody trains in the folder, and there is space again where it was missing."""
        if self._node > 0:  # when the first one has written what this attempt is
            file = self.job.folder / "job.json"
            return file.exists() and Job.read(file).attempt == self._attempt
        if owner_of(self.job.work_dir) is not None:
            return False
        if self._waits_for_space:
            sizes = (file.stat().st_size for file in Path(self.job.work_dir).glob("*.pth"))
            self._waits_for_space = shutil.disk_usage(self.job.work_dir).free < 2 * max(sizes, default=_MIN_FREE)
        self._write_decisions()
        return not (self._waits_for_space or self._unwritten)

    def _start(self) -> None:
        job = self.job
        if self._node == 0:
            job.attempt = self._attempt
            job.clear()
            job.write()
        self._attempt += 1
        self._num_starts, self._num_seen = len(self._starts()), len(self._decisions())
        self._num_kills = _num_memory_kills()
        inherited = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
        env = {**inherited, **job.env, "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
        with open(job.output, "ab") as out:
            self._process = subprocess.Popen(
                [*_NO_USR2, *job.command(self._node, self._address)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        self._family = {}
        self._hangs = self._has_begun = False
        self._beats, self._changed_s = None, time.monotonic()

    def _watch(self) -> None:
        """Look whether iterations go on; end a run that hangs, with the stacks of all its processes in the log."""
        now = time.monotonic()
        if now - self._looked_s < _LOOK_S:
            return
        self._looked_s = now
        self._look()
        with contextlib.suppress(OSError):  # a file that is being made
            beats = self.job.beats()
            if beats != self._beats:
                self._has_begun = self._beats is not None and any(text for _, _, text in self._beats)
                self._beats, self._changed_s = beats, now
        limit = self.job.policy.silence_s * (1 if self._has_begun else _BEGIN)
        if now - self._changed_s > limit and not self._is_stopping:
            self._hangs = True
            self._end_with_stacks()

    def _look(self) -> None:
        assert self._process is not None
        for pid in descendants(self._process.pid):
            if (started := started_at(pid)) is not None:
                self._family[pid] = started

    def _end_with_stacks(self) -> None:
        """Let one process after another write its stacks, by faulthandler, and end."""
        assert self._process is not None
        self._look()
        leader = self._process.pid
        has_launcher = self.job.num_ranks * self.job.num_nodes > 1  # which would end the others with one of its ranks
        ordered = sorted(self._family, key=lambda pid: has_launcher and pid == leader)
        for pid in ordered:  # a rank before its workers, whose deaths it would take for the cause
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
            deadline = time.monotonic() + _END_S
            while started_at(pid) is not None and time.monotonic() < deadline:
                time.sleep(0.01)
        self._end_family()
        self._process.kill()

    def _end_family(self) -> None:
        """End what is left of the run's processes."""
        for pid, started in self._family.items():
            if started_at(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # ------------------------------------------------------------------ what becomes of it
    def _starts(self) -> list[dict[str, Any]]:
        return _training_starts(read_run_file(self.job.work_dir, _ADVICE))

    def _judge(self, code: int) -> Outcome | None:
        """Return how the run ended; None where it is started again."""
        new = self._starts()[self._num_starts :]
        ended = (new[-1].get("ended") if new else None) or {}
        if code == 0 or ended.get("how") == "finished":
            return Outcome("pruned" if self.job.pruned_file.exists() else "finished")
        if ended.get("how") == "stopped" or self._is_stopping:
            return Outcome("stopped", str(ended.get("reason", "it was asked to stop")), 143)
        if code == BUSY:  # another start was faster: its end is waited for
            return None
        if self._node == 0:
            return self._decide(self._fault(code))
        self._num_decisions = self._num_seen
        return None

    def _fault(self, code: int) -> Fault:
        """Return what ended the attempt; of several ranks, what came first and is no consequence of another's end."""
        iteration = self.job.iteration()
        if self._hangs:
            text = f"none for {self.job.policy.silence_s:g} s; the stacks are in {self.job.output}"
            return Fault(HANG, "no iteration", text, iteration)
        found = self.job.faults()
        own = [each for each in found if each.kind != LOST_NODE]
        if own:
            return own[0]
        if _num_memory_kills() > self._num_kills:
            return Fault(OUT_OF_MEMORY, "SIGKILL", "the system ended a process that used too much memory", iteration)
        if found or code < 0 or self.job.num_ranks * self.job.num_nodes > 1:
            name = found[0].error if found else signal.Signals(-code).name if code < 0 else f"{_EXIT_CODE}{code}"
            return Fault(LOST_NODE, name, found[0].text if found else "a process is gone", iteration)
        text = _tail(self.job.output)
        return Fault(MISTAKE if code == 2 else kind_in(text), f"{_EXIT_CODE}{code}", text, iteration)

    def _decide(self, fault: Fault) -> Outcome | None:
        """Answer a fault as the policy says, and write that into ``run.json``."""
        former = self._decisions()
        decision = self.job.policy.decide(fault, former)
        lines = fault.text.strip().splitlines() or [""]
        error = f"{fault.error}: {lines[-1 if fault.error.startswith(_EXIT_CODE) else 0].strip()}"[:300]
        self._unwritten.append(
            {
                "job": self.job.id,
                "attempt": len(former) + 1,
                "fault": fault.kind,
                "iter": fault.iteration,
                "error": error,
                "decision": decision.action,
                "why": decision.why,
                "identity": fault.identity,
                "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )
        self._write_decisions()
        line = f"{fault.kind} at iteration {fault.iteration} ({error}): {decision.action}, {decision.why}"
        self._report(f"{self.job.work_dir}: {line}")
        if decision.action == "stop":
            return Outcome("failed", f"{line}\n{fault.text}", 2 if fault.kind == MISTAKE else 1)
        if decision.action == "skip" and fault.sample is not None:
            self.job.skipped.append(fault.sample[0])
        self._waits_for_space = fault.kind == FULL_DISK
        self.job.resume = self.job.resume or is_own_checkpoint(self.job.work_dir)
        return None

    def _decisions(self) -> list[dict[str, Any]]:
        record = read_run_file(self.job.work_dir, _ADVICE)
        return [each for each in (*record.get("decisions", ()), *self._unwritten) if each["job"] == self.job.id]

    def _write_decisions(self) -> None:
        """Write what was decided into ``run.json``; on a full disk it waits, and the next attempt with it."""
        with contextlib.suppress(OSError):
            while self._unwritten:
                RunFolder(self.job.work_dir).record_decision(self._unwritten[0])
                del self._unwritten[0]

    def _follow(self, num_seen: int) -> Outcome | None:
        """On a further machine: do what the first one decides, when it has."""
        decisions = self._decisions()
        if len(decisions) == num_seen:
            return None
        self._num_decisions = None
        return Outcome("failed", decisions[-1]["why"], 1) if decisions[-1]["decision"] == "stop" else None


def is_own_checkpoint(work_dir: str) -> bool:
    """Return whether the checkpoints in a folder are those of its last start, so that a retry goes on with them."""
    record = read_run_file(work_dir, _ADVICE)
    starts = _training_starts(record)
    return bool(starts) and starts[-1].get("run_id") == record.get("run_id")


def _training_starts(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [start for start in record.get("starts", ()) if start.get("kind", "train") == "train"]


def descendants(pid: int) -> list[int]:
    """Return a process and all below it; the process alone where the system has no ``/proc``."""
    parents: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = Path("/proc", name, "stat").read_text(errors="replace") if name.isdigit() else ""
                parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def _num_memory_kills() -> int:
    """Return how many processes the system has ended for their memory in this container; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = Path("/sys/fs/cgroup/memory.events").read_text().split()
        return int(words[words.index("oom_kill") + 1])
    return 0


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
    return ""
