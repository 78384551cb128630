"""Options of single parameters: the numbers of mmengine, layer-wise decay, grouping, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lazyengine.config import LazyCall, instantiate
from lazyengine.optim import OptimWrapper, param_group_table, param_groups

from .golden.networks import PARAMWISE, Network

GOLDEN = json.loads((Path(__file__).parent / "golden" / "optim_wrapper.json").read_text(encoding="utf-8"))["paramwise"]


def options_by_name(optimizer: torch.optim.Optimizer, *keys: str) -> dict[str, dict[str, Any]]:
    return {
        name: {key: group[key] for key in keys} for group in optimizer.param_groups for name in group["param_names"]
    }


@pytest.mark.parametrize("name", PARAMWISE)
@pytest.mark.parametrize("group_by", ["options", "key", "param"])
def test_every_parameter_gets_the_numbers_of_mmengine(name: str, group_by: str) -> None:
    network = Network()
    options = {option: value for option, value in PARAMWISE[name].items() if option != "dcn_offset_lr_mult"}
    groups = param_groups(network, group_by=group_by, **options)  # it has no deformable layers, which is refused here
    optimizer = torch.optim.SGD(groups, lr=0.01, weight_decay=0.05, momentum=0.9)
    OptimWrapper(optimizer)
    assert options_by_name(optimizer, "lr", "weight_decay", "momentum") == GOLDEN[name]
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    for group in optimizer.param_groups:
        assert [by_id[id(parameter)] for parameter in group["params"]] == group["param_names"]


def test_it_works_inside_a_config_where_only_the_optimizer_knows_the_base_values() -> None:
    model = LazyCall(Network)()
    groups = LazyCall(param_groups)(model=model, custom_keys={"backbone": {"lr_mult": 0.1}}, norm_decay_mult=0.0)
    optimizer = LazyCall(torch.optim.AdamW)(params=groups, lr=1e-3, weight_decay=0.05)
    wrapper = instantiate(LazyCall(OptimWrapper)(optimizer=optimizer))
    options = options_by_name(wrapper.optimizer, "lr", "weight_decay")
    assert options["backbone.bn1.weight"] == {"lr": 1e-3 * 0.1, "weight_decay": 0.05}
    assert options["neck.1.weight"] == {"lr": 1e-3, "weight_decay": 0.0}
    assert options["head.weight"] == {"lr": 1e-3, "weight_decay": 0.05}


def test_equal_options_share_a_group_and_keys_or_parameters_can_have_their_own() -> None:
    keys = {"custom_keys": {"neck": {"lr_mult": 0.5}, "head": {"lr_mult": 0.5}, "scale": {"lr_mult": 1.0}}}
    assert len(param_groups(Network(), **keys)) == 2
    by_key = param_groups(Network(), **keys, group_by="key")
    assert [group["name"] for group in by_key] == ["scale", "(no key)", "neck", "head"]
    count = sum(parameter.requires_grad for parameter in Network().parameters())
    assert len(param_groups(Network(), **keys, group_by="param")) == count


def test_frozen_parameters_are_left_out_and_may_be_matched_by_a_key() -> None:
    groups = param_groups(Network(), custom_keys={"frozen": {"lr_mult": 0.1}})
    assert not any("frozen" in name for group in groups for name in group["param_names"])
    with pytest.raises(ValueError, match="no trainable parameter"):
        param_groups(nn.Linear(2, 2).requires_grad_(False))


def test_any_option_of_the_optimizer_can_be_set_and_a_wrong_one_is_named() -> None:
    network = Network()
    groups = param_groups(network, custom_keys={"head": {"betas": (0.5, 0.9), "lr": 0.7}})
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    assert options_by_name(optimizer, "lr", "betas")["head.bias"] == {"lr": 0.7, "betas": (0.5, 0.9)}
    assert options_by_name(optimizer, "lr", "betas")["scale"] == {"lr": 0.1, "betas": (0.9, 0.999)}
    wrong = torch.optim.AdamW(param_groups(network, custom_keys={"head": {"beta": (0.5, 0.9)}}), lr=0.1)
    with pytest.raises(ValueError, match=r"sets 'beta', but AdamW has no such option.*Did you mean 'betas'"):
        OptimWrapper(wrong)
    rprop = torch.optim.Rprop(param_groups(network, norm_decay_mult=0.0), lr=0.1)
    with pytest.raises(ValueError, match="decay_mult is given but Rprop has no weight_decay"):
        OptimWrapper(rprop)


def test_a_tensor_as_learning_rate_is_multiplied_too() -> None:
    groups = param_groups(Network(), custom_keys={"head": {"lr_mult": 0.5}})
    optimizer = torch.optim.Adam(groups, lr=torch.tensor(0.25), foreach=False)
    assert sorted(float(group["lr"]) for group in optimizer.param_groups) == [0.125, 0.25]


def test_an_optimizer_that_drops_the_multipliers_is_refused() -> None:
    class Copying(torch.optim.SGD):
        def add_param_group(self, param_group: dict[str, Any]) -> None:
            super().add_param_group(dict(param_group))

    optimizer = Copying(param_groups(Network(), custom_keys={"head": {"lr_mult": 0.5}}), lr=0.1)
    with pytest.raises(ValueError, match=r"Copying ignored lr_mult=0\.5"):
        OptimWrapper(optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"custom_keys": {"bakbone": {"lr_mult": 0.1}}}, "'bakbone' is part of no parameter name.*'backbone'"),
        ({"custom_keys": {"backbone.layer3": {}}}, "Did you mean 'backbone.layer"),
        ({"custom_keys": {"zzz": {}}}, "Its modules are scale, query, backbone, neck, head, frozen"),
        ({"custom_keys": {"head": {"lr_mul": 0.1}}}, "unknown option 'lr_mul'. Did you mean 'lr_mult'"),
        ({"custom_keys": {"head": {"lr_mult": -1}}}, "must be a number from 0 on; got -1"),
        ({"custom_keys": {"head": {"lr_mult": 1, "lr": 1}}}, "give lr_mult or lr, not both"),
        ({"norm_decay_mult": -0.5}, "norm_decay_mult must be a number from 0 on; got -0.5"),
        ({"bias_lr_mult": "2"}, "bias_lr_mult must be a number from 0 on; got '2'"),
        ({"group_by": "layer"}, "group_by must be one of"),
        ({"layer_decay": 1.5}, r"layer_decay must be in \(0, 1\]; got 1.5"),
        ({"layer_id": len}, "layer_id is only used with layer_decay"),
        ({"layer_decay": 0.5}, r"no parameter name holds a numbered block"),
        ({"layer_decay": 0.5, "layer_id": lambda name: -1}, "must be at least 0; got -1"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    network = nn.Sequential(nn.Linear(2, 2)) if options == {"layer_decay": 0.5} else Network()
    with pytest.raises(ValueError, match=message):
        param_groups(network, **options)
    with pytest.raises(TypeError, match="must be a dict such as"):
        param_groups(Network(), custom_keys={"head": 0.1})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"needs a torch\.nn\.Module; got list"):
        param_groups(list(network.parameters()))  # type: ignore[arg-type]


class Tied(nn.Module):
    """An embedding whose weight is also that of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_a_shared_parameter_is_taken_once_and_contradicting_options_are_refused() -> None:
    assert [group["param_names"] for group in param_groups(Tied())] == [["embed.weight"]]
    keys = {"custom_keys": {"head": {"lr_mult": 0.5}}}
    with pytest.raises(ValueError, match=r"'embed.weight' and 'head.weight' are the same parameter.*bypass_duplicate"):
        param_groups(Tied(), **keys)
    (group,) = param_groups(Tied(), **keys, bypass_duplicate=True)
    assert torch.optim.SGD([group], lr=0.1).param_groups[0]["lr"] == 0.1


def test_wrappers_around_the_model_do_not_show_in_names() -> None:
    compiled = torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager")
    assert param_groups(compiled)[0]["param_names"] == ["0.weight", "0.bias"]  # type: ignore[arg-type]


def test_a_convolution_of_one_channel_is_not_depthwise() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
    optimizer = torch.optim.SGD(param_groups(model, dwconv_decay_mult=0.0), lr=0.1, weight_decay=0.5)
    decay = {name: options["weight_decay"] for name, options in options_by_name(optimizer, "weight_decay").items()}
    assert decay == {"0.weight": 0.5, "0.bias": 0.5, "1.weight": 0.0, "1.bias": 0.0}


def test_offsets_of_deformable_convolutions_have_their_own_rules() -> None:
    class DeformConv2d(nn.Module):  # found by its name, as mmcv need not be installed
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))
            self.bias = nn.Parameter(torch.ones(2))
            self.conv_offset = nn.Conv2d(2, 4, 1)

    groups = param_groups(
        nn.Sequential(DeformConv2d()),
        dcn_offset_lr_mult=0.1,
        bias_lr_mult=2.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.5,
    )
    options = options_by_name(torch.optim.SGD(groups, lr=1.0, weight_decay=1.0), "lr", "weight_decay")
    assert options == {
        "0.weight": {"lr": 1.0, "weight_decay": 1.0},
        "0.bias": {"lr": 2.0, "weight_decay": 0.0},
        "0.conv_offset.weight": {"lr": 0.1, "weight_decay": 1.0},
        "0.conv_offset.bias": {"lr": 0.1, "weight_decay": 1.0},
    }


def named(*names: str) -> nn.Module:
    """Return a module with parameters of the given names."""
    root = nn.Module()
    for name in names:
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(torch.ones(2, 2)))
    return root


LAYERS = {
    "vision transformer": {
        "cls_token": 0, "pos_embed": 0, "patch_embed.proj.w": 0, "blocks.0.attn.w": 1, "blocks.1.mlp.w": 2,
        "norm.weight": 3, "head.weight": 3,
    },
    "bert": {
        "bert.embeddings.word.weight": 0, "bert.encoder.layer.0.q": 1, "bert.encoder.layer.1.q": 2, "bert.pooler.w": 3,
        "classifier.w": 3,
    },
    "gpt": {"transformer.wte.weight": 0, "transformer.h.0.mlp": 1, "transformer.h.1.mlp": 2, "lm_head.weight": 3},
    "torchvision": {
        "class_token": 0, "conv_proj.weight": 0, "encoder.pos_embedding": 0, "encoder.layers.encoder_layer_0.w": 1,
        "encoder.layers.encoder_layer_1.w": 2, "heads.head.w": 3,
    },
    "stages": {
        "stem.0.w": 0, "stages.0.blocks.0.w": 1, "stages.0.blocks.1.w": 2, "stages.0.downsample.w": 2,
        "stages.1.blocks.0.w": 3, "head.w": 4,
    },
    "encoder and decoder": {
        "shared.weight": 0, "encoder.block.0.w": 1, "encoder.block.1.w": 2, "decoder.block.0.w": 3, "lm_head.w": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layer_decay_knows_the_usual_names(name: str) -> None:
    layers = LAYERS[name]
    groups = param_groups(named(*layers), layer_decay=0.5)
    options = options_by_name(torch.optim.SGD(groups, lr=1.0), "lr")
    last = max(layers.values())
    assert {key: value["lr"] for key, value in options.items()} == {k: 0.5 ** (last - v) for k, v in layers.items()}


def test_layer_decay_numbers_the_layers_of_the_whole_model_where_all_blocks_are_frozen() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)]), "head": nn.Linear(2, 2)})
    model["blocks"].requires_grad_(False)
    (group,) = param_groups(model, layer_decay=0.5)
    assert group["param_names"] == ["head.weight", "head.bias"]
    assert "lr_mult" not in group


def test_layer_decay_takes_a_function_and_multiplies_with_custom_keys() -> None:
    model = named("a.w", "b.w", "c.w")
    keys = {"a": {"lr_mult": 10.0}, "b": {"lr": 7.0}}
    groups = param_groups(model, layer_decay=0.5, layer_id=lambda name: "abc".index(name[0]), custom_keys=keys)
    options = options_by_name(torch.optim.SGD(groups, lr=1.0), "lr")
    assert options == {"a.w": {"lr": 2.5}, "b.w": {"lr": 7.0}, "c.w": {"lr": 1.0}}


def test_the_table_shows_what_differs() -> None:
    groups = param_groups(Network(), norm_decay_mult=0.0, custom_keys={"head": {"lr_mult": 0.1}})
    table = param_group_table(OptimWrapper(torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05)))
    header, *rows = table.splitlines()
    assert header.split() == [
        "group",
        "lr",
        "weight_decay",
        "decay_mult",
        "lr_mult",
        "tensors",
        "elements",
        "parameters",
    ]
    assert len(rows) == 3
    head = next(row for row in rows if "head.weight" in row)
    assert head.split()[:7] == ["2", "0.0001", "0.05", "-", "0.1", "2", "68"]
    assert "and 8 more" in rows[0]
    assert "betas" not in table
    assert param_group_table(groups).splitlines()[0].split()[-1] == "parameters"


KEYS = st.sampled_from(["backbone", "layer", "layer1", "layer2", "weight", "bias", "head", "neck.0", "e", "ea"])


@settings(max_examples=50, deadline=None)
@given(keys=st.dictionaries(KEYS, st.floats(0, 10), max_size=6), group_by=st.sampled_from(["options", "key", "param"]))
def test_the_longest_key_wins_and_ties_are_alphabetical(keys: dict[str, float], group_by: str) -> None:
    network = Network()
    groups = param_groups(network, custom_keys={k: {"lr_mult": v} for k, v in keys.items()}, group_by=group_by)
    options = options_by_name(torch.optim.SGD(groups, lr=0.5), "lr")
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert sorted(options) == sorted(trainable)
    for name in trainable:
        matching = sorted((key for key in keys if key in name), key=lambda key: (-len(key), key))
        assert options[name]["lr"] == 0.5 * (keys[matching[0]] if matching else 1.0)
