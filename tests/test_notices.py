"""What a user is told of terms and options that hardly act."""

import json
import re

import pytest

TINY = ("dataset=synthetic", "student=mlp", "recipe.epochs=2", "runtime.device=cpu")


def test_the_formula_of_tfkd_reg_as_written_is_told_with_its_share(kdrun, here):
    code, out, _ = kdrun("method=tfkd_reg", "method.variant=paper", *TINY)
    assert code == 0
    (path,) = here.glob("outputs/runs/synthetic/mlp/tfkd_reg-*/result.json")
    (stage,) = json.loads(path.read_text())["shares"]
    first, last = stage["first"]["percent"]["virtual_teacher"], stage["last"]["percent"]["virtual_teacher"]
    assert 0 < max(first, last) < 0.1
    told = [line for line in out if "% of the gradient" in line]
    begins = f"student mlp tfkd_reg: term virtual_teacher has {first:.2g} % of the gradient in epoch 1"
    assert told == [begins, f"{begins}, {last:.2g} % in epoch 2: it hardly acts"]
    assert out.index(told[0]) < next(i for i, line in enumerate(out) if "epoch 2/2" in line)


def test_one_epoch_has_one_notice(kdrun, here):
    code, out, _ = kdrun("method=tfkd_reg", "method.variant=paper", *TINY, "recipe.epochs=1")
    assert code == 0
    assert len([line for line in out if "% of the gradient" in line]) == 1


def test_the_default_of_tfkd_reg_acts(kdrun, here):
    code, out, _ = kdrun("method=tfkd_reg", *TINY)
    assert code == 0
    assert not [line for line in out if "% of the gradient" in line]
    (path,) = here.glob("outputs/runs/synthetic/mlp/tfkd_reg-*/metrics.jsonl")
    assert json.loads(path.read_text().splitlines()[-1])["shares"]["virtual_teacher"] > 1


def test_a_sweep_over_the_temperature_of_tfkd_reg_is_told_what_it_sweeps(kdrun):
    """softmax([0.99, 0.01 / 9, ...] / T) gives the label 1 / (1 + 9 exp(-(0.99 - 0.01 / 9) / T))."""
    words = ("-m", "--dry-run", "method=tfkd_reg", *TINY)
    code, out, _ = kdrun(*words, "method.temperature=5,40,20", "seed=0,1")
    assert code == 0
    (told,) = [line for line in out if "label smoothing" in line]
    assert told.startswith("method.temperature: tfkd_reg as released is label smoothing; its target on the label is ")
    assert told.endswith(" 0.1193 at T=5, 0.1022 at T=40 (uniform: 0.1000)")
    for others in (("method.temperature=5,40", "method.variant=paper"), ("method.alpha=0.1,0.2",)):
        assert not [line for line in kdrun(*words, *others)[1] if "label smoothing" in line]


@pytest.mark.parametrize("epochs", [1, 2])
def test_two_stages_are_told_each_for_itself(kdrun, here, epochs):
    words = ("method=weight_distillation", "method.stage1_epochs=1", "student=resnet8", "teacher=resnet8")
    options = ("teacher.seeds=[3]", "method.alpha=1e-9", f"recipe.epochs={epochs}", "teacher.recipe.epochs=1")
    code, out, err = kdrun(*words, *options, TINY[0], TINY[3])
    assert code == 0, err
    (path,) = here.glob("outputs/runs/synthetic/resnet8/weight_distillation-*/result.json")
    stages = json.loads(path.read_text())["shares"]
    assert [(stage["stage"], stage["first"]["epoch"], stage["last"]["epoch"]) for stage in stages] == [
        *((1, 1, 1), (2, 2, 1 + epochs)),
    ]
    told = [line for line in out if "% of the gradient" in line]
    assert [re.findall(r"in epoch (\d)", line) for line in told] == [["1"], ["2", "3"][:epochs]]
    assert all("term kd has" in line and line.endswith(": it hardly acts") for line in told)
