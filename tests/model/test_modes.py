"""Which parts of a model train and which evaluate, and that a validation changes nothing about it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lazyengine.model import DDP, ModelSetup, convert_sync_batchnorm, evaluating, set_training


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.fc(x)))


class Pretrained(Part):
    @classmethod
    def from_pretrained(cls):
        return cls().eval()


class NormEval(Part):
    """mmdet's habit: statistics stay as they are while the rest trains."""

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


class Net(nn.Module):
    def __init__(self, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.teacher = teacher or Part()
        self.student = Part()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.student(x) + self.teacher(x).detach())


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def evaluates(model: nn.Module) -> list[str]:
    return [name for name, is_training in modes(model).items() if not is_training]


TEACHER = ["teacher", "teacher.fc", "teacher.norm", "teacher.drop"]


def start(model: nn.Module, **options) -> ModelSetup:
    setup = ModelSetup(**options)
    setup.apply(model, "cpu")
    set_training(model, setup)
    return setup


# ---------------------------------------------------------------------- what trains


@pytest.mark.seam(16, "eval() by hand")
def test_a_part_that_the_user_put_in_eval_mode_stays_there(capsys):
    model = Net()
    model.teacher.eval()
    model.student.norm.eval()
    set_training(model, None)
    assert evaluates(model) == [*TEACHER, "student.norm"]
    out = capsys.readouterr().out
    assert "teacher" in out
    assert "student.norm" in out
    set_training(model, ModelSetup())  # a second training
    assert evaluates(model) == [*TEACHER, "student.norm"]


def test_a_part_in_train_mode_within_one_in_eval_mode_stays_too():
    model = Net()
    model.student.eval()
    model.student.fc.train()
    set_training(model, None)
    assert evaluates(model) == ["student", "student.norm", "student.drop"]


def test_a_frozen_feature_extractor_that_was_loaded_pretrained_stays_in_eval_mode():
    model = Net(Pretrained.from_pretrained().requires_grad_(False))
    set_training(model, None)
    assert evaluates(model) == TEACHER


def test_a_model_that_is_in_eval_mode_as_a_whole_is_trained_wholly():
    model = Net().eval()
    set_training(model, None)
    assert evaluates(model) == []


def test_what_from_pretrained_left_in_eval_mode_trains_and_the_log_says_so(capsys):
    model = Net(Pretrained.from_pretrained())
    model.student.norm.eval()
    set_training(model, None)
    assert evaluates(model) == ["student.norm"]
    out = capsys.readouterr().out
    assert "teacher (Pretrained)" in out
    assert "eval=" in out  # how to keep it in eval mode
    kept = Net(Pretrained.from_pretrained())
    start(kept, eval="teacher")
    assert evaluates(kept) == TEACHER
    frozen = Net(Pretrained.from_pretrained())
    start(frozen, freeze="teacher")
    assert evaluates(frozen) == TEACHER
    in_part = Net(Pretrained.from_pretrained())
    start(in_part, freeze="teacher.norm", eval="teacher.drop")
    assert evaluates(in_part) == ["teacher.norm", "teacher.drop"]


def test_an_overridden_train_method_is_called():
    model = Net(NormEval())
    set_training(model, None)
    assert evaluates(model) == ["teacher.norm"]
    model.teacher.eval()
    set_training(model, None)
    assert evaluates(model) == TEACHER


@pytest.mark.seam(16, "ModelSetup(eval)")
def test_parts_named_in_the_setup_evaluate_whoever_calls_train(capsys):
    model = Net()
    start(model, eval=["teacher", "student.drop"])
    assert evaluates(model) == [*TEACHER, "student.drop"]
    assert "teacher" in capsys.readouterr().out
    model.eval()
    model.train()
    assert evaluates(model) == [*TEACHER, "student.drop"]
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"eval: 'teecher' matches no module of Net.*did you mean 'teacher'"):
        ModelSetup(eval="teecher").apply(Net(), "cpu")
    with pytest.raises(TypeError, match="eval takes patterns"):
        ModelSetup(eval=[3])


@pytest.mark.seam(16, "freeze")
@pytest.mark.parametrize("patterns", ["teacher", "teacher.*", ["teacher.fc", "teacher.norm.*"]])
def test_a_module_that_is_frozen_whole_evaluates(patterns, capsys):
    model = Net()
    start(model, freeze=patterns)
    assert evaluates(model) == TEACHER
    assert "teacher" in capsys.readouterr().out
    model.train()
    assert evaluates(model) == TEACHER
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    x = torch.randn(8, 4)
    assert torch.equal(model.teacher(x), model.teacher(x))
    assert all(torch.equal(before[name], value) for name, value in model.teacher.state_dict().items())


def test_a_module_of_which_a_part_is_frozen_trains():
    model = Net()
    start(model, freeze=["*.bias", "student.norm", "teacher.drop"])
    assert evaluates(model) == ["teacher.drop", "student.norm"]


def test_freeze_mode_train_lets_dropout_of_frozen_modules_train_as_in_version_0_1():
    model = Net()
    setup = start(model, freeze="teacher", freeze_mode="train")
    assert setup.freeze_mode == "train"
    assert evaluates(model) == ["teacher.norm"]
    told_later = Net()
    setup = ModelSetup(freeze="teacher", eval="student.drop")
    setup.apply(told_later, "cpu")
    setup.freeze_mode = "train"  # as a resumed run of version 0.1 tells it, after the model was prepared
    set_training(told_later, setup)
    assert evaluates(told_later) == ["teacher.norm", "student.drop"]
    assert not told_later.teacher.fc.weight.requires_grad
    with pytest.raises(ValueError, match=r"freeze_mode of ModelSetup is 'off'.*'eval'.*'train'"):
        ModelSetup(freeze_mode="off")


def test_an_evaluation_alone_freezes_nothing():
    model = Net()
    ModelSetup(freeze="teacher", eval="student").apply(model, "cpu", train=False)
    assert evaluates(model) == []


# ---------------------------------------------------------------------- a validation


class Stop(Exception):
    pass


@pytest.mark.seam(16, "validation", "validation that fails")
@pytest.mark.parametrize("fails", [False, True])
def test_after_an_evaluation_each_submodule_has_the_mode_that_it_had(fails):
    model = Net(NormEval())
    model.student.eval()
    model.student.fc.train()
    model.teacher.norm.train()  # against its own train(), and exactly so afterwards
    before = modes(model)
    try:
        with evaluating(model):
            assert evaluates(model) == list(before)
            if fails:
                raise Stop
    except Stop:
        pass
    assert modes(model) == before


def test_evaluations_within_evaluations_and_of_an_evaluating_model():
    model = Net()
    model.student.eval()
    before = modes(model)
    with evaluating(model):
        with evaluating(model):
            assert not any(modes(model).values())
        assert not any(modes(model).values())
    assert modes(model) == before
    model.eval()
    with evaluating(model):
        model.train()
    assert not any(modes(model).values())


def test_parts_that_are_pinned_stay_so_through_an_evaluation():
    model = Net()
    start(model, freeze="teacher", eval="student.drop")
    before = modes(model)
    with evaluating(model):
        pass
    assert modes(model) == before
    model.train()
    assert modes(model) == before


def test_a_part_that_acts_when_its_mode_changes_is_told_of_it():
    """As adapters that merge their weights for evaluation do."""

    class Merges(nn.Linear):
        merged = False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merges(2, 2), Merges(2, 2))
    model[1].eval()
    with evaluating(model):
        assert [part.merged for part in model] == [True, True]
    assert [part.merged for part in model] == [False, True]
    set_training(model, None)
    assert [part.merged for part in model] == [False, True]


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrappers_are_looked_through(wrap):
    model = Net()
    model.teacher.eval()
    wrapped = wrap(model)
    set_training(wrapped, None)
    assert evaluates(model) == TEACHER
    with evaluating(wrapped):
        assert not any(modes(model).values())
        assert not wrapped.training
    assert evaluates(model) == TEACHER
    assert wrapped.training


def test_layers_that_are_converted_keep_their_mode():
    model = Net()
    model.student.norm.eval()
    convert_sync_batchnorm(model)
    set_training(model, ModelSetup(wrapper=DDP()))
    assert evaluates(model) == ["student.norm"]
