"""A generalist and its specialists, trained: which runs they are, and their joint prediction on the test images."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrun.experiment.derived import compute, kept
from kdrun.losses import soft_target_loss
from kdrun.papers.hinton2015 import specialists as module
from kdrun.papers.hinton2015.joint_prediction import class_sets, combined
from kdrun.papers.hinton2015.specialists import Specialists
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Spec

SIX = ImageDatasetSpec("kdrun.data.synthetic", "none", 6, 1, 8, 122, 90, (0.5,), (0.25,))
"""Six classes of 21, 21, 20, 20, 20 and 20 training images."""
SIZES = np.array([21, 21, 20, 20, 20, 20])
LABELS = np.arange(90) % 6
"""Of the test images: the classes take turns."""


@pytest.fixture
def generalist(lab):
    """A finished run that confuses classes."""
    spec = lab.plain("cnn", dataset=SIX, recipe=replace(lab.recipe, epochs=2), seed=4)
    lab.execute(spec)
    return spec


def members(generalist: Spec, sets, epochs: int, lr: float) -> list[Spec]:
    """The specialists' runs, by hand."""
    recipe = replace(generalist.recipe, epochs=epochs, lr=lr, warmup_epochs=0)
    datasets = [replace(SIX, special=tuple(classes), special_seed=generalist.seed) for classes in sets]
    return [replace(generalist, dataset=dataset, recipe=recipe, start=generalist) for dataset in datasets]


def answer(logits: torch.Tensor, classes) -> np.ndarray:
    """A specialist's probabilities of its classes and of the rest: of the rest it saw as many as of its own."""
    weights = np.exp(logits.double().numpy())
    if weights.shape[1] == 6:
        rest = [label for label in range(6) if label not in classes]
        weights = np.concatenate([weights[:, list(classes)], weights[:, rest].sum(axis=1, keepdims=True)], axis=1)
    own = SIZES[list(classes)].sum()
    weights[:, -1] *= (122 - own) / min(own, 122 - own)
    return weights / weights.sum(axis=1, keepdims=True)


def accuracy(right: np.ndarray) -> float:
    return 100 * right.mean()


def agrees(found, general, answers, num_top) -> None:
    """What was found against probabilities on the test set that were worked out here."""
    sets = found["sets"]
    likeliest = np.argsort(-general, axis=1)[:, :num_top]
    asked = np.array([[bool(set(classes) & set(top)) for classes in sets] for top in likeliest.tolist()])
    tensors = [torch.from_numpy(probabilities).log() for probabilities in (general, *answers)]
    q = combined(tensors[0], tensors[1:], sets, torch.from_numpy(asked)).log_q.exp().numpy()
    last, wrong = found["test"]["last"], q.argmax(axis=1) != LABELS
    assert last["nll"] == pytest.approx(-np.log(q[np.arange(90), LABELS]).mean(), rel=1e-5)
    assert last["top1"] == pytest.approx(accuracy(~wrong))
    assert found["class_errors"] == [int((wrong & (label == LABELS)).sum()) for label in range(6)]
    special = sorted({label for classes in sets for label in classes})
    chosen = np.isin(LABELS, special)
    alone, together = (np.array(special)[p[:, special].argmax(axis=1)][chosen] == LABELS[chosen] for p in (general, q))
    expected = {"conditional": accuracy(together), "generalist's": accuracy(alone), "specialists": len(sets)}
    assert found["figures"] == pytest.approx(expected)
    cover = np.array([sum(label in classes for classes in sets) for label in range(6)])[LABELS]
    assert found["cover"] == [
        {
            "num_specialists": number,
            "num_images": int((cover == number).sum()),
            "num_correct_generalist": int(((general.argmax(axis=1) == LABELS) & (cover == number)).sum()),
            "num_correct_combined": int((~wrong & (cover == number)).sum()),
        }
        for number in sorted(set(cover.tolist()))
    ]
    assert sum(row["num_images"] for row in found["cover"]) == 90
    assert abs(last["nll"] + np.log(general[np.arange(90), LABELS]).mean()) > 1e-3, "specialists have a say"


def probabilities(lab, spec, split="test") -> np.ndarray:
    weights = np.exp(lab.runner().logits(spec, split)[0].double().numpy())
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("options", "size", "epochs", "lr"),
    [({}, None, 1, 0.1 * 0.4), ({"size": 0.34, "num_sets": 4, "num_top": 2, "epochs": 0.5, "lr": 0.25}, 2, 1, 0.1)],
)
def test_specialists_begin_with_the_generalist_and_answer_with_it(lab, generalist, options, size, epochs, lr):
    found = compute(Specialists((generalist,), **options), lab.runner())
    predictions = torch.from_numpy(probabilities(lab, generalist, "train"))
    sets = class_sets(predictions, options.get("num_sets", 3), size=size, seed=4)
    assert [tuple(classes) for classes in found["sets"]] == list(sets)
    asked = members(generalist, sets, epochs, lr)
    assert found["specialists"] == [spec.run_id for spec in asked]
    assert all(lab.run(spec).finished for spec in asked)
    runner = lab.runner()
    answers = [answer(runner.logits(spec)[0], spec.dataset.special) for spec in asked]
    agrees(found, probabilities(lab, generalist), answers, options.get("num_top", 1))


def test_with_soft_targets_they_keep_all_classes_and_learn_from_the_generalist(lab, generalist):
    found = compute(Specialists((generalist,), size=0.34, soft_targets=4.0), lab.runner())
    method = lab.by("KD", temperature=4.0, alpha=0.5)
    alone = [
        replace(spec, dataset=replace(spec.dataset, dustbin=False))
        for spec in members(generalist, found["sets"], 1, 0.1 * 0.4)
    ]
    asked = [replace(spec, method=method, teachers=(replace(spec, stop_epoch=0),)) for spec in alone]
    assert found["specialists"] == [spec.run_id for spec in asked]
    logits = [lab.runner().logits(spec)[0] for spec in asked]
    assert {tuple(each.shape) for each in logits} == {(90, 6)}
    answers = [answer(each, spec.dataset.special) for each, spec in zip(logits, asked, strict=True)]
    agrees(found, probabilities(lab, generalist), answers, 1)


@pytest.mark.parametrize("dustbin", [True, False])
def test_an_untrained_specialist_answers_as_its_generalist(lab, generalist, dustbin):
    """Corrected: with all the classes in every probability; with a dustbin in all but this, as far as it is linear."""
    (spec,) = members(generalist, [(4, 1)], 1, 0.1)
    spec = replace(spec, dataset=replace(spec.dataset, dustbin=dustbin), stop_epoch=0)
    lab.execute(spec)
    logits = lab.runner().logits(generalist)[0].double().numpy()
    rest = logits[:, [0, 2, 3, 5]]
    joint = rest.mean(axis=1) + math.log(4) if dustbin else np.log(np.exp(rest).sum(axis=1))
    expected = np.exp(np.column_stack([logits[:, [4, 1]], joint]))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answer(lab.runner().logits(spec)[0], (4, 1)), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_right_generalist_is_where_labels_and_soft_targets_of_a_specialists_prior_leave_it(temperature):
    """In closed form: the gradients over all images are 0 there, so how long it trains does not matter.

    Eight kinds of images; of 6 classes 4 and 1 are the specialist's, which has a quarter of the others.
    """
    likelihood = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)).double()
    likelihood /= likelihood.sum(dim=0)
    prior = torch.tensor([30.0, 10, 40, 20, 20, 30]).double()
    generalist = (likelihood * prior).log()
    share = torch.tensor([0.25, 1, 0.25, 0.25, 1, 0.25]).double()
    shifted = generalist + share.log()
    seen = prior * share
    weights = likelihood * seen / seen.sum()  # of each kind and class among what the specialist trains on

    def gradients(targets: torch.Tensor) -> list[float]:
        logits = shifted.clone().requires_grad_()
        hard = -(weights * logits.log_softmax(dim=1)).sum()
        soft = sum(
            part * soft_target_loss(row[None], target[None], temperature=temperature)
            for part, row, target in zip(weights.sum(dim=1), logits, targets, strict=True)
        )
        return [torch.autograd.grad(loss, logits)[0].abs().max().item() for loss in (hard, soft)]

    assert max(gradients(shifted)) < 1e-12
    assert gradients(generalist)[1] > 1e-3, "the generalist's own soft targets draw elsewhere"


def test_a_network_whose_last_layer_has_no_bias_has_no_specialists(lab, monkeypatch):
    spec = lab.plain("cnn", dataset=SIX)
    monkeypatch.setattr(module, "last_layer", lambda *_: {"classifier.weight": (6, 32)})
    with pytest.raises(ValueError, match="of: the last layer of cnn has no bias"):
        Specialists((spec,))


def test_what_is_kept_or_trained_is_not_trained_again(lab, generalist, trained):
    joint = Specialists((generalist,))
    found = compute(joint, lab.runner())
    assert trained == ["ce"] * len(found["sets"])
    trained.clear()
    assert compute(joint, lab.runner()) == kept(lab.runner().store, joint) == found
    lab.runner().store.derived(joint.key).unlink()
    assert compute(joint, lab.runner())["test"] == found["test"]
    compute(Specialists((generalist,), num_top=2), lab.runner())
    assert trained == [], "the same specialists, asked differently"


def test_options_that_do_not_fit_are_refused_all_at_once(lab):
    spec = lab.plain("cnn", dataset=SIX)
    faulty = {"num_sets": 7, "size": 1, "epochs": 0, "lr": -0.1, "num_top": 7, "soft_targets": 0}
    with pytest.raises(ValueError, match="num_sets") as refused:
        Specialists((spec,), **faulty)
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
        f"{k}={v}" for k, v in faulty.items()
    ]
    for options in ({"num_sets": 0}, {"num_top": 0}, {"size": 0.0}, {"epochs": math.nan}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}=.*: must be [^\n]*$"):
            Specialists((spec,), **options)
