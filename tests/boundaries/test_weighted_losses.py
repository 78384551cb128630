"""Losses by sum and count: the same as the full batch, however it is cut into micro-batches and ranks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.spawn import spawn

from lazyengine.evaluator import MeanLoss, Perplexity
from lazyengine.hooks import RuntimeInfoHook
from lazyengine.logging import MessageHub
from lazyengine.model import LossAdapter, Weighted, parse_losses
from lazyengine.optim import NonFiniteError, OptimWrapper
from tests.ports import free_port

from . import weighted
from .weighted import check_equal, samples, trained, whole

PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.mark.parametrize("accumulation", [1, 2, 4, 8])
@pytest.mark.parametrize(("loss", "optim"), [("adapter", "plain"), ("keys", "scaled"), ("tuple", "joint")])
def test_parts_of_a_batch_are_the_whole(loss, accumulation, optim):
    check_equal(trained(loss, accumulation, optim)[0], loss)


def test_two_ranks_are_one():
    spawn(weighted.on_rank, (free_port(),), nprocs=2)


def test_the_log_weighs_by_the_same_counts():
    _, logs = trained("tuple", 4)
    optim_wrapper = SimpleNamespace(get_lr=dict)
    runner: Any = SimpleNamespace(message_hub=MessageHub("weighted log"), optim_wrapper=optim_wrapper)
    hook: Any = RuntimeInfoHook()
    hook._updater = lambda name: runner.message_hub.scalar_updater(f"train/{name}")
    for log in logs:
        hook.after_train_iter(runner, 0, outputs=log)
    mean = runner.message_hub.get_scalar("train/loss").mean
    assert mean(4) == pytest.approx(whole("tuple")[1][-1], rel=1e-6)
    num = [(samples(step)["targets"] != weighted.IGNORED).sum().item() for step in range(3)]
    everything = sum(n * loss for n, loss in zip(num, whole("tuple")[1])) / sum(num)
    assert mean(12) == pytest.approx(everything, rel=1e-6)
    assert runner.message_hub.get_scalar("train/loss_sharp").mean(12) == pytest.approx(everything / 11, rel=1e-6)


def test_a_plain_loss_beside_a_sum_weighs_as_much_as_its_count():
    num, plain = torch.tensor(4), torch.tensor([0.5, 1.5])
    total, log = parse_losses({"loss_sum": torch.tensor(6.0), "num": num, "loss_aux": plain, "acc": torch.tensor(0.5)})
    assert total == Weighted(torch.tensor(10.0), num)
    assert {name: float(v.mean()) for name, v in log.items()} == {
        "loss": 2.5, "loss_part": 1.5, "loss_aux": 1.0, "acc": 0.5,
    }  # fmt: skip
    with pytest.raises(TypeError, match="accepted are a tensor"):
        parse_losses({"losses": [Weighted(torch.tensor(6.0), 4)]})


def build(accumulation=1, **options):
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, **options)
    return model, OptimWrapper(optimizer, accumulative_counts=accumulation)


def test_two_denominators_stand_alone_and_are_refused_where_they_would_have_to_be_added_up():
    x = torch.eye(2)
    model, optim_wrapper = build()
    a, b = model(x).squeeze(1)
    total, log = parse_losses({"loss_a": Weighted(a * 6, 3), "loss_b": Weighted(b, torch.tensor(4))})
    optim_wrapper.update_params(total)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[-1.0, 0.75]]))
    assert float(log["loss"]) == 2.25

    model, optim_wrapper = build(2)
    a, b = model(x).squeeze(1)
    optim_wrapper.update_params([Weighted(a * 6, 3), Weighted(b, 3)])  # the same
    a, b = model(x).squeeze(1)
    with pytest.raises(RuntimeError, match=r"sums over \[3.0, 4.0\].*one\s+denominator.*accumulative_counts=1"):
        optim_wrapper.update_params([Weighted(a, 3), Weighted(b, 4)])
    with pytest.raises(RuntimeError, match="losses by sum and count and plain ones"):
        optim_wrapper.update_params(model(x).sum())


@pytest.mark.parametrize("make", ["plain", "scaled"])
def test_where_nothing_is_counted_there_is_no_step(make):
    model, _ = build()
    optim_wrapper = weighted.wrap(make, model, 2, clip_grad=None)
    before = model.weight.detach().clone()
    for _ in range(2):
        optim_wrapper.begin_iteration()
        optim_wrapper.update_params(Weighted(model(torch.ones(1, 2)).sum() * 0, 0))
    assert (optim_wrapper.stepped, optim_wrapper.num_optimizer_steps) == (False, 0)
    assert optim_wrapper.at_step_boundary
    assert torch.equal(model.weight, before)
    with pytest.raises(NonFiniteError):
        optim_wrapper.update_params(Weighted(model(torch.ones(1, 2)).sum() * math.nan, 1))


def test_what_was_counted_is_saved_inside_an_accumulation():
    def run(cut):
        model, optim_wrapper = build(3, momentum=0.9)
        for i in range(9):
            if i == cut:
                state, weights = optim_wrapper.state_dict(), model.state_dict()
                model, optim_wrapper = build(3, momentum=0.9)
                model.load_state_dict(weights)
                optim_wrapper.load_state_dict(state)
                optim_wrapper.initialize_count_status(model, i, 9)
            x = torch.cos(torch.arange(2.0 * (i + 1)).reshape(-1, 2))
            optim_wrapper.update_params(Weighted(model(x).square().sum(), i + 1))
        return model.weight.detach()

    for cut in (3, 4, 8):
        assert torch.equal(run(cut), run(None))


def test_an_incomplete_accumulation_is_divided_by_what_it_has():
    model, optim_wrapper = build(4)
    for count in (1, 2):
        optim_wrapper.update_params(Weighted(model(torch.ones(count, 2)).sum(), count))
    optim_wrapper.flush()
    torch.testing.assert_close(model.weight.detach(), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("loss_fn", "is_weighted"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1), True),
        (F.cross_entropy, True),
        (nn.NLLLoss(ignore_index=1), True),
        (nn.CrossEntropyLoss(reduction="sum"), False),
        (lambda output, target: F.cross_entropy(output, target), False),
        (nn.MSELoss(), False),
    ],
)
def test_the_adapter_knows_torchs_token_losses(loss_fn, is_weighted):
    output, target = torch.randn(4, 3, 5), torch.randint(3, (4, 5))
    if isinstance(loss_fn, nn.MSELoss):
        target = torch.randn(4, 3, 5)
    else:
        target[0] = getattr(loss_fn, "ignore_index", -100)
    loss = LossAdapter(nn.Identity(), loss_fn)(output, target, mode="loss")["loss"]
    assert isinstance(loss, Weighted) is is_weighted
    torch.testing.assert_close(loss.mean() if is_weighted else loss, loss_fn(output, target))
    classes = LossAdapter(nn.Identity(), nn.CrossEntropyLoss())(torch.randn(4, 3), torch.arange(4) % 3, mode="loss")
    assert isinstance(classes["loss"], torch.Tensor)


def test_perplexity_weighs_by_the_tokens_that_the_loss_is_the_mean_over():
    adapter = LossAdapter(nn.Identity(), nn.CrossEntropyLoss(), predict_loss=True)
    metrics = MeanLoss(), Perplexity()
    outputs, targets = torch.randn(2, 3, 3, 5), torch.randint(3, (2, 3, 5))
    targets[0, :2] = -100
    for output, target in zip(outputs, targets):
        predictions = adapter(output, target, mode="predict")
        for metric in metrics:
            metric.process({}, predictions)
    expected = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(0, 1)).item()
    assert metrics[0].evaluate(6) == {"loss": pytest.approx(expected)}
    assert metrics[1].evaluate(6) == {"perplexity": pytest.approx(math.exp(expected))}


@PEFT_WARNS
@pytest.mark.parametrize("adapts", [False, True])
def test_language_models_of_transformers_are_asked_for_a_sum(adapts):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    network = transformers.GPT2LMHeadModel(config)
    if adapts:
        peft = pytest.importorskip("peft")
        lora = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
        network = peft.get_peft_model(network, lora)
    adapter = LossAdapter(network).eval()
    ids = torch.randint(11, (4, 8))
    labels = ids.clone()
    labels[0] = -100
    labels[1, 3:] = -100
    batch = {"input_ids": ids, "labels": labels}
    whole_loss = network(**batch).loss
    halves = [adapter(**{k: v[i : i + 2] for k, v in batch.items()}, mode="loss")["loss"] for i in (0, 2)]
    assert [int(half.count) for half in halves] == [2, 14]
    torch.testing.assert_close(sum(h.sum for h in halves) / 16, whole_loss)
    nothing = adapter(input_ids=ids[:1], labels=labels[:1], mode="loss")["loss"]
    assert (nothing.sum.item(), int(nothing.count)) == (0.0, 0)


@PEFT_WARNS
def test_a_model_that_puts_tokens_before_the_labels_has_a_plain_loss():
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    prompts = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    network = peft.get_peft_model(transformers.GPT2LMHeadModel(config), prompts).eval()
    batch = {"input_ids": torch.arange(8).reshape(2, 4), "labels": torch.arange(8).reshape(2, 4)}
    torch.testing.assert_close(LossAdapter(network)(**batch, mode="loss")["loss"], network(**batch).loss)
