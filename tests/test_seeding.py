"""Seeds of every purpose: the values are part of the promise that a run can be resumed by a later version."""

from __future__ import annotations

import pytest

from lazyengine.seeding import DATA_STREAM, MODEL_STREAM, SAMPLER_STREAM, Purpose, derive_seed, stream_seed


@pytest.mark.parametrize(("purpose", "tag"), [("TRAIN", 0), ("VAL", 1), ("TEST", 2), ("BEFORE_TRAIN_EPOCH", 3)])
def test_the_streams_of_the_model_keep_their_values(purpose, tag):
    base = derive_seed(5, MODEL_STREAM, tag)
    assert stream_seed(5, Purpose[purpose], position=9, rank=2) == derive_seed(base, 9, 2)


def test_the_streams_of_the_data_keep_their_values():
    assert stream_seed(5, Purpose.DATA, epoch=2, position=7, rank=1) == derive_seed(5, DATA_STREAM, 2, 7, 1)
    assert stream_seed(5, Purpose.WORKERS, epoch=2, rank=1) == derive_seed(5, DATA_STREAM, 2, 1)
    assert stream_seed(5, Purpose.SAMPLER, epoch=2, position=1, rank=1) == derive_seed(5, SAMPLER_STREAM, 2)
    assert derive_seed(3, 1, 2, 3) == 5293692919637299237


def test_every_point_of_a_run_has_its_own_stream():
    seeds = [stream_seed(0, purpose, position=1) for purpose in Purpose]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    points = {f"{when}_{what}" for when in ("BEFORE", "AFTER") for what in ("TRAIN", "VAL", "TEST")}
    points |= {f"{point}_EPOCH" for point in points}
    assert points <= set(Purpose.__members__)
