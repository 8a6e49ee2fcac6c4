"""A teacher that can hardly help is told, once a command."""

import dataclasses
import math

import pytest

from kdrun.experiment.notices import weakness


def with_top1(run, top1: float):
    """A finished run whose result has another accuracy."""
    result = run.result()
    result["test"]["last"]["top1"] = top1
    run.write_result(result, run.rows())
    return run


@pytest.fixture
def teacher(lab):
    return lab.execute(lab.teacher).run


def test_a_teacher_must_be_clear_of_chance(lab, teacher):
    """4 classes and 40 test images: 25 % and three standard errors of 6.85 %."""
    error = 100 * math.sqrt(0.25 * 0.75 / 40)
    student, store = lab.taught(), lab.runner().store
    told = weakness(with_top1(teacher, 25 + 2.99 * error), [student], store)
    assert told == f"its test top-1, {25 + 2.99 * error:.2f} %, is not clear of chance (25.00 ± 6.85 %)"
    assert weakness(with_top1(teacher, 25 + 3.01 * error), [student], store) is None
    elsewhere = dataclasses.replace(student, dataset=dataclasses.replace(lab.dataset, identity="another"))
    assert weakness(with_top1(teacher, 1.0), [elsewhere], store) is None, "its classes are not the student's"


def test_a_teacher_is_compared_with_the_last_known_training_of_its_student_by_labels(lab, teacher):
    student, store = dataclasses.replace(lab.taught(), seed=5), lab.runner().store
    with_top1(teacher, 60.0)
    alone = with_top1(lab.execute(lab.plain(seed=3)).run, 60.0)
    others = (
        lab.plain(recipe=dataclasses.replace(lab.recipe, epochs=2)),
        lab.plain(method=lab.by("CE", scale=0.5)),
        lab.plain(dataset=dataclasses.replace(lab.dataset, train_fraction=0.5)),
    )
    for other in others:
        with_top1(lab.execute(other).run, 90.0)
    told = weakness(teacher, [student], store)
    assert told == (
        f"its test top-1, 60.00 %, is not above that of its student mlp by cross-entropy, 60.00 % ({alone.directory})"
    )
    with_top1(alone, 59.9)
    assert weakness(teacher, [student], store) is None
    of_its_own = lab.plain("cnn", method=lab.by("KD"), teachers=(lab.teacher,), seed=1)
    assert weakness(teacher, [of_its_own], store) is None, "the teacher is that training"


def test_it_is_told_once_for_all_students_of_a_command(lab, caplog, teacher):
    caplog.set_level("INFO", logger="kdrun")
    with_top1(teacher, 10.0)
    taught = [lab.taught(temperature=temperature) for temperature in (1.0, 2.0)]
    ended = lab.execute_all([dataclasses.replace(spec, seed=seed) for spec in taught for seed in (0, 1)])
    assert not [end for end in ended if isinstance(end, Exception)]
    assert len([line for line in caplog.messages if "is not clear of chance" in line]) == 1
