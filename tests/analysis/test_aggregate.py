"""Groups of runs over their seeds."""

import csv
import math
from dataclasses import replace

import pytest

from kdrun.analysis.aggregate import Group, Statistic, SweepRun, group_by_seed, teachers_by_seed
from kdrun.analysis.tables import csv_table, markdown_table
from kdrun.spec.spec import Component, Recipe


@pytest.mark.parametrize("values", [[71.25], [60.0, 64.0], [1.0, 2.0, 4.0, 4.5, -3.0]])
def test_statistic_is_mean_and_sample_deviation(values):
    statistic = Statistic.of(values)
    mean = sum(values) / len(values)
    assert statistic.n == len(values)
    assert statistic.mean == pytest.approx(mean, rel=1e-12)
    if len(values) == 1:
        assert statistic.deviation is None
    else:
        squares = sum((value - mean) ** 2 for value in values)
        assert statistic.deviation == pytest.approx(math.sqrt(squares / (len(values) - 1)), rel=1e-12)


def test_standard_error_is_of_the_mean():
    assert Statistic.of([60.0, 64.0]).standard_error == pytest.approx(2.0, rel=1e-12)  # sqrt(8) / sqrt(2)
    assert Statistic.of([1.0, 2.0, 3.0, 4.0]).standard_error == pytest.approx(math.sqrt(5 / 3) / 2, rel=1e-12)
    assert Statistic.of([60.0]).standard_error is None


def test_groups_differ_in_everything_but_the_seed(sweep):
    groups = group_by_seed(sweep)
    assert [group.label for group in groups] == [f"method.temperature={t}" for t in ("1", "4", "16")]
    assert [(len(group.runs), group.missing) for group in groups] == [(2, 0), (2, 0), (1, 1)]
    assert groups[0].statistic("test", "last", "top1") == Statistic.of([60.0, 64.0])
    assert groups[2].statistic("test", "last", "top1") == Statistic(66.0, None, 1)
    assert groups[0].statistic("val", "selected", "test", "top1") is None
    curve = groups[0].curve("test", "top1")
    assert {epoch: (point.mean, point.n) for epoch, point in curve.items()} == {1: (52.0, 2), 2: (62.0, 2)}


def test_a_run_that_stands_in_a_group_twice_counts_once(archive):
    job = archive.job(70.0, temperature=2.0)
    (group,) = group_by_seed([job, job, archive.job(72.0, 1, temperature=2.0)])
    assert group.statistic("test", "last", "top1") == Statistic.of([70.0, 72.0])


def test_teachers_stand_once_and_only_finished_ones(sweep, archive):
    (group,) = teachers_by_seed(sweep)
    assert group.label == "teacher resnet20 ce"
    assert group.statistic("test", "last", "top1") == Statistic.of([80.0, 82.0])
    assert teachers_by_seed([archive.job(50.0, 7, temperature=1.0)]) == [], "that seed's teacher has not finished"


def test_teachers_of_different_kinds_are_groups_of_their_own(archive):
    good, poor = archive.teacher(), archive.teacher(stop_epoch=1)
    archive.finish(good, 80.0)
    archive.finish(poor, 40.0)
    jobs = []
    for teacher in (good, poor):
        spec = replace(archive.student(), teachers=(teacher,))
        jobs.append(SweepRun({}, archive.finish(spec, 60.0), (archive.run(teacher),)))
    labels = {group.label: group.statistic("test", "last", "top1").mean for group in teachers_by_seed(jobs)}
    assert labels == {"teacher resnet20 ce": 80.0, "teacher resnet20 ce stopped at 1": 40.0}


def taught(archive, spec, *teachers, top1=60.0, **choices) -> SweepRun:
    """A finished job whose teachers are finished, too."""
    for teacher in teachers:
        archive.finish(teacher, 80.0 + teacher.seed)
    spec = replace(spec, teachers=teachers)
    return SweepRun({**choices, "seed": str(spec.seed)}, archive.finish(spec, top1), tuple(map(archive.run, teachers)))


def test_teachers_of_one_kind_are_apart_where_their_students_do_not_share_them(archive):
    jobs = []
    for seed in (0, 1):
        spec, own = archive.student(seed), archive.teacher(seed)
        jobs.append(taught(archive, spec, own, method="kd"))
        jobs.append(taught(archive, replace(spec, method=Component("kdrun.methods.DKD")), own, method="dkd"))
        ensemble = [archive.teacher(2 * seed), archive.teacher(2 * seed + 1)]
        jobs.append(
            taught(archive, replace(spec, method=Component("kdrun.methods.KDEnsemble")), *ensemble, method="ens")
        )
    means = {group.label: group.statistic("test", "last", "top1") for group in teachers_by_seed(jobs)}
    assert means == {
        "teacher resnet20 ce of method=kd,dkd": Statistic.of([80.0, 81.0]),
        "teacher resnet20 ce of method=ens": Statistic.of([80.0, 81.0, 82.0, 83.0]),
    }
    assert [group.label for group in teachers_by_seed(jobs[::3])] == ["teacher resnet20 ce"], "there is one set of them"


def test_teachers_of_another_recipe_are_called_by_what_was_swept(archive):
    jobs = []
    for lr in ("0.1", "0.2"):
        teacher = replace(archive.teacher(), recipe=Recipe(epochs=2, lr=float(lr)))
        for t in (1.0, 4.0):
            choices = {"teacher.recipe.lr": lr, "method.temperature": f"{t:g}"}
            jobs.append(taught(archive, archive.student(temperature=t), teacher, **choices))
    labels = [group.label for group in teachers_by_seed(jobs)]
    assert labels == [f"teacher resnet20 ce of teacher.recipe.lr={lr}" for lr in ("0.1", "0.2")]


def test_generations_and_assistants_are_told_apart_and_pooled_over_seeds(archive):
    again, first = Component("kdrun.methods.BornAgain", {"generation": 2}), Component("kdrun.methods.BornAgain")
    takd, kd = Component("kdrun.methods.TAKD"), Component("kdrun.methods.KD")
    jobs = []
    for seed in (0, 1):
        start = archive.teacher(seed)
        one = replace(start, method=first, teachers=(start,))
        two = replace(start, method=again, teachers=(one,))
        jobs.append(taught(archive, replace(start, method=replace(again, options={"generation": 3})), one, two))
        assistant = replace(start, student=Component("kdrun.models.resnet14"), method=kd, teachers=(start,))
        jobs.append(taught(archive, replace(archive.student(seed), method=takd), assistant))
    assert {group.label: len(group.runs) for group in teachers_by_seed(jobs)} == {
        "teacher resnet20 born_again generation 1": 2,
        "teacher resnet20 born_again generation 2": 2,
        "teacher resnet14 kd ← resnet20": 2,
    }


def test_peers_are_groups_beside_their_student(archive):
    dml = replace(archive.teacher(), method=Component("kdrun.methods.DML"))
    jobs = [
        SweepRun({"seed": str(seed)}, archive.finish(replace(dml, seed=seed), 70.0, peers=(60.0 + seed, 50.0)))
        for seed in (0, 1)
    ]
    (group,) = group_by_seed(jobs)
    one, two = group.peers
    assert (one.label, two.label) == ("resnet20 dml: peer1", "resnet20 dml: peer2")
    assert one.statistic("test", "last", "top1") == Statistic.of([60.0, 61.0])
    assert [point.mean for point in one.curve("test", "top1").values()] == [50.5, 60.5]
    assert two.statistic("student", "params") is None
    rows = list(csv.DictReader(csv_table([group]).splitlines()))
    assert [(row["run"], row["test.last.top1.mean"]) for row in rows] == [
        *(("resnet20 dml", "70.0"), ("resnet20 dml: peer1", "60.5"), ("resnet20 dml: peer2", "50.0")),
    ]
    assert markdown_table([group]).count("peer") == 2


def test_a_run_stopped_within_stage_1_is_called_so(archive):
    fsp = replace(archive.teacher(), method=Component("kdrun.methods.FSP", {"stage1_epochs": 2}))
    ends = {stop: replace(fsp, stop_epoch=stop) for stop in (1, 2, 3, None)}
    groups = {stop: group_by_seed([SweepRun({}, archive.finish(spec, 60.0))])[0] for stop, spec in ends.items()}
    assert {stop: group.label for stop, group in groups.items()} == {
        1: "resnet20 fsp stopped at 1, in stage 1",
        2: "resnet20 fsp stopped at 2, in stage 1",
        3: "resnet20 fsp stopped at 3",
        None: "resnet20 fsp",
    }
    assert [group.stage2_begins_after for group in groups.values()] == [None, None, 2, 2]
    assert Group("nothing finished").stage2_begins_after is None
