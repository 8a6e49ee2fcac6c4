"""Several terms at once: each is its method's, with its weight, and the sum knows no order."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun import methods
from kdrun.methods import KD, Distillation, Needs, Pair, Sum, TrainingSet, shipped_methods
from kdrun.methods.sum import shipped_terms
from kdrun.taps import Outline

TERMS = {name: shipped_methods()[name] for name in shipped_terms()}
TRAINING = TrainingSet(torch.arange(8) % 6, 8, 6)


def test_methods_of_one_term_and_one_teacher_can_be_a_term():
    assert {"kd", "tfkd_reg", "dkd", "at", "crd", "fitnet", "fsp"} <= TERMS.keys()
    others = {"born_again", "ce", "dml", "kd_ensemble", "lsr", "sum", "takd", "tfkd_self", "weight_distillation"}
    assert others <= shipped_methods().keys() - TERMS.keys()


@pytest.mark.parametrize("name", [name for name, kind in TERMS.items() if kind.knowledge == "response"])
def test_a_term_is_its_methods_with_the_weight_that_it_has_alone(build, batch, teacher, name):
    torch.manual_seed(0)
    alone = build(TERMS[name]).double()
    found = alone(batch, teacher)
    batch.generator.manual_seed(1)
    torch.manual_seed(0)
    summed = build(Sum, terms={name: {}}, hard_weight=alone.hard_weight).double()(batch, teacher)
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
        found.append(Sum(nn.Identity(), pair, TRAINING, terms={name: options.get(name, {}) for name in names}))
    assert [list(each.terms) for each in found] == [["fitnet", "fsp", "kd"]] * 2
    first, second = (list(each.parameters()) for each in found)
    assert first
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_what_is_wrong_with_a_term_is_told_with_its_name(build):
    for name in shipped_methods().keys() - TERMS.keys():
        with pytest.raises(ValueError, match=rf"^terms.{name}: cannot be a term: .*; terms are at, crd, dist, "):
            build(Sum, terms={name: {}})
    with pytest.raises(ValueError, match=r"^terms.kd.temperature=0: must be"):
        build(Sum, terms={"kd": {"temperature": 0}})
    with pytest.raises(ValueError, match=r"^student=student: has no feature maps .* \(method.terms.at\)$"):
        build(Sum, terms={"at": {}})


class Pull(Distillation):
    """A method of somebody's own: the student's logits are drawn to zero."""

    name = "pull"
    needs = Needs(views=2, per_class=2)

    def __init__(self, student: nn.Module, *, power: float = 2.0) -> None:
        super().__init__(student)
        self.power = power

    def distill(self, student, batch, teacher):
        return student.logits.abs().pow(self.power).mean()


def test_a_method_of_ones_own_is_a_term_by_its_class(build, batch, teacher):
    terms = {"mine": {"_target_": Pull, "power": 3.0, "weight": 0.5}, "kd2": {"_target_": KD, "temperature": 2.0}}
    summed = build(Sum, terms={**terms, "kd": {}})
    assert (summed.needs.views, summed.needs.per_class, summed.needs.logits) == (2, 2, True)
    found = summed(batch, teacher)
    assert found.terms.keys() == {"ce", "kd", "kd2", "mine"}
    assert_close(found.terms["mine"], found.logits.abs().pow(3).mean())
    assert found.terms["kd"] != found.terms["kd2"]
    expected = found.terms["ce"] + 0.9 * found.terms["kd"] + 0.9 * found.terms["kd2"] + 0.5 * found.terms["mine"]
    assert_close(found.loss, expected)


@pytest.mark.parametrize("name", ["ce", "loss", "agreement", "keys", "a.b", ""])
def test_a_term_has_a_name_of_its_own(build, name):
    with pytest.raises(ValueError, match=rf"^terms.{name}: is no name for a term"):
        build(Sum, terms={name: {"_target_": Pull}})


def test_what_a_sum_asks_satisfies_each_of_its_terms():
    asked = methods.base.together([Needs(views=2, per_class=2), Needs(logits=True, features=("a",), per_class=3)])
    assert asked == Needs(logits=True, features=("a",), views=2, per_class=6)
    assert methods.base.together([]) == Needs(any_task=True)
