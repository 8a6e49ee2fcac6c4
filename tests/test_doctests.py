"""The `>>>` examples in docstrings run: modules that have some are found by themselves."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "kdrun").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def test_the_extension_points_have_an_example():
    assert {"kdrun.data.splits", "kdrun.losses.base", "kdrun.methods.base", "kdrun.models"} <= set(MODULES)
