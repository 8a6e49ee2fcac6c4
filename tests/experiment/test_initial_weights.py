"""Runs that begin with another run's weights, specialists among them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrun.experiment.initial_weights import regrouped
from kdrun.spec.spec import Spec
from kdrun.store.checkpoint import read_weights


def weights(run) -> dict[str, torch.Tensor]:
    return read_weights(run.weights)[0]


def test_a_run_that_trains_nothing_is_where_it_starts(lab):
    first = lab.plain()
    spec = lab.plain(seed=5, start=first, stop_epoch=0)
    assert Spec.from_canonical(spec.canonical()) == spec
    outcome = lab.execute(spec)
    began, ended = weights(lab.runner().store.run(first)), weights(outcome.run)
    assert all(torch.equal(began[name], ended[name]) for name in began)
    assert outcome.result["student"]["probe_top1"] == lab.runner().store.run(first).result()["student"]["probe_top1"]


def test_it_goes_on_from_there_and_resumes_to_the_same_bits(lab, interrupted):
    spec = lab.plain(seed=5, start=lab.plain())
    whole, alone = lab.execute(spec), lab.execute(lab.plain(seed=5))
    assert whole.result["student"]["weights_sha256"] != alone.result["student"]["weights_sha256"]
    lab.execute(spec.start, "again")
    assert len(interrupted(spec, "again", epochs=1).rows()) == 1
    assert lab.bits(lab.execute(spec, "again").run) == lab.bits(whole.run)


def test_what_it_starts_from_failing_is_told(lab):
    bad = lab.plain(recipe=replace(lab.recipe, lr=1e9))
    with pytest.raises(RuntimeError, match="where it starts, failed: DivergedError"):
        lab.execute(lab.plain(seed=5, start=bad))


def test_a_last_layer_is_regrouped_by_classes():
    weight, bias = torch.randn(5, 3), torch.randn(5)
    ours = ((1,), (3,), (0, 2, 4))
    singles = tuple((label,) for label in range(5))
    got = regrouped(weight, singles, ours).numpy()
    rest = weight.numpy()[[0, 2, 4]].mean(axis=0)
    np.testing.assert_allclose(got, np.stack([weight.numpy()[1], weight.numpy()[3], rest]), rtol=1e-6)
    biases = bias.numpy()
    expected = [biases[1], biases[3], biases[[0, 2, 4]].mean() + math.log(3)]
    np.testing.assert_allclose(regrouped(bias, singles, ours).numpy(), expected, rtol=1e-6)
    # where the logits of the rest are equal, the probabilities are those of the classes together
    logits = torch.tensor([1.0, 2.0, 1.0, -1.0, 1.0])
    together = torch.stack([logits.softmax(0)[list(classes)].sum() for classes in ours])
    torch.testing.assert_close(regrouped(logits, singles, ours).softmax(0), together)


def test_a_specialist_begins_with_its_generalist_and_tells_its_classes_and_the_rest(lab):
    generalist = lab.plain("cnn")
    special = replace(lab.dataset, special=(2,))
    begun = lab.execute(lab.plain("cnn", dataset=special, start=generalist, stop_epoch=0))
    known, own = weights(lab.runner().store.run(generalist)), weights(begun.run)
    weight, bias = "classifier.weight", "classifier.bias"
    torch.testing.assert_close(own[weight], torch.stack([known[weight][2], known[weight][[0, 1, 3]].mean(0)]))
    # Of 66 images 16 are of class 2, and of the other 50 it trains on 16: log 3 of them, log 50/16 too many.
    dustbin = known[bias][[0, 1, 3]].mean(0) + math.log(3) - math.log(50 / 16)
    torch.testing.assert_close(own[bias], torch.stack([known[bias][2], dustbin]))
    assert all(torch.equal(own[name], known[name]) for name in known if not name.startswith("classifier"))
    trained = lab.execute(lab.plain("cnn", dataset=special, start=generalist))
    assert weights(trained.run)[weight].shape[0] == 2
    assert trained.result["student"]["weights_sha256"] != begun.result["student"]["weights_sha256"]


def test_a_run_without_a_dustbin_has_all_classes_at_the_prior_of_its_images(lab):
    special = replace(lab.dataset, special=(2,), dustbin=False)
    own = weights(lab.execute(lab.plain("cnn", dataset=special, start=lab.plain("cnn"), stop_epoch=0)).run)
    began = weights(lab.runner().store.run(lab.plain("cnn")))
    bias = "classifier.bias"
    torch.testing.assert_close(own.pop(bias) - began[bias], torch.tensor([1, 1, 0, 1]) * -math.log(50 / 16))
    assert all(torch.equal(tensor, began[name]) for name, tensor in own.items())


def test_a_dustbin_for_one_class_moves_it_to_the_end(lab):
    generalist = lab.plain("cnn")
    special = replace(lab.dataset, special=(1, 2, 3))  # the rest is fewer images: all of them are trained on
    begun = lab.execute(lab.plain("cnn", dataset=special, start=generalist, stop_epoch=0))
    known = weights(lab.runner().store.run(generalist))
    for name in ("classifier.weight", "classifier.bias"):
        torch.testing.assert_close(weights(begun.run)[name], known[name][[1, 2, 3, 0]])
