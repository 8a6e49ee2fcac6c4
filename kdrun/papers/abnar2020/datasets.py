"""Datasets of the generated language: the number of the verb that comes next, or the text itself."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrun.data import SequenceSet, Splits
from kdrun.papers.abnar2020.grammar import NATURAL, NATURAL_MIXED, questions_of, sentences
from kdrun.papers.abnar2020.lexicon import VOCABULARY, encode

TRAIN_SEED, TEST_SEED = 0, 1
_PAD, _EOS = 0, 1
_MANY_SENTENCES = 1000


def agreement(train_size: int, test_size: int, length: int) -> Splits:
    """The words before a verb, labelled with its number: 0 singular, 1 plural.

    Sentences have attractors as in `NATURAL`, in training and test. They are padded on the left; of longer ones the
    last `length` words are kept.

    Args:
        train_size: sentences.
        test_size: sentences.
        length: tokens of each.
    """

    def questions(size: int, seed: int) -> SequenceSet:
        found = questions_of(sentences(size, seed, attractors=NATURAL, mixed=NATURAL_MIXED))
        tokens = torch.stack([left_padded(question.prefix, length) for question in found])
        return SequenceSet(tokens, torch.tensor([int(question.plural) for question in found]))

    return Splits(questions(train_size, TRAIN_SEED), questions(test_size, TEST_SEED), ("singular", "plural"))


def agreement_lm(train_size: int, test_size: int, length: int) -> Splits:
    """The same sentences as running text, one after the other, cut into pieces; the label of a token is the next one.

    Args:
        train_size: pieces.
        test_size: pieces.
        length: tokens of each.
    """

    def pieces(size: int, seed: int) -> SequenceSet:
        text = _text(size * length + 1, seed)
        return SequenceSet(text[:-1].view(size, length), text[1:].view(size, length))

    return Splits(pieces(train_size, TRAIN_SEED), pieces(test_size, TEST_SEED), VOCABULARY)


def left_padded(tokens: tuple[int, ...], length: int) -> Tensor:
    """The last `length` of the tokens, int64 `[length]`, behind padding where they are fewer."""
    kept = tokens[-length:]
    return torch.tensor([*[_PAD] * (length - len(kept)), *kept])


def right_padded(tokens: tuple[int, ...], length: int) -> Tensor:
    """What a language model reads: `<eos>` and the tokens, of more than `length` the last, before padding.

    Returns:
        int64 `[length]`.
    """
    kept = (_EOS, *tokens)[-length:]
    return torch.tensor([*kept, *[_PAD] * (length - len(kept))])


def _text(num_tokens: int, seed: int) -> Tensor:
    """The first `num_tokens` tokens of endless text after an `<eos>`, int64."""
    words = [_EOS]
    count = _MANY_SENTENCES
    while len(words) < num_tokens:
        written = sentences(count, seed, attractors=NATURAL, mixed=NATURAL_MIXED)
        words = [_EOS, *(token for sentence in written for token in encode(sentence.words))]
        count *= 2
    return torch.tensor(words[:num_tokens])
