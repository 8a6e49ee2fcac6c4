"""Which runs are trained together: runs with the same views in the same batches, and with the same teacher."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kdrun.experiment.build import build_student, needs_of, without_data
from kdrun.experiment.choices import Choices
from kdrun.models.cost import num_parameters, saved_bytes
from kdrun.spec.spec import Spec

SHARE_OF_MEMORY = 0.5
"""The share of the memory for a group's weights, gradients and optimisers; data, teacher and a step take the rest."""

BYTES_PER_PARAMETER = 16
"""Weight, gradient and two moments of the optimiser, in float32."""

BYTES_PER_AVERAGED_PARAMETER = 4
"""Its moving average, where the recipe has one."""

BYTES_PER_SAVED_PARAMETER = 12
"""Weight and two moments in the copy that is being written, in the host's memory."""


def shared(spec: Spec, choices: Choices) -> dict[str, Any]:
    """What the members of a group have in common, by name; their teacher apart.

    Of the choices those that decide the last bits of the teacher's logits.
    """
    needs = needs_of(spec)
    return {
        "dataset": spec.dataset,
        "seed": spec.seed,
        "recipe.epochs": spec.recipe.epochs,
        "recipe.batch_size": spec.recipe.batch_size,
        "recipe.augmentation": spec.recipe.augmentation,
        "views": needs.views,
        "per_class": needs.per_class,
        "precision": spec.precision,
        "threads": choices.threads,
        "small_maps_nchw": choices.small_maps_nchw,
    }


def check_lockstep(members: Sequence[tuple[Spec, Choices]]) -> None:
    """Raises `ValueError` unless these runs can be trained together, naming what differs."""
    first, *others = [shared(spec, choices) for spec, choices in members]
    different = [name for name in first if any(other[name] != first[name] for other in others)]
    if len({_taught_by(spec) for spec, _ in members if spec.teachers}) > 1:
        different.append("teacher")
    if different:
        raise ValueError(f"lockstep trains runs that see the same views; these differ in {', '.join(different)}")


def lockstep_groups(
    specs: Sequence[Spec], choices: Callable[[Spec], Choices], device: torch.device
) -> list[list[Spec]]:
    """Divides runs into groups that can be trained together and fit into memory.

    Runs with a teacher are with those of the same teacher; a run without joins the last group of its views. Groups
    come in the order in which the first of their runs with a teacher (or without, where there is none) comes.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Spec]] = {}
    for spec in specs:
        groups.setdefault((repr(shared(spec, choices(spec))), _taught_by(spec)), []).append(spec)
    for views, teachers in [key for key in groups if not key[1]]:
        taught = [key for key in groups if key[0] == views and key[1]]
        if taught:
            groups[taught[-1]] += groups.pop((views, teachers))
    return [part for members in groups.values() for part in _fitting(members, device)]


def _taught_by(spec: Spec) -> tuple[str, ...]:
    return tuple(teacher.run_id for teacher in spec.teachers)


def _fitting(members: list[Spec], device: torch.device) -> list[list[Spec]]:
    """Splits a group where the next member would not fit into memory beside those before."""
    limit = SHARE_OF_MEMORY * _memory_bytes(device)
    parts: list[list[Spec]] = []
    taken = 0.0
    for spec in members:
        size = member_bytes(spec, device)
        if not parts or taken + size > limit:
            parts.append([])
            taken = 0.0
        parts[-1].append(spec)
        taken += size
    return parts


def member_bytes(spec: Spec, device: torch.device) -> int:
    """Bytes of a member on the device while its group trains: weights, gradients, the optimiser's state.

    On a CPU the copy of the last epoch's state is added, which is being written. On CUDA the members' steps run at the
    same time, so the activations for backward are added.
    """
    data = spec.dataset
    with without_data():
        student = build_student(spec.student, data)
    size = BYTES_PER_PARAMETER + (BYTES_PER_SAVED_PARAMETER if device.type == "cpu" else 0)
    if spec.recipe.ema_decay is not None:
        size += BYTES_PER_AVERAGED_PARAMETER * (2 if device.type == "cpu" else 1)
    kept = size * num_parameters(student)
    if device.type == "cuda":
        kept += needs_of(spec).views * spec.recipe.micro_batch_size * saved_bytes(student, data.shape, data.dtype)
    return kept


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
