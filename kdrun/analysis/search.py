"""The results of a search: its trials as tables, and pictures of what the objective depends on.

Trials and studies are Optuna's.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.analysis.plots import GREY, figure, grid, legend_below, set_heading, style
from kdrun.escaping import aligned, csv_text, markdown, printable
from kdrun.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OBJECTIVE = "val top-1, last epoch (%)"
DIVERGED = "diverged"
"""The attribute of a pruned trial whose training diverged."""

SETTINGS = "settings"
"""The attribute with a trial's values by key, as they are in its run: real numbers are rounded."""

STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
LEAST_FOR_IMPORTANCES = 4
MOST_PANELS = 12


def report(directory: Path, study: Any, title: str) -> str:
    """Writes `trials.csv`, `trials.md`, `importances.png` and `surface.png`; returns the Markdown."""
    trials = study.get_trials(deepcopy=False)
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    rows = [[*_cells(trial, keys), trial.user_attrs.get("run")] for trial in trials]
    write_atomically(directory / "trials.csv", csv_text([["trial", "state", "epoch", OBJECTIVE, *keys, "run"], *rows]))
    best_first = sorted(trials, key=lambda trial: (trial.state.name, -(trial.value or 0.0), trial.number))
    shown = [[_text(cell) for cell in _cells(trial, keys)] for trial in best_first]
    table = aligned(["trial", "state", "epoch", "val top-1 %", *keys], shown, left=2)
    text = f"{markdown(f'{title}: {len(trials)} trials, best first.')}\n\n{table}"
    write_atomically(directory / "trials.md", text)
    weights = _importances(study)
    for picture, has_content in (("importances.png", len(weights) > 1), ("surface.png", bool(weights))):
        if not has_content:
            (directory / picture).unlink(missing_ok=True)
    if len(weights) > 1:
        _draw_importances(directory / "importances.png", weights, title)
    if weights:
        _draw_surface(directory / "surface.png", trials, list(weights), title)
    return text


def _cells(trial: Any, keys: Sequence[str]) -> list[Any]:
    """Number, state, last evaluated epoch, the objective there, and the settings."""
    settings = trial.user_attrs.get(SETTINGS, {})
    state = DIVERGED if trial.user_attrs.get(DIVERGED) else STATES.get(trial.state.name, trial.state.name)
    return [trial.number, state, trial.last_step, trial.value, *map(settings.get, keys)]


def _text(cell: Any) -> str:
    return "" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def _importances(study: Any) -> dict[str, float]:
    """The share of each key in what distinguishes the best trials (PED-ANOVA), the greatest first; empty for few."""
    from optuna.importance import get_param_importances
    from optuna.trial import TrialState

    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < LEAST_FOR_IMPORTANCES:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # all trials are equally good: so are the keys
        return dict(get_param_importances(study))


def _draw_importances(path: Path, weights: dict[str, float], title: str) -> None:
    with figure(path, 6, 1.6 + 0.35 * len(weights)) as drawn:
        axes = drawn.add_subplot()
        style(axes)
        names = list(weights)[::-1]
        axes.barh(names, [weights[name] for name in names], color="C0")
        axes.set_xlabel("importance for the objective (PED-ANOVA), shares")
        set_heading(drawn, title)


def _draw_surface(path: Path, trials: Sequence[Any], keys: Sequence[str], title: str) -> None:
    """The objective against each key, and by the two most important ones together.

    The surface is linear between finished trials; pruned ones are crosses at their last epoch's value.
    """
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    pruned = [trial for trial in trials if trial.state.name == "PRUNED" and trial.value is not None]
    keys = keys[:MOST_PANELS]
    number = len(keys) + (len(keys) > 1)
    columns = min(number, 2 if number == 4 else 3)
    with figure(path, 4 * columns, 0.6 + 3.4 * math.ceil(number / columns)) as drawn:
        panels = grid(drawn, number, columns)
        for axes, key in zip(panels, keys, strict=False):
            style(axes)
            places = _scale(axes.xaxis, axes.set_xscale, key, [*done, *pruned])
            marked = [trial for trial in pruned if key in trial.params]
            label = "pruned, at its last epoch"
            axes.plot([places[t.number] for t in marked], [t.value for t in marked], "x", color=GREY, label=label)
            known = [trial for trial in done if key in trial.params]
            axes.plot([places[t.number] for t in known], [t.value for t in known], "o", color="C0", label="finished")
            axes.set(xlabel=printable(key), ylabel=OBJECTIVE)
        if len(keys) > 1:
            _draw_pair(panels[-1], done, keys[0], keys[1])
        set_heading(drawn, title)
        legend_below(drawn, panels[0].get_legend_handles_labels()[0])


def _draw_pair(axes: Axes, trials: Sequence[Any], across: str, up: str) -> None:
    """The objective as colour over two keys."""
    from matplotlib.tri import Triangulation

    trials = [trial for trial in trials if across in trial.params and up in trial.params]
    xs, ys = (
        _scale(axis, scale, key, trials)
        for axis, scale, key in ((axes.xaxis, axes.set_xscale, across), (axes.yaxis, axes.set_yscale, up))
    )
    x, y, values = [xs[t.number] for t in trials], [ys[t.number] for t in trials], [t.value for t in trials]
    ends = {"vmin": min(values), "vmax": max(values)} if len(set(values)) > 1 else {}
    with contextlib.suppress(RuntimeError, ValueError):  # fewer than three points, or all on one line
        triangles = Triangulation(_relative(axes.get_xscale(), x), _relative(axes.get_yscale(), y)).triangles
        axes.tricontourf(Triangulation(x, y, triangles), values, levels=12, alpha=0.6, **ends)
    axes.use_sticky_edges = False
    points = axes.scatter(x, y, c=values, edgecolors="black", linewidths=0.5, **ends)
    axes.figure.colorbar(points, ax=axes, label=OBJECTIVE)
    axes.set(xlabel=printable(across), ylabel=printable(up))


def _scale(axis: Any, set_scale: Any, key: str, trials: Sequence[Any]) -> dict[int, float]:
    """Scales an axis for a key; returns the place on it of each trial that has the key, by its number."""
    from matplotlib.ticker import LogLocator

    drawn = [trial for trial in trials if key in trial.params]
    distribution = drawn[0].distributions[key]
    if choices := getattr(distribution, "choices", None):
        axis.set_ticks(range(len(choices)), [printable(choice) for choice in choices])
        return {trial.number: float(choices.index(trial.params[key])) for trial in drawn}
    if distribution.log:
        set_scale("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    return {trial.number: float(trial.params[key]) for trial in drawn}


def _relative(scale: str, numbers: Sequence[float]) -> list[float]:
    """Numbers as shares of their range, on a logarithmic scale of that of their logarithms."""
    scaled = [math.log(number) for number in numbers] if scale == "log" else list(numbers)
    low, high = min(scaled), max(scaled)
    return [(number - low) / ((high - low) or 1.0) for number in scaled]
