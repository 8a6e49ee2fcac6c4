"""The table of the label-smoothed teacher (Tang 2020)."""

from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.preflight import check_job
from tests.papers.shipped import composed, printed

# Top-1 of teacher, KD, KD-pt and KD-sim, without and with label smoothing of the teacher.
TANG = [(75.39, 76.00, 74.81, 74.40), (76.69, 75.02, 74.13, 74.01)]


def test_label_smoothed_teachers_carry_what_the_paper_prints():
    found = printed("ls_teacher")
    assert found.pop("resnet20/ce") == found.pop("resnet20/kd_sim_equal/resnet56") == (None, None)
    for (teacher, *taught), own, ending in zip(TANG, ("ce", "lsr"), ("", "_ls"), strict=True):
        assert found.pop(f"resnet56/{own}") == (teacher, None)
        for kind, top1 in zip(("kd", "kd_pt", "kd_sim"), taught, strict=True):
            assert found.pop(f"resnet20/{kind}{ending}/resnet56") == (top1, None)
    assert not found


def test_the_experiment_is_a_row_of_the_table():
    problems = []
    with hydra_session():
        job = check_job(compose_job(["experiment=ls_teacher"], problems), [])
    assert not problems
    assert (job.spec,) == composed("ls_teacher", patterns=("resnet20/kd_ls/resnet56",))["resnet20/kd_ls/resnet56"]
