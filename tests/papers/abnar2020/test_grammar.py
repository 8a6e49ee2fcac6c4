"""The generated sentences, read again by a parser that shares only the lists of nouns and verbs with the generator."""

import collections
import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kdrun.data.grammar import BALANCED, NATURAL, NATURAL_MIXED, Question, Sentence, questions_of, sentences
from kdrun.data.lexicon import COPULAR, NOUNS, PERSONS, VERBS, VOCABULARY, encode, verb_ids, with_s
from kdrun.data.writer import MAX_WORDS


def words_of(text: str, separator: str | None = None) -> list[str]:
    return text.split(separator)


NOUN_NUMBER = {form: bool(number) for pair in NOUNS for number, form in enumerate(pair)} | {
    "<unk>": False,
    "<unk-s>": True,
}
AUXILIARIES = {form for pair in VERBS[:8] for form in pair}
VERB_NUMBER = {form: bool(number) for pair in VERBS for number, form in enumerate(pair)} | {
    "<unk>": True,
    "<unk-s>": False,
}
LEXICAL = set(VERB_NUMBER) - AUXILIARIES
SINGULAR_DETERMINERS = words_of("a|an|this|that|every|each|another|one|such a|such an", "|")
PLURAL_DETERMINERS = words_of(
    "these|those|all|many|most|both|several|few|two|three|four|<num>|such|other|a lot of", "|"
)
ANY_DETERMINERS = words_of("the my your his its our their her some no any")
DETERMINERS = [
    (words.split(), numbers)
    for options, numbers in (
        (SINGULAR_DETERMINERS, {False}),
        (PLURAL_DETERMINERS, {True}),
        (ANY_DETERMINERS, {False, True}),
    )
    for words in options
]
PREPOSITIONS = [
    words.split()
    for words in words_of(
        "of|in|on|for|with|to|from|at|by|about|near|between|under|over|against|within|during|through|into|across"
        "|around|above|among|behind|without|such as|as well as|rather than|after|before",
        "|",
    )
]
ADJECTIVES = set(
    words_of(
        "old new large small main common different important high public local early original general similar good "
        "great young national major short long low recent available likely possible true open white black significant "
        "human social famous own same first last current <unk> <unk-ed> <unk-ing>"
    )
)
ADVERBS = set(words_of("also often usually still never always now generally probably even just only <unk-ly>"))
LAST_ADVERBS = set(words_of("here there today well again now together"))
OPENERS = set(words_of("however then today now instead indeed thus"))
SUBORDINATORS = set(words_of("when while if although because since as though where"))
DEGREES = set(words_of("very more most so too less quite"))
PARTICIPLES = set(words_of("known used made found called given seen written <unk-ed>"))
MODALS = set(words_of("can will would may should must could might can't won't wouldn't couldn't shouldn't"))
PRONOUNS = {"he": False, "she": False, "it": False, "i": True, "you": True, "we": True, "they": True}
OBJECT_PRONOUNS = set(words_of("me him them it her us"))


class Parser:
    """Every way to read a sentence. The methods yield where what they read can end, with what is needed of it."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def at(self, position: int) -> str:
        return self.words[position] if position < len(self.words) else ""

    def has(self, position: int, words: list[str]) -> bool:
        return list(self.words[position : position + len(words)]) == words

    def adjectives(self, i: int) -> Iterator[int]:
        yield i
        j = i + (self.at(i) in DEGREES)
        if self.at(j) in ADJECTIVES:
            yield from self.adjectives(j + 1)

    def adjective(self, i: int) -> Iterator[int]:
        j = i + (self.at(i) in DEGREES)
        for start in {i, j}:
            if self.at(start) in ADJECTIVES:
                yield start + 1

    def noun_phrase(self, i: int, possessor: bool = True) -> Iterator[tuple[int, int]]:
        """Yields the end and the position of the head noun."""
        if self.at(i) == "<unk>":
            yield i + 1, i
        if self.has(i, ["``", "<unk>", "''"]):
            yield i + 3, i + 1
        starts = [(i, {True})] + [(i + len(d), numbers) for d, numbers in DETERMINERS if self.has(i, d)]
        if possessor:
            starts += [(j + 1, {False, True}) for j, _ in self.noun_phrase(i, False) if self.at(j) == "'s"]
        for start, numbers in starts:
            if start > i and not self.article_fits(start):
                continue
            for end in self.adjectives(start):
                if NOUN_NUMBER.get(self.at(end)) in numbers:
                    yield end + 1, end

    def article_fits(self, start: int) -> bool:
        article, following = self.at(start - 1), self.at(start)
        if article not in ("a", "an") or following.startswith("<"):
            return True
        return (article == "an") == (following[:1] in "aeiou" and following not in ("use", "user", "one"))

    def prepositional_phrase(self, i: int) -> Iterator[tuple[int, int]]:
        for preposition in PREPOSITIONS:
            if self.has(i, preposition):
                yield from self.noun_phrase(i + len(preposition), False)

    def base(self, i: int) -> Iterator[int]:
        if self.at(i) in LEXICAL and VERB_NUMBER[self.at(i)]:
            yield i + 1

    def predicate(self, i: int, plural: bool, transitive: bool, adverb: bool = True) -> Iterator[int]:
        """A verb of this number with its auxiliaries, up to where the object would be."""
        word = self.at(i)
        if adverb and word in ADVERBS:
            yield from self.predicate(i + 1, plural, transitive, False)
        if word in ("had", "hadn't") and self.at(i + 1) in PARTICIPLES:
            yield i + 2
        if word in MODALS:
            yield from self.base(i + 1)
            if not transitive and self.at(i + 1) == "be":
                yield from self.adjective(i + 2)
        if word == "didn't" or (word == "did" and self.at(i + 1) in ("not", "n't")):
            yield from self.base(i + (1 if word == "didn't" else 2))
        if VERB_NUMBER.get(word) is not plural:
            return
        if word in LEXICAL:
            yield i + 1
            if any(word in pair for pair in COPULAR):
                yield from self.adjective(i + 1)
        elif word in ("is", "are", "was", "were", "isn't", "aren't", "wasn't", "weren't"):
            filled = "'" not in word and self.at(i + 1) in ("not", "n't", "also", "<unk-ly>")
            for start in {i + 1, i + 1 + filled}:
                if transitive and self.at(start) == "<unk-ing>":
                    yield start + 1
                elif not transitive:
                    yield from self.adjective(start)
                    if self.at(start) in PARTICIPLES:
                        yield start + 1
        elif word in ("has", "have", "hasn't", "haven't"):
            if self.at(i + 1) in PARTICIPLES:
                yield i + 2
            if not transitive and self.at(i + 1) == "been":
                yield from self.adjective(i + 2)
        elif word in ("doesn't", "don't"):
            yield from self.base(i + 1)
        elif self.at(i + 1) in ("not", "n't"):
            yield from self.base(i + 2)

    def modifiers(self, i: int, host: int | None) -> Iterator[tuple[int, tuple[int, ...]]]:
        """What may stand after a noun (`host`, None after a clause): yields the end and the nouns' positions."""
        yield i, ()
        for end, host_after, nouns in self.modifier(i, host):
            for last, others in self.modifiers(end, host_after):
                yield last, nouns + others

    def modifier(self, i: int, host: int | None) -> Iterator[tuple[int, int | None, tuple[int, ...]]]:
        for end, noun in self.prepositional_phrase(i):
            yield end, noun, (noun,)
            if self.at(end) == "and":
                for last, second in self.noun_phrase(end + 1, False):
                    yield last, None, (noun, second)
        if host is None:
            return
        for start in self.participial_start(i):
            for end, noun in self.noun_phrase(start, False):
                yield end, noun, (noun,)
        if self.at(i) in self.relative_pronouns(host):
            yield from self.relative_clause(i + 1, NOUN_NUMBER[self.at(host)])

    def relative_pronouns(self, host: int) -> set[str]:
        word = self.at(host)
        persons = any(word in pair for pair in PERSONS)
        return {"that"} | ({"who"} if persons or "<" in word else set()) | ({"which"} if not persons else set())

    def participial_start(self, i: int) -> Iterator[int]:
        if self.at(i) == "to":
            yield from self.base(i + 1)
        if self.at(i) in ("including", "using", "<unk-ing>"):
            yield i + 1
        if self.at(i) in PARTICIPLES and self.at(i + 1) in ("by", "in", "for", "on"):
            yield i + 2

    def relative_clause(self, i: int, plural: bool) -> Iterator[tuple[int, int | None, tuple[int, ...]]]:
        for end in self.predicate(i, plural, True):
            for last, noun in self.noun_phrase(end, False):
                yield last, noun, (noun,)
        for end in self.predicate(i, plural, False):
            yield end, None, ()
        for end in self.pronoun_and_verb(i):
            yield end, None, ()
        for end, noun in self.noun_phrase(i, False):
            number = NOUN_NUMBER[self.at(noun)]
            for last in self.predicate(end, number, True):
                yield last, None, (noun,)
            for end_of_phrase, second in self.prepositional_phrase(end):
                for last in self.predicate(end_of_phrase, number, True):
                    yield last, None, (noun, second)

    def pronoun_and_verb(self, i: int) -> Iterator[int]:
        word = self.at(i + 1)
        if self.at(i) in PRONOUNS and word in LEXICAL and VERB_NUMBER[word] == PRONOUNS[self.at(i)]:
            yield i + 2

    def clause(self, i: int) -> Iterator[int]:
        starts = [(end, None) for end in self.pronoun_and_verb(i)]
        for end, noun in self.noun_phrase(i, False):
            starts += [(end, noun)] + [(last, noun) for last, _ in self.prepositional_phrase(end)]
        for start, noun in starts:
            ends = [start]
            if noun is not None:
                number = NOUN_NUMBER[self.at(noun)]
                yield from self.predicate(start, number, False)
                ends = list(self.predicate(start, number, True))
            else:
                yield start
            for end in ends:
                yield from (last for last, _ in self.noun_phrase(end, False))

    def openings(self) -> Iterator[int]:
        yield 0
        if self.at(0) in OPENERS and self.at(1) == ",":
            yield 2
        ends = [end for end, _ in self.prepositional_phrase(0)]
        if self.at(0) in SUBORDINATORS:
            ends += self.clause(1)
        yield from (end + 1 for end in ends if self.at(end) == ",")

    def objects(self, i: int) -> Iterator[int]:
        if self.at(i) in OBJECT_PRONOUNS:
            yield i + 1
        for end, _ in self.noun_phrase(i):
            yield end
            if self.at(end) in ("and", "or"):
                yield from (last for last, _ in self.noun_phrase(end + 1, False))
            yield from (last for last, _ in self.prepositional_phrase(end))

    def adjuncts(self, i: int) -> Iterator[int]:
        yield i
        if self.at(i) in LAST_ADVERBS:
            yield i + 1
        yield from (end for end, _ in self.prepositional_phrase(i))

    def after_subject(self, verb: int, plural: bool) -> Iterator[int]:
        for end in self.predicate(verb, plural, True, False):
            yield from self.objects(end)
        for end in self.predicate(verb, plural, False, False):
            yield from self.adjuncts(end)
        if VERB_NUMBER.get(self.at(verb)) is not plural:
            return
        if self.at(verb) in ("is", "are", "was", "were", "has", "have"):
            yield from (end for end, _ in self.noun_phrase(verb + 1))
        if self.at(verb + 1) in ("more", "less") and self.at(verb + 3) == "than":
            yield from (end for end, _ in self.noun_phrase(verb + 4, False))
        if self.at(verb + 1) == "that":
            yield from self.clause(verb + 2)

    def codas(self, i: int, plural: bool) -> Iterator[int]:
        yield i
        if self.at(i) in ("and", "but", "or"):
            for end in self.predicate(i + 1, plural, True):
                yield from self.objects(end)
            yield from self.predicate(i + 1, plural, False)
        for start in ([",", "and"], [",", "but"], [";"], *([word] for word in SUBORDINATORS)):
            if self.has(i, start):
                yield from self.clause(i + len(start))

    def subjects(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Yields the subject's position, its verb's, and the nouns' between them."""
        for start in self.openings():
            for end, head in self.noun_phrase(start):
                readings = [(last, nouns) for last, nouns in self.modifiers(end, head)]
                for opened, closed in ((",", ","), ("(", ")"), ("-", "-")):
                    if self.at(end) == opened:
                        inside = self.modifiers(end + 1, head)
                        readings += [(last + 1, nouns) for last, nouns in inside if self.at(last) == closed]
                for last, nouns in readings:
                    yield head, last, nouns
                    if self.at(last) in ADVERBS:
                        yield head, last + 1, nouns

    def finishes(self, verb: int, plural: bool) -> bool:
        return any(
            self.words[last:] == (".", "<eos>")
            for end in self.after_subject(verb, plural)
            for last in self.codas(end, plural)
        )


def is_right(sentence: Sentence) -> bool:
    """Whether the sentence is grammatical in a reading that its attributes describe."""
    parser = Parser(sentence.words)
    number = NOUN_NUMBER.get(parser.at(sentence.subject))
    forms = {frozenset(pair) for pair in VERBS}
    if number is not sentence.plural or frozenset((parser.at(sentence.verb), sentence.other)) not in forms:
        return False
    for subject, verb, nouns in set(parser.subjects()):
        others = sum(NOUN_NUMBER[parser.at(noun)] is not number for noun in nouns)
        described = others == sentence.attractors and sentence.mixed == (0 < others < len(nouns))
        if (subject, verb) == (sentence.subject, sentence.verb) and described and parser.finishes(verb, number):
            return True
    return False


def sentence_of(text: str, subject: str, verb: str, other: str, attractors: int = 0, mixed: bool = False) -> Sentence:
    words = (*text.split(), ".", "<eos>")
    position = words.index(subject)
    return Sentence(words, position, words.index(verb), NOUN_NUMBER[subject], attractors, mixed, other)


def exchanged(sentence: Sentence) -> Sentence:
    """With the verb of the other number."""
    words, verb = sentence.words, sentence.verb
    return replace(sentence, words=(*words[:verb], sentence.other, *words[verb + 1 :]), other=words[verb])


RIGHT = [
    sentence_of("the keys to the cabinet are old", "keys", "are", "is", 1),
    sentence_of("the author that the senators like has been famous", "author", "has", "have", 1),
    sentence_of("the writers who know the man near the cars work here", "writers", "work", "works", 1, True),
    sentence_of("when the boys live , the girl <unk-ed> by the man is <unk-ing> it", "girl", "is", "are"),
    sentence_of("a book , which they <unk> , seems new", "book", "seems", "seem"),
    sentence_of(
        "an old book of the schools that don't change the name of this town doesn't go",
        "book",
        "doesn't",
        "don't",
        1,
        True,
    ),
]
WRONG = [
    sentence_of("the keys to the cabinet is old", "keys", "is", "are", 1),
    sentence_of("the author that the senators likes has been famous", "author", "has", "have", 1),
    sentence_of("the author that the senators near the man likes has been famous", "author", "has", "have", 1, True),
    sentence_of("these key to the cabinets is old", "key", "is", "are", 1),
    sentence_of("a keys to the cabinet are old", "keys", "are", "is", 1),
    sentence_of("an key is old", "key", "is", "are"),
    sentence_of("the keys which knows the man are old", "keys", "are", "is", 1),
    sentence_of("the keys who know the man are old", "keys", "are", "is", 1),
    sentence_of("the keys to the cabinet are", "keys", "are", "is", 1),
    sentence_of("the keys to the cabinet are old", "keys", "are", "is", 0),
    sentence_of("the keys to the cabinet are old", "keys", "are", "is", 1, True),
    sentence_of("the keys to the cabinets are old", "cabinets", "are", "is", 0),
    sentence_of("when the boys lives , the girl is old", "girl", "is", "are"),
]


@pytest.fixture(scope="module")
def natural() -> list[Sentence]:
    return sentences(2000, 3, attractors=NATURAL, mixed=NATURAL_MIXED)


@pytest.fixture(scope="module")
def balanced() -> list[Sentence]:
    return sentences(1000, 4, attractors=BALANCED)


@pytest.mark.parametrize("sentence", RIGHT, ids=lambda sentence: " ".join(sentence.words))
def test_the_parser_accepts_what_is_right(sentence):
    assert is_right(sentence)
    assert not is_right(exchanged(sentence))


@pytest.mark.parametrize("sentence", WRONG, ids=lambda sentence: " ".join(sentence.words))
def test_the_parser_rejects_what_is_wrong(sentence):
    assert not is_right(sentence)


def test_every_sentence_is_grammatical_and_described_rightly(natural, balanced):
    assert [sentence for sentence in natural + balanced if not is_right(sentence)] == []


def test_the_other_form_of_the_verb_is_never_grammatical(natural, balanced):
    assert not any(is_right(exchanged(sentence)) for sentence in natural + balanced)


def test_sentences_end_and_are_not_too_long(natural, balanced):
    for sentence in natural + balanced:
        assert sentence.words.index("<eos>") == len(sentence.words) - 1 < MAX_WORDS
        assert sentence.distance == len(sentence.words[sentence.subject + 1 : sentence.verb])


def test_natural_text_can_mostly_but_not_always_be_told_from_the_nearest_noun(natural):
    def number_of_the_nearest(sentence: Sentence) -> bool:
        nouns = [word for word in sentence.words[: sentence.verb] if word in NOUN_NUMBER]
        return NOUN_NUMBER[nouns[-1]]

    known = [sentence for sentence in natural if "<unk>" not in sentence.words[: sentence.verb]]  # not always a noun
    assert len(known) > 400
    right = sum(number_of_the_nearest(sentence) == sentence.plural for sentence in known) / len(known)
    assert 0.75 < right < 0.93


def test_the_number_of_attractors_is_drawn_by_its_weight():
    found = collections.Counter(sentence.attractors for sentence in sentences(4000, 0, attractors=[1, 0, 2, 1]))
    assert sorted(found) == [0, 2, 3]
    for number, share in ((0, 0.25), (2, 0.5), (3, 0.25)):
        assert found[number] / 4000 == pytest.approx(share, abs=0.03)


def test_half_of_the_subjects_are_plural_at_every_number_of_attractors(balanced):
    for attractors in range(5):
        plural = [sentence.plural for sentence in balanced if sentence.attractors == attractors]
        assert sum(plural) / len(plural) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_mixed_is_a_share_of_the_sentences_with_attractors(share):
    found = sentences(2000, 0, attractors=[1, 1, 1, 1, 1], mixed=share)
    with_attractors = [sentence.mixed for sentence in found if sentence.attractors]
    assert sum(with_attractors) / len(with_attractors) == pytest.approx(share, abs=0.04)
    assert not any(sentence.mixed for sentence in found if not sentence.attractors)


def test_distances_differ_at_the_same_number_of_attractors(balanced):
    for attractors in range(5):
        distances = {sentence.distance for sentence in balanced if sentence.attractors == attractors}
        assert len(distances) >= 8
        assert min(distances) >= 2 * attractors


def test_every_word_is_used():
    used = {word for sentence in sentences(20000, 0, attractors=NATURAL) for word in sentence.words}
    assert set(VOCABULARY) - used == {"<pad>"}
    assert used <= set(VOCABULARY)


def test_sentences_are_a_function_of_the_arguments():
    many = sentences(50, 1, attractors=NATURAL)
    assert sentences(20, 1, attractors=NATURAL) == many[:20]
    assert sentences(20, 1, attractors=list(NATURAL), mixed=0) == many[:20]
    others = sentences(50, 2, attractors=NATURAL) + sentences(50, 1, attractors=BALANCED)
    assert len({sentence.words for sentence in many} & {sentence.words for sentence in others}) <= 2


def test_the_language_stays_as_it_is():
    """Runs are known by its name alone: what changes these values is another language and needs another identity."""
    text = "\n".join(" ".join(s.words) for s in sentences(1000, 0, attractors=NATURAL, mixed=NATURAL_MIXED))
    assert hashlib.sha256(" ".join(VOCABULARY).encode()).hexdigest()[:16] == "23b737c149f2b659"
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "0385f18e05c9a280"


@pytest.mark.parametrize(
    ("weights", "mixed", "reason"),
    [
        ([], 0.0, "one to five weights"),
        ([0, 0], 0.0, "one to five weights"),
        ([1, -1], 0.0, "one to five weights"),
        ([1] * 6, 0.0, "one to five weights"),
        ([1], 1.5, "mixed=1.5"),
    ],
)
def test_impossible_weights_are_refused(weights, mixed, reason):
    with pytest.raises(ValueError, match=reason):
        sentences(1, 0, attractors=weights, mixed=mixed)


def test_ids_are_positions_in_the_vocabulary():
    assert VOCABULARY[:2] == ("<pad>", "<eos>")
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert 300 <= len(VOCABULARY) <= 600
    assert [VOCABULARY[token] for token in encode(VOCABULARY)] == list(VOCABULARY)


def test_unknown_words_are_classed_by_their_ending():
    words = words_of("The quokkas , Linzen walked slowly singing in 1999 % glass virus tennis king fly sped")
    classes = words_of("the <unk-s> , <unk> <unk-ed> <unk-ly> <unk-ing> in <num> - <unk> <unk> <unk> <unk> <unk> <unk>")
    assert [VOCABULARY[token] for token in encode(words)] == classes


@pytest.mark.parametrize(
    ("word", "longer"),
    [
        ("key", "keys"),
        ("city", "cities"),
        ("church", "churches"),
        ("pass", "passes"),
        ("undergo", "undergoes"),
        ("do", "does"),
    ],
)
def test_with_s(word, longer):
    assert with_s(word) == longer


def test_a_question_is_what_comes_before_the_verb_and_its_two_forms():
    sentence = sentence_of("the keys to the cabinet are old", "keys", "are", "is", 1)
    right, wrong = encode(["are", "is"])
    prefix = tuple(encode(words_of("the keys to the cabinet")))
    assert questions_of([sentence]) == [Question(prefix, right, wrong, True, 1, 3)]
    assert questions_of([replace(sentence, mixed=True)])[0].attractors is None


def test_questions_ask_for_verbs_of_the_vocabulary(natural):
    forms = {tuple(encode(pair)) for pair in VERBS}
    for question in questions_of(natural):
        pair = (question.wrong, question.right) if question.plural else (question.right, question.wrong)
        assert pair in forms
        assert question.in_vocabulary
        assert question.prefix


def test_forms_of_an_unknown_verb_are_classes():
    assert verb_ids("is", "are") == tuple(encode(["is", "are"]))
    assert verb_ids("hugs", "hug") == tuple(encode(["<unk-s>", "<unk>"]))
    assert verb_ids("places", "place") == tuple(encode(["<unk-s>", "<unk>"]))  # known as a noun only
