"""Configs in detectron2's language, written for these tests."""

from __future__ import annotations

import pytest

pytest.importorskip("libcst")

from lazyengine.config import LazyConfig, arguments_of, instantiate, target_of
from lazyengine.port import port_path
from lazyengine.port.prove_configs import StandIns

FILES = {
    "common/train.py": 'train = dict(max_iter=90, amp=dict(enabled=False), output_dir="./out")\n',
    "common/optim.py": """
import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
factor = 3
SGD = L(torch.optim.SGD)(params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.02)
""",
    "common/model.py": """
from collections import Counter, OrderedDict

from detectron2.config import LazyCall as L

model = L(OrderedDict)(
    backbone=L(OrderedDict)(width=4, out="${.width}"),
    heads=L(OrderedDict)(
        classes=80, first=L(OrderedDict)(classes="${..classes}", name="c${..classes}"), old=1, older=2
    ),
)
""",
    "main.py": """
from collections import Counter
from omegaconf import OmegaConf

from detectron2 import model_zoo
from detectron2.config import LazyCall as L, LazyConfig

from .common.model import model

train = model_zoo.get_config("common/train.py").train
optimizer, factor = LazyConfig.load_rel("common/optim.py", ("SGD", "factor"))
again = LazyConfig.load_rel("common/optim.py", "factor")
train.backbone = model_zoo.get_config("common/model.py").model.backbone
dataloader = OmegaConf.create()
dataloader.train = L(Counter)(size=model.backbone.width)
train.max_iter *= 2
train.amp.enabled = True
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
model.heads.pop("old")
[model.heads.pop(k) for k in ["older"]]
model.backbone.update(width=8, depth=3)
model.heads.update(_target_=Counter, boxes=[L(Counter)(classes="${...classes}") for _ in range(2)])
""",
}


@pytest.fixture
def cfg(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "old" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    ported, kinds = port_path(tmp_path / "old", tmp_path / "new")
    assert len(kinds["detectron2 config"]) == 4
    assert not ported.todos
    with StandIns(["detectron2"]):
        yield LazyConfig.load(tmp_path / "new" / "main.py")


def test_plain_dicts_have_attributes_as_before(cfg):
    assert cfg.train.max_iter == 180
    assert cfg.train.amp.enabled is True
    assert cfg.dataloader.train.size == 4


def test_names_of_other_configs_are_imported(cfg):
    assert (cfg.factor, cfg.again) == (3, 3)
    assert cfg.train.backbone is cfg.model.backbone
    assert target_of(cfg.optimizer).__name__ == "SGD"


def test_interpolations_follow_later_changes(cfg):
    model = instantiate(cfg.model)
    assert model["backbone"] == {"width": 8, "out": 8, "depth": 3}
    assert model["heads"]["first"] == {"classes": 80, "name": "c80"}
    assert [box["classes"] for box in model["heads"]["boxes"]] == [80, 80]


def test_dict_methods_become_statements(cfg):
    assert target_of(cfg.model.heads).__name__ == "Counter"
    assert list(arguments_of(cfg.model.heads)) == ["classes", "first", "boxes"]


def test_the_optimizer_gets_parameter_groups(cfg):
    groups = cfg.optimizer.params
    assert target_of(groups).__name__ == "param_groups"
    assert groups.norm_decay_mult == 0.0
    assert groups.custom_keys == {"pos_embed": {"decay_mult": 0.0}}


def test_what_has_no_counterpart_is_a_todo(tmp_path):
    (tmp_path / "a.py").write_text(
        "from detectron2.config import LazyCall as L, LazyConfig\n"
        "model = L(list)()\nmodel.update(other)\nmodel.items()\n"
        'whole = LazyConfig.load_rel("a.py")\nabsent = LazyConfig.load_rel("absent.py", "x")\n'
    )
    ported, _ = port_path(tmp_path / "a.py", tmp_path / "new")
    assert [todo.line for todo in ported.todos] == [3, 5, 7, 9]


@pytest.mark.parametrize(
    "text",
    [
        "from .registry import HEADS_REGISTRY\n\n\ndef build(cfg):\n    return HEADS_REGISTRY.get(cfg.name)(cfg)\n",
        'from detectron2.utils.registry import Registry\n\nHEADS_REGISTRY = Registry("HEADS")\n',
        "from fvcore.common.registry import Registry\n\nheads = Registry('heads')\n",
    ],
)
def test_registries_of_detectron2_stay(tmp_path, text):
    """They are not mmengine's: without them the code that asks for a class by name would break."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "heads.py").write_text(text)
    (tmp_path / "old" / "train.py").write_text(FILES["common/optim.py"])
    port_path(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new" / "heads.py").read_text() == text
