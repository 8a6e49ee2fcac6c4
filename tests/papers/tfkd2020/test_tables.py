"""The shipped tables of the Tf-KD paper: its figures, row by row, and the settings its released code runs with.

`tfkd_tables.yaml` beside this file is the paper's tables, transcribed from it and not from the definitions. Settings
and effective weights are typed here as the released `params.json` files and the loss code have them.
"""

from pathlib import Path

import pytest
import yaml

from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.composition import papers_directory
from kdrun.config.preflight import check_job
from kdrun.tables import Row, read_definition

PUBLISHED = yaml.safe_load(Path(__file__).with_name("tfkd_tables.yaml").read_text())["tables"]
FILES = sorted(papers_directory().glob("tfkd2020/*.yaml"))
DEFINITIONS = {path.stem: read_definition(path.stem, yaml.safe_load(path.read_text())) for path in FILES}
HALVES = {"T4-cifar100": "tfkd_t4", "T4-tiny_imagenet": "tfkd_t4_tiny"}

METHODS = {"re_kd": "kd", "de_kd": "kd"}  # the other kinds are methods
NO_NETWORK = {None, "self", "resnext101"}
RECIPE = {"batch_size": "128", "optimizer": "sgd", "lr": "0.1", "weight_decay": "5e-4"}  # of conf/recipe/cifar100.yaml

# alpha, T, multiplier, batch size: the released CIFAR-100 configurations. De-KD has those of normal KD.
RELEASED = {
    "mobilenetv2/kd/resnet18": (0.95, 20, 1, 128),
    "mobilenetv2/kd/densenet121": (0.95, 20, 1, 128),
    "mobilenetv2/kd/resnext29_8x64d": (0.95, 20, 1, 64),
    "shufflenetv2/kd/resnet18": (0.95, 20, 1, 128),
    "shufflenetv2/kd/resnet50": (0.95, 20, 1, 128),
    "shufflenetv2/kd/densenet121": (0.95, 20, 1, 128),
    "shufflenetv2/kd/resnext29_8x64d": (0.95, 20, 1, 64),
    "resnet18/re_kd/mobilenetv2": (0.6, 20, 1, 128),
    "resnet18/re_kd/shufflenetv2": (0.6, 20, 1, 128),
    "resnet18/kd/resnet50": (0.6, 20, 1, 64),
    "resnet18/kd/resnext29_8x64d": (0.6, 20, 1, 64),
    "resnet50/re_kd/mobilenetv2": (0.6, 20, 1, 128),
    "resnet50/re_kd/shufflenetv2": (0.6, 20, 1, 128),
    "densenet121/re_kd/mobilenetv2": (0.6, 20, 1, 128),
    "densenet121/re_kd/shufflenetv2": (0.6, 20, 1, 100),
    "resnext29_8x64d/re_kd/mobilenetv2": (0.6, 20, 1, 64),
    "resnext29_8x64d/re_kd/resnet18": (0.6, 20, 1, 64),
    "mobilenetv2/tfkd_self": (0.95, 20, 1, 128),
    "shufflenetv2/tfkd_self": (0.95, 20, 1, 128),
    "resnet18/tfkd_self": (0.95, 6, 50, 128),
    "googlenet/tfkd_self": (0.4, 20, 50, 64),
    "densenet121/tfkd_self": (0.9, 20, 50, 100),
    "resnext29_8x64d/tfkd_self": (0.9, 20, 100, 64),
    "mobilenetv2/tfkd_reg": (0.95, 40, 1, 128),
    "shufflenetv2/tfkd_reg": (0.95, 10, 1, 128),
    "resnet18/tfkd_reg": (0.1, 20, 100, 128),
    "googlenet/tfkd_reg": (0.1, 40, 50, 64),
}
ASSUMED = {"mobilenetv2/kd/resnet50", "googlenet/kd/resnext29_8x64d", "densenet121/kd/resnext29_8x64d"}

BASELINE_BATCH_SIZES = {"resnet50": 64, "resnext29_8x64d": 64, "googlenet": 64}  # of all others 128


ROWS = [(definition, row) for definition in DEFINITIONS.values() for row in definition.rows]
RUNNABLE = [(definition, row) for definition, row in ROWS if row.overrides]
CIFAR100 = [row for definition, row in RUNNABLE if definition.overrides == ("dataset=cifar100",)]
of_every_published_table = pytest.mark.parametrize("table", PUBLISHED, ids=lambda table: table["id"])


def definition_of(table):
    return DEFINITIONS[HALVES.get(table["id"], f"tfkd_t{table['table']}")]


def network(name, dataset=""):
    """The name here of a network in the paper."""
    if name is None or name == "self":
        return None
    return "cnn" if name == "plain_cnn" else f"imagenet_{name}" if dataset == "imagenet" else name


def teacher_and_stop(row: Row):
    """What the name says of the teacher: its network and its stop epoch as text; None where there is none."""
    teacher, _, stop = "".join(row.name.split("/")[2:]).partition("@")
    return teacher or None, stop or None


def settings(overrides):
    return dict(text.split("=", 1) for text in overrides)


def method_settings(row: Row):
    """Alpha, T and multiplier."""
    typed = settings(row.overrides)
    return tuple(float(typed.get(f"method.{key}", 1)) for key in ("alpha", "temperature", "multiplier"))


def recipe_of(row: Row, prefix="recipe."):
    """The part of the recipe that rows change: of the run, or with `teacher.recipe.` of its teacher."""
    changed = settings(row.recipe)
    follows = {key: changed.get(f"recipe.{key}", value) for key, value in RECIPE.items()}
    return {key: changed.get(prefix + key, value) for key, value in follows.items()}


@of_every_published_table
def test_rows_carry_exactly_the_published_figures(table):
    stops = {None: None, 1: "1", 50: "0.25"}  # of 200 epochs
    expected = [
        (
            network(row["student"], table["dataset"]),
            row["method"],
            network(row["teacher"], table["dataset"]),
            stops[row.get("teacher_epochs")],
            row["value"],
            row["std"],
            row["printed_gain"] if row["value"] is None else None,
            row.get("teacher_accuracy"),
        )
        for row in table["rows"]
    ]
    found = [
        (row.student, row.kind, *teacher_and_stop(row), figures.top1, figures.std, figures.gain, figures.teacher_top1)
        for row in definition_of(table).rows
        if row.kind != "ce"
        for figures in [row.published]
    ]
    assert found == expected  # in the paper's order, too


@of_every_published_table
def test_baselines_are_the_printed_ones_and_come_first(table):
    printed = {network(row["student"], table["dataset"]): row["student_baseline"] for row in table["rows"]}
    printed |= {
        network(row["teacher"], table["dataset"]): row["teacher_baseline"]
        for row in table["rows"]
        if row["teacher"] not in NO_NETWORK and row["teacher_baseline"] is not None
    }
    definition = definition_of(table)
    baselines = [row for row in definition.rows if row.kind == "ce"]
    assert definition.rows[: len(baselines)] == tuple(baselines)
    assert {row.student: row.published.top1 for row in baselines if row.published.top1 is not None} == printed
    assert not any(row.published.std or row.published.gain or row.published.teacher_top1 for row in baselines)
    assert {row.baseline for row in baselines} == {None}
    teachers = {
        network(row["teacher"], table["dataset"]) for row in table["rows"] if row["method"] != "de_kd"
    } - NO_NETWORK
    assert {row.student for row in baselines} == set(printed) | teachers


@of_every_published_table
def test_a_table_has_the_paper_s_dataset_and_runs(table):
    definition = definition_of(table)
    num_classes = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200, "imagenet": 1000}[table["dataset"]]
    assert definition.num_classes == num_classes
    assert definition.runs == {"mean_std_3_runs": 3, "not_stated": None}[table["aggregation"]]
    assert definition.source.endswith(f"table {table['table']}")
    recipe = ("recipe=tfkd_imagenet",) if table["dataset"] == "imagenet" else ()
    assert definition.overrides == (f"dataset={table['dataset']}", *recipe)
    assert not definition.unavailable


@of_every_published_table
def test_a_gain_that_contradicts_its_accuracies_is_noted(table):
    published = [row for row in definition_of(table).rows if row.kind != "ce"]
    for row, facts in zip(published, table["rows"], strict=True):
        told = f"the paper prints a gain of {facts['printed_gain']:+.2f}" in row.note
        assert told == ("arithmetic_gain" in facts), row.name


def test_names_say_what_the_overrides_do():
    options = {
        "ce": set(),
        "lsr": {"method.epsilon=0.1", "method.spread=others"},
        "kd": {"method.kl_reduction=mean"},
        "tfkd_self": {"method.kl_reduction=mean"},
        "tfkd_reg": {"method.variant=released"},
    }
    on_imagenet = {name: {"method.alpha=0.1", "method.temperature=20"} for name in ("kd", "tfkd_self", "tfkd_reg")}
    per_image = {"kd": "kl_reduction=batchmean", "tfkd_self": "kl_reduction=batchmean", "tfkd_reg": "multiplier=null"}
    for name, text in per_image.items():
        on_imagenet[name].add(f"method.{text}")
    for definition, row in RUNNABLE:
        where, method = f"{definition.name}: {row.name}", METHODS.get(row.kind, row.kind)
        teacher, stop = teacher_and_stop(row)
        expected = {"student": row.student, "method": method, "teacher": teacher, "teacher.stop_epoch": stop}
        typed = settings(row.overrides)
        chosen = {key: value for key, value in typed.items() if not key.startswith("method.")}
        assert chosen == {key: value for key, value in expected.items() if value is not None}, where
        known = {**options, **on_imagenet} if definition.data == "ImageNet" else options
        assert known[method] <= set(row.overrides), where
        assert method != "tfkd_reg" or "method.multiplier" in typed, f"{where}: the default is K"
        assert (teacher is not None) == (method == "kd"), where
        assert (stop is not None) == (row.kind == "de_kd"), where
        assert row.baseline == (None if row.kind == "ce" else f"{row.student}/ce"), where
        assert {key.removeprefix("teacher.") for key in settings(row.recipe)} <= {f"recipe.{key}" for key in RECIPE}
        assert len(settings((*row.overrides, *row.recipe))) == len((*row.overrides, *row.recipe)), where


def test_a_name_is_the_same_run_in_every_table():
    runs = {}
    for definition, row in RUNNABLE:
        run = (set(row.overrides), set(row.recipe))
        assert runs.setdefault((definition.overrides, row.name), run) == run, f"{definition.name}: {row.name}"


def test_a_teacher_is_the_run_of_its_own_baseline():
    baselines = {(definition.overrides, row.student): row for definition, row in RUNNABLE if row.kind == "ce"}
    taught = 0
    for definition, row in RUNNABLE:
        teacher = row.student if row.kind == "tfkd_self" else teacher_and_stop(row)[0]
        if teacher:
            baseline = baselines[definition.overrides, teacher]
            assert recipe_of(row, "teacher.recipe.") == recipe_of(baseline), f"{definition.name}: {row.name}"
            taught += 1
        else:
            assert not any(text.startswith("teacher.") for text in row.recipe), row.name
    assert (
        taught == 16 + 8 + 10 + 8 + 4 + 11 + 8 + 4 + 4 + 18 + 4 + 2
    )  # tables 1 to 6, 9 and 10, figure 2, tables 7 and 8


def test_settings_are_the_released_ones():
    assumed = set()
    for row in CIFAR100:
        batch_size = int(recipe_of(row)["batch_size"])
        if row.kind in ("ce", "lsr"):
            assert batch_size == BASELINE_BATCH_SIZES.get(row.student, 128), row.name
            continue
        pair = row.name.replace("de_kd", "kd").partition("@")[0]
        if pair in ASSUMED:
            assert "no configuration is published" in row.departs
            assumed.add(pair)
            continue
        assert (*method_settings(row), batch_size) == RELEASED[pair], row.name
    assert assumed == ASSUMED


def test_figure_2_has_each_teacher_stopped_eight_times_and_whole():
    taught = [row for row in DEFINITIONS["tfkd_fig2"].rows if row.kind != "ce"]
    epochs = {"1": 1, None: 200}
    found = [
        (row.student, teacher, epochs.get(stop) or round(200 * float(stop)))
        for row in taught
        for teacher, stop in [teacher_and_stop(row)]
    ]
    assert found == [
        ("mobilenetv2", teacher, epoch)
        for teacher in ("resnet18", "resnext29_8x64d")
        for epoch in (1, 5, 10, 25, 50, 70, 100, 140, 200)
    ]


def test_controls_collect_the_tables_that_have_them():
    with_controls = [name for name, definition in DEFINITIONS.items() if definition.controls]
    assert list(DEFINITIONS["tfkd_controls"].include) == with_controls == ["tfkd_t1", "tfkd_t4", "tfkd_t5", "tfkd_t9"]


def spec_of(*words):
    problems = []
    with hydra_session():
        config = compose_job(words, problems)
        assert problems == []
        return check_job(config, words).spec


def test_the_experiments_are_the_released_settings():
    """params.json of the released code: MobileNetV2 from ResNet18, and from the virtual teacher."""
    kd = spec_of("experiment=tfkd_kd_mobilenetv2")
    assert kd.method.options == {"alpha": 0.95, "temperature": 20.0, "kl_reduction": "mean"}
    assert [c.name for c in (kd.method, kd.student, kd.teachers[0].student)] == ["KD", "mobilenetv2", "resnet18"]
    reg = spec_of("experiment=tfkd_reg_mobilenetv2")
    assert reg.method.options == {"alpha": 0.95, "temperature": 40.0, "multiplier": 1.0}
    assert [c.name for c in (reg.method, reg.student)] == ["TfKDReg", "mobilenetv2"]
    assert kd.dataset == reg.dataset == spec_of("dataset=cifar100", "method=ce").dataset
