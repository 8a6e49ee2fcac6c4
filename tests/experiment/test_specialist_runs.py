"""A generalist and its specialists, trained and asked: their joint answer against the paper's objective, descended."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrun.experiment.dataset_spec import ImageDatasetSpec
from kdrun.experiment.derived import Specialists, compute, kept
from kdrun.experiment.spec import Spec
from kdrun.specialists import class_sets

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
    datasets = [replace(SIX, special=tuple(classes)) for classes in sets]
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


def descended(general: np.ndarray, answers, sets, asked) -> np.ndarray:
    """The q of least `KL(p_g, q) + sum KL(p_m, q)` over the specialists that are asked, from q = p_g downhill."""
    p_g, answers, asked = torch.from_numpy(general), [torch.from_numpy(p) for p in answers], torch.from_numpy(asked)
    z = p_g.log().clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [z],
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=1e-15,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        solver.zero_grad()
        q = z.softmax(dim=1)
        total = (p_g * (p_g / q).log()).sum()
        for p_m, classes, active in zip(answers, sets, asked.T, strict=True):
            dustbin = q[:, [label for label in range(6) if label not in classes]].sum(dim=1, keepdim=True)
            theirs = torch.cat([q[:, list(classes)], dustbin], dim=1)
            total = total + ((p_m * (p_m / theirs).log()).sum(dim=1) * active).sum()
        total.backward()
        return total

    solver.step(objective)
    return z.detach().softmax(dim=1).numpy()


def accuracy(right: np.ndarray) -> float:
    return 100 * right.mean()


def agrees(found, general, answers, num_top) -> None:
    """What was found against probabilities on the test set that were worked out here."""
    sets = found["sets"]
    likeliest = np.argsort(-general, axis=1)[:, :num_top]
    asked = np.array([[bool(set(classes) & set(top)) for classes in sets] for top in likeliest.tolist()])
    q = descended(general, answers, sets, asked)
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
    asked = [
        replace(spec, dataset=replace(spec.dataset, dustbin=False), method=method, teachers=(generalist,))
        for spec in members(generalist, found["sets"], 1, 0.1 * 0.4)
    ]
    assert found["specialists"] == [spec.run_id for spec in asked]
    logits = [lab.runner().logits(spec)[0] for spec in asked]
    assert {tuple(each.shape) for each in logits} == {(90, 6)}
    answers = [answer(each, spec.dataset.special) for each, spec in zip(logits, asked, strict=True)]
    agrees(found, probabilities(lab, generalist), answers, 1)


def test_what_is_kept_or_trained_is_not_trained_again(lab, generalist, trained):
    derived = Specialists((generalist,))
    found = compute(derived, lab.runner())
    assert trained == ["ce"] * len(found["sets"])
    trained.clear()
    assert compute(derived, lab.runner()) == kept(lab.runner().store, derived) == found
    lab.runner().store.derived(derived.key).unlink()
    assert compute(derived, lab.runner())["test"] == found["test"]
    compute(Specialists((generalist,), num_top=2), lab.runner())
    assert trained == [], "the same specialists, asked differently"


def test_options_that_do_not_fit_are_refused_all_at_once(lab):
    spec = lab.plain("cnn", dataset=SIX)
    lines = {
        "num_sets=7: must be null, or from 1 to 6, the number of classes",
        "size=1: must be null, or more than 0 and less than 1",
        "epochs=0: must be more than 0",
        "lr=-0.1: must be more than 0",
        "num_top=7: must be from 1 to 6, the number of classes",
        "soft_targets=0: must be null or more than 0, a temperature",
    }
    with pytest.raises(ValueError, match="num_sets") as refused:
        Specialists((spec,), num_sets=7, size=1, epochs=0, lr=-0.1, num_top=7, soft_targets=0)
    assert set(str(refused.value).splitlines()) == lines
    for options in ({"num_sets": 0}, {"num_top": 0}, {"size": 0.0}, {"epochs": math.nan}):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}=.*: must be [^\n]*$"):
            Specialists((spec,), **options)
