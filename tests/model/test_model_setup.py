"""What happens to a model before its optimizer is built, and in which order."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lazyengine.model import (
    DDP,
    FSDP2,
    BaseModule,
    Compile,
    ConstantInit,
    ModelSetup,
    checkpoint_activations,
    convert_sync_batchnorm,
    detect_anomalous_params,
    freeze_parameters,
    materialize,
    model_setup,
    revert_sync_batchnorm,
    unwrap,
)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.drop(torch.relu(self.norm(self.fc(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"blocks": nn.ModuleList([Block(), Block()])})
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for block in self.backbone["blocks"]:
            x = block(x)
        return self.head(x)


def net():
    torch.manual_seed(0)
    return Net()


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def gradients(model):
    torch.manual_seed(5)
    model(X).square().sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


# freezing


@pytest.mark.parametrize("pattern", ["backbone", "backbone.*", "backbone.blocks", "b*"])
def test_a_frozen_part_keeps_its_parameters_and_statistics(pattern):
    model = net()
    frozen = freeze_parameters(model, pattern)
    assert frozen == [name for name, _ in model.named_parameters() if name.startswith("backbone")]
    before = copy.deepcopy(model.backbone.state_dict())
    model.eval()
    model.train()
    assert not any(block.norm.training for block in model.backbone["blocks"])
    assert not any(block.drop.training for block in model.backbone["blocks"])
    assert set(gradients(model)) == {"head.weight", "head.bias"}
    assert_equal(before, model.backbone.state_dict())


def test_parameters_are_frozen_by_name():
    model = net()
    assert freeze_parameters(model, ["*.fc.bias", "head"]) == [
        "backbone.blocks.0.fc.bias",
        "backbone.blocks.1.fc.bias",
        "head.weight",
        "head.bias",
    ]
    model.train()
    assert all(block.norm.training for block in model.backbone["blocks"])
    freeze_parameters(model, "*.1.norm.*")
    model.train()
    assert [block.norm.training for block in model.backbone["blocks"]] == [True, False]


def test_a_norm_layer_without_parameters_is_frozen_by_its_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.LayerNorm(2))
    freeze_parameters(model, "1")
    model.train()
    assert [layer.training for layer in model] == [True, False, True]


def test_a_frozen_model_can_be_copied_and_pickled_and_stays_frozen():
    model = nn.Sequential(nn.BatchNorm1d(4))
    freeze_parameters(model, "0")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.train()[0].train() is other[0]
        assert other[0] is not model[0]
        assert not other[0].training


def test_a_pattern_that_matches_nothing_names_near_matches():
    with pytest.raises(ValueError, match=r"freeze: 'backbon\.\*' matches no .* of Net · did you mean 'backbone\.\*'"):
        ModelSetup(freeze=["backbon.*"]).apply(net(), "cpu")
    with pytest.raises(ValueError, match="names start with backbone, head"):
        freeze_parameters(net(), ["backbone", "xyz"])
    with pytest.raises(ValueError, match=r"activation_checkpointing: 'backbone\.block\.\*'.*'backbone\.blocks\.\*'"):
        ModelSetup(activation_checkpointing="backbone.block.*").apply(net(), "cpu")
    with pytest.raises(ValueError, match="Compile modules: 'tail' matches no module"):
        ModelSetup(compile=Compile("tail")).apply(net(), "cpu")
    with pytest.raises(TypeError, match="freeze takes patterns"):
        ModelSetup(freeze=[3])


# synchronized batch norm


def test_sync_bn_is_converted_and_reverted_without_a_change_of_state():
    model = net()
    expected = gradients(net())
    keys, parameters = list(model.state_dict()), list(model.parameters())
    assert convert_sync_batchnorm(model) is model
    assert isinstance(model.backbone["blocks"][0].norm, nn.SyncBatchNorm)
    assert list(model.state_dict()) == keys
    assert revert_sync_batchnorm(model) is model
    norm = model.backbone["blocks"][0].norm
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert not isinstance(norm, nn.SyncBatchNorm)
    assert list(model.state_dict()) == keys
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), parameters, strict=True))
    assert_equal(gradients(model), expected)
    assert norm.eval()(torch.ones(2, 4, 3, 3, 3)).shape == (2, 4, 3, 3, 3)


def test_a_reverted_layer_alone_keeps_its_mode():
    layer = nn.SyncBatchNorm(3, affine=False, track_running_stats=False).eval()
    reverted = revert_sync_batchnorm(layer)
    assert reverted is not layer
    assert not reverted.training
    assert reverted.weight is None
    assert reverted.running_mean is None


# activation checkpointing


@pytest.mark.parametrize("pattern", ["backbone.blocks", "backbone.blocks.*", "*.0"])
def test_checkpointing_recomputes_without_a_change_of_results_or_keys(pattern):
    expected, model = gradients(net()), net()
    keys, names = list(model.state_dict()), [name for name, _ in model.named_modules()]
    chosen = checkpoint_activations(model, pattern)
    assert chosen == (["backbone.blocks.0"] if pattern == "*.0" else ["backbone.blocks.0", "backbone.blocks.1"])
    assert_equal(gradients(model), expected)
    assert [block.calls for block in model.backbone["blocks"]] == [2, 1 if pattern == "*.0" else 2]
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_modules()] == names
    with torch.no_grad():
        model(X)
    assert model.backbone["blocks"][0].calls == 3


def test_a_checkpointed_model_can_be_copied_and_pickled():
    model = net()
    checkpoint_activations(model, "backbone.blocks.*")
    checkpoint_activations(model, "backbone.blocks.*")  # twice is once
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            other.head.weight.zero_()
        gradients(other)
        assert other.backbone["blocks"][0].calls == 2
        assert model.backbone["blocks"][0].calls == 0


class Layer(nn.Module):
    """As a decoder layer of transformers: what it computes is put into the cache that it is passed."""

    def __init__(self, is_decoder=True):
        super().__init__()
        self.is_decoder = is_decoder
        self.linear = nn.Linear(4, 4)

    def forward(self, x, past_key_values=None):
        keys = self.linear(x)
        if past_key_values is None:
            return keys.tanh()
        past_key_values.append(keys)
        return torch.cat(past_key_values, -1).tanh()[:, -4:]


class Cached(nn.Module):
    def __init__(self, use_cache, is_decoder=True):
        super().__init__()
        self.config = SimpleNamespace(use_cache=use_cache)
        self.layers = nn.ModuleList([Layer(is_decoder), Layer(is_decoder)])

    def get_input_embeddings(self):
        return None

    def forward(self, x, past_key_values=None):
        for layer in self.layers:
            x = layer(x, past_key_values=[] if self.config.use_cache and layer.is_decoder else None)
        return x


def test_checkpointing_a_layer_that_fills_a_cache_is_refused_with_the_switch():
    expected = r"'lm\.layers\.0' fills the cache of Cached .*set model\.lm\.config\.use_cache = False"
    for use_cache, is_decoder, pattern in [
        (True, True, "lm.layers"),
        (True, False, "lm.layers"),  # an encoder uses none
        (True, True, "lm.layers.*.linear"),  # inside what fills it
        (True, True, "lm"),  # makes its cache anew
        (False, True, "lm.layers"),
    ]:
        model = nn.ModuleDict({"lm": Cached(use_cache, is_decoder)})
        if (use_cache, is_decoder, pattern) == (True, True, "lm.layers"):
            with pytest.raises(ValueError, match=expected):
                ModelSetup(activation_checkpointing=pattern).apply(model, "cpu")
            continue
        plain = copy.deepcopy(model)
        ModelSetup(activation_checkpointing=pattern).apply(model, "cpu")
        for each in (plain, model):
            each["lm"](torch.ones(2, 4)).sum().backward()
        for one, other in zip(plain.parameters(), model.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize(("kind", "layers"), [("Llama", "model.layers"), ("GPT2", "transformer.h")])
def test_checkpointing_the_layers_of_a_transformers_model(kind, layers):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 16}
    model = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(
            **sizes, attn_implementation="eager", bos_token_id=None, eos_token_id=None
        )
    ).eval()
    with pytest.raises(ValueError, match=rf"{layers}.0' fills the cache.*config.use_cache = False"):
        checkpoint_activations(model, layers)
    model.config.use_cache = False
    ids = torch.arange(6).view(2, 3)
    grads = []
    for patterns in ((), layers):
        checkpoint_activations(model, patterns)
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))
    assert model.generate(ids, use_cache=True, max_new_tokens=2, do_sample=False).shape == (2, 5)


# compiling and wrapping


def test_a_compiled_model_keeps_its_keys_and_computes_the_same():
    expected, model = gradients(net()), net()
    keys = list(model.state_dict())
    forward = ModelSetup(compile=Compile(backend="eager")).apply(model, "cpu")
    assert forward is model
    assert_equal(gradients(model), expected)
    assert list(model.state_dict()) == keys


def test_modules_are_compiled_by_name_together_with_checkpointing():
    model, compiled = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2)), []

    def backend(graph, inputs):
        compiled.append(len(inputs))
        return graph.forward

    expected, keys = gradients(model), list(model.state_dict())
    model.zero_grad()
    compile = Compile("0", backend=backend, fullgraph=True)
    ModelSetup(compile=compile, activation_checkpointing="0").apply(model, "cpu")
    assert_equal(gradients(model), expected)
    assert len(compiled) == 1
    assert list(model.state_dict()) == keys


def test_unwrap_returns_the_plain_model():
    model = net()
    assert unwrap(model) is model
    assert unwrap(nn.DataParallel(torch.compile(model, backend="eager"))) is model


def test_the_order_is_device_convert_freeze_checkpoint_compile_wrap(monkeypatch):
    order = []
    for name in ("convert_sync_batchnorm", "freeze_parameters", "checkpoint_activations"):
        original = getattr(model_setup, name)
        monkeypatch.setattr(
            model_setup, name, lambda *args, name=name, original=original: (order.append(name), original(*args))[1]
        )
    monkeypatch.setattr(Net, "compile", lambda self, **options: order.append("compile"))

    def wrapper(model, device):
        order.append(f"wrap {device} {next(model.parameters()).requires_grad}")
        return nn.DataParallel(model)

    model = net()
    setup = ModelSetup(freeze="backbone", sync_bn=True, activation_checkpointing="head", compile=True, wrapper=wrapper)
    forward = setup.apply(model, torch.device("cpu"))
    assert order == [
        "convert_sync_batchnorm",
        "freeze_parameters",
        "checkpoint_activations",
        "compile",
        "wrap cpu False",
    ]
    assert unwrap(forward) is model
    model.train()
    assert not model.backbone["blocks"][0].norm.training  # frozen after converting, which makes new layers


def test_a_run_that_only_evaluates_is_neither_frozen_nor_wrapped():
    model = net()
    assert ModelSetup(freeze="head", wrapper=DDP()).apply(model, "cpu", train=False) is model
    assert model.head.weight.requires_grad


def test_ddp_is_left_out_in_one_process_so_that_a_config_fits_to_any_number():
    model = net()
    assert ModelSetup(wrapper=DDP(find_unused_parameters=True)).apply(model, "cpu") is model


def test_wrappers_without_a_process_group_say_what_to_do():
    for wrap in (DDP(), ModelSetup(wrapper=FSDP2("backbone.blocks.*")).apply):
        with pytest.raises(RuntimeError, match=r"no process group is running · start with torchrun"):
            wrap(net(), "cpu")


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="wrapper of ModelSetup is <class"):
        ModelSetup(wrapper=DDP)
    with pytest.raises(TypeError, match="compile of ModelSetup is 'inductor'"):
        ModelSetup(compile="inductor")
    with pytest.raises(ValueError, match="param_dtype of FSDP2 is 'bf16'"):
        FSDP2(param_dtype="bf16")
    assert "find_unused_parameters=True" in repr(ModelSetup(wrapper=DDP(find_unused_parameters=True)))
    assert "param_dtype=torch.bfloat16" in repr(FSDP2(param_dtype="bfloat16"))


# the meta device


def test_a_model_on_the_meta_device_gets_memory_and_values():
    class Model(BaseModule):
        def __init__(self):
            super().__init__(ConstantInit(2, layer="Linear"))
            self.fc = nn.Linear(2, 2)
            self.norm = nn.BatchNorm1d(2)

    with torch.device("meta"):
        model = Model()
    ModelSetup().apply(model, "cpu")
    assert (model.fc.weight == 2).all()
    assert (model.norm.running_var == 1).all()
    assert (model.norm.weight == 1).all()


def test_a_module_that_nothing_would_fill_is_named():
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_parameter("scale", nn.Parameter(torch.zeros(1)))
    with pytest.raises(TypeError, match=r"the model \(Sequential\) have tensors of their own but no reset_parameters"):
        materialize(model.to("meta"), "cpu")


# unused parameters


def test_parameters_that_take_no_part_are_found(capsys):
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    loss = model["used"](torch.ones(1, 2)).sum()
    assert detect_anomalous_params(loss, model) == ["unused.weight", "unused.bias"]
    assert "unused.weight (2, 2)" in capsys.readouterr().out
    x = torch.ones(2, requires_grad=True)
    for _ in range(5000):  # deeper than the interpreter's recursion limit
        x = x + 1
    assert detect_anomalous_params(x.sum(), nn.Linear(1, 1)) == ["weight", "bias"]


def test_tied_parameters_stay_tied_when_they_get_memory():
    with torch.device("meta"):
        model = nn.ModuleDict({"embed": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
        model["head"].weight = model["embed"].weight
    ModelSetup().apply(model, "cpu")
    assert model["head"].weight is model["embed"].weight
    assert len(list(model.parameters())) == 1
