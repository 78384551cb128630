"""Folders made in different ways are run again, from what they keep alone, to the same records and the same state.

Where that is not possible, what is missing is named.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lazyengine.cli import rerun as command
from lazyengine.record import changed_code, load_code
from lazyengine.runs import read_run, rerun

from ..record.project import commit, write
from .toy import FILES, LAYERS, POINTS, make_project
from .training import REPOSITORY, start

# Each makes a run in the folder ``run`` of a folder; what happens to the project afterwards belongs to it.
Way = Callable[[Path], object]


def clean_tree(folder: Path) -> None:
    config = make_project(folder / "home")
    commit(folder / "home")
    start(config, folder / "run")


def dirty_tree(folder: Path) -> None:
    config = make_project(folder / "home")
    commit(folder / "home")
    layers = folder / "home" / "toy" / "layers.py"
    layers.write_text(layers.read_text().replace("1 + self.depth", "2 + self.depth"))
    start(config, folder / "run")
    write(folder / "home" / "toy", {"layers.py": LAYERS})  # the change is undone


def untracked_package(folder: Path) -> None:
    write(folder / "home", {"README": ""})
    commit(folder / "home")
    start(make_project(folder / "home"), folder / "run")
    shutil.rmtree(folder / "home" / "toy")


def edited_after_the_start(folder: Path) -> None:
    start(make_project(folder / "home"), folder / "run")
    for name, text in FILES.items():
        write(folder / "home" / "toy", {name: text.replace("0.5", "0.1").replace("0.01", "0.02")})


def renamed_checkout(folder: Path) -> None:
    start(make_project(folder / "home"), folder / "run")
    (folder / "home").rename(folder / "house")


def deleted_checkout(folder: Path) -> None:
    start(make_project(folder / "home"), folder / "run")
    shutil.rmtree(folder / "home")


def started_from_another_folder(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    start(make_project(folder / "home"), folder / "run", cwd=folder / "elsewhere")


def code_beside_the_config(folder: Path) -> None:
    """No package and no project: modules are found by their folder."""
    write(folder / "home", {name: text for name, text in FILES.items() if name != "__init__.py"})
    net = folder / "home" / "net.py"
    net.write_text(net.read_text().replace("from .layers import Scale", "Scale = __import__('torch').nn.Identity"))
    start(folder / "home" / "config.py", folder / "run")
    shutil.rmtree(folder / "home")


def source_folder_on_the_path(folder: Path) -> None:
    """As an editable install has it, with the config elsewhere."""
    make_project(folder / "home" / "src")
    write(folder / "home", {"pyproject.toml": ""})
    text = FILES["config.py"].replace("from .", "from toy.")
    write(folder / "experiments", {"config.py": text})
    start(folder / "experiments" / "config.py", folder / "run", paths=str(folder / "home" / "src"))
    shutil.rmtree(folder / "home")


def class_of_a_notebook(folder: Path) -> None:
    """A class of ``__main__`` is in the saved config itself."""
    config = make_project(folder / "home")
    cell = """\
        from toy.net import Net
        class Mine(Net):
            def forward(self, x, y, mode="tensor"):
                return super().forward(x * 2, y, mode)
    """
    program = f"""\
        import linecache, sys
        sys.path.insert(0, {str(folder / "home")!r})
        cell, name = {textwrap.dedent(cell)!r}, "/tmp/ipykernel_1/2.py"
        linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)  # as a kernel runs it
        exec(compile(cell, name, "exec"))
        from tests.runs.training import main
        main()
    """
    start(config, folder / "run", "model._target_=__main__.Mine", program=program)


def resumed_twice(folder: Path) -> None:
    config = make_project(folder / "home")
    start(config, folder / "run", "--stop", "6", code=143)
    start(config, folder / "run", "--resume=auto", "--stop", "11", code=143)
    start(config, folder / "run", "--resume=auto")


def killed_and_resumed(folder: Path) -> None:
    config = make_project(folder / "home")
    start(config, folder / "run", "--kill", "8", code=-9)
    start(config, folder / "run", "--resume=auto")


def killed_and_left(folder: Path) -> None:
    start(make_project(folder / "home"), folder / "run", "--kill", "8", code=-9)


def resumed_with_other_code(folder: Path) -> None:
    config = make_project(folder / "home")
    start(config, folder / "run", "--stop", "6", code=143)
    write(folder / "home" / "toy", {"layers.py": LAYERS.replace("1 + self.depth", "3 + self.depth")})
    start(config, folder / "run", "--resume=auto")


def longer_than_it_was(folder: Path) -> None:
    config = make_project(folder / "home")
    start(config, folder / "run", "train_loop.max_epochs=2")
    start(config, folder / "run", "--resume=auto", "train_loop.max_epochs=3")


def forked(folder: Path) -> None:
    config = make_project(folder / "home")
    start(config, folder / "parent", "train_loop.max_epochs=1")
    start(config, folder / "run", "--resume", str(folder / "parent" / "epoch_1.pth"))


def two_ranks(folder: Path) -> None:
    start(make_project(folder / "home"), folder / "run", ranks=2)


def two_workers(folder: Path) -> None:
    start(make_project(folder / "home"), folder / "run", "train_loop.dataloader.num_workers=2")


def kept_data_named_in_the_config(folder: Path) -> None:
    config = make_project(folder / "home")
    start(config, folder / "run", f"dataset.file={folder / 'home' / 'toy' / 'points.csv'}")
    shutil.rmtree(folder / "home")


def saved_elsewhere(folder: Path) -> None:
    """The checkpoints are in a folder of their own, which nothing is written over."""
    config = make_project(folder / "home")
    start(config, folder / "run", f"runner.hooks.checkpoint.out_dir={folder / 'far'}")


def project_digits(folder: Path) -> None:
    small = ("model.width=2", "train_loop.max_iters=12", "train_loop.val_interval=6")
    interval = "default_hooks.checkpoint.interval=6"
    config = REPOSITORY / "projects" / "digits" / "iter_config.py"
    start(config, folder / "run", *small, interval, "default_hooks.logger.interval=3", "--stop", "7", code=143)
    start(config, folder / "run", *small, interval, "default_hooks.logger.interval=3", "--resume=auto")


def project_gan(folder: Path) -> None:
    start(
        REPOSITORY / "projects" / "gan_digits" / "config.py",
        folder / "run",
        *(
            "generator.width=2",
            "discriminator.width=2",
            "generator.noise_size=4",
            "train_loop.dataloader.batch_size=160",
        ),
        *("train_loop.max_epochs=1", "train_loop.val_interval=1", "default_hooks.draw_images.interval=1"),
        *("runner.param_schedulers.generator[0].end=4", "runner.param_schedulers.generator[1].begin=4"),
        *("default_hooks.checkpoint.by_epoch=false", "default_hooks.checkpoint.interval=6"),
    )


def project_shakespeare(folder: Path) -> None:
    write(folder, {"input.txt": ("".join(chr(code) for code in range(33, 97)) + "\n") * 20})
    start(
        REPOSITORY / "projects" / "shakespeare" / "config.py",
        folder / "run",
        *(f"dataset.file={folder / 'input.txt'}", "model.width=16", "model.num_layers=2", "model.num_heads=2"),
        *("dataset.context=16", "val_dataset.num_windows=24", "train_loop.max_iters=8", "train_loop.val_interval=4"),
        *("default_hooks.checkpoint.interval=4", "warmup.end=2", "decay.begin=2", "default_hooks.logger.interval=4"),
        "default_hooks.sample_text.num_characters=20",
    )


def project_fashion_mnist(folder: Path) -> None:
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    for prefix, num in (("train", 64), ("t10k", 32)):
        images, labels = rng.integers(0, 256, (num, 28, 28), np.uint8), np.arange(num, dtype=np.uint8) % 10
        for values, name in ((images, f"{prefix}-images-idx3-ubyte"), (labels, f"{prefix}-labels-idx1-ubyte")):
            content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
            (folder / "data" / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    config = REPOSITORY / "projects" / "fashion_mnist" / "config.py"
    batches = ("train_loop.dataloader.batch_size=16", "val_loop.dataloader.batch_size=16", "train_loop.max_epochs=1")
    roots = [f"{name}.root={folder / 'data'}" for name in ("train_dataset", "test_dataset")]
    start(config, folder / "run", *batches, *roots)


def project_finetune(folder: Path) -> None:
    start(
        REPOSITORY / "projects" / "finetune" / "pretrain_config.py",
        folder / "run",
        *("vit.hidden_size=8", "vit.intermediate_size=8", "vit.num_hidden_layers=2", "vit.num_attention_heads=2"),
        *("train_loop.max_epochs=1", "runner.param_schedulers[0].end=2", "runner.param_schedulers[1].begin=2"),
        "train_loop.dataloader.batch_size=240",
    )


WAYS: list[Way] = [
    clean_tree,
    dirty_tree,
    untracked_package,
    edited_after_the_start,
    renamed_checkout,
    deleted_checkout,
    started_from_another_folder,
    code_beside_the_config,
    source_folder_on_the_path,
    class_of_a_notebook,
    resumed_twice,
    killed_and_resumed,
    killed_and_left,
    resumed_with_other_code,
    longer_than_it_was,
    forked,
    two_ranks,
    two_workers,
    kept_data_named_in_the_config,
    saved_elsewhere,
    project_digits,
    project_gan,
    project_shakespeare,
    project_fashion_mnist,
    project_finetune,
]


@pytest.mark.parametrize(
    "way",
    [*WAYS[:6], *(pytest.param(way, marks=pytest.mark.suite) for way in WAYS[6:])],
    ids=lambda way: getattr(way, "__name__", None),
)
def test_a_run_is_made_again_to_the_same_records_and_state(way, tmp_path):
    way(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = rerun(tmp_path / "run", verify=True)
    assert (done.missing, done.parted) == ([], None)
    assert done.is_equal
    assert done.num_records > 0
    assert {path: path.read_bytes() for path in before} == before


# -------------------------------------------------------------------------- what is refused, and what it then names
def no_code(run: Path) -> None:
    shutil.rmtree(run / "code")


def no_config(run: Path) -> None:
    for file in run.glob("*/config.py"):
        file.unlink()


def no_gpu(run: Path) -> None:
    for file in run.glob("*/env.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "device": "cuda:0", "gpu": "NVIDIA X"}))


def no_parent(run: Path) -> None:
    shutil.rmtree(run.parent / "parent")


def damaged_code(run: Path) -> None:
    (archive,) = (run / "code").glob("*.zip")
    archive.write_bytes(archive.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("way", "harm", "named"),
    [
        (clean_tree, no_code, "the code of start 1: the code .* is not there"),
        (clean_tree, damaged_code, "the code of start 1: .*zip"),
        (clean_tree, no_config, "the config of start 1: it was built by hand"),
        (clean_tree, no_gpu, r"the device cuda:0 \(NVIDIA X\)"),
        (forked, no_parent, "the checkpoint .*epoch_1.pth of run [0-9a-f]{16}, "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_missing_is_named_before_anything_runs(way, harm, named, tmp_path, capsys):
    way(tmp_path)
    harm(tmp_path / "run")
    assert command.main([str(tmp_path / "run"), "--verify"]) == 1
    out = capsys.readouterr().out
    assert re.search(f"missing: {named}", out), out
    assert out.splitlines()[-1] == "not equal"
    assert not (tmp_path / "run_rerun").exists()


def test_data_that_are_gone_are_named(tmp_path):
    config = make_project(tmp_path / "home")
    write(tmp_path, {"far/points.csv": POINTS})
    start(config, tmp_path / "run", f"dataset.file={tmp_path / 'far' / 'points.csv'}")
    shutil.rmtree(tmp_path / "far")
    done = rerun(tmp_path / "run", verify=True)
    assert not done.is_equal
    assert "No such file or directory" in done.missing[0]
    assert "far/points.csv" in done.missing[0]


def test_where_two_runs_part_is_named_with_what_is_other(tmp_path, capsys):
    config = make_project(tmp_path / "home")
    write(tmp_path, {"far/points.csv": POINTS})
    start(config, tmp_path / "run", f"dataset.file={tmp_path / 'far' / 'points.csv'}")
    write(tmp_path, {"far/points.csv": POINTS.replace("0.0,", "0.5,")})
    assert command.main([str(tmp_path / "run"), "--verify", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert re.match(r"record [1-4] of 18, train at step [1-4]: (loss|grad_norm) was \S+ and is ", found["parted"])
    assert not found["is_equal"]
    assert found["folder"] == str(tmp_path / "run_rerun")


def test_a_start_in_the_middle_and_a_folder_by_name(tmp_path):
    resumed_twice(tmp_path)
    done = rerun(tmp_path / "run", start=2, to=tmp_path / "again", verify=True)
    assert (done.starts, done.parted, done.num_records) == ([1, 2], None, 14)
    assert done.missing == ["the final state: the run keeps no checkpoint of it"]
    assert done.is_equal is False
    assert read_run(tmp_path / "again").records[-1]["step"] == 12
    with pytest.raises(ValueError, match="is there already"):
        rerun(tmp_path / "run", to=tmp_path / "again")
    with pytest.raises(ValueError, match="no start 7 that trained; there are: 1, 2, 3"):
        rerun(tmp_path / "run", start=7)


# -------------------------------------------------------------------------- one changed line
NET, LAYER, DATA = "toy/net.py", "toy/layers.py", "toy/data.py"
MUTATIONS = [  # file, a line, what becomes of it, what it is named by
    (NET, "width=8, depth=1", "width=8, depth=2", "Net.__init__"),
    (NET, "nn.Dropout(0.5)", "nn.Dropout(0.4)", "Net.__init__"),
    (NET, "self.scale = Scale(depth)", "self.scale = Scale(depth + 0)", "Net.__init__"),
    (NET, ".squeeze(1)", ".squeeze(1) * 1.5", "Net.forward"),
    (NET, "(out - y).square()", "(out - y).abs()", "Net.forward"),
    (NET, 'if mode == "loss"', 'if mode in ("loss",)', "Net.forward"),
    (NET, '{"error": (out - y)', '{"error": (y - out)', "Net.forward"),
    (NET, "class Net(BaseModel)", "class Net(BaseModel, object)", "Net"),
    (NET, "import torch\n", "import torch, os\n", "<module>"),
    (LAYER, "self.depth = depth", "self.depth = 1 * depth", "Scale.__init__"),
    (LAYER, "1 + self.depth", "2 + self.depth", "Scale.forward"),
    (LAYER, "class Scale(nn.Module)", "class Scale(nn.Module, object)", "Scale"),
    (DATA, '"points.csv"', '"./points.csv"', "FILE"),
    (DATA, "file=FILE", "file=FILE or None", "Points.__init__"),
    (DATA, "line.split", "line.strip().split", "Points.__init__"),
    (DATA, "return len(self.x)", "return 1 * len(self.x)", "Points.__len__"),
    (DATA, "0.1 * torch.randn(4)", "0.2 * torch.randn(4)", "Points.__getitem__"),
    (DATA, "self.x[index].sum()", "self.x[index].mean()", "Points.__getitem__"),
    (DATA, 'data_samples["error"].tolist()', 'list(data_samples["error"].tolist())', "MeanError.process"),
    (DATA, "/ len(results)", "/ max(1, len(results))", "MeanError.compute_metrics"),
]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped, with its project: its folder, and the code that it keeps."""
    folder = tmp_path_factory.mktemp("stopped")
    start(make_project(folder / "home"), folder / "run", "--stop", "6", code=143)
    (archive,) = (folder / "run" / "code").glob("*.zip")
    return folder, load_code(archive)


def test_each_of_20_changed_lines_is_named_with_its_file_and_function(stopped):
    _, code = stopped
    named = []
    for file, line, other, function in MUTATIONS:
        assert code.files[file].decode().count(line) == 1, line
        content = code.files[file].decode().replace(line, other).encode()
        named.append((changed_code(code, replace(code, files={**code.files, file: content})), [f"{file}: {function}"]))
    assert len(named) == 20
    assert [found for found, _ in named] == [expected for _, expected in named]


def test_a_resume_names_all_of_them_and_a_strict_one_refuses_them(stopped, tmp_path):
    folder, _ = stopped
    home, run = Path(shutil.copytree(folder / "home", tmp_path / "home")), tmp_path / "run"
    shutil.copytree(folder / "run", run)
    for file, line, other, _ in MUTATIONS:
        path = home / file
        path.write_text(path.read_text().replace(line, other))
    expected = {f"{file}: {function}" for file, _, _, function in MUTATIONS}
    before = {path: path.read_bytes() for path in run.glob("*.*")}
    done = start(home / "toy" / "config.py", run, "--resume=auto", "+runner.deterministic=strict", code=1)
    assert expected == set(re.search(r"changed since the checkpoint: (.*?)\. Undo", done.stderr)[1].split("; "))
    assert {path: path.read_bytes() for path in before if path.name != "run.json"} == {
        path: content for path, content in before.items() if path.name != "run.json"
    }
    start(home / "toy" / "config.py", run, "--resume=auto")
    changes = json.loads((run / "run.json").read_text())["starts"][-1]["changes"]
    assert expected == {change["path"] for change in changes if change["why"] == "code"}


def test_a_start_costs_little(tmp_path):
    """Less than 200 kB for the code, less than 5 kB more for the same code again (without packages and blame)."""
    config = REPOSITORY / "projects" / "digits" / "config.py"
    small = ("model.width=2", "train_loop.max_epochs=1")
    sizes = []
    for _ in range(2):
        start(config, tmp_path / "run", *small)
        kept = [archive.stat().st_size for archive in (tmp_path / "run" / "code").glob("*.zip")]
        for file in (tmp_path / "run").glob("*/env.json"):
            kept.append(len(json.dumps({**json.loads(file.read_text()), "packages": {}, "blame": []}, indent=1)))
        sizes.append(sum(kept))
    assert sizes[0] < 200_000
    assert sizes[1] - sizes[0] < 5_000
