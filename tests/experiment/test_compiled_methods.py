"""Methods with taps, compiled, with a teacher of the student's architecture."""

from dataclasses import replace

import pytest
import torch

from kdrun import methods
from kdrun.experiment.build import build_method, offered
from kdrun.training import step

NAMES = list(methods.shipped_methods())


def specs_with_taps(lab, names):
    """One epoch of each of these methods that takes features of the student."""
    recipe = replace(lab.recipe, epochs=1)
    teacher = lab.plain("cnn", seed=1, recipe=recipe)
    found = {}
    for name in names:
        method = lab.every(name, **({"stage1_epochs": 1} if name in ("fitnet", "fsp") else {})).method
        spec = lab.plain("cnn", method=method, recipe=recipe, teachers=(teacher,))
        if name != "weight_distillation":  # generates its student
            built = build_method(method, torch.nn.Identity(), offered(spec, torch.device("cpu")))
            found |= {name: spec} if built.taps else {}
    return found


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("names", [("crd", "fsp"), pytest.param(NAMES, marks=pytest.mark.slow)], ids=["two", "all"])
def test_compiled_runs_end_as_uncompiled_ones(lab, monkeypatch, names):
    """Quickly of a memory and of two stages, slowly of all."""
    monkeypatch.setattr(step, "COMPILER", {"backend": "aot_eager"})
    specs = specs_with_taps(lab, names)
    assert specs.keys() >= ({"at", "crd", "fitnet", "fsp", "rkd", "sp", "sum"} & set(names))
    rows = []
    for place in ("on", "off"):
        ended = lab.execute_all(list(specs.values()), place, compile=place)
        assert all(not isinstance(outcome, Exception) for outcome in ended), ended
        rows.append({outcome.run.spec.method.name: outcome.run.rows() for outcome in ended})
    for name, compiled in rows[0].items():
        for ours, theirs in zip(compiled, rows[1][name], strict=True):
            assert ours["train"] == pytest.approx(theirs["train"], rel=1e-5), name
