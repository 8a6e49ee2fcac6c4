"""The words of the generated language, their ids, and the classes that stand for all other words."""

from __future__ import annotations

from collections.abc import Iterable


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

UNKNOWN_NOUN, UNKNOWN_VERB = ("<unk>", "<unk-s>"), ("<unk-s>", "<unk>")
_EITHER_NUMBER = ("the",) * 9 + _words("my your his its our their her some no any")
DETERMINERS = (
    _EITHER_NUMBER + ("a",) * 6 + _words("this that every each another one such_a"),
    _EITHER_NUMBER + _words("these those all many most both several few two three four <num> such other a_lot_of"),
)
PREPOSITIONS = ("of",) * 6 + _words(
    "in in in on on for for with with to to from at by about near between under over against within during through "
    "into across around above among behind without such_as as_well_as rather_than after before"
)
ADJECTIVES = _words(
    "old new large small main common different important high public local early original general similar good great "
    "young national major short long low recent available likely possible true open white black significant human "
    "social famous own same first last current"
)
ADVERBS = _words("also often usually still never always now generally probably even just only")
LAST_ADVERBS = _words("here there today well again now together")
OPENERS = _words("however then today now instead indeed thus")
SUBORDINATORS = _words("when while if although because since as though where")
DEGREES = _words("very more most so too less quite")
PARTICIPLES = _words("known used made found called given seen written")
MODALS = _words("can will would may should must could might can't won't wouldn't couldn't shouldn't")
PRONOUNS = (_words("he she it"), _words("i you we they"))
OBJECT_PRONOUNS = _words("me him them it her us")
WHO, WHICH, ANY_RELATIVE = ("who", "that"), ("which", "that"), ("who", "which", "that")
BRACKETS = ((",", ","), (",", ","), ("(", ")"), ("-", "-"))
_WORD_CLASSES = _words("<unk> <unk-s> <unk-ed> <unk-ing> <unk-ly> <num>")
_OTHER_WORDS = _words(
    ". , ; ( ) - `` '' 's n't not to and or but that than by be been had hadn't did didn't including using an"
)

_MIN_ENDING_WORD = 5
"""Letters of the shortest word that is classed by `ed`, `ing` or `ly`: not red, king or fly."""


def _all_words() -> Iterable[str]:
    yield from ("<pad>", "<eos>", *_WORD_CLASSES, *_OTHER_WORDS)
    for options in (*DETERMINERS, PREPOSITIONS):
        yield from (word for option in options for word in option.split("_"))
    for words in (ANY_RELATIVE, *PRONOUNS, OBJECT_PRONOUNS, MODALS, SUBORDINATORS, OPENERS, ADVERBS):
        yield from words
    for words in (LAST_ADVERBS, DEGREES, ADJECTIVES, PARTICIPLES, *VERBS, *NOUNS):
        yield from words


VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys(_all_words()))
"""The words; a token's id is its position. `<pad>` is 0 and `<eos>` 1."""

VERB_FORMS = frozenset(form for pair in VERBS for form in pair)
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


def verb_ids(singular: str, plural: str) -> tuple[int, int]:
    """Ids of a verb's two forms; the classes of an unknown verb where one of them is not in `VERBS`."""
    known = singular in VERB_FORMS and plural in VERB_FORMS
    first, second = (singular, plural) if known else UNKNOWN_VERB
    return _IDS[first], _IDS[second]
