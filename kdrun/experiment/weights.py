"""Weights from files: finds a network's tensors in a file, also under the names of other code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.experiment.build import build_student, without_data
from kdrun.models import image_networks
from kdrun.models.foreign_keys import LAYOUTS, Layout
from kdrun.spec.dataset import DatasetSpec
from kdrun.spec.spec import Component
from kdrun.store.checkpoint import CheckpointError, check_finite, is_state_dict, read_file, shown_name, some

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module", "_orig_mod"),
    *("student", "backbone", "encoder", "model_ema", "ema_model", "ema", "teacher"),
)
"""Parts of checkpoints and prefixes of names under which others store a network; of two that fit the first is used."""

DEEPEST = 8
"""Wrappers one within another."""

MOST = 32
"""Ways to read a file that are compared with the network: those with the most tensors."""

FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
"""The types that are converted into each other."""


@dataclass(frozen=True)
class OwnWeights:
    """Weights of the user's own that fit a network.

    Attributes:
        digest: SHA-256 of the file.
        state: by the network's names and in its shapes, on the CPU, in the file's types. Counters of batches, which
            older files do not have, may be missing.
        notices: how the file was read where that is not plain, one line each.
    """

    digest: str
    state: dict[str, Tensor]
    notices: tuple[str, ...]


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads a state dict that was read from `path`.

    Raises:
        CheckpointError: names or shapes differ.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        found = _Candidate((), None, dict(state), {name: name for name in state}, [])
        lines = found.differences(model.state_dict())
        raise CheckpointError("\n    ".join([f"{path} does not fit the network", *lines])) from error


def own_weights(path: Path, student: Component, dataset: DatasetSpec) -> OwnWeights:
    """Reads a file with weights of the user's own.

    Of a checkpoint the part that fits is taken, without any sequence of `WRAPPERS` before its names, which may be
    those of `LAYOUTS`.

    Raises:
        CheckpointError: not readable as weights, of another network, or with tensors that a network cannot have.
        OSError: not readable at all.
    """
    content, digest = read_file(path)
    candidates = [each for place, part in _state_dicts(content, set()) for each in _candidates(place, part)]
    candidates = sorted(candidates, key=lambda each: -len(each.state))[:MOST]
    if not candidates:
        raise CheckpointError(f"{path} holds no state dict (names to tensors): it holds {_described(content)}")
    wanted = _tensors_of(student, dataset)
    fits = sorted((each for each in candidates if each.fits(wanted)), key=_Candidate.rank)
    if not fits:
        best = max(candidates, key=lambda each: each.count_equal(wanted))
        count = f"{best.count_equal(wanted)} of its {len(wanted)} tensors are in the file"
        head = f"{path} does not fit {student.name}: {count}"
        nearest = _nearest(candidates, dataset)
        last = [f"it fits {nearest}"] if nearest else []
        raise CheckpointError("\n    ".join([head + best.where(), *best.differences(wanted), *last]))
    chosen, *others = fits
    if others and others[0].rank() == chosen.rank():
        raise CheckpointError(
            f"{path} fits {student.name} twice:{chosen.where()} and{others[0].where()}; save one of them alone"
        )
    size = dataset.network_options.get("image_size")
    if chosen.layout and size in chosen.layout.differs_at:
        raise CheckpointError(
            f"{path} has the names of {chosen.layout.source}, which compute something else than {student.name} for "
            f"images of {size} pixels"
        )
    if unfit := chosen.unfit(wanted):
        why = some(unfit, lambda name: f"{chosen.shown(name)} {unfit[name]}")
        raise CheckpointError(f"{path} holds what {student.name} cannot load: {why}")
    check_finite(path, {chosen.theirs[name]: tensor for name, tensor in chosen.state.items()})
    state = {name: tensor.reshape(wanted[name].shape) for name, tensor in chosen.state.items()}
    return OwnWeights(digest, state, tuple(chosen.notices(wanted, others)))


@dataclass(frozen=True)
class _Candidate:
    """A way to read a file: tensors by names that could be the network's.

    Attributes:
        place: the parts of the checkpoint, then the prefixes, within which the names stand.
        layout: of the names there; None where they are as here.
        state: the tensors by their names here.
        theirs: the whole name in the file of each.
        outside: names beside the prefix.
    """

    place: tuple[str, ...]
    layout: Layout | None
    state: dict[str, Tensor]
    theirs: dict[str, str]
    outside: list[str]

    def rank(self) -> int:
        """Of several candidates that fit the one of the lowest rank is used."""
        ranks = (WRAPPERS.index(name) if name in WRAPPERS else len(WRAPPERS) for name in self.place)
        return max(ranks, default=-1)

    def where(self) -> str:
        return f" under {shown_name('.'.join(self.place))}" if self.place else ""

    def shown(self, name: str) -> str:
        return shown_name(self.theirs[name])

    def has_shape(self, name: str, tensor: Tensor) -> bool:
        """Whether the tensor of a name has a network's shape; a linear layer can be a 1x1 convolution elsewhere."""
        shape = _shape(self.state[name])
        return shape == _shape(tensor) or (self.layout is not None and shape == (*tensor.shape, 1, 1))

    def count_equal(self, wanted: Mapping[str, Tensor]) -> int:
        return sum(name in self.state and self.has_shape(name, tensor) for name, tensor in wanted.items())

    def missing(self, wanted: Mapping[str, Tensor]) -> list[str]:
        """The network's tensors that are not there; files of older torch have no counters of batches."""
        return [name for name in wanted if name not in self.state and not name.endswith("num_batches_tracked")]

    def unknown(self, wanted: Mapping[str, Tensor]) -> list[str]:
        return [name for name in self.state if name not in wanted]

    def other_shapes(self, wanted: Mapping[str, Tensor]) -> list[str]:
        return [name for name in wanted if name in self.state and not self.has_shape(name, wanted[name])]

    def fits(self, wanted: Mapping[str, Tensor]) -> bool:
        return not (self.missing(wanted) or self.unknown(wanted) or self.other_shapes(wanted))

    def differences(self, wanted: Mapping[str, Tensor]) -> list[str]:
        """How the tensors differ from a network's in names and shapes: at most three lines, none where they fit."""

        def ours(name: str) -> str:
            return f"{name} {list(wanted[name].shape)}"

        def there(name: str) -> str:
            return f"{self.shown(name)} {_shown_shape(self.state[name])}"

        lines: list[tuple[str, list[str], Callable[[str], str]]] = [
            ("missing", self.missing(wanted), ours),
            ("unknown", self.unknown(wanted), there),
            (
                "of another shape",
                self.other_shapes(wanted),
                lambda name: f"{there(name)}, must be {list(wanted[name].shape)}",
            ),
        ]
        return [f"{what} ({len(names)}): {some(names, show)}" for what, names, show in lines if names]

    def unfit(self, wanted: Mapping[str, Tensor]) -> dict[str, str]:
        """The tensors that are of another kind than the network's, by name, each with what it is."""
        found = {name: _unfit(tensor, wanted[name].dtype) for name, tensor in self.state.items()}
        return {name: why for name, why in found.items() if why is not None}

    def notices(self, wanted: Mapping[str, Tensor], others: list[_Candidate]) -> Iterator[str]:
        """How the file is read, where there was a choice."""
        if self.layout is not None:
            yield f"its names are those of {self.layout.source}"
        if self.outside:
            groups = sorted({".".join(name.split(".")[: len(self.place) + 1]) for name in self.outside}, key=len)
            yield (
                f"the network{self.where()} is loaded, {len(self.outside)} other tensors are not: "
                f"{some(groups, shown_name)}"
            )
        elif others:
            yield f"the network{self.where()} is loaded, not what fits too{others[0].where()}"
        kinds = {(_type(tensor.dtype), _type(wanted[name].dtype)) for name, tensor in self.state.items()}
        yield from (f"{theirs} is converted to {ours}" for theirs, ours in sorted(kinds) if theirs != ours)


def _described(content: Any) -> str:
    """What a file holds instead of a state dict."""
    if not isinstance(content, dict):
        return type(content).__name__
    odd = {key: value for key, value in dict.items(content) if not isinstance(value, Tensor)} or content
    return f"a dict of {some(odd, lambda key: f'{shown_name(str(key))} ({type(odd[key]).__name__})')}"


def _state_dicts(
    value: Any, seen: set[int], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The state dicts in a checkpoint that are not `seen` yet, each with the keys that lead to it."""
    if not isinstance(value, dict) or id(value) in seen:
        return
    seen.add(id(value))
    if is_state_dict(value):  # detached, a tensor has none of the attributes that a file can set
        plain = (Tensor, nn.Parameter)
        yield place, {name: Tensor.detach(each) if type(each) in plain else each for name, each in dict.items(value)}
    elif len(place) < DEEPEST:
        for key, part in dict.items(value):  # an attribute `items` can be set by a file, too
            if isinstance(key, str):
                yield from _state_dicts(part, seen, (*place, key))


def _candidates(place: tuple[str, ...], part: Mapping[str, Tensor]) -> Iterator[_Candidate]:
    """The ways to read a state dict: without any wrappers before its names, and by each layout that knows them all."""
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name in part:
        words = name.split(".", DEEPEST)
        for i, word in enumerate(words):
            groups.setdefault(tuple(words[:i]), {})[".".join(words[i:])] = name
            if word not in WRAPPERS:
                break
    for prefix, names in sorted(groups.items(), key=lambda group: -len(group[1]))[:MOST]:
        whole = set(names.values())
        outside = [name for name in part if name not in whole]
        for layout in (None, *LAYOUTS):
            theirs: dict[str, str] = {}
            for name, full in names.items():
                renamed = name if layout is None else layout.renamed(name)
                if renamed is None:
                    break
                theirs[renamed] = full
            else:
                state = {name: part[full] for name, full in theirs.items()}
                yield _Candidate((*place, *prefix), layout, state, theirs, outside)


def _tensors_of(student: Component, dataset: DatasetSpec) -> dict[str, Tensor]:
    """A network's state dict without values."""
    with without_data():
        return build_student(student, dataset).state_dict()


def _nearest(candidates: list[_Candidate], dataset: DatasetSpec) -> str | None:
    """The first network of kdrun that a file fits, perhaps with another number of classes."""
    if "image_size" not in dataset.network_options:
        return None
    for name in image_networks():
        try:
            wanted = _tensors_of(Component(f"kdrun.models.{name}"), dataset)
        except ValueError:  # a network for larger images
            continue
        last = [each for each in ("classifier.weight", "classifier.bias") if each in wanted]
        for candidate in candidates:
            if candidate.fits(wanted):
                return name
            known = not (candidate.missing(wanted) or candidate.unknown(wanted))
            if known and candidate.other_shapes(wanted) == last and candidate.state[last[0]].ndim > 1:
                return f"{name} of {len(candidate.state[last[0]])} classes"
    return None


def _shape(tensor: Tensor) -> tuple[int, ...] | None:
    return None if tensor.is_nested else tuple(tensor.shape)


def _shown_shape(tensor: Tensor) -> str:
    shape = _shape(tensor)
    return "nested" if shape is None else str(list(shape))


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _unfit(tensor: Tensor, wanted: torch.dtype) -> str | None:
    """Why a tensor is not the value of a network's dense tensor; None where it is."""
    kinds: list[tuple[str, Callable[[], bool]]] = [
        (f"is a {type(tensor).__name__}", lambda: type(tensor) not in (Tensor, nn.Parameter)),
        ("is on the meta device, without values", lambda: tensor.is_meta),
        (f"is quantised ({_type(tensor.dtype)})", lambda: tensor.is_quantized),
        (f"is not dense ({str(tensor.layout).removeprefix('torch.')})", lambda: tensor.layout is not torch.strided),
    ]
    for why, holds in kinds:
        if holds():
            return why
    if tensor.dtype == wanted or {tensor.dtype, wanted} <= FLOATS:
        return None
    allowed = sorted(map(_type, FLOATS)) if wanted in FLOATS else [_type(wanted)]
    return f"is {_type(tensor.dtype)}, must be {' or '.join(allowed)}"
