"""From a spec to objects: its networks and its method, and whether they fit each other."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from kdrun.distributed import num_ranks
from kdrun.methods import Method as Method
from kdrun.methods import shipped_methods
from kdrun.methods.base import Needs, Pair, TrainingSet
from kdrun.models import sequence_networks
from kdrun.models.cost import num_parameters, weightless
from kdrun.spec.components import SEQUENCE_INJECTED, asks_for, is_sum, method_class, method_of, resolve, set_by_dataset
from kdrun.spec.dataset import DatasetSpec, ImageDatasetSpec
from kdrun.spec.spec import Component, Spec
from kdrun.spec.terms import terms_with_classes
from kdrun.taps import Outline, outline
from kdrun.training.conversion import Conversion
from kdrun.training.precision import on_device

MOST_PARAMETERS = 10_000_000_000
"""Of a network: 40 GB in fp32."""

MOST_COMPUTED = 100_000_000
LARGEST_COMPUTED = 64
"""Parameters of a network, and pixels of an image's side, up to which a forward pass on the CPU is a matter of less
than a second."""


class _Unfilled(TorchFunctionMode):
    """Tensors on the meta device are not filled with random numbers: they have none, and `normal_` imports Dynamo."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, nn.init.normal_):
            tensor: torch.Tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """A context in which networks and methods are built on the meta device, which takes no memory and little time."""
    with torch.device("meta"), _Unfilled():
        yield


def call_with(function: Callable[..., Any], offered: Mapping[str, Any], **options: Any) -> Any:
    """Calls a function with those of the offered values that its signature names, and with all the options."""
    accepted = inspect.signature(function).parameters
    return function(**{name: value for name, value in offered.items() if name in accepted}, **options)


def build_student(student: Component, dataset: DatasetSpec) -> nn.Module:
    """A freshly initialised network for a dataset; draws from torch's global generator.

    Raises:
        ValueError: an option the network refuses.
    """
    model: nn.Module = call_with(resolve(student.target), dataset.network_options, **student.options)
    return model


def check_kind(student: Component, dataset: DatasetSpec) -> None:
    """Whether a network takes a dataset's kind of examples.

    Raises:
        ValueError: it takes the other kind.
    """
    takes_sequences = set_by_dataset(resolve(student.target)) == SEQUENCE_INJECTED
    if takes_sequences != ("num_tokens" in dataset.network_options):
        kind = "sequences" if takes_sequences else "images"
        theirs = f"{dataset.example}s, which {', '.join(sequence_networks())} take" if not takes_sequences else "images"
        raise ValueError(f"{student.name}: is a network for {kind}, and {dataset.name} has {theirs}")


def without_weights(student: Component, dataset: DatasetSpec) -> nn.Module:
    """A network for a dataset that holds no numbers; examples pass through it in `examined`.

    kdrun's own networks for small images are `weightless` on the CPU. Others are on the meta device, which has the
    shapes of any operation's result, but whose operations import sympy and Dynamo: that takes a second.

    Raises:
        ValueError: an option the network refuses.
    """
    with without_data():
        network = build_student(student, dataset)
    is_small = isinstance(dataset, ImageDatasetSpec) and dataset.image_size <= LARGEST_COMPUTED
    if _is_own(student) and is_small and num_parameters(network) <= MOST_COMPUTED:
        return weightless(network)
    return network


@contextlib.contextmanager
def examined(network: nn.Module) -> Iterator[None]:
    """A context in which examples can pass through a network `without_weights`."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("meta"))
    with device, torch.no_grad(), _uncompiled() if device.type == "meta" else contextlib.nullcontext():
        yield


def uncompiled(networks: Iterable[Component]) -> AbstractContextManager[None]:
    """A context in which networks from outside kdrun run uncompiled: compiling them would fill caches."""
    return contextlib.nullcontext() if all(map(_is_own, networks)) else _uncompiled()


def _uncompiled() -> AbstractContextManager[None]:
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")  # imports Dynamo
    return stance


def _is_own(network: Component) -> bool:
    return network.target.startswith("kdrun.")


def check_network(student: Component, dataset: DatasetSpec) -> None:
    """Passes two examples without data through a network, before anything is trained.

    Raises:
        ValueError: it has more than `MOST_PARAMETERS`; it fails (looking at values counts: MACs are counted without
            data, too); its output is not `[N, K]`, a row for each label; or it has lazy modules.
    """
    shape = (2, *dataset.shape)
    try:
        network = without_weights(student, dataset)
        sized = [parameter for parameter in network.parameters() if not is_lazy(parameter)]
        count, num_lazy = sum(parameter.numel() for parameter in sized), len(list(network.parameters())) - len(sized)
        with examined(network):
            output = network(torch.zeros(shape, dtype=dataset.dtype)) if count <= MOST_PARAMETERS else None
    except Exception as error:  # whatever the user's own code raises
        what = f"{student.name} cannot take {dataset.example}s {list(shape)}"
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error
    if count > MOST_PARAMETERS:
        raise ValueError(f"{student.name} has {count:,} parameters; at most {MOST_PARAMETERS:,}")
    expected = [2 * dataset.labels_each, len(dataset.outputs)]
    if not isinstance(output, torch.Tensor) or list(output.shape) != expected:
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"{student.name} returns {found} for 2 {dataset.example}s, not logits {expected}")
    if num_lazy:  # of a fresh network neither weights nor sizes are known
        raise ValueError(f"{student.name} has {num_lazy} parameters without a shape (torch's lazy modules)")


_OUTLINES: dict[Hashable, Outline] = {}


def outline_of(student: Component, dataset: DatasetSpec) -> Outline:
    """The taps and parameters of a network for a dataset; computed once, as its size."""
    key = network_key(student, dataset)
    if key not in _OUTLINES:
        network = without_weights(student, dataset)
        with examined(network):
            _OUTLINES[key] = outline(network, dataset.shape, student.name, dtype=dataset.dtype)
    return _OUTLINES[key]


def network_key(student: Component, dataset: DatasetSpec) -> Hashable:
    """What the shapes in a network depend on; the runs of a table have the same few networks."""
    given = (student, dataset.network_options, dataset.shape, dataset.dtype)
    return resolve(student.target), repr(given)


def offered(spec: Spec, device: torch.device, labels: torch.Tensor | None = None) -> dict[str, Any]:
    """What the constructor of a run's method asks for: `pair` and `training`, one of them, or neither.

    Args:
        spec: of the run.
        device: where the method's networks are to be.
        labels: of the training examples; None where no data is loaded.
    """
    asked = asks_for(spec.method)
    found: dict[str, Any] = {}
    if "pair" in asked:
        teachers = [outline_of(teacher.student, teacher.dataset) for teacher in spec.teachers]
        found["pair"] = Pair(
            student=outline_of(spec.student, spec.dataset),
            teacher=teachers[0] if teachers else Outline(),
            fresh=lambda: on_device(build_student(spec.student, spec.dataset), device),
        )
    if "training" in asked:
        each = spec.dataset.labels_each
        if labels is None:
            labels = torch.empty(spec.dataset.num_train_examples * each, dtype=torch.int64, device="meta")
        found["training"] = TrainingSet(labels, len(labels) // each, len(spec.dataset.outputs))
    return found


def examined_method(spec: Spec) -> Method:
    """A run's method with its options, without a student; no data is loaded."""
    with without_data():
        return build_method(spec.method, nn.Identity(), offered(spec, torch.device("meta")))


def needs_of(spec: Spec) -> Needs:
    """What a run's method asks of its teacher and of its batches, with its options."""
    return examined_method(spec).needs


def check_batches(spec: Spec, needs: Needs) -> None:
    """Whether a run's batches can be what its method and its augmentation ask for.

    Raises:
        ValueError: groups of one class, or pairs that are mixed, in batches that cut them; groups of examples that are
            not of one class; or micro-batches on several ranks.
    """
    recipe, groups = spec.recipe, needs.per_class
    name = method_class(spec.method).name
    if recipe.accumulate > 1 and num_ranks() > 1:
        raise ValueError(
            f"recipe.accumulate={recipe.accumulate}: is for one device; with {num_ranks()} ranks must be 1"
        )
    size = f"recipe.batch_size={recipe.batch_size}"
    parts = f"{size} / recipe.accumulate={recipe.accumulate}" if recipe.accumulate > 1 else size
    if recipe.micro_batch_size % groups:
        raise ValueError(
            f"{parts}: must be a multiple of {groups}: method {name} asks for groups of {groups} "
            f"{spec.dataset.example}s of one class"
        )
    if recipe.augmentation.mixes and recipe.batch_size % 2:
        raise ValueError(f"{size}: must be even: images are mixed in pairs (mixup, cutmix)")
    if groups > 1 and spec.dataset.labels_each > 1:
        raise ValueError(
            f"dataset={spec.dataset.name}: has a label for every token, and method {name} asks for groups of "
            f"{spec.dataset.example}s of one class"
        )


def check_labels(spec: Spec, method: Method) -> None:
    """Whether a method's objective is defined for the labels that the recipe makes.

    Raises:
        ValueError: labels are smoothed or mixed, and its objective uses the class of an image.
    """
    recipe, problems = spec.recipe, []
    if recipe.label_smoothing > 0 and method.label_kind == "hard":
        problems.append(
            f"label_smoothing={recipe.label_smoothing:g}: smooths the hard term (CE), and the objective of method "
            f"{method.name} has none; must be 0"
        )
    alphas = {name: getattr(recipe.augmentation, name) for name in ("mixup_alpha", "cutmix_alpha")}
    if recipe.augmentation.mixes and method.label_kind != "mixed":
        problems += [
            f"augmentation.{name}={alpha:g}: gives images two labels, and the objective of method {method.name} uses "
            f"the class of an image; must be 0"
            for name, alpha in alphas.items()
            if alpha > 0
        ]
    if problems:
        raise ValueError("\n".join(problems))


def check_tasks(spec: Spec, needs: Needs) -> None:
    """Whether a run's method can use teachers that were trained on another dataset than the student.

    Raises:
        ValueError: such a teacher, or one of its own teachers, for a method that compares its logits with others.
    """
    others = [teacher.dataset for teacher in spec.all_teachers() if not teacher.dataset.same_task(spec.dataset)]
    if others and not needs.any_task:
        featured = sorted(name for name, kind in shipped_methods().items() if kind.needs.any_task)
        raise ValueError(
            f"teacher.trained_on={others[0].name}: method {method_class(spec.method).name} compares the teacher's "
            f"classes with those of {spec.dataset.name}; a teacher of another dataset is for methods on features or "
            f"relations alone: {', '.join(featured)}, in a form that compares no logits"
        )
    for other in others:
        if not (other.same_views(spec.dataset) or _converts(spec.dataset, other)):
            raise ValueError(
                f"teacher.trained_on={other.name}: its {other.example}s are made of no {spec.dataset.example}s of "
                f"{spec.dataset.name}; images are made of images alone"
            )


def _converts(student: DatasetSpec, teacher: DatasetSpec) -> bool:
    return isinstance(student, ImageDatasetSpec) and isinstance(teacher, ImageDatasetSpec)


def conversion(student: DatasetSpec, teacher: DatasetSpec) -> Conversion:
    """From the views of a student's dataset of images to what a teacher's network takes."""
    assert isinstance(student, ImageDatasetSpec)
    assert isinstance(teacher, ImageDatasetSpec), "refused in preflight"
    return Conversion(student.mean, student.std, teacher.image_size, teacher.mean, teacher.std)


def build_method(method: Component, student: nn.Module, given: Mapping[str, Any] | None = None) -> Method:
    """The method around its student.

    Raises:
        ValueError: an option the method refuses.
    """
    options = dict(method.options)
    if is_sum(method) and "terms" in options:  # it gets classes: only here names are resolved
        options["terms"] = terms_with_classes(options["terms"], method_of)
    built: Method = resolve(method.target)(student, **(given or {}), **options)
    return built
