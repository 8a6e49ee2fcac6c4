"""A run is a function of its spec: what is in it, what is not, and that its id never moves."""

import dataclasses
import hashlib
import json
from collections.abc import Callable

import pytest

from kdrun.data import Augmentation
from kdrun.spec.augmentation import ColorJitter, RandAugment, RandomErasing
from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import SEMANTICS, Component, Recipe, Spec
from tests.made_up import spec_of

DATASET = ImageDatasetSpec("kdrun.data.digits", "sha256:0", 10, 1, 8, 1437, 360, mean=(0.5,), std=(0.25,))
SPEC = Spec(DATASET, Component("kdrun.models.cnn"), Component("kdrun.methods.CE"))


def test_what_is_at_its_default_is_left_out():
    assert SPEC.canonical() == {
        "dataset": {
            "target": "kdrun.data.digits",
            "identity": "sha256:0",
            "num_classes": 10,
            "in_channels": 1,
            "image_size": 8,
            "train_size": 1437,
            "test_size": 360,
            "mean": [0.5],
            "std": [0.25],
        },
        "student": {"target": "kdrun.models.cnn"},
        "method": {"target": "kdrun.methods.CE"},
        "semantics": SEMANTICS,
    }


def test_one_changed_field_is_all_that_is_added():
    recipe = Recipe(lr=0.05, augmentation=Augmentation(flip=True))
    changed = dataclasses.replace(SPEC, recipe=recipe, teachers=(SPEC,), stop_epoch=0)
    assert changed.canonical() == {
        **SPEC.canonical(),
        "recipe": {"lr": 0.05, "augmentation": {"flip": True}},
        "teachers": [SPEC.canonical()],
        "stop_epoch": 0,
    }


def test_the_run_id_is_the_sha256_of_the_canonical_json():
    plain = json.dumps(SPEC.canonical(), sort_keys=True, separators=(",", ":"))
    assert SPEC.run_id == hashlib.sha256(plain.encode()).hexdigest()[:10]


LAW = Augmentation(
    *(1, True, 5.0, (0.3, 0.9), (0.5, 1.5), ColorJitter(0.1, 0.2, 0.3, 0.1), RandAugment(2, 4, 11)),
    *(RandomErasing(0.5, (0.1, 0.2), (0.5, 1.5)), 0.5, 0.25),
)
EVERYTHING = dataclasses.replace(
    SPEC,
    dataset=dataclasses.replace(
        DATASET, train_fraction=0.5, val_fraction=0.1, classes=(0, 3), special=(0,), source={"mine": "1" * 64}
    ),
    student=Component("kdrun.models.mlp", {"hidden": (30, 20), "dropout": 0.25}, {"mine.net": "0" * 64, "timm": "1.0"}),
    method=Component("kdrun.methods.KD", {"temperature": 2.0}, "0" * 64),  # as specs of SEMANTICS 1 have it
    recipe=Recipe(epochs=9, milestones=(), lr_batch_size=None, augmentation=LAW),
    seed=2**32 - 1,
    precision="bf16",
    stop_epoch=3,
    teachers=(SPEC, dataclasses.replace(SPEC, seed=1, weights="0" * 64)),
    start=SPEC,
    semantics=SEMANTICS + 1,
)


@pytest.mark.parametrize(
    "spec",
    [
        lambda: SPEC,
        lambda: EVERYTHING,
        lambda: spec_of(),
        lambda: spec_of("method=tfkd_self", "student=mlp", "student.dropout=0.5", "teacher.stop_epoch=3"),
    ],
    ids=["default", "everything", "kd", "self"],
)
def test_spec_json_alone_rebuilds_the_spec(spec: Callable[[], Spec]):
    spec = spec()
    rebuilt = Spec.from_canonical(json.loads(spec.to_json()))
    assert rebuilt == spec
    assert rebuilt.run_id == spec.run_id
    shuffled = dict(reversed(json.loads(json.dumps(spec.canonical(), indent=2)).items()))
    assert Spec.from_canonical(shuffled).run_id == spec.run_id


def test_a_spec_without_the_sources_of_own_code():
    plain = EVERYTHING.without_sources()
    assert EVERYTHING.sources() == {"mine": "1" * 64, "mine.net": "0" * 64, "timm": "1.0", "kdrun.methods.KD": "0" * 64}
    assert plain.sources() == {}
    again = {"dataset": EVERYTHING.dataset, "student": EVERYTHING.student, "method": EVERYTHING.method}
    assert dataclasses.replace(plain, **again) == EVERYTHING
    of_teacher = dataclasses.replace(SPEC, teachers=(EVERYTHING,), start=EVERYTHING)
    assert of_teacher.sources() == EVERYTHING.sources()
    assert of_teacher.without_sources() == dataclasses.replace(SPEC, teachers=(plain,), start=plain)


def test_every_field_counts():
    ids = {SPEC.run_id}
    others = {
        "seed": 1,
        "precision": "bf16",
        "stop_epoch": 1,
        "teachers": (SPEC,),
        "weights": "0" * 64,
        "start": SPEC,
        "semantics": SEMANTICS + 1,
        "dataset": dataclasses.replace(DATASET, classes=(1, 2)),
        "student": Component("kdrun.models.cnn", {"dropout": 0.0}),
        "method": Component("kdrun.methods.LSR"),
        "recipe": Recipe(gamma=0.5),
    }
    assert set(others) == {field.name for field in dataclasses.fields(Spec)}
    ids |= {dataclasses.replace(SPEC, **{name: value}).run_id for name, value in others.items()}
    assert len(ids) == 1 + len(others)


MAIN = ("teacher=mlp", "student=mlp", "method=kd")


@pytest.mark.parametrize(
    "words",
    [
        ("method.temperature=4",),  # an integer where the default is 4.0
        ("method.temperature=4.0", "method.alpha=0.90", "recipe.lr=1e-1"),
        ("student.hidden=[800,800]", "++method.multiplier=1"),
        ("seed=0", "stop_epoch=null", "stop_epoch=20"),
        ("recipe.weight_decay=0.0005", "teacher.recipe.lr=0.1"),
        ("teacher.seeds=[0]",),
        ("runtime.threads=1", "runtime.output_root=elsewhere", "dataset.root=/somewhere"),
        ("runtime.device=auto", "runtime.precision=fp32"),
        ("recipe=digits", "dataset=digits"),
    ],
    ids=" ".join,
)
def test_what_changes_no_number_changes_no_id(words):
    assert spec_of(*MAIN, *words).run_id == spec_of(*MAIN).run_id
    assert spec_of(*reversed(words), *MAIN).run_id == spec_of(*MAIN).run_id


@pytest.mark.parametrize(
    "word",
    [
        "seed=1",
        "stop_epoch=19",
        "method.temperature=4.5",
        "student.dropout=0.1",
        "recipe.lr=0.05",
        "recipe.augmentation.rotation=0",
        "dataset.train_fraction=0.5",
        "dataset.mean=[0.3]",
        "runtime.precision=bf16",
        "teacher.recipe.epochs=19",
        "teacher.hidden=[30]",
        "teacher.method=lsr",
        "teacher.seeds=[1]",
        "teacher.stop_epoch=1",
    ],
)
def test_what_changes_a_number_changes_the_id(word):
    changed, plain = spec_of(*MAIN, word), spec_of(*MAIN)
    assert changed.run_id != plain.run_id
    same_teacher = word.startswith(("method.", "student.", "stop_epoch"))
    assert (changed.teachers == plain.teachers) == same_teacher


def test_a_sweep_over_what_only_the_student_has_shares_one_teacher():
    teachers = {spec_of(f"method.temperature={t}").teachers[0].run_id for t in (1, 4, 16)}
    assert len(teachers) == 1
    assert len({spec_of(f"seed={seed}").teachers[0].run_id for seed in (0, 1)}) == 2


PINNED = {  # raised only with SEMANTICS
    "teacher=resnet20": "aa9dc60526",
    "method=ce": "daa93c84d6",
    "method=lsr method.epsilon=0.2 seed=3": "fa741aff47",
    "method=tfkd_reg student=mobilenetv2": "33ff4b8030",
    "method=tfkd_self student=mlp dataset=mnist": "7e261cb651",
    "dataset=cifar100 teacher=resnet18 student=mobilenetv2 method=kd": "f5f0bdf04a",
    "experiment=tfkd_kd_mobilenetv2 teacher.stop_epoch=1": "525e7c6d3b",
    "dataset=tiny_imagenet teacher=resnet50 student=resnet18 teacher.stop_epoch=0.25 teacher.seeds=[7]": "01072a6667",
    "dataset=cifar10 student=cnn recipe.optimizer=adam recipe.lr=1e-3 dataset.val_fraction=0.1": "cd4144774e",
    "teacher=mlp teacher.hidden=[30] teacher.method=lsr dataset.classes=[0,1,2] runtime.precision=bf16": "de308b462e",
}


def test_ten_run_ids_stay_as_published():
    assert {words: spec_of(*words.split()).run_id for words in PINNED} == PINNED


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Recipe(epochs=0, lr=-1.0), r"epochs=0: must be at least 1 .*\nlr=-1.0: must be more than 0"),
        (lambda: Recipe(milestones=(0.5, 0.5)), r"milestones=\[0.5, 0.5\]: must be increasing"),
        (lambda: Recipe(warmup_epochs=201), "warmup_epochs=201: must be from 0 to recipe.epochs"),
        (lambda: dataclasses.replace(DATASET, classes=(2, 2)), r"classes=\[2, 2\]: .* each once"),
        (lambda: dataclasses.replace(DATASET, std=(0.0,)), r"std=\[0.0\]: must be one number above 0 per channel"),
    ],
    ids=["two at once", "milestones", "warm-up", "classes", "std"],
)
def test_values_out_of_range_are_refused(build, text):
    with pytest.raises(ValueError, match=text):
        build()


def test_epochs_trained():
    stopped = dataclasses.replace(SPEC, stop_epoch=50)
    assert [s.epochs_trained for s in (SPEC, stopped, dataclasses.replace(stopped, weights="0"))] == [200, 50, 0]
    assert Recipe(batch_size=64).scaled_lr == 0.05
    assert Recipe(batch_size=64, lr_batch_size=None).scaled_lr == 0.1


def test_every_field_changes_the_weights(lab):
    """No option is without effect: none is lost on its way from the spec to the training, or overruled there."""
    base = dataclasses.replace(
        lab.taught(), stop_epoch=2
    )  # of the lab's three epochs: beyond the warm-up and the first milestone
    recipes = {
        **{"epochs": 4, "batch_size": 8, "lr": 0.2, "lr_batch_size": 64, "optimizer": "adam", "momentum": 0.5},
        **{"nesterov": True, "weight_decay": 0.0, "milestones": (0.5,), "gamma": 0.5, "warmup_epochs": 0},
        **{"decay_norm_and_bias": False, "label_smoothing": 0.1, "accumulate": 2, "ema_decay": 0.5},
        **{"schedule": "cosine", "clip_norm": 0.1, "max_norm": 0.5, "augmentation": Augmentation()},
    }
    seen = {"evaluate_every"}  # changes what is known of the weights only, see test_evaluation_schedule
    of_ranks = {"batch_norm", "ranks"}  # see training/test_ranks
    lowest = dataclasses.replace(lab.recipe, schedule="cosine", min_lr=0.1)
    assert {*recipes, "min_lr"} | seen | of_ranks == {field.name for field in dataclasses.fields(Recipe)}
    datasets = {"mean": (0.4,), "std": (0.2,), "train_fraction": 0.5, "val_fraction": 0.2, "classes": (0, 1, 2)}
    data = {"target", "identity", "num_classes", "in_channels", "image_size", "train_size", "test_size", "test_split"}
    data |= {"source"}  # of a loader of the user's own
    data |= {"resize_size", "skip_corrupt"}  # of image files, see data/test_image_files and config/test_residence
    special = {"special": (0,), "dustbin": False}  # with a dustbin it would need another teacher, see test_start
    drawn = {**special, "special_seed": 1}
    assert set(datasets) | set(drawn) | data == {field.name for field in dataclasses.fields(ImageDatasetSpec)}
    specs = [
        *(("recipe", dataclasses.replace(lab.recipe, **{name: value})) for name, value in recipes.items()),
        ("recipe", lowest),
        *(("dataset", dataclasses.replace(lab.dataset, **{name: value})) for name, value in datasets.items()),
        *(("dataset", dataclasses.replace(lab.dataset, **options)) for options in (special, drawn)),
        ("start", lab.plain(seed=3)),
        *(("student", Component("kdrun.models.mlp", options)) for options in ({"hidden": (32,)}, {"hidden": (31,)})),
        ("student", Component("kdrun.models.mlp", {"hidden": (32,), "dropout": 0.2, "input_dropout": 0.2})),
        *(("method", lab.by("KD", **options)) for options in ({"temperature": 2.0}, {"alpha": 0.5})),
        *(("method", lab.by("KD", **options)) for options in ({"kl_reduction": "mean"}, {"multiplier": 50.0})),
        *(("seed", 1), ("precision", "bf16"), ("stop_epoch", 1)),
        *(("teachers", (dataclasses.replace(lab.teacher, **change),)) for change in ({"seed": 1}, {"stop_epoch": 1})),
    ]
    trained = {}
    changed = [dataclasses.replace(base, **{name: value}) for name, value in [("stop_epoch", 2), *specs]]
    for outcome in lab.execute_all(changed):
        assert not isinstance(outcome, Exception), outcome
        trained.setdefault(outcome.run.weights.read_bytes(), []).append(outcome.run.spec)
    assert [same for same in trained.values() if len(same) > 1] == []
