"""The table of born-again networks (Furlanello 2018)."""

from tests.papers.shipped import composed


def test_a_generation_is_taught_by_the_row_before_it():
    rows = composed("born_again")
    chain = [rows[f"resnet20/{kind}"][0] for kind in ("ce", "ban1", "ban2", "ban3")]
    assert [teacher.run_id for spec in chain[1:] for teacher in spec.teachers] == [spec.run_id for spec in chain[:-1]]
