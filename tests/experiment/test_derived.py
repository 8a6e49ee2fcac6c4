"""Figures computed from finished runs, against numpy on what the exported weights answer."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdrun.experiment.build import build_student
from kdrun.experiment.datasets import prepare_splits
from kdrun.experiment.derived import Ensemble, compute, kept
from kdrun.experiment.runtime import Runtime
from kdrun.files import DamagedError
from kdrun.store.store import Store

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lab(shared_lab):
    return shared_lab


@pytest.fixture(scope="module")
def specs(lab):
    """Three finished runs that differ in their seed."""
    asked = tuple(lab.plain("cnn", seed=seed) for seed in (0, 1, 2))
    for spec in asked:
        lab.execute(spec)
    return asked


def answers(lab, spec, split="test") -> tuple[np.ndarray, np.ndarray]:
    """Logits in float64, and labels, of the network in a run's exported file."""
    images = getattr(prepare_splits(spec.dataset, Runtime(device=CPU, data_root=lab.root, output_root=lab.root)), split)
    network = build_student(spec.student, spec.dataset)
    network.load_state_dict(load_file(lab.run(spec).weights))
    with torch.no_grad():
        logits = network.eval()(images.batch(torch.arange(len(images))))
    return logits.numpy().astype(np.float64), images.labels.numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def agrees(found: dict, probs: np.ndarray, labels: np.ndarray) -> None:
    last, wrong = found["test"]["last"], probs.argmax(axis=1) != labels
    assert last["top1"] == pytest.approx(100 * (1 - wrong.mean()), rel=1e-12)
    assert last["nll"] == pytest.approx(-np.log(probs[np.arange(len(labels)), labels]).mean(), rel=1e-5)
    assert last["confidence"] == pytest.approx(probs.max(axis=1).mean(), rel=1e-5)
    assert found["class_errors"] == [int((wrong & (labels == name)).sum()) for name in range(probs.shape[1])]


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_an_ensemble_is_the_mean_of_probabilities(lab, specs, mean):
    probs = np.stack([softmax(answers(lab, spec)[0]) for spec in specs])
    expected = probs.mean(axis=0)
    if mean == "geometric":
        product = probs.prod(axis=0) ** (1 / 3)
        expected = product / product.sum(axis=1, keepdims=True)
    agrees(compute(Ensemble(specs, mean=mean), lab.runner()), expected, answers(lab, specs[0])[1])


def test_it_is_kept_for_these_runs_in_any_order_and_for_no_others(lab, specs, monkeypatch):
    specs, store = specs[:2], lab.runner().store
    assert kept(store, Ensemble(specs)) is None
    found = compute(Ensemble(specs), lab.runner())
    assert json.dumps(kept(store, Ensemble(specs[::-1]))) == json.dumps(found)
    assert kept(store, Ensemble(specs[1:])) is None
    assert kept(store, Ensemble(specs, mean="geometric")) is None
    monkeypatch.setattr(Ensemble, "compute", None)
    assert compute(Ensemble(specs), lab.runner()) == found, "nothing is computed twice"


def test_published_figures_are_found_where_there_are_no_own(lab, specs):
    compute(Ensemble(specs), lab.runner())
    elsewhere = lab.root / "elsewhere"
    assert kept(Store(elsewhere, lab.root / "outputs"), Ensemble(specs)) is not None
    assert kept(Store(elsewhere), Ensemble(specs)) is None


def test_a_damaged_record_is_told(lab, specs):
    derived = Ensemble(specs[2:])
    compute(derived, lab.runner())
    path = lab.runner().store.derived(derived.key)
    path.write_text(path.read_text().replace('"class_errors"', '"class_errorz"'))
    with pytest.raises(DamagedError, match=f"{derived.key}.json is not whole.*move it away"):
        compute(derived, lab.runner())


def test_runs_of_different_data_are_no_ensemble(lab):
    other = dataclasses.replace(lab.dataset, identity="another")
    with pytest.raises(ValueError, match="must be of one dataset"):
        Ensemble((lab.plain(), lab.plain(dataset=other)))


def test_options_at_their_default_leave_keys_as_they_are(lab):
    """Keys are those of files that have been computed."""
    spec = lab.plain()
    assert Ensemble((spec,)).identity == {"kind": "ensemble", "options": {}, "run_ids": [spec.run_id]}
    assert Ensemble((spec,)).key == Ensemble((spec,), mean="arithmetic").key != Ensemble((spec,), mean="geometric").key
