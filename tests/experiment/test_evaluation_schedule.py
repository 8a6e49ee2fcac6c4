"""Evaluating less often changes what is known of a run, not the run."""

from dataclasses import replace


def evaluated(run) -> list[int]:
    return [row["epoch"] for row in run.rows() if "test" in row]


def test_the_weights_are_the_same_however_often_it_is_evaluated(lab):
    plain = lab.plain(dataset=replace(lab.dataset, val_fraction=0.2))
    whole = lab.execute(plain)
    tops = {row["epoch"]: row["test"]["top1"] for row in whole.run.rows()}
    assert evaluated(whole.run) == [1, 2, 3]
    for every, epochs in ((2, [2, 3]), (3, [3]), (None, [3])):
        seldom = lab.execute(replace(plain, recipe=replace(lab.recipe, evaluate_every=every)))
        assert seldom.result["student"]["weights_sha256"] == whole.result["student"]["weights_sha256"]
        assert evaluated(seldom.run) == epochs
        assert [row["train"] for row in seldom.run.rows()] == [row["train"] for row in whole.run.rows()]
        assert seldom.result["test"]["last"] == whole.result["test"]["last"]
        assert seldom.result["test"]["best"]["epoch"] == max(epochs, key=tops.get)
        assert seldom.result["val"]["selected"]["epoch"] in epochs


def test_peers_are_evaluated_with_the_student(lab):
    spec = lab.every("dml")
    outcome = lab.execute(replace(spec, recipe=replace(spec.recipe, evaluate_every=None)))
    assert ["peers" in row for row in outcome.run.rows()] == [False, False, True]
    assert outcome.result["peers"]


def test_a_longer_run_takes_over_only_what_it_would_have_evaluated_too(lab):
    recipe = replace(lab.recipe, evaluate_every=2)
    alone = lab.execute(lab.plain(recipe=recipe), place="alone")
    lab.execute(lab.plain(recipe=recipe, stop_epoch=1))
    again = lab.execute(lab.plain(recipe=recipe))
    assert again.run.rows() == alone.run.rows()
    assert evaluated(again.run) == [2, 3]
