"""Bad input about sequences and evaluations is one problem, and nothing is written."""

import pytest

HUGE = 10**12
SENTENCES = "dataset=agreement student=lstm teacher=lstm method=ce"
BAD = [
    (f"{SENTENCES} student=mlp", "student=mlp: is a network for images, and agreement has sequences"),
    (f"{SENTENCES} method=kd teacher=resnet20", "teacher=resnet20: is a network for images, and agreement has"),
    ("dataset=agreement_lm student=transformer method=ce", "student.causal=False: sees the tokens it would have to"),
    (f"{SENTENCES} dataset.classes=[0]", "dataset.classes=[0]: is of images, and this dataset has sequences"),
    (f"{SENTENCES} dataset.drop_classes=[0]", "dataset.drop_classes=[0]: is of images, and this dataset has"),
    (f"{SENTENCES} method=kd teacher.dataset.classes=[0]", "teacher.dataset.classes=[0]: is of images, and agreement"),
    (f"{SENTENCES} recipe.augmentation.flip=true", "recipe.augmentation.flip=True: is of images, and agreement has"),
    (
        f"{SENTENCES} recipe.augmentation.rand_augment.num_ops=2",
        "recipe.augmentation.rand_augment.num_ops=2: is of images, and agreement has sequences: must be 0",
    ),
    (f"{SENTENCES} recipe.augmentation.rotation=9", "recipe.augmentation.rotation=9.0: is of images", "must be 0.0"),
    (f"{SENTENCES} dataset.num_tokens=500", "dataset.num_tokens=500: is what the data has, and agreement cannot"),
    (f"{SENTENCES} dataset.length=1", "dataset.length=1: must be at least 2"),
    (f"{SENTENCES} dataset.image_size=8", "dataset.image_size=8: no such key in dataset=agreement"),
    (
        f"{SENTENCES} method=rkd teacher=resnet20 teacher.trained_on=digits",
        "teacher.trained_on=digits: its images are made of no sequences of agreement; images are made of images alone",
    ),
    (
        "method=rkd student=resnet8 teacher=lstm teacher.trained_on=agreement recipe.augmentation.crop_padding=0 "
        "recipe.augmentation.rotation=0",
        "teacher.trained_on=agreement: its sequences are made of no images of digits",
    ),
    # evaluations
    (
        "evaluation=[tranlate]",
        "evaluation: tranlate: no such option; did you mean translate? Allowed: ",
        "rotate, scale",
    ),
    ("evaluation=[linzen]", "evaluation: linzen: is of the generated language", "not of digits (images)"),
    (f"{SENTENCES} evaluation=[scale]", "evaluation: scale: is of images, not of agreement (sequences)"),
    (f"{SENTENCES} evaluation=[test,linzen]", "evaluation: linzen: ", "agreement has no subj_agr_filtered.text"),
    (f"{SENTENCES} evaluation=[blimp]", "has no distractor_agreement_relational_noun.jsonl, and kdrun ships no"),
    # numbers
    (f"dataset=agreement student=lstm method=ce dataset.length={HUGE}", f"dataset.length={HUGE}: must be"),
    (f"dataset=agreement student=lstm method=ce student.layers={HUGE}", f"student.layers={HUGE}: must be"),
    (f"dataset=agreement student=lstm method=ce student.width={HUGE}", f"student.width={HUGE}: must be"),
    (f"dataset=agreement student=transformer method=ce student.depth={HUGE}", f"student.depth={HUGE}: must be"),
    (f"student=abnar_cnn student.filters=[{HUGE},64,64]", f"student.filters[0]={HUGE}: must be"),
]


@pytest.mark.parametrize(("line", "texts"), [(line, texts) for line, *texts in BAD], ids=[bad[0][:80] for bad in BAD])
def test_bad_input_is_one_problem_and_changes_nothing(kdrun, here, line, texts):
    code, out, err = kdrun(*line.split())
    assert (code, out) == (2, [])
    assert "1 problem; nothing was run or written" in err
    assert [text for text in texts if text not in err] == []
    assert list(here.iterdir()) == []
