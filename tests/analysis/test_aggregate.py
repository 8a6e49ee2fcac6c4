"""Groups of runs over their seeds."""

import math
from dataclasses import replace

import pytest

from kdrun.analysis.aggregate import Statistic, SweepRun, group_by_seed, teachers_by_seed


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


def test_statistic_as_text():
    assert Statistic.of([60.0, 64.0]).text() == "62.00 ± 2.83"
    assert Statistic.of([60.0, 60.0]).text(1) == "60.0 ± 0.0"
    assert Statistic.of([71.256]).text() == "71.26"


def test_groups_differ_in_everything_but_the_seed(sweep):
    groups = group_by_seed(sweep)
    assert [group.label for group in groups] == [f"method.temperature={t}" for t in ("1", "4", "16")]
    assert [(len(group.runs), group.missing) for group in groups] == [(2, 0), (2, 0), (1, 1)]
    assert groups[0].statistic("test", "last", "top1") == Statistic.of([60.0, 64.0])
    assert groups[2].statistic("test", "last", "top1") == Statistic(66.0, None, 1)
    assert groups[0].statistic("val", "selected", "test", "top1") is None
    assert [(point.mean, point.n) for point in groups[0].curve("test", "top1")] == [(52.0, 2), (62.0, 2)]


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
