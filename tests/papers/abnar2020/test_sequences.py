"""Runs on sequences, with a label each or with one a token: what holds for runs on images holds for them."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrun import methods
from kdrun.config.compose import ConfigError
from kdrun.experiment.attempt import Request
from kdrun.experiment.build import build_student
from kdrun.papers.abnar2020.datasets import agreement_lm
from kdrun.spec.components import method_class
from kdrun.spec.dataset import SequenceDatasetSpec
from kdrun.spec.spec import SEMANTICS, Component, Spec
from kdrun.store.checkpoint import read_weights
from kdrun.training.teacher import LiveTeacher
from tests.made_up import spec_of


def weights(lab, spec) -> dict[str, torch.Tensor]:
    return read_weights(lab.execute(spec).run.weights)[0]


def distilled(lab, **options) -> Spec:
    """Two layers whose weights come from four."""
    method = lab.by("WeightDistillation", **{"stage1_epochs": 2, **options})
    return lab.plain("transformer", method=method, teachers=(lab.plain("deep_transformer"),))


RUNS = {
    "transformer": (lambda lab: lab.taught("transformer"), 2),
    "generated": (distilled, 2),  # at the border of the stages
}


@pytest.mark.parametrize(("made", "epoch"), RUNS.values(), ids=list(RUNS))
def test_interrupted_run_resumes_to_the_same_bits(either, monkeypatch, made, epoch):
    spec = made(either)
    whole, method = either.execute(spec, "whole").run, method_class(spec.method)
    forward = method.forward

    def stopping(self, batch, teacher):
        if (batch.epoch, batch.step) == (epoch, 2):
            raise KeyboardInterrupt
        return forward(self, batch, teacher)

    with monkeypatch.context() as patch:
        patch.setattr(method, "forward", stopping)
        with pytest.raises(KeyboardInterrupt):
            either.execute(spec)
    assert len(either.run(spec).rows()) == epoch
    assert either.bits(either.execute(spec).run) == either.bits(whole)


def test_each_member_is_bit_for_bit_itself_alone(either):
    specs = [
        either.taught(temperature=1.0),
        either.taught("lstm", temperature=8.0, alpha=0.3),
        replace(either.taught(), recipe=replace(either.recipe, lr=0.1, optimizer="sgd", clip_norm=None)),
        replace(either.taught(), stop_epoch=2),
        either.plain("lstm", method=either.by("LSR")),
    ]
    for request, outcome in either.runner("together", threads=1).execute_all([Request(spec) for spec in specs]):
        alone = either.execute(request.spec, "alone", replay_gb=0.0, threads=1)
        assert either.bits(outcome.run) == either.bits(alone.run)
        assert (outcome.result["train"]["lockstep"], alone.result["train"]["lockstep"]) == (len(specs), 1)


TINY = ("dataset.train_size=48", "dataset.test_size=20", "dataset.length=16", "recipe.epochs=1", "recipe.batch_size=16")
NETWORKS = (
    *("student=transformer_seq", "student.width=8", "student.heads=2", "student.depth=1", "recipe.lr=0.02"),
    *("teacher=transformer_seq", "teacher.width=8", "teacher.heads=2", "teacher.depth=2"),
)
OPTIONS = {
    "takd": ("method.assistant=lstm",),
    "weight_distillation": ("method.stage1_epochs=1",),
    "fitnet": ("method.stage1_epochs=1",),
    "sum": ("~method.terms.at", "method.terms.dkd.weight=0.5"),
}
MAPS = "student=transformer: has no feature maps [C, H, W]"
VECTORS = "method.student_tap=None: transformer has no tap of one vector per image before its logits"
REFUSED = {
    "agreement": {"at": MAPS, "fsp": MAPS},
    "agreement_lm": {"at": MAPS, "fsp": MAPS, "fitnet": VECTORS, "rkd": VECTORS, "sp": VECTORS, "crd": VECTORS},
}
NAMES = list(methods.shipped_methods())


@pytest.mark.parametrize("dataset", [pytest.param("agreement", marks=pytest.mark.slow), "agreement_lm"])
def test_every_method_runs_on_sequences_or_says_why_not(lab, dataset):
    specs, refused = {}, {}
    for name in NAMES:
        try:
            specs[name] = spec_of(f"dataset={dataset}", *TINY, *NETWORKS, f"method={name}", *OPTIONS.get(name, ()))
        except ConfigError as error:
            (refused[name],) = error.problems
    assert refused.keys() == REFUSED[dataset].keys()
    assert all(text.startswith(REFUSED[dataset][name]) for name, text in refused.items())
    requests = [Request(spec) for spec in specs.values()]
    ended = {request.spec.run_id: end for request, end in lab.runner(threads=1).execute_all(requests)}
    moved = {}
    for name, spec in specs.items():
        outcome = ended[spec.run_id]
        assert not isinstance(outcome, Exception), (name, outcome)
        for row in outcome.run.rows():
            assert all(np.isfinite(value) for value in row["train"].values()), name
            assert {"top1", "nll"} <= row["test"].keys()
        moved[name] = outcome.run.weights.read_bytes()
    alike = [(a, b) for a in moved for b in moved if a < b and moved[a] == moved[b]]
    of_two_classes = [("kd", "kd_pt")]  # where confidence in the true one is all there is
    assert alike == (of_two_classes if dataset == "agreement" else []), "each has a lesson of its own"


def test_what_a_language_model_is_taught_is_the_mean_over_the_tokens(text):
    """An epoch of one step of a student without dropout: its terms, from the logits of both networks before it."""
    calm = {"dropout": 0.0, "embedding_dropout": 0.0}
    student = Component("kdrun.models.transformer", {"causal": True, "width": 8, "heads": 2, "depth": 2, **calm})
    recipe = replace(text.recipe, epochs=1, batch_size=66)
    spec = replace(text.taught(temperature=2.0), student=student, recipe=recipe)
    logits = {}
    splits = agreement_lm(66, 20, 16)
    for who, run in (("student", replace(spec, stop_epoch=0)), ("teacher", text.teacher)):
        network = build_student(run.student, run.dataset).eval()
        network.load_state_dict(weights(text, run))
        with torch.no_grad():
            logits[who] = network(splits.train.tokens).double().numpy().reshape(66, 16, 547)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        x = x - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    soft, taught = (log_softmax(logits[who] / 2.0) for who in ("teacher", "student"))
    kd = 4.0 * (np.exp(soft) * (soft - taught)).sum(axis=-1).mean()
    following, labels = log_softmax(logits["student"]), splits.train.labels.numpy()
    ce = -np.mean([following[n, t, labels[n, t]] for n in range(66) for t in range(16)])
    hits = logits["student"].argmax(-1) == labels
    (row,) = text.execute(spec).run.rows()
    assert row["train"]["kd"] == pytest.approx(kd, rel=1e-5)
    assert row["train"]["ce"] == pytest.approx(ce, rel=1e-5)
    assert row["train"]["top1"] == pytest.approx(100 * hits.mean(), rel=1e-5)
    assert row["train"]["teacher_top1"] == pytest.approx(
        100 * (logits["teacher"].argmax(-1) == labels).mean(), rel=1e-5
    )


def test_weights_are_distilled_from_four_layers_to_two(text):
    """With a generator that hardly moves, what has one source is that of the teacher, but for the tanh."""
    still = replace(text.recipe, lr=1e-12)
    begun = weights(text, replace(distilled(text), recipe=still, stop_epoch=2))
    source = weights(text, text.plain("deep_transformer"))
    assert {name.split(".")[1] for name in begun if name.startswith("layers.")} == {"0", "1"}
    torch.testing.assert_close(begun["classifier.weight"], source["classifier.weight"])
    for name in ("embedding.tokens.weight", "embedding.positions.weight", "norm.bias"):
        torch.testing.assert_close(begun[name], source[name].tanh())
    rows = text.execute(distilled(text)).run.rows()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert all({"kd", "ce", "teacher_top1"} <= row["train"].keys() for row in rows)
    assert rows[-1]["train"]["loss"] < rows[0]["train"]["loss"]


def test_a_result_counts_tokens_where_they_have_labels(either):
    outcome = either.execute(either.plain("lstm"))
    assert either.images_trained_on(outcome) == 3 * 66 * either.dataset.labels_each
    labels = 547 if either.dataset.labels_each > 1 else 2
    lstm = 4 * (8 * 8 + 8 * 8 + 8 + 8)
    assert outcome.result["student"]["params"] == 547 * 8 + 2 * lstm + 8 * labels + labels


def test_what_a_teacher_says_of_sentences_is_replayed_and_of_text_is_not(either, monkeypatch, caplog):
    caplog.set_level("INFO")
    answered = []
    call = LiveTeacher.__call__
    monkeypatch.setattr(LiveTeacher, "__call__", lambda self, batch: answered.append(batch.epoch) or call(self, batch))
    either.execute(either.taught(temperature=1.0))
    answered.clear()
    second = either.taught(temperature=3.0)
    run = either.execute(second).run
    per_token = either.dataset.labels_each > 1
    assert len(answered) == (15 if per_token else 0)
    assert ("is not cached: its outputs are one row for each token" in caplog.text) == per_token
    assert (either.root / "outputs" / "replay").exists() != per_token
    assert either.bits(run) == either.bits(either.execute(second, "live", replay_gb=0.0).run)


def test_a_spec_of_sequences_has_what_is_not_at_its_default_and_is_rebuilt(either):
    spec = either.taught(temperature=2.0)
    dataset = spec.canonical()["dataset"]
    names = {"target", "identity", "num_classes", "num_tokens", "length", "train_size", "test_size"}
    assert dataset.keys() == names | ({"per_token"} if either.dataset.labels_each > 1 else set())
    assert spec.canonical()["semantics"] == SEMANTICS
    changed = replace(spec, dataset=replace(spec.dataset, train_fraction=0.5, val_fraction=0.25))
    assert changed.canonical()["dataset"] == {**dataset, "train_fraction": 0.5, "val_fraction": 0.25}
    for each in (spec, changed):
        rebuilt = Spec.from_canonical(json.loads(each.to_json()))
        assert rebuilt == each
        assert rebuilt.run_id == each.run_id
        assert isinstance(rebuilt.teachers[0].dataset, SequenceDatasetSpec)


def test_every_field_of_the_data_is_another_dataset_or_changes_the_weights(text):
    choices = {"train_fraction": 0.5, "val_fraction": 0.2}
    facts = {field.name for field in dataclasses.fields(SequenceDatasetSpec)} - set(choices) - {"source"}
    assert set(SequenceDatasetSpec.task) == facts
    changes = [{"length": 12}, {"train_size": 50}, *({name: value} for name, value in choices.items()), {}]
    datasets = [replace(text.dataset, **change) for change in changes]
    assert len({text.execute(text.plain(dataset=each)).run.weights.read_bytes() for each in datasets}) == 5
    assert [each.same_task(text.dataset) for each in datasets] == [False, False, True, True, True]
    assert [each.same_views(text.dataset) for each in datasets] == [False, True, True, True, True]
    held = text.execute(text.plain(dataset=replace(text.dataset, val_fraction=0.2))).result
    assert {"top1", "nll", "epoch"} <= held["val"]["selected"].keys()


PINNED = {  # raised only with SEMANTICS
    "dataset=agreement student=transformer teacher=lstm method.temperature=1": "9bc0d42512",
    "dataset=agreement_lm student=utransformer_seq teacher=lstm teacher.width=256 recipe.epochs=3 seed=2": "a34481caae",
}


def test_two_run_ids_stay_as_published():
    assert {words: spec_of(*words.split()).run_id for words in PINNED} == PINNED
