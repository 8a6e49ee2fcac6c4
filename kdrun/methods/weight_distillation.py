"""Weight distillation: the student's parameters are generated from the teacher's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrun.methods.base import Batch, Needs, Pair, StudentOutput, TeacherOutput
from kdrun.methods.facts import Options, Weights
from kdrun.methods.kd import KD
from kdrun.taps import Outline, Shape


class WeightDistillation(KD):
    """Weight distillation (Lin et al. 2021) between networks of one family: the student shallower, narrower, or both.

    Stage 1 trains a generator whose output, computed anew at every step, is the student; stage 2 begins with what it
    generates last and trains the student as usual. Both minimise `(1 - alpha) CE + alpha T^2 KL`.

    The blocks of a section (`layers` of a Transformer) of the student take, in order, from consecutive groups of the
    blocks of the teacher's section. Where first blocks are of another kind than those after them, as in residual
    networks (`layer1`, ...), they stay apart, and take from the teacher's first. All else takes from its namesake.

    Args:
        student: the network.
        pair: outlines of student and teacher.
        stage1_epochs: length of the first stage, at least 1.
        temperature: T, from 0.001 to 10,000, on both sides.
        alpha: weight of the soft targets, in [0, 1].

    Raises:
        ValueError: an option outside these ranges, or networks that do not correspond.
    """

    name = "weight_distillation"
    label = "weight distillation"
    knowledge = "feature"
    needs = Needs(logits=True, weights=True)
    whole_batch = False

    def __init__(
        self, student: nn.Module, pair: Pair, *, stage1_epochs: int, temperature: float = 4.0, alpha: float = 0.9
    ) -> None:
        super().__init__(student, temperature=temperature, alpha=alpha)
        if stage1_epochs < 1:
            raise ValueError(
                f"stage1_epochs={stage1_epochs}: must be at least 1; there is no form without a first stage"
            )
        self.stage1_epochs = stage1_epochs
        self._sources = sources(pair.student, pair.teacher)
        last_layer = list(pair.student.parameters)[-1].rpartition(".")[0]
        self.generators = nn.ModuleList(
            Generator(
                pair.student.parameters[name],
                pair.teacher.parameters[group[0]],
                len(group),
                bounded=name.rpartition(".")[0] != last_layer,
            )
            for name, group in self._sources.items()
        )
        self._weights: Mapping[str, Tensor] = {}

    @classmethod
    def effective_weights(cls, options: Options, num_classes: int) -> Weights | None:
        return None  # a run by another objective would differ in more than the objective: nothing generates its student

    def ask(self, batch: Batch, teacher: TeacherOutput | None) -> StudentOutput:
        if self.stage == 1:
            return super().ask(batch, teacher)
        assert teacher is not None, "needs was not met"
        self._weights = teacher.weights  # a plain reference: no checkpoint holds them
        with torch.autocast(batch.x.device.type, enabled=False):
            generated = self.generated(teacher.weights)
        return StudentOutput(torch.func.functional_call(self.student, generated, (batch.x,)))

    def generated(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The student's parameters by name, from the teacher's `weights`."""
        return {
            name: generator([weights[source].detach() for source in group])
            for (name, group), generator in zip(self._sources.items(), self.generators, strict=True)
        }

    def trained(self) -> Iterable[nn.Parameter]:
        return self.generators.parameters() if self.stage == 0 else self.student.parameters()

    def delivered(self) -> nn.Module:
        if self.stage == 0:
            self._materialise()
        return self.student

    def begin_stage2(self) -> None:
        self._materialise()
        super().begin_stage2()

    @torch.no_grad()
    def _materialise(self) -> None:
        """Writes what the generator makes into the student.

        Before the first step of a process no teacher is known: the student is then as the checkpoint has it, where
        the evaluation at the epoch's end has written it already.
        """
        if self._weights:
            for name, tensor in self.generated(self._weights).items():
                self.student.get_parameter(name).copy_(tensor)


class Generator(nn.Module):
    """One parameter of the student from g parameters of the teacher: `A * tanh(W) + B`.

    `W = sum_l w_l T x_O W_O x_I W_I x_L W_L`, mode products of the stacked group T `[g, O_t, I_t, ...]`; positions of a
    kernel stay apart, vectors have no input mode. A group of one keeps each dimension that has the student's size
    already, and so is `A * tanh(T) + B` where all have.

    Args:
        shape: of the student's parameter, `[O, I, ...]` or `[O]`.
        teacher_shape: of each of the teacher's.
        group: g, how many there are.
        bounded: with the tanh; without it for the classifier.
    """

    output: nn.Parameter | None
    input: nn.Parameter | None
    layer: nn.Parameter | None
    layer_weights: nn.Parameter | None

    def __init__(self, shape: Shape, teacher_shape: Shape, group: int, *, bounded: bool) -> None:
        super().__init__()
        self.bounded = bounded
        for mode, name in enumerate(("output", "input")):
            mixed = mode < len(shape) and (group > 1 or shape[mode] != teacher_shape[mode])
            self.register_parameter(name, _xavier(teacher_shape[mode], shape[mode]) if mixed else None)
        self.layer = _xavier(group, group) if group > 1 else None
        self.layer_weights = nn.Parameter(torch.full((group,), 1 / group)) if group > 1 else None
        self.scale = nn.Parameter(torch.ones(shape))
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, group: Sequence[Tensor]) -> Tensor:
        """The student's parameter, from the teacher's of one group."""
        mixed = group[0]
        if self.layer is not None and self.layer_weights is not None:
            # The sum over l commutes with the other modes: one tensor goes through them instead of g.
            mixed = torch.tensordot(self.layer @ self.layer_weights, torch.stack(list(group)), dims=1)
        if self.output is not None:
            mixed = torch.tensordot(self.output, mixed, dims=([0], [0]))
        if self.input is not None:
            mixed = torch.tensordot(mixed, self.input, dims=([1], [0])).movedim(-1, 1)
        bounded = mixed.tanh() if self.bounded else mixed
        return self.scale * bounded + self.shift


def _xavier(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(rows, columns)))


@dataclass(frozen=True)
class _Block:
    """Where a parameter of a section of blocks is: `section.index.inner`."""

    section: str
    index: int
    inner: str

    @staticmethod
    def of(name: str) -> _Block | None:
        match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name)
        return None if match is None else _Block(match[1], int(match[2]), match[3])


_ADVICE = (
    "weight distillation needs two networks of one family, such as resnet56 and resnet20, "
    "or Transformers that differ in depth and width alone"
)


def sources(student: Outline, teacher: Outline) -> dict[str, list[str]]:
    """For each of the student's parameters, the names of the teacher's that it is made from.

    A section of L_s blocks takes from L_t of the teacher's in consecutive groups, of L_t / L_s each, or as near as can
    be where that is no integer. First blocks are not counted, and take from first blocks, where in any section of
    either network the first has parameters of other names or shapes than another block: a first block that changes
    the width in one section does what it does in them all.

    Raises:
        ValueError: a section of the teacher is shallower, or a parameter has no counterpart.
    """
    depths, teacher_depths = _depths(student), _depths(teacher)
    apart = 1 if _first_blocks_differ(student) or _first_blocks_differ(teacher) else 0
    found = {}
    for name in student.parameters:
        block = _Block.of(name)
        if block is None or block.index < apart:
            found[name] = [name]
        else:
            ours, theirs = depths[block.section] - apart, teacher_depths.get(block.section, apart) - apart
            if theirs < ours:
                raise ValueError(
                    f"teacher={teacher.name}: its {block.section} has {theirs + apart} blocks, that of the student "
                    f"{student.name} {ours + apart}: {_ADVICE}, the teacher at least as deep"
                )
            number = block.index - apart
            group = range(number * theirs // ours, (number + 1) * theirs // ours)
            found[name] = [f"{block.section}.{other + apart}.{block.inner}" for other in group]
        _check_counterparts(name, found[name], student, teacher)
    return found


def _depths(network: Outline) -> dict[str, int]:
    """The number of blocks of each section."""
    blocks = [block for name in network.parameters if (block := _Block.of(name)) is not None]
    return {block.section: block.index + 1 for block in sorted(blocks, key=lambda block: block.index)}


def _first_blocks_differ(network: Outline) -> bool:
    """Whether the first block of some section has parameters of other names or shapes than another of its blocks."""
    sections: dict[str, dict[int, dict[str, Shape]]] = {}
    for name, shape in network.parameters.items():
        if (block := _Block.of(name)) is not None:
            sections.setdefault(block.section, {}).setdefault(block.index, {})[block.inner] = shape
    return any(blocks.get(0) != other for blocks in sections.values() for other in blocks.values())


def _check_counterparts(name: str, group: Sequence[str], student: Outline, teacher: Outline) -> None:
    shape = student.parameters[name]
    shapes = {teacher.parameters.get(source) for source in group}
    other = shapes.pop()
    if shapes or other is None or len(other) != len(shape) or other[2:] != shape[2:]:
        raise ValueError(
            f"teacher={teacher.name}: has no counterpart of {name} {list(shape)} of the student {student.name} "
            f"(looked for {', '.join(group)}): {_ADVICE}"
        )
