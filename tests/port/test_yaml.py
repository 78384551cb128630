"""YAML configs of Hydra and LightningCLI, written for these tests."""

from __future__ import annotations

import collections
import os
import re

import pytest

pytest.importorskip("yaml")

from lazyengine.cli.main import main
from lazyengine.config import LazyConfig, arguments_of, instantiate, is_node, target_of
from lazyengine.port import port_path
from lazyengine.port.prove_configs import StandIns
from lazyengine.port.yaml_configs import Composer

HYDRA = {
    "main.yaml": """
defaults:
  - _self_
  - model: small
  - data: blobs
  - optional local: machine
  - experiment: null
  - optim/schedule: cosine
name: first
lr: 1e-3
nested: {a: "${model.width}", text: "w${model.width}-${name}"}
""",
    "model/small.yaml": "_target_: collections.Counter\nwidth: 3\npart: {_target_: math.sqrt, _partial_: true}\n",
    "model/large.yaml": "defaults: [small]\nwidth: 30\ndepth: 2\n",
    "data/blobs.yaml": "size: 5\nroot: ${oc.env:HOME}\nbatch: ${.size}\nlater: ???\n",
    "optim/schedule/cosine.yaml": "T: 7\n",
    "experiment/wide.yaml": """
# @package _global_
defaults:
  - override /model: large
name: wide
model: {width: 99}
data: {size: 6}
""",
}


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def hydra_configs(tmp_path):
    write(tmp_path / "old", HYDRA)
    ported, kinds = port_path(tmp_path / "old", tmp_path / "new")
    assert len(kinds["Hydra config"]) == len(HYDRA)
    assert not ported.todos
    return tmp_path


def test_groups_are_files_that_the_leaf_imports_and_changes(hydra_configs):
    text = (hydra_configs / "new" / "experiment" / "wide.py").read_text()
    assert "from ..model.large import *" in text
    assert "model.width = 99" in text


def test_a_composed_config_builds(hydra_configs):
    cfg = LazyConfig.load(hydra_configs / "new" / "main.py")
    assert cfg.lr == 1e-3
    assert cfg.data["size"] == 5
    assert cfg.optim == {"schedule": {"T": 7}}
    assert cfg.data["root"] == os.environ["HOME"]
    assert not any(isinstance(value, os._Environ) for value in arguments_of(cfg).values())  # it may hold secrets
    built = instantiate(cfg.model)
    assert type(built) is collections.Counter
    assert built["width"] == 3
    cfg.data["later"] = 1
    assert instantiate(cfg)["nested"] == {"a": 3, "text": "w3-first"}
    wide = LazyConfig.load(hydra_configs / "new" / "experiment" / "wide.py")
    assert (wide.name, wide.model.width, wide.model.depth, wide.data["size"]) == ("wide", 99, 2, 6)


def test_compositions_are_those_of_hydra(hydra_configs):
    hydra = pytest.importorskip("hydra")
    omegaconf = pytest.importorskip("omegaconf")
    root = hydra_configs / "old"
    for overrides, choices in (
        ([], {}),
        (["experiment=wide"], {"experiment": "wide"}),
        (["model=large"], {"model": "large"}),
    ):
        with hydra.initialize_config_dir(str(root), version_base="1.3"):
            expected = omegaconf.OmegaConf.to_container(hydra.compose("main", overrides=overrides))
        assert Composer(root).compose(root / "main.yaml", choices).values == expected


def test_a_resolver_is_a_todo(tmp_path):
    (tmp_path / "a.yaml").write_text("_target_: collections.Counter\nfolder: ${mine:x}\n")
    ported, _ = port_path(tmp_path / "a.yaml", tmp_path / "new")
    assert [("folder" in todo.reason, todo.line) for todo in ported.todos] == [(True, 3)]


def test_folders_and_times_of_hydra(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text(
        "a: {_target_: collections.Counter, start: '${hydra:runtime.cwd}', year: 'in ${now:%Y}',"
        " folder: '${hydra:runtime.output_dir}', file: '${a.folder}/x'}\n"
    )
    ported, _ = port_path(tmp_path / "a.yaml", tmp_path / "new")
    assert [todo.reason.partition(": ")[2] for todo in ported.todos] == [
        "this is Hydra's usual folder; write your hydra.run.dir"
    ]
    monkeypatch.chdir(tmp_path / "new")
    built = instantiate(LazyConfig.load("a.py").a)
    assert built["start"] == str(tmp_path / "new")
    assert re.fullmatch(r"in 20\d\d", built["year"])
    assert re.fullmatch(r"outputs/20\d\d-\d\d-\d\d/\d\d-\d\d-\d\d/x", built["file"])


def test_a_proof_says_that_it_compares_configs_of_mmengine_alone(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("_target_: collections.Counter\n")
    assert main(["port", str(tmp_path / "a.yaml"), "--to", str(tmp_path / "new"), "--prove"]) == 0
    assert "nothing is compared" in capsys.readouterr().out


def test_lightning_cli(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "seed_everything: 4\n"
        "trainer:\n  max_epochs: 2\n  callbacks:\n    - class_path: lightning.pytorch.callbacks.Timer\n"
        "      init_args: {duration: 1}\n"
        "model:\n  class_path: collections.OrderedDict\n  init_args: {width: 1e-1}\n"
    )
    ported, kinds = port_path(tmp_path / "a.yaml", tmp_path / "new")
    assert list(kinds) == ["LightningCLI config"]
    assert not ported.todos
    with StandIns(["lightning"]):
        cfg = LazyConfig.load(tmp_path / "new" / "a.py")
    assert cfg.seed_everything == 4
    assert arguments_of(cfg.model) == {"width": 0.1}
    assert target_of(cfg.trainer).__name__ == "Trainer"
    assert is_node(cfg.trainer.callbacks[0])
