"""The methods of logits: each objective is its paper's sum of the library's losses; what their draws depend on."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun import losses
from kdrun.methods import (
    DIST,
    DKD,
    KD,
    TAKD,
    BornAgain,
    KDEnsemble,
    KDPt,
    KDSim,
    KDTopK,
    LogitMatching,
    TeacherOutput,
    Triplet,
)
from kdrun.methods.base import Pair
from kdrun.taps import Outline

PAPERS = [
    (LogitMatching, 0.1, 0.9, lambda s, t, y, w: losses.logit_matching_loss(s, t)),
    (TAKD, 0.1, 0.9, lambda s, t, y, w: losses.soft_target_loss(s, t, temperature=4.0)),
    (KDTopK, 0.1, 0.9, lambda s, t, y, w: losses.topk_loss(s, t, temperature=4.0, k=0.25)),
    (KDPt, 0.1, 0.9, lambda s, t, y, w: losses.true_class_loss(s, t, y, temperature=4.0)),
    (
        KDSim,
        0.1,
        0.9,
        lambda s, t, y, w: losses.class_similarity_loss(s, w, y, temperature=4.0, similarity_temperature=0.2),
    ),
    # The authors' configuration for CIFAR-100: 2 T^2 at T = 4.
    (DIST, 1.0, 32.0, lambda s, t, y, w: losses.dist_loss(s, t, temperature=4.0, beta=1.0, gamma=1.0)),
    (BornAgain, 1.0, 1.0, lambda s, t, y, w: losses.soft_target_loss(s, t, temperature=1.0)),
]


@pytest.mark.parametrize(("kind", "hard_weight", "weight", "term"), PAPERS, ids=[row[0].name for row in PAPERS])
def test_by_default_it_is_cross_entropy_and_the_papers_term(build, batch, teacher, kind, hard_weight, weight, term):
    found = build(kind)(batch, teacher)
    expected = term(found.logits, teacher.logits, batch.y, teacher.weights["classifier.weight"])
    assert_close(found.loss, hard_weight * losses.cross_entropy(found.logits, batch.y) + weight * expected)
    assert found.terms.keys() == {"ce", "kd" if kind is TAKD else kind.name}
    assert_close(found.terms["kd" if kind is TAKD else kind.name], expected)


@pytest.mark.parametrize("kind", [KD, KDTopK, DKD, LogitMatching, KDEnsemble])
def test_standardised_a_method_does_not_see_the_scale_of_the_teachers_logits(build, batch, teacher, kind):
    louder = dataclasses.replace(teacher, logits=9 * teacher.logits + 2, members=9 * teacher.members + 2)
    for standardize in (True, False):
        method = build(kind, standardize=standardize)
        heard = [method(batch, given).loss for given in (teacher, louder)]
        assert torch.isclose(*heard, rtol=1e-6) == standardize


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.05), (9, 0.5), (19, 1.0), (200, 1.0)])
def test_dkd_grows_over_its_first_epochs_as_released(build, batch, teacher, epoch, share):
    later = dataclasses.replace(batch, epoch=epoch)
    found = build(DKD)(later, teacher)
    whole = losses.dkd_loss(found.logits, teacher.logits, batch.y, temperature=4.0, alpha=1.0, beta=8.0)
    assert_close(found.terms["dkd"], share * whole)
    assert_close(found.loss, found.terms["ce"] + found.terms["dkd"])


def test_an_ensemble_of_one_is_kd_whether_it_comes_alone_or_as_a_member(build, batch, teacher):
    alone = TeacherOutput(teacher.logits)
    expected = build(KD)(batch, alone).loss
    for mean in losses.ENSEMBLE_MEANS:
        for given in (alone, TeacherOutput(teacher.logits.flip(1), members=teacher.logits[None])):
            assert_close(build(KDEnsemble, mean=mean)(batch, given).loss, expected)
    several = build(KDEnsemble, mean="geometric", standardize=True)(batch, teacher)
    members = torch.stack([losses.standardized(member) for member in teacher.members])
    assert_close(
        several.terms["kd_ensemble"],
        losses.ensemble_loss(losses.standardized(several.logits), members, temperature=4.0, mean="geometric"),
    )


def test_triplet_takes_its_negatives_from_the_batchs_generator(build, batch, teacher):
    method = build(Triplet)
    seen = {seed: [] for seed in (1, 2)}
    for seed in (1, 2, 1):
        batch.generator.manual_seed(seed)
        found = method(batch, teacher)
        seen[seed].append(found.loss)
        batch.generator.manual_seed(seed)
        negatives, exists = losses.draw_negatives(batch.y, batch.generator)
        soft = losses.soft_target_loss(found.logits, teacher.logits, temperature=1.0)
        triplet = losses.triplet_loss(found.logits, teacher.logits, negatives, exists, margin=5.0)
        assert_close(found.loss, found.terms["ce"] + soft + 2 * triplet)
    assert seen[1][0] == seen[1][1] != seen[2][0]


@pytest.mark.parametrize("kind", [Triplet, BornAgain])
def test_what_is_drawn_does_not_depend_on_the_global_generator(build, batch, teacher, kind):
    method = build(kind, **({"variant": "dkpp"} if kind is BornAgain else {}))
    seen = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        batch.generator.manual_seed(5)
        seen.add(method(batch, teacher).loss.item())
    assert len(seen) == 1


def test_the_ablations_of_born_again_networks(build, batch, teacher):
    weighed = build(BornAgain, variant="cwtm", hard_weight=0.0)(batch, teacher)
    assert_close(weighed.loss, losses.confidence_weighted_loss(weighed.logits, teacher.logits, batch.y))
    batch.generator.manual_seed(5)
    permuted = build(BornAgain, variant="dkpp", hard_weight=0.0)(batch, teacher)
    generator = torch.Generator().manual_seed(5)
    assert_close(permuted.loss, losses.permuted_target_loss(permuted.logits, teacher.logits, generator=generator))


def test_kd_sim_finds_the_classifier_among_the_teachers_parameters():
    def classifier(**shapes):
        teacher = Outline("net", parameters={path.replace("_", "."): shape for path, shape in shapes.items()})
        return KDSim(nn.Identity(), Pair(Outline("net", num_classes=6), teacher, nn.Identity)).classifier

    # A hidden layer as wide as there are classes, a bias, and a convolution are none.
    assert classifier(hidden_weight=(6, 9), fc_weight=(6, 6), fc_bias=(6,), aux_weight=(6, 3, 1, 1)) == "fc.weight"
    with pytest.raises(ValueError, match=r"^teacher=net: has no linear classifier: no parameter \[6, D\]"):
        classifier(fc_weight=(7, 6), head_weight=(6, 64, 1, 1))
