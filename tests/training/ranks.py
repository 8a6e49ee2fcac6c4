"""Trainings that are computed by one process, and by a group of ranks: as a script, a rank of a group.

`python -m tests.training.ranks RANK RANKS DIRECTORY` trains every case, and saves what it found.
"""

import dataclasses
import datetime
import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from kdrun.data import Augmentation, ImageSet, ResidentImages, TrainingViews
from kdrun.distributed import num_ranks, rank
from kdrun.methods import Method, Pair, TrainingSet, shipped_methods
from kdrun.models.resnet import basic_block, residual_network
from kdrun.taps import Outline, outline
from kdrun.training.distributed import DistributedStep, distribute
from kdrun.training.optimisation import build_optimizer
from kdrun.training.precision import autocast
from kdrun.training.step import Step
from kdrun.training.teacher import LiveTeacher, SeveralTeachers
from kdrun.training.trainer import Member, Stage, Training, fit
from tests.training.owners import Raising

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CLASSES, IMAGE, BATCH_SIZE, NUM = 5, (3, 8, 8), 12, 31
"""Batches of 12, 12 and 7 images."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "crd": {"num_negatives": 6, "embedding_size": 8},
    "fsp": {"adapt": True},
    "sum": {"terms": {"kd": {}, "rkd": {}, "fitnet": {}}},
}
TWO_STAGES = ("fitnet", "fsp", "weight_distillation")


@dataclasses.dataclass(frozen=True)
class Case:
    """A training of two epochs (with two stages, one each)."""

    method: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: int = 1
    views: int = 1
    per_class: int = 1
    num: int = NUM
    precision: str = "fp32"
    clip: bool = False
    per_rank: bool = False
    kind: type[Method] | None = None


def cases() -> dict[str, Case]:
    """By name: each method, each method of two stages, and what else divides a batch or its randomness."""
    one_stage = [name for name in shipped_methods() if name != "weight_distillation"]
    found = {name: Case(name, OPTIONS.get(name, {})) for name in one_stage}
    for name in TWO_STAGES:
        found[f"{name} in two stages"] = Case(name, {**OPTIONS.get(name, {}), "stage1_epochs": 1}, stages=2)
    for variant in ("cwtm", "dkpp"):
        found[f"born_again {variant}"] = Case("born_again", {"variant": variant})
    found["views"] = Case("rkd", views=2, num=27)
    found["views, each image alone"] = Case("kd", views=2)
    found["groups of a class"] = Case("rkd", per_class=3)
    found["a last batch of 3"] = Case("kd", num=27)
    found["bf16"] = Case("rkd", precision="bf16")
    found["clipped"] = Case("kd", clip=True)
    return found


def network(seed: int, *, depth: int = 1, width: int = 4) -> nn.Sequential:
    """A residual network with dropout on feature maps and before the classifier."""
    torch.manual_seed(seed)
    net = residual_network(CLASSES, 3, stem=width, widths=(width, 2 * width), blocks=(depth, depth), block=basic_block)
    layers = dict(net.named_children())
    made = nn.Sequential()
    for name, layer in layers.items():
        if name == "classifier":
            made.add_module("dropout", nn.Dropout(0.3))
        made.add_module(name, layer)
        if name == "layer1":
            made.add_module("map_dropout", nn.Dropout2d(0.2))
    return made.to(memory_format=torch.channels_last)


def outline_of(net: nn.Module) -> Outline:
    return outline(net, IMAGE)


def images(num: int, seed: int) -> ResidentImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, *IMAGE[1:], IMAGE[0]), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (num,), generator=generator)
    return ResidentImages(ImageSet(pixels, labels), mean=[0.5] * 3, std=[0.25] * 3, device="cpu")


def built(case: Case, data: ResidentImages, teacher: nn.Module) -> Method:
    student = network(1)
    kind = case.kind or shipped_methods()[case.method]
    given = {
        "pair": Pair(outline_of(student), outline_of(teacher), lambda: network(int(torch.randint(100, ())))),
        "training": TrainingSet(data.labels, len(data), CLASSES),
    }
    asked = inspect.signature(kind).parameters
    torch.manual_seed(2)
    return kind(student, **{name: value for name, value in given.items() if name in asked}, **case.options)


def trained(case: Case) -> dict[str, Any]:
    """The gradients of each step, the weights after each epoch, and the rows."""
    data, test = images(case.num, 0), images(13, 5)
    views = TrainingViews(
        data,
        Augmentation(crop_padding=1),
        batch_size=BATCH_SIZE,
        seed=3,
        views=case.views,
        per_class=case.per_class,
    )
    teachers = [network(seed, depth=2, width=4) for seed in (7, 8)]
    method = built(case, data, teachers[0])
    context = autocast(CPU, case.precision)
    answers = [LiveTeacher(teacher, context, case.precision, method.needs) for teacher in teachers]
    source = SeveralTeachers(answers) if method.needs.several else answers[0]
    if num_ranks() > 1:
        distribute(method, per_rank=case.per_rank)
    gradients: list[dict[str, torch.Tensor | None]] = []
    names = {parameter: name for name, parameter in method.named_parameters()}

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients.append({names[each]: None if each.grad is None else each.grad.clone() for each in parameters})

    def optimizer() -> torch.optim.Optimizer:
        made = build_optimizer("sgd", method.trained(), lr=0.05, momentum=0.9, nesterov=False, weight_decay=1e-3)
        made.register_step_pre_hook(keep)
        return made

    training = Training(method, optimizer())

    def step() -> Step:
        kind = DistributedStep if num_ranks() > 1 else Step
        return kind(method, training.optimizer, context, has_shares=training.has_shares)

    def begin_stage2() -> Step:
        method.begin_stage2()
        training.optimizer = optimizer()
        return step()

    states = [{name: tensor.clone() for name, tensor in method.state_dict().items()}]
    member = Member(
        training,
        step(),
        [Stage(0, 1, lambda step: 0.02), Stage(1, 1, lambda step: 0.02)]
        if case.stages == 2
        else [Stage(0, 2, lambda step: 0.02)],
        begin_stage2,
        context,
        Raising(),
        {"test": test},
        stop_epoch=2,
        on_epoch=lambda speed: states.append({name: tensor.clone() for name, tensor in method.state_dict().items()}),
    )
    fit([member], views, source if method.needs.teacher else None, seed=4)
    return {"gradients": gradients, "states": states, "rows": training.rows, "images": training.images}


def main(number: int, ranks: int, directory: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory / 'group'}",
        rank=number,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=60),
    )
    found = {name: trained(case) for name, case in cases().items() if not names or name in names}
    torch.save(found, directory / f"{rank()}.pt")
    distributed.destroy_process_group()


def group(ranks: int, directory: Path, *names: str) -> list[dict[str, Any]]:
    """What each of so many ranks found."""
    command = [sys.executable, "-m", "tests.training.ranks"]
    processes = [
        subprocess.Popen([*command, str(number), str(ranks), str(directory), *names], cwd=ROOT)
        for number in range(ranks)
    ]
    codes = [process.wait() for process in processes]
    assert codes == [0] * ranks
    return [torch.load(directory / f"{number}.pt") for number in range(ranks)]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
