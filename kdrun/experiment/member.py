"""What trains a run: its student with the method, optimiser and stages, as each rank builds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdrun.distributed import num_ranks
from kdrun.experiment.build import build_method, offered
from kdrun.experiment.choices import Choices
from kdrun.experiment.datasets import PreparedSplits
from kdrun.experiment.initial_weights import initial_student
from kdrun.experiment.stages import begin_stage, build_stages, stage_recipes
from kdrun.experiment.steps import make_step
from kdrun.seeds import mix, seed_global_generators
from kdrun.spec.own_code import outdated
from kdrun.spec.spec import Spec
from kdrun.store.run import Run
from kdrun.training.distributed import distribute
from kdrun.training.guarded import GuardedStep
from kdrun.training.precision import autocast, on_device, use_nchw_on_small_maps
from kdrun.training.step import Step
from kdrun.training.trainer import Member, Owner, Training


def build_member(
    spec: Spec,
    data: PreparedSplits,
    steps_per_epoch: int,
    state: Mapping[str, Any] | None,
    owner: Owner,
    *,
    choices: Callable[[], Choices],
    weight_files: Mapping[str, Path],
    start: Run | None,
    on_failure: Callable[[Exception], None],
    on_epoch: Callable[[Training, float], None],
) -> Member:
    """A run's student with its method and optimiser, and what is trained of it.

    Args:
        spec: of the run.
        data: its dataset.
        steps_per_epoch: of its views.
        state: what `Training.state_dict` returned at the end of an epoch; None at the beginning.
        owner: records failures.
        choices: how the run computes; read when a stage begins.
        weight_files: the user's own weights, by SHA-256.
        start: the run it starts from.
        on_failure: called with the exception of a fast way, see `make_step`.
        on_epoch: called with the training and images per second, to save an epoch.

    Raises:
        CheckpointError: the initial weights are not the recorded ones.
        RuntimeError: code from outside kdrun, or a file that its options name, has changed since the spec was made.
    """
    if changed := outdated(spec.sources()):
        raise RuntimeError(f"{', '.join(changed)}: changed since the command started; start it again")
    device = data.train.labels.device
    context = autocast(device, spec.precision)
    seed_global_generators(mix(spec.seed, "init"), device)
    student = on_device(initial_student(spec, weight_files, start, data.rest), device)
    method = build_method(spec.method, student, offered(spec, device, data.train.labels)).to(device)
    if num_ranks() > 1:
        distribute(method, per_rank=spec.recipe.batch_norm == "per_rank")
    if choices().small_maps_nchw:
        use_nchw_on_small_maps(method)
    if state is not None:
        method.stage = state["stage"]
    # A batch is never larger than the data, and the learning rate is scaled by the batch that there is.
    batch_size = min(spec.recipe.batch_size, max(2, len(data.train)))
    recipes = stage_recipes(dataclasses.replace(spec.recipe, batch_size=batch_size, accumulate=1), method)
    training = Training(method, begin_stage(recipes[method.stage], method))
    if state is not None:
        training.load_state_dict(dict(state))

    def step() -> Step | GuardedStep:
        return make_step(training, context, choices(), on_failure, micro_batch=spec.recipe.micro_batch_size)

    def begin_stage2() -> Step | GuardedStep:
        method.begin_stage2()
        training.optimizer = begin_stage(recipes[-1], method)
        return step()

    return Member(
        training,
        step(),
        build_stages(recipes, steps_per_epoch),
        begin_stage2,
        context,
        owner=owner,
        splits=data.evaluated(),
        stop_epoch=spec.epochs_trained,
        on_epoch=lambda images_per_second: on_epoch(training, images_per_second),
        evaluates=spec.recipe.evaluates,
    )
