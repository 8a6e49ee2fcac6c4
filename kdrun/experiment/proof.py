"""Whether fast ways to compute a step agree with the ordinary one on this machine: proved once and kept.

A run captures or compiles its steps only after some steps on noise, of its own shape, have ended as ordinary ones do.
An error (of a compiler, or out of memory) proves nothing and is not kept: later commands try again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdrun import __version__, stopping
from kdrun.experiment.build import build_method, build_student, conversion, offered
from kdrun.experiment.choices import Choices, cache_home
from kdrun.experiment.environment import cpu_name, cuda_versions, device_name
from kdrun.experiment.failures import first_line
from kdrun.experiment.stages import begin_stage, stage_recipes
from kdrun.experiment.steps import make_step
from kdrun.experiment.timing import random_examples
from kdrun.files import DamagedError, read_record, sha256, write_record
from kdrun.log import log
from kdrun.methods.base import Batch, Method, Needs
from kdrun.mixed import Mixed
from kdrun.seeds import mix, seed_global_generators
from kdrun.spec.augmentation import Augmentation
from kdrun.spec.spec import Recipe, Spec
from kdrun.training.cuda_graphs import WARM_UP_STEPS, GraphedTeacher, NotCapturableError
from kdrun.training.precision import autocast, on_device, synchronize, use_nchw_on_small_maps
from kdrun.training.step import DEFAULT_MODE
from kdrun.training.teacher import LiveTeacher, SeveralTeachers, TeacherSource
from kdrun.training.trainer import Training

STEPS = WARM_UP_STEPS + 4
"""Steps of each way: those before a capture, and four replayed ones on different batches."""

TIMED_STEPS = 2
"""The last ones of these."""

LR_SHARE = 1e-3
"""The learning rate, as a share of the recipe's: small, so that all steps have nearly the same weights."""

BOUND = 1e-3
"""The largest difference from ordinary steps, relative to their changes of the weights or to their loss, ..."""

NOISE_FACTOR = 4.0
"""... or this multiple of their own rounding noise where that is more: untrained networks can multiply it, ..."""

LARGEST_BOUND = 0.9
"""... but never more than this: a way that does nothing differs by 1."""

OF_A_STEP = (
    *("batch_size", "accumulate", "optimizer", "nesterov", "decay_norm_and_bias", "clip_norm", "max_norm", "ema_decay"),
    "label_smoothing",
)
"""Fields of a recipe that decide what a step computes, learning rates and weight decay apart."""

NOT_FINITE = 1e30
"""Stands for a difference that is not a finite number."""

ULP = 2.0**-23
"""The relative rounding of fp32: weights are changed by it to measure the noise of rounding."""


@dataclass(frozen=True)
class Proof:
    """The comparison of a fast way with ordinary steps from the same state.

    Attributes:
        agrees: whether all differences are within their bounds.
        reason: why not, in words; empty where it agrees.
        difference: the largest difference, in multiples of its bound; None where a way could not be computed.
        ordinary_seconds: of an ordinary step.
        fast_seconds: of a step in the fast way.
    """

    agrees: bool
    reason: str = ""
    difference: float | None = None
    ordinary_seconds: float | None = None
    fast_seconds: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether another attempt would end the same way: not after an error of a compiler or device."""
        return self.agrees or self.difference is not None or NotCapturableError.__name__ in self.reason

    def __post_init__(self) -> None:
        if type(self.agrees) is not bool or type(self.reason) is not str:
            raise ValueError("agrees must be true or false, reason text")


_failures: dict[str, Proof] = {}
"""Proofs that are not final, by the name of their file: this process does not try again, later ones do."""


@dataclass(frozen=True)
class Trained:
    """What the steps of one stage end with.

    Attributes:
        parameters: their change, flattened, float64 on the CPU.
        buffers: likewise.
        loss: the mean over the steps, of one element.
        seconds: of a step.
    """

    parameters: Tensor
    buffers: Tensor
    loss: Tensor
    seconds: float


def proved(spec: Spec, choices: Choices, device: torch.device) -> Choices:
    """The choices without the fast ways that differ from ordinary steps here, each of which is a warning.

    Of compiling and capturing together, either alone is tried where both together fail.
    """
    candidates = [choices, dataclasses.replace(choices, cuda_graphs=False), dataclasses.replace(choices, compile=False)]
    for candidate in dict.fromkeys(each for each in candidates if each.has_fast_ways):
        name = _name(spec, candidate, device)
        found, again = _failures.get(name), ""
        if found is None and (found := _kept(spec, candidate, device)):
            again = f"; to compare them again, remove {_directory() / name}"
        if found is None:
            log.info("%s are compared with ordinary ones, once on this machine", candidate.words)
            found = prove(spec, candidate, device)
            keep(found, spec, candidate, device)
        if found.agrees:
            return candidate
        log.warning("%s are not used: %s%s", candidate.words, found.reason, again)
    return choices.ordinary


def prove(spec: Spec, choices: Choices, device: torch.device, *, mode: str = DEFAULT_MODE) -> Proof:
    """Computes the first steps of a run both ways, on noise and from freshly initialised networks, and compares them.

    Changes of the parameters, changes of the buffers and losses must agree to `BOUND`, or to `NOISE_FACTOR` times the
    rounding noise of ordinary steps. In fp32 this is their difference from the same steps with each weight changed by
    one unit in its last place. What is to be used in bf16 must agree in fp32, and in bf16, where the noise is the
    difference of ordinary steps from fp32. The masks of a compiled student's dropout are others than without: there
    both ways have no dropout.

    Args:
        spec: of the run; its data, weights and teachers' runs are not read.
        choices: the fast ways.
        device: where.
        mode: of torch.compile.
    """
    worst, difference = "", 0.0
    trained = functools.partial(_trained, spec, device, dropout=not choices.compile)
    try:
        noisy = list(trained("fp32", choices.ordinary, change=ULP))
        for precision in dict.fromkeys(("fp32", spec.precision)):
            ordinary, fast = list(trained(precision, choices.ordinary)), list(trained(precision, choices, mode=mode))
            for what, times in _compared(fast, ordinary, noisy).items():
                if times > difference:
                    worst, difference = f"{what} in {precision}", times
            noisy = ordinary
    except Exception as error:  # of a compiler, a device, or the code of a network or method
        stopping.check()  # it may be what the compiler made of a stop
        gc.collect()
        return Proof(False, f"{type(error).__name__}: {first_line(error)}")
    agrees = difference <= 1
    reason = "" if agrees else f"{worst} differ from those of ordinary steps by {difference:.3g} times what is allowed"
    return Proof(agrees, reason, difference, ordinary[-1].seconds, fast[-1].seconds)


def _compared(fast: Sequence[Trained], ordinary: Sequence[Trained], noisy: Sequence[Trained]) -> dict[str, float]:
    """The differences of fast from ordinary steps, stage by stage, as multiples of their bounds.

    `noisy` are ordinary steps that differ from the others by rounding.
    """

    def relative(one: Tensor, other: Tensor) -> float:
        apart = torch.where(one.isnan() & other.isnan(), 0.0, one - other)
        ratio = apart.norm() / other.nan_to_num().norm().clamp(min=1e-30)
        return float(ratio.nan_to_num(nan=NOT_FINITE, posinf=NOT_FINITE))

    def bound(noise: float) -> float:
        return min(max(BOUND, NOISE_FACTOR * noise), LARGEST_BOUND)

    found = {}
    for number, (mine, theirs, other) in enumerate(zip(fast, ordinary, noisy, strict=True), 1):
        stage = f"stage {number}: " if len(fast) > 1 else ""
        for name in ("parameters", "buffers", "loss"):
            found_here, expected, with_noise = (getattr(each, name) for each in (mine, theirs, other))
            times = relative(found_here, expected) / bound(relative(with_noise, expected))
            found[f"{stage}changes of {name}"] = times
    return found


def _trained(
    spec: Spec,
    device: torch.device,
    precision: str,
    choices: Choices,
    *,
    dropout: bool,
    change: float = 0.0,
    mode: str = DEFAULT_MODE,
) -> Iterator[Trained]:
    """Some steps of each stage of a run's method; a function of the spec and of how they are computed.

    Each weight of the student is first multiplied by `1 + change` or `1 - change`.
    """
    context = autocast(device, precision)
    method, teachers = _built(spec, device, choices, change)
    if not dropout:
        for module in method.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
    for recipe in stage_recipes(spec.recipe, method):
        if recipe is spec.recipe and method.stage1_epochs:
            method.begin_stage2()
        training = Training(method, begin_stage(recipe, method))
        step = make_step(training, context, choices, micro_batch=spec.recipe.micro_batch_size, mode=mode)
        teacher = _teacher(spec, teachers, method.needs, device, precision, captured=choices.cuda_graphs)
        method.train()
        before = _state(method)
        for number in range(STEPS):
            if number == STEPS - TIMED_STEPS:
                synchronize(device)
                started = time.perf_counter()
            batch = _batch(spec, method, number, device)
            output = teacher(batch) if teacher is not None and method.asks else None
            seed_global_generators(mix("proof", "step", number), device)
            step.set_lr(LR_SHARE * recipe.scaled_lr)
            step(batch, output, first=number == 0)
            stopping.check()
        synchronize(device)
        seconds = (time.perf_counter() - started) / TIMED_STEPS
        parameters, buffers = (  # a buffer that no step has set yet may be NaN
            after - earlier.nan_to_num() for after, earlier in zip(_state(method), before, strict=True)
        )
        loss = torch.tensor([step.end_epoch().means["loss"]], dtype=torch.float64)
        yield Trained(parameters, buffers, loss, seconds)


def _built(spec: Spec, device: torch.device, choices: Choices, change: float) -> tuple[Method, list[nn.Module]]:
    """A run's method around its student, and its teachers, all untrained; the same ones each time."""
    seed_global_generators(mix("proof", "networks"), device)
    student = on_device(build_student(spec.student, spec.dataset), device)
    with torch.no_grad():
        for parameter in student.parameters():
            signs = torch.randint(2, parameter.shape, device=device) * 2 - 1
            parameter.mul_(1 + change * signs)
    teachers = [on_device(build_student(each.student, each.dataset), device).eval() for each in spec.teachers]
    num_labels = spec.dataset.num_train_examples * spec.dataset.labels_each
    labels = torch.randint(len(spec.dataset.outputs), (num_labels,), device=device)
    method = build_method(spec.method, student, offered(spec, device, labels)).to(device)
    if choices.small_maps_nchw:
        for network in (method, *teachers):
            use_nchw_on_small_maps(network)
    return method, teachers


def _state(method: Method) -> tuple[Tensor, Tensor]:
    """Parameters and floating-point buffers, each as one vector."""
    parameters = [parameter.detach() for parameter in method.parameters()]
    buffers = [buffer for buffer in method.buffers() if buffer.is_floating_point()]
    empty = torch.zeros(0, dtype=torch.float64)
    flat = [[tensor.flatten().cpu().double() for tensor in group] for group in (parameters, buffers)]
    return torch.cat([empty, *flat[0]]), torch.cat([empty, *flat[1]])


def _batch(spec: Spec, method: Method, number: int, device: torch.device) -> Batch:
    """A batch of noise, in groups of one class where the method needs them."""
    seed = mix("proof", "batch", number)
    seed_global_generators(seed, device)
    data, needs = spec.dataset, method.needs
    size = min(spec.recipe.batch_size, data.num_train_examples)
    x, _ = random_examples(data, needs.views * size, device)
    groups = -(-size // needs.per_class)
    y = torch.randint(len(data.outputs), (groups, 1), device=device).expand(-1, needs.per_class).flatten()[:size]
    if data.labels_each > 1:
        y = torch.randint(len(data.outputs), (size * data.labels_each,), device=device)
    index = torch.randperm(data.num_train_examples, device=device)[:size]
    y, index = y.repeat(needs.views), index.repeat(needs.views)
    generator = torch.Generator(device)
    generator.manual_seed(seed)
    mixed = Mixed(y.roll(1), torch.rand(y.shape, device=device)) if spec.recipe.augmentation.mixes else None
    return Batch(
        x,
        y,
        index,
        epoch=0,
        step=number,
        progress=0.0,
        generator=generator,
        views=needs.views,
        mixed=mixed,
        label_smoothing=spec.recipe.label_smoothing,
    )


def _teacher(
    spec: Spec, networks: list[nn.Module], needs: Needs, device: torch.device, precision: str, *, captured: bool
) -> TeacherSource | None:
    """The teachers of a run, untrained."""
    kind = GraphedTeacher if captured else LiveTeacher
    sources = []
    for network, run in zip(networks, spec.teachers, strict=True):
        same_views = spec.dataset.same_views(run.dataset)
        sources.append(
            kind(
                network,
                autocast(device, precision),
                precision,
                needs,
                conversion=None if same_views else conversion(spec.dataset, run.dataset).to(device),
                same_task=spec.dataset.same_task(run.dataset),
            )
        )
    return SeveralTeachers(sources) if len(sources) > 1 else next(iter(sources), None)


def keep(proof: Proof, spec: Spec, choices: Choices, device: torch.device) -> None:
    """Keeps a proof for later runs on this machine, one that is not final for those of this process.

    A failure to write it is a warning.
    """
    name = _name(spec, choices, device)
    if not proof.is_final:
        _failures[name] = proof
        return
    try:
        _directory().mkdir(parents=True, exist_ok=True)
        write_record(_directory() / name, dataclasses.asdict(proof))
    except OSError as error:
        log.warning("whether %s agree is not kept: %s", choices.words, error)


def _kept(spec: Spec, choices: Choices, device: torch.device) -> Proof | None:
    """What was proved before; None where nothing final was, or the file is damaged, which is a warning."""
    try:
        found = Proof(**read_record(_directory() / _name(spec, choices, device)))
        return found if found.is_final else None
    except FileNotFoundError:
        return None
    except (OSError, DamagedError, TypeError, ValueError) as error:
        log.warning("%s; it is proved again", error)
        return None


def kept_proofs() -> list[Proof]:
    """All proofs that are kept on this machine and can be read."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # no home directory
        for path in sorted(_directory().glob("*.json")):
            with contextlib.suppress(OSError, DamagedError, TypeError, ValueError):
                found.append(Proof(**read_record(path)))
    return found


def _directory() -> Path:
    return cache_home() / "proofs"


def _name(spec: Spec, choices: Choices, device: torch.device) -> str:
    """The name of a proof's file: a hash of what a step is computed from and with, without learning rate and seed."""
    recipe = spec.recipe
    steps = {name: getattr(recipe, name) for name in OF_A_STEP}
    law = Augmentation(mixup_alpha=1.0) if recipe.augmentation.mixes else Augmentation()
    bare_recipe = Recipe(**steps, augmentation=law)
    teachers = tuple(Spec(each.dataset, each.student, spec.method) for each in spec.teachers)
    bare = Spec(spec.dataset, spec.student, spec.method, bare_recipe, precision=spec.precision, teachers=teachers)
    key = {
        "spec": bare.canonical(),
        "choices": dataclasses.asdict(choices),
        "device": [device_name(device), cpu_name()],
        "versions": [__version__, torch.__version__, *(cuda_versions(device) if device.type == "cuda" else ())],
    }
    return f"{sha256(json.dumps(key, sort_keys=True).encode())[:20]}.json"
