"""Curves of a schedule without training."""

from types import SimpleNamespace

import pytest
import torch

from lazyengine.analysis.schedule import plot_schedule, simulate_schedule
from lazyengine.optim.scheduler import (
    CosineAnnealingLR,
    CosineAnnealingMomentum,
    LinearLR,
    ReduceOnPlateauLR,
    StepLR,
    param_schedulers_state_dict,
)


def adamw(*lrs):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs or (0.1,)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99))


def chain_of(optimizer):
    return [
        LinearLR(optimizer, 0.1, end=20, by_epoch=False),
        CosineAnnealingLR(optimizer, begin=2, end=6),
        CosineAnnealingMomentum(optimizer, end=6, eta_min=0.5),
    ]


def test_the_curve_is_the_one_that_training_has_and_nothing_is_changed():
    optimizer = adamw(0.1, 0.02)
    chain = chain_of(optimizer)
    before = (param_schedulers_state_dict(chain), optimizer.state_dict()["param_groups"])
    curves = simulate_schedule(optimizer, chain, max_iters=60, epoch_length=10)
    assert (param_schedulers_state_dict(chain), optimizer.state_dict()["param_groups"]) == before
    expected = []
    for step in range(1, 61):
        expected.append([(group["lr"], group["betas"][0]) for group in optimizer.param_groups])
        optimizer.step()
        for scheduler in chain:
            if not scheduler.by_epoch or step % 10 == 0:
                scheduler.step()
    assert curves.iters == list(range(60))
    for index, name in enumerate(("group 0", "group 1")):
        assert curves.values["lr"][name] == [row[index][0] for row in expected]
        assert curves.values["momentum"][name] == [row[index][1] for row in expected]
    assert list(curves.distinct("lr")) == ["group 0", "group 1"]
    assert list(curves.distinct("momentum")) == ["group 0, group 1"]


def test_it_starts_from_the_beginning_also_in_the_middle_of_a_run():
    optimizer = adamw()
    chain = chain_of(optimizer)
    curves = simulate_schedule(optimizer, chain, max_iters=60, epoch_length=10)
    optimizer.step()
    for _ in range(7):
        chain[0].step()
    assert simulate_schedule(optimizer, chain, max_iters=60, epoch_length=10) == curves


def test_accumulation_and_counted_iterations():
    inner = adamw(1.0)
    wrapper = SimpleNamespace(
        param_groups=inner.param_groups, optimizer=inner, num_optimizer_steps=0, accumulative_counts=3
    )
    by_step = [StepLR(wrapper, 1, gamma=0.5, by_epoch=False)]
    assert simulate_schedule(wrapper, by_step, max_iters=7).values["lr"]["all"] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    inner.param_groups[0]["lr"] = 1.0
    by_iter = [StepLR(wrapper, 1, gamma=0.5, by_epoch=False, count_iters=True)]
    assert simulate_schedule(wrapper, by_iter, max_iters=4).values["lr"]["all"] == [1, 0.5, 0.25, 0.125]


def test_long_runs_are_thinned_out_and_keep_their_ends():
    optimizer = adamw()
    curves = simulate_schedule(optimizer, [StepLR(optimizer, 10, by_epoch=False)], max_iters=1001, max_points=100)
    assert len(curves.iters) <= 102
    assert (curves.iters[0], curves.iters[-1]) == (0, 1000)


def test_several_optimizers_named_groups_and_constant_lr():
    first, second = adamw(0.1, 0.2), adamw(0.3)
    first.param_groups[1]["name"] = "head"
    curves = simulate_schedule({"g": first, "d": second}, {"g": [StepLR(first, 1)]}, max_iters=4, epoch_length=2)
    assert curves.values["lr"] == {
        "g.group 0": [0.1, 0.1, pytest.approx(0.01), pytest.approx(0.01)],
        "g.head": [0.2, 0.2, pytest.approx(0.02), pytest.approx(0.02)],
        "d": [0.3] * 4,
    }


def test_a_plateau_is_drawn_without_reductions():
    optimizer = adamw()
    curves = simulate_schedule(optimizer, [ReduceOnPlateauLR(optimizer)], max_iters=4)
    assert curves.values["lr"]["all"] == [0.1] * 4


def test_what_is_needed_is_asked_for():
    optimizer = adamw()
    with pytest.raises(ValueError, match="epoch_length is needed; got None"):
        simulate_schedule(optimizer, [StepLR(optimizer, 1)], max_iters=4)
    with pytest.raises(ValueError, match="max_iters must be at least 1, got 0"):
        simulate_schedule(optimizer, [], max_iters=0)


def test_text_and_picture(tmp_path):
    optimizer = adamw(0.1, 0.02)
    path = tmp_path / "schedule.png"
    text = plot_schedule(
        optimizer, chain_of(optimizer), max_iters=60, epoch_length=10, path=str(path), width=60, height=5
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    lr, momentum = text.split("\n\n")
    lines = lr.splitlines()
    assert lines[0] == "lr: ● group 0   ○ group 1"
    assert lines[1].strip().startswith("0.1 ┤")
    assert lines[5].strip().startswith("0.002 ┤")
    assert lines[-1].endswith("60 iterations (6 epochs)")
    assert momentum.splitlines()[0] == "momentum: ● group 0, group 1"
    assert max(map(len, lines)) <= 60


def test_many_groups_do_not_flood_the_text():
    optimizer = adamw(*(0.01 * i for i in range(1, 31)))
    text = plot_schedule(optimizer, [StepLR(optimizer, 3)], max_iters=9, epoch_length=1)
    assert "(the first 8 of 30 are drawn)" in text
