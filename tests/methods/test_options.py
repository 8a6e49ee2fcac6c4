"""Every option of the methods that use labels and logits moves the loss its way, or is refused."""

import inspect

import pytest
import torch

from kdrun import methods
from kdrun.methods import (
    CE,
    DIST,
    DKD,
    KD,
    LSR,
    TAKD,
    BornAgain,
    KDEnsemble,
    KDPt,
    KDSim,
    KDTopK,
    KDUniform,
    LogitMatching,
    Method,
    TfKDReg,
    TfKDSelf,
    Triplet,
)

BAD_WEIGHTS = (-1.0, float("inf"), float("nan"))
OF_THE_PROGRAM = {(KDEnsemble, "num_teachers"), (BornAgain, "generation")}
"""They say which teachers there are, and change nothing in a step."""


def share(method: Method, found, y) -> float:
    """How far from the cross-entropy to the other term the loss has gone."""
    soft = next(term for name, term in found.terms.items() if name != "ce")
    return ((found.loss - found.terms["ce"]) / (soft - found.terms["ce"])).item()


def divergence(method: Method, found, y) -> float:
    """The KL divergence per image of the softened distributions: without T^2."""
    return soft_loss(method, found, y) / method.temperature**2


def soft_loss(method: Method, found, y) -> float:
    return next(term for name, term in found.terms.items() if name != "ce").item()


def loss(method: Method, found, y) -> float:
    return found.loss.item()


def pull(method: Method, found, y) -> float:
    """How hard a step of gradient descent pulls the logit of the label up."""
    gradient = torch.autograd.grad(found.loss, found.logits)[0]
    return -gradient.gather(1, y[:, None]).mean().item()


ALPHA = ("alpha", (0.0, 0.3, 0.9, 1.0), {}, share, "rises")
TEMPERATURE = ("temperature", (0.5, 1.0, 4.0, 20.0), {}, divergence, "falls")
MULTIPLIER = ("multiplier", (0.0, 1.0, 50.0), {}, loss, "rises")
WEIGHTS = [
    ("weight", (0.0, 1.0, 50.0), {}, loss, "rises"),
    ("hard_weight", (0.0, 1.0, 50.0), {}, loss, "rises"),
]
STANDARDIZE = ("standardize", (True, False), {}, soft_loss, "rises")  # these logits deviate by more than 1
KD_DIRECTIONS = [ALPHA, TEMPERATURE, STANDARDIZE, ("kl_reduction", ("mean", "batchmean"), {}, soft_loss, "rises")]
AT_ONCE = {"warmup_epochs": 0}
DIRECTIONS = [
    *((kind, *row) for kind in (KD, TfKDSelf, TAKD, KDUniform) for row in KD_DIRECTIONS if row[0] != "standardize"),
    *((kind, *STANDARDIZE) for kind in (KD, TfKDSelf, TAKD)),
    (KDUniform, "standardize", (True, False), {}, soft_loss, "changes"),
    # This teacher disagrees with the labels.
    *((kind, "multiplier", (0.0, 1.0, 50.0), {}, pull, "falls") for kind in (KD, TfKDSelf, TAKD)),
    (KDUniform, "multiplier", (0.0, 1.0, 50.0), {}, pull, "rises"),  # the label has less than 1/K here
    (CE, "scale", (0.1, 1.0, 2.0), {}, pull, "rises"),
    (LSR, "scale", (0.1, 1.0, 2.0), {}, pull, "rises"),
    (LSR, "epsilon", (0.0, 0.1, 0.5, 1.0), {}, pull, "falls"),
    (LSR, "spread", ("uniform", "others"), {}, pull, "falls"),
    (TfKDReg, *ALPHA),
    (TfKDReg, "multiplier", (0.0, 1.0, 50.0), {"temperature": 1.0}, pull, "rises"),
    (TfKDReg, "temperature", (1.0, 5.0, 20.0, 40.0), {"alpha": 1.0}, pull, "falls"),
    (TfKDReg, "correct_prob", (0.2, 0.5, 0.9, 1.0), {"alpha": 1.0}, pull, "rises"),
    # As released the KL is divided by K. (At T=1, where the other difference vanishes.)
    (TfKDReg, "variant", ("released", "paper"), {"temperature": 1.0}, soft_loss, "rises"),
    *((LogitMatching, *row) for row in (ALPHA, MULTIPLIER, STANDARDIZE)),
    (LogitMatching, "class_reduction", ("mean", "sum"), {}, soft_loss, "rises"),
    *((kind, *row) for kind in (KDTopK, KDPt, KDEnsemble) for row in (ALPHA, MULTIPLIER, TEMPERATURE)),
    (KDTopK, *STANDARDIZE),
    (KDTopK, "k", (1.0, 5, 0.5, 1), {}, soft_loss, "rises"),  # the more is cut off, the sharper the target
    (KDTopK, "renormalize", (False, True), {}, soft_loss, "rises"),
    *((KDSim, *row) for row in (ALPHA, MULTIPLIER)),
    (KDSim, "temperature", (0.5, 1.0, 4.0), {}, soft_loss, "changes"),  # the target has a temperature of its own
    (KDSim, "similarity_temperature", (0.05, 0.2, 1.0), {}, soft_loss, "falls"),
    (KDSim, "normalize", (True, False), {}, soft_loss, "rises"),
    (KDEnsemble, *STANDARDIZE),
    (KDEnsemble, "mean", ("arithmetic", "geometric"), {}, soft_loss, "changes"),
    *((DKD, name, values, {**AT_ONCE, **fixed}, *way) for name, values, fixed, *way in (TEMPERATURE, *WEIGHTS)),
    (DKD, "alpha", (0.0, 1.0, 8.0), AT_ONCE, soft_loss, "rises"),
    (DKD, "beta", (0.0, 1.0, 8.0), AT_ONCE, soft_loss, "rises"),
    (DKD, "warmup_epochs", (0, 2, 20), {}, soft_loss, "falls"),
    (DKD, "standardize", (True, False), AT_ONCE, soft_loss, "rises"),
    *((kind, *row) for kind in (DIST, Triplet, BornAgain) for row in WEIGHTS),
    (DIST, "temperature", (1.0, 4.0), {}, soft_loss, "changes"),
    (DIST, "beta", (0.0, 1.0, 2.0), {}, soft_loss, "rises"),
    (DIST, "gamma", (0.0, 1.0, 2.0), {}, soft_loss, "rises"),
    (Triplet, "triplet_weight", (0.0, 1.0, 2.0), {}, soft_loss, "rises"),
    (Triplet, "margin", (0.0, 5.0, 10.0), {}, soft_loss, "rises"),
    (BornAgain, "variant", ("kd", "cwtm", "dkpp"), {}, soft_loss, "changes"),
]


@pytest.mark.parametrize(
    ("kind", "option", "values", "fixed", "measure", "direction"),
    DIRECTIONS,
    ids=[f"{row[0].name}-{row[1]}" for row in DIRECTIONS],
)
def test_every_option_moves_the_loss_its_way(build, batch, teacher, kind, option, values, fixed, measure, direction):
    seen = []
    for value in values:
        method = build(kind, **fixed, **{option: value})
        batch.generator.manual_seed(1)
        seen.append(measure(method, method(batch, teacher), batch.y))
    ordered = seen if direction == "changes" else sorted(seen, reverse=direction == "falls")
    assert seen == ordered, f"{option} {direction} strictly"
    assert len(set(seen)) == len(values)


def test_no_option_is_left_out_of_the_directions():
    exported = [kind for name in methods.__all__ if issubclass(kind := getattr(methods, name), Method)]
    alone = {kind for kind in exported if hasattr(kind, "name") and "pair" not in inspect.signature(kind).parameters}
    kinds = {row[0] for row in DIRECTIONS}
    assert kinds == alone | {KDSim, KDTopK}, "those that need features or networks are tested in files of their own"
    options = {(kind, name) for kind in kinds for name in inspect.signature(kind).parameters}
    options -= {(kind, given) for kind in kinds for given in ("student", "pair")}
    assert {(kind, option) for kind, option, *_ in DIRECTIONS} == options - OF_THE_PROGRAM


@pytest.mark.parametrize(
    ("kind", "option", "wrong"),
    [
        *(
            (kind, "temperature", value)
            for kind in (KD, TfKDSelf, TfKDReg, KDTopK, KDPt, KDSim, KDEnsemble, DKD, DIST)
            for value in (0.0, -1.0, float("nan"))
        ),
        *((kind, "alpha", value) for kind in (KD, TfKDSelf, TfKDReg, LogitMatching, KDPt) for value in (-0.1, 1.1)),
        *((kind, "multiplier", value) for kind in (KD, TfKDReg, LogitMatching, KDPt) for value in BAD_WEIGHTS),
        *((kind, "weight", value) for kind in (DKD, DIST, Triplet, BornAgain) for value in BAD_WEIGHTS),
        *((kind, "hard_weight", value) for kind in (DKD, DIST, Triplet, BornAgain) for value in BAD_WEIGHTS),
        *((DKD, option, value) for option in ("alpha", "beta") for value in BAD_WEIGHTS),
        *((DIST, option, value) for option in ("beta", "gamma") for value in BAD_WEIGHTS),
        *((Triplet, option, value) for option in ("triplet_weight", "margin") for value in BAD_WEIGHTS),
        (KD, "kl_reduction", "sum"),
        (TfKDReg, "correct_prob", 0.0),
        (TfKDReg, "correct_prob", 1.01),
        (TfKDReg, "variant", "published"),
        (LSR, "epsilon", -0.1),
        (LSR, "epsilon", 1.1),
        (LSR, "spread", "even"),
        *((kind, "scale", value) for kind in (CE, LSR) for value in (0.0, -1.0, float("inf"))),
        (LogitMatching, "class_reduction", "max"),
        *((KDTopK, "k", value) for value in (0, -2, 7, 0.0, 1.5, float("nan"))),
        (KDSim, "similarity_temperature", 0.0),
        (KDEnsemble, "mean", "median"),
        (KDEnsemble, "num_teachers", 0),
        (DKD, "warmup_epochs", -1),
        (BornAgain, "variant", "ban"),
        (BornAgain, "generation", 0),
    ],
)
def test_wrong_options_are_refused_before_training(build, kind, option, wrong):
    with pytest.raises(ValueError, match=rf"^{option}={wrong!r}: must be"):
        build(kind, **{option: wrong})
