"""Smoothed and mixed labels: the hard term of every method, and the methods for which they have no meaning."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from kdrun.experiment.build import check_labels
from kdrun.methods import CE, KD, Batch, shipped_methods
from kdrun.mixed import Mixed
from kdrun.spec.augmentation import Augmentation
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Recipe, Spec

KINDS = shipped_methods()
HARD = {"lsr"}
BY_CLASS = {"tfkd_reg", "dkd", "kd_pt", "kd_sim", "triplet", "crd"}
"""Their terms are formulas of the class of an image, beside a hard term."""

MIXED = Mixed(torch.tensor([2, 1, 0, 5, 3, 1, 1, 0]), torch.tensor([1.0, 0.3, 0.0, 0.5, 0.9, 0.25, 0.6, 0.7]).double())


def dense(batch: Batch, smoothing: float, classes: int) -> torch.Tensor:
    """The target distributions `[N, K]` in plain arithmetic."""
    target = F.one_hot(batch.y, classes).double()
    if batch.mixed is not None:
        weight = batch.mixed.weight[:, None]
        target = weight * target + (1 - weight) * F.one_hot(batch.mixed.y, classes)
    return (1 - smoothing) * target + smoothing / classes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [None, MIXED])
def test_the_hard_term_is_the_cross_entropy_with_the_distribution(batch, smoothing, mixed):
    logits = torch.randn(8, 6, dtype=torch.float64)
    labelled = dataclasses.replace(batch, mixed=mixed, label_smoothing=smoothing)
    expected = F.cross_entropy(logits, dense(labelled, smoothing, 6))
    assert_close(labelled.cross_entropy(logits), expected)
    if mixed is None:
        torchs = F.cross_entropy(logits, batch.y, label_smoothing=smoothing)
        assert_close(labelled.cross_entropy(logits), torchs, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [CE, KD])
def test_only_the_hard_term_changes(batch, teacher, build, kind):
    plain = build(kind)(batch, teacher).terms
    changed = build(kind)(dataclasses.replace(batch, mixed=MIXED, label_smoothing=0.1), teacher).terms
    assert [name for name in plain if plain[name] != changed[name]] == ["ce"]


def spec_of(kind: str, **options) -> Spec:
    data = ImageDatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 66, 40, (0.5,), (0.25,))
    return Spec(data, Component("kdrun.models.cnn"), Component(f"kdrun.methods.{KINDS[kind].__name__}", options))


def refused(kind, method, **recipe) -> list[str]:
    """The fields of the recipe that are refused."""
    spec = dataclasses.replace(spec_of(kind), recipe=Recipe(**recipe))
    try:
        check_labels(spec, method)
    except ValueError as error:
        return [line.partition("=")[0] for line in str(error).splitlines()]
    return []


def test_labels_are_smoothed_and_mixed_where_the_formulas_have_a_meaning():
    laws = {"augmentation": Augmentation(mixup_alpha=0.8, cutmix_alpha=1.0)}
    both = ["augmentation.mixup_alpha", "augmentation.cutmix_alpha"]
    for name, kind in KINDS.items():
        if name in ("sum", "born_again"):
            continue  # by their options, see below
        assert refused(name, kind, label_smoothing=0.1) == (["label_smoothing"] if name in HARD else []), name
        assert refused(name, kind, **laws) == (both if name in HARD | BY_CLASS else []), name


def test_options_decide_where_they_decide_about_terms(build):
    law = Augmentation(cutmix_alpha=1.0)
    for kind, options, allowed in (
        ("born_again", {"variant": "kd"}, True),
        ("born_again", {"variant": "cwtm"}, False),
        ("sum", {"terms": {"kd": {}}}, True),
        ("sum", {"terms": {"kd": {}, "dkd": {}}}, False),
    ):
        found = refused(kind, build(KINDS[kind], **options), augmentation=law)
        assert found == ([] if allowed else ["augmentation.cutmix_alpha"]), (kind, options)
