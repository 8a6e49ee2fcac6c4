"""A sum of terms is one run, however its terms are written, and its result says what they were."""

import pytest

from kdrun.store.result import describe

SAME = [
    "method.terms.at.weight=1000",
    "method.terms.kd={weight: 1}",
    "method.terms={at: {}, kd: {weight: 1.0}}",
    "method.terms={kd: {weight: 1, temperature: 4, standardize: false}, at: {weight: null, student_taps: null}}",
    "method.terms.rkd=null",
]
OTHERS = ["method.terms.kd.weight=0.9", "method.terms.kd.temperature=2", "method.terms.rkd={}", "method.terms.at=null"]


def test_spellings_of_one_sum_are_one_run(job):
    assert {job("method=sum", text).spec.run_id for text in SAME} == {job("method=sum").spec.run_id}
    assert len({job("method=sum", text).spec.run_id for text in OTHERS}) == len(OTHERS)


@pytest.mark.parametrize("weight", ["0.9", "null"])
def test_a_weight_that_the_method_has_alone_is_left_out(job, weight):
    spec = job("method=sum", f"method.terms.kd.weight={weight}").spec
    assert spec.method.options == {"terms": {"at": {}, "kd": {}}}


def test_the_result_has_every_term_with_its_weight_and_options(job):
    found = describe(job("method=sum", "method.terms={at: {}, kd: {temperature: 2}}").spec, [])["method"]
    assert found == {
        "name": "sum",
        "hard_weight": 1.0,
        "terms": {
            "at": {"weight": 1000.0, "variant": "released", "student_taps": None, "teacher_taps": None},
            "kd": {"weight": 0.9, "temperature": 2.0, "kl_reduction": "batchmean", "standardize": False},
        },
    }
