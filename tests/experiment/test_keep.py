"""What a finished run keeps of its training, and for whom."""

from dataclasses import replace

import pytest

from kdrun.experiment.attempt import Request
from kdrun.store.run import Run


def checkpoints(run) -> list[str]:
    return sorted(path.name for path in (run.directory / "checkpoints").iterdir())


@pytest.mark.parametrize(("keep", "kept"), [("weights", []), ("all", ["best.pt", "last.pt"])])
def test_a_finished_run_keeps_its_weights_and_on_request_its_checkpoints(lab, keep, kept):
    run = lab.execute(lab.taught(), keep=keep).run
    for each in (run, lab.run(lab.teacher)):
        assert checkpoints(each) == kept
        assert each.weights_problem() is None


def test_what_a_run_of_the_same_command_continues_from_is_kept_until_then(lab, trained):
    """De-KD and KD: the whole training of the teacher continues from the one that was stopped."""
    stopped = replace(lab.teacher, stop_epoch=1)
    specs = [lab.taught(teacher=stopped), lab.taught()]
    runner = lab.runner(keep="weights")
    found = {}
    for request, outcome in runner.execute_all([Request(spec) for spec in specs]):
        found[request.spec.run_id] = outcome
        if request.spec == specs[0]:
            assert checkpoints(lab.run(stopped)) == ["best.pt", "last.pt"]
    assert checkpoints(lab.run(stopped)) == checkpoints(lab.run(lab.teacher)) == []
    alone = lab.execute(specs[1], "alone").run
    assert lab.bits(found[specs[1].run_id].run) == lab.bits(alone)
    assert lab.run(lab.teacher).result()["train"]["seconds"] > 0


def test_an_interrupted_run_keeps_what_it_resumes_from(lab, interrupted):
    run = interrupted(lab.plain())
    assert checkpoints(run) == ["best.pt", "last.pt", "previous.pt"]
    lab.execute(lab.plain(), keep="weights")
    assert checkpoints(run) == []


def test_checkpoints_that_another_command_drops_meanwhile_are_not_needed(lab, monkeypatch, caplog):
    beginning = lab.execute(lab.plain(stop_epoch=1)).run
    whole = lab.execute(lab.plain(), "whole").run
    begin_with = Run.begin_with

    def dropped(self, other):
        other.drop_checkpoints()
        begin_with(self, other)

    monkeypatch.setattr(Run, "begin_with", dropped)
    assert lab.bits(lab.execute(lab.plain()).run) == lab.bits(whole)
    assert f"{beginning.best_checkpoint}'; trains from the start" in caplog.text
