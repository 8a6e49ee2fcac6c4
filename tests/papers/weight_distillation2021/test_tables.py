"""The tables of weight distillation (Lin 2021)."""

from kdrun.config.table import load_table
from tests.papers.shipped import composed


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


def test_language_models_have_one_teacher_at_all_rates():
    rows = composed("weight_distillation_lm")
    taught = [spec for specs in rows.values() for spec in specs if spec.teachers]
    assert sorted(spec.recipe.lr for spec in taught) == [rate for rate in (3e-4, 1e-3, 3e-3) for _ in range(2)]
    assert all(spec.teachers == rows["transformer_teacher/ce"] for spec in taught)
