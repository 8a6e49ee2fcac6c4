"""Several terms at once: each is its method's, with its weight, and the sum knows no order."""

import inspect

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun import methods
from kdrun.methods import Method, Sum
from kdrun.methods.base import Distillation, Pair
from kdrun.methods.sum import NO_TERMS, TERMS
from kdrun.taps import Outline

RESPONSES = ("dist", "dkd", "kd", "kd_pt", "kd_sim", "kd_topk", "kd_uniform", "logit_matching", "tfkd_reg", "triplet")
METHODS = {
    kind.name: kind
    for name in methods.__all__
    if issubclass(kind := getattr(methods, name), Method) and not inspect.isabstract(kind)
}


def test_every_method_is_a_term_or_has_a_reason_why_not():
    assert TERMS.keys() | NO_TERMS.keys() == METHODS.keys()
    assert not TERMS.keys() & NO_TERMS.keys()


@pytest.mark.parametrize("name", RESPONSES)
def test_a_term_is_its_methods_with_the_weight_that_it_has_alone(build, batch, teacher, name):
    alone = build(TERMS[name])
    found = alone(batch, teacher)
    batch.generator.manual_seed(1)
    summed = build(Sum, terms={name: {}}, hard_weight=alone.hard_weight)(batch, teacher)
    assert torch.equal(summed.loss, found.loss)
    assert TERMS[name].default_weight() == alone.weight > 0


def test_the_weights_are_of_the_terms(build, batch, teacher):
    found = build(Sum, terms={"kd": {"weight": 2.0}, "dist": {"weight": 0.5}}, hard_weight=0.3)(batch, teacher)
    assert found.terms.keys() == {"ce", "kd", "dist"}
    assert_close(found.loss, 0.3 * found.terms["ce"] + 2 * found.terms["kd"] + 0.5 * found.terms["dist"])


def test_the_order_in_which_terms_are_written_changes_no_bit():
    """Neither that of the sum, nor what is drawn for the modules of a term."""
    shapes = {"layer1": (4, 4, 4), "pool": (4,), "out": (6,)}
    pair = Pair(Outline("student", shapes), Outline("teacher", shapes), nn.Identity)
    found = []
    for names in (("fitnet", "kd", "fsp"), ("fsp", "fitnet", "kd")):
        torch.manual_seed(0)
        options = {"fsp": {"student_taps": ("layer1", "layer1")}}
        found.append(Sum(nn.Identity(), pair, terms={name: options.get(name, {}) for name in names}))
    assert [list(each.terms) for each in found] == [["fitnet", "fsp", "kd"]] * 2
    first, second = (list(each.parameters()) for each in found)
    assert first
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_what_is_wrong_with_a_term_is_told_with_its_name(build):
    for name in NO_TERMS:
        with pytest.raises(ValueError, match=rf"^terms.{name}: cannot be a term: .*; terms are at, dist, "):
            build(Sum, terms={name: {}})
    with pytest.raises(ValueError, match=r"^terms.kd.temperature=0: must be"):
        build(Sum, terms={"kd": {"temperature": 0}})
    with pytest.raises(ValueError, match=r"^student=student: has no feature maps .* \(method.terms.at\)$"):
        build(Sum, terms={"at": {}})


def test_every_option_of_a_term_that_a_sum_passes_over_is_one_of_its_method():
    for kind in TERMS.values():
        assert issubclass(kind, Distillation)
        own = {option for option in kind.alone if option not in ("weight", "hard_weight")}
        assert own <= inspect.signature(kind).parameters.keys()
        assert {*kind.of_one_stage, *kind.of_two_stages} <= inspect.signature(kind).parameters.keys()
