"""What holds for the tables of several papers."""

import pytest

from kdrun.config.table import load_table, shipped_tables

WITHOUT_FIGURES = ("born_again", "teacher_size", "weight_distillation_lr")
NAMED = ("fsp_t1", "fsp_t2", "fsp_t3", "fsp_t4", "ls_teacher", "rep_distiller_cifar100", *WITHOUT_FIGURES)
SHIPPED = {name: load_table(name) for name in shipped_tables()}


def test_a_row_has_overrides_or_runs_or_a_reason():
    for table in SHIPPED.values():
        for row in table.rows if not table.unavailable else ():
            assert bool(row.overrides) + bool(row.unavailable) + bool(row.derived) == 1, (table.name, row.name)


@pytest.mark.parametrize("name", [name for name in NAMED if name in SHIPPED])
def test_a_row_runs_what_its_name_says(name):
    for row in SHIPPED[name].rows:
        typed = dict(text.split("=", 1) for text in row.overrides)
        if row.overrides:
            assert (typed["student"], typed.get("teacher", "")) == (row.student, row.teacher), row.name
        assert name not in WITHOUT_FIGURES or row.published.top1 is row.published.ensemble is None, row.name
