"""A generated English-like language in which a verb agrees with a subject that may be far away.

Made after the subject-verb agreement of Linzen, Dupoux and Goldberg (2016) and Gulordava et al. (2018), with which
Abnar, Dehghani and Zuidema (2020, section 4) compare recurrent networks and Transformers: what stands between a subject
and its verb is prepositional phrases, relative clauses, participles and infinitives, and the number of attractors is
asked for, not waited for. Words outside the vocabulary are classes by their ending, as real sentences need them
(`real_agreement`), and the generated text has these classes too, so that a model learns them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kdrun.seeds import mix

_Option = TypeVar("_Option")

MAX_WORDS = 32
"""Words of the longest sentence, with its full stop and `<eos>`."""

NATURAL = (0.80, 0.13, 0.04, 0.02, 0.01)
"""Weights of 0 to 4 attractors for text to train on: the nearest noun has mostly, not always, the verb's number."""

NATURAL_MIXED = 0.25
"""Share of the sentences with attractors that have other nouns in between too, for text to train on."""

BALANCED = (0.2, 0.2, 0.2, 0.2, 0.2)
"""Weights of 0 to 4 attractors for testing: as many sentences of each."""


def with_s(word: str) -> str:
    """The word with the regular `s` of a noun's plural and of a verb's singular: keys, churches, cities."""
    after_vowel = word[-2:-1] in ("a", "e", "i", "o", "u")
    if word.endswith(("s", "x", "z", "ch", "sh")) or (word.endswith("o") and not after_vowel):
        return word + "es"
    if word.endswith("y") and not after_vowel:
        return word[:-1] + "ies"
    return word + "s"


def _words(text: str) -> tuple[str, ...]:
    """The options in a text; one of several words has underscores."""
    return tuple(text.split())


def _nouns(text: str) -> tuple[tuple[str, str], ...]:
    """(singular, plural) of each noun; an irregular plural stands behind a slash."""
    pairs = (entry.partition("/") for entry in text.split())
    return tuple((singular, plural or with_s(singular)) for singular, _, plural in pairs)


def _verbs(text: str) -> tuple[tuple[str, str], ...]:
    """(singular, plural) of each verb, in the present tense; given is the plural."""
    return tuple((with_s(plural), plural) for plural in text.split())


PERSONS = _nouns(
    "man/men woman/women child/children person/people author student teacher member player user editor senator doctor "
    "actor girl boy friend guest customer artist leader writer lady adult driver patient alumnus/alumni"
)
THINGS = _nouns(
    "area school source article system number part state page list city life/lives name fact way game year place point "
    "level case problem group section theory film book river house program car key cabinet table building church "
    "country language process event town song album thing work show form use claim need change play type feature "
    "report picture company foot/feet tooth/teeth mouse/mice goose/geese analysis/analyses thesis/theses axis/axes "
    "hypothesis/hypotheses crisis/crises phenomenon/phenomena radius/radii stimulus/stimuli cactus/cacti"
)
BE = (("is", "are"), ("was", "were"))
BE_NOT = (("isn't", "aren't"), ("wasn't", "weren't"))
HAVE = (("has", "have"), ("hasn't", "haven't"))
DO = (("does", "do"), ("doesn't", "don't"))
TRANSITIVE = _verbs(
    "include contain make show provide need use allow give require take feature represent produce follow play get "
    "offer lead hold cover reflect know like see support admire help find hate form describe define affect create "
    "involve bring keep forget bother alarm disturb resemble hide break"
)
INTRANSITIVE = _verbs(
    "exist come go fall live work begin end stand run arrive disappear talk look change grow occur tend continue vary"
)
COPULAR = _verbs("appear seem remain become")
REPORTING = _verbs("say think believe claim suggest indicate mean")

NOUNS = PERSONS + THINGS
VERBS = BE + BE_NOT + HAVE + DO + tuple(dict.fromkeys(TRANSITIVE + INTRANSITIVE + COPULAR + REPORTING))
"""(singular, plural) of the verbs that a question may ask for."""

_UNKNOWN_NOUN, _UNKNOWN_VERB = ("<unk>", "<unk-s>"), ("<unk-s>", "<unk>")
_EITHER_NUMBER = ("the",) * 9 + _words("my your his its our their her some no any")
_DETERMINERS = (
    _EITHER_NUMBER + ("a",) * 6 + _words("this that every each another one such_a"),
    _EITHER_NUMBER + _words("these those all many most both several few two three four <num> such other a_lot_of"),
)
_PREPOSITIONS = ("of",) * 6 + _words(
    "in in in on on for for with with to to from at by about near between under over against within during through "
    "into across around above among behind without such_as as_well_as rather_than after before"
)
_ADJECTIVES = _words(
    "old new large small main common different important high public local early original general similar good great "
    "young national major short long low recent available likely possible true open white black significant human "
    "social famous own same first last current"
)
_ADVERBS = _words("also often usually still never always now generally probably even just only")
_LAST_ADVERBS = _words("here there today well again now together")
_OPENERS = _words("however then today now instead indeed thus")
_SUBORDINATORS = _words("when while if although because since as though where")
_DEGREES = _words("very more most so too less quite")
_PARTICIPLES = _words("known used made found called given seen written")
_MODALS = _words("can will would may should must could might can't won't wouldn't couldn't shouldn't")
_PRONOUNS = (_words("he she it"), _words("i you we they"))
_OBJECT_PRONOUNS = _words("me him them it her us")
_WHO, _WHICH, _ANY_RELATIVE = ("who", "that"), ("which", "that"), ("who", "which", "that")
_BRACKETS = ((",", ","), (",", ","), ("(", ")"), ("-", "-"))
_WORD_CLASSES = _words("<unk> <unk-s> <unk-ed> <unk-ing> <unk-ly> <num>")
_OTHER_WORDS = _words(
    ". , ; ( ) - `` '' 's n't not to and or but that than by be been had hadn't did didn't including using an"
)

_MIN_ENDING_WORD = 5
"""Letters of the shortest word that is classed by `ed`, `ing` or `ly`: not red, king or fly."""


def _all_words() -> Iterable[str]:
    yield from ("<pad>", "<eos>", *_WORD_CLASSES, *_OTHER_WORDS)
    for options in (*_DETERMINERS, _PREPOSITIONS):
        yield from (word for option in options for word in option.split("_"))
    for words in (_ANY_RELATIVE, *_PRONOUNS, _OBJECT_PRONOUNS, _MODALS, _SUBORDINATORS, _OPENERS, _ADVERBS):
        yield from words
    for words in (_LAST_ADVERBS, _DEGREES, _ADJECTIVES, _PARTICIPLES, *VERBS, *NOUNS):
        yield from words


VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys(_all_words()))
"""The words; a token's id is its position. `<pad>` is 0 and `<eos>` 1."""

_VERB_FORMS = frozenset(form for pair in VERBS for form in pair)
_IDS = {word: position for position, word in enumerate(VOCABULARY)}


def encode(words: Iterable[str]) -> list[int]:
    """Ids of the words, which may have capitals; one outside the vocabulary becomes its class.

    The class is `<num>` where there is a digit, else that of the ending: `<unk-ed>`, `<unk-ing>`, `<unk-ly>`, `<unk-s>`
    (but not for ss, us and is), and `<unk>` for all others. Punctuation outside the vocabulary is a dash.
    """
    return [_IDS[word if word in _IDS else _word_class(word)] for word in map(str.lower, words)]


def _word_class(word: str) -> str:
    if any(character.isdigit() for character in word):
        return "<num>"
    if not any(character.isalpha() for character in word):
        return "-"
    for ending in ("ed", "ing", "ly"):
        if word.endswith(ending) and len(word) >= _MIN_ENDING_WORD:
            return f"<unk-{ending}>"
    return "<unk-s>" if word.endswith("s") and not word.endswith(("ss", "us", "is")) else "<unk>"


@dataclass(frozen=True)
class Sentence:
    """A sentence and the agreement in it that is asked for.

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
        return VOCABULARY[self.right] in _VERB_FORMS


def verb_ids(singular: str, plural: str) -> tuple[int, int]:
    """Ids of a verb's two forms; the classes of an unknown verb where one of them is not in `VERBS`."""
    known = singular in _VERB_FORMS and plural in _VERB_FORMS
    first, second = (singular, plural) if known else _UNKNOWN_VERB
    return _IDS[first], _IDS[second]


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
    dice = _Dice(mix("agreement", seed, repr(weights), repr(float(mixed))))
    return [_sentence(dice, dice.weighted(weights), mixed) for _ in range(count)]


def _sentence(dice: _Dice, attractors: int, mixed: float) -> Sentence:
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
        writer = _Writer(dice)
        subject, verb, other = writer.write(plural, between)
        if len(writer.words) <= MAX_WORDS:
            words = tuple(writer.words)
            return Sentence(words, subject, verb, plural, attractors, bool(attractors and same), other)


class _Dice:
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


class _Writer:
    """Writes one sentence from left to right.

    `host` is what a relative clause hangs on: the number of the last noun and the pronouns that fit it, or None
    where the last word is none.
    """

    def __init__(self, dice: _Dice) -> None:
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
            opened, closed = self._pick(_BRACKETS)
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
            self._put(_DETERMINERS[plural])
        article = len(self.words) - 1
        while self.dice.chance(0.2):
            self._adjective()
        self._noun(plural)
        if article >= start and self.words[article] == "a":
            self.words[article] = self._article(self.words[article + 1])

    def _name(self, *, quotable: bool) -> None:
        quoted = quotable and self.dice.chance(0.15)
        self.words += ("``", "<unk>", "''") if quoted else ("<unk>",)
        self.host = (False, _ANY_RELATIVE)

    def _noun(self, plural: bool) -> None:
        if self.dice.chance(0.3):
            self.words.append(_UNKNOWN_NOUN[plural])
            self.host = (plural, _ANY_RELATIVE)
        else:
            number = self.dice.below(len(NOUNS))
            self.words.append(NOUNS[number][plural])
            self.host = (plural, _WHO if number < len(PERSONS) else _WHICH)

    def _article(self, following: str) -> str:
        if following.startswith("<"):
            return "an" if self.dice.chance(0.25) else "a"
        return "an" if following[0] in "aeiou" and following not in ("use", "user", "one") else "a"

    def _adjective(self) -> None:
        if self.dice.chance(0.1):
            self._put(_DEGREES)
        if self.dice.chance(0.3):
            self._put(("<unk>", "<unk>", "<unk-ed>", "<unk-ing>"))
        else:
            self._put(_ADJECTIVES)

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
        self._put(_PREPOSITIONS)
        self._noun_phrase(plural)

    def _participial_phrase(self, plural: bool) -> None:
        way = self.dice.below(4)
        if way == 0:
            self.words.append("to")
            self._base(TRANSITIVE)
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
        """Relative clause whose subject is the first noun; a second one hangs on that."""
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
            self._pronoun_and_verb(TRANSITIVE)
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
        pair = _UNKNOWN_VERB if self.dice.chance(unknown) else self._pick(pairs)
        self.words.append(pair[plural])
        return pair

    def _base(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._finite(pairs, True)

    def _participle(self) -> None:
        self._put(("<unk-ed>",) if self.dice.chance(0.6) else _PARTICIPLES)

    def _adverb(self) -> None:
        self._put(("<unk-ly>",) if self.dice.chance(0.35) else _ADVERBS)

    def _predicate(self, plural: bool, *, transitive: bool) -> None:
        """Writes a verb with its auxiliaries, up to where the object would be."""
        if self.dice.chance(0.08):
            self._adverb()
        way = self.dice.weighted((0.5, 0.15, 0.12, 0.08, 0.15))
        if way == 0:
            if transitive or self.dice.chance(0.7):
                self._finite(TRANSITIVE if transitive else INTRANSITIVE, plural)
            else:
                self._finite(COPULAR, plural, 0)
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
            self._put(_MODALS)
            if not transitive and self.dice.chance(0.4):
                self.words.append("be")
                self._adjective()
                return
        else:
            self._put(("didn't", "did_not", "did_n't"))
        self._base(TRANSITIVE if transitive else INTRANSITIVE)

    def _auxiliary(self, way: int, plural: bool, transitive: bool) -> tuple[str, str]:
        """Writes a form of be (`way` 1), have (2) or do (3) and what follows; returns the verb's two forms."""
        if way == 1:
            pair = self._finite(BE + BE if self.dice.chance(0.7) else BE_NOT, plural, 0)
            if pair in BE and self.dice.chance(0.15):
                self._put(("not", "not", "n't", "also", "<unk-ly>"))
            if transitive:
                self.words.append("<unk-ing>")
            elif self.dice.chance(0.6):
                self._adjective()
            else:
                self._participle()
        elif way == 2:
            pair = self._finite((HAVE[0], *HAVE), plural, 0)
            if transitive or self.dice.chance(0.6):
                self._participle()
            else:
                self.words.append("been")
                self._adjective()
        else:
            pair = self._finite(DO, plural, 0)
            if pair == DO[0]:
                self._put(("not", "not", "n't"))
            self._base(TRANSITIVE if transitive else INTRANSITIVE)
        return pair

    def _main_verb(self, plural: bool) -> tuple[int, str]:
        """Writes the verb of the question and what belongs to it; returns its position and its other form."""
        if self.dice.chance(0.12):
            self._adverb()
        verb = len(self.words)
        way = self.dice.weighted((0.16, 0.3, 0.16, 0.1, 0.12, 0.05, 0.07, 0.04))
        if way == 0:
            pair = self._finite(TRANSITIVE, plural, 0)
            self._object()
        elif way in (1, 2, 3):
            transitive = self.dice.chance(0.4)
            pair = self._auxiliary(way, plural, transitive)
            self._object() if transitive else self._adjunct()
        elif way == 4:
            pair = self._finite(INTRANSITIVE, plural, 0)
            self._adjunct()
        elif way == 5:
            pair = self._finite(COPULAR, plural, 0)
            self._adjective()
        elif way == 6:
            pair = self._finite((*BE, HAVE[0]), plural, 0)
            self._more_than() if pair in BE and self.dice.chance(0.3) else self._noun_phrase(plural, outside=True)
        else:
            pair = self._finite(REPORTING, plural, 0)
            self.words.append("that")
            self._clause()
        return verb, pair[not plural]

    def _more_than(self) -> None:
        self._put(("more", "less"))
        self._put(_ADJECTIVES)
        self.words.append("than")
        self._noun_phrase(self.dice.chance(0.5))

    # What stands around

    def _object(self) -> None:
        if self.dice.chance(0.15):
            self._put(_OBJECT_PRONOUNS)
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
            self._put(_LAST_ADVERBS)

    def _pronoun_and_verb(self, verbs: Sequence[tuple[str, str]]) -> None:
        plural = self.dice.chance(0.5)
        self._put(_PRONOUNS[plural])
        self._finite(verbs, plural)

    def _clause(self) -> None:
        """A short clause of its own, with its own subject and verb."""
        transitive = self.dice.chance(0.5)
        if self.dice.chance(0.25):
            self._pronoun_and_verb(TRANSITIVE if transitive else INTRANSITIVE)
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
            self._put(_OPENERS)
        elif way == 1:
            self._prepositional_phrase(self.dice.chance(0.5))
        else:
            self._put(_SUBORDINATORS)
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
            self._put(_SUBORDINATORS)
        self._clause()
