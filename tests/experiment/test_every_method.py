"""What holds for every method: a run of it alone and in lockstep, with its weight at 0, and with another teacher."""

import dataclasses
import inspect
import json

import pytest
import torch

from kdrun import methods
from kdrun.experiment.attempt import Request

KINDS = methods.shipped_methods()
TAUGHT = [name for name, kind in KINDS.items() if kind.needs.teacher]
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


def student(lab, run):
    return lab.bits(run)[0]


def test_every_method_is_itself_in_lockstep_and_its_extra_modules_are_not_delivered(lab, monkeypatch):
    objectives = []
    forward = methods.Method.forward

    def recorded(self, batch, teacher):
        objective = forward(self, batch, teacher)
        objectives.append((self.name, self.stage + 1, objective))
        return objective

    monkeypatch.setattr(methods.Method, "forward", recorded)
    specs = [short(lab, name) for name in KINDS]
    together = list(lab.runner("together").execute_all([Request(spec) for spec in specs]))
    sizes = {}
    for request, outcome in together:
        assert not isinstance(outcome, Exception), outcome
        alone = lab.execute(request.spec, "alone")
        assert lab.bits(outcome.run) == lab.bits(alone.run)
        sizes[outcome.result["method"]["name"]] = outcome.result["train"]["lockstep"]
        assert outcome.result["student"]["params"] == together[0][1].result["student"]["params"]
    assert sizes["fsp"] == sizes["weight_distillation"] == sizes["sum"] == sizes["kd"] > 10, "one group"
    assert {name for name, *_ in objectives} == set(KINDS)
    for name, _, objective in objectives:
        assert objective.weighted.keys() == objective.terms.keys(), name
        torch.testing.assert_close(torch.stack(list(objective.weighted.values())).sum(), objective.loss, msg=name)
    for _, outcome in together:
        own = [(stage, found) for name, stage, found in objectives if name == outcome.result["method"]["name"]]
        _check_shares(outcome, {stage for stage, found in own if len(found.weighted) > 1})
    weights = [student(lab, outcome.run) for _, outcome in together]
    named = dict(zip(KINDS, weights, strict=True))
    same = [name for name in KINDS if name != "ce" and named[name] == named["ce"]]
    assert not same, "at their defaults they move the weights"


def _check_shares(outcome, stages):
    """Of every stage with several terms, in every epoch; the result has the first and the last."""
    name, rows = outcome.result["method"]["name"], outcome.run.rows()
    measured = [row for row in rows if row.get("stage", 1) in stages]
    assert [row for row in rows if "shares" in row] == measured, name
    for row in measured:
        assert row["shares"].keys() <= row["train"].keys()
        assert sum(row["shares"].values()) == pytest.approx(100), name
        assert min(row["shares"].values()) > 0, name
    assert outcome.result["shares"] == [
        {"stage": row.get("stage", 1), "first": kept, "last": kept}
        for row in measured
        if (kept := {"epoch": row["epoch"], "percent": row["shares"]})
    ]


def test_without_its_term_a_method_is_cross_entropy_bit_for_bit(lab):
    assert {"kd", "lsr", "fitnet"} & set(WITHOUT_EFFECT) == {"kd", "fitnet"}
    specs = [short(lab, "ce")]
    for name, options in WITHOUT_EFFECT.items():
        staged = {"stage1_epochs": 0} if "stage1_epochs" in inspect.signature(KINDS[name]).parameters else {}
        specs.append(dataclasses.replace(short(lab, name), method=lab.every(name, **staged, **options).method))
    ended = [outcome for _, outcome in lab.runner().execute_all([Request(spec) for spec in specs])]
    ce, *others = [student(lab, outcome.run) for outcome in ended]
    different = [name for name, weights in zip(WITHOUT_EFFECT, others, strict=True) if weights != ce]
    assert not different


@pytest.mark.parametrize("name", TAUGHT)
def test_another_teacher_is_another_lesson(shared_lab, name):
    lab = shared_lab
    spec = short(lab, name)
    others = tuple(dataclasses.replace(teacher, seed=7) for teacher in spec.teachers)
    rows = [lab.execute(each).run.rows()[0]["train"] for each in (spec, dataclasses.replace(spec, teachers=others))]
    own = [term for term in rows[0] if term not in ("loss", "ce", "top1", "teacher_top1", "agreement")]
    assert own
    assert all(rows[0][term] != rows[1][term] for term in own)


def test_peers_are_reported_beside_the_student(lab):
    outcome = lab.execute(short(lab, "dml", num_networks=3))
    assert list(outcome.result["peers"]) == ["peer1", "peer2"]
    (row,) = outcome.run.rows()
    assert outcome.result["peers"]["peer2"]["test"]["last"]["top1"] == row["peers"]["peer2"]["test"]["top1"]
    assert len({json.dumps(metrics) for metrics in (row["test"], *(p["test"] for p in row["peers"].values()))}) == 3


def test_a_stage_that_asks_no_teacher_is_not_taught(lab):
    first, second = lab.execute(short(lab, "fsp")).run.rows()
    assert {"fsp", "teacher_top1", "agreement"} <= first["train"].keys()
    assert second["train"].keys() == {"loss", "ce", "top1"}
