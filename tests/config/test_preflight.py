"""Bad input is told whole and in time: one message, exit code 2, nothing written, no traceback."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kdrun.config.preflight import masked_yaml

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
    ("method=kdd", "method=kdd", "did you mean kd? Allowed: ce, kd, kd_uniform, lsr, tfkd_reg, tfkd_self"),
    ("teacher.method=lsrr", "teacher.method=lsrr", "did you mean lsr?"),
    ("dataset=cifar1000", "dataset=cifar1000", "did you mean cifar100?"),
    ("recipe=fashion", "recipe=fashion: no such option", "did you mean fashion_mnist?"),
    ("experiment=tfkd", "experiment=tfkd: no such option", "tfkd_kd_mobilenetv2, tfkd_reg_mobilenetv2"),
    ("recipe.epoch=5", "recipe.epoch=5: no such key in recipe; did you mean epochs?", "augmentation, batch_size"),
    ("recipe.augmentation.shear=3", "no such key in recipe.augmentation", "Allowed: crop_padding, flip, rotation"),
    ("method.temprature=4", "method.temprature=4", "did you mean temperature?", "alpha, kl_reduction, multiplier"),
    ("student.hidden=[3]", "student.hidden=[3]: no such key in student; Allowed: dropout"),
    ("teacher.recipe.bach_size=3", "no such key in teacher.recipe; did you mean batch_size?"),
    (
        "runtime.prescision=bf16",
        "did you mean precision?",
        "compile, conv_plan, cuda_graphs, device, output_root, precision, replay_gb, sweep, threads",
    ),
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
    ("runtime.sweep=parallel", "runtime.sweep='parallel': must be one of lockstep, one_by_one"),
    ("runtime.compile=yes", "runtime.compile='yes': must be one of off, auto, on"),
    ("runtime.compile=true", "runtime.compile=True: must be one of off, auto, on"),
    ("runtime.conv_plan=on", "runtime.conv_plan='on': must be one of off, auto"),
    ("runtime.cuda_graphs=on", "runtime.cuda_graphs=on: graphs are captured on CUDA devices only, not on cpu"),
    ("runtime.replay_gb=-1", "runtime.replay_gb=-1.0: must be a finite number of gigabytes, at least 0"),
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
