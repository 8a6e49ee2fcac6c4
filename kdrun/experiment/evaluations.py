"""What can be asked of a finished run beside its result, by name: other images of the same classes, other questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdrun.data import CORRUPTIONS, DataError, Examples, ImageSet
from kdrun.data.real_agreement import blimp, linzen
from kdrun.experiment import agreement
from kdrun.experiment.datasets import load_splits, make_resident
from kdrun.metrics import classification_metrics, expected_calibration_error
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Spec

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner

FINE_BINS = 1_000_000
"""Of the ECE in the released code of Abnar et al. (2020): near the mean of |correct - confidence|."""

MEANINGS = {
    "D-accuracy": f"mean of the accuracies at each distance between subject and verb, up to {agreement.LONGEST} words",
    "A-accuracy": "mean of the accuracies with each number of attractors, nouns of the other number in between",
    f"{agreement.HARD}+ attractors": f"accuracy on sentences with {agreement.HARD} attractors and more",
}
"""Of figures, by name, where the name does not say it."""

AGREEMENT = ("kdrun.data.agreement", "kdrun.data.agreement_lm")


@dataclass(frozen=True)
class Named:
    """One evaluation.

    Attributes:
        what: it is of, in words.
        ask: a finished run; returns `figures`, numbers by name, and `buckets`, figures by the value of something.
        fits: whether a dataset has what it is of.
        files: reads what it needs under the data root, where that is not the dataset itself.
    """

    what: str
    ask: Callable[[Runner, Spec], dict[str, Any]]
    fits: Callable[[DatasetSpec], bool]
    files: Callable[[Path], object] = lambda root: None


def names_for(dataset: DatasetSpec) -> tuple[str, ...]:
    """The evaluations that runs on a dataset can have."""
    return tuple(name for name, evaluation in EVALUATIONS.items() if evaluation.fits(dataset))


def missing_files(name: str, root: Path) -> str | None:
    """What an evaluation lacks under the data root; None where all is there."""
    try:
        EVALUATIONS[name].files(root)
    except DataError as error:
        return str(error)
    return None


def _on_test(change: Callable[[Tensor], Tensor] | None, runner: Runner, spec: Spec) -> dict[str, Any]:
    """On the test set, as it is or with its images changed."""
    test: Examples = load_splits(spec.dataset, runner.data_root).test
    if change is not None:
        assert isinstance(test, ImageSet), "the dataset fits"
        test = ImageSet(change(test.images), test.labels)
    examples = make_resident(test, spec.dataset, runner.device)
    logits, labels = runner.answers(spec, examples), examples.labels
    metrics = classification_metrics(logits, labels)
    figures = {"top-1": metrics["top1"], "ECE": metrics["ece"]}
    if spec.dataset.labels_each > 1:
        return {"figures": {"perplexity": math.exp(metrics["nll"]), **figures}}
    fine = expected_calibration_error(logits, labels, bins=FINE_BINS).item()
    return {"figures": {**figures, "ECE of 10⁶ bins": fine}}


def _has_images(dataset: DatasetSpec) -> bool:
    return dataset.example == "image"


def _asks_for_agreement(dataset: DatasetSpec) -> bool:
    return dataset.target in AGREEMENT


EVALUATIONS: Mapping[str, Named] = {
    "test": Named("the test set as it is", partial(_on_test, None), lambda dataset: True),
    **{
        name: Named(f"the test images, {name} of MNIST-C", partial(_on_test, change), _has_images)
        for name, change in CORRUPTIONS.items()
    },
    "agreement": Named("generated sentences with 0 to 4 attractors", agreement.generated, _asks_for_agreement),
    "linzen": Named(
        "real sentences (Linzen 2016) whose verb is in the vocabulary", agreement.real, _asks_for_agreement, linzen
    ),
    "blimp": Named(
        "minimal pairs (BLiMP), the mean of six paradigms", agreement.minimal_pairs, _asks_for_agreement, blimp
    ),
}
