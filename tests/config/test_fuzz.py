"""A short run of the fuzzing driver, so that it keeps working; `python -m tests.config.fuzz` is the long one."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("config_fuzz", Path(__file__).with_name("fuzz.py"))
assert spec is not None
assert spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_only_documented_errors(name):
    fuzz.run(name, 60, 1)
