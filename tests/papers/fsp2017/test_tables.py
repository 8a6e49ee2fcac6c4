"""The shipped tables of RepDistiller, of FSP (Yim 2017) and of the label-smoothed teacher (Tang 2020).

What the papers print, and the schedules they count in iterations, are typed here as they stand there.
"""

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.preflight import check_job
from kdrun.config.table import compose_table, load_table
from kdrun.experiment.build import build_method, offered
from kdrun.spec.components import all_options

TABLES = ["fsp_t1", "fsp_t2", "fsp_t3", "fsp_t4", "ls_teacher", "rep_distiller_cifar100"]
OWN = ["born_again", "teacher_size", "weight_distillation_lr"]  # nothing is printed for them
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

RD_SCHEDULE = [(150, 0.05), (180, 0.005), (210, 0.0005), (240, 0.00005)]  # in epochs

# The networks; beta of DKD; and what is printed of student, teacher and each kind.
KINDS = ("kd", "fitnet", "at", "rkd", "fsp", "crd", "dkd", "kd_std")
REP_DISTILLER = """
    resnet20      resnet56    2  69.06 72.34  70.66 69.21 70.55 69.61 69.95 71.16 71.97 71.43
    resnet32      resnet110   2  71.14 74.31  73.08 71.06 72.31 71.82 71.89 73.48 74.11 74.17
    resnet8x4     resnet32x4  8  72.50 79.42  73.33 73.50 73.44 71.90 72.62 75.51 76.32 76.62
    wrn_16_2      wrn_40_2    6  73.26 75.61  74.92 73.58 74.08 73.35 72.91 75.48 76.23 76.11
    vgg8          vgg13       6  70.36 74.64  72.98 71.02 71.43 71.48 70.23 73.94 74.68 74.36
    shufflenetv2  resnet32x4  -  71.82 79.42  74.45 73.54 72.73 73.21 -     75.65 77.07 75.56
"""
PAIRS = [line.split() for line in REP_DISTILLER.strip().splitlines()]

# Top-1 of teacher, KD, KD-pt and KD-sim, without and with label smoothing of the teacher.
TANG = [(75.39, 76.00, 74.81, 74.40), (76.69, 75.02, 74.13, 74.01)]


def printed(name):
    return {row.name: (row.published.top1, row.published.ensemble) for row in load_table(name).rows}


@functools.cache
def composed(name, *overrides, num_seeds=1, patterns=()):
    """The specs of each row that can be run, by its name."""
    table = compose_table(load_table(name), overrides, num_seeds=num_seeds, patterns=patterns)
    return {entry.row.name: entry.specs for entry in table.entries if entry.specs}


def schedule(epochs, lr, milestones, gamma):
    """The learning rate as (until epoch, rate)."""
    ends = [*(share * epochs for share in milestones), epochs]
    return [(pytest.approx(end, abs=1), pytest.approx(lr * gamma**number)) for number, end in enumerate(ends)]


def of_recipe(recipe):
    return schedule(recipe.epochs, recipe.lr, recipe.milestones, recipe.gamma)


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


def test_rep_distiller_rows_carry_what_is_printed():
    expected = {}
    for student, teacher, _, own, of_teacher, *taught in PAIRS:
        expected |= {f"{student}/ce": float(own), f"{teacher}/ce": float(of_teacher)}
        rows = zip(KINDS, taught, strict=True)
        expected |= {f"{student}/{kind}/{teacher}": float(text) for kind, text in rows if text != "-"}
    assert printed("rep_distiller_cifar100") == {name: (top1, None) for name, top1 in expected.items()}


def test_label_smoothed_teachers_carry_what_the_paper_prints():
    found = printed("ls_teacher")
    assert found.pop("resnet20/ce") == found.pop("resnet20/kd_sim_equal/resnet56") == (None, None)
    for (teacher, *taught), own, ending in zip(TANG, ("ce", "lsr"), ("", "_ls"), strict=True):
        assert found.pop(f"resnet56/{own}") == (teacher, None)
        for kind, top1 in zip(("kd", "kd_pt", "kd_sim"), taught, strict=True):
            assert found.pop(f"resnet20/{kind}{ending}/resnet56") == (top1, None)
    assert not found


@pytest.mark.parametrize("name", [*TABLES, *OWN])
def test_a_row_runs_what_its_name_says_or_says_why_not(name):
    for row in load_table(name).rows:
        assert bool(row.overrides) + bool(row.unavailable) + bool(row.derived) == 1, row.name
        typed = dict(text.split("=", 1) for text in row.overrides)
        if row.overrides:
            assert (typed["student"], typed.get("teacher", "")) == (row.student, row.teacher), row.name
        figures = row.published
        assert figures.std is figures.gain is figures.teacher_top1 is None, row.name
        assert name not in OWN or figures.top1 is figures.ensemble is None, row.name


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


def test_the_settings_of_rep_distiller_and_of_the_papers_beside_it():
    """What its scripts pass (KD a=0.9, hint 100, attention 1000, RKD 1, CRD 0.8, FSP 30 epochs), of each pair."""
    definition = load_table("rep_distiller_cifar100")
    typed = {row.name: dict(text.split("=", 1) for text in row.overrides) for row in definition.rows}
    for student, teacher, beta, *_ in PAIRS[:-1]:
        method = {kind: typed[f"{student}/{kind}/{teacher}"] for kind in KINDS}
        assert (method["kd"]["method.alpha"], method["kd"]["method.temperature"]) == ("0.9", "4")
        weights = {kind: float(method[kind]["method.weight"]) for kind in ("fitnet", "at", "rkd", "fsp", "crd")}
        assert weights == {"fitnet": 100, "at": 1000, "rkd": 1, "fsp": 1, "crd": 0.8}
        assert method["fitnet"]["method.stage1_epochs"] == "0"
        assert method["fitnet"]["method.regressor_relu"] == "true"
        assert float(method["kd_std"]["method.temperature"]) == (3 if student == "vgg8" else 2), "of its published logs"
        assert method["dkd"]["method.beta"] == beta
        assert float(method["fsp"]["method.stage1_epochs"]) * 240 == 30
        alpha, multiplier = (float(method["kd_std"][f"method.{key}"]) for key in ("alpha", "multiplier"))
        assert (1 - alpha, alpha * multiplier) == (pytest.approx(0.1), pytest.approx(9))


def test_wide_resnets_and_vggs_take_rep_distiller_s_maps():
    """Its `feat`: the stem, the stages (a wide ResNet's before the final BatchNorm), the vector, which no row takes."""
    rows = composed("rep_distiller_cifar100", patterns=("wrn_16_2/at/*", "wrn_16_2/fsp/*", "vgg8/at/*", "vgg8/fsp/*"))
    stages = {"wrn_16_2": ("layer1", "layer2", "layer3"), "vgg8": ("layer1", "layer2", "layer3", "layer4")}
    for row, (spec,) in rows.items():
        if spec.teachers:
            ends = stages[row.split("/")[0]]
            flow = tuple(tap for pair in itertools.pairwise(("stem", *ends)) for tap in pair)
            method = build_method(spec.method, nn.Identity(), offered(spec, torch.device("meta")))
            expected = ends if "/at/" in row else tuple(dict.fromkeys(flow))
            assert method.taps == method.needs.features == expected, row
            if "/fsp/" in row:
                assert method._ends == list(zip(flow, flow, strict=True)), row
        for trained in (spec, *spec.teachers):
            assert of_recipe(trained.recipe) == RD_SCHEDULE, row
            assert trained.recipe.batch_size == 64, row


def test_each_learning_rate_has_the_same_teacher():
    definition = load_table("weight_distillation_lr")
    typed = {row.name: dict(text.split("=", 1) for text in row.overrides) for row in definition.rows}
    rates = {row: overrides["recipe.lr"] for row, overrides in typed.items() if row != "resnet32/ce"}
    assert rates == {row: row.split("/")[1].split("lr")[1] for row in rates}
    assert sorted(rates.values()) == sorted(["0.01", "0.03", "0.1", "0.3"] * 3)
    rows = composed(definition.name, patterns=("resnet32/ce", "resnet14/wd_lr0.3/*"))
    (spec,) = rows["resnet14/wd_lr0.3/resnet32"]
    assert spec.recipe.lr == 0.3
    assert [teacher.run_id for teacher in spec.teachers] == [rows["resnet32/ce"][0].run_id]


@pytest.mark.parametrize(
    ("experiment", "table", "row"),
    [
        ("fsp_fast_optimisation", "fsp_t1", "resnet26/fsp_short/resnet26"),
        ("fsp_small_student", "fsp_t4", "resnet14/fsp/resnet32"),
        ("fsp_transfer", "fsp_transfer", "resnet8/fsp/resnet14"),
        ("ls_teacher", "ls_teacher", "resnet20/kd_ls/resnet56"),
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


def test_a_generation_is_taught_by_the_row_before_it():
    rows = composed("born_again")
    chain = [rows[f"resnet20/{kind}"][0] for kind in ("ce", "ban1", "ban2", "ban3")]
    assert [teacher.run_id for spec in chain[1:] for teacher in spec.teachers] == [spec.run_id for spec in chain[:-1]]
