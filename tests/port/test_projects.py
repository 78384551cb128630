"""Small projects of Hydra, LightningCLI and detectron2's LazyConfig, ported by the command and trained.

What the original libraries trained them to was written by ``fixtures/generate.py``; mmengine's is in test_mmengine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lazyengine.port import port_path

FIXTURES = Path(__file__).parent / "fixtures"
BY_FIT = """
import json, sys
sys.path.insert(0, ".")
from dots.fit import fit
from lazyengine.config import LazyConfig, arguments_of, instantiate, target_of
import functools
"""
SCRIPTS = {
    "hydra": BY_FIT
    + """
def losses(cfg):
    return fit(instantiate(cfg.model), instantiate(cfg.method), cfg.steps, cfg.size)
""",
    "d2": BY_FIT
    + """
def losses(cfg):
    optimizer = functools.partial(target_of(cfg.optimizer), **arguments_of(cfg.optimizer))
    run = instantiate(cfg.run)
    assert run["note"] == "s6"
    return fit(run["model"], optimizer, run["steps"], run["size"])
""",
    "lightning": """
import json, sys
sys.path.insert(0, ".")
from lazyengine.config import LazyConfig, instantiate
import lightning
def losses(cfg):
    lightning.seed_everything(cfg.seed_everything)
    model = instantiate(cfg.model)
    instantiate(cfg.trainer).fit(model, instantiate(cfg.data))
    return model.losses
""",
}
NAMES = {
    "hydra": {"train": "configs/train.py", "experiment/deep": "configs/experiment/deep.py"},
    "d2": {"main": "configs/main.py"},
    "lightning": {"fit": "fit.py"},
}


@pytest.mark.parametrize("dialect", list(NAMES))
def test_a_ported_project_trains_to_the_numbers_of_its_library(tmp_path, dialect):
    pytest.importorskip({"hydra": "yaml", "lightning": "lightning", "d2": "libcst"}[dialect])
    golden = json.loads((FIXTURES / f"{dialect}_project_golden.json").read_text())
    ported, _ = port_path(FIXTURES / f"{dialect}_project", tmp_path)
    assert not ported.failed
    assert not ported.todos
    assert golden.keys() == NAMES[dialect].keys()
    script = f"{SCRIPTS[dialect]}\nprint(json.dumps([losses(LazyConfig.load(config)) for config in sys.argv[1:]]))"
    command = [sys.executable, "-c", script, *NAMES[dialect].values()]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, found in zip(NAMES[dialect], json.loads(done.stdout.splitlines()[-1])):
        assert found == pytest.approx(golden[name], rel=1e-5)
