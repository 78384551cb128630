"""Saving and resuming schedulers, with the same schedule and with a changed one."""

import json
import math

import pytest
import torch

from lazyengine.optim.scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingMomentum,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolyLR,
    ReduceOnPlateauLR,
    StepLR,
    param_schedulers_state_dict,
    replay_param_schedulers,
    resume_param_schedulers,
)


def adamw(*lrs):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in lrs or (0.1, 0.02)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99))


def advance(optimizer, chain, steps, epoch_length=10, done=0):
    """Step as a run does and return the groups' lr and first beta after every iteration."""
    curve = []
    for step in range(done + 1, done + steps + 1):
        optimizer.step()
        for scheduler in chain:
            if not scheduler.by_epoch:
                scheduler.step()
        if step % epoch_length == 0:
            for scheduler in chain:
                if scheduler.by_epoch:
                    scheduler.step()
        curve.append([(group["lr"], group["betas"][0]) for group in optimizer.param_groups])
    return curve


def by_iter(optimizer):
    return [
        LinearLR(optimizer, 0.01, end=20, by_epoch=False),
        CosineAnnealingLR(optimizer, begin=20, end=100, eta_min=1e-4, by_epoch=False),
        CosineAnnealingMomentum(optimizer, end=100, eta_min=0.5, by_epoch=False),
    ]


def mixed(optimizer):
    return [
        LinearLR(optimizer, 0.01, end=20, by_epoch=False),
        CosineAnnealingLR(optimizer, end=10, eta_min=1e-4),
        MultiStepLR(optimizer, [40, 70], by_epoch=False),
    ]


def one_cycle(optimizer):
    return [OneCycleLR(optimizer, eta_max=[1.0, 0.1], end=100, by_epoch=False)]


def others(optimizer):
    return [PolyLR(optimizer, end=10), ExponentialLR(optimizer, 0.99, by_epoch=False), StepLR(optimizer, 2),
            ConstantLR(optimizer, end=30, by_epoch=False)]  # fmt: skip


@pytest.mark.parametrize("build", [by_iter, mixed, one_cycle, others])
@pytest.mark.parametrize("position", [1, 37, 60])
def test_a_resumed_run_repeats_the_curve_exactly(build, position):
    optimizer = adamw()
    chain = build(optimizer)
    advance(optimizer, chain, position)
    saved = json.loads(json.dumps(param_schedulers_state_dict(chain)))
    groups = optimizer.state_dict()
    expected = advance(optimizer, chain, 100 - position, done=position)

    resumed = adamw()
    new_chain = build(resumed)
    resumed.load_state_dict(groups)
    assert resume_param_schedulers(new_chain, saved) == []
    assert advance(resumed, new_chain, 100 - position, done=position) == expected
    assert param_schedulers_state_dict(new_chain) == param_schedulers_state_dict(chain)


CHANGES = {
    "end": lambda o: [
        LinearLR(o, 0.01, end=20, by_epoch=False),
        CosineAnnealingLR(o, begin=20, end=200, eta_min=1e-4, by_epoch=False),
        CosineAnnealingMomentum(o, end=100, eta_min=0.5, by_epoch=False),
    ],
    "class": lambda o: [
        LinearLR(o, 0.01, end=20, by_epoch=False),
        PolyLR(o, begin=20, end=100, by_epoch=False),
        CosineAnnealingMomentum(o, end=100, eta_min=0.5, by_epoch=False),
    ],
    "fewer": lambda o: [ExponentialLR(o, 0.99, by_epoch=False)],
    "more": lambda o: [*by_iter(o), MultiStepLR(o, [30, 60], by_epoch=False)],
    "epochs": lambda o: mixed(o),
    "one_cycle": one_cycle,
}
CHAINS_OF_MOMENTUM_LOST = {"fewer", "epochs", "one_cycle"}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("position", [5, 37, 60])
def test_a_changed_schedule_keeps_the_position_and_takes_the_new_shape(name, position):
    """The values are then exactly those of a run that had the new schedule from the start."""
    build = CHANGES[name]
    reference = adamw()
    reference_chain = build(reference)
    expected = advance(reference, reference_chain, 100)[position - 1 :]

    optimizer = adamw()
    chain = by_iter(optimizer)
    advance(optimizer, chain, position)
    saved, groups = param_schedulers_state_dict(chain), optimizer.state_dict()
    resumed = adamw()
    new_chain = build(resumed)
    resumed.load_state_dict(groups)
    changes = resume_param_schedulers(
        new_chain, saved, num_epochs=position // 10, num_optimizer_steps=position, num_iters=position, epoch_length=10
    )
    assert changes
    got = [[(g["lr"], g["betas"][0]) for g in resumed.param_groups]]
    got += advance(resumed, new_chain, 100 - position, done=position)
    if name in CHAINS_OF_MOMENTUM_LOST:  # nothing schedules the momentum now: it stays as it was saved
        got, expected = ([[lr for lr, _ in row] for row in rows] for rows in (got, expected))
    assert got == expected


def test_the_change_is_said(monkeypatch):
    import lazyengine.optim.scheduler.resume as module

    said = []
    monkeypatch.setattr(module, "print_log", lambda msg, logger, level: said.append(msg))
    optimizer = adamw()
    saved = param_schedulers_state_dict(by_iter(optimizer))
    changed = adamw(0.2, 0.02)
    chain = [LinearLR(changed, 0.01, end=30, by_epoch=False)]
    changes = resume_param_schedulers(chain, saved)
    assert changes == [
        "LinearLR.end: 20 -> 30",
        "LinearLR.base_values: [0.1, 0.02] -> [0.2, 0.02]",
        "removed CosineAnnealingLR",
        "removed CosineAnnealingMomentum",
    ]
    assert len(said) == 1
    assert all(change in said[0] for change in changes)


def test_a_changed_base_value_is_taken():
    optimizer = adamw(0.1)
    chain = [StepLR(optimizer, 10, by_epoch=False)]
    advance(optimizer, chain, 15)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    resumed = adamw(0.5)
    new_chain = [StepLR(resumed, 10, by_epoch=False)]
    resumed.load_state_dict(optimizer.state_dict())
    resume_param_schedulers(new_chain, param_schedulers_state_dict(chain))
    assert resumed.param_groups[0]["lr"] == pytest.approx(0.05)
    assert resumed.param_groups[0]["initial_lr"] == 0.5


def test_a_plateau_in_a_changed_chain_keeps_its_reductions_and_its_patience():
    def build(optimizer, factor):
        return [LinearLR(optimizer, factor, end=4), ReduceOnPlateauLR(optimizer, patience=1, factor=0.5)]

    def epochs(chain, count):
        chain[0].optimizer.step()
        for _ in range(count):
            for scheduler in chain:
                scheduler.step()
                if scheduler.need_val_args:
                    scheduler.step({"loss": 1.0})

    reference = adamw(1.0)
    reference_chain = build(reference, 0.2)
    epochs(reference_chain, 8)
    optimizer = adamw(1.0)
    chain = build(optimizer, 0.1)
    epochs(chain, 5)
    assert chain[1].reductions == [3, 5]
    resumed = adamw(1.0)
    new_chain = build(resumed, 0.2)
    resumed.load_state_dict(optimizer.state_dict())
    assert resume_param_schedulers(new_chain, param_schedulers_state_dict(chain)) == [
        "LinearLR.start_factor: 0.1 -> 0.2"
    ]
    epochs(new_chain, 3)
    assert resumed.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)
    assert new_chain[1].state_dict() == {
        **reference_chain[1].state_dict(),
        "_last_value": new_chain[1].get_last_value(),
    }


def test_loading_one_state_keeps_the_own_shape_and_lists_the_differences():
    optimizer = adamw()
    old = LinearLR(optimizer, 0.1, begin=0, end=20, by_epoch=False)
    advance(optimizer, [old], 8)
    new = LinearLR(adamw(), 0.1, begin=5, end=30, by_epoch=False)
    assert new.load_position(old.state_dict()) == ["LinearLR.begin: 0 -> 5", "LinearLR.end: 20 -> 30"]
    assert (new._global_step, new.last_step, new.begin, new.end) == (8, 3, 5, 30)
    assert "optimizer" not in old.state_dict()


def test_a_state_of_mmengine_is_read():
    from collections import Counter

    state = {
        "milestones": Counter({30: 1, 60: 2}), "gamma": 0.1, "param_name": "lr", "begin": 0, "end": 100,
        "by_epoch": True,
        "base_values": [0.1, 0.02], "last_step": 31, "_global_step": 31, "verbose": False, "_last_value": [0.01, 0.002],
    }  # fmt: skip
    optimizer = adamw()
    scheduler = MultiStepLR(optimizer, [30, 60, 60], end=100)
    assert scheduler.load_position(state) == []
    assert scheduler.last_step == 31
    assert scheduler.get_last_value() == [0.01, 0.002]


def test_several_optimizers_resume_by_name():
    first, second = adamw(), adamw()
    schedulers = {"generator": by_iter(first), "discriminator": one_cycle(second)}
    for name, optimizer in (("generator", first), ("discriminator", second)):
        advance(optimizer, schedulers[name], 33)
    saved = param_schedulers_state_dict(schedulers)
    new_first, new_second = adamw(), adamw()
    new = {"generator": by_iter(new_first), "discriminator": one_cycle(new_second)}
    new_first.load_state_dict(first.state_dict())
    new_second.load_state_dict(second.state_dict())
    assert resume_param_schedulers(new, saved) == []
    assert param_schedulers_state_dict(new) == saved
    changed = {"generator": by_iter(adamw()), "discriminator": [StepLR(adamw(), 7, by_epoch=False)]}
    assert resume_param_schedulers(changed, saved) == ["discriminator: OneCycleLR -> StepLR"]
    with pytest.raises(ValueError, match="the number of optimizers was changed"):
        resume_param_schedulers(by_iter(adamw()), saved)


def test_an_unknown_position_is_an_error():
    saved = param_schedulers_state_dict([StepLR(adamw(), 3)])
    with pytest.raises(ValueError, match="says nothing of the number of steps done · pass"):
        resume_param_schedulers([StepLR(adamw(), 3, by_epoch=False)], saved)
    scheduler = StepLR(adamw(), 3, by_epoch=False)
    resume_param_schedulers([scheduler], saved, num_iters=7)  # no accumulation: seven steps
    assert scheduler.last_step == 7


def test_replay_places_a_fresh_chain():
    optimizer, reference = adamw(), adamw()
    chain, reference_chain = mixed(optimizer), mixed(reference)
    expected = advance(reference, reference_chain, 45)[-1]
    replay_param_schedulers(chain, {"epoch": 4, "step": 45}, epoch_length=10)
    assert [(g["lr"], g["betas"][0]) for g in optimizer.param_groups] == expected
    assert param_schedulers_state_dict(chain) == param_schedulers_state_dict(reference_chain)


def test_loading_a_state_restores_the_shape_too_as_torch_and_mmengine_do():
    saved = json.loads(json.dumps([s.state_dict() for s in mixed(adamw())]))
    optimizer = adamw(0.5, 0.5)
    others = [LinearLR(optimizer, 0.5, end=7), CosineAnnealingLR(optimizer, end=3), MultiStepLR(optimizer, [9])]
    for scheduler, state in zip(others, saved):
        assert scheduler.load_state_dict(state) is None
        assert scheduler.state_dict() == state
    reference = adamw()
    expected = advance(reference, mixed(reference), 80)
    optimizer.load_state_dict(adamw().state_dict())
    fresh = mixed(adamw())  # the optimizer's values are its own state's
    for ours, theirs in zip(optimizer.param_groups, fresh[0].optimizer.param_groups):
        ours.update({key: value for key, value in theirs.items() if key != "params"})
    assert advance(optimizer, others, 80) == expected
    with pytest.raises(ValueError, match="StepLR: the state is that of a LinearLR"):
        StepLR(adamw(), 3).load_state_dict(saved[0])


def test_a_plateau_with_another_patience_beside_a_changed_cosine():
    def build(optimizer, end, patience):
        return [CosineAnnealingLR(optimizer, end=end), ReduceOnPlateauLR(optimizer, patience=patience, factor=0.5)]

    def epochs(chain, count):
        for _ in range(count):
            for scheduler in chain:
                scheduler.step()
                if scheduler.need_val_args:
                    scheduler.step({"loss": 1.0})

    optimizer = adamw(1.0)
    chain = build(optimizer, 20, 3)
    epochs(chain, 6)
    assert chain[1].reductions == [5]
    resumed = adamw(1.0)
    new = build(resumed, 30, 1)
    resumed.load_state_dict(optimizer.state_dict())
    changes = resume_param_schedulers(new, param_schedulers_state_dict(chain), num_epochs=6)
    assert changes == [
        "CosineAnnealingLR.T_max: 20 -> 30",
        "CosineAnnealingLR.end: 20 -> 30",
        "ReduceOnPlateauLR.patience: 3 -> 1",
    ]
    assert (new[1].patience, new[1].reductions, new[1].num_bad_epochs) == (1, [5], 1)
    undamped = CosineAnnealingLR(adamw(1.0), end=30)
    for _ in range(6):
        undamped.step()
    assert resumed.param_groups[0]["lr"] == pytest.approx(0.5 * undamped.get_last_value()[0])
    epochs(new, 1)
    assert new[1].reductions == [5, 7]


@pytest.mark.parametrize(
    ("now", "best"),
    [
        ({"monitor": "acc", "rule": "greater"}, -math.inf),
        ({"rule": "greater"}, -math.inf),
        ({"monitor": "mae"}, math.inf),
    ],
)
def test_a_plateau_does_not_compare_with_the_best_value_of_another_metric(now, best):
    options = {"monitor": "loss", "rule": "less", "patience": 1, "factor": 0.5}
    optimizer = adamw(1.0)
    chain = [ReduceOnPlateauLR(optimizer, **options)]
    for value in (5.0, 6.0, 6.0, 6.0):
        chain[0].step()
        chain[0].step({"loss": value})
    assert (chain[0].best, chain[0].num_bad_epochs, chain[0].reductions) == (5.0, 1, [3])
    resumed = adamw(1.0)
    new = [ReduceOnPlateauLR(resumed, **{**options, **now})]
    resumed.load_state_dict(optimizer.state_dict())
    resume_param_schedulers(new, param_schedulers_state_dict(chain), num_epochs=4)
    assert (new[0].best, new[0].num_bad_epochs, new[0].reductions) == (best, 0, [3])
    assert resumed.param_groups[0]["lr"] == 0.5  # the reductions that were made hold
    new[0].step()
    new[0].step({"loss": 0.3, "acc": 0.3, "mae": 9.0})
    assert (new[0].num_bad_epochs, resumed.param_groups[0]["lr"]) == (0, 0.5)
