"""A generated English-like language in which a verb agrees with a subject that may be far away.

Made after the subject-verb agreement of Linzen, Dupoux and Goldberg (2016) and Gulordava et al. (2018), with which
Abnar, Dehghani and Zuidema (2020, section 4) compare recurrent networks and Transformers: what stands between a subject
and its verb is prepositional phrases, relative clauses, participles and infinitives, and the number of attractors is
an argument. Words outside the vocabulary are classes by their ending, as real sentences need them
(`real_agreement`), and the generated text has these classes too, so that a model learns them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdrun.papers.abnar2020.lexicon import VERB_FORMS, VOCABULARY, encode
from kdrun.papers.abnar2020.writer import MAX_WORDS, Dice, Writer
from kdrun.seeds import mix

NATURAL = (0.80, 0.13, 0.04, 0.02, 0.01)
"""Weights of 0 to 4 attractors for text to train on: the nearest noun has mostly, not always, the verb's number."""

NATURAL_MIXED = 0.25
"""Share of the sentences with attractors that have other nouns in between too, for text to train on."""

BALANCED = (0.2, 0.2, 0.2, 0.2, 0.2)
"""Weights of 0 to 4 attractors for testing: as many sentences of each."""


@dataclass(frozen=True)
class Sentence:
    """A sentence and the agreement that it tests.

    Attributes:
        words: of `VOCABULARY`; the last is `<eos>`.
        subject: position of the subject's head noun.
        verb: position of its verb, a form out of `VERBS`.
        plural: whether both are.
        attractors: nouns between them of the other number (Linzen et al. 2016).
        mixed: whether there are nouns of both numbers between them; such sentences are left out of what is
            reported by the number of attractors (Abnar et al. 2020).
        other: the verb's form of the other number.
    """

    words: tuple[str, ...]
    subject: int
    verb: int
    plural: bool
    attractors: int
    mixed: bool
    other: str

    @property
    def distance(self) -> int:
        """Words between the subject and its verb."""
        return self.verb - self.subject - 1


@dataclass(frozen=True)
class Question:
    """Two forms of the verb that comes next, to choose the right one from.

    Attributes:
        prefix: ids of the words before the verb; no `<eos>` in front, never empty.
        right: id of the form that agrees with the subject, or of its class where the verb is not in `VERBS`.
        wrong: id of the other one, likewise.
        plural: whether the right one is the plural.
        attractors: nouns between subject and verb of the other number, where known; none if the sentence is mixed.
        distance: words between subject and verb, where known.
    """

    prefix: tuple[int, ...]
    right: int
    wrong: int
    plural: bool
    attractors: int | None = None
    distance: int | None = None

    @property
    def in_vocabulary(self) -> bool:
        """Whether the forms are words (always both or none), not the classes of unknown verbs."""
        return VOCABULARY[self.right] in VERB_FORMS


def questions_of(sentences: Iterable[Sentence]) -> list[Question]:
    """The question for the verb of each sentence."""
    return [_question_of(sentence) for sentence in sentences]


def _question_of(sentence: Sentence) -> Question:
    *prefix, right, wrong = encode((*sentence.words[: sentence.verb + 1], sentence.other))
    attractors = None if sentence.mixed else sentence.attractors
    return Question(tuple(prefix), right, wrong, sentence.plural, attractors, sentence.distance)


def sentences(count: int, seed: int, *, attractors: Sequence[float], mixed: float = 0.0) -> list[Sentence]:
    """Generates sentences; fewer are the first ones of more.

    Half of the subjects are plural. Only `Random.random` is drawn from: it is what Python promises never to change for
    a seed, unlike `choice` and `shuffle`, so the sentences are the same on every platform and version.

    Args:
        count: how many.
        seed: another seed, like other weights, gives unrelated sentences (short ones can still be equal).
        attractors: weights of 0, 1, 2, ... attractors, at most 4; e.g. `NATURAL`.
        mixed: share, in [0, 1], of the sentences with attractors that have nouns of the subject's number in between
            too. In the others all nouns in between are attractors.

    Raises:
        ValueError: no weight, more than five or a negative one, all of them zero, or `mixed` outside [0, 1].
    """
    if not 1 <= len(attractors) <= 5 or min(attractors) < 0 or sum(attractors) <= 0:
        raise ValueError(f"attractors={attractors!r}: must be one to five weights, none negative and not all zero")
    if not 0 <= mixed <= 1:
        raise ValueError(f"mixed={mixed!r}: must be at least 0 and at most 1")
    weights = [float(weight) for weight in attractors]
    dice = Dice(mix("agreement", seed, repr(weights), repr(float(mixed))))
    return [_sentence(dice, dice.weighted(weights), mixed) for _ in range(count)]


def _sentence(dice: Dice, attractors: int, mixed: float) -> Sentence:
    plural = dice.chance(0.5)
    if attractors and not dice.chance(mixed):
        same = 0
    elif attractors:
        same = 1 if attractors > 2 else 1 + dice.weighted((0.7, 0.3))
    else:
        same = dice.weighted((0.5, 0.28, 0.14, 0.05, 0.03))
    between = [not plural] * attractors
    for _ in range(same):
        between.insert(dice.below(len(between) + 1), plural)
    while True:  # a sentence that grew too long is written anew with the same nouns
        writer = Writer(dice)
        subject, verb, other = writer.write(plural, between)
        if len(writer.words) <= MAX_WORDS:
            words = tuple(writer.words)
            return Sentence(words, subject, verb, plural, attractors, bool(attractors and same), other)
