"""Tables, composed: every definition is a set of checked runs, at the paper's scale and at any other."""

import dataclasses
import functools
from pathlib import Path

import pytest

from kdrun.config.compose import ConfigError
from kdrun.config.table import ComposedTable, compose_table, load_table, shipped_tables
from kdrun.spec.components import all_options
from kdrun.tables.controls import effective_weights

TFKD = [load_table(name) for name in shipped_tables() if name.startswith("tfkd")]
RUNNABLE = [table.name for table in TFKD if not (table.unavailable or table.include)]
DIGITS = ("dataset=digits", "recipe.epochs=10")
MINE = """
title: Mine
num_classes: 20
overrides: [dataset=synthetic, student=mlp, "student.hidden=[16]"]
controls: [no_kl, untrained]
rows:
  - {name: mlp/ce, overrides: [method=ce], published: {top1: 50.0}}
  - {name: mlp/kd/cnn, overrides: [teacher=cnn, method=kd, method.kl_reduction=mean], baseline: mlp/ce,
     recipe: [recipe.batch_size=32, teacher.recipe.batch_size=16]}
"""
DERIVED_FAULT = """
title: x
rows:
  - {name: a/c, unavailable: x}
  - {name: a/b, derived: {_target_: kdrun.experiment.derived.Ensemble%s}}
"""
HEATMAP = "title: x\nfigures: [{_target_: kdrun.tables.render.heatmap.HeatmapFigure, %s}]"


@functools.cache
def composed(name: str, *overrides: str, num_seeds: int = 1, rows: tuple[str, ...] = ()) -> ComposedTable:
    return compose_table(load_table(name), overrides, num_seeds=num_seeds, patterns=rows)


def problems(name: str, *overrides: str, **options) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        composed(name, *overrides, **options)
    return refused.value.problems


@pytest.fixture
def mine(tmp_path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return str(path)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "tfkd_t9")) for name in RUNNABLE]
)
def test_every_definition_of_the_tfkd_paper_is_a_set_of_checked_runs(name):
    """And a teacher is the very run of its own row, so that nothing is trained twice."""
    table = composed(name)
    assert table.published
    for entry in table.entries:
        assert bool(entry.specs) != bool(entry.row.unavailable)
        for spec in entry.specs:
            assert spec.student.name == entry.row.student
            assert spec.dataset.num_classes == table.definition.num_classes
            assert set(table.jobs) >= {spec.run_id}
    rows = {entry.row.name: entry for entry in table.entries}
    for entry in table.entries:
        for teacher in (teacher for spec in entry.specs for teacher in spec.teachers):
            own = rows.get(f"{teacher.student.name}/ce")
            assert own is None or dataclasses.replace(teacher, stop_epoch=None) == own.specs[0], entry.row.name


def test_at_another_number_of_classes_the_effective_weights_stay():
    paper, small = composed("tfkd_t9"), composed("tfkd_t9", *DIGITS, rows=("!*resnet50*", "!*resnext29*"))
    assert not small.published
    found = {entry.row.name: entry.specs[0] for entry in paper.entries if entry.specs}
    weighed = [(entry.specs[0], found[entry.row.name]) for entry in small.entries if effective_weights(entry.specs[0])]
    assert len(weighed) >= 5
    for spec, original in weighed:
        assert (spec.dataset.name, spec.recipe.epochs) == ("digits", 10)
        ours, papers = effective_weights(spec), effective_weights(original)
        assert (ours.hard, ours.soft) == pytest.approx((papers.hard, papers.soft))
        assert all_options(spec.method)["multiplier"] == all_options(original.method)["multiplier"] / 10


def test_stop_epochs_scale_and_one_epoch_stays_one():
    table = composed("tfkd_t4", *DIGITS, rows=("mobilenetv2/de_kd/resnet*",))
    stops = {
        entry.row.name: entry.specs[0].teachers[0].stop_epoch for entry in table.entries if entry.specs[0].teachers
    }
    assert stops["mobilenetv2/de_kd/resnet18@1"] == 1
    assert stops["mobilenetv2/de_kd/resnet50@0.25"] == 2
    full = composed("tfkd_t4", rows=("mobilenetv2/de_kd/resnet50@0.25",))
    assert full.entries[-1].specs[0].teachers[0].stop_epoch == 50


def test_a_row_brings_its_baseline_and_patterns_leave_out():
    table = composed("tfkd_t1", rows=("mobilenetv2/kd/resnet18*", "!*/untrained"))
    assert [entry.row.name for entry in table.entries] == [
        "mobilenetv2/ce",
        *("mobilenetv2/kd/resnet18" + control for control in ("", "/no_kl", "/scaled", "/matched_lsr", "/uniform")),
    ]
    (problem,) = problems("tfkd_t1", rows=("mobilenetv2/ce", "typo*", "!*resnext92*"))
    assert problem.startswith("--rows typo*,!*resnext92*: no such row"), "every pattern must match"
    assert "mobilenetv2/ce" in problem


def test_entries_say_what_runs_whatever_the_rows_name_claims(tmp_path):
    path = tmp_path / "lie.yaml"
    path.write_text(
        "title: x\noverrides: [dataset=synthetic]\nrows:\n"
        "  - {name: resnet50/kd/densenet121, overrides: [student=mlp, teacher=cnn, teacher.stop_epoch=1, method=kd]}\n"
        "  - {name: vgg/tfkd_self, overrides: [student=cnn, method=tfkd_self]}\n"
        "  - {name: vgg/de_kd/alexnet@0.25, unavailable: not there}\n"
    )
    entries = composed(str(path)).entries
    assert [(entry.student, entry.teacher, entry.stop) for entry in entries] == [
        ("mlp", "cnn", "epoch 1 of 2"),
        ("cnn", "", ""),
        ("vgg", "alexnet", "0.25 of the epochs"),
    ]


def test_seeds_are_of_student_and_teacher():
    table = composed("tfkd_t1", num_seeds=2, rows=("mobilenetv2/kd/resnet18*",))
    for entry in table.entries:
        assert [spec.seed for spec in entry.specs] == [0, 1]
        assert all(teacher.seed == spec.seed for spec in entry.specs for teacher in spec.teachers)
    assert problems("tfkd_t1", num_seeds=0) == ["--seeds 0: must be at least 1 and at most 1000"]


def test_runs_that_become_the_same_are_shown_once(mine):
    whole = composed("tfkd_fig2", *DIGITS, rows=("mobilenetv2/de_kd/resnet18@*",))
    merged = {entry.row.name: entry.same_as for entry in whole.entries if entry.same_as}
    # 1, 0.025, 0.05 and 0.125 of ten epochs are one epoch
    alike = tuple(f"mobilenetv2/de_kd/resnet18@{share}" for share in ("0.025", "0.05", "0.125"))
    assert merged["mobilenetv2/de_kd/resnet18@1"] == alike


def test_the_recipe_of_a_published_run_holds_at_its_scale_only(mine):
    def batches(*overrides: str) -> tuple[int, int]:
        spec = next(e for e in composed(mine, *overrides).entries if e.row.name == "mlp/kd/cnn").specs[0]
        return spec.recipe.batch_size, spec.teachers[0].recipe.batch_size

    assert batches() == (32, 16)
    assert batches("recipe.epochs=3") == (32, 16)
    assert batches("dataset=digits") == (64, 64)
    assert batches("recipe.batch_size=8") == (8, 8)
    assert batches("teacher.recipe.batch_size=8") == (32, 8)


def test_published_figures_stand_only_beside_the_papers_runs(mine):
    for overrides, published in [
        ((), True),
        (("runtime.device=cpu", "dataset.root=somewhere"), True),
        (("recipe.epochs=199",), False),
        (("dataset.train_fraction=0.5",), False),
    ]:
        assert composed(mine, *overrides).published == published


def test_an_option_of_a_method_goes_to_the_rows_whose_method_has_it():
    """So the losses as the paper writes them are one override away from those it ran."""
    released = composed("tfkd_t9", rows=("resnet18/tfkd_reg*",))
    written = composed("tfkd_t9", "method.variant=paper", rows=("resnet18/*",))
    assert not written.published
    found = {entry.row.name: entry.specs[0] for entry in written.entries}
    assert all_options(found["resnet18/tfkd_reg"].method)["variant"] == "paper"
    assert found["resnet18/ce"] == released.entries[0].specs[0]
    assert "resnet18/tfkd_reg/matched_lsr" not in found, "which holds for the released form only"
    assert effective_weights(found["resnet18/tfkd_reg"]).soft == pytest.approx(0.1 * 100)
    per_image = composed("tfkd_t1", "method.kl_reduction=batchmean", rows=("mobilenetv2/kd/resnet18*",))
    specs = {entry.row.name: entry.specs[0] for entry in per_image.entries}
    assert effective_weights(specs["mobilenetv2/kd/resnet18"]).soft == pytest.approx(0.95)
    assert per_image.entries[0].same_as == ("mobilenetv2/kd/resnet18/scaled",), "the weights add up to 1"


def test_multiplier_of_the_user_is_taken_as_it_is(mine):
    (first, *_) = [
        e for e in composed(mine, "dataset.num_classes=10", rows=("mlp/kd/cnn",)).entries if e.specs[0].teachers
    ]
    assert all_options(first.specs[0].method)["multiplier"] == 0.5


def test_what_the_rows_say_cannot_be_overridden(mine):
    said = problems(mine, "student=cnn", "teacher=resnet20", "method=ce", "seed=3", "teacher.stop_epoch=1")
    assert [text.partition(":")[0] for text in said] == [
        *("student=cnn", "teacher=resnet20", "method=ce", "teacher.stop_epoch=1", "seed=3"),
    ]
    assert len(problems(mine, "student=cnn", "recipe.epochs=0", "dataset=digitz")) == 3, "told together"
    assert problems(mine, "recipe.epochs=1,2") == ["recipe.epochs=1,2: a table takes one value"]


def test_a_problem_of_all_rows_is_told_once_and_one_of_a_row_by_its_name(mine):
    said = problems(mine, "recipe.epochs=0", "recipe.epoch=3", "method.alpha=2", "student.wdith=2")
    assert [text.partition(";")[0] for text in said] == [
        "recipe.epoch=3: no such key in recipe",
        "recipe.epochs=0: must be at least 1 and at most 1000000",
        "row mlp/ce and 1 more: student.wdith=2: no such key in student=mlp",
        "row mlp/kd/cnn: method.alpha=2.0: must be a finite number, from 0 to 1",
    ]
    said = problems(mine, "method.alpa=1")
    assert said == [
        "method.alpa=1: no such option of any row; did you mean alpha? "
        "Allowed: alpha, kl_reduction, multiplier, scale, standardize, temperature"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title: [", "mine.yaml"),
        ("title: x\ninclude: [tfkd_t1, tfkd_t3]", "must share one num_classes"),
        ("rows: 3", "title: is missing"),
        ("title: x\nrows: [{name: a/ce}, {name: a/ce}]", "rows: a/ce is there twice"),
        ("title: x\nrows: [{name: a/kd/b, baseline: a/ce}]", "rows: baseline a/ce is no row"),
        ("title: x\nrows: [{name: alone}]", "'alone' must be student/kind"),
        ("title: x\nname: ../../escaped", "name: is that of the file"),
        ("title: x\nrow: []", "no such option; did you mean rows?"),
        ("title: x\ncontrols: [uniformity]", "did you mean uniform?"),
        ("title: x\nrows: [{name: a/ce, published: {top1: many}}]", "published.top1='many': must be a finite number"),
        ("title: x\nrows: [{name: a/b, derived: {kind: ensemble}}]", "rows[0].derived: must be"),
        ("title: x\nrows: [{name: a/b, derived: {_target_: kdrun.methods.KD, of: a/c}}]", "is no concrete DerivedRow"),
        ("title: x\nrows: [{name: a/b, derived: {_target_: os.system, of: a/c}}]", "is outside the trusted packages"),
        ("title: x\nfigures: [curve]", "figures[0]=curve: no such figure; did you mean curves?"),
        ("title: x\nfigures: [{_target_: os.system}]", "is outside the trusted packages"),
        ("title: x\nfigures: [{_target_: kdrun.methods.KD}]", "is no concrete Figure"),
        ("title: x\nfigures: [curves, curves]", "curves.png is written twice"),
        ("title: x\nfigures: [evaluations]", "figures: evaluations: needs evaluations"),
        (DERIVED_FAULT % "", "derived: must have either of or teachers_of"),
        (DERIVED_FAULT % ", of: a/c", "derived.of='a/c': must name at least two"),
        (DERIVED_FAULT % ", teachers_of: a/c", "a/b: derived: a/c has no runs of its own"),
        (DERIVED_FAULT % ", teachers_of: a/d", "a/b: derived: a/d is no row"),
        (DERIVED_FAULT % ", teachers_of: a/c, mean: median", "derived.mean='median': must be one of arithmetic, geo"),
        (
            DERIVED_FAULT.replace("derived:", "overrides: [method=ce], derived:") % ", teachers_of: a/c",
            "is no training",
        ),
        ("title: x\nmeasure: loss", "measure='loss': must be one of top1, errors"),
        ("title: x\nmeasure: errors\nrows: [{name: a/b, published: {top1: 9}}]", "this table's measure is errors"),
        ("title: x\nrows: [{name: a/b, published: {errors_on: 9}}]", "published.errors_on: needs errors_on"),
        ("title: x\nlabels: {c: C}\nrows: [{name: a/b}]", "labels: c: no row is of this kind"),
        ("title: x\ndeparts: y\nrows: [{name: a/b}]", "departs: no row has a published figure"),
        ("title: x\nrows: [{name: a/b, departs: y}]", "rows: a/b: departs: the row has no published figure"),
        ("title: x\nrows: [{name: a/b, against: [a/c]}]", "rows: a/b: against: a/c is no other row"),
        (HEATMAP % "columns: seeds", "figures[0].columns='seeds': must be student, or an option of"),
        (HEATMAP % "column: student", "figures[0].column: no such option; did you mean columns?"),
    ],
)
def test_a_faulty_definition_is_told_by_its_file(tmp_path, text, problem):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_table(str(path))
    assert any(problem in text for text in refused.value.problems)
    assert all(text.startswith((str(path), "table mine: ")) for text in refused.value.problems)


DERIVED = """
title: Derived
overrides: [dataset=synthetic, student=mlp, "student.hidden=[16]", dataset.val_fraction=0.2]
rows:
  - {name: mlp/ce, overrides: [method=ce]}
  - {name: mlp/kd, overrides: [teacher=cnn, method=kd], baseline: mlp/ce}
  - {name: mlp/kd_ensemble, overrides: [teacher=cnn, method=kd_ensemble, method.num_teachers=2]}
  - {name: mlp/both, derived: {_target_: kdrun.experiment.derived.Ensemble, of: [mlp/ce, mlp/kd]}, baseline: mlp/ce}
  - {name: mlp/teachers,
     derived: {_target_: kdrun.experiment.derived.Ensemble, teachers_of: mlp/kd_ensemble, mean: geometric}}
"""


@pytest.fixture
def derived(tmp_path) -> Path:
    path = tmp_path / "derived.yaml"
    path.write_text(DERIVED)
    return path


def test_a_derived_row_is_made_of_the_runs_of_its_seed(derived):
    entries = {entry.row.name: entry for entry in composed(str(derived), num_seeds=2).entries}
    assert [entry.asked for entry in entries.values()] == [2] * 5
    for seed in range(2):
        ce, kd, taught = (entries[f"mlp/{kind}"].specs[seed] for kind in ("ce", "kd", "kd_ensemble"))
        both, teachers = (entries[f"mlp/{kind}"].derived[seed] for kind in ("both", "teachers"))
        assert sorted(both.specs, key=repr) == sorted((ce, kd), key=repr)
        assert sorted(teachers.specs, key=repr) == sorted(taught.teachers, key=repr)
        assert (len(teachers.specs), teachers.mean) == (2, "geometric")


def test_what_a_derived_row_is_made_of_is_run_where_it_is_no_row(derived):
    table = composed(str(derived), num_seeds=2, rows=("mlp/teachers",))
    assert [entry.row.name for entry in table.entries] == ["mlp/teachers"]
    parts = [spec for entry in table.entries for each in entry.derived for spec in each.specs]
    assert len(parts) == 4
    assert set(table.jobs) == {spec.run_id for spec in parts}
    assert all(table.jobs[spec.run_id].spec == spec for spec in parts)


def test_what_does_not_fit_the_runs_is_told_by_the_row(derived):
    derived.write_text(DERIVED.replace("teachers_of: mlp/kd_ensemble", "teachers_of: mlp/kd"))
    (said,) = problems(str(derived), rows=("mlp/teachers",))
    assert said.endswith("teachers_of=mlp/kd: must be a row with at least two teachers, it has 1")


def test_rows_have_a_cell_each_in_a_heat_map(derived):
    derived.write_text(f"figures: [heatmap]{DERIVED}")
    assert problems(str(derived), rows=("mlp/kd*",)) == ["figures: heatmap: mlp/kd and mlp/kd_ensemble share one cell"]
    assert problems(str(derived), rows=("mlp/ce",)) == ["figures: heatmap: no row has method.temperature"]
    assert composed(str(derived), rows=("mlp/kd",))
    assert problems(str(derived), rows=("mlp/both",)), "the rows it is computed from are not shown"


def test_the_controls_table_collects_rows_once_and_leaves_published_figures_to_their_tables():
    definition = load_table("tfkd_controls")
    names = [row.name for row in definition.rows]
    assert len(names) == len(set(names))
    for part in ("tfkd_t1", "tfkd_t4", "tfkd_t5", "tfkd_t9"):
        taught = {row.name for row in load_table(part).rows if row.kind not in ("ce", "lsr") and not row.unavailable}
        assert taught <= set(names)
    assert all(row.published.top1 is None for row in definition.rows)
    assert definition.controls == ("no_kl", "scaled", "matched_lsr", "untrained", "uniform")


def taught_by_rows(name: str, *overrides: str) -> set[tuple[str, str]]:
    """Each row with the row whose run is its teacher."""
    entries = composed(name, *overrides).entries
    owners = {spec.run_id: entry.row.name for entry in entries for spec in entry.specs}
    return {
        (entry.row.name, owners[teacher.run_id])
        for entry in entries
        for teacher in (teacher for spec in entry.specs for teacher in spec.teachers)
        if teacher.run_id in owners
    }


TEACHERS = """
title: Teachers
overrides: [dataset=digits]
rows:
  - {name: cnn/ce, overrides: [student=cnn, method=ce, recipe.epochs=30, recipe.lr=0.03]}
  - {name: mlp/ce, overrides: [student=mlp, method=ce, recipe.epochs=10]}
  - name: mlp/kd/cnn
    overrides: [student=mlp, teacher=cnn, recipe.epochs=10, teacher.recipe.epochs=30, teacher.recipe.lr=0.03]
    baseline: mlp/ce
  - name: mlp/dkd/cnn
    overrides: [student=mlp, teacher=cnn, method=dkd, recipe.epochs=10, teacher.recipe.epochs=30,
      teacher.recipe.lr=0.03]
    baseline: mlp/kd/cnn
"""


@pytest.fixture
def teachers(tmp_path) -> str:
    path = tmp_path / "teachers.yaml"
    path.write_text(TEACHERS)
    return str(path)


@pytest.mark.parametrize("overrides", [(), ("recipe.epochs=3",)])
def test_a_row_stays_the_teacher_of_the_others_in_a_shortened_table(teachers, overrides):
    """Also where rows give their teacher a recipe of its own."""
    cnn, mlp, *taught = (entry.specs[0] for entry in composed(teachers, *overrides).entries)
    assert [spec.teachers for spec in taught] == [(cnn,)] * 2
    assert mlp.recipe.epochs == (3 if overrides else 10)


def test_a_recipe_that_the_user_gives_the_teacher_is_its_own(teachers):
    *_, student = composed(teachers, "recipe.epochs=3", "teacher.recipe.epochs=5", rows=("mlp/kd*",)).entries
    (spec,) = student.specs
    assert (spec.recipe.epochs, spec.teachers[0].recipe.epochs) == (3, 5)
    assert spec.teachers[0].recipe.lr == 0.03, "what is not set stays the row's"


def test_baselines_of_baselines_come_along(teachers):
    names = [entry.row.name for entry in composed(teachers, rows=("*dkd*",)).entries]
    assert names == ["mlp/ce", "mlp/kd/cnn", "mlp/dkd/cnn"]
