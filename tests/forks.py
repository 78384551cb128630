"""Python processes that are forks of one that has imported the engine: each costs a test no import of torch.

`run` is called as `subprocess.run` with ``[sys.executable, *args]``; the process is another one only in that modules of
torch and lazyengine are there already. Where that matters (what is imported, the import path of lazyengine itself,
options of the interpreter, signals from outside, several ranks), a test starts a process of its own.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import functools
import gc
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NoReturn

REPO = Path(__file__).resolve().parents[1]
TIMEOUT = "timeout"
"""What stands for the exit code of a process that ran too long."""
_READ_AT_START = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "TORCH", "CUDA", "LD_", "ATEN_", "KMP_")
_IMPORTED = (
    "lazyengine.analysis", "lazyengine.cli.main", "lazyengine.cli.train", "lazyengine.dist", "lazyengine.evaluator",
    "lazyengine.hooks", "lazyengine.model", "lazyengine.optim", "lazyengine.record", "lazyengine.runner",
    "lazyengine.runs", "lazyengine.sweep", "lazyengine.visualization", "numpy", "torch.distributed",
    "torch.utils.data", "torch.utils.tensorboard",
)  # fmt: skip


def run(
    args: Sequence[str], *, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 280
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end and return what it printed.

    Args:
        args: Its arguments: ``-c CODE``, ``-m MODULE`` or a script, and what follows.
        cwd: The folder to start in.
        env: The environment, whole; None for that of this process.
        timeout: In seconds.

    Raises:
        TimeoutExpired: It ran longer, and was killed with what it had started.
    """
    env = dict(os.environ if env is None else env)
    return _python(tuple(sorted(_read_at_start(env).items()))).run(args, os.fspath(cwd or os.getcwd()), env, timeout)


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_START) and name != "PYTHONPATH"}


@functools.cache
def _python(read_at_start: tuple[tuple[str, str], ...]) -> _Python:
    """Return the process to fork for what an interpreter or a library reads from its environment as it starts."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(_READ_AT_START)}
    python = _Python([__file__], others | dict(read_at_start))
    atexit.register(python.close)
    return python


class Server:
    """A Python process that `serve`s: it answers requests one after another, and forks for each.

    Args:
        args: Its arguments.
        env: Its environment, whole.
    """

    def __init__(self, args: Sequence[str], env: dict[str, str], cwd: str | Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *args], env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def ask(self, request: dict[str, Any]) -> Any:
        """Return the answer to a request; an AssertionError where the process has ended."""
        self._requests.write(json.dumps(request, default=str) + "\n")
        self._requests.flush()
        answer = self._answers.readline()
        assert answer, f"the process that is forked ended at {request}"
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        with self._requests, self._answers, contextlib.suppress(BrokenPipeError):
            self._requests.write("null\n")  # the pipe may have no end: a worker that was forked here holds it too
            self._requests.flush()
            self._process.wait(60)


class _Python(Server):
    def __init__(self, args: Sequence[str], env: dict[str, str]) -> None:
        super().__init__(args, env)
        self._folder = tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))

    def run(
        self, args: Sequence[str], cwd: str, env: dict[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Fork for one request and return how it ended."""
        printed = [os.path.join(self._folder, name) for name in ("out", "err")]
        request = {"args": list(args), "cwd": cwd, "env": env, "timeout_s": timeout_s, "printed": printed}
        code = self.ask(request)
        out, err = (Path(path).read_text(encoding="utf-8") for path in printed)
        if code == TIMEOUT:
            raise subprocess.TimeoutExpired(list(args), timeout_s, out, err)
        return subprocess.CompletedProcess([sys.executable, *args], code, out, err)

    def close(self) -> None:
        """End the process."""
        super().close()
        for path in Path(self._folder).iterdir():
            path.unlink()
        os.rmdir(self._folder)


# ------------------------------------------------------------------------------------------- in the process to fork
def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer requests, one JSON line each, until there is a null or no more."""
    while (request := json.loads(sys.stdin.readline() or "null")) is not None:
        print(json.dumps(answer(request)), flush=True)


def wait_for(pids: Sequence[int], timeout_s: float) -> dict[int, int | str]:
    """Return the exit codes of processes that lead groups, by pid in the order of their ends.

    A code is negative for a signal; what runs longer than the timeout is killed with its group and has `TIMEOUT`.
    """
    codes: dict[int, int | str] = {}
    end = time.monotonic() + timeout_s
    while True:
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        if len(codes) == len(pids):
            return codes
        if time.monotonic() > end:
            for pid in [pid for pid in pids if pid not in codes]:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes[pid] = TIMEOUT
        time.sleep(0.002)


def lead_group() -> None:
    """In a forked process: lead a group of its own, and end by SIGHUP as usual."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup, under which tests may run, ignores


def leave(code: int) -> NoReturn:
    """End a forked process as an interpreter ends."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _import_all() -> None:
    del sys.path[0]  # the folder of this file
    sys.path.insert(0, str(REPO))
    for name in _IMPORTED:
        __import__(name)
    del sys.path[0]
    assert threading.active_count() == 1, "a process to fork has one thread"
    gc.collect()
    gc.freeze()


def _run(request: dict[str, Any]) -> int | str:
    pid = os.fork()
    if pid == 0:
        _become(request)
    return wait_for([pid], request["timeout_s"])[pid]


def _become(request: dict[str, Any]) -> None:
    """Be the process that a request asks for, to its end."""
    lead_group()
    streams = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in request["printed"]]
    for target, stream in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["lazyengine.record.code"]._STARTED = time.time()  # type: ignore[attr-defined]
    leave(_code_of_exit(request["args"]))


def _code_of_exit(args: list[str]) -> int:
    """Run what the arguments say, as an interpreter does, and return its exit code."""
    try:
        _run_main(args)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename in (__file__, "<frozen runpy>"):
            frames = frames.tb_next
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _run_main(args: list[str]) -> None:
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __spec__=None)
    sys.modules["__main__"] = main
    sys.orig_argv = [sys.executable, *args]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    kind, rest = args[0], args[1:]
    if kind == "-c":
        sys.path[:0] = ["", *paths]
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.path[:0] = [os.getcwd(), *paths]
        sys.argv = ["-m", *rest[1:]]
        runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]
    else:
        assert not kind.startswith("-"), f"an option of the interpreter needs a process of its own: {kind}"
        script = os.path.abspath(kind)
        sys.path[:0] = [os.path.dirname(script), *paths]
        sys.argv = list(args)
        vars(main).update(__file__=script, __loader__=SourceFileLoader("__main__", script))
        exec(compile(Path(script).read_bytes(), script, "exec"), vars(main))


if __name__ == "__main__":
    _import_all()
    serve(_run)
