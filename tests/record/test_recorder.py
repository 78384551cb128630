"""What a start keeps of its code and environment, seen from processes that import projects."""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
import threading
import zipfile

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader

from lazyengine.dataset import DataLoader
from lazyengine.hooks import Hook
from lazyengine.record import changed_code, collect_code, collect_env, environment, load_code, save_code
from lazyengine.record.repository import describe_repository

from ..runner.toy import ToyData, toy_runner
from .project import commit, git, record_in, write

CONFIG = """
    from argparse import Namespace
    from lazyengine.config import LazyCall as L
    from .net import Net
    from .common import width
    model = L(Net)(width=width)
"""
FILES = {
    "pkg/__init__.py": "",
    "pkg/net.py": "class Net:\n    def __init__(self, width):\n        self.width = width\n",
    "pkg/common.py": "width = 3\n",
    "pkg/config.py": CONFIG,
    "pkg/never.py": "secret = 1\n",
    "pkg/late.py": "x = 1\n",
    "pkg/table.csv": "1,2\n",
    "pkg/.env": "PASSWORD=1\n",
    "pkg/credentials.json": "{}",
    "pkg/train.log": "1",
    "pkg/large.txt": "x" * 200_001,
    "other/lib.py": "y = 1\n",
}
LOAD = """
    from lazyengine.config import LazyConfig, instantiate
    cfg = LazyConfig.load("pkg/config.py")
    instantiate(cfg.model)
"""


def test_the_project_its_configs_and_the_data_beside_are_kept(tmp_path):
    write(tmp_path / "a", {**FILES, "pyproject.toml": ""})
    found = record_in(tmp_path / "a", LOAD, "from pkg import late")
    kept = {
        "main.py",
        "pkg/__init__.py",
        "pkg/net.py",
        "pkg/common.py",
        "pkg/config.py",
        "pkg/late.py",
        "pkg/table.csv",
    }
    assert {*found["files"]} == {*kept, "pyproject.toml"}
    assert found["configs"] == ["pkg/config.py", "pkg/common.py"]
    assert found["paths"] == ["."]
    assert found["not_contained"] == {
        "pkg/credentials.json": "may be a secret",
        "pkg/large.txt": "200,001 bytes; up to 200,000 are kept, more with record=[...]",
    }
    assert (found["edited"], found["lines"]) == ([], [])
    assert found["env"]["code"]["hash"] == found["hash"]
    (archive,) = (tmp_path / "a" / "run" / "code").glob("*.zip")  # that of the beginning gave way to the whole one
    assert archive.stem == found["hash"]
    assert {*zipfile.ZipFile(archive).namelist()} == {*found["files"], "manifest.json"}
    assert load_code(archive).hash == found["hash"]


def test_a_package_with_damaged_metadata_stops_no_run_and_a_checkout_hides_no_version(tmp_path, monkeypatch):
    folder = tmp_path / "broken_thing-1.2.dist-info"
    folder.mkdir()
    (folder / "direct_url.json").write_text("{")
    (tmp_path / "checkout" / "broken_thing.egg-info").mkdir(parents=True)  # as a checkout has it, started in its folder
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "checkout"))
    environment._installed_packages.cache_clear()
    try:
        assert collect_env(torch.device("cpu"))["packages"]["broken_thing"] == "1.2"
    finally:
        environment._installed_packages.cache_clear()


def test_the_same_code_in_another_folder_is_kept_once_and_has_the_same_hash(tmp_path):
    hashes = set()
    for name in ("a", "b"):
        write(tmp_path / name, FILES)
        hashes |= {record_in(tmp_path / name, LOAD)["hash"] for _ in range(2)}
    assert len(hashes) == 1
    archives = [archive.read_bytes() for archive in tmp_path.glob("*/run/code/*.zip")]
    assert len(archives) == 2
    assert archives[0] == archives[1]
    assert sum(len(archive) for archive in archives) < 10_000


def test_a_project_on_the_import_path_and_globs(tmp_path):
    """As editable installs are: outside of site-packages, on the path."""
    write(tmp_path / "lib", FILES)
    write(tmp_path / "app", {"data/a.bin": "x" * 300_000, "data/b.bin": "x" * 1_200_000, "data/x.env": "1"})
    body = 'import lib\nrecord = ["data/*"]'
    found = record_in(tmp_path / "app", body, PYTHONPATH=str(tmp_path / "lib" / "other"))
    assert {"data/a.bin", "main.py", "@1/lib.py"} <= {*found["files"]}
    assert [*found["by_hash"]] == ["data/b.bin"]
    assert found["paths"] == [".", "@1"]


@pytest.mark.parametrize("name", ["@1", "@0", "@scope"])
def test_a_folder_may_have_the_name_of_a_further_project(tmp_path, name):
    """As the tree of a re-run has it; what is untracked there counts."""
    write(tmp_path / "a", {**FILES, "pyproject.toml": ""})
    head = commit(tmp_path / "a")
    write(tmp_path / "a", {f"{name}/lib.py": "y = 1\n"})
    found = record_in(tmp_path / "a", LOAD, f"sys.path.insert(0, {name!r}); import lib")
    assert f"{name}/lib.py" in found["files"]
    assert found["lines"] == []
    assert found["env"]["git"]["commit"] == head
    assert f"{name}/lib.py" in str(found["env"]["git"])


def test_beside_a_script_of_no_project_only_what_it_names_is_kept(tmp_path):
    write(tmp_path, {"table.csv": "1", "notes.txt": "1"})
    found = record_in(tmp_path, 'open("table.csv").close()')
    assert found["files"] == ["main.py", "table.csv"]
    assert found["not_contained"] == {"notes.txt": "the code does not name it"}


def test_what_a_run_keeps_beside_its_config_is_no_code(tmp_path):
    start = {"run/start/config.py": "x = 1\n", "run/start/env.json": "{}", "run/start/metrics.jsonl": "{}\n"}
    write(tmp_path, {"pyproject.toml": "", **start})
    load = "from lazyengine.config import LazyConfig\ncfg = LazyConfig.load('run/start/config.py')\n"
    found = record_in(tmp_path, load)
    assert "run/start/config.py" in found["files"]
    assert not [name for name in [*found["files"], *found["not_contained"]] if name.endswith((".json", ".jsonl"))]


def test_a_file_changed_after_its_import_is_named(tmp_path):
    write(tmp_path, FILES)
    edit = 'open("pkg/net.py", "a").write("class More: pass\\n")\n'
    found = record_in(tmp_path, textwrap.dedent(LOAD) + edit)
    assert found["edited"] == ["pkg/net.py"]
    assert "pkg/net.py was changed after it had been imported" in found["lines"][0]
    found = record_in(
        tmp_path, 'open("pkg/net.py", "a").write("class Again: pass\\n")\n' + LOAD.replace("\n    ", "\n")
    )
    assert found["edited"] == []  # before its import, though the process was there


def test_a_file_changed_during_the_training_is_kept_as_it_was_at_the_beginning(tmp_path):
    write(tmp_path, FILES)
    edit = 'from pkg import late\nopen("pkg/net.py", "w").write("class Net: pass\\n")\n'
    found = record_in(tmp_path, LOAD, edit)
    kept = load_code(tmp_path / "run" / "code" / f"{found['hash']}.zip").files
    assert kept["pkg/net.py"].decode() == FILES["pkg/net.py"]
    assert kept["pkg/late.py"].decode() == FILES["pkg/late.py"]
    assert found["env"]["code"]["edited"] == []


def test_cells_of_a_notebook_are_kept(tmp_path):
    body = """
        import linecache
        for number, text in enumerate(["class Net:\\n    depth = 3\\n", "net = Net()\\n"]):
            name = f"/tmp/ipykernel_1/{number}.py"  # as a kernel runs them
            linecache.cache[name] = (len(text), None, text.splitlines(True), name)
            exec(compile(text, name, "exec"))
    """
    found = record_in(tmp_path, body)
    assert {"__notebook__/cell_0.py", "__notebook__/cell_1.py"} <= {*found["files"]}


def test_the_repository_of_the_config_file_and_what_differs_from_its_commit(tmp_path):
    home, elsewhere = write(tmp_path / "home", FILES), tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = commit(home)
    (home / "pkg" / "never.py").write_text("what was not imported does not count\n")
    load = LOAD.replace("pkg/config.py", str(home / "pkg" / "config.py"))
    state = record_in(elsewhere, load)["env"]["git"]
    assert (state["commit"], state["branch"], state["dirty"], state["patch"]) == (first, "trunk", False, "")
    (home / "pkg" / "net.py").write_text(FILES["pkg/net.py"] + "# more\n")
    git(home, "rm", "-q", "--cached", "pkg/common.py")
    git(home, "commit", "-q", "-m", "common.py is not tracked any more")
    state = record_in(elsewhere, load)["env"]["git"]
    assert (state["dirty"], state["differs"], state["untracked"]) == (True, ["pkg/net.py"], ["pkg/common.py"])
    patch = (elsewhere / "run" / state["patch"]).read_text()
    assert "+# more" in patch
    assert "never" not in patch


def test_versions_settings_and_variables_without_secrets(monkeypatch):
    monkeypatch.setenv("OMP_SCHEDULE", "static")
    monkeypatch.setenv("TORCH_API_TOKEN", "secret")
    env = collect_env(torch.device("cpu"))
    assert env["command"] == sys.orig_argv
    assert (env["torch"], env["numpy"], env["device"]) == (torch.__version__, np.__version__, "cpu")
    assert env["packages"]["numpy"] == np.__version__
    assert env["variables"]["OMP_SCHEDULE"] == "static"
    assert "TORCH_API_TOKEN" not in env["variables"]
    assert env["cpu"]["capability"] == torch.backends.cpu.get_cpu_capability()


def test_the_engine_is_recorded_by_its_hash(tmp_path):
    env = record_in(tmp_path, "pass")["env"]
    assert len(env["engine"]["hash"]) == 16
    assert not any(name.startswith("lazyengine") for name in env["code"]["not_contained"])


def test_a_record_that_leads_out_of_its_folder_is_refused(tmp_path):
    record = collect_code()
    record.files = {"../evil.py": b""}
    with pytest.raises(ValueError, match="leads out of it"):
        load_code(save_code(record, tmp_path))
    with pytest.raises(FileNotFoundError, match="never kept"):
        load_code(tmp_path / "none.zip")


def test_a_full_disk_stops_nothing(tmp_path):
    write(tmp_path, {"run/code": "a file in the way", "run/start/env.json": "{}"})
    found = record_in(tmp_path, "pass")
    assert "the code of this start was not kept" in found["lines"][0]


def test_a_disk_that_fills_meanwhile_loses_nothing_that_was_kept(tmp_path):
    late = """
    import lazyengine.record.recorder as module
    save_code = module.save_code
    def save_or_fail(code, folder):
        if "late.py" in code.files:
            raise OSError(28, "No space left on device")
        return save_code(code, folder)
    module.save_code = save_or_fail
    import late
    """
    write(tmp_path, {"pyproject.toml": "", "late.py": "x = 1\n"})
    found = record_in(tmp_path, "pass", late)
    assert "No space left" in found["lines"][-1]
    assert "late.py" in found["files"]
    assert found["env"]["code"]["hash"] == found["hash"]
    assert "main.py" in load_code(tmp_path / "run" / "code" / f"{found['hash']}.zip").files


def test_fingerprints_of_the_data_are_written(tmp_path):
    found = record_in(tmp_path, "import numpy\ndatasets = {'train': numpy.ones(3)}")
    assert found["env"]["data"]["train"]["length"] == 3


def test_what_changed_since_a_kept_version(tmp_path):
    write(tmp_path, FILES)
    first = record_in(tmp_path, LOAD)["hash"]
    (tmp_path / "pkg" / "net.py").write_text(FILES["pkg/net.py"].replace("= width", "= 2 * width"))
    second = record_in(tmp_path, LOAD, f"lines += recorder.changed_code('run/code/{first}.zip')")
    assert [line for line in second["lines"] if not line.startswith("main.py")] == ["pkg/net.py: Net.__init__"]
    folder = tmp_path / "run" / "code"
    lines = changed_code(*(load_code(folder / f"{each}.zip") for each in (first, second["hash"])))
    assert lines == second["lines"]
    assert len([*folder.glob("*.zip")]) == 2


def test_git_is_asked_without_a_pipe_that_a_worker_forked_meanwhile_would_keep_open(tmp_path, monkeypatch):
    """Whoever reads the other end would wait as long as that worker lives: the loop stood still at a checkpoint."""
    write(tmp_path, {"net.py": "width = 3\n"})
    expected = commit(tmp_path)

    def no_pipe(*_):
        raise AssertionError("a pipe was opened")

    monkeypatch.setattr(os, "pipe", no_pipe)
    assert describe_repository(str(tmp_path), [str(tmp_path / "net.py")])["commit"] == expected


class Kept(Hook):
    """Waits until the thread of the record is done, or stands where another one has to let it go on."""

    def __init__(self, stands: threading.Event) -> None:
        self.stands = stands

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for thread in threading.enumerate():
            while thread.name == "record" and thread.is_alive() and not self.stands.is_set():
                thread.join(0.01)


@pytest.mark.parametrize("which", ["ours", "torch's", "validation"])
def test_a_worker_that_is_forked_while_the_record_is_written_waits_for_nothing(tmp_path, monkeypatch, which):
    stands, goes_on = threading.Event(), threading.Event()
    look_for_it = tempfile._get_default_tempdir  # under a lock, which a fork copies as it is

    def slowly(*args):
        if threading.current_thread().name == "record":
            stands.set()
            goes_on.wait(60)
        return look_for_it(*args)

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", slowly)
    runner = toy_runner(str(tmp_path), max_iters=6, val_interval=2, hooks={"kept": Kept(stands)})
    loader = TorchLoader if which == "torch's" else DataLoader
    loop = runner.val_loop if which == "validation" else runner.train_loop
    loop.dataloader = loader(ToyData(), 10, num_workers=1, timeout=20, multiprocessing_context="fork")
    try:
        runner.train()
    finally:
        goes_on.set()
    assert runner.iter == 6
