"""How a sentence of the generated language is written, word by word from left to right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from kdrun.papers.abnar2020 import lexicon

_Option = TypeVar("_Option")

MAX_WORDS = 32
"""Words of the longest sentence, with its full stop and `<eos>`."""


class Dice:
    """Draws of several kinds, all from `Random.random`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def below(self, end: int) -> int:
        return int(self.random() * end)

    def weighted(self, weights: Sequence[float]) -> int:
        """A position, with probability proportional to its weight."""
        rest = self.random() * sum(weights)
        for position, weight in enumerate(weights):
            rest -= weight
            if rest < 0:
                return position
        return max(position for position, weight in enumerate(weights) if weight > 0)  # rounding


class Writer:
    """Writes one sentence from left to right.

    `host` is the noun of a relative clause: the number of the last noun and the pronouns that fit it, or None
    where the last word is none.
    """

    def __init__(self, dice: Dice) -> None:
        self.words: list[str] = []
        self.host: tuple[bool, tuple[str, ...]] | None = None
        self.dice = dice

    def write(self, plural: bool, between: list[bool]) -> tuple[int, int, str]:
        """Writes everything; returns the positions of subject and verb, and the verb's form of the other number.

        Args:
            plural: number of the subject.
            between: number of each noun between the subject and its verb, in order.
        """
        if self.dice.chance(0.3):
            self._opening()
        self._noun_phrase(plural, outside=True)
        subject = len(self.words) - 1
        self._modifiers(between)
        if len(self.words) > subject + 1 and self.dice.chance(0.1):
            opened, closed = self._pick(lexicon.BRACKETS)
            self.words.insert(subject + 1, opened)
            self.words.append(closed)
        verb, other = self._main_verb(plural)
        end = len(self.words)
        if self.dice.chance(0.3):
            self._coda(plural)
        if len(self.words) + 2 > MAX_WORDS:
            del self.words[end:]
        self.words += (".", "<eos>")
        return subject, verb, other

    def _pick(self, options: Sequence[_Option]) -> _Option:
        return options[self.dice.below(len(options))]

    def _put(self, options: Sequence[str]) -> None:
        """Writes one of the options; those of several words have underscores."""
        self.words += self._pick(options).split("_")

    # Noun phrases

    def _noun_phrase(self, plural: bool, *, outside: bool = False) -> None:
        """Args: `outside`: not between subject and verb, so that another noun in it, a possessor, is not counted."""
        if not plural and self.dice.chance(0.12):
            self._name(quotable=not outside)
            return
        start = len(self.words)
        if outside and self.dice.chance(0.06):
            self._noun_phrase(self.dice.chance(0.4))
            self.words.append("'s")
        elif not plural or self.dice.chance(0.75):
            self._put(lexicon.DETERMINERS[plural])
        article = len(self.words) - 1
        while self.dice.chance(0.2):
            self._adjective()
        self._noun(plural)
        if article >= start and self.words[article] == "a":
            self.words[article] = self._article(self.words[article + 1])

    def _name(self, *, quotable: bool) -> None:
        quoted = quotable and self.dice.chance(0.15)
        self.words += ("``", "<unk>", "''") if quoted else ("<unk>",)
        self.host = (False, lexicon.ANY_RELATIVE)

    def _noun(self, plural: bool) -> None:
        if self.dice.chance(0.3):
            self.words.append(lexicon.UNKNOWN_NOUN[plural])
            self.host = (plural, lexicon.ANY_RELATIVE)
        else:
            number = self.dice.below(len(lexicon.NOUNS))
            self.words.append(lexicon.NOUNS[number][plural])
            self.host = (plural, lexicon.WHO if number < len(lexicon.PERSONS) else lexicon.WHICH)

    def _article(self, following: str) -> str:
        if following.startswith("<"):
            return "an" if self.dice.chance(0.25) else "a"
        return "an" if following[0] in "aeiou" and following not in ("use", "user", "one") else "a"

    def _adjective(self) -> None:
        if self.dice.chance(0.1):
            self._put(lexicon.DEGREES)
        if self.dice.chance(0.3):
            self._put(("<unk>", "<unk>", "<unk-ed>", "<unk-ing>"))
        else:
            self._put(lexicon.ADJECTIVES)

    # What stands between a subject and its verb

    def _modifiers(self, plurals: Sequence[bool]) -> None:
        """Writes phrases and clauses with nouns of these numbers, in order, and no others."""
        rest = list(plurals)
        after_preposition = False
        while rest:
            if self.host is not None and self.dice.chance(0.1):
                self._clause_without_noun()
            ways = (0.62, 0.12, 0.12, 0.14, 0.08 * after_preposition)
            way = self.dice.weighted(ways) if self.host is not None else 0
            after_preposition = way == 0
            if way == 0:
                self._prepositional_phrase(rest.pop(0))
            elif way == 1:
                self._participial_phrase(rest.pop(0))
            elif way == 2:
                self._subject_relative(rest.pop(0))
            elif way == 3:
                inner = [rest.pop(0)] + [rest.pop(0) for _ in rest[:1] if self.dice.chance(0.35)]
                self._object_relative(inner)
            else:
                self.words.append("and")
                self._noun_phrase(rest.pop(0))
                self.host = None  # it would be unclear which of the two a clause is about
        if self.host is not None and self.dice.chance(0.12):
            self._clause_without_noun()

    def _prepositional_phrase(self, plural: bool) -> None:
        self._put(lexicon.PREPOSITIONS)
        self._noun_phrase(plural)

    def _participial_phrase(self, plural: bool) -> None:
        way = self.dice.below(4)
        if way == 0:
            self.words.append("to")
            self._base(lexicon.TRANSITIVE)
        elif way == 1:
            self._put(("including", "using", "<unk-ing>", "<unk-ing>"))
        else:
            self._participle()
            self._put(("by", "by", "in", "for", "on"))
        self._noun_phrase(plural)

    def _subject_relative(self, plural: bool) -> None:
        self._predicate(self._relative_pronoun(), transitive=True)
        self._noun_phrase(plural)

    def _object_relative(self, plurals: list[bool]) -> None:
        """Relative clause whose subject is the first noun; a second noun is attached to it."""
        self._relative_pronoun()
        self._noun_phrase(plurals[0])
        for plural in plurals[1:]:
            self._prepositional_phrase(plural)
        self._predicate(plurals[0], transitive=True)
        self.host = None

    def _clause_without_noun(self) -> None:
        number = self._relative_pronoun()
        if self.dice.chance(0.5):
            self._predicate(number, transitive=False)
        else:
            self._pronoun_and_verb(lexicon.TRANSITIVE)
        self.host = None

    def _relative_pronoun(self) -> bool:
        """Writes it; returns whether the noun it stands for is plural."""
        assert self.host is not None, "a relative clause needs a noun before it"
        plural, pronouns = self.host
        self._put(pronouns)
        return plural

    # Verbs

    def _finite(self, pairs: Sequence[tuple[str, str]], plural: bool, unknown: float = 0.25) -> tuple[str, str]:
        """Writes the form of this number; returns both."""
        pair = lexicon.UNKNOWN_VERB if self.dice.chance(unknown) else self._pick(pairs)
        self.words.append(pair[plural])
        return pair

    def _base(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._finite(pairs, True)

    def _participle(self) -> None:
        self._put(("<unk-ed>",) if self.dice.chance(0.6) else lexicon.PARTICIPLES)

    def _adverb(self) -> None:
        self._put(("<unk-ly>",) if self.dice.chance(0.35) else lexicon.ADVERBS)

    def _predicate(self, plural: bool, *, transitive: bool) -> None:
        """Writes a verb with its auxiliaries, up to where the object would be."""
        if self.dice.chance(0.08):
            self._adverb()
        way = self.dice.weighted((0.5, 0.15, 0.12, 0.08, 0.15))
        if way == 0:
            if transitive or self.dice.chance(0.7):
                self._finite(lexicon.TRANSITIVE if transitive else lexicon.INTRANSITIVE, plural)
            else:
                self._finite(lexicon.COPULAR, plural, 0)
                self._adjective()
        elif way == 4:
            self._without_agreement(transitive)
        else:
            self._auxiliary(way, plural, transitive)

    def _without_agreement(self, transitive: bool) -> None:
        """Past tense or a modal verb, whose form is the same for both numbers."""
        if self.dice.chance(0.4):
            self._put(("had", "had", "hadn't"))
            self._participle()
            return
        if self.dice.chance(0.7):
            self._put(lexicon.MODALS)
            if not transitive and self.dice.chance(0.4):
                self.words.append("be")
                self._adjective()
                return
        else:
            self._put(("didn't", "did_not", "did_n't"))
        self._base(lexicon.TRANSITIVE if transitive else lexicon.INTRANSITIVE)

    def _auxiliary(self, way: int, plural: bool, transitive: bool) -> tuple[str, str]:
        """Writes a form of be (`way` 1), have (2) or do (3) and what follows; returns the verb's two forms."""
        if way == 1:
            pair = self._finite(lexicon.BE + lexicon.BE if self.dice.chance(0.7) else lexicon.BE_NOT, plural, 0)
            if pair in lexicon.BE and self.dice.chance(0.15):
                self._put(("not", "not", "n't", "also", "<unk-ly>"))
            if transitive:
                self.words.append("<unk-ing>")
            elif self.dice.chance(0.6):
                self._adjective()
            else:
                self._participle()
        elif way == 2:
            pair = self._finite((lexicon.HAVE[0], *lexicon.HAVE), plural, 0)
            if transitive or self.dice.chance(0.6):
                self._participle()
            else:
                self.words.append("been")
                self._adjective()
        else:
            pair = self._finite(lexicon.DO, plural, 0)
            if pair == lexicon.DO[0]:
                self._put(("not", "not", "n't"))
            self._base(lexicon.TRANSITIVE if transitive else lexicon.INTRANSITIVE)
        return pair

    def _main_verb(self, plural: bool) -> tuple[int, str]:
        """Writes the verb of the question and what belongs to it; returns its position and its other form."""
        if self.dice.chance(0.12):
            self._adverb()
        verb = len(self.words)
        way = self.dice.weighted((0.16, 0.3, 0.16, 0.1, 0.12, 0.05, 0.07, 0.04))
        if way == 0:
            pair = self._finite(lexicon.TRANSITIVE, plural, 0)
            self._object()
        elif way in (1, 2, 3):
            transitive = self.dice.chance(0.4)
            pair = self._auxiliary(way, plural, transitive)
            self._object() if transitive else self._adjunct()
        elif way == 4:
            pair = self._finite(lexicon.INTRANSITIVE, plural, 0)
            self._adjunct()
        elif way == 5:
            pair = self._finite(lexicon.COPULAR, plural, 0)
            self._adjective()
        elif way == 6:
            pair = self._finite((*lexicon.BE, lexicon.HAVE[0]), plural, 0)
            self._more_than() if pair in lexicon.BE and self.dice.chance(0.3) else self._noun_phrase(
                plural, outside=True
            )
        else:
            pair = self._finite(lexicon.REPORTING, plural, 0)
            self.words.append("that")
            self._clause()
        return verb, pair[not plural]

    def _more_than(self) -> None:
        self._put(("more", "less"))
        self._put(lexicon.ADJECTIVES)
        self.words.append("than")
        self._noun_phrase(self.dice.chance(0.5))

    # What stands around

    def _object(self) -> None:
        if self.dice.chance(0.15):
            self._put(lexicon.OBJECT_PRONOUNS)
            return
        self._noun_phrase(self.dice.chance(0.5), outside=True)
        if self.dice.chance(0.1):
            self._put(("and", "or"))
            self._noun_phrase(self.dice.chance(0.5))
        elif self.dice.chance(0.2):
            self._prepositional_phrase(self.dice.chance(0.5))

    def _adjunct(self) -> None:
        way = self.dice.weighted((0.3, 0.5, 0.2))
        if way == 1:
            self._prepositional_phrase(self.dice.chance(0.5))
        elif way == 2:
            self._put(lexicon.LAST_ADVERBS)

    def _pronoun_and_verb(self, verbs: Sequence[tuple[str, str]]) -> None:
        plural = self.dice.chance(0.5)
        self._put(lexicon.PRONOUNS[plural])
        self._finite(verbs, plural)

    def _clause(self) -> None:
        """A short clause of its own, with its own subject and verb."""
        transitive = self.dice.chance(0.5)
        if self.dice.chance(0.25):
            self._pronoun_and_verb(lexicon.TRANSITIVE if transitive else lexicon.INTRANSITIVE)
        else:
            plural = self.dice.chance(0.5)
            self._noun_phrase(plural)
            if self.dice.chance(0.2):
                self._prepositional_phrase(self.dice.chance(0.5))
            self._predicate(plural, transitive=transitive)
        if transitive:
            self._noun_phrase(self.dice.chance(0.5))

    def _opening(self) -> None:
        """What comes before the subject: an adverb, a prepositional phrase or a subordinate clause."""
        way = self.dice.weighted((0.3, 0.35, 0.35))
        if way == 0:
            self._put(lexicon.OPENERS)
        elif way == 1:
            self._prepositional_phrase(self.dice.chance(0.5))
        else:
            self._put(lexicon.SUBORDINATORS)
            self._clause()
        self.words.append(",")

    def _coda(self, plural: bool) -> None:
        """A second verb of the same subject, or another clause."""
        if self.dice.chance(0.4):
            self._put(("and", "but", "or"))
            transitive = self.dice.chance(0.5)
            self._predicate(plural, transitive=transitive)
            if transitive:
                self._object()
            return
        if self.dice.chance(0.5):
            self._put((",_and", ",_but", ";"))
        else:
            self._put(lexicon.SUBORDINATORS)
        self._clause()
