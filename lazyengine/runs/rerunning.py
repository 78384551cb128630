"""Make a run again from what its folder keeps: code, configs, and the order of its starts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..config.finding import spell_folder
from ..errors import UsageFileNotFoundError, UsageValueError
from ..fileio.remote import sha256_of
from ..logging import read_metrics
from ..record import CODE_FOLDER, CodeRecord, changed_code, changed_data, collect_env, load_code
from ..text import listed
from .lineage import Start, led_to, led_to_end, metrics_of, parent_of
from .reading import Run, read_run
from .verifying import checkpoints_of, find_difference, hash_of_state

_ENGINE_ROOT = Path(__file__).resolve().parents[2]
_OF_THIS_PROCESS = ("PYTHONPATH", "LD_PRELOAD", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
_MAX_TAIL = 12
_DRIVER = "lazyengine.runs.driver"


@dataclass
class Rerun:
    """What `rerun` did.

    Attributes:
        folder: The new run folder.
        starts: Numbers of the starts that were made again, in order.
        missing: What kept them from being made, or the result from being compared.
        differs: What is other than it was: versions, data, code, processor. It need not change the result.
        parted: At which record the new run parts from the old one, or what is other in the end; None where nothing is.
        num_records: How many records were compared.
        state_iter: At which iteration the states were compared, the last of which the old run kept one; None at none.
        end_iter: Up to which iteration the old run is known to have come.
        is_equal: Whether every record and the final state are equal; None where nothing was compared.
    """

    folder: Path
    starts: list[int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    parted: str | None = None
    num_records: int = 0
    state_iter: int | None = None
    end_iter: int | None = None
    is_equal: bool | None = None

    def as_text(self) -> str:
        """Return it as lines."""
        lines = [f"missing: {line}" for line in self.missing] + [f"differs: {line}" for line in self.differs]
        if self.parted is not None:
            lines.append(f"parted: {self.parted}")
        if self.starts:
            lines.append(f"made again: start {listed(self.starts)} in {self.folder}")
        if self.is_equal:
            is_final = self.state_iter == self.end_iter
            kept = f"the state at iteration {self.state_iter}; the run came to {self.end_iter} and kept no later one"
            lines.append(f"equal: {self.num_records} records and {'the final state' if is_final else kept}")
        elif self.is_equal is not None:
            lines.append("not equal")
        return "\n".join(lines)


def rerun(
    folder: str | os.PathLike[str],
    *,
    to: str | os.PathLike[str] | None = None,
    start: int | None = None,
    verify: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> Rerun:
    """Make a run again: a fresh tree from the kept code, the saved configs, the same starts and resumes.

    Nothing in the folder of the run is changed.

    Args:
        folder: The run folder.
        to: The new run folder; None for the same name with ``_rerun`` behind it. It must not be there.
        start: The number of the start to end with, as ``run.json`` counts; None for the last one that trained.
        verify: Whether to compare every record and the final state.
        report: Called with a line about what is being done.

    Raises:
        ValueError: There is no such start, or the new folder is there already.
    """
    run = read_run(folder)
    chain = chain_of(run, start)
    result = Rerun(_new_folder(run.path, to))
    steps = [Step(run, each, result.folder, is_first=each is chain[0]) for each in chain]
    for step in steps:
        result.missing += [line for line in step.missing() if line not in result.missing]
        result.differs += [line for line in step.differs() if line not in result.differs]
    ends = [each.origin["iter"] for each in chain[1:] if each.origin is not None] + [end_of(run, chain[-1])]
    end, is_left = _end_of_chain(run, chain)
    saved = next(iter(checkpoints_of(folders_of(run), chain[-1].run_id, end if is_left else None)), None)
    keep = ["--keep", str(saved[1])] if verify and saved else []  # it was saved by time, or when asked
    for step, until in zip(steps, ends):
        if result.missing:
            break
        report(f"start {step.start.number}" + (f", up to iteration {until}" if until is not None else ""))
        if (failure := step.make(until, *keep)) is not None:
            result.missing.append(failure)
        else:
            result.starts.append(step.start.number)
    if verify:
        result.is_equal = False
        if not result.missing:
            _verify(run, chain, end, saved, result)
    return result


def chain_of(run: Run, number: int | None = None) -> list[Start]:
    """Return the starts that led to one, in order: those whose checkpoints it and they went on from.

    Raises:
        ValueError: There is no start of that number that trained.
    """
    training = [start for start in run.starts if start.kind == "train"]
    chosen = [start for start in training if number in (None, start.number)]
    if not chosen:
        has = listed([start.number for start in training])
        raise UsageValueError(f"{run.path}: no start {number or ''} that trained; there are: {has}.")
    return led_to_end(run.starts) if number is None else led_to(chosen[-1], training)


def end_of(run: Run, start: Start) -> int | None:
    """Return the iteration at which a start ended; None where it went to its end, or nobody knows."""
    if start.ended is not None:
        return None if start.ended["how"] == "finished" else start.ended["iter"]
    if any(later.number > start.number and later.kind == "train" for later in run.starts):
        return None
    saved = [iteration for _, iteration in checkpoints_of(folders_of(run), start.run_id)]
    recorded = [record["step"] for record in run.records if record["mode"] == "train"]
    return max([*recorded[-1:], *saved[:1]], default=None)


def _out_dirs(run: Run) -> dict[str, str]:
    """Return the folders outside of the run folder in which hooks save, by the path of the argument."""
    found = {path: value for path, value in run.config.items() if path.endswith(".out_dir") and value.startswith('"')}
    return {path: json.loads(value) for path, value in found.items()}


def folders_of(run: Run) -> list[str]:
    """Return the folders in which the checkpoints of a run may lie."""
    cwd = run.starts[-1].env().get("cwd", "") if run.starts else ""
    outside = [os.path.join(cwd, folder) for folder in _out_dirs(run).values()]
    return [str(run.path), *(os.path.join(folder, run.path.name) for folder in outside), *outside]


def _new_folder(path: Path, to: str | os.PathLike[str] | None) -> Path:
    if to is not None:
        if os.path.lexists(to):
            raise UsageValueError(f"{os.fspath(to)} is there already; name a new folder.")
        return Path(os.path.abspath(to))
    names = (f"{path.name}_rerun{number if number > 1 else ''}" for number in range(1, 10_000))
    return next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))


def _end_of_chain(run: Run, chain: list[Start]) -> tuple[int | None, bool]:
    """Return the iteration at which the last start of a chain ended, and whether another one went on from there."""
    later = [s for s in run.starts if s.number > chain[-1].number and s.kind == "train"]
    origins = [s.origin["iter"] for s in later if s.origin and parent_of(s, chain) is chain[-1]]
    return (origins[0], True) if origins else (end_of(run, chain[-1]), False)


def _verify(run: Run, chain: list[Start], end: int | None, saved: tuple[str, int] | None, result: Rerun) -> None:
    """Compare the new run with the old one, record by record, and the last state that the old one kept."""
    try:
        new = read_run(result.folder)
    except UsageFileNotFoundError:
        result.missing.append("records: the new run has none")
        return
    old_records = read_metrics(metrics_of(chain))
    kept, made = (
        [record for record in records if end is None or record["step"] <= end] for records in (old_records, new.records)
    )
    result.num_records = len(kept)
    for start, again in zip(chain, (each for each in new.starts if each.kind == "train")):
        result.differs += [line for line in _differences_of(run, start, new, again) if line not in result.differs]
    result.parted = find_difference(kept, made, is_whole=chain[-1].ended is not None)
    if saved is None:
        result.missing.append("the final state: the run keeps no checkpoint of it")
    elif not (again := checkpoints_of([result.folder], iteration=saved[1])):
        result.missing.append(f"the state at iteration {saved[1]}: the new run has no checkpoint there")
    else:
        steps = [record["step"] for record in kept if record["mode"] == "train"]
        result.state_iter, result.end_iter = saved[1], max([saved[1], *steps[-1:]])
        if result.parted is None and hash_of_state(saved[0]) != hash_of_state(again[0][0]):
            result.parted = f"after the last record: the states in {saved[0]} and {again[0][0]} differ"
    result.is_equal = result.parted is None and not result.missing


def _differences_of(run: Run, start: Start, new: Run, again: Start) -> list[str]:
    """Return what the new run recorded otherwise about the code and data of a start."""
    was, has = start.env(), again.env()
    lines = [f"data of {line}" for line in changed_data(was.get("data", {}), has.get("data", {}))]
    engines = [env.get("engine", {}).get("hash") for env in (was, has)]
    if None not in engines and engines[0] != engines[1]:
        lines.append(f"lazyengine: its code was {engines[0]}, is {engines[1]}")
    return lines + [line for line in code_differences((run, new), (start, again)) if ".py:" in line]


def code_differences(runs: Sequence[Run], starts: Sequence[Start]) -> list[str]:
    """Return what differs in the code of two starts, each of its run, as lines; nothing where one kept none."""
    codes = [start.code for start in starts]
    if None in codes or codes[0] == codes[1]:
        return []
    records = [load_code(run.path / CODE_FOLDER / f"{code}.zip") for run, code in zip(runs, codes)]
    for record, start in zip(records, starts):
        record.tops = start.env().get("code", {}).get("tops", [])
    return [f"code: {line}" for line in changed_code(records[0], records[1])]


# ------------------------------------------------------------------------------------------------- one start
class Step:
    """One start that is made again.

    Args:
        run: The run.
        start: Its start.
        to: The new run folder.
        is_first: Whether nothing was made before it.
        checkpoint: What to go on from; None for what the start itself went on from.
    """

    def __init__(self, run: Run, start: Start, to: Path, is_first: bool, checkpoint: str | None = None) -> None:
        self.run, self.start, self.to, self.is_first, self.checkpoint = run, start, to, is_first, checkpoint
        self.env = start.env()
        self.about_code: dict[str, Any] = self.env.get("code", {})
        self.tree = to / CODE_FOLDER / str(start.code)
        self.code = CodeRecord()
        self.config = start.folder / "config.py"

    def missing(self) -> list[str]:
        """Return what the start cannot be made without, and is not there."""
        lines = []
        name = f"start {self.start.number}"
        if not self.config.is_file():
            lines.append(f"the config of {name}: it was built by hand, and only its own program can make it again")
        if self.start.code is None:
            lines.append(f"the code of {name}: none was kept")
        else:
            try:
                self.code = load_code(self.run.path / CODE_FOLDER / f"{self.start.code}.zip")
            except (OSError, ValueError) as error:
                lines.append(f"the code of {name}: {error}")
        self.code.tops = self.about_code.get("tops", [])
        lines += [f"{file}: only its hash was kept" for file in self.code.by_hash if not self._is_as_kept(file)]
        device = str(self.env.get("device", "cpu"))
        if device.startswith("cuda") and not torch.cuda.is_available():
            lines.append(f"the device {device} ({self.env.get('gpu', 'a GPU')})")
        return lines + (list(self._missing_weights()) if self.checkpoint is None else [])

    def _is_as_kept(self, name: str) -> bool:
        try:
            return sha256_of(self.code.where(name)) == self.code.by_hash[name]
        except (OSError, IndexError):
            return False

    def _missing_weights(self) -> Iterator[str]:
        origin = self.start.origin
        if origin and (path := self.origin_path) is not None:
            if not os.path.isfile(path):
                yield f"the checkpoint {path} of run {origin['run_id']}, which this one went on from"
            elif origin.get("hash") and not sha256_of(path).startswith(str(origin["hash"])):
                yield f"the checkpoint {path}: it is another one than this run went on from"
        weights = self._named_weights()
        if weights in ("best", "latest"):
            yield f"the weights that --checkpoint {weights} named at that time"

    def _named_weights(self) -> str | None:
        """Return what the command line of the start named by ``--checkpoint``."""
        command = [part for word in self.env.get("command", ()) for part in str(word).split("=", 1)]
        is_given = "--checkpoint" in command[:-1] and self.start.origin is None
        return command[command.index("--checkpoint") + 1] if is_given else None

    @property
    def origin_path(self) -> str | None:
        """The checkpoint of another run that a fork went on from; None for other starts."""
        return self._from_cwd(str((self.start.origin or {}).get("path"))) if self.start.is_fork else None

    def _from_cwd(self, path: str) -> str:
        return os.path.join(self.env.get("cwd", ""), path)

    def differs(self) -> list[str]:
        """Return what is other here than it was there, as far as it is known before."""
        if not self.env:
            return []
        now = collect_env(torch.device("cpu"))
        lines = [
            f"{key}: was {self.env[key]}, is {now[key]}"
            for key in ("python", "torch", "platform")
            if self.env.get(key) != now[key]
        ]
        was, has = self.env.get("packages", {}), now["packages"]
        others = [
            f"{name} was {was[name]}, is {has.get(name, 'missing')}" for name in was if was[name] != has.get(name)
        ]
        if others:
            lines.append(f"packages: {listed(others)}")
        capability = self.env.get("cpu", {}).get("capability")
        if capability != now["cpu"]["capability"]:
            lines.append(f"processor: was {capability}, is {now['cpu']['capability']}")
        return lines

    def make(self, end: int | None, *options: str, is_interactive: bool = False, is_light: bool = False) -> str | None:
        """Make the start again, up to an iteration, and return why it failed, or None.

        Args:
            end: The iteration; None for its end.
            *options: Further options of the driver.
            is_interactive: Whether the process has this one's terminal, instead of a log.
            is_light: Whether nothing is computed whose bits matter, so that a fork of this process, which has imported
                torch already, does as well.
        """
        self._lay_out()
        config = self.tree / f"start_{self.start.number}_config.py"
        config.write_text(self._moved(self.config.read_text(encoding="utf-8")), encoding="utf-8")
        args = ["--config", str(config), "--work-dir", str(self.to)]
        args += [*options, *(f"--leave-out={index}" for index in self.start.about.get("left_out", ()))]
        if self.checkpoint is not None or self.start.origin is not None:
            if (path := self.checkpoint or self._checkpoint()) is None:
                where = (self.start.origin or {})["iter"]
                return f"the checkpoint at iteration {where}: the start before did not save it again"
            args += ["--resume", path]
        elif (weights := self._named_weights()) is not None:
            args += ["--weights", weights if "://" in weights else self._from_cwd(weights)]
        if end is not None:
            args += ["--stop", str(end)]
        args += [f"{path}=None" for path in _out_dirs(self.run)]  # into the new run folder, not over the old files
        cwd = self.env.get("cwd", "")
        cwd = cwd if os.path.isdir(cwd) else str(self.tree)
        log = self.to / f"start_{self.start.number}.log"
        ranks = self.env.get("world_size", 1)
        if is_light and ranks == 1 and self._may_fork():
            code = _run_in_fork(args, cwd, self._environment(), log)
        else:
            code = _run(args, ranks, cwd, self._environment(), None if is_interactive else log)
        if code == 0:
            return None
        if is_interactive:
            return f"start {self.start.number} failed with code {code}, as is said above"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_MAX_TAIL:] if log.exists() else []
        not_kept = [name for name in self.about_code.get("not_contained", {}) if not (self.tree / name).exists()]
        hint = f"\n  not kept with the code: {listed(not_kept)}" if not_kept else ""
        shown = "\n    ".join(tail)
        return f"start {self.start.number} failed with code {code}; {log} ends with\n    {shown}{hint}"

    def _may_fork(self) -> bool:
        """Return whether a fork of this process is as good as a new one: no threads, and none of the run's modules."""
        kept = {self.code.where(name) for name in self.code.files if self.code.tops and not name.startswith("__")}
        imported = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        is_plain = hasattr(os, "fork") and threading.active_count() == 1 and not torch.cuda.is_initialized()
        return is_plain and not kept & imported

    def _checkpoint(self) -> str | None:
        """Return the checkpoint to go on from: of the new folder, or of another run."""
        origin = self.start.origin or {}
        if self.origin_path is not None:
            return self.origin_path
        folders = folders_of(self.run) if self.is_first else [str(self.to)]  # what made it is not known any more
        found = [path for path, _ in checkpoints_of(folders, iteration=origin["iter"])]
        same = [path for path in found if os.path.basename(path) == os.path.basename(origin.get("path") or "")]
        return next(iter([*same, *found]), None)

    def _lay_out(self) -> None:
        """Write the kept files, and links to the data beside them that were not kept."""
        if self.tree.exists():
            return
        for name, content in self.code.files.items():
            path = self.tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.tree.mkdir(parents=True, exist_ok=True)
        (self.tree / "pyproject.toml").touch()  # the top of a project
        names = [*self.code.by_hash, *self.about_code.get("not_contained", {})]
        for name in names if self.code.tops else ():
            self._link(self.code.where(name), self.tree / name)
        for folder in {os.path.dirname(name) for name in self.code.files if not name.startswith(("__", "@files"))}:
            original = self.code.where(folder) if self.code.tops else ""
            for entry in os.scandir(original) if os.path.isdir(original) else ():
                if entry.is_dir() and not entry.name.startswith((".", "__")) and not _holds_code(entry.path):
                    self._link(entry.path, self.tree / folder / entry.name)

    def _link(self, original: str, path: Path) -> None:
        if os.path.exists(original) and not os.path.lexists(path) and not self.to.is_relative_to(original):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(original)

    def _moved(self, text: str) -> str:
        """Return the config with the names of kept files, and of modules named by their folder, in the new tree."""
        for name in sorted(self.code.files, key=len, reverse=True):
            for quote in "\"'" if self.code.tops and not name.startswith("__") else "":
                text = text.replace(f"{self.code.where(name)}{quote}", f"{self.tree / name}{quote}")
        tops = {top: str(self.tree / (f"@{number}" if number else "")) for number, top in enumerate(self.code.tops)}
        if not tops:
            return text
        ordered = sorted(tops, key=len, reverse=True)  # one may lie in another, and the new tree in one of them
        spelled = {spell_folder(top): spell_folder(new) for top, new in tops.items()}
        names = "|".join(re.escape(spell_folder(top)) for top in ordered)
        text = re.sub(rf"(?<=by_path\.)({names})(?=_2f|[.\s:])", lambda found: spelled[found[1]], text)
        if (roots := re.search(r"^__roots__ = \{(?:.*\}$|\n(?:    .*\n)*\})", text, re.MULTILINE)) is not None:
            folders = "|".join(map(re.escape, ordered))
            moved = re.sub(rf"(?<=: ['\"])({folders})(?=['\"/])", lambda found: tops[found[1]], roots[0])
            text = text.replace(roots[0], moved)
        return text

    def _environment(self) -> dict[str, str]:
        recorded = {k: v for k, v in self.env.get("variables", {}).items() if k not in _OF_THIS_PROCESS}
        paths = [str(self.tree / path) for path in self.code.paths]
        paths += [str(_ENGINE_ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        threads = {"OMP_NUM_THREADS": str(self.env["num_threads"])} if "num_threads" in self.env else {}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(_OF_A_RANK)}
        return {**inherited, **recorded, **threads, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _run(args: Sequence[str], ranks: int, cwd: str, env: dict[str, str], log: Path | None) -> int:
    """Run the driver in new processes, with a log or with this one's terminal; return the exit code."""
    command = [sys.executable, "-P", "-m", _DRIVER, *args]
    if ranks > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command = [*launcher, "--no-python", *command]
    if log is None:
        with _ignoring_interrupt():
            return subprocess.run(command, cwd=cwd, env=env, check=False).returncode
    with open(log, "wb") as out:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
        return subprocess.run(command, cwd=cwd, env=env, **streams, check=False).returncode


def _run_in_fork(args: Sequence[str], cwd: str, env: dict[str, str], log: Path) -> int:
    """Run the driver in a fork of this process; return the exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code: Any = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT, 0o666)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (out, 2)):
            os.dup2(descriptor, target)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)
        sys.argv[1:] = args
        runpy.run_module(_DRIVER, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


@contextlib.contextmanager
def _ignoring_interrupt() -> Iterator[None]:
    """Leave Ctrl-C to a process that has this one's terminal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _holds_code(folder: str) -> bool:
    return any(name.endswith((".py", ".log")) or name == CODE_FOLDER for name in os.listdir(folder))
