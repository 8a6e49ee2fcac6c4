"""Published figures that are of another setting than the rows they stand in: the facts, table by table."""

import pytest

from kdrun.config.table import load_table, shipped_tables
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


@pytest.mark.parametrize("name", sorted(WHOLE.keys() & shipped_tables()))
def test_every_figure_of_a_table_that_departs_is_of_another_setting(name):
    published = [row for row in load_table(name).rows if row.published != Published()]
    assert published
    for row in published:
        assert WHOLE[name] in row.departs, row.name
