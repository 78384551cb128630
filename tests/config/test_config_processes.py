"""Classes beside a config in other processes: spawned workers, fresh interpreters, several ranks."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import lazyengine
from lazyengine.config import LazyConfig, instantiate

ROOT = str(Path(lazyengine.__file__).parents[1])
CODE = """
from .parts import SCALE
class Net:
    def __init__(self, width=1):
        self.width = width
    def __call__(self, x):
        return x * self.width * SCALE
"""
CONFIG = "from lazyengine.config import LazyCall\nfrom .code import Net\nnet = LazyCall(Net)(width=3)\n"
LAYOUTS = {
    "package": ("a/__init__.py", "a/b/__init__.py"),
    "project": ("pyproject.toml",),
    "bare folder": (),
    "odd folder": (),
}


@pytest.fixture(params=LAYOUTS)
def config_file(request, tmp_path):
    folder = tmp_path / ("a/b" if request.param != "odd folder" else "v1.0 - é/b")
    folder.mkdir(parents=True)
    files = {folder / "config.py": CONFIG, folder / "code.py": CODE, folder / "parts.py": "SCALE = 10\ndef f(): ...\n"}
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    for name in LAYOUTS[request.param]:
        (tmp_path / name).touch()
    modules, path = set(sys.modules), list(sys.path)
    yield folder / "config.py"
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_objects_go_to_workers(config_file, method):
    net = instantiate(LazyConfig.load(config_file).net)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:  # it waits for its workers to end
        assert list(pool.map(net, [1, 2])) == [30, 60]


def test_objects_load_in_a_fresh_process(config_file, tmp_path):
    net = instantiate(LazyConfig.load(config_file).net)
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(net))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))(2))"
    # As Python users know it: a module of a project is found from the project's root, a nameless folder's by its path.
    paths = os.pathsep.join([ROOT, str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "net.pkl")],
        env={"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.stdout == "60\n", done.stderr


def test_each_rank_loads_the_same_names_from_anywhere(config_file, tmp_path):
    code = (
        "import sys; from lazyengine.config import LazyConfig, instantiate\n"
        "net = instantiate(LazyConfig.load(sys.argv[1]).net); print(type(net).__module__, net(1))"
    )
    outputs = []
    for rank, cwd in enumerate(["/", tmp_path, config_file.parent]):
        environment = {"PYTHONPATH": ROOT, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "3"}
        done = subprocess.run(
            [sys.executable, "-c", code, os.path.relpath(config_file, cwd)],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
        )
        outputs.append(done.stdout or done.stderr)
    assert outputs[0].endswith(" 30\n")
    assert outputs == [outputs[0]] * 3


def test_import_needs_nothing_heavy():
    code = (
        "import sys, lazyengine.config\n"
        "heavy = {'torch', 'numpy', 'inspect', 'ast', 'difflib', 'cloudpickle', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ROOT})
