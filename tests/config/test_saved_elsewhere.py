"""A saved config is the same experiment: from any folder, beside other clones, after its checkout moved or went."""

import shutil
import sys
from pathlib import Path

import pytest

from lazyengine.config import ConfigImportError, LazyConfig, instantiate
from lazyengine.record import code as record
from tests.imports import forget_modules_of

CODE = """
from .scale import SCALE
class Net:
    def __init__(self, width=1):
        self.width = width * SCALE
def double(x):
    return 2 * x
"""
CONFIG = (
    "from lazyengine.config import LazyCall as L, ref\nfrom .net import Net, double\n"
    "net = L(Net)(width=3)\nn = 4\nm = ref('n', double)\n"
)


@pytest.fixture
def clone_of(tmp_path, monkeypatch):
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)

    def make(name, scale, package="", depth=""):
        root = tmp_path / name
        folder = root / package if package else root / "flat"
        folder.mkdir(parents=True)
        (root / "pyproject.toml").touch()
        if package:
            (folder / "__init__.py").touch()
        (folder / "net.py").write_text(CODE)
        (folder / "scale.py").write_text(f"SCALE = {scale}\ndef f(): ...\n")
        (folder / "config.py").write_text(CONFIG)
        return folder

    yield make
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def forget(tmp_path):
    """As in a process of its own."""
    forget_modules_of(tmp_path)
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(tmp_path))]


def saved(folder, tmp_path, name):
    out = tmp_path / "runs" / name
    out.mkdir(parents=True)
    assert LazyConfig.save(LazyConfig.load(folder / "config.py"), out / "config.py") == []
    return out / "config.py"


@pytest.mark.parametrize("package", ["", "pkg"])
def test_two_clones_in_one_process(clone_of, tmp_path, package):
    files = {}
    for scale, name in ((10, "one"), (100, "two")):
        files[scale] = saved(clone_of(name, scale, package), tmp_path, name)
        forget(tmp_path)
    for scale, file in [*files.items(), *reversed(files.items())]:
        cfg = LazyConfig.load(file)
        assert instantiate(cfg.net).width == 3 * scale
        assert instantiate(cfg)["m"] == 8


def test_a_file_of_the_same_name_in_the_current_folder_is_not_taken(clone_of, tmp_path, monkeypatch):
    file = saved(clone_of("one", 10), tmp_path, "one")
    forget(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "flat").mkdir(parents=True)
    for folder in (elsewhere, elsewhere / "flat"):
        (folder / "net.py").write_text("class Net:\n    def __init__(self, width): raise SystemExit\n")
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(elsewhere)
    assert instantiate(LazyConfig.load(file).net).width == 30
    import flat.net  # type: ignore[import-not-found]

    assert Path(flat.net.__file__).is_relative_to(elsewhere)


def test_saved_twice_over_it_stays_the_same_project(clone_of, tmp_path):
    one = saved(clone_of("one", 10), tmp_path, "one")
    forget(tmp_path)
    LazyConfig.load(clone_of("two", 100) / "config.py")  # its names are taken now
    again = tmp_path / "again.py"
    LazyConfig.save(LazyConfig.load(one), again)
    forget(tmp_path)
    assert instantiate(LazyConfig.load(again).net).width == 30


def test_a_deleted_checkout_is_refused_and_never_another_ones(clone_of, tmp_path):
    folder = clone_of("one", 10)
    file = saved(folder, tmp_path, "one")
    forget(tmp_path)
    LazyConfig.load(clone_of("two", 100) / "config.py")
    shutil.rmtree(folder)
    with pytest.raises(ConfigImportError, match=r"config\.py:\d+: no module 'flat\.net' in .*one.*__roots__"):
        LazyConfig.load(file)


@pytest.mark.parametrize("place", ["beside", "above"])
def test_a_deleted_checkout_is_replaced_by_the_code_that_was_kept(clone_of, tmp_path, place):
    folder = clone_of("one", 10)
    file = saved(folder, tmp_path, "one")
    kept = record.collect_code()
    record.save_code(kept, file.parent / "code")
    forget(tmp_path)
    LazyConfig.load(clone_of("two", 100) / "config.py")
    shutil.rmtree(folder)
    if place == "above":
        (file.parent / "start").mkdir()
        file = Path(shutil.copy(file, file.parent / "start"))
    assert instantiate(LazyConfig.load(file).net).width == 30


def test_a_moved_checkout_is_named_in_the_file(clone_of, tmp_path):
    folder = clone_of("one", 10)
    file = saved(folder, tmp_path, "one")
    forget(tmp_path)
    shutil.move(folder.parent, tmp_path / "moved")
    with pytest.raises(ConfigImportError, match="__roots__"):
        LazyConfig.load(file)
    file.write_text(file.read_text().replace(str(folder.parent), str(tmp_path / "moved")))
    assert instantiate(LazyConfig.load(file).net).width == 30


@pytest.mark.parametrize("package", [True, False])
def test_absolute_imports_of_a_second_clone_are_refused(clone_of, tmp_path, package):
    files = []
    for name, scale in (("one", 10), ("two", 100)):
        folder = clone_of(name, scale)
        (folder / "net.py").write_text(CODE.replace("from .scale", "from flat.scale"))
        if package:
            (folder / "__init__.py").touch()
        files.append(saved(folder, tmp_path, name))
        forget(tmp_path)
    assert instantiate(LazyConfig.load(files[0]).net).width == 30
    with pytest.raises(ConfigImportError, match=r"two.*imports 'flat\.scale'.*one.*another project"):
        LazyConfig.load(files[1])


def test_training_from_a_saved_config_leaves_it_as_it_is(clone_of, tmp_path):
    file = saved(clone_of("one", 10), tmp_path, "one")
    file.write_text("# mine\n" + file.read_text())
    cfg = LazyConfig.load(file)
    LazyConfig.save(cfg, file)
    assert file.read_text().startswith("# mine")
    cfg.net.width = 4
    LazyConfig.save(cfg, file)
    assert "width=4" in file.read_text()
