"""The bias of classes a student has never seen, against all of the grid; and definitions that do not fit."""

import dataclasses

import numpy as np
import pytest

from kdrun.config.compose import ConfigError
from kdrun.config.table import compose_table
from kdrun.experiment.derived import compute
from kdrun.papers.hinton2015.bias import Bias
from kdrun.tables import TableError, read_definition

TARGET = "kdrun.papers.hinton2015.bias.Bias"


@pytest.fixture
def half_blind(lab):
    """A finished run that was trained without classes 1 and 2, with a third of the images held out."""
    dataset = dataclasses.replace(lab.dataset, train_size=300, val_fraction=0.33)
    recipe = dataclasses.replace(lab.recipe, epochs=5)
    teacher = lab.plain("cnn", dataset=dataset, recipe=recipe)
    method = lab.by("KD", alpha=1.0)
    restricted = dataclasses.replace(dataset, classes=(0, 3))
    spec = lab.plain("cnn", dataset=restricted, recipe=recipe, method=method, teachers=(teacher,))
    lab.execute(spec)
    return spec


@pytest.mark.parametrize("chosen_on", ["val", "test"])
def test_the_bias_is_that_with_the_fewest_errors_by_brute_force(lab, half_blind, chosen_on):
    def wrong(split: str, bias: float) -> np.ndarray:
        """Of each class, how many images are wrong."""
        logits, labels = (tensor.numpy() for tensor in lab.runner().logits(half_blind, split))
        corrected = logits.astype(np.float64) + bias * np.isin(np.arange(4), [1, 2])
        return np.bincount(labels[corrected.argmax(axis=1) != labels], minlength=4)

    found = compute(Bias((half_blind,), classes=(1, 2), chosen_on=chosen_on), lab.runner())
    bias = found["figures"]["bias"]
    errors = {b: wrong(chosen_on, b).sum() for b in (round(-20 + 0.1 * i, 1) for i in range(401))}
    fewest = [b for b in errors if errors[b] == min(errors.values())]
    assert bias in fewest
    assert abs(bias) == min(map(abs, fewest))
    assert errors[bias] < errors[0.0], "it has something to correct"
    assert found["class_errors"] == wrong("test", bias).tolist()
    assert found["test"]["last"]["top1"] == pytest.approx(100 * (1 - wrong("test", bias).sum() / 40))


def table(**derived) -> dict:
    overrides = ["dataset=synthetic", "student=mlp", "student.hidden=[16]"]
    return {
        "title": "Bias",
        "rows": [
            {"name": "mlp/ce", "overrides": [*overrides, "dataset.val_fraction=0.2", "method=ce"]},
            {"name": "mlp/bias", "derived": {"_target_": TARGET, "of": "mlp/ce", **derived}},
        ],
    }


def test_a_row_of_a_table_is_the_bias_of_the_run_of_each_seed():
    composed = compose_table(read_definition("bias", table(classes=[3])), [], num_seeds=2)
    runs, biases = composed.entries
    assert biases.derived == tuple(Bias((spec,), (3,)) for spec in runs.specs)


@pytest.mark.parametrize(
    ("derived", "problem"), [({}, "classes"), ({"classes": [3], "chosen_on": "train"}, "val, test")]
)
def test_faulty_options_are_refused(derived, problem):
    with pytest.raises(TableError) as refused:
        read_definition("bias", table(**derived))
    (text,) = refused.value.problems
    assert text.startswith("bias.rows[1].derived.")
    assert problem in text


@pytest.mark.parametrize(
    ("override", "problem"), [("dataset.val_fraction=0", "chosen_on=val"), ("dataset.num_classes=3", "classes=[3]")]
)
def test_options_that_do_not_fit_the_runs_are_refused_with_their_row(override, problem):
    with pytest.raises(ConfigError) as refused:
        compose_table(read_definition("bias", table(classes=[3])), [override], num_seeds=1)
    (text,) = refused.value.problems
    assert text.startswith(f"row mlp/bias: derived: {problem}: ")


def test_classes_are_some_of_the_datasets_each_once(lab):
    for classes in ((), (4,), (1, 1), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match=r"^classes=\["):
            Bias((lab.plain(),), classes=classes, chosen_on="test")
