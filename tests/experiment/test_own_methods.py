"""Methods of a user's own that ask for views, groups of one class and the training set, as whole runs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdrun.config.compose import ConfigError, compose_job, hydra_session
from kdrun.config.preflight import check_job
from kdrun.experiment.choices import Choices
from kdrun.experiment.lockstep import check_lockstep, lockstep_groups
from kdrun.spec.spec import Component
from kdrun.training.teacher import LiveTeacher

TERM = "method.terms.mine._target_"

CODE = '''
import torch
import torch.nn.functional as F
from torch import nn
from kdrun.methods import Distillation, Method, Needs, Objective, TrainingSet


class Twins(Distillation):
    """KD, and the two views of an image draw each other's logits."""

    name = "twins"
    needs = Needs(logits=True, views=2)

    def distill(self, student, batch, teacher):
        first, second = student.logits.chunk(batch.views)
        one, other = batch.x.chunk(batch.views)
        assert torch.equal(*batch.index.chunk(2)) and torch.equal(*batch.y.chunk(2)) and not torch.equal(one, other)
        assert teacher.logits.shape == student.logits.shape
        return F.mse_loss(first, second) + F.mse_loss(student.logits, teacher.logits)


class Mates(Distillation):
    """Images of one class draw each other's logits; KD as the teacher's part."""

    name = "mates"
    needs = Needs(logits=True, per_class=2)

    def distill(self, student, batch, teacher):
        pairs = len(batch.y) // 2 * 2
        same = batch.y[0:pairs:2] == batch.y[1:pairs:2]
        assert batch.step == 4 or same.all()  # what classes have beyond pairs comes last
        own = F.mse_loss(student.logits[0:pairs:2], student.logits[1:pairs:2])
        return own + F.mse_loss(student.logits, teacher.logits)


class Rare(Distillation):
    """Cross-entropy in which rare classes count more, and a memory of the images' last logits."""

    name = "rare"
    needs = Needs()

    def __init__(self, student: nn.Module, training: TrainingSet, *, power: float = 1.0) -> None:
        super().__init__(student)
        self.training_set, self.power = training, power
        self.register_buffer("last", torch.zeros(training.size, training.num_classes))

    def distill(self, student, batch, teacher):
        counts = self.training_set.labels.bincount(minlength=self.training_set.num_classes)
        loss = F.cross_entropy(student.logits, batch.y, counts.sum() / counts.clamp(min=1) ** self.power)
        drift = F.mse_loss(student.logits, self.last[batch.index])
        self.last = self.last.index_copy(0, batch.index, student.logits.detach())
        return loss + drift


class Fading(Method):
    """A term that ends, and one that begins, after an epoch."""

    name = "fading"
    needs = Needs()

    def objective(self, student, batch, teacher):
        ce = F.cross_entropy(student.logits, batch.y)
        terms = {"ce": ce, "first": student.logits.square().mean(), "later": student.logits.abs().mean()}
        later = float(batch.epoch > 0)
        return Objective.of(student.logits, terms, {"ce": 1.0, "first": 1 - later, "later": later})


class Late(Method):
    """One term at first, two from the second epoch on."""

    name = "late"
    needs = Needs()

    def objective(self, student, batch, teacher):
        terms = {"ce": F.cross_entropy(student.logits, batch.y), "size": student.logits.square().mean()}
        return Objective.of(student.logits, terms, {"ce": 1.0, "size": float(batch.epoch > 0)})


class Pinned(nn.Module):
    """A network whose first layer is not trained."""

    def __init__(self, num_classes, in_channels, image_size):
        super().__init__()
        self.first = nn.Linear(in_channels * image_size**2, 16).requires_grad_(False)
        self.last = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


class Weighed(Rare):
    """A weight of its own name, which a sum would not see."""

    name = "weighed"

    def __init__(self, student: nn.Module, training: TrainingSet, *, beta: float = 0.3) -> None:
        super().__init__(student, training)
        self.weight = beta


class Halved(Rare):
    name = "halved"

    def objective(self, student, batch, teacher):
        whole = super().objective(student, batch, teacher)
        return Objective(0.5 * whole.loss, whole.logits)


class Crowd(Distillation):
    name = "crowd"
    needs = Needs(logits=True, several=True)

    def distill(self, student, batch, teacher):
        return student.logits.sum()
'''


@pytest.fixture(scope="module")
def lab(shared_lab):
    """Its teacher is trained once."""
    return shared_lab


@pytest.fixture(autouse=True)
def own_package(tmp_path, monkeypatch):
    package = tmp_path / "src" / "own_extras"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "own_extras", raising=False)
    monkeypatch.setenv("KDRUN_TRUST", "own_extras")
    return package / "__init__.py"


def own(lab, name: str, **options: object):
    return lab.plain(method=Component(f"own_extras.{name}", options), teachers=() if name == "Rare" else (lab.teacher,))


def summed(lab):
    terms = {"mine": {"_target_": "own_extras.Twins"}, "paired": {"_target_": "own_extras.Mates"}, "kd": {}}
    return lab.plain(method=lab.by("Sum", terms=terms), teachers=(lab.teacher,))


@pytest.mark.parametrize("name", ["Twins", "Rare", "Sum"])
def test_an_interrupted_run_ends_with_the_same_bits(lab, interrupted, name):
    spec = replace(summed(lab) if name == "Sum" else own(lab, name), recipe=replace(lab.recipe, lr=0.1))
    whole = lab.execute(spec, "whole").run
    if spec.teachers:
        lab.execute(lab.teacher)
    interrupted(spec, epochs=1)
    assert len(lab.run(spec).rows()) == 1
    assert lab.bits(lab.execute(spec).run) == lab.bits(whole)
    assert whole.rows()[-1]["train"]["loss"] < whole.rows()[0]["train"]["loss"]


def test_other_batches_are_another_group_and_each_member_is_itself_alone(lab):
    kd = [lab.taught(), lab.taught(temperature=2.0)]
    twins = [own(lab, "Twins"), replace(own(lab, "Twins"), student=lab.plain("resnet8").student)]
    mates, both = own(lab, "Mates"), summed(lab)
    groups = lockstep_groups([*kd, *twins, mates, both], lambda spec: Choices(1), torch.device("cpu"))
    assert [[spec.run_id for spec in group] for group in groups] == [
        [spec.run_id for spec in group] for group in (kd, twins, [mates], [both])
    ]
    with pytest.raises(ValueError, match=r"these differ in views$"):
        check_lockstep([(kd[0], Choices(1)), (twins[0], Choices(1))])
    with pytest.raises(ValueError, match=r"these differ in per_class$"):
        check_lockstep([(kd[0], Choices(1)), (mates, Choices(1))])
    for outcome in lab.execute_all([*kd, *twins, mates], "together"):
        assert lab.bits(outcome.run) == lab.alone(outcome.run.spec), outcome.run.spec.method.target


def test_cached_logits_are_of_the_same_batches(lab, monkeypatch):
    computed = []
    call = LiveTeacher.__call__
    monkeypatch.setattr(LiveTeacher, "__call__", lambda self, batch: computed.append(len(batch.y)) or call(self, batch))
    lab.execute(lab.taught(), "cached")
    assert sum(computed) == 3 * 66
    for spec, rows in ((own(lab, "Twins"), 2 * 66), (own(lab, "Mates"), 66), (summed(lab), 2 * 66)):
        for student, epochs in (("mlp", 3), ("cnn", 0)):  # the second one finds what the first one's teacher answered
            computed.clear()
            run = lab.execute(replace(spec, student=lab.plain(student).student), "cached").run
            assert sum(computed) == epochs * rows
            live = lab.execute(run.spec, "live", replay_gb=0.0).run
            assert lab.bits(run) == lab.bits(live)


def test_the_rows_of_all_views_are_counted(lab):
    outcome = lab.execute(replace(own(lab, "Twins"), stop_epoch=1))
    assert lab.images_trained_on(outcome) == 2 * 66


WORDS = ("dataset=synthetic", "teacher=mlp", "student=mlp", "recipe.epochs=1")


def checked(*words: str):
    problems: list[str] = []
    with hydra_session():
        config = compose_job([*WORDS, *words], problems)
    assert problems == []
    return check_job(config, words)


def problems_of(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        checked(*words)
    return caught.value.problems


def test_a_term_of_ones_own_is_part_of_the_run_with_its_source(own_package, kdrun):
    words = ("method=sum", "method.terms={kd: {}, mine: {_target_: own_extras.Twins, weight: 0.5}}")
    spec = checked(*words).spec
    assert spec.method.options == {"terms": {"kd": {}, "mine": {"_target_": "own_extras.Twins", "weight": 0.5}}}
    assert spec == type(spec).from_canonical(spec.canonical())
    named = checked("method=sum", "method.terms={kd: {_target_: kdrun.methods.KD}}").spec
    assert named.run_id == checked("method=sum", "method.terms={kd: {}}").spec.run_id
    code, _, err = kdrun(*WORDS, *words)
    assert code == 0, err
    (result,) = Path().glob("outputs/runs/synthetic/mlp/sum-*/result.json")
    assert json.loads(result.read_text())["method"]["terms"]["mine"] == {"weight": 0.5, "_target_": "own_extras.Twins"}
    own_package.write_text(own_package.read_text() + "# edited\n")
    assert checked(*words).spec.run_id != spec.run_id


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((f"{TERM}=own_extras.Crowd",), "method.terms.mine: cannot be a term: it has several teachers, a sum has one"),
        ((f"{TERM}=kdrun.models.mlp",), "method.terms.mine: 'kdrun.models.mlp' is no Method"),
        ((f"{TERM}=subprocess.Popen",), "method.terms.mine: 'subprocess.Popen' is outside the trusted packages"),
        ((f"{TERM}=own_extras.Mates", "method.terms.mine.hard_weight=1"), "method.terms.mine.hard_weight: has no mean"),
        ((f"{TERM}=own_extras.Mates", "method.terms.mine.width=1"), "method.terms.mine.width: no such option"),
        ((f"{TERM}=own_extras.Mates", "recipe.batch_size=33"), "recipe.batch_size=33: must be a multiple of 2: method"),
        (("method.terms.mine.weight=1",), "method.terms.mine: no such term"),
    ],
)
def test_what_a_term_cannot_be_is_one_problem(words, told):
    (problem,) = problems_of("method=sum", "method.terms.at=null", *words)
    assert problem.startswith(told)


def test_equal_views_are_told():
    law = [f"recipe.augmentation.{name}" for name in ("crop_padding=0", "flip=false", "rotation=0")]
    words = ("method=sum", "method.terms.at=null", f"{TERM}=own_extras.Twins")
    assert not any("views" in notice for notice in checked(*words, "recipe.augmentation.flip=true").notices)
    assert sum("2 views of each image" in notice for notice in checked(*words, *law).notices) == 1


def test_terms_that_come_and_go_have_shares_where_they_act(lab):
    shares = {}
    for name in ("Fading", "Late"):
        (shares[name],) = lab.execute(lab.plain(method=Component(f"own_extras.{name}"))).result["shares"]
    assert [list(shares["Fading"][when]["percent"]) for when in ("first", "last")] == [["ce", "first"], ["ce", "later"]]
    assert [shares["Late"][when]["epoch"] for when in ("first", "last")] == [2, 3]


def test_shares_are_of_the_parameters_that_are_trained(lab):
    spec = replace(lab.taught(), student=Component("own_extras.Pinned"))
    (shares,) = lab.execute(spec).result["shares"]
    assert sum(shares["last"]["percent"].values()) == pytest.approx(100)


@pytest.mark.parametrize(
    ("name", "reason"), [("Weighed", r"terms\.mine: Weighed sets its weight, 0\.3"), ("Halved", "its own objective")]
)
def test_what_a_sum_would_leave_out_is_no_term(lab, name, reason):
    terms = {"mine": {"_target_": f"own_extras.{name}"}}
    with pytest.raises(ValueError, match=reason):
        lab.execute(lab.plain(method=lab.by("Sum", terms=terms)))


def test_a_sum_of_ones_own_has_its_source_beside_that_of_its_terms(own_package, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "own_extras,own_sums")
    monkeypatch.delitem(sys.modules, "own_sums", raising=False)
    code = 'from kdrun.methods import Sum\n\n\nclass Mine(Sum):\n    name = "own_sum"\n'
    own_package.parent.with_name("own_sums.py").write_text(code)
    spec = checked(
        "method=sum", "method._target_=own_sums.Mine", "method.terms.at=null", f"{TERM}=own_extras.Rare"
    ).spec
    assert spec.method.source.keys() == {"own_extras", "own_sums"}
