"""Several runs as one: the mean of their probabilities."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from kdrun.experiment.build import build_student
from kdrun.experiment.ensemble import ensemble, kept_ensemble
from kdrun.experiment.resident import load_resident

CPU = torch.device("cpu")


@pytest.fixture
def runs(lab):
    return [lab.execute(dataclasses.replace(lab.plain("cnn"), seed=seed)).run for seed in (0, 1, 2)]


def test_it_is_the_mean_of_probabilities_and_not_of_logits(lab, runs):
    test = load_resident(lab.dataset, lab.root, CPU).test
    probs = []
    for run in runs:
        network = build_student(run.spec.student, run.spec.dataset)
        network.load_state_dict(load_file(run.weights))
        with torch.no_grad():
            probs.append(network.eval()(test.batch(torch.arange(len(test)))).double().softmax(dim=1))
    mean = sum(probs) / len(probs)
    found = ensemble(lab.root / "outputs", runs, test, CPU)
    assert found["top1"] == 100 * (mean.argmax(dim=1) == test.labels).double().mean().item()
    assert found["nll"] == pytest.approx(-mean.gather(1, test.labels[:, None]).log().mean().item(), rel=1e-5)
    assert found["confidence"] == pytest.approx(mean.amax(dim=1).mean().item(), rel=1e-6)


def test_it_is_kept_for_these_runs_in_any_order_and_for_no_others(lab, runs):
    root = lab.root / "outputs"
    assert kept_ensemble(root, runs) is None
    found = ensemble(root, runs, load_resident(lab.dataset, lab.root, CPU).test, CPU)
    assert json.dumps(kept_ensemble(root, runs[::-1])) == json.dumps(found)
    assert kept_ensemble(root, runs[:2]) is None
