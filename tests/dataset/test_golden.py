"""The same calls give what they give in mmengine (golden.py wrote the file)."""

import json
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

import lazyengine.dataset

from . import golden

EXPECTED = json.loads(Path(__file__).with_name("golden.json").read_text())


@contextmanager
def as_rank(rank, size):
    with (
        mock.patch("lazyengine.dist.get_rank", return_value=rank),
        mock.patch("lazyengine.dist.get_world_size", return_value=size),
    ):
        yield


@pytest.fixture(scope="module")
def ours():
    return golden.make_golden(lazyengine.dataset, as_rank)


@pytest.mark.parametrize("part", EXPECTED)
def test_equals_mmengine(ours, part):
    assert ours[part] == EXPECTED[part]
