"""Bad input is told whole and in time: one message, exit code 2, nothing written, no traceback."""

import hashlib
import pickle
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from kdrun.config.preflight import masked_yaml
from kdrun.experiment.build import build_student, student_component
from kdrun.experiment.spec import Component

GROUPS = "dataset, method, recipe, runtime, seed, stop_epoch, student, teacher"
BAD = [
    # names: the nearest spelling, and all that is allowed
    ("stuent=cnn", "stuent=cnn: no such key; did you mean student?", GROUPS),
    (
        "student=resnet81",
        "student=resnet81: no such option; did you mean resnet18?",
        "cnn, densenet121, googlenet, mlp",
    ),
    ("teacher=resnet65", "teacher=resnet65", "did you mean resnet56?"),
    ("method=kdd", "method=kdd", "did you mean kd? Allowed: ce, kd, lsr, tfkd_reg, tfkd_self"),
    ("teacher.method=lsrr", "teacher.method=lsrr", "did you mean lsr?"),
    ("dataset=cifar1000", "dataset=cifar1000", "did you mean cifar100?"),
    ("recipe=fashion", "recipe=fashion: no such option", "did you mean fashion_mnist?"),
    ("experiment=tfkd", "experiment=tfkd: no such option", "tfkd_kd_mobilenetv2, tfkd_reg_mobilenetv2"),
    ("recipe.epoch=5", "recipe.epoch=5: no such key in recipe; did you mean epochs?", "augmentation, batch_size"),
    ("recipe.augmentation.shear=3", "no such key in recipe.augmentation", "Allowed: crop_padding, flip, rotation"),
    ("method.temprature=4", "method.temprature=4", "did you mean temperature?", "alpha, kl_reduction, multiplier"),
    ("student.hidden=[3]", "student.hidden=[3]: no such key in student; Allowed: dropout"),
    ("teacher.recipe.bach_size=3", "no such key in teacher.recipe; did you mean batch_size?"),
    ("runtime.prescision=bf16", "did you mean precision?", "device, output_root, precision, threads"),
    # a plus lets Hydra take any key; kdrun does not
    ("+foo=1", "foo: no such option", GROUPS),
    ("+recipe.epoch=5", "recipe.epoch: no such option; did you mean epochs?"),
    ("++student.hidden=[3]", "student.hidden: no such option; Allowed: dropout"),
    ("+method.foo=3", "method.foo: no such option", "temperature"),
    ("+teacher.recipe.foo=3", "teacher.recipe.foo: no such option"),
    # words that are no overrides
    ("student", "student: cannot be parsed as key=value"),
    ("recipe.milestones=[0.3", "recipe.milestones=[0.3: cannot be parsed"),
    ("=3", "=3", "no such key"),
    ("seed=0,1", "seed=0,1: several values need -m (--multirun)"),
    ("-m student=glob(vgg*)", "student=glob(vgg*): no value to sweep over"),
    ("-m method.alpha=interval(0,1)", "method.alpha=interval(0,1): no value to sweep over"),
    ("--config-dir nowhere", "--config-dir nowhere: no such directory"),
    # types
    ("recipe.epochs=2.5", "recipe.epochs=2.5: must be an integer"),
    ("recipe.epochs=true", "recipe.epochs=True: must be an integer"),
    ("recipe.lr=fast", "recipe.lr='fast': must be a finite number"),
    ("recipe.lr=nan", "recipe.lr=nan: must be a finite number"),
    ("recipe.augmentation.flip=maybe", "recipe.augmentation.flip='maybe': must be true or false"),
    ("recipe.milestones=0.5", "recipe.milestones=0.5: must be a list, each item a finite number"),
    ("student=mlp student.hidden=[a]", "student.hidden[0]='a': must be an integer"),
    ("seed=1.5", "seed=1.5: must be an integer"),
    ("seed=null", "seed=None: must be an integer"),
    ("runtime.output_root=null", "runtime.output_root=None: must be text"),
    ("dataset.root=3 dataset=cifar100", "dataset.root=3: must be text or null"),
    ("seed=???", "seed: must be given: seed=VALUE"),
    ("seed=${foo}", "foo", "not found"),
    # ranges
    ("seed=-1", "seed=-1: must be from 0 to 4294967295"),
    ("recipe.epochs=0", "recipe.epochs=0: must be at least 1"),
    ("recipe.batch_size=1", "recipe.batch_size=1: must be at least 2"),
    ("recipe.optimizer=adamw", "recipe.optimizer='adamw': must be sgd or adam"),
    ("recipe.milestones=[60,120]", "recipe.milestones=[60.0, 120.0]: must be increasing shares of the epochs"),
    ("recipe.milestones=[0.6,0.3]", "recipe.milestones=[0.6, 0.3]: must be increasing"),
    ("recipe.warmup_epochs=30", "recipe.warmup_epochs=30: must be from 0 to recipe.epochs"),
    ("recipe.nesterov=true recipe.momentum=0", "recipe.nesterov=True: must be false where momentum is 0"),
    ("recipe.augmentation.rotation=200", "recipe.augmentation.rotation=200.0: must be from 0 to 180 degrees"),
    ("recipe.augmentation.crop_padding=8", "recipe.augmentation.crop_padding=8: must be smaller than the images"),
    ("method.temperature=0", "method.temperature=0.0: must be a finite number, more than 0"),
    ("method.alpha=1.5", "method.alpha=1.5: must be a finite number, from 0 to 1"),
    ("method.kl_reduction=sum", "method.kl_reduction='sum': must be one of batchmean, mean"),
    ("method=tfkd_reg method.variant=publish", "method.variant='publish': must be one of paper, released"),
    ("student.dropout=1", "student.dropout=1.0: must be a probability"),
    ("student=mlp student.hidden=[]", "student.hidden=", "at least one"),
    ("stop_epoch=21", "stop_epoch=21: must be an integer from 0 to 20, or a fraction"),
    ("runtime.device=gpu", "runtime.device='gpu' is no device: must be auto, cpu, cuda, cuda:N or mps"),
    ("runtime.device=cuda:99", "runtime.device='cuda:99' is not available on this machine"),
    ("runtime.precision=fp16", "runtime.precision='fp16' is no precision: must be one of auto, fp32, bf16"),
    ("runtime.threads=0", "runtime.threads=0: must be null or at least 1"),
    # datasets
    ("dataset.train_fraction=0", "dataset.train_fraction=0.0: must be more than 0 and at most 1"),
    ("dataset.val_fraction=1", "dataset.val_fraction=1.0: must be from 0 to less than 1"),
    ("dataset.classes=[0,11]", "dataset.classes=[0, 11]: must be null, or class indices from 0 to 9"),
    ("dataset.classes=[1,1]", "dataset.classes=[1, 1]", "each once"),
    ("dataset.mean=[0.5,0.5]", "dataset.mean=[0.5, 0.5]: must be one number per channel"),
    ("dataset.image_size=4", "dataset.image_size=4: must be at least 8"),
    ("dataset=folder dataset.root=gone", "dataset.root=gone: needs a directory train/"),
    # teachers
    ("teacher=none", "teacher=none: method kd needs one: teacher=OPTION, or another method"),
    ("teacher.method=kd", "teacher.method=kd: must be a method without a teacher of its own"),
    ("teacher.method=lsr teacher.method.epsilon=3", "teacher.method.epsilon=3.0: must be a finite number"),
    ("teacher.recipe.lr=-1", "teacher.recipe.lr=-1.0: must be more than 0"),
    ("teacher.stop_epoch=1.0", "teacher.stop_epoch=1.0: must be an integer from 0 to 20, or a fraction"),
    ("teacher.seeds=[0,1]", "teacher.seeds=[0, 1]: method kd takes one teacher"),
    ("teacher.seeds=[]", "teacher.seeds=[]: must be null or at least one seed"),
    ("teacher.checkpoint=gone.pt", "teacher.checkpoint=gone.pt: No such file or directory"),
    # a config is data, not code
    ("student._target_=os.system", "'os.system' is outside the trusted packages (kdrun)", "KDRUN_TRUST"),
    ("dataset._target_=os.system", "'os.system' is outside the trusted packages"),
    ("method._target_=torch.nn.Linear", "'torch.nn.Linear' is outside the trusted packages"),
    ("student._target_=kdrun.losses.torch.load", "student._target_: 'kdrun.losses.torch.load'"),
    ("student._target_=kdrun.files.Path", "student._target_: 'kdrun.files.Path' is outside the trusted packages"),
    ("method._target_=kdrun.experiment.build.importlib.import_module", "method._target_:", "import_module'"),
    ("student._target_=kdrun.models.resnet21", "student._target_:", "has no attribute 'resnet21'"),
    ("method._target_=kdrun.models.cnn", "method._target_: 'kdrun.models.cnn' is no concrete Method"),
    ("method._target_=kdrun.methods.Method", "method._target_: 'kdrun.methods.Method' is no concrete Method"),
    ("student._target_=kdrun.seeds.mix ~student.dropout", "'kdrun.seeds.mix' is no concrete Module"),
    ("dataset._target_=kdrun.models.cnn", "'kdrun.models.cnn' is no concrete Splits"),
    ("teacher.dataset.train_fraction=2", "teacher.dataset.train_fraction=2.0: must be more than 0"),
    ("teacher.dataset.classes=[99]", "teacher.dataset.classes=[99]: must be null, or class indices"),
    ("-m seed=0,1 seed=5", "seed: is swept and given again"),
    ("recipe=cifr100", "recipe=cifr100: no such option; did you mean cifar100?"),
]


@pytest.mark.parametrize(("words", "texts"), [(line[0], line[1:]) for line in BAD], ids=[line[0] for line in BAD])
def test_bad_input_is_told_and_writes_nothing(kdrun, words, texts):
    said = kdrun(*words.split())
    assert said.code == 2
    assert "1 problem; nothing was run or written" in said.err
    for text in texts:
        assert text in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert list(Path().iterdir()) == []


def test_a_deleted_node_is_a_problem_and_a_deleted_seed_is_the_default(kdrun, job):
    for words in ("~student", "~method", "~recipe", "~runtime", "~dataset"):
        said = kdrun(words)
        assert said.code == 2, words
        assert words[1:] in said.err
    assert job("~seed").spec == job().spec


def test_all_problems_of_a_command_line_are_one_message(kdrun):
    said = kdrun(
        "recipe.epochs=0",
        "stuent=cnn",
        "method.temperature=hot",
        "teacher.seeds=[1,2]",
        "method.alfa=3",
        "runtime.device=tpu",
        "dataset.val_fraction=2",
        "student=resnet21",
        "seed=0,1",
    )
    assert said.code == 2
    lines = said.err.splitlines()
    assert lines[0] == "kdrun: 9 problems; nothing was run or written"
    for start in (
        "seed=0,1: several",
        "student=resnet21: no such option",
        "stuent=cnn: no such key",
        "method.alfa=3: no such key in method; did you mean alpha?",
        "runtime.device='tpu' is no device",
        "dataset.val_fraction=2.0: must",
        "method.temperature='hot': must",
        "recipe.epochs=0: must",
        "teacher.seeds=[1, 2]: method kd takes one",
    ):
        assert sum(line.strip().startswith(start) for line in lines) == 1, start
    assert lines[-1] == "See kdrun --help"


def test_a_sweep_is_checked_whole_before_its_first_job(kdrun):
    said = kdrun("-m", "method=ce,kd,kdd", "student.dropout=0,1.5", "recipe.lr=0.1,-1", "dataset=synthetic")
    assert said.code == 2
    assert "3 problems" in said.err
    for text in ("method=kdd: no such option", "student.dropout=1.5: must", "recipe.lr=-1.0: must"):
        assert said.err.count(text) == 1
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("swept", ["runtime.output_root=a,b", "dataset.root=a,b", "runtime.threads=1,2"])
def test_the_jobs_of_a_sweep_share_where_they_run(kdrun, swept):
    said = kdrun("-m", swept, "method=ce", "dataset=synthetic")
    assert said.code == 2
    assert "the jobs of a sweep must share one" in said.err


def test_every_option_that_a_constructor_refuses_is_told(kdrun):
    said = kdrun("recipe.lr=-1", "recipe.augmentation.rotation=-4", "method.temperature=0", "method.alpha=2")
    assert "4 problems" in said.err
    for text in ("recipe.lr=-1.0", "recipe.augmentation.rotation=-4.0", "method.temperature=0.0", "method.alpha=2.0"):
        assert f"  {text}: must be" in said.err


EXTRA_MODULE = """
from subprocess import Popen
from torch import nn
import torch
from kdrun.data import ImageSet, Splits
from kdrun.methods import KD

def blank() -> Splits:
    part = ImageSet(torch.zeros(40, 8, 8, 1, dtype=torch.uint8), torch.arange(40) % 2)
    return Splits(part, part, ("even", "odd"))

def narrow(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels + 1, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))

def short(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes - 1))

def untyped(num_classes, in_channels=3, width=8):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, width))

def linear(num_classes: int, in_channels: int, image_size: int, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes, bias))

class Mine(KD):
    name = "mine"
"""


@pytest.fixture
def own_config(tmp_path, monkeypatch) -> Path:
    """A user's config tree whose components are in a package of theirs."""
    package = tmp_path / "src" / "my_extras"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(EXTRA_MODULE)
    monkeypatch.syspath_prepend(str(package.parent))
    for module in [name for name in sys.modules if name.partition(".")[0] == "my_extras"]:
        monkeypatch.delitem(sys.modules, module)  # of another test
    tree = tmp_path / "my conf's"
    for name, text in {
        "student/linear": "_target_: my_extras.parts.linear\nbias: false\n",
        "student/process": "_target_: my_extras.parts.Popen\nargs: [echo]\n",
        "method/mine": "_target_: my_extras.parts.Mine\ntemperature: 2.0\n",
        "dataset/blank": "_target_: my_extras.parts.blank\nidentity: blank-v1\nnum_classes: 2\nin_channels: 1\n"
        "image_size: 8\ntrain_size: 40\ntest_size: 40\nmean: [0.5]\nstd: [0.5]\n",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / f"{name}.yaml").write_text(text)
    return tree


def test_a_users_own_components_work_once_the_environment_trusts_them(kdrun, own_config, monkeypatch):
    words = ("--config-dir", str(own_config), "student=linear", "method=mine", "dataset=synthetic", "teacher=mlp")
    said = kdrun("--dry-run", *words)
    assert said.code == 2
    for node in ("student", "method"):
        assert f"{node}._target_: 'my_extras.parts." in said.err
    assert "KDRUN_TRUST" in said.err
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    said = kdrun("--dry-run", *words)
    assert said.code == 0, said.err
    assert "student linear mine on synthetic" in said.out
    assert f"{16 * 16 * 3 * 10:,} parameters" in said.out


def test_a_users_own_network_teaches_on_a_users_own_data(kdrun, own_config, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    words = ("--config-dir", str(own_config), "dataset=blank", "teacher=linear", "student=linear", "recipe.epochs=1")
    said = kdrun(*words)
    assert said.code == 2
    assert "1 problem" in said.err
    assert "dataset=blank: has no recipe of its own; add recipe=OPTION: cifar10, cifar100, digits" in said.err
    said = kdrun(*words, "recipe=digits")
    assert said.code == 0, said.err
    assert "teacher linear ce: 1 epochs" in said.out
    assert "student linear kd: 1 epochs" in said.out


@pytest.mark.parametrize(
    ("target", "option", "text"),
    [
        ("narrow", (), "student: narrow cannot take images [2, 1, 8, 8]: RuntimeError: "),
        ("short", (), "student: short returns [2, 9] for 2 images, not logits [2, 10]"),
        ("untyped", ("student.width=wide",), "student._target_=my_extras.parts.untyped: TypeError: "),
    ],
)
def test_a_network_that_cannot_run_is_told_before_its_teacher_is_trained(
    kdrun, own_config, monkeypatch, target, option, text
):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    own_config.joinpath("student/own.yaml").write_text(f"_target_: my_extras.parts.{target}\n")
    if option:
        own_config.joinpath("student/own.yaml").write_text(f"_target_: my_extras.parts.{target}\nwidth: 8\n")
    said = kdrun("--config-dir", str(own_config), "student=own", *option)
    assert said.code == 2
    assert text in said.err
    assert list(Path().iterdir()) == []


def test_editing_a_users_own_code_makes_another_run(own_config, composed, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    source = own_config.parent / "src" / "my_extras" / "parts.py"

    def linear() -> Component | None:
        return student_component({"_target_": "my_extras.parts.linear", "bias": False}, "student", [])

    before = linear()
    assert before is not None
    assert before.source == hashlib.sha256(source.read_bytes()).hexdigest()
    source.write_text(source.read_text() + "# edited\n")
    assert linear() != before
    assert student_component({"_target_": "kdrun.models.cnn"}, "student", []) == Component("kdrun.models.cnn")


def test_a_users_own_options_are_told_among_the_allowed_ones(kdrun, own_config, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "other, my_extras")
    said = kdrun("--config-dir", str(own_config), "student=linaer")
    assert "student=linaer: no such option; did you mean linear?" in said.err
    said = kdrun("--config-dir", str(own_config), "student=linear", "method=mine", "method.temprature=3")
    assert said.err.count("\n") == 3, "an option of the user's own is not told as unknown because of another mistake"
    assert "method.temprature=3: no such key in method; did you mean temperature?" in said.err


def test_what_a_trusted_package_imports_is_not_trusted(kdrun, own_config, monkeypatch):
    monkeypatch.setenv("KDRUN_TRUST", "my_extras")
    said = kdrun("--config-dir", str(own_config), "student=process")
    assert said.code == 2
    assert "'my_extras.parts.Popen' is outside the trusted packages (kdrun, my_extras)" in said.err


def test_trust_is_not_for_a_config_to_give(kdrun, own_config):
    own_config.joinpath("student/linear.yaml").write_text("_target_: my_extras.parts.linear\nKDRUN_TRUST: my_extras\n")
    said = kdrun("--config-dir", str(own_config), "student=linear")
    assert said.code == 2
    assert "'my_extras.parts.linear' is outside the trusted packages (kdrun)" in said.err


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


def test_a_teacher_is_a_run_of_its_own(job):
    spec = job("teacher.seeds=[7]", "teacher.method=lsr", "teacher.method.epsilon=0.2", "seed=3").spec
    (teacher,) = spec.teachers
    assert (spec.seed, teacher.seed) == (3, 7)
    assert teacher.method == Component("kdrun.methods.LSR", {"epsilon": 0.2})
    assert job("method=lsr", "method.epsilon=0.2", "student=resnet20", "seed=7").spec == teacher
    assert job("seed=3").spec.teachers[0].seed == 3, "without teacher.seeds it is the run's own"


@pytest.mark.parametrize(
    ("typed", "stop_epoch"), [("0.25", 50), ("50", 50), ("1", 1), ("0", 0), ("0.999", None), ("200", None)]
)
def test_a_stopped_teacher_keeps_the_whole_schedule(job, typed, stop_epoch):
    words = ("dataset=cifar100", "teacher=resnet18")
    (teacher,) = job(*words, f"teacher.stop_epoch={typed}").spec.teachers
    assert (teacher.stop_epoch, teacher.recipe.epochs) == (stop_epoch, 200)
    assert (teacher == job(*words).spec.teachers[0]) == (stop_epoch is None)


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


def test_weights_that_do_not_fit_are_refused(kdrun, weights, tmp_path):
    torch.save(torch.load(weights["pt"]) | {"classifier.weight": torch.zeros(5, 12)}, weights["pt"])
    said = kdrun(*OWN_TEACHER, f"teacher.checkpoint={weights['pt']}")
    assert said.code == 2
    assert "size mismatch for classifier.weight" in said.err
    assert kdrun("teacher=mlp", "teacher.hidden=[13]", f"teacher.checkpoint={weights['safetensors']}").code == 2
    assert kdrun("teacher=resnet20", f"teacher.checkpoint={weights['safetensors']}").code == 2
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


def test_secrets_are_masked_in_the_config_that_is_kept(job):
    config = OmegaConf.create(
        {
            "api_key": "s3cret-1",
            "hub": {"token": "s3cret-2", "user": "ann"},
            "list": [{"Password": "s3cret-3"}],
            "credentials": {"a": "s3cret-4"},
            "lr": "${recipe.lr}",
        }
    )
    text = masked_yaml(config)
    assert "s3cret" not in text
    assert OmegaConf.create(text).hub.user == "ann"
    assert "lr: ${recipe.lr}" in text
    assert OmegaConf.create(job("method.temperature=3").config).method.temperature == 3


def test_a_teacher_sees_all_classes_and_else_what_the_student_sees(job):
    spec = job("dataset.classes=[0,1]", "dataset.train_fraction=0.5").spec
    teacher = spec.teachers[0].dataset
    assert (spec.dataset.classes, teacher.classes) == ((0, 1), None)
    assert teacher.train_fraction == 0.5
    spec = job("dataset.train_fraction=0.5", "teacher.dataset.train_fraction=1.0", "teacher.dataset.classes=[3,4]").spec
    assert (spec.dataset.train_fraction, spec.teachers[0].dataset.train_fraction) == (0.5, 1.0)
    assert spec.teachers[0].dataset.classes == (3, 4)
