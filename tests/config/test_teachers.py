"""The teacher of a command line: which it is, how it was trained, and weights of the user's own."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdrun.experiment.build import build_student
from kdrun.spec.spec import Component


def test_a_method_without_a_teacher_leaves_it_out_of_the_spec(job):
    alone = job("method=ce")
    assert alone.spec.teachers == ()
    assert job("method=ce", "teacher=none").spec == alone.spec
    asked = job("method=ce", "teacher=resnet56")
    assert asked.spec.run_id == alone.spec.run_id
    notice = "method ce has no use for a teacher: teacher=resnet56 is left aside"
    assert notice in asked.notices
    assert notice not in alone.notices
    assert alone.notices == job("method=ce", "teacher=none").notices


def test_self_distillation_is_taught_by_the_students_own_architecture(job):
    words = ("method=tfkd_self", "student=mlp", "student.hidden=[30]")
    spec = job(*words).spec
    (teacher,) = spec.teachers
    assert teacher.student == spec.student == Component("kdrun.models.mlp", {"hidden": (30,)})
    assert teacher.method == Component("kdrun.methods.CE")
    assert job(*words, "teacher=none").spec == spec
    asked = job(*words, "teacher=resnet56", "teacher.recipe.epochs=3")
    assert asked.spec.teachers[0].student == spec.student
    assert asked.spec.teachers[0].recipe.epochs == 3
    assert (
        "method tfkd_self is taught by the student's own architecture: teacher=resnet56 is left aside" in asked.notices
    )


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "resnet8"),
        (["dataset=digits", "teacher=resnet14"], "resnet14"),
        (["dataset=cifar100"], "resnet20"),
        (["dataset=cifar100", "teacher=cnn"], "cnn"),
        (["experiment=tfkd_kd_mobilenetv2", "dataset=digits"], "resnet18"),
    ],
)
def test_the_digits_have_a_default_teacher_of_their_own(job, words, name):
    """What the command line or an experiment names comes before it."""
    assert [teacher.student.name for teacher in job(*words).spec.teachers] == [name]


def test_a_teacher_is_a_run_of_its_own(job):
    spec = job("teacher.seeds=[7]", "teacher.method=lsr", "teacher.method.epsilon=0.2", "seed=3").spec
    (teacher,) = spec.teachers
    assert (spec.seed, teacher.seed) == (3, 7)
    assert teacher.method == Component("kdrun.methods.LSR", {"epsilon": 0.2})
    assert job("method=lsr", "method.epsilon=0.2", "student=resnet8", "seed=7").spec == teacher
    assert job("seed=3").spec.teachers[0].seed == 3, "without teacher.seeds it is the run's own"


@pytest.mark.parametrize(
    ("typed", "stop_epoch"),
    [("0.25", 50), ("50", 50), ("0", 0), ("0.999", None), ("0.001", 1)],
)
def test_a_stopped_teacher_keeps_the_whole_schedule(job, typed, stop_epoch):
    words = ("dataset=cifar100", "teacher=resnet18")
    (teacher,) = job(*words, f"teacher.stop_epoch={typed}").spec.teachers
    assert (teacher.stop_epoch, teacher.recipe.epochs) == (stop_epoch, 200)
    assert (teacher == job(*words).spec.teachers[0]) == (stop_epoch is None)


def test_a_teacher_can_be_trained_on_another_dataset(job):
    words = ("dataset=mnist", "dataset.train_fraction=0.02", "student=resnet8", "teacher=resnet14", "method=fsp")
    spec = job(*words, "teacher.trained_on=cifar100", "teacher.dataset.train_fraction=0.5").spec
    (teacher,) = spec.teachers
    other = job("dataset=cifar100", "dataset.train_fraction=0.5", "method=ce").spec.dataset
    assert (spec.dataset.name, spec.dataset.train_fraction, teacher.dataset) == ("mnist", 0.02, other)
    assert teacher.recipe == spec.recipe, "key by key, as ever"
    alone = job(*words).spec.run_id
    assert job(*words, "teacher.trained_on=mnist").spec.run_id == alone != spec.run_id
    words = (*words, "teacher.trained_on=cifar100", "teacher.method=kd", "teacher.teacher=resnet20")
    assert [each.dataset.name for each in job(*words).spec.all_teachers()] == ["cifar100", "cifar100"]


@pytest.fixture
def weights(job, tmp_path) -> dict[str, Path]:
    """A mlp for digits in files of several kinds."""
    dataset = job().spec.dataset
    state = build_student(Component("kdrun.models.mlp", {"hidden": (12,)}), dataset).state_dict()
    files = {name: tmp_path / f"own.{name}" for name in ("safetensors", "pt", "pth.tar")}
    save_file(state, files["safetensors"])
    torch.save(state, files["pt"])
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, files["pth.tar"])
    return files


OWN_TEACHER = ("teacher=mlp", "teacher.hidden=[12]")


@pytest.mark.filterwarnings("error")
def test_a_teacher_can_be_a_file_of_the_users_own(job, weights):
    for path in weights.values():
        checked = job(*OWN_TEACHER, f"teacher.checkpoint='{path}'")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert checked.weight_files == {digest: path}
        (teacher,) = checked.spec.teachers
        assert (teacher.weights, teacher.epochs_trained) == (digest, 0)
        trained_otherwise = job(*OWN_TEACHER, f"teacher.checkpoint='{path}'", "teacher.recipe.epochs=3", "seed=4")
        assert trained_otherwise.spec.teachers[0] == teacher, "how a file was trained is not known"
        moved = path.rename(path.with_stem("moved"))
        assert job(*OWN_TEACHER, f"teacher.checkpoint='{moved}'").spec == checked.spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {"classifier.weight": torch.zeros(5, 12)}, ("classifier.weight [5, 12], must be [10, 12]",)),
        (lambda state: {"classifier.bias": torch.full((10,), torch.nan)}, ("classifier.bias (10 of 10 values)",)),
        (lambda state: {"classifier.bias": state["classifier.bias"].to(torch.int8)}, ("classifier.bias is", "int8")),
        (lambda state: {"classifier.bias": state["classifier.bias"].to_sparse()}, ("classifier.bias is", "sparse")),
    ],
    ids=["shape", "nan", "int8", "sparse"],
)
def test_weights_that_cannot_be_used_are_refused_before_anything_is_run(kdrun, weights, tmp_path, change, words):
    state, path = torch.load(weights["pt"]), tmp_path / "odd.pt"
    torch.save(state | change(state), path)
    said = kdrun("--dry-run", *OWN_TEACHER, f"teacher.checkpoint={path}")
    assert said.code == 2
    assert [word for word in (str(path), *words) if word not in said.err] == []
    assert list(Path().iterdir()) == []


def test_weights_of_another_network_are_refused(kdrun, weights):
    assert kdrun("teacher=mlp", "teacher.hidden=[13]", f"teacher.checkpoint={weights['safetensors']}").code == 2
    assert list(Path().iterdir()) == []


class Touch:
    """Unpickled, it would write a file."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_weights_are_data_not_code(kdrun, tmp_path):
    files = {"code.pt": pickle.dumps(Touch(), protocol=2), "text.safetensors": b"no weights", "empty.pt": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        said = kdrun(*OWN_TEACHER, f"teacher.checkpoint={tmp_path / name}")
        assert said.code == 2, name
        assert "cannot be read as weights" in said.err
    torch.save({"a": Touch()}, tmp_path / "wrapped.pt")
    assert kdrun(*OWN_TEACHER, f"teacher.checkpoint={tmp_path / 'wrapped.pt'}").code == 2
    assert list(Path().iterdir()) == []


def test_how_a_checkpoint_was_read_is_a_notice(job, weights, tmp_path):
    state = torch.load(weights["pt"])
    content = {
        f"module.{who}.{name}": tensor.half() for who in ("teacher", "student") for name, tensor in state.items()
    }
    torch.save(content, tmp_path / "both.pt")
    notices = [
        text for text in job(*OWN_TEACHER, f"teacher.checkpoint={tmp_path / 'both.pt'}").notices if "both.pt" in text
    ]
    assert ["module.teacher" in text for text in notices] == [True, False]
    assert "float16" in notices[1]


def test_a_teacher_sees_all_classes_and_else_what_the_student_sees(job):
    spec = job("dataset.classes=[0,1]", "dataset.train_fraction=0.5").spec
    teacher = spec.teachers[0].dataset
    assert (spec.dataset.classes, teacher.classes) == ((0, 1), None)
    assert teacher.train_fraction == 0.5
    without = job("dataset.drop_classes=[2,3,4,5,6,7,8,9]", "dataset.train_fraction=0.5").spec
    assert without.run_id == spec.run_id, "another way to say it"
    half = job("teacher.dataset.drop_classes=[0,1,2,3,4]").spec
    assert half.teachers[0].dataset.classes == (5, 6, 7, 8, 9)
    spec = job("dataset.train_fraction=0.5", "teacher.dataset.train_fraction=1.0", "teacher.dataset.classes=[3,4]").spec
    assert (spec.dataset.train_fraction, spec.teachers[0].dataset.train_fraction) == (0.5, 1.0)
    assert spec.teachers[0].dataset.classes == (3, 4)


def test_a_teacher_stopped_within_its_first_stage_is_told(job):
    words = ("student=resnet8", "teacher=resnet8", "teacher.teacher=resnet8", "teacher.method=fsp")
    words = (*words, "recipe.epochs=4", "teacher.method.stage1_epochs=2")
    notice = "teacher.stop_epoch=2: within stage 1 of fsp, which has 2 epochs: the network has not seen stage 2"
    assert notice in job(*words, "teacher.stop_epoch=2").notices
    for stop in (0, 3):
        assert not [text for text in job(*words, f"teacher.stop_epoch={stop}").notices if "stage" in text]


def test_an_assistant_like_the_teacher_is_told(job):
    words = ("student=resnet8", "teacher=resnet20", "method=takd")
    (notice,) = [text for text in job(*words, "method.assistant=resnet20").notices if "assistant" in text]
    assert notice.startswith("method.assistant=resnet20: the network of the teacher, too")
    assert not [text for text in job(*words, "method.assistant=resnet14").notices if "assistant" in text]


def test_a_student_can_begin_with_its_teachers_weights(job, weights):
    network = ("student=mlp", "student.hidden=[12]", "teacher=mlp", "teacher.hidden=[12]", "start=teacher")
    alone = job(*network, "method=ce", "teacher.recipe.epochs=7")
    assert alone.spec.teachers == ()
    assert (alone.spec.start.recipe.epochs, alone.spec.start.student) == (7, alone.spec.student)
    assert not [notice for notice in alone.notices if "left aside" in notice]
    taught = job(*network, "method=kd").spec
    assert taught.teachers == (taught.start,)
    own = job(*network, "method=ce", f"teacher.checkpoint={weights['safetensors']}").spec
    assert own.start.weights is not None


def test_a_student_that_cannot_begin_with_its_teachers_weights_is_refused(kdrun):
    said = kdrun("start=teacher", "method=ce", "student=mlp", "teacher=mlp", "teacher.hidden=[9]")
    assert (said.code, "start=teacher: the student must be the teacher's network" in said.err) == (2, True)
    assert (
        "start=teacher needs one: teacher=OPTION, or start=null"
        in kdrun("start=teacher", "method=ce", "teacher=none").err
    )
    assert "start='x': must be teacher or null" in kdrun("start=x").err
    assert list(Path().iterdir()) == []
