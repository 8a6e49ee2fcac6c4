"""The similarity of networks, from their exported weights; and the stopped runs that it takes."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdrun.experiment.build import build_student
from kdrun.experiment.datasets import prepare_splits
from kdrun.experiment.derived import compute, kept
from kdrun.experiment.runtime import Runtime
from kdrun.papers.abnar2020.paths import Paths
from kdrun.papers.abnar2020.similarity import cka_matrix, similarity_matrix
from kdrun.seeds import mix, seed_global_generators
from kdrun.spec.dataset import SequenceDatasetSpec
from kdrun.spec.spec import Component, Spec

CPU = torch.device("cpu")
PENULTIMATE = {"mlp": "layer1", "cnn": "hidden"}


@pytest.fixture
def pair(lab):
    """A finished student and its finished teacher, of another architecture; 150 test images."""
    dataset = dataclasses.replace(lab.dataset, test_size=150)
    teacher = lab.plain("cnn", dataset=dataset)
    student = dataclasses.replace(lab.taught("mlp", teacher=teacher), dataset=dataset)
    lab.execute(student)
    return (student, teacher)


def representation(lab, spec: Spec, network: torch.nn.Module | None = None) -> np.ndarray:
    """What the layer before the classifier returns, from the exported weights or from a given network."""
    if network is None:
        network = build_student(spec.student, spec.dataset)
        network.load_state_dict(load_file(lab.run(spec).weights))
    seen = []
    name = PENULTIMATE[spec.student.name]
    network.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(output))
    test = prepare_splits(spec.dataset, Runtime(device=CPU, data_root=lab.root, output_root=lab.root)).test
    with torch.no_grad():
        network.eval()(test.batch(torch.arange(len(test))))
    return seen[0].numpy().astype(np.float64)


def expected(specs, lab, num: int, batch_size: int) -> tuple[float, float]:
    """Similarity and CKA of two networks on the first images."""
    ours = [torch.from_numpy(representation(lab, spec)[:num]) for spec in specs]
    return similarity_matrix(ours, batch_size=batch_size)[0, 1].item(), cka_matrix(ours)[0, 1].item()


def test_the_record_is_that_of_a_direct_computation(lab, pair):
    found = compute(Paths(pair), lab.runner())
    assert found["networks"] == [{"run": i, "epoch": 3, "run_id": spec.run_id} for i, spec in enumerate(pair)]
    assert found["num_examples"] == 150
    similarity, cka = expected(pair, lab, 150, 64)
    assert found["similarity"][0][1] == found["similarity"][1][0] == pytest.approx(similarity, rel=1e-5)
    assert found["cka"][0][1] == pytest.approx(cka, rel=1e-5)
    assert found["kept"] == pytest.approx(1), "two points are on a line"
    (a, b) = np.array(found["coordinates"])
    assert np.linalg.norm(a - b) == pytest.approx(1), "distances are divided by the largest"


def test_checkpoints_are_stopped_runs_which_are_beginnings_of_the_run(lab, pair, caplog):
    caplog.set_level("INFO")
    student, _ = pair
    asked = Paths(pair, epochs=(0, 1, 2, 3, 50))
    found = compute(asked, lab.runner())
    assert [(each["run"], each["epoch"]) for each in found["networks"]] == [(i, e) for i in (0, 1) for e in range(4)]
    stopped = [dataclasses.replace(student, stop_epoch=epoch) for epoch in (0, 1, 2)]
    assert asked.further[:3] == stopped
    assert [each["run_id"] for each in found["networks"][:4]] == [spec.run_id for spec in (*stopped, student)]
    whole = lab.run(student).rows()
    for epoch, spec in enumerate(stopped):
        assert lab.run(spec).rows() == whole[:epoch]
    lab.execute(stopped[2], "elsewhere")
    assert lab.bits(lab.run(stopped[2])) == lab.bits(lab.run(stopped[2], "elsewhere")), "as if it were trained alone"
    assert f"continues from epoch 1 of {lab.run(stopped[1]).directory}" in caplog.text

    seed_global_generators(mix(student.seed, "init"), CPU)
    fresh = representation(lab, student, build_student(student.student, student.dataset))
    both = [torch.from_numpy(each) for each in (fresh, representation(lab, stopped[1]))]
    at_start = similarity_matrix(both)[0, 1].item()
    assert found["similarity"][0][1] == pytest.approx(at_start, rel=1e-5), "epoch 0 is the network as initialised"
    ends = compute(Paths(pair), lab.runner())
    assert found["similarity"][3][7] == pytest.approx(ends["similarity"][0][1], rel=1e-12)


def test_it_is_kept_and_nothing_is_computed_twice(lab, pair, monkeypatch, trained):
    store = lab.runner().store
    asked = Paths(pair, epochs=(1,))
    assert kept(store, asked) is None
    found = compute(asked, lab.runner())
    assert len(trained) == 2, "a stopped run of each"
    assert kept(store, Paths(pair)) is None
    assert kept(store, Paths(pair, epochs=(1, 2))) is None
    compute(Paths(pair, epochs=(1, 2)), lab.runner())
    assert len(trained) == 4, "those of epoch 1 are there"
    monkeypatch.setattr(Paths, "compute", None)
    assert compute(asked, lab.runner()) == found
    assert Paths(pair).options == {}
    assert asked.options == {"epochs": [1]}


def test_options_and_runs_that_do_not_fit_are_refused(lab):
    spec = lab.plain()
    for epochs in ((2, 1), (1, 1), (-1,)):
        with pytest.raises(ValueError, match=r"epochs=\[.*\]: must be whole numbers from 0 .* each once, in order"):
            Paths((spec, lab.teacher), epochs=epochs)
    with pytest.raises(ValueError, match="one network alone"):
        Paths((spec,), epochs=(3,))
    assert len(Paths((spec,), epochs=(2,)).networks) == 2
    other = lab.plain(dataset=dataclasses.replace(lab.dataset, identity="another"))
    with pytest.raises(ValueError, match="must be of one dataset, not of synthetic"):
        Paths((spec, other))


def test_language_models_have_no_vector_to_compare(lab):
    words = SequenceDatasetSpec("kdrun.data.agreement_lm", "none", 9, 9, 5, 20, 10, per_token=True)
    student = Component("kdrun.models.lstm", {"width": 8, "embedding": 8})
    spec = Spec(words, student, lab.by("CE"), lab.recipe)
    with pytest.raises(ValueError, match="rows: lstm has no tap of one vector per image before its logits"):
        Paths((spec,), epochs=(0,))
