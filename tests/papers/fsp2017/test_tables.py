"""The tables of FSP (Yim 2017).

What the paper prints, and the schedules they count in iterations, are typed here as they stand there.
"""

from dataclasses import replace

import pytest

from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.preflight import check_job
from kdrun.config.table import load_table
from kdrun.spec.components import all_options
from tests.papers.shipped import composed, of_recipe, printed, schedule

STEPS = 391  # of an epoch of 50,000 images in batches of 128

# Top-1 and ensemble, by row, in the paper's order.
YIM = {
    "fsp_t1": {
        "resnet26/ce": (91.75, 93.48),
        "resnet26/ce_short": (90.64, 92.6),
        "resnet26/ce_short_continued/resnet26": (92.04, 92.71),
        "resnet26/fitnet_short/resnet26": (91.72, 92.98),
        "resnet26/fitnet3_short/resnet26": (89.09, 89.92),
        "resnet26/fsp_short/resnet26": (92.14, 93.26),
        "resnet26/fsp_short_shuffled/resnet26": (92.08, 93.67),
    },
    "fsp_t2": {
        "resnet32x4/ce": (64.15, 69.3),
        "resnet32x4/ce_short": (61.32, 67.2),
        "resnet32x4/fitnet_short/resnet32x4": (62.55, 67.6),
        "resnet32x4/fsp_short/resnet32x4": (64.65, 68.8),
    },
    "fsp_t3": {
        "resnet26/ce": (91.91, None),
        "resnet8/ce": (87.91, None),
        "resnet8/fitnet/resnet26": (88.57, None),
        "resnet8/fsp/resnet26": (88.70, None),
    },
    "fsp_t4": {
        "resnet32/ce": (64.06, None),
        "resnet14/ce": (58.65, None),
        "resnet14/fitnet/resnet32": (61.28, None),
        "resnet14/fsp/resnet32": (63.33, None),
    },
}

# The learning rate in thousands of iterations, as (until, rate); of the recipe, and of the first stage.
NORMAL = [(32, 0.1), (48, 0.01), (64, 0.001)]
SHORT = [(11, 0.1), (16, 0.01), (21, 0.001)]
FIRST_CIFAR10 = [(11, 1e-3), (16, 1e-4), (21, 1e-5)]
FIRST_CIFAR100 = [(16, 1e-3), (24, 1e-4), (32, 1e-5)]
FIRST_FITNET = [(25, 1e-4), (35, 1e-5)]


def of_first_stage(method):
    options = all_options(method)
    return schedule(*(options[f"stage1_{key}"] for key in ("epochs", "lr", "milestones", "gamma")))


def in_epochs(iterations):
    return [(thousands * 1000 / STEPS, rate) for thousands, rate in iterations]


@pytest.mark.parametrize("name", YIM)
def test_fsp_rows_carry_what_the_paper_prints(name):
    assert printed(name) == YIM[name]
    assert list(printed(name)) == list(YIM[name])
    definition = load_table(name)
    averaged = name in ("fsp_t1", "fsp_t2")
    assert (definition.runs, definition.columns) == ((3, ("ensemble",)) if averaged else (None, ()))


@pytest.mark.parametrize(
    ("name", "first", "augmentation"),
    [
        ("fsp_t1", FIRST_CIFAR10, (4, False, 0)),
        ("fsp_t2", FIRST_CIFAR100, (0, False, 0)),
        ("fsp_t3", FIRST_CIFAR10, (4, False, 0)),
        ("fsp_t4", FIRST_CIFAR100, (0, False, 0)),
    ],
)
def test_fsp_tables_have_the_paper_s_schedules(name, first, augmentation):
    rows = composed(name)
    baselines = {specs[0].run_id for row, specs in rows.items() if row.endswith("/ce")}
    for row, (spec,) in rows.items():
        assert of_recipe(spec.recipe) == in_epochs(SHORT if "_short" in row else NORMAL), row
        first_stage = FIRST_FITNET if "fitnet" in row else first
        if spec.teachers:
            assert of_first_stage(spec.method) == in_epochs(first_stage), row
            assert {teacher.run_id for teacher in spec.teachers} <= baselines, row
        recipe, changes = spec.recipe, spec.recipe.augmentation
        assert (recipe.weight_decay, recipe.momentum, recipe.warmup_epochs, recipe.batch_size) == (1e-4, 0.9, 0, 128)
        assert (changes.crop_padding, changes.flip, changes.rotation) == augmentation, row


def test_the_teacher_of_the_transfer_is_a_row_of_table_4_and_its_control_the_same_untrained():
    rows = composed("fsp_transfer", num_seeds=2)
    ((teacher,), again) = (spec.teachers for spec in rows["resnet8/fsp/resnet14"])
    assert teacher.run_id == composed("fsp_t4")["resnet14/ce"][0].run_id
    assert again == (teacher,)
    for spec, control in zip(rows["resnet8/fsp/resnet14"], rows["resnet8/fsp/resnet14@0"], strict=True):
        assert control == replace(spec, teachers=(replace(teacher, stop_epoch=0),))
    scaled = composed("fsp_transfer", "recipe.epochs=3")["resnet8/fsp/resnet14"][0]
    assert {each.recipe.epochs for each in (scaled, *scaled.teachers)} == {3}


def test_shuffled_students_share_a_teacher_and_have_their_own_channels():
    rows = composed("fsp_t1", num_seeds=3, patterns=("*shuffled*",))
    teachers = [spec.run_id for spec in rows["resnet26/ce"]]
    shuffled = rows["resnet26/fsp_short_shuffled/resnet26"]
    assert [spec.method.options["shuffle_teacher"] for spec in shuffled] == [0, 1, 2]
    assert [teacher.run_id for spec in shuffled for teacher in spec.teachers] == teachers[:1] * 3
    assert [spec.seed for spec in shuffled] == [0, 1, 2]


@pytest.mark.parametrize(
    ("experiment", "table", "row"),
    [
        ("fsp_fast_optimisation", "fsp_t1", "resnet26/fsp_short/resnet26"),
        ("fsp_small_student", "fsp_t4", "resnet14/fsp/resnet32"),
        ("fsp_transfer", "fsp_transfer", "resnet8/fsp/resnet14"),
    ],
)
def test_an_experiment_is_the_row_of_its_table(experiment, table, row):
    problems = []
    with hydra_session():
        job = check_job(compose_job([f"experiment={experiment}"], problems), [])
    assert not problems
    assert job.spec.run_id == composed(table)[row][0].run_id


def test_elsewhere_the_epochs_of_the_published_runs_are_left_out():
    rows = composed("fsp_t1", "dataset=digits", "recipe.epochs=6")
    (spec,) = rows["resnet26/fsp_short/resnet26"]
    assert {(each.dataset.name, each.recipe.epochs) for each in (spec, *spec.teachers)} == {("digits", 6)}
    assert spec.method.options["stage1_epochs"] == 6
    assert "resnet26/ce_short" not in rows  # the same run as resnet26/ce
