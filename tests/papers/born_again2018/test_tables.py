"""The table of born-again networks (Furlanello 2018)."""

from kdrun.config.table import compose_table, load_table


def test_a_generation_is_taught_by_the_row_before_it():
    table = compose_table(load_table("born_again"), (), num_seeds=1)
    rows = {entry.row.name: entry.specs for entry in table.entries}
    chain = [rows[f"resnet20/{kind}"][0] for kind in ("ce", "ban1", "ban2", "ban3")]
    assert [teacher.run_id for spec in chain[1:] for teacher in spec.teachers] == [spec.run_id for spec in chain[:-1]]
