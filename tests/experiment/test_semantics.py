"""Results of an older semantics: their specs keep their ids, and their figures are shown, labelled."""

import json

import pytest

from kdrun.spec.spec import SEMANTICS, Spec
from kdrun.store.store import Store

DIGITS = {
    "identity": "sha256:aff69f55b11298dd7d69adf6f09cf01788b8d420dc1700a12bf39b3feb832dcc",
    **{"image_size": 8, "in_channels": 1, "mean": [0.3058], "num_classes": 10, "std": [0.3759]},
    **{"target": "kdrun.data.digits", "test_size": 360, "train_size": 1437},
}
CIFAR100 = {
    **{"identity": "md5:eb9058c3a382ffc7106e4002c42a8d85", "image_size": 32, "in_channels": 3, "num_classes": 100},
    "mean": [0.5070751592, 0.4865488733, 0.4409178434],
    "std": [0.2673342859, 0.2564384629, 0.2761504713],
    **{"target": "kdrun.data.cifar100", "test_size": 10000, "train_size": 50000},
}
RECIPE = {"augmentation": {"crop_padding": 4, "flip": True, "rotation": 15.0}}
OLD = {
    "53d3521034": {
        "dataset": DIGITS,
        "method": {"target": "kdrun.methods.TfKDReg"},
        "recipe": {"augmentation": {"crop_padding": 1, "rotation": 10.0}, "batch_size": 64, "epochs": 20},
        **{"semantics": 1, "student": {"target": "kdrun.models.mobilenetv2"}},
    },
    "d333f295ba": {
        **{"dataset": CIFAR100, "method": {"target": "kdrun.methods.KD"}, "recipe": RECIPE},
        **{"semantics": 1, "student": {"target": "kdrun.models.mobilenetv2"}},
        "teachers": [
            {
                **{"dataset": CIFAR100, "method": {"target": "kdrun.methods.CE"}, "recipe": RECIPE},
                **{"semantics": 1, "student": {"target": "kdrun.models.resnet18"}},
            }
        ],
    },
}
"""By run_id, `spec.json` as kdrun wrote it under semantics 1."""


@pytest.mark.parametrize("run_id", OLD)
def test_a_spec_of_semantics_1_keeps_its_id(run_id):
    spec = Spec.from_canonical(json.loads(json.dumps(OLD[run_id])))
    assert spec.run_id == run_id
    assert spec.canonical() == OLD[run_id]
    now = spec.at_semantics(SEMANTICS)
    assert [each.semantics for each in (now, *now.all_teachers())] == [SEMANTICS] * (1 + len(spec.teachers))
    assert now.run_id != run_id
    assert now.at_semantics(1) == spec


def test_a_run_is_trained_anew_and_the_older_result_is_told(lab, caplog):
    caplog.set_level("INFO", logger="kdrun")
    spec = lab.plain(method=lab.by("TfKDReg"))
    older = lab.execute(spec.at_semantics(1)).run
    record = older.result()
    record["method"] |= {"multiplier": 1.0, "variant": "paper"}  # the defaults of semantics 1
    older.write_result(record, older.rows())
    caplog.clear()
    outcome = lab.execute(spec)
    assert not outcome.reused
    assert outcome.run.directory != older.directory
    (told,) = [line for line in caplog.messages if "semantics" in line]
    assert f"a result of semantics 1, {record['test']['last']['top1']:.2f} % top-1, is in {older.directory};" in told
    assert "trained anew under semantics 2 (method.multiplier was 1.0, is None; method.variant was paper, is" in told
    caplog.clear()
    assert lab.execute(spec).reused
    assert not [line for line in caplog.messages if "semantics" in line]
    found = {run.spec.semantics for run in Store(lab.root / "outputs").runs() if not isinstance(run, Exception)}
    assert found == {1, 2}


def test_a_damaged_older_result_stops_no_run(lab, caplog):
    spec = lab.plain()
    lab.execute(spec.at_semantics(1)).run.result_path.write_text("{}")
    assert not lab.execute(spec).reused
    assert "; it is of an older semantics" in caplog.text
