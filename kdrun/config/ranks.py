"""What several ranks need: a device for each, and batches that divide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from kdrun.experiment.build import build_method, build_student, offered, without_data
from kdrun.place import place
from kdrun.spec.spec import Recipe, Spec
from kdrun.store.store import Store
from kdrun.training.distributed import distribute
from kdrun.training.precision import resolve_device


def resolve_rank_device(name: str) -> torch.device:
    """As `resolve_device`; of several ranks each has the GPU of its local rank.

    Raises:
        ValueError: there is none, or another device is named.
    """
    here = place()
    if here.ranks == 1:
        return resolve_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cuda", "cpu"):
        raise ValueError(f"{name!r}: each of several ranks has the GPU of its local rank; must be auto, cuda or cpu")
    return resolve_device(f"cuda:{here.local_rank}" if name == "cuda" else name)


def at_ranks(recipe: Recipe) -> Recipe:
    """A recipe with the number of ranks that `batch_norm=per_rank` depends on: here, where it is not given."""
    ranks = place().ranks
    if recipe.batch_norm == "global" or recipe.ranks is not None or ranks == 1:
        return recipe
    return dataclasses.replace(recipe, ranks=ranks)


def unfit_for_ranks(spec: Spec, store: Store) -> Iterator[str]:
    """Problems of the runs that are still to be trained, this one and those before it, on the ranks that there are."""
    ranks = place().ranks
    for each in (*spec.all_before(), spec):
        if each.epochs_trained == 0 or store.run(each).finished:
            continue
        path = "" if each is spec else "teacher."
        yield from (f"{path}recipe.{problem}" for problem in _unfit(each, ranks))
        if ranks > 1:
            yield from _undivided(each)


def _undivided(spec: Spec) -> Iterator[str]:
    """Problems of a method and its networks that `distribute` finds."""
    try:
        with without_data():
            student = build_student(spec.student, spec.dataset)
            method = build_method(spec.method, student, offered(spec, torch.device("meta")))
        distribute(method, per_rank=spec.recipe.batch_norm == "per_rank")
    except ValueError as error:
        yield str(error)


def _unfit(spec: Spec, ranks: int) -> Iterator[str]:
    recipe = spec.recipe
    if recipe.batch_norm == "per_rank" and recipe.ranks != ranks:
        if recipe.ranks is None:
            yield "batch_norm=per_rank: needs several ranks (torchrun --nproc_per_node=N -m kdrun ...), else global"
        else:
            yield f"ranks={recipe.ranks}: this run has {ranks}; must be null, or the number of ranks"
    if recipe.batch_size % ranks:
        yield f"batch_size={recipe.batch_size}: must be a multiple of the number of ranks, {ranks}"
    if recipe.accumulate > 1 and ranks > 1:
        yield f"accumulate={recipe.accumulate}: must be 1 on several ranks, which divide batches, too"
    if spec.dataset.num_train_examples < ranks:
        yield (
            f"batch_size={recipe.batch_size}: a batch has {spec.dataset.num_train_examples} {spec.dataset.example}s, "
            f"the whole training set; {ranks} ranks are too many"
        )
