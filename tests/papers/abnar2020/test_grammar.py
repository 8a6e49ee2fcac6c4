"""The generated sentences: digests of the language, and properties that its description promises."""

import collections
import hashlib
from dataclasses import replace

import pytest

from kdrun.papers.abnar2020.grammar import BALANCED, NATURAL, NATURAL_MIXED, Question, Sentence, questions_of, sentences
from kdrun.papers.abnar2020.lexicon import (
    NOUNS,
    UNKNOWN_NOUN,
    UNKNOWN_VERB,
    VERBS,
    VOCABULARY,
    encode,
    verb_ids,
)

NOUN_NUMBER = {form: bool(number) for pair in (*NOUNS, UNKNOWN_NOUN) for number, form in enumerate(pair)}
ALSO_VERBS = {form for pair in (*VERBS, UNKNOWN_VERB) for form in pair}
"""Words that can be nouns and verbs (place, show, an unknown word)."""


def digest(found: list[Sentence]) -> str:
    return hashlib.sha256("\n".join(" ".join(s.words) for s in found).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def natural() -> list[Sentence]:
    return sentences(2000, 3, attractors=NATURAL, mixed=NATURAL_MIXED)


@pytest.fixture(scope="module")
def balanced() -> list[Sentence]:
    return sentences(1000, 4, attractors=BALANCED)


def test_the_verb_agrees_with_its_subject_and_the_other_form_does_not(natural, balanced):
    for sentence in natural + balanced:
        subject, verb = sentence.words[sentence.subject], sentence.words[sentence.verb]
        assert NOUN_NUMBER[subject] == sentence.plural
        forms = (sentence.other, verb) if sentence.plural else (verb, sentence.other)
        assert forms in VERBS


def test_the_nouns_between_subject_and_verb_are_those_described(natural, balanced):
    """Counted where no word between them can be noun and verb."""
    counted = collections.Counter()
    for sentence in natural + balanced:
        between = sentence.words[sentence.subject + 1 : sentence.verb]
        nouns = [word for word in between if word in NOUN_NUMBER]
        if ALSO_VERBS.isdisjoint(nouns):
            attractors = sum(NOUN_NUMBER[noun] != sentence.plural for noun in nouns)
            assert (sentence.attractors, sentence.mixed) == (attractors, 0 < attractors < len(nouns))
            counted[attractors, sentence.mixed] += 1
    assert all(counted[kind] > 1 for kind in ((0, False), (1, False), (1, True), (2, False), (3, False)))


def test_sentences_are_a_function_of_the_arguments():
    many = sentences(50, 1, attractors=NATURAL)
    assert sentences(20, 1, attractors=NATURAL) == many[:20]
    assert sentences(20, 1, attractors=list(NATURAL), mixed=0) == many[:20]
    others = sentences(50, 2, attractors=NATURAL) + sentences(50, 1, attractors=BALANCED)
    assert len({sentence.words for sentence in many} & {sentence.words for sentence in others}) <= 2


def test_the_language_stays_as_it_is():
    """Its name is all of it that a run's identity has: other values are another language, with another identity."""
    assert hashlib.sha256(" ".join(VOCABULARY).encode()).hexdigest()[:16] == "23b737c149f2b659"
    assert digest(sentences(1000, 0, attractors=NATURAL, mixed=NATURAL_MIXED)) == "0385f18e05c9a280"
    assert digest(sentences(1000, 1, attractors=NATURAL, mixed=NATURAL_MIXED)) == "35e5d7e4af8cee66"
    assert digest(sentences(5000, 2, attractors=BALANCED)) == "6481aa728849a1fd"


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
    words = "The quokkas , Linzen walked slowly singing in 1999 % glass virus tennis king fly sped"
    classes = "the <unk-s> , <unk> <unk-ed> <unk-ly> <unk-ing> in <num> - <unk> <unk> <unk> <unk> <unk> <unk>"
    assert " ".join(VOCABULARY[token] for token in encode(words.split())) == classes


def test_a_question_is_what_comes_before_the_verb_and_its_two_forms():
    words = (*["the", "keys", "to", "the", "cabinet", "are", "old", ".", "<eos>"],)
    sentence = Sentence(words, subject=1, verb=5, plural=True, attractors=1, mixed=False, other="is")
    right, wrong = encode(["are", "is"])
    prefix = tuple(encode(["the", "keys", "to", "the", "cabinet"]))
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
