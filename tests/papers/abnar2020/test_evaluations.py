"""Evaluations of finished runs against what the exported weights compute."""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kdrun.config.compose import hydra_session
from kdrun.config.evaluations import evaluations_of_table
from kdrun.data import DataError, synthetic
from kdrun.experiment.build import build_student
from kdrun.experiment.derived import EvaluatedRun, compute, kept
from kdrun.papers.abnar2020 import corruptions, evaluations
from kdrun.papers.abnar2020.datasets import agreement_lm
from kdrun.papers.abnar2020.evaluations import answered, scores
from kdrun.papers.abnar2020.grammar import BALANCED, NATURAL, Question, questions_of, sentences
from kdrun.papers.abnar2020.lexicon import encode
from kdrun.papers.abnar2020.real_agreement import BLIMP_ONE_PREFIX, BLIMP_TWO_PREFIXES
from kdrun.store.checkpoint import read_weights

CORRUPTED = ("translate", "scale", "rotate", "stripe")
NAMES = ("test", *CORRUPTED, "agreement", "linzen", "blimp")


@functools.cache
def named() -> dict:
    """The evaluations of the config group by name."""
    problems: list[str] = []
    with hydra_session():
        found = evaluations_of_table(NAMES, problems, extra=None)
    assert problems == []
    return {each.name: each for each in found}


def network_of(lab, spec) -> nn.Module:
    """What a run exported."""
    network = build_student(spec.student, spec.dataset).eval()
    network.load_state_dict(read_weights(lab.execute(spec).run.weights)[0])
    return network.double()


def asked(lab, spec, on: str) -> dict:
    lab.execute(spec)
    return compute(EvaluatedRun((spec,), named()[on]), lab.runner())


def softmax(logits: torch.Tensor) -> np.ndarray:
    powers = np.exp(logits.numpy() - logits.numpy().max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def ece(probs: np.ndarray, labels: np.ndarray, bins: int) -> float:
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    numbers = np.ceil(confidence * bins)
    gaps = [(right[numbers == n].mean() - confidence[numbers == n].mean()) * (numbers == n).mean() for n in {*numbers}]
    return float(np.abs(gaps).sum())


@pytest.mark.parametrize("name", ["test", *CORRUPTED])
def test_images_are_corrupted_and_then_seen_as_any_others(lab, name):
    spec = lab.plain("cnn")
    test = synthetic(num_classes=4, in_channels=1, image_size=8, train_size=66, test_size=40).test
    images = test.images if name == "test" else getattr(corruptions, name)(test.images)
    assert (name == "test") == torch.equal(images, test.images)
    network = network_of(lab, spec)
    with torch.no_grad():
        logits = network((images.double() / 255 - 0.5).permute(0, 3, 1, 2) / 0.25)
    found = asked(lab, spec, name)
    probs, labels = softmax(logits), test.labels.numpy()
    assert found["figures"] == pytest.approx(
        {
            "top-1": 100 * (probs.argmax(axis=1) == labels).mean(),
            "ECE": ece(probs, labels, 15),
            "ECE of 10⁶ bins": ece(probs, labels, 10**6),
        },
        abs=1e-5,
    )
    if name == "test":
        last = lab.run(spec).result()["test"]["last"]
        assert (found["figures"]["top-1"], found["figures"]["ECE"]) == pytest.approx((last["top1"], last["ece"]))


def test_on_text_the_test_set_has_a_perplexity(text):
    spec = text.plain()
    network, test = network_of(text, spec), agreement_lm(66, 20, 16).test
    with torch.no_grad():
        probs = softmax(network(test.tokens))
    labels = test.labels.flatten().numpy()
    found = asked(text, spec, "test")["figures"]
    assert found == pytest.approx(
        {
            "perplexity": math.exp(-np.log(probs[np.arange(320), labels]).mean()),
            "top-1": 100 * (probs.argmax(axis=1) == labels).mean(),
            "ECE": ece(probs, labels, 15),
        },
        rel=1e-4,
    )


def log_probs(network: nn.Module, question: Question, *, per_token: bool) -> tuple[float, float]:
    """Of the right and the wrong form, from the words before the verb alone: without padding, one at a time."""
    length = network.length
    prefix = (1, *question.prefix) if per_token else question.prefix
    with torch.no_grad():
        row = network(torch.tensor([prefix[-length:]]))[-1].log_softmax(0)
    right, wrong = (question.right, question.wrong) if per_token else (question.plural, not question.plural)
    return row[int(right)].item(), row[int(wrong)].item()


@pytest.mark.parametrize("student", ["lstm", "transformer"])
def test_scores_are_the_probabilities_after_the_words_before_the_verb(either, student):
    spec = either.plain(student)
    network, per_token = network_of(either, spec), either.dataset.labels_each > 1
    questions = questions_of(sentences(300, 5, attractors=BALANCED))
    lengths = [len(question.prefix) for question in questions]
    assert min(lengths) <= 3
    assert max(lengths) > 20, "longer than a piece of text"
    found = torch.stack(scores(either.runner(), spec, questions), dim=1)
    expected = [log_probs(network, question, per_token=per_token) for question in questions]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_generated_questions_are_of_no_sentences_that_were_trained_on(either, monkeypatch):
    monkeypatch.setattr(evaluations, "NUM_SENTENCES", 150)
    spec = either.plain()
    found = asked(either, spec, "agreement")
    network, per_token = network_of(either, spec), either.dataset.labels_each > 1
    made = sentences(150, 2, attractors=BALANCED)
    right, wrong = np.array([log_probs(network, each, per_token=per_token) for each in questions_of(made)]).T
    assert found["figures"]["accuracy"] == pytest.approx(100 * (right > wrong).mean(), abs=1e-6)
    for number, share in found["buckets"]["attractors"].items():
        of_these = np.array([each.attractors == int(number) and not each.mixed for each in made])
        assert share == pytest.approx(100 * (right > wrong)[of_these].mean(), abs=1e-6)
    seen = {each.words for seed in (0, 1) for each in sentences(2000, seed, attractors=NATURAL, mixed=0.25)}
    assert sum(each.words in seen for each in made) < 10


def test_figures_of_answers_by_hand():
    """Right are all but the second and the fifth."""
    kinds = [(0, 1), (0, 2), (1, 2), (2, 16), (3, 17), (None, 1), (3, 17)]
    questions = [Question((5,), 6, 7, True, attractors, distance) for attractors, distance in kinds]
    right = torch.tensor([0.9, 0.15, 0.9, 0.65, 0.35, 0.85, 0.7]).double()
    found = answered(questions, right.log(), (1 - right).log())
    shares = {"1": 100.0, "2": 50.0, "16": 100.0, "17": 50.0}
    assert found["buckets"] == {"attractors": {"0": 50.0, "1": 100.0, "2": 100.0, "3": 50.0}, "distance": shares}
    confidence = np.array([0.9, 0.85, 0.9, 0.65, 0.65, 0.85, 0.7])
    hits = np.array([1, 0, 1, 1, 0, 1, 1])
    # each has one of the 15 bins for itself: the 14th, 13th, 11th and 10th
    gaps = [abs((hits - confidence)[confidence == value].sum()) / 7 for value in (0.9, 0.85, 0.7, 0.65)]
    assert found["figures"] == pytest.approx(
        {
            "accuracy": 100 * 5 / 7,
            "D-accuracy": (100 + 50 + 100) / 3,
            "A-accuracy": 75.0,
            "2+ attractors": 100 * 2 / 3,
            "ECE": sum(gaps),
        }
    )
    bare = answered([Question((5,), 6, 7, True)], right[:1].log(), (1 - right[:1]).log())
    assert (bare["figures"].keys(), bare["buckets"]) == ({"accuracy", "ECE"}, {})


def ids(text: str) -> tuple[int, ...]:
    return tuple(encode(text.split()))


@pytest.fixture
def real(tmp_path) -> Path:
    """The published files, small."""
    place = tmp_path / "agreement"
    place.mkdir()
    lines = [
        ("the keys to the cabinet are on the table . <eos>", "5\tare\tis\t1"),
        ("the village undergoes changes . <eos>", "2\tundergoes\tundergo\t0"),  # of no known verb: left out
        ("the author has it . <eos>", "2\thas\thave\t0"),
        ("the authors of the book know it . <eos>", "5\tknow\tknows\t1"),
    ]
    for column, name in enumerate(("text", "gold")):
        (place / f"subj_agr_filtered.{name}").write_text("".join(f"{line[column]}\n" for line in lines))
    one = [
        {"one_prefix_prefix": "The authors", "one_prefix_word_good": "were", "one_prefix_word_bad": "was"},
        {"one_prefix_prefix": "The film about teachers", "one_prefix_word_good": "has", "one_prefix_word_bad": "have"},
    ]
    two = [
        {"two_prefix_prefix_good": "The woman", "two_prefix_prefix_bad": "The women", "two_prefix_word": "isn't"},
        {"two_prefix_prefix_good": "The boys", "two_prefix_prefix_bad": "The boy", "two_prefix_word": "know"},
        {"two_prefix_prefix_good": "These men", "two_prefix_prefix_bad": "This man", "two_prefix_word": "were"},
    ]
    for names, entries in ((BLIMP_ONE_PREFIX, one), (BLIMP_TWO_PREFIXES, two)):
        for name in names:
            (place / f"{name}.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return place


def test_real_sentences_are_asked_for_verbs_of_the_vocabulary(either, real):
    spec = either.plain()
    network, per_token = network_of(either, spec), either.dataset.labels_each > 1
    asked_for = [
        ("the keys to the cabinet", "are", "is", True),
        ("the author", "has", "have", False),
        ("the authors of the book", "know", "knows", True),
    ]
    questions = [Question(ids(prefix), *ids(f"{good} {bad}"), plural) for prefix, good, bad, plural in asked_for]
    hits = [right > wrong for right, wrong in (log_probs(network, each, per_token=per_token) for each in questions)]
    found = asked(either, spec, "linzen")
    assert found["figures"]["accuracy"] == pytest.approx(100 * np.mean(hits))
    assert found["buckets"] == {"attractors": {"0": 100.0 * hits[1], "1": pytest.approx(50.0 * (hits[0] + hits[2]))}}


def test_minimal_pairs_are_the_mean_of_six_paradigms(either, real):
    spec = either.plain()
    network, per_token = network_of(either, spec), either.dataset.labels_each > 1

    def log_prob(prefix: str, form: str, *, plural: bool) -> float:
        question = Question(ids(prefix), *ids(f"{form} {form}"), plural)
        return log_probs(network, question, per_token=per_token)[0]

    one = [
        log_prob("the authors", "were", plural=True) > log_prob("the authors", "was", plural=False),
        log_prob("the film about teachers", "has", plural=False)
        > log_prob("the film about teachers", "have", plural=True),
    ]
    two = [
        log_prob("the woman", "isn't", plural=False) > log_prob("the women", "isn't", plural=False),
        log_prob("the boys", "know", plural=True) > log_prob("the boy", "know", plural=True),
        log_prob("these men", "were", plural=True) > log_prob("this man", "were", plural=True),
    ]
    found = asked(either, spec, "blimp")
    shares = {name: 100 * np.mean(one) for name in BLIMP_ONE_PREFIX} | {
        name: 100 * np.mean(two) for name in BLIMP_TWO_PREFIXES
    }
    assert found["buckets"]["paradigm"] == pytest.approx(shares)
    assert found["figures"] == pytest.approx({"accuracy": np.mean(list(shares.values()))})


def test_figures_are_kept_under_a_key_of_name_and_run_and_not_computed_twice(lab, monkeypatch):
    spec = lab.plain("cnn")
    found = asked(lab, spec, "translate")
    derived = EvaluatedRun((spec,), named()["translate"])
    assert derived.identity == {"kind": "evaluation", "options": {"on": "translate"}, "run_ids": [spec.run_id]}
    path = lab.root / "outputs" / "derived" / f"{derived.key}.json"
    assert json.loads(path.read_text())["figures"] == found["figures"]
    assert found["run_ids"] == [spec.run_id]
    assert kept(lab.runner().store, EvaluatedRun((spec,), named()["rotate"])) is None
    monkeypatch.setattr(EvaluatedRun, "compute", None)
    assert compute(derived, lab.runner()) == found


def test_the_datasets_of_an_evaluation_and_its_files(lab, classes, text, tmp_path):
    fitting = [
        tuple(name for name, each in named().items() if each.evaluation.fits(place.dataset))
        for place in (lab, classes, text)
    ]
    assert fitting == [("test", *CORRUPTED), *[("test", "agreement", "linzen", "blimp")] * 2]
    assert [name for name, each in named().items() if each.missing_files(tmp_path)] == ["linzen", "blimp"]
    assert "has no subj_agr_filtered.text" in named()["linzen"].missing_files(tmp_path)
    spec = classes.plain()
    classes.execute(spec)
    with pytest.raises(DataError, match=r"has no distractor_agreement_relational_noun\.jsonl"):
        compute(EvaluatedRun((spec,), named()["blimp"]), classes.runner())


def test_files_that_are_there_are_found(real):
    assert [name for name, each in named().items() if each.missing_files(real.parent)] == []
