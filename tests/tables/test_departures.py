"""Published figures that are of another setting than the rows they stand in: the facts, table by table."""

import pytest

from kdrun.config.table import load_table
from kdrun.tables import Published

WHOLE = {
    "fsp_t2": "stem",  # resnet32x4 begins with 32 channels, four times ResNet-32 with 64
    "fsp_t4": "four times the channels",
    "ls_teacher": "student",  # not known
    "tfkd_t10": "64x64",
    "tfkd_t2": "CIFAR-10",  # no configuration is released
    "tfkd_t3": "64x64",
    "tfkd_t4_tiny": "64x64",
    "tfkd_t6": "64x64",
}
"""All published figures of a table, with what is said of it."""

ROWS = {
    **{
        name: dict.fromkeys(rows.split(), "three sections")  # RepDistiller's pairs of consecutive maps
        for name, rows in {
            "fsp_t1": "resnet26/fsp_short/resnet26 resnet26/fsp_short_shuffled/resnet26",
            "fsp_t2": "resnet32x4/fsp_short/resnet32x4",
            "fsp_t3": "resnet8/fsp/resnet26",
            "fsp_t4": "resnet14/fsp/resnet32",
        }.items()
    },
    "tfkd_t1": {
        "mobilenetv2/kd/resnet50": "no configuration",
        "resnext29_8x64d/re_kd/resnet18": "MobileNetV2",  # the released configuration's teacher
    },
    "tfkd_t4": {"mobilenetv2/de_kd/resnet50@0.25": "no configuration"},
    "tfkd_t5": {
        "googlenet/kd/resnext29_8x64d": "no configuration",
        "densenet121/kd/resnext29_8x64d": "no configuration",
    },
    "tfkd_t9": {"googlenet/kd/resnext29_8x64d": "no configuration"},
}
"""Single rows, beside what holds for their whole table."""


@pytest.mark.parametrize("name", WHOLE)
def test_every_figure_of_a_table_that_departs_is_of_another_setting(name):
    published = [row for row in load_table(name).rows if row.published != Published()]
    assert published
    for row in published:
        assert WHOLE[name] in row.departs, row.name


@pytest.mark.parametrize("name", ROWS)
def test_single_rows_say_what_they_depart_in(name):
    rows = {row.name: row for row in load_table(name).rows}
    for row, word in ROWS[name].items():
        assert word in rows[row].departs
    if name not in WHOLE:
        assert {row.name for row in rows.values() if row.departs} == set(ROWS[name])


def test_a_table_that_only_collects_rows_has_nothing_that_departs():
    assert not any(row.departs for row in load_table("tfkd_controls").rows)
