"""A project of each template, from the wheel alone in a new virtual environment: the commands of its README, and more.

The environment has the wheel; of everything else, such as torch, it sees the packages that these tests run with.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from lazyengine.cli.new import TEMPLATES
from tests.test_wheel import build_wheel, pip

PREDICT = """
import torch
from lazyengine.config import instantiate
from lazyengine.model import val_step
from lazyengine.nesting import iter_leaves
from lazyengine.runs import load

model, config, meta, checkpoint = load("work_dirs/base")
batch = next(iter(instantiate(config.val_loop.dataloader)))
with torch.no_grad():
    predictions = [leaf for _, leaf in iter_leaves(val_step(model, batch)) if isinstance(leaf, torch.Tensor)]
print("predicted", len(predictions), "after iteration", meta["iter"], model.training)
"""

pytestmark = [
    pytest.mark.suite,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.name == "nt", reason="an environment has other folders there"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel, and the folder of its commands."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip("--python", str(python), "install", str(build_wheel(tmp_path_factory.mktemp("wheel"))))
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # behind the wheel on the path
    return folder / "bin"


@pytest.fixture
def run(environment: Path) -> Callable[..., str]:
    """Return what runs a command there, prints how long it took, and returns what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env |= {"PATH": f"{environment}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}

    def run(folder: Path, command: str) -> str:
        begin = time.monotonic()
        done = subprocess.run(
            command, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=1500
        )
        print(f"{time.monotonic() - begin:6.1f} s  {command.splitlines()[0]}")
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    return run


def documented(folder: Path) -> list[str]:
    """The commands of a project's README, without their comments."""
    (block,) = re.findall(r"^```bash\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [line.partition("#")[0].strip() for line in block.splitlines()]


@pytest.mark.parametrize("template", TEMPLATES)
def test_from_an_empty_folder_to_an_exported_model(template, run, tmp_path):
    assert "site-packages/lazyengine" in run(tmp_path, "python -c 'import lazyengine; print(lazyengine.__file__)'")
    run(tmp_path, f"lazyengine new made --template {template}")
    folder = tmp_path / "made"
    printed = {command: run(folder, command) for command in documented(folder)}
    assert "trained, resumed, tested" in printed["lazyengine train configs/base.py --fast-dev-run"]
    assert "2 passed" in printed["python -m pytest"]
    assert "wide" in printed["lazyengine compare work_dirs/base work_dirs/wide"]
    assert "best" in run(folder, "lazyengine sweep configs/sweep.py --trials 4")
    assert len(list((folder / "work_dirs" / "sweep").glob("000?/last_checkpoint"))) == 4
    assert "seeds" in run(folder, "lazyengine compare work_dirs/sweep")
    run(folder, "lazyengine report work_dirs")
    assert (folder / "work_dirs" / "report.html").stat().st_size > 5000
    (folder / "predict.py").write_text(PREDICT)
    assert re.search(r"predicted [1-9]\d* after iteration \d+ False", run(folder, "python predict.py"))
    assert "outputs equal" in run(folder, "lazyengine export work_dirs/base")
    assert run(folder, "lazyengine ps").count("finished") == 6
    assert sys.prefix not in run(folder, "python -c 'import sys; print(sys.prefix)'")
