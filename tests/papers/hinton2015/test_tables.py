"""The shipped tables of Hinton, Vinyals and Dean 2015: what the paper prints, and the settings it names."""

import dataclasses

import pytest

from kdrun.config.table import load_table
from kdrun.spec.components import all_options
from kdrun.tables import Published
from tests.papers.shipped import entries as rows

TEST_IMAGES = 10_000
PRINTED = {
    "hinton_mnist": {
        "mlp_1200/ce": (67, None),
        "mlp_800/ce": (146, None),
        "mlp_800/ce_lr0.03": (146, None),  # the paper gives no rate: the same figure
        "mlp_800/kd/mlp_1200": (74, None),
    },
    "hinton_missing_class": {
        "mlp_800/no_3/mlp_1200": (206, 133),
        "mlp_800/no_3_corrected/mlp_1200": (None, None),
        "mlp_800/no_3_corrected_on_test/mlp_1200": (109, 14),
        # printed as 47.3 % and 13.2 %
        "mlp_800/only_78/mlp_1200": (round(0.473 * TEST_IMAGES), None),
        "mlp_800/only_78_corrected/mlp_1200": (None, None),
        "mlp_800/only_78_corrected_on_test/mlp_1200": (round(0.132 * TEST_IMAGES), None),
    },
}
"""Errors, and those on threes, by row."""

OF_OTHER_DATA = {
    "hinton_ensemble": ("58.9 % 10.9 %", "61.1 % 10.7 %", "60.8 % 10.7 %"),
    "hinton_little_data": ("63.4 % 58.9 %", "67.3 % 44.5 %", "65.4 % 57.0 %"),
    "hinton_little_data_cifar100": ("63.4 % 58.9 %", "67.3 % 44.5 %", "65.4 % 57.0 %"),
    "hinton_specialists": ("25.0 % 26.1 %", "43.1 % 45.9 %"),
}
"""Speech (tables 1 and 5) and JFT (table 3), which kdrun does not run: in the notes alone, in this order."""

NAMES = (*PRINTED, "hinton_temperature", *OF_OTHER_DATA)


def taught(name):
    """Temperature, alpha and training images of each row that is taught."""
    found = {}
    for row, entry in rows(name).items():
        for spec in entry.specs[:1]:
            if spec.teachers:
                options = all_options(spec.method)
                found[row] = (options["temperature"], options["alpha"], spec.dataset.num_train_examples)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_the_paper_prints(name):
    definition = load_table(name)
    found = {row.name: (row.published.errors, row.published.errors_on) for row in definition.rows}
    assert found == PRINTED.get(name, dict.fromkeys(found, (None, None)))
    assert {row.published.top1 for row in definition.rows} == {None}, "speech and JFT stand beside no row of ours"
    notes = " ".join(definition.notes)
    place = 0
    for figure in " ".join(OF_OTHER_DATA.get(name, ())).replace(" %", "%").split():
        place = notes.index(figure.replace("%", " %"), place) + 1
    threes = [row.errors_on for row in definition.rows if row.published.errors_on is not None]
    assert all(classes == (3,) for classes in threes)


def test_the_tables_of_mnist_share_one_teacher_which_is_a_row_of_the_first():
    (teacher,) = rows("hinton_mnist")["mlp_1200/ce"].specs
    for name in ("hinton_mnist", "hinton_missing_class", "hinton_little_data", "hinton_temperature"):
        taught_by = {row: spec.teachers for row, entry in rows(name).items() for spec in entry.specs if spec.teachers}
        assert {len(teachers) for teachers in taught_by.values()} == {1}
        assert {teachers[0].run_id for teachers in taught_by.values()} == {teacher.run_id}, name
    assert (teacher.dataset.num_train_examples, teacher.dataset.val_fraction) == (60_000, 0)
    assert (teacher.recipe.augmentation.crop_padding, teacher.recipe.max_norm) == (2, 3.5)


def test_rows_have_the_temperature_the_weight_and_the_images_that_are_told():
    assert taught("hinton_mnist") == {"mlp_800/kd/mlp_1200": (20, 0.9, 60_000)}
    assert taught("hinton_missing_class") == {
        "mlp_800/no_3/mlp_1200": (20, 1, 44_998),
        "mlp_800/only_78/mlp_1200": (20, 1, 10_000),
    }
    assert taught("hinton_little_data") == {"mlp_800/kd_3/mlp_1200": (20, 1, pytest.approx(0.03 * 60_000, rel=1e-3))}
    assert taught("hinton_little_data_cifar100") == {"resnet8/kd_3/resnet8": (4, 1, 1350)}
    ensembles = {f"mlp_800/kd_ensemble{mean}/mlp_800": (2, 0.5, 10_002) for mean in ("", "_geometric")}
    assert taught("hinton_ensemble") == {**ensembles, "mlp_800/kd_ensemble_T20/mlp_800": (20, 0.9, 10_002)}
    widths, temperatures = (30, 100, 300, 800), (1, 2, 2.5, 4, 8, 20)
    expected = {f"mlp_{width}/kd_T{t:g}/mlp_1200": (t, 1, 30_000) for width in widths for t in temperatures}
    assert taught("hinton_temperature") == expected
    for row, entry in rows("hinton_temperature").items():
        width = int(row.split("/")[0].removeprefix("mlp_"))
        assert all_options(entry.specs[0].student)["hidden"] == (width, width)


def test_students_on_mnist_are_not_regularised():
    """And their images are not moved; the teacher has both."""
    for name in ("hinton_mnist", "hinton_missing_class", "hinton_little_data", "hinton_temperature", "hinton_ensemble"):
        for row, entry in rows(name).items():
            for spec in entry.specs:
                regularised = row == "mlp_1200/ce"
                options, recipe = all_options(spec.student), spec.recipe
                assert (options["dropout"], options["input_dropout"]) == ((0.5, 0.2) if regularised else (0, 0))
                assert recipe.augmentation.crop_padding == (2 if regularised else 0), row
                assert (recipe.max_norm is None, recipe.weight_decay) == (not regularised, 0), row
                assert (recipe.augmentation.flip, recipe.augmentation.rotation) == (False, 0), row


def test_what_is_left_out_of_the_transfer_set_the_teacher_has_seen():
    found = rows("hinton_missing_class")
    no_3, only_78 = (found[f"mlp_800/{kind}/mlp_1200"].specs[0] for kind in ("no_3", "only_78"))
    assert no_3.dataset.classes == (0, 1, 2, 4, 5, 6, 7, 8, 9)
    assert only_78.dataset.classes == (7, 8)
    assert {spec.teachers[0].dataset.classes for spec in (no_3, only_78)} == {None}
    for kind, spec, classes in (("no_3", no_3, (3,)), ("only_78", only_78, (7, 8))):
        for ending, split in (("", "val"), ("_on_test", "test")):
            bias = found[f"mlp_800/{kind}_corrected{ending}/mlp_1200"].derived[0]
            assert (bias.specs, bias.classes, bias.chosen_on) == ((spec,), classes, split)


def test_an_ensemble_is_of_the_teachers_of_its_student_and_every_seed_has_its_own():
    found = rows("hinton_ensemble", num_seeds=2)
    students = found["mlp_800/kd_ensemble/mlp_800"].specs
    nets = [[teacher.run_id for teacher in spec.teachers] for spec in students]
    assert len({run_id for ids in nets for run_id in ids}) == 10
    for row, mean in (("mlp_800/ensemble", "arithmetic"), ("mlp_800/ensemble_geometric", "geometric")):
        for derived, ids in zip(found[row].derived, nets, strict=True):
            assert (sorted(spec.run_id for spec in derived.specs), derived.mean) == (sorted(ids), mean)
    assert students[0].run_id not in nets[0]
    alone = found["mlp_800/ce"]
    assert alone.seeds == ({0}, {1}) == found["mlp_800/kd_ensemble/mlp_800"].seeds
    assert found["mlp_800/ensemble"].seeds == (set(range(5)), set(range(5, 10))), "not paired with a net alone"


def test_the_taught_student_of_mnist_is_compared_at_its_own_rate():
    found = rows("hinton_mnist")
    taught = found["mlp_800/kd/mlp_1200"]
    (alone,), (student,) = found[taught.row.baseline].specs, taught.specs
    assert dataclasses.replace(student, method=alone.method, teachers=()) == alone


@pytest.mark.parametrize("name", ["hinton_missing_class", "hinton_ensemble", "hinton_specialists"])
def test_tables_with_derived_rows_run_on_digits(name):
    found = rows(name, "dataset=digits", "recipe.epochs=1", "teacher.recipe.epochs=1")
    assert list(found) == [row.name for row in load_table(name).rows]
    assert {entry.first.dataset.name for entry in found.values()} == {"digits"}


@pytest.mark.parametrize("name", ["hinton_mnist", "hinton_little_data_cifar100", "hinton_ensemble"])
def test_in_a_shortened_table_a_row_stays_the_teacher_of_the_others(name):
    def taught_by_rows(*overrides):
        entries = rows(name, *overrides)
        owners = {spec.run_id: row for row, entry in entries.items() for spec in entry.specs}
        teachers = [(row, each) for row, entry in entries.items() for spec in entry.specs for each in spec.teachers]
        return {(row, owners.get(teacher.run_id)) for row, teacher in teachers}

    assert any(owner for _, owner in taught_by_rows())
    assert taught_by_rows("recipe.epochs=3") == taught_by_rows()


@pytest.mark.parametrize(
    ("name", "departure"), [("hinton_missing_class", "holds a sixth"), ("hinton_mnist", "not published")]
)
def test_published_figures_are_of_another_setting(name, departure):
    published = [row for row in load_table(name).rows if row.published != Published()]
    assert published
    assert all(departure in row.departs for row in published)
