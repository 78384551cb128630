"""Seeds of every purpose: the values are part of the promise that a run can be resumed by a later version."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazyengine.config import LazyCall, instantiate
from lazyengine.runner import Runner
from lazyengine.seeding import (
    DATA_STREAM,
    MODEL_STREAM,
    SAMPLER_STREAM,
    ModelStream,
    Purpose,
    Seeds,
    derive_seed,
    seed_streams,
    stream_seed,
)


@pytest.mark.parametrize(("purpose", "tag"), [("TRAIN", 0), ("VAL", 1), ("TEST", 2), ("BEFORE_TRAIN_EPOCH", 3)])
def test_the_streams_of_the_model_keep_their_values(purpose, tag):
    base = derive_seed(5, MODEL_STREAM, tag)
    assert stream_seed(5, Purpose[purpose], position=9, rank=2) == derive_seed(base, 9, 2)


def test_the_streams_of_the_data_keep_their_values():
    assert stream_seed(5, Purpose.DATA, epoch=2, position=7, rank=1) == derive_seed(5, DATA_STREAM, 2, 7, 1)
    assert stream_seed(5, Purpose.WORKERS, epoch=2, rank=1) == derive_seed(5, DATA_STREAM, 2, 1)
    assert stream_seed(5, Purpose.SAMPLER, epoch=2, position=1, rank=1) == derive_seed(5, SAMPLER_STREAM, 2)
    assert derive_seed(3, 1, 2, 3) == 5293692919637299237


@given(
    st.integers(-(2**70), 2**70),
    st.sampled_from([Purpose.DATA, Purpose.TRAIN, Purpose.AFTER_VAL]),
    st.integers(0, 2**40),
    st.integers(0, 2**20),
    st.lists(st.integers(0, 2**62) | st.integers(0, 200), max_size=5),
)
def test_seeds_by_position_are_those_of_each_position_alone(seed, purpose, epoch, rank, starts):
    seeds = Seeds(seed, purpose, epoch=epoch, rank=rank)
    for position in [start + ahead for start in starts for ahead in (0, 1, 63, 64, 65, 0)]:
        assert seeds[position] == stream_seed(seed, purpose, epoch=epoch, position=position, rank=rank)


@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1])
def test_python_is_seeded_as_its_own_seed_does(seed):
    def draws():
        return [random.gauss(0, 1), random.random(), random.randrange(10**20), random.gauss(0, 1), random.getstate()]

    stream = ModelStream(seed, torch.device("cpu"), rank=0)
    random.gauss(0, 1)  # keeps the second of two variates back
    seed_streams(seed)
    assert draws() == (random.seed(seed), draws())[1]
    random.gauss(0, 1)
    stream.seed(4)
    assert draws() == (random.seed(stream_seed(seed, Purpose.TRAIN, position=4)), draws())[1]


def test_every_point_of_a_run_has_its_own_stream():
    seeds = [stream_seed(0, purpose, position=1) for purpose in Purpose]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    points = {f"{when}_{what}" for when in ("BEFORE", "AFTER") for what in ("TRAIN", "VAL", "TEST")}
    points |= {f"{point}_EPOCH" for point in points}
    assert points <= set(Purpose.__members__)


def test_neighbouring_seeds_build_other_weights(tmp_path):
    """Seeds 2k and 2k + 1 built the same ones, so that nothing over seeds could be trusted; scheme 1 keeps to that."""

    def weight(seed, scheme=2):
        model = LazyCall(torch.nn.Linear)(in_features=3, out_features=2)
        runner = LazyCall(Runner)(model=model, work_dir=str(tmp_path), seed=seed, seed_scheme=scheme)
        return instantiate(runner).model.weight.tolist()

    weights = [weight(seed) for seed in range(6)]
    assert all(a != b for a, b in itertools.combinations(weights, 2))
    assert [weight(0, 1), weight(1, 1)] == [weights[0], weights[0]]
