"""The two datasets of generated sentences, against the sentences themselves."""

import pytest
import torch
import yaml

from kdrun.config.compose import compose_job, hydra_session
from kdrun.config.composition import papers_directory
from kdrun.config.preflight import check_job
from kdrun.data import check_sequences
from kdrun.papers.abnar2020.datasets import agreement, agreement_lm, left_padded, right_padded
from kdrun.papers.abnar2020.grammar import NATURAL, NATURAL_MIXED, sentences
from kdrun.papers.abnar2020.lexicon import VERBS, VOCABULARY

PLURAL = {form: number for pair in VERBS for number, form in enumerate(pair)}


def spelled(tokens: torch.Tensor) -> list[str]:
    return [VOCABULARY[token] for token in tokens.tolist()]


def written(seed: int, count: int = 50):
    return sentences(count, seed, attractors=NATURAL, mixed=NATURAL_MIXED)


def test_a_question_ends_before_the_verb_whose_number_is_its_label():
    splits = agreement(50, 40, 32)
    for part, seed, size in ((splits.train, 0, 50), (splits.test, 1, 40)):
        assert part.tokens.shape == (size, 32)
        for tokens, label, sentence in zip(part.tokens, part.labels.tolist(), written(seed, size), strict=True):
            prefix = list(sentence.words[: sentence.verb])
            assert spelled(tokens) == ["<pad>"] * (32 - len(prefix)) + prefix
            assert label == PLURAL[sentence.words[sentence.verb]]
    short = agreement(50, 40, 6)
    assert torch.equal(short.train.tokens, splits.train.tokens[:, -6:]), "of longer ones the last words"
    assert splits.class_names == ("singular", "plural")


def test_text_is_the_sentences_one_after_the_other_and_the_label_of_a_token_is_the_next():
    splits = agreement_lm(12, 8, 10)
    for part, seed in ((splits.train, 0), (splits.test, 1)):
        text = ["<eos>", *(word for sentence in written(seed) for word in sentence.words)]
        size = 10 * len(part)
        assert spelled(part.tokens.flatten()) == text[:size]
        assert spelled(part.labels.flatten()) == text[1 : size + 1]
    assert splits.class_names == VOCABULARY


@pytest.mark.parametrize("loader", [agreement, agreement_lm])
def test_training_and_test_are_others_and_fewer_are_the_first_ones_of_more(loader):
    splits, smaller = loader(60, 60, 12), loader(20, 10, 12)
    seen = {tuple(tokens) for tokens in splits.train.tokens.tolist()}
    fresh = [tuple(tokens) not in seen for tokens in splits.test.tokens.tolist()]
    assert sum(fresh) > 50, "short sentences can be the same"
    for part, first in ((splits.train, smaller.train), (splits.test, smaller.test)):
        assert torch.equal(part.tokens[: len(first)], first.tokens)
        assert torch.equal(part.labels[: len(first)], first.labels)


@pytest.mark.parametrize(
    ("tokens", "left", "right"),
    [
        ((5, 6), [0, 0, 5, 6], [1, 5, 6, 0]),
        ((5, 6, 7), [0, 5, 6, 7], [1, 5, 6, 7]),
        ((5, 6, 7, 8), [5, 6, 7, 8], [5, 6, 7, 8]),
        ((5, 6, 7, 8, 9), [6, 7, 8, 9], [6, 7, 8, 9]),
    ],
)
def test_padding_stands_on_the_left_for_classifiers_and_on_the_right_for_language_models(tokens, left, right):
    assert left_padded(tokens, 4).tolist() == left
    assert right_padded(tokens, 4).tolist() == right


KEYS = ["_target_", "identity", "num_classes", "num_tokens", "length", "per_token", "train_size", "test_size"]


@pytest.mark.parametrize("loader", [agreement, agreement_lm], ids=["agreement", "agreement_lm"])
def test_a_dataset_is_what_its_config_says(loader):
    config = yaml.safe_load((papers_directory() / f"abnar2020/conf/dataset/{loader.__name__}.yaml").read_text())
    assert list(config) == KEYS
    assert config["_target_"] == f"{loader.__module__}.{loader.__name__}"
    splits = loader(40, 30, config["length"])
    check_sequences(splits, **{key: config[key] for key in ("num_classes", "num_tokens", "length", "per_token")})
    assert (len(splits.train), len(splits.test)) == (40, 30)
    assert config["num_tokens"] == len(VOCABULARY)


@pytest.mark.parametrize("student", ["lstm", "transformer", "transformer_seq", "utransformer_seq"])
def test_every_network_for_sequences_can_be_student_and_teacher(student):
    words = ("dataset=agreement", f"student={student}", f"teacher={student}")
    with hydra_session():
        spec = check_job(compose_job(words, []), words).spec
    assert spec.teachers[0].student == spec.student
