"""Every method: alone as in lockstep, with its weight at 0, with another teacher.

Each trains an epoch of each of its stages; all of them train together once for the tests of this module.
"""

import dataclasses
import inspect
import json

import pytest
import torch

from kdrun import methods

KINDS = methods.shipped_methods()
TAUGHT = [name for name, kind in KINDS.items() if kind.needs.teacher]
FAMILIES = ("ce", "kd", "fsp", "crd", "dml", "kd_ensemble", "weight_distillation", "sum")
"""Plain, taught, two stages, a memory, online peers, several teachers, generated weights, several terms."""
WITHOUT_EFFECT = {
    "sum": {"terms": {"kd": {"weight": 0.0}, "at": {"weight": 0.0}, "fitnet": {"weight": 0.0}}},
    **{name: {"alpha": 0.0} for name, kind in KINDS.items() if "multiplier" in inspect.signature(kind).parameters},
    **{name: {"weight": 0.0} for name, kind in KINDS.items() if "weight" in inspect.signature(kind).parameters},
}
"""What takes a method's own term out of the loss; none for the labels' own methods, and where weights are generated."""


def short(lab, name, **options):
    """One epoch of each stage."""
    staged = "stage1_epochs" in inspect.signature(KINDS[name]).parameters
    spec = lab.every(name, **({"stage1_epochs": 1} if staged else {}), **options)
    recipe = dataclasses.replace(lab.recipe, epochs=1)
    teachers = tuple(dataclasses.replace(teacher, recipe=recipe) for teacher in spec.teachers)
    return dataclasses.replace(spec, recipe=recipe, teachers=teachers)


def trained_together(lab, specs):
    """The outcomes of runs by the names of their methods."""
    ended = lab.execute_all(specs)
    failed = [outcome for outcome in ended if isinstance(outcome, Exception)]
    assert not failed
    return {outcome.result["method"]["name"]: outcome for outcome in ended}


@pytest.fixture(scope="module")
def together(shared_lab):
    """Every method's outcome, and the objectives of its steps as pairs of stage and objective."""
    objectives = {name: [] for name in KINDS}
    forward = methods.Method.forward

    def recorded(self, batch, teacher):
        objective = forward(self, batch, teacher)
        objectives[self.name].append((self.stage + 1, objective))
        return objective

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods.Method, "forward", recorded)
        outcomes = trained_together(shared_lab, [short(shared_lab, name) for name in KINDS])
    return {name: (outcomes[name], objectives[name]) for name in KINDS}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAMILIES else pytest.mark.slow) for n in KINDS])
def test_a_method_trains_in_lockstep_as_alone(shared_lab, together, name):
    outcome, _ = together[name]
    alone = shared_lab.execute(short(shared_lab, name), "alone")
    assert shared_lab.bits(outcome.run) == shared_lab.bits(alone.run)
    assert alone.result["train"]["lockstep"] == 1


def test_every_method_moves_the_weights_and_delivers_the_student_alone(shared_lab, together):
    sizes = {name: outcome.result["train"]["lockstep"] for name, (outcome, _) in together.items()}
    assert sizes["fsp"] == sizes["weight_distillation"] == sizes["sum"] == sizes["kd"] > 10, "one group"
    assert len({outcome.result["student"]["params"] for outcome, _ in together.values()}) == 1
    weights = {name: outcome.run.weights.read_bytes() for name, (outcome, _) in together.items()}
    assert [name for name in KINDS if weights[name] == weights["ce"]] == ["ce"], "at their defaults"


@pytest.mark.parametrize("name", KINDS)
def test_weighted_terms_sum_to_the_loss_and_have_shares(together, name):
    """Shares of every stage with several terms, in every epoch; the result has the first and the last."""
    outcome, objectives = together[name]
    assert objectives
    for _, objective in objectives:
        assert objective.weighted.keys() == objective.terms.keys()
        torch.testing.assert_close(torch.stack(list(objective.weighted.values())).sum(), objective.loss)
    stages = {stage for stage, objective in objectives if len(objective.weighted) > 1}
    rows = outcome.run.rows()
    measured = [row for row in rows if row.get("stage", 1) in stages]
    assert [row for row in rows if "shares" in row] == measured
    for row in measured:
        assert row["shares"].keys() <= row["train"].keys()
        assert sum(row["shares"].values()) == pytest.approx(100)
        assert min(row["shares"].values()) > 0
    assert outcome.result["shares"] == [
        {"stage": row.get("stage", 1), "first": kept, "last": kept}
        for row in measured
        if (kept := {"epoch": row["epoch"], "percent": row["shares"]})
    ]


def test_without_its_term_a_method_is_cross_entropy_bit_for_bit(shared_lab, together):
    assert {"kd", "lsr", "fitnet"} & set(WITHOUT_EFFECT) == {"kd", "fitnet"}
    specs = []
    for name, options in WITHOUT_EFFECT.items():
        staged = {"stage1_epochs": 0} if "stage1_epochs" in inspect.signature(KINDS[name]).parameters else {}
        method = shared_lab.every(name, **staged, **options).method
        specs.append(dataclasses.replace(short(shared_lab, name), method=method))
    found = trained_together(shared_lab, specs)
    ce = together["ce"][0].run.weights.read_bytes()
    assert not [name for name, outcome in found.items() if outcome.run.weights.read_bytes() != ce]


def test_another_teacher_changes_every_term_of_its_own(shared_lab, together):
    def with_others(name):
        spec = short(shared_lab, name)
        teachers = tuple(dataclasses.replace(teacher, seed=7) for teacher in spec.teachers)
        return dataclasses.replace(spec, teachers=teachers)

    found = trained_together(shared_lab, [with_others(name) for name in TAUGHT])
    for name in TAUGHT:
        one, other = (outcome.run.rows()[0]["train"] for outcome in (together[name][0], found[name]))
        own = [term for term in one if term not in ("loss", "ce", "top1", "teacher_top1", "agreement")]
        assert own, name
        assert all(one[term] != other[term] for term in own), name


def test_peers_are_reported_beside_the_student(lab):
    outcome = lab.execute(short(lab, "dml", num_networks=3))
    assert list(outcome.result["peers"]) == ["peer1", "peer2"]
    (row,) = outcome.run.rows()
    assert outcome.result["peers"]["peer2"]["test"]["last"]["top1"] == row["peers"]["peer2"]["test"]["top1"]
    assert len({json.dumps(metrics) for metrics in (row["test"], *(p["test"] for p in row["peers"].values()))}) == 3


def test_a_stage_without_a_teacher_reports_none(together):
    first, second = together["fsp"][0].run.rows()
    assert {"fsp", "teacher_top1", "agreement"} <= first["train"].keys()
    assert second["train"].keys() == {"loss", "ce", "top1"}
