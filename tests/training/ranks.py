"""Trainings of every method that one process or a group of ranks computes; as a script, one rank of each group.

`python -m tests.training.ranks RANK DIRECTORY` saves what the rank found in each case in DIRECTORY/RANKS/RANK.pt.
"""

import contextlib
import copy
import dataclasses
import datetime
import functools
import inspect
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from kdrun.data import Augmentation, ImageSet, ResidentImages, ResidentSequences, SequenceSet, TrainingViews
from kdrun.distributed import num_ranks, rank
from kdrun.methods import (
    Batch,
    Method,
    Objective,
    Pair,
    StudentOutput,
    TeacherOutput,
    TrainingSet,
    shipped_methods,
)
from kdrun.methods.hard_labels import CE
from kdrun.methods.relations import RKD
from kdrun.models import transformer
from kdrun.models.layers import GlobalAverage, conv_bn, named
from kdrun.taps import outline
from kdrun.training.averaging import average_weights
from kdrun.training.distributed import DistributedStep, distribute
from kdrun.training.optimisation import build_optimizer, clip_gradients
from kdrun.training.precision import autocast
from kdrun.training.step import Step
from kdrun.training.teacher import LiveTeacher, SeveralTeachers
from kdrun.training.trainer import DivergedError, Member, Stage, Training, fit
from tests.training.owners import Raising

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CLASSES, SIDE, TOKENS, LENGTH = 5, 6, 7, 4
BATCH_SIZE, NUM = 12, 19
"""Batches of 12 and 7 examples."""
LR = 0.02
GROUPS = (2, 3)
TWO_STAGES = ("fitnet", "fsp", "weight_distillation")
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "crd": {"num_negatives": 6, "embedding_size": 8},
    "fsp": {"adapt": True},
    "sum": {"terms": {"kd": {}, "rkd": {}, "fitnet": {}}},
}


class RKDOfParts(RKD):
    """It claims that its images need nothing of each other."""

    name = "rkd_of_parts"
    whole_batch = False


class Spoiled(CE):
    """The loss of the batch with image 1, or of a part of it, is not a number."""

    name = "spoiled"
    whole_batch = False

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        objective = super().objective(student, batch, teacher)
        factor = torch.where((batch.index == 1).any(), torch.nan, 1.0)
        return dataclasses.replace(objective, loss=factor * objective.loss)


@dataclass(frozen=True)
class Case:
    """A training of `epochs` for each stage; `resumed` after the first one, as by another process."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    stages: int = 1
    epochs: int = 1
    resumed: bool = False
    num: int = NUM
    views: int = 1
    per_class: int = 1
    mixup_alpha: float = 0.0
    tokens: bool = False
    precision: str = "fp32"
    clip: bool = False
    per_rank: bool = False
    dropout: float = 0.3
    kind: type[Method] | None = None


def cases() -> dict[str, Case]:
    """By name: each method, in two stages where it has them; and what else there is to divide."""
    methods = [name for name in shipped_methods() if name != "weight_distillation"]
    found = {name: Case(name, OPTIONS.get(name, {})) for name in methods}
    for name in TWO_STAGES:
        found[f"{name} in two stages"] = Case(name, {**OPTIONS.get(name, {}), "stage1_epochs": 1}, stages=2)
    return {
        **found,
        "born_again cwtm": Case("born_again", {"variant": "cwtm"}),
        "born_again dkpp": Case("born_again", {"variant": "dkpp"}),
        "two views": Case("kd", views=2),
        "two views of the whole batch": Case("rkd", views=2),
        "groups of a class": Case("rkd", per_class=3),
        "mixed images": Case("kd", mixup_alpha=1.0),
        "tokens": Case("kd", tokens=True),
        "four batches, the last of 3": Case("kd", num=39, epochs=2),
        "resumed": Case("kd", num=39, epochs=2, resumed=True),
        "bf16": Case("kd", precision="bf16"),
        "bf16 of the whole batch": Case("dist", {"weight": 1.0}, precision="bf16"),
        "clipped and averaged": Case("kd", clip=True),
        "statistics of each rank": Case("ce", per_rank=True, num=BATCH_SIZE, dropout=0.0),
        "rkd of parts": Case("", kind=RKDOfParts),
        "spoiled": Case("", kind=Spoiled, num=40),
    }


def image_network(seed: int, dropout: float = 0.3) -> nn.Sequential:
    """Two stages of one convolution each, with dropout of maps and of vectors."""
    torch.manual_seed(seed)
    width = 4
    network = named(
        layer1=conv_bn(3, width, 3, activation=nn.ReLU),
        map_dropout=nn.Dropout2d(dropout),
        layer2=conv_bn(width, 2 * width, 3, stride=2, activation=nn.ReLU),
        pool=GlobalAverage(),
        dropout=nn.Dropout(dropout),
        classifier=nn.Linear(2 * width, CLASSES),
    )
    return network.to(memory_format=torch.channels_last)


def token_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    options = {"width": 8, "depth": 1, "heads": 2, "dropout": 0.2, "attention_dropout": 0.2}
    return transformer(CLASSES, TOKENS, LENGTH, per_token=True, causal=True, **options)


@functools.cache
def outlines() -> dict[str, Any]:
    """Of student and teacher."""
    return {role: outline(image_network(0).to("meta"), (3, SIDE, SIDE)) for role in ("student", "teacher")}


def examples(num: int, seed: int, *, tokens: bool) -> ResidentImages | ResidentSequences:
    generator = torch.Generator().manual_seed(seed)
    if tokens:
        sequences = torch.randint(1, TOKENS, (num, LENGTH), generator=generator)
        labels = torch.randint(0, CLASSES, (num, LENGTH), generator=generator)
        return ResidentSequences(SequenceSet(sequences, labels), device="cpu")
    pixels = torch.randint(0, 256, (num, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (num,), generator=generator)
    return ResidentImages(ImageSet(pixels, labels), mean=[0.5] * 3, std=[0.25] * 3, device="cpu")


def build(case: Case, data: ResidentImages | ResidentSequences) -> Method:
    kind = case.kind or shipped_methods()[case.method]
    given = {
        "pair": lambda: Pair(**outlines(), fresh=lambda: image_network(int(torch.randint(100, ())))),
        "training": lambda: TrainingSet(data.labels, len(data), CLASSES),
    }
    asked = inspect.signature(kind).parameters
    student = token_network(1) if case.tokens else image_network(1, case.dropout)
    return kind(student, **{name: make() for name, make in given.items() if name in asked}, **case.options)


class Interrupted(Exception):  # noqa: N818 (not an error)
    """Ends a training after its first epoch."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.state = state


@dataclass
class Found:
    """What a training found.

    Attributes:
        gradients: of each step, by the parameters' names; None where a parameter has none.
        states: the method's, before the first epoch and after each.
        rows: of the epochs.
        error: the message where it diverged.
    """

    gradients: list[dict[str, Tensor | None]] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


def views_of(case: Case, data: ResidentImages | ResidentSequences) -> TrainingViews:
    law = Augmentation() if case.tokens else Augmentation(crop_padding=1, mixup_alpha=case.mixup_alpha)
    return TrainingViews(data, law, batch_size=BATCH_SIZE, seed=3, views=case.views, per_class=case.per_class)


def trained(case: Case, state: dict[str, Any] | None = None) -> Found:
    """Trains a case from the beginning, or from the state of its training after the first epoch."""
    data = examples(case.num, 0, tokens=case.tokens)
    views = views_of(case, data)
    method = build(case, data)
    if num_ranks() > 1:
        distribute(method, per_rank=case.per_rank)
    context = autocast(CPU, case.precision)
    found = Found()
    names = {parameter: name for name, parameter in method.named_parameters()}

    def keep_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        found.gradients.append({names[each]: None if each.grad is None else each.grad.clone() for each in parameters})

    def keep_state(images_per_second: float = 0.0) -> None:
        found.states.append({name: tensor.clone() for name, tensor in method.state_dict().items()})
        if case.resumed and len(training.rows) == 1:
            raise Interrupted(copy.deepcopy(training.state_dict()))

    def optimizer() -> torch.optim.Optimizer:
        made = build_optimizer("sgd", method.trained(), lr=LR, momentum=0.9, nesterov=False, weight_decay=1e-3)
        if case.clip:
            clip_gradients(made, 0.1)
            average_weights(method, made, 0.9)
        made.register_step_pre_hook(keep_gradients)
        return made

    def step() -> Step:
        kind = DistributedStep if num_ranks() > 1 else Step
        return kind(method, training.optimizer, context, has_shares=training.has_shares)

    def begin_stage2() -> Step:
        method.begin_stage2()
        training.optimizer = optimizer()
        return step()

    training = Training(method, optimizer(), rows=found.rows)
    if state is None:
        keep_state()
    else:
        training.load_state_dict(state)
    member = Member(
        training,
        step(),
        [Stage(number * case.epochs, case.epochs, lambda step: LR) for number in range(case.stages)],
        begin_stage2,
        context,
        Raising(),
        {"test": examples(13, 5, tokens=case.tokens)},
        stop_epoch=case.stages * case.epochs,
        on_epoch=keep_state,
    )
    try:
        fit([member], views, teacher_of(case, method) if method.needs.teacher else None, seed=4)
    except DivergedError as error:
        found.error = str(error)
    except Interrupted as stop:
        return trained(case, stop.state)
    return found


def teacher_of(case: Case, method: Method) -> LiveTeacher | SeveralTeachers:
    make = token_network if case.tokens else image_network
    context = autocast(CPU, case.precision)
    sources = [
        LiveTeacher(make(seed), context, case.precision, method.needs) for seed in (7, 8)[: 1 + method.needs.several]
    ]
    return SeveralTeachers(sources) if method.needs.several else sources[0]


class Stray(nn.Sequential):
    """A network that draws random numbers of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, self.training)


def refused(network: nn.Module) -> str:
    """The message with which a student is refused; empty where it is not."""
    method = shipped_methods()["ce"](network)
    try:
        distribute(method)
        data = examples(NUM, 0, tokens=False)
        optimizer = build_optimizer("sgd", method.trained(), lr=LR, momentum=0.9, nesterov=False, weight_decay=0)
        training, context = Training(method, optimizer), contextlib.nullcontext()
        step = DistributedStep(method, optimizer, context)
        member = Member(training, step, [Stage(0, 1, lambda step: LR)], lambda: step, context, Raising(), {}, 1, print)
        fit([member], TrainingViews(data, Augmentation(), batch_size=BATCH_SIZE, seed=3), None, seed=4)
    except ValueError as error:
        return str(error)
    return ""


def join(number: int, ranks: int, directory: Path) -> None:
    """Trains every case as a rank of a group."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory / 'group'}",
        rank=number,
        world_size=ranks,
        timeout=datetime.timedelta(minutes=5),
    )
    found = {name: dataclasses.asdict(trained(case)) for name, case in cases().items()}
    stray = Stray(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))
    torch.save({"found": found, "stray": refused(stray)}, directory / f"{rank()}.pt")
    distributed.destroy_process_group()


def computed_by_groups(directory: Path) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, by the size of the group. Each process is in all groups: importing torch takes seconds."""
    for ranks in GROUPS:
        (directory / str(ranks)).mkdir()
    command = [sys.executable, "-m", "tests.training.ranks"]
    processes = [subprocess.Popen([*command, str(number), str(directory)], cwd=ROOT) for number in range(max(GROUPS))]
    assert [process.wait() for process in processes] == [0] * max(GROUPS)
    return {ranks: [torch.load(directory / str(ranks) / f"{number}.pt") for number in range(ranks)] for ranks in GROUPS}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for ranks in GROUPS:
        if int(sys.argv[1]) < ranks:
            join(int(sys.argv[1]), ranks, Path(sys.argv[2]) / str(ranks))
