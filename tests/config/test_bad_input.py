"""Bad input is one message with every problem: exit code 2, nothing written, no traceback, no code from data."""

from pathlib import Path

import pytest

from kdrun.cli import main

TREE = {
    "student/colon": "_target_: kdrun.models.cnn\ndropout: 0.5: 3\n",
    "student/twice": "_target_: kdrun.models.cnn\ndropout: 0.5\ndropout: 0.2\n",
    "student/code": "_target_: kdrun.models.cnn\ndropout: !!python/object/apply:os.system ['touch executed']\n",
    "student/empty": "",
    "student/list": "- a\n- b\n",
    "student/untargeted": "dropout: 0.3\n",
    "student/inherits": "defaults:\n  - gone\n_target_: kdrun.models.cnn\n",
    "student/dangling": "_target_: kdrun.models.cnn\ndropout: ${gone.key}\n",
    "student/nested": "_target_: kdrun.models.mlp\nhidden:\n  _target_: os.system\n  command: touch executed\n",
    "method/open": "_target_: 'kdrun.methods.KD\n",
}
STAGE1 = "must be an integer, a number of epochs (0: one stage), or a number with a point above 0, a multiple of"
GROUPS = "dataset, evaluation, method, recipe, runtime, seed, start, stop_epoch, student, teacher"
OUTSIDE = "is outside the trusted packages (kdrun)"

TOGETHER = [
    {  # types
        "recipe.epochs=2.5": "must be an integer",
        "recipe.batch_size=true": "recipe.batch_size=True: must be an integer",
        "recipe.lr=fast": "recipe.lr='fast': must be a finite number",
        "recipe.gamma=nan": "must be a finite number",
        "recipe.augmentation.flip=maybe": "recipe.augmentation.flip='maybe': must be true or false",
        "recipe.milestones=0.5": "must be a list, each item a finite number",
        "recipe.evaluate_every=last": "recipe.evaluate_every='last': must be an integer or null",
        "recipe.optimizer=lion": "recipe.optimizer='lion': must be sgd or adam or adamw",
        "recipe.schedule=cos": "recipe.schedule='cos': must be one of steps, cosine",
        "student=mlp student.hidden=[a]": "student.hidden[0]='a': must be an integer",
        "runtime.output_root=null": "runtime.output_root=None: must be text",
        "runtime.threads=1.5": "must be an integer or null",
        "runtime.sweep=parallel": "runtime.sweep='parallel': must be one of lockstep, one_by_one",
        "runtime.compile=yes": "runtime.compile='yes': must be one of off, auto, on",
        "dataset.root=3": "must be text or null",
        "method.kl_reduction=sum": "method.kl_reduction='sum': must be one of batchmean, mean",
        "teacher.checkpoint=3": "must be text or null",
    },
    {  # ranges
        "recipe.epochs=0": "must be at least 1",
        "recipe.batch_size=1": "must be at least 2",
        "recipe.milestones=[60,120]": "recipe.milestones=[60.0, 120.0]: must be increasing shares of the epochs",
        "recipe.gamma=0": "recipe.gamma=0.0: must be more than 0 and at most 1",
        "recipe.weight_decay=-1": "recipe.weight_decay=-1.0: must be at least 0",
        "recipe.lr=0": "recipe.lr=0.0: must be more than 0",
        "recipe.lr_batch_size=0": "must be null or at least 1",
        "recipe.max_norm=0": "recipe.max_norm=0.0: must be null or more than 0",
        "recipe.ema_decay=1": "recipe.ema_decay=1.0: must be null or more than 0 and less than 1",
        "recipe.label_smoothing=1": "recipe.label_smoothing=1.0: must be from 0 to less than 1",
        "recipe.min_lr=0.01": "recipe.min_lr=0.01: must be 0, or with schedule=cosine less than lr",
        "recipe.clip_norm=0": "recipe.clip_norm=0.0: must be null or more than 0",
        "recipe.evaluate_every=0": "must be null or at least 1",
        "recipe.momentum=1": "recipe.momentum=1.0: must be from 0 to less than 1",
        "recipe.warmup_epochs=30": "must be from 0 to recipe.epochs",
        "teacher.recipe.lr=-1": "teacher.recipe.lr=-1.0: must be more than 0",
        "runtime.threads=0": "must be null, or from 1 to 1024",
        "runtime.replay_gb=-1": "runtime.replay_gb=-1.0: must be a finite number of gigabytes, at least 0",
        "method.temperature=0": "method.temperature=0.0: must be a finite number, from 0.001 to 10000",
        "method.alpha=1.5": "must be a finite number, from 0 to 1",
        "method.multiplier=1e38": "method.multiplier=1e+38: must be a finite number, from 0 to 1e+09",
        "dataset.train_fraction=0": "dataset.train_fraction=0.0: must be more than 0 and at most 1",
        "dataset.val_fraction=1": "dataset.val_fraction=1.0: must be from 0 to less than 1",
        "dataset.classes=[0,11]": "dataset.classes=[0, 11]: must be null, or class indices from 0 to 9",
        "dataset.mean=[0.5,0.5]": "dataset.mean=[0.5, 0.5]: must be one number per channel",
        "dataset.std=[0]": "dataset.std=[0.0]: must be one number above 0 per channel",
        "seed=-1": "must be from 0 to 4294967295",
        "teacher.seeds=[]": "must be null or at least one seed",
    },
    {
        "recipe.accumulate=3": "recipe.accumulate=3: must be 1, or a divisor of batch_size=64",
        "recipe.augmentation.crop_padding=-1": "must be a whole number of pixels",
        "teacher.method=lsr teacher.method.epsilon=3": "teacher.method.epsilon=3.0: must be a finite number",
        "seed=4294967296": "must be from 0 to 4294967295",
        "dataset=synthetic dataset.num_classes=1": "dataset.num_classes=1: must be at least 2",
        "dataset.train_size=1": "must be at least 2",
        "dataset.test_size=0": "must be at least 1",
        "dataset.image_size=4": "must be at least 8",
        "runtime.device=gpu": "runtime.device='gpu' is no device: must be auto, cpu, cuda, cuda:N or mps",
        "teacher.seeds=[4294967296]": "teacher.seeds=4294967296: must be from 0 to 4294967295",
    },
    {"recipe.augmentation.rotation=200": "recipe.augmentation.rotation=200.0: must be from 0 to 180 degrees"},
    {
        f"recipe.augmentation.{option}": f"recipe.augmentation.{refused}: must be {allowed}"
        for option, refused, allowed in (
            ("crop_scale=[0.5,0.1]", "crop_scale=[0.5, 0.1]", "null or [least, largest], in (0, 1]"),
            ("crop_ratio=[1]", "crop_ratio=[1.0]", "[least, largest], from 0.001 to 1000"),
            ("color_jitter.hue=0.6", "color_jitter.hue=0.6", "from 0 to 0.5"),
            ("color_jitter.contrast=-1", "color_jitter.contrast=-1.0", "from 0 to 100"),
            ("rand_augment.num_ops=17", "rand_augment.num_ops=17", "from 0 to 16"),
            ("rand_augment.magnitude=31", "rand_augment.magnitude=31", "at least 0 and below num_magnitude_bins"),
            ("random_erasing.p=2", "random_erasing.p=2.0", "from 0 to 1"),
            ("random_erasing.scale=[0.1,1.5]", "random_erasing.scale=[0.1, 1.5]", "[least, largest], in (0, 1]"),
            ("mixup_alpha=-0.2", "mixup_alpha=-0.2", "from 0 to 100"),
            ("cutmix_alpha=true", "cutmix_alpha=True", "a finite number"),
        )
    },
    {  # names: the nearest spelling, and what is allowed
        "stuent=cnn": "no such key; did you mean student?",
        "student=resnet81": "no such option; did you mean resnet8?",
        "method=kdd": "did you mean kd? Allowed: at, born_again, ce, crd, dist",
        "teacher.method=lsrr": "did you mean lsr?",
        "recipe=fashion": "no such option; did you mean fashion_mnist?",
        "experiment=tfkd": "no such option; Allowed: ",
        "recipe.augmentation.shear=3": "no such key in recipe.augmentation; Allowed: color_jitter, crop_padding, ",
        "teacher.recipe.bach_size=3": "no such key in teacher.recipe; did you mean batch_size?",
        "runtime.prescision=bf16": "no such key in runtime; did you mean precision?",
        "teacher.trained_on=cifr100": "no such option; did you mean cifar100?",
        "evaluation=[tst]": "evaluation: tst: no such option; did you mean test?",
        "+foo=1": f"foo: no such option; Allowed: {GROUPS}",
        "+recipe.epoch=5": "recipe.epoch: no such option; did you mean epochs?",
        "=3": "no such key",
        "student": "student: cannot be parsed as key=value",
    },
    {  # a config is data, not code
        "student._target_=os.system": f"student._target_: 'os.system' {OUTSIDE}",
        "method._target_=torch.nn.Linear": f"method._target_: 'torch.nn.Linear' {OUTSIDE}",
        "+recipe._target_=os.system": "recipe._target_: no such option",
    },
]
"""Problems by their overrides, which are independent: all are in one message."""

BAD = [
    # names
    ("student.hidden=[3]", "student.hidden=[3]: no such key in student; Allowed: dropout"),
    ("+student@foo=cnn", "foo: no such option; Allowed: dataset, evaluation, method"),
    # words that are no overrides
    ("seed=0,1", "seed=0,1: several values need -m (--multirun)"),
    (
        "-m method.alpha=interval(0,1)",
        "method.alpha=interval(0,1): a continuous range needs a sweeper that draws from it",
    ),
    ("--config-dir nowhere", "--config-dir nowhere: no such directory"),
    ("seed=???", "seed: must be given: seed=VALUE"),
    ("seed=${foo}", "foo", "not found"),
    # ranges
    ("recipe.nesterov=true recipe.momentum=0", "recipe.nesterov=True: must be false where momentum is 0"),
    ("recipe.augmentation.crop_padding=8", "recipe.augmentation.crop_padding=8: must be smaller than the images"),
    (
        "method=ce recipe.augmentation.mixup_alpha=0.2 recipe.batch_size=31",
        "recipe.batch_size=31: must be even: images are mixed in pairs",
    ),
    (
        "recipe.augmentation.color_jitter.hue=0.1",
        "recipe.augmentation.color_jitter.hue=0.1: has no effect on images of one channel: must be 0",
    ),
    ("method=tfkd_reg method.variant=publish", "method.variant='publish': must be one of paper, released"),
    ("student.dropout=1", "student.dropout=1.0: must be a probability"),
    ("stop_epoch=21", "stop_epoch=21: must be an integer from 0 to 20, or a fraction"),
    ("runtime.device=cuda:99", "runtime.device='cuda:99' is not available on this machine"),
    ("runtime.precision=fp16", "runtime.precision='fp16' is no precision: must be one of auto, fp32, bf16"),
    ("runtime.cuda_graphs=on", "runtime.cuda_graphs=on: graphs are captured on CUDA devices only, not on cpu"),
    ("method.temperature=${method.temperature}", "Recursive interpolation detected", "method.temperature"),
    ("seed=${oc.env:KDRUN_NOT_SET}", "Environment variable 'KDRUN_NOT_SET' not found", "seed"),
    ("seed=${read:afile}", "Unsupported interpolation type read", "seed"),
    ("recipe.augmentation=none", "recipe.augmentation:", "recipe.augmentation.crop_padding=VALUE"),
    # datasets
    ("dataset.classes=[seven,8]", "dataset.classes=['seven', 8]: seven: no such class"),
    ("dataset.classes=[1,1]", "dataset.classes=[1, 1]", "each once"),
    (
        "dataset.drop_classes=[10]",
        "dataset.drop_classes=[10]: must be null, or class indices from 0 to 9 or class names, not all",
    ),
    ("dataset.classes=[1] dataset.drop_classes=[2]", "dataset.drop_classes=[2]: says what dataset.classes says"),
    ("teacher.dataset.drop_classes=[10]", "teacher.dataset.drop_classes=(10,): must be null"),
    ("dataset=folder dataset._target_=kdrun.data.decoding.decode", "TypeError", "decode() missing"),
    # teachers
    ("teacher=none", "teacher=none: method kd needs one: teacher=OPTION, or another method"),
    ("teacher.method=kd", "teacher.method=kd: the teacher needs one of its own: teacher.teacher=OPTION, or another"),
    ("teacher.method=kd_ensemble", "must be a method without a teacher, or of one teacher", "from several teachers"),
    ("teacher.trained_on=cifar100", "teacher.trained_on=cifar100: method kd compares the teacher's classes"),
    ("method=fitnet teacher.trained_on=cifar100", "method fitnet compares", "at, crd, fitnet, fsp, rkd, sp, sum"),
    ("method=at teacher.trained_on=cifar100 teacher.trained_on.mean=[0]", "teacher.trained_on.mean=[0.0]: must be one"),
    ("method=at teacher.trained_on=mnist teacher.trained_on.num_classes=5", "trained_on.num_classes=5: is what"),
    ("method=at teacher.trained_on=wds teacher.trained_on.train_shards=a.tar", "train_shards=a.tar, "),
    ("teacher.also.b=cnn", "teacher.also=['b']: method kd takes one teacher"),
    # taps, stages, and what networks must have for them
    ("method=at method.student_taps=[layer9]", "method.student_taps='layer9': cnn has no such tap; did you mean layer"),
    ("method=rkd method.teacher_tap=pol", "method.teacher_tap='pol': resnet8 has no such tap; did you mean pool?"),
    ("method=at student=mlp", "  student=mlp: has no feature maps", "fitnet, rkd and sp take vectors"),
    ("method=takd student=resnet8 teacher.method=at teacher.teacher=mlp", "  teacher.teacher=mlp: has no feature maps"),
    ("method=at method.student_taps=[]", "method.student_taps=[]: must have one feature map [C, H, W] at least"),
    (
        "method=rkd student=resnet8 teacher=cnn method.student_tap=pool",
        "method.teacher_tap: say it too, since cnn has no",
    ),
    ("method=rkd method.student_tap=q", "has no such tap; it has layer1", "kdrun show taps student=NAME --all"),
    ("method=fsp", "method.adapt=False: the student's maps must have the teacher's channels"),
    ("method=fsp student=resnet8 method.student_taps=[stem]", "method.student_taps=['stem']: must be first and last"),
    ("method=weight_distillation", "  teacher=resnet8: has no counterpart of"),
    (
        "teacher.method=weight_distillation teacher.teacher=cnn teacher.method.stage1_epochs=1",
        "  teacher.teacher=cnn: has no counterpart of",
    ),
    *(
        (f"method=fitnet method.stage1_epochs={value}", f"method.stage1_epochs={told}: {STAGE1}")
        for value, told in {"-0.5": -0.5, "0.0": 0.0, "null": None}.items()
    ),
    ("method=fitnet method.weight=3", "method.weight=3.0: has no effect in the form of two stages; leave it out"),
    (
        "method=fitnet method.stage1_epochs=0 method.temperature=5",
        "method.temperature=5.0: has no effect in the form of",
    ),
    ("-m method=at,rkd method.angle_weight=1", "method.angle_weight=1: no such key in method=at; did you mean hard_we"),
    ("method=weight_distillation student=resnet8 method.stage1_epochs=0", "method.stage1_epochs=0: must be at least 1"),
    ("method=kd_topk method.k=11", "method.k=11: must be"),
    # the terms of a sum
    ("method=sum method.terms.rdk.weight=1", "method.terms.rdk: no such term; did you mean rkd?"),
    (
        "method=sum method.terms.kd.alpha=0.5",
        "method.terms.kd.alpha: has no meaning in a sum, where a term's weight is method.terms.kd.weight",
        "Allowed: kl_reduction, standardize, temperature, weight",
    ),
    (
        "method=sum method.terms.dml.weight=1",
        "method.terms.dml: cannot be a term: it is not cross-entropy and one",
    ),
    ("method=sum method.terms.takd={}", "method.terms.takd: cannot be a term: its teacher is an assistant"),
    ("method=sum teacher=mlp", "  teacher=mlp: has no feature maps", "(method.terms.at)"),
    ("method=sum method.terms.at.student_taps=[pool]", "method.terms.at.student_taps='pool'"),
    ("method=sum method.terms={}", "method.terms={}: must have one term at least"),
    ("method=sum method.terms.kd=3", "method.terms.kd=3: must be a mapping of names or null"),
    ("teacher.stop_epoch=1.0", "teacher.stop_epoch=1.0: must be an integer from 0 to 20, or a fraction"),
    ("teacher.seeds=[0,1]", "teacher.seeds=[0, 1]: method kd takes one teacher"),
    ("teacher.checkpoint=gone.pt", "teacher.checkpoint=gone.pt: No such file or directory"),
    # a config is data, not code
    ("dataset._target_=os.system", f"dataset: 'os.system' {OUTSIDE}", "KDRUN_TRUST"),
    ("student._target_=kdrun.losses.base.torch.load", "student._target_: 'kdrun.losses.base.torch.load'"),
    ("student._target_=kdrun.files.Path", "student._target_: 'kdrun.files.Path' is outside the trusted packages"),
    ("method._target_=kdrun.methods.Method", "method._target_: 'kdrun.methods.Method' is no concrete Method"),
    ("student._target_=kdrun.methods.KD", "student._target_: 'kdrun.methods.KD' is a distillation method, no network"),
    ("-m seed=0,1 seed=5", "seed: is swept and given again"),
    ("teacher._target_=kdrun.data.decoding.ThreadPoolExecutor", "teacher._target_: 'kdrun.data.decoding.T", OUTSIDE),
    ("dataset._target_=kdrun.data.loaders.cifar._unpickled", "cifar._unpickled' is no concrete Splits"),
    ("student._target_=kdrun.models", "'kdrun.models' is no class or function"),
    ("student._target_=null", "student: must be a group option or a mapping with a _target_"),
    ("+student._partial_=true", "student._partial_: no such option"),
    ("--config-dir TREE student=nested", "student.hidden={'_target_': 'os.system'", "must be a list"),
    ("--config-dir TREE student=code", "student/code.yaml", "line 2, column 10", "python/object/apply:os.system"),
    # a broken YAML of the user's own: file, line, column
    ("--config-dir TREE student=colon", "student/colon.yaml", "line 2, column 13", "mapping values are not allowed"),
    ("--config-dir TREE student=twice", "student/twice.yaml", "line 3, column 1", "duplicate key dropout"),
    ("--config-dir TREE method=open", "method/open.yaml", "line 1, column 11", "unexpected end of stream"),
    ("--config-dir TREE teacher=colon", "teacher=colon: ", "student/colon.yaml", "line 2, column 13"),
    # whole, but of another shape
    ("--config-dir TREE student=empty", "student: must be a group option or a mapping with a _target_, not {}"),
    ("--config-dir TREE student=list", "student: must be a group option or a mapping with a _target_, not ['a', 'b']"),
    ("--config-dir TREE student=inherits", "student=inherits: student=gone in student/inherits: no such option"),
    ("--config-dir TREE student=dangling", "Interpolation key 'gone.key' not found", "student.dropout"),
    # places
    ("runtime.output_root=afile/deeper", "runtime.output_root=afile/deeper: must be a directory", "afile is none"),
    ("runtime.output_root=", "runtime.output_root=: must be a directory", "nothing is none"),
    (f"runtime.output_root={300 * 'x'}", "has a name of 300 bytes; must be at most 255"),
    ("hydra.run.dir=elsewhere", "hydra.run.dir=elsewhere: has no effect on runs", "runtime.output_root"),
    ("student=../../etc/passwd", "student=../../etc/passwd: no such option"),
    ("table ../../escaped", "table ../../escaped: no such table"),
    ("ls gone", "gone: no such directory"),
    ("seed=1 show taps --all", "show: a verb must be the first word: kdrun show ..."),
    ("dataset=folder dataset.root=afile", "dataset.root=afile: needs a directory train/"),
    ("dataset=imagenet student=imagenet_resnet18 method=ce dataset.root=absent", "dataset.root=absent: needs train/"),
    ("teacher=mlp teacher.checkpoint=.", "teacher.checkpoint=.: is a directory"),
    ("teacher=mlp teacher.checkpoint=afile", "teacher.checkpoint: afile cannot be read as weights"),
    ("+api_key=abc", "api_key: no such option"),
    # facts of the data that its loader does not take
    ("dataset.num_classes=7", "dataset.num_classes=7: is what the data has, and digits cannot make it another"),
    # sequences of tokens are no images
    ("student=lstm", "student=lstm: is a network for sequences, and digits has images"),
    # evaluations
    ("evaluation=[test,3]", "evaluation=[test,3]: no such option; Allowed: "),
    ("evaluation={test:1}", "evaluation={test:1}: no such option; Allowed: "),
    ("evaluation=[test] evaluation.test.bins=3", "evaluation.test.bins=3: no such key in evaluation.test"),
    ("-m evaluation=[test],[] method=ce", "the jobs of a sweep must share one evaluation"),
    # one option of a group, by its name
    ("student={}", "student={}: no such option; Allowed: ", "cnn, densenet121"),
    ("method=[kd,ce]", "method=[kd,ce]: must be one option; to run each: -m method=kd,ce"),
    # other launchers and sweepers
    ("-m hydra/sweeper=optun", "hydra/sweeper=optun: no such option", "Allowed: basic"),
    (
        "-m hydra/launcher=ray",
        "hydra/launcher=ray: is not installed: pip install 'kdrun[ray]'",
    ),
    ("hydra/launcher=basic", "hydra/launcher=basic: has an effect with -m (--multirun) only"),
    ("-m hydra/sweeper=basic recipe.epochs=0 seed=0,1", "recipe.epochs=0: must be at least 1"),
]


@pytest.fixture
def tree(tmp_path) -> Path:
    """A config tree of the user's own, with the faults of `TREE`."""
    for option, text in TREE.items():
        path = tmp_path / "tree" / f"{option}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "tree"


def everything(directory: Path) -> dict[str, bytes | None]:
    """What lies in a directory, with the content of the files."""
    paths = directory.rglob("*")
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize(("line", "texts"), [(line, texts) for line, *texts in BAD], ids=[line for line, *_ in BAD])
def test_bad_input_is_one_problem_and_changes_nothing(kdrun, tree, tmp_path, line, texts):
    Path("afile").write_text("in the way")
    Path("alink").symlink_to("nowhere")
    before = everything(tmp_path)
    said = kdrun(*line.replace("TREE", str(tree)).split())
    assert everything(tmp_path) == before
    assert said.code == 2
    assert "1 problem; nothing was run or written" in said.err
    for text in texts:
        assert text in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize("faults", TOGETHER, ids=lambda faults: next(iter(faults)))
def test_all_problems_of_a_command_line_are_one_message(kdrun, here, faults):
    said = kdrun(*" ".join(faults).split())
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"kdrun: {len(faults)} problem")
    lines = said.err.splitlines()
    for override, text in faults.items():
        key = override.split()[-1].lstrip("+").partition("=")[0]
        assert [line for line in lines if key in line and text in line], override
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("words", ["--config-dir", "--frobnicate seed=1", "--cfg nonsense"])
def test_a_flag_that_cannot_be_read_is_bad_input(here, capsys, words):
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert words.split()[0] in capsys.readouterr().err
    assert list(here.iterdir()) == []
