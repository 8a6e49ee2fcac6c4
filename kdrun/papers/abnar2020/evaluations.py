"""What networks on sequences know of subject-verb agreement: the right form of a verb against the wrong one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdrun import stopping
from kdrun.data import DataError, ResidentSequences, SequenceSet
from kdrun.data.grammar import BALANCED, Question, questions_of, sentences
from kdrun.data.loaders.agreement import left_padded, right_padded
from kdrun.data.real_agreement import blimp, blimp_contrasts, linzen
from kdrun.metrics import expected_calibration_error
from kdrun.spec.spec import Spec
from kdrun.training.precision import autocast

if TYPE_CHECKING:
    from kdrun.experiment.runner import Runner

NUM_SENTENCES, SEED = 5000, 2
"""Of the generated questions: others than those of training and test."""

LONGEST = 16
"""The D-accuracy is over distances up to it (Abnar et al. 2020)."""

HARD = 2
"""So many attractors at least, where recurrent networks and Transformers are expected to differ."""

BATCH_SIZE = 256


def generated(runner: Runner, spec: Spec) -> dict[str, Any]:
    """Of sentences that are generated with 0 to 4 attractors, as many of each."""
    questions = questions_of(sentences(NUM_SENTENCES, SEED, attractors=BALANCED))
    return answered(questions, *scores(runner, spec, questions))


def real(runner: Runner, spec: Spec) -> dict[str, Any]:
    """Of the sentences of Linzen et al. (2016) whose verb is in the vocabulary."""
    questions = [question for question in linzen(runner.data_root) if question.in_vocabulary]
    if not questions:
        raise DataError(f"no sentence of Linzen et al. in {runner.data_root} asks for a verb of the vocabulary")
    return answered(questions, *scores(runner, spec, questions))


def minimal_pairs(runner: Runner, spec: Spec) -> dict[str, Any]:
    """Of six paradigms of BLiMP, each with the same weight."""
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
