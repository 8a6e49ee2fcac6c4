"""Evaluations of Abnar et al. 2020: corrupted images, and the right form of a verb against the wrong one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kdrun import stopping
from kdrun.data import DataError, EncodedSet, Examples, ImageSet, ResidentSequences, SequenceSet, decode_set
from kdrun.experiment.evaluations import Evaluation, OnTestSet
from kdrun.metrics import expected_calibration_error
from kdrun.papers.abnar2020 import corruptions
from kdrun.papers.abnar2020.datasets import left_padded, right_padded
from kdrun.papers.abnar2020.grammar import BALANCED, Question, questions_of, sentences
from kdrun.papers.abnar2020.real_agreement import blimp, blimp_contrasts, linzen
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Spec
from kdrun.training.precision import autocast

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner

NUM_SENTENCES, SEED = 5000, 2
"""Of the generated questions: others than those of training and test."""

LONGEST = 16
"""The D-accuracy is over distances up to it (Abnar et al. 2020)."""

HARD = 2
"""Number of attractors from which recurrent networks and Transformers are expected to differ."""

BATCH_SIZE = 256
LANGUAGE = tuple(f"kdrun.papers.abnar2020.datasets.{name}" for name in ("agreement", "agreement_lm"))


class _Corrupted(OnTestSet):
    """The test images, all changed by a function."""

    of = "images"
    change: Callable[[Tensor], Tensor]

    def fits(self, dataset: DatasetSpec) -> bool:
        return dataset.example == "image"

    def examples(self, test: Examples) -> Examples:
        if isinstance(test, EncodedSet):
            test = decode_set(test)
        assert isinstance(test, ImageSet), "the dataset fits"
        return ImageSet(self.change(test.images), test.labels)


class Translate(_Corrupted):
    what = "the test images, translate of MNIST-C"
    change = staticmethod(corruptions.translate)


class Scale(_Corrupted):
    what = "the test images, scale of MNIST-C"
    change = staticmethod(corruptions.scale)


class Rotate(_Corrupted):
    what = "the test images, rotate of MNIST-C"
    change = staticmethod(corruptions.rotate)


class Stripe(_Corrupted):
    what = "the test images, stripe of MNIST-C"
    change = staticmethod(corruptions.stripe)


class _Agreement(Evaluation):
    """Questions for the form of a verb."""

    of = "the generated language (dataset=agreement or agreement_lm)"
    meanings: ClassVar = {
        "D-accuracy": f"mean of the accuracies at each distance between subject and verb, up to {LONGEST} words",
        "A-accuracy": "mean of the accuracies with each number of attractors, nouns of the other number in between",
        f"{HARD}+ attractors": f"accuracy on sentences with {HARD} attractors and more",
    }

    def fits(self, dataset: DatasetSpec) -> bool:
        return dataset.target in LANGUAGE


class Generated(_Agreement):
    what = "generated sentences with 0 to 4 attractors"

    def evaluate(self, runner: Runner, spec: Spec) -> dict[str, Any]:
        questions = questions_of(sentences(NUM_SENTENCES, SEED, attractors=BALANCED))
        return answered(questions, *scores(runner, spec, questions))


class Linzen(_Agreement):
    what = "real sentences (Linzen 2016) whose verb is in the vocabulary"

    def check_files(self, root: Path) -> None:
        linzen(root)

    def evaluate(self, runner: Runner, spec: Spec) -> dict[str, Any]:
        questions = [question for question in linzen(runner.data_root) if question.in_vocabulary]
        if not questions:
            raise DataError(f"no sentence of Linzen et al. in {runner.data_root} asks for a verb of the vocabulary")
        return answered(questions, *scores(runner, spec, questions))


class Blimp(_Agreement):
    what = "minimal pairs (BLiMP), the mean of six paradigms"

    def check_files(self, root: Path) -> None:
        blimp(root)

    def evaluate(self, runner: Runner, spec: Spec) -> dict[str, Any]:
        right: dict[str, Tensor] = {}
        for paradigm, questions in blimp(runner.data_root).items():
            ours, other = scores(runner, spec, questions)
            right[paradigm] = ours > other
        for paradigm, contrasts in blimp_contrasts(runner.data_root).items():
            good, _ = scores(runner, spec, [contrast.good for contrast in contrasts])
            _, bad = scores(runner, spec, [contrast.bad for contrast in contrasts])
            right[paradigm] = good > bad
        shares = {paradigm: _percent(hits) for paradigm, hits in right.items()}
        return {"figures": {"accuracy": statistics.fmean(shares.values())}, "buckets": {"paradigm": shares}}


def scores(runner: Runner, spec: Spec, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the right and of the wrong form, `[N]` each, on the CPU.

    A classifier's are those of the two numbers, a language model's those of the two words after the prefix.
    """
    plural = torch.tensor([int(question.plural) for question in questions])
    if spec.dataset.labels_each == 1:
        (length,) = spec.dataset.shape
        tokens = torch.stack([left_padded(question.prefix, length) for question in questions])
        examples = ResidentSequences(SequenceSet(tokens, plural), device=runner.device)
        log_probs = runner.answers(spec, examples).log_softmax(dim=1).cpu()
        right, wrong = plural, 1 - plural
    else:
        log_probs = _next_words(runner, spec, questions)
        right, wrong = (torch.tensor([getattr(each, form) for each in questions]) for form in ("right", "wrong"))
    return log_probs.gather(1, right[:, None]).squeeze(1), log_probs.gather(1, wrong[:, None]).squeeze(1)


@torch.no_grad()
def _next_words(runner: Runner, spec: Spec, questions: Sequence[Question]) -> Tensor:
    """A language model's log-probabilities `[N, V]` of the word after each prefix."""
    (length,) = spec.dataset.shape
    tokens = torch.stack([right_padded(question.prefix, length) for question in questions]).to(runner.device)
    last = torch.tensor([min(len(question.prefix) + 1, length) - 1 for question in questions], device=runner.device)
    network = runner.network(spec).eval()
    found = []
    with autocast(runner.device, spec.precision):
        for part, at in zip(tokens.split(BATCH_SIZE), last.split(BATCH_SIZE), strict=True):
            rows = torch.arange(len(part), device=runner.device) * length + at
            found.append(network(part)[rows].float().log_softmax(dim=1).cpu())
            stopping.check()
    return torch.cat(found)


def answered(questions: Sequence[Question], right: Tensor, wrong: Tensor) -> dict[str, Any]:
    """The figures of answers, in percent; the ECE, of the two forms among themselves, in [0, 1].

    Each question is of a sentence of its own, so the answers are independent.

    Args:
        questions: N of them.
        right: log-probabilities `[N]` of the right form.
        wrong: of the wrong one.

    Returns:
        `figures`: the accuracy; `D-accuracy`, the mean over distances up to 16; `A-accuracy`, the mean over numbers of
        attractors; that of sentences with two attractors and more; each where the questions have what it is of.
        `buckets`: the accuracy by distance and by attractors.
    """
    hits = right > wrong
    pairs = torch.stack([right, wrong], dim=1)
    ece = expected_calibration_error(pairs, torch.zeros(len(pairs), dtype=torch.int64))
    figures = {"accuracy": _percent(hits)}
    buckets = {
        "attractors": _by(hits, [question.attractors for question in questions]),
        "distance": _by(hits, [question.distance for question in questions]),
    }
    near = [share for distance, share in buckets["distance"].items() if distance <= LONGEST]
    hard = torch.tensor([question.attractors is not None and question.attractors >= HARD for question in questions])
    if near:
        figures["D-accuracy"] = statistics.fmean(near)
    if buckets["attractors"]:
        figures["A-accuracy"] = statistics.fmean(buckets["attractors"].values())
    if hard.any():
        figures[f"{HARD}+ attractors"] = _percent(hits[hard])
    named = {name: {str(key): share for key, share in shares.items()} for name, shares in buckets.items() if shares}
    return {"figures": {**figures, "ECE": ece.item()}, "buckets": named}


def _by(hits: Tensor, values: Iterable[int | None]) -> Mapping[int, float]:
    """The share of hits, in percent, by value, in order; questions without one are left out."""
    places: dict[int, list[int]] = {}
    for place, value in enumerate(values):
        if value is not None:
            places.setdefault(value, []).append(place)
    return {value: _percent(hits[places[value]]) for value in sorted(places)}


def _percent(hits: Tensor) -> float:
    return 100 * hits.double().mean().item()
