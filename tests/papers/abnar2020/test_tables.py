"""The shipped tables of Abnar, Dehghani and Zuidema 2020: what the paper prints, and the settings it names."""

import pytest

from kdrun.config.table import load_table
from kdrun.spec.components import all_options
from kdrun.tables import Published
from tests.papers.shipped import entries as rows

INDEPENDENT = """
CNN 0.992 0.962 0.981 0.011 0.060 0.028
MLP 0.985 0.794 0.373 0.015 0.175 0.564
"""
"""Test accuracy on MNIST, scaled and translated; then the ECE on each."""

DISTILLED = """
CNN acc 0.991 0.990 0.951 0.955 0.978 0.976
MLP acc 0.988 0.985 0.904 0.839 0.510 0.395
CNN ECE 0.014 0.013 0.068 0.054 0.033 0.030
MLP ECE 0.013 0.015 0.109 0.155 0.432 0.555
"""
"""Student; MNIST, scaled and translated, each with the CNN and with the MLP as the teacher."""

STUDENTS = {"CNN": "maxout_cnn", "MLP": "mlp"}
ON = ("test", "scale", "translate")

CLASSIFICATION = {
    "lstm": (97.75, 97.6),
    "transformer_bert": (95.4, 96.0),
    "transformer_seq": (96.4, 97.2),
    "transformer_universal": (96.9, 97.5),
}
"""Accuracy on real sentences, read off a plot: without a teacher, and with an LSTM."""


def printed_on_mnist():
    """(row, figure) to the published number."""
    found = {}
    for line in INDEPENDENT.split("\n")[1:-1]:
        student, *numbers = line.split()
        for on, accuracy, ece in zip(ON, numbers[:3], numbers[3:], strict=True):
            found[f"{STUDENTS[student]}/ce", f"{on} top-1"] = 100 * float(accuracy)
            found[f"{STUDENTS[student]}/ce", f"{on} ECE of 10⁶ bins"] = float(ece)
    for line in DISTILLED.split("\n")[1:-1]:
        student, kind, *numbers = line.split()
        for i, on in enumerate(ON):
            for teacher, number in zip(STUDENTS.values(), numbers[2 * i : 2 * i + 2], strict=True):
                name, factor = ("top-1", 100) if kind == "acc" else ("ECE of 10⁶ bins", 1)
                found[f"{STUDENTS[student]}/kd/{teacher}", f"{on} {name}"] = factor * float(number)
    return found


def test_the_figures_on_mnist_are_the_papers():
    published = {
        (name, figure): value
        for name, entry in rows("abnar_mnist").items()
        for figure, value in entry.row.published.figures.items()
    }
    assert published == pytest.approx(printed_on_mnist())
    assert len(published) == 6 * 6
    tops = {name: entry.row.published.top1 for name, entry in rows("abnar_mnist").items()}
    assert tops == {name: published[name, "test top-1"] for name in tops}


def test_students_on_mnist_learn_from_soft_targets_alone_and_begin_as_no_teacher_did():
    taught = [entry.specs[0] for entry in rows("abnar_mnist").values() if entry.specs[0].teachers]
    assert len(taught) == 4
    for spec in taught:
        options = all_options(spec.method)
        assert (options["temperature"], options["alpha"]) == (5.0, 1.0)
        assert spec.teachers[0].seed not in range(3)
        assert spec.recipe == spec.teachers[0].recipe
    assert {spec.dataset.num_train_examples for spec in taught} == {10_000}
    assert {all_options(entry.specs[0].student).get("hidden") for entry in rows("abnar_mnist").values()} == {
        None,
        (512, 128, 32),
    }


def test_the_figures_of_the_classification_are_the_papers():
    published = {name: entry.row.published.top1 for name, entry in rows("abnar_agreement").items()}
    alone = {f"{student}/ce": figures[0] for student, figures in CLASSIFICATION.items()}
    taught = {f"{student}/kd/lstm": figures[1] for student, figures in CLASSIFICATION.items()}
    assert published == alone | taught


@pytest.mark.parametrize("name", ["abnar_agreement", "abnar_agreement_lm"])
def test_students_of_sentences_learn_from_the_lstm_of_their_seed_at_t_1(name):
    for entry in rows(name, num_seeds=2).values():
        for spec in (spec for spec in entry.specs if spec.teachers):
            (teacher,) = spec.teachers
            assert teacher in rows(name, num_seeds=2)["lstm/ce"].specs
            assert teacher.seed == spec.seed
            options = all_options(spec.method)
            assert (options["temperature"], options["alpha"]) == (1.0, 1.0)


def test_the_three_transformers_are_those_of_the_paper():
    kinds = {
        name.partition("/")[0]: tuple(all_options(entry.specs[0].student)[option] for option in ("causal", "shared"))
        for name, entry in rows("abnar_agreement").items()
        if name.startswith("transformer")
    }
    assert kinds == {
        "transformer_bert": (False, False),
        "transformer_seq": (True, False),
        "transformer_universal": (True, True),
    }


@pytest.mark.parametrize(
    ("name", "departure"),
    [("abnar_agreement", "generated sentences"), ("abnar_mnist", "10,000 of the 60,000")],  # the paper's are Linzen's
)
def test_published_figures_are_of_another_setting(name, departure):
    published = [row for row in load_table(name).rows if row.published != Published()]
    assert published
    assert all(departure in row.departs for row in published)
