"""Options with extreme values: the causes of a divergence are named; a batch is never larger than the data."""

import inspect
import re
from dataclasses import replace

import pytest
from torch import nn

from kdrun import methods
from kdrun.experiment.failures import far_from_defaults
from kdrun.spec.components import METHOD_INJECTED

KINDS = methods.shipped_methods().values()
PAIRS = [
    (kind, option)
    for kind in KINDS
    for option in inspect.signature(kind).parameters
    if option.endswith(("temperature", "weight", "multiplier", "scale"))
]


def test_temperatures_and_weights_have_both_ends():
    """What a constructor is given beside its options is not looked at before the options are checked."""
    for kind, option in PAIRS:
        given: dict[str, object] = dict.fromkeys(set(METHOD_INJECTED) & inspect.signature(kind).parameters.keys())
        given |= {"student": nn.Identity()} | ({"terms": {}} if kind is methods.Sum else {})
        given |= {"stage1_epochs": 1} if "stage1_epochs" in inspect.signature(kind).parameters else {}
        for value in (1e30, -1.0) if option.endswith(("weight", "multiplier")) else (1e30, 1e-30):
            with pytest.raises(ValueError, match=rf"^{option}={re.escape(repr(value))}: must be a finite"):
                kind(**{**given, option: value})


def test_options_far_from_their_defaults(lab):
    assert far_from_defaults(lab.taught()) == []
    assert far_from_defaults(lab.taught(temperature=20.0, multiplier=50.0)) == []
    assert far_from_defaults(lab.taught(multiplier=1e6)) == ["method.multiplier=1e+06 (default 1)"]
    recipe = replace(lab.recipe, lr=1e30, lr_batch_size=1, momentum=0.9999)
    assert far_from_defaults(replace(lab.taught(), recipe=recipe)) == [
        "recipe.lr=1e+30 (default 0.1)",
        "recipe.lr_batch_size=1 (default 128)",
        "recipe.momentum=0.9999 (default 0.9)",
    ]
    summed = lab.by("Sum", terms={"kd": {"weight": 1e6, "temperature": 1e-3}, "at": None, "sp": {}})
    assert far_from_defaults(replace(lab.taught(), method=summed)) == [
        "method.terms.kd.weight=1e+06 (default 0.9)",
        "method.terms.kd.temperature=0.001 (default 4)",
    ]


def test_a_batch_larger_than_the_data_trains_as_one_of_all_the_data(lab):
    """In both stages. The lab has 66 images: a batch of 660 is one of 66, and its learning rate is that of 66."""
    base = lab.every("fitnet", stage1_epochs=1)
    larger, whole = (lab.execute(replace(base, recipe=replace(lab.recipe, batch_size=size))).run for size in (660, 66))
    assert larger.spec.run_id != whole.spec.run_id
    assert larger.weights.read_bytes() == whole.weights.read_bytes()
    schedule = [row["lr"] for row in larger.rows()]
    assert schedule == [row["lr"] for row in whole.rows()]
    assert max(schedule) == pytest.approx(lab.recipe.lr * 66 / 128)
