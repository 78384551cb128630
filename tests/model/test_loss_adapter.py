"""Training bare networks through `LossAdapter`."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lazyengine.model import ConstantInit, LossAdapter, ModelSetup, Sequential, Weighted, init_weights, train_step

X, Y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])


class Updates:
    def optim_context(self, model):
        return nullcontext()

    def update_params(self, loss):
        self.loss = loss


class Transformer(nn.Module):
    """Takes keywords and computes its own loss, as the models of transformers do."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.fc(input_ids)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def net():
    return nn.Sequential(nn.Linear(3, 2))


@pytest.mark.parametrize("batch", [[X, Y], (X, Y), {"inputs": X, "label": Y}, {"image": X, "targets": Y}])
def test_a_network_and_a_loss_function_train(batch):
    network, updates = net(), Updates()
    model = LossAdapter(network, nn.CrossEntropyLoss())
    log_vars = model.train_step(batch, updates)
    expected = nn.functional.cross_entropy(network(X), Y)
    assert updates.loss == expected
    assert log_vars == {"loss": expected.detach()}
    predictions = model.val_step(batch)
    assert list(predictions) == ["scores", "label"]
    assert torch.equal(predictions["scores"], network(X))
    assert predictions["label"] is Y
    assert torch.equal(model(*batch, mode="tensor") if not isinstance(batch, dict) else model(**batch), network(X))


def test_a_network_that_computes_its_own_loss_gets_the_labels():
    network, updates = Transformer(), Updates()
    model = LossAdapter(network, predict_loss=True)
    batch = {"input_ids": X, "attention_mask": None, "labels": Y}
    assert model.train_step(batch, updates) == {"loss": network(X, labels=Y).loss.detach()}
    predictions = model.test_step(batch)
    assert torch.equal(predictions["scores"], network(X).logits)
    assert predictions["loss"] == network(X, labels=Y).loss
    assert list(model.val_step({"input_ids": X})) == ["scores"]
    with pytest.raises(ValueError, match=r"without a \.loss.*holds the labels"):
        model(input_ids=X, mode="loss")


def test_inputs_and_target_are_named_and_several_losses_are_logged():
    class Two(nn.Module):
        def forward(self, a, b):
            return a - b

    def losses(output, target):
        return {"loss_a": (output - target).abs(), "loss_b": output.square(), "num": 2}

    model, updates = LossAdapter(Two(), losses, inputs=["left", "right"], target="goal"), Updates()
    one = torch.ones(2)
    log_vars = model.train_step({"right": one, "goal": 3 * one, "left": 3 * one, "name": ["x", "y"]}, updates)
    assert log_vars == {"loss": 5, "loss_a": 1, "loss_b": 4, "num": 2}
    with pytest.raises(ValueError, match=r"inputs \['left'\] are not in the batch"):
        model(right=one, goal=one, mode="loss")


def test_predictions_are_made_by_a_function_if_one_is_given():
    model = LossAdapter(net(), nn.CrossEntropyLoss(), predict_fn=lambda output, target: output.argmax(1) == target)
    assert model.val_step([X, Y]).dtype == torch.bool


def test_what_cannot_be_told_apart_is_an_error():
    model = LossAdapter(net(), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"holds \['label', 'target'\].*target="):
        model(x=X, label=Y, target=Y, mode="loss")
    with pytest.raises(ValueError, match=r"has no parameter \['a', 'b'\].*inputs="):
        model(a=X, b=X, label=Y, mode="loss")
    with pytest.raises(ValueError, match="mode must be"):
        model(X, mode="train")


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"network of LossAdapter is str"):
        LossAdapter("resnet18")
    with pytest.raises(TypeError, match=r"loss_fn of LossAdapter is <class"):
        LossAdapter(net(), nn.CrossEntropyLoss)


def test_state_keys_have_the_network_prefix_and_bare_state_dicts_load_too():
    source, model = net(), LossAdapter(net(), nn.CrossEntropyLoss(weight=torch.ones(2)))
    assert set(model.state_dict()) == {"network.0.weight", "network.0.bias", "loss_fn.weight"}
    model.load_state_dict(source.state_dict(), strict=False)
    assert torch.equal(model.network[0].weight, source[0].weight)
    plain = LossAdapter(net(), nn.CrossEntropyLoss())
    plain.load_state_dict(model.network.state_dict())
    plain.load_state_dict({f"network.{key}": value for key, value in source.state_dict().items()})
    assert torch.equal(plain.network[0].bias, source[0].bias)
    assert list(plain.network.state_dict()) == list(source.state_dict())


def test_weights_of_a_foreign_network_are_left_alone_when_initializing():
    class Pretrained(nn.Linear):
        def init_weights(self):
            raise AssertionError("would wipe out pretrained weights")

    init_weights(LossAdapter(Pretrained(2, 2), nn.MSELoss()))
    own = LossAdapter(Sequential(nn.Linear(2, 2), init_cfg=ConstantInit(3, layer="Linear")), nn.MSELoss())
    init_weights(own)
    assert (own.network[0].weight == 3).all()
    from_outside = LossAdapter(Pretrained(2, 2), nn.MSELoss(), init_cfg=ConstantInit(4, layer=nn.Linear))
    init_weights(from_outside)
    assert (from_outside.network.weight == 4).all()


@pytest.mark.filterwarnings("ignore")
def test_a_transformers_model_trains_from_its_config_class():
    import transformers

    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    network = transformers.BertForSequenceClassification(config)
    model, updates = LossAdapter(network), Updates()
    before = network.classifier.weight.clone()
    init_weights(model)
    assert torch.equal(network.classifier.weight, before)
    batch = {
        "input_ids": torch.randint(0, 50, (4, 7)),
        "attention_mask": torch.ones(4, 7, dtype=torch.long),
        "labels": Y,
    }
    assert model.train_step(batch, updates)["loss"] == network(**batch).loss.detach()
    assert model.val_step(batch)["scores"].shape == (4, 3)
    assert train_step(network, batch, updates) == {"loss": updates.loss.detach()}  # needs no adapter to be trained
    ModelSetup(freeze="network.bert", activation_checkpointing="network.bert.encoder.layer").apply(model, "cpu")
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [
        "network.classifier.weight",
        "network.classifier.bias",
    ]


def test_the_loss_of_predictions_is_one_number_where_losses_have_counts_of_their_own():
    def losses(output, target):
        first, second = output[:3].square().sum(), output[3:].square().sum()
        return {"loss_a": Weighted(first, torch.tensor(3)), "loss_b": Weighted(second, torch.tensor(1))}

    predictions = LossAdapter(net(), losses, predict_loss=True).val_step((X, Y))
    scores = predictions["scores"]
    assert torch.equal(predictions["loss"], scores[:3].square().sum() / 3 + scores[3:].square().sum() / 1)
    assert "num" not in predictions
