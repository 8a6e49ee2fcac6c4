"""A teacher that was trained on another dataset: other images, other classes, and only its features are used."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrun import methods
from kdrun.experiment.build import build_student, check_tasks, conversion, needs_of
from kdrun.files import read_record, write_record
from kdrun.methods import Batch
from kdrun.methods.base import Needs
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Spec
from kdrun.taps import tapped
from kdrun.training.teacher import LiveTeacher

COLOUR = ImageDatasetSpec("kdrun.data.synthetic", "none", 6, 3, 12, 60, 30, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
"""The teacher's; the lab's is 4 classes of grey 8x8 images."""


@pytest.fixture(scope="module")
def lab(shared_lab):
    """Its teacher is trained once."""
    return shared_lab


def foreign(lab, student: str = "resnet14", **changes) -> Spec:
    return lab.plain(student, dataset=COLOUR, **changes)


def transferred(lab, method: str = "FSP", *, seed: int = 0, **options) -> Spec:
    """A student of the foreign teacher with this seed."""
    return lab.plain("resnet8", method=lab.by(method, **options), teachers=(foreign(lab, seed=seed),))


def resizing(size: int, to: int) -> np.ndarray:
    """`[to, size]`: a triangle over each new pixel's place, as wide as the larger of old and new pixels."""
    width = max(size / to, 1)
    places = (np.arange(to)[:, None] + 0.5) * size / to - (np.arange(size)[None] + 0.5)
    weights = np.maximum(0, 1 - np.abs(places) / width)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("channels", "size", "to_channels", "to"), [(1, 28, 3, 32), (3, 32, 1, 28), (3, 64, 3, 32)])
def test_conversion_is_that_of_the_images_themselves(channels, size, to_channels, to):
    pixels = np.random.default_rng(0).integers(0, 256, (5, channels, size, size)) / 255
    mean, std = np.array([0.1, 0.2, 0.3])[:channels], np.array([0.3, 0.2, 0.25])[:channels]
    to_mean, to_std = np.array([0.5, 0.4, 0.3])[:to_channels], np.array([0.26, 0.25, 0.27])[:to_channels]
    expected = pixels
    if (channels, to_channels) == (1, 3):
        expected = np.concatenate([pixels] * 3, axis=1)
    elif (channels, to_channels) == (3, 1):
        expected = (pixels[:, :1] + pixels[:, 1:2] + pixels[:, 2:]) / 3
    expected = resizing(size, to) @ expected @ resizing(size, to).T
    expected = (expected - to_mean[:, None, None]) / to_std[:, None, None]

    def dataset(count, pixels_wide, means, stds):
        return ImageDatasetSpec("x", "x", 2, count, pixels_wide, 9, 9, tuple(means), tuple(stds))

    convert = conversion(dataset(channels, size, mean, std), dataset(to_channels, to, to_mean, to_std))
    views = torch.from_numpy((pixels - mean[:, None, None]) / std[:, None, None]).float()
    torch.testing.assert_close(convert(views).numpy(), expected.astype(np.float32), rtol=1e-4, atol=2e-5)


def test_the_teacher_answers_about_the_converted_views(lab):
    torch.manual_seed(0)
    network = build_student(foreign(lab).student, COLOUR).eval()
    convert = conversion(lab.dataset, COLOUR)
    needs = Needs(logits=True, features=("stem", "layer2"), any_task=True)
    teacher = LiveTeacher(network, contextlib.nullcontext(), needs=needs, conversion=convert, same_task=False)
    x = torch.randn(4, 1, 8, 8)
    said = teacher(Batch(x, torch.arange(4), torch.arange(4), 0, 0, 0.0, torch.Generator()))
    with tapped(network, needs.features) as expected:
        network(convert(x))
    assert not said.same_task
    assert expected["stem"].shape == (4, 16, 12, 12)
    for tap, features in expected.items():
        torch.testing.assert_close(said.features[tap], features, rtol=1e-4, atol=1e-5)


def test_a_student_learns_from_the_features_of_another_dataset_s_teacher(lab):
    options = {"stage1_epochs": 4, "stage1_lr": 0.01}
    outcome = lab.execute(transferred(lab, **options))
    (told,) = outcome.result["teachers"]
    assert (outcome.result["dataset"], told["dataset"]) == ("synthetic", "synthetic")
    rows = outcome.run.rows()
    assert rows[3]["train"]["fsp"] < rows[0]["train"]["fsp"], "stage 1"
    shares = {name for row in rows for name in row["train"]} - {"loss", "fsp", "ce"}
    assert shares == {"top1"}, "the teacher's classes are not the student's"
    trained = lab.execute(transferred(lab, **options, weight=0.0))
    assert lab.bits(outcome.run) != lab.bits(trained.run)


def test_its_accuracy_is_checked_on_its_own_test_images(lab):
    teacher = lab.execute(foreign(lab, seed=5)).run
    recorded = teacher.result()["student"]["probe_top1"]
    lab.execute(transferred(lab, seed=5))
    assert read_record(teacher.directory / "verified-cpu-fp32.json")["probe_top1"] == pytest.approx(recorded)
    (teacher.directory / "verified-cpu-fp32.json").unlink()
    result = teacher.result()
    result["student"]["probe_top1"] += 5
    write_record(teacher.result_path, result)
    with pytest.raises(RuntimeError, match="on 30 test images here"):
        lab.execute(transferred(lab, seed=5, weight=0.5))


def test_the_same_images_normalised_otherwise_are_no_other_task(lab):
    """Up to rounding and what training makes of another scale: what matters is that logits are compared."""
    teacher = lab.plain("cnn", dataset=replace(lab.dataset, mean=(0.2,), std=(0.6,)))
    rows = lab.execute(lab.taught(teacher=teacher)).run.rows()
    assert max(row["train"]["teacher_top1"] for row in rows) > 50


def test_methods_that_compare_classes_are_refused_by_name(lab):
    kinds = [kind for kind in methods.shipped_methods().values() if kind.needs.teacher]
    assert {kind.name for kind in kinds if kind.needs.any_task} >= {"at", "crd", "fitnet", "fsp", "rkd", "sp", "sum"}
    for kind in kinds:
        spec = replace(lab.every(kind.name), teachers=(foreign(lab),))
        if not kind.needs.any_task:
            with pytest.raises(ValueError, match=f"teacher.trained_on=synthetic: method {kind.name} compares"):
                check_tasks(spec, kind.needs)
    with pytest.raises(ValueError, match="method kd compares"):
        lab.execute(lab.taught(teacher=foreign(lab)))


@pytest.mark.parametrize(
    ("method", "options", "refused"),
    [
        ("FitNet", {}, False),
        ("FitNet", {"stage1_epochs": 2}, True),
        ("Sum", {"terms": {"fsp": {}, "sp": {}, "lsr": None, "tfkd_reg": {}}}, False),
        ("Sum", {"terms": {"fsp": {}, "kd": {}}}, True),
        ("RKD", {}, False),
        ("SimilarityPreserving", {}, False),
        ("AT", {}, False),
        ("CRD", {}, False),
    ],
)
def test_options_decide_where_a_method_can_be_both(lab, method, options, refused):
    spec = transferred(lab, method, **options)
    with pytest.raises(ValueError, match="compares") if refused else contextlib.nullcontext():
        check_tasks(spec, needs_of(spec))


def test_an_interrupted_run_resumes_to_the_same_bits(lab, interrupted):
    spec = transferred(lab, stage1_epochs=2)
    whole = lab.execute(spec, "whole")
    interrupted(spec, epochs=1)
    assert lab.bits(lab.execute(spec).run) == lab.bits(whole.run)


def test_what_it_says_of_classes_is_neither_counted_nor_kept(lab):
    """Also where no feature is asked for, which is what is replayed otherwise."""
    outcome = lab.execute(transferred(lab, "Sum", terms={"tfkd_reg": {}}), "cached", replay_gb=1.0)
    assert {name for row in outcome.run.rows() for name in row["train"]} == {"loss", "top1", "ce", "tfkd_reg"}
    assert not (lab.root / "cached" / "replay").exists()
