"""The paper's argument as a picture: soft targets, softened, come to look like a smoothed label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.analysis.plots import figure, set_heading, style
from kdrun.escaping import legend_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EPSILON = 0.1
"""Of the label smoothing that is drawn beside."""

CORRECT = 0.99
"""Probability that Tf-KD_reg's virtual teacher gives the label, before it is softened."""

SHOWN = (1.0, 4.0, 20.0)
"""Temperatures at which the likeliest classes of one image are drawn."""


def draw_soft_targets(path: Path, teachers: Mapping[str, Mapping[str, Any]], *, title: str) -> None:
    """Draws the distance to uniform against temperature, and one image's likeliest classes.

    Args:
        path: of the PNG.
        teachers: what `soft_targets.describe` returns, by name of the teacher; at least one.
        title: what the networks were trained on.
    """
    name, first = next(iter(teachers.items()))
    with figure(path, 12, 3.8) as drawn:
        grid = drawn.add_gridspec(1, 2 + len(SHOWN) + 1)
        left = drawn.add_subplot(grid[0, :2])
        style(left)
        _distances(left, teachers)
        panels = [drawn.add_subplot(grid[0, column]) for column in range(2, 3 + len(SHOWN))]
        for axes, temperature in zip(panels, (*SHOWN, None), strict=True):
            style(axes)
            _classes(axes, first, temperature)
            if axes is not panels[0]:
                axes.sharey(panels[0])
            axes.tick_params(labelleft=axes is panels[0])
        panels[0].set(ylabel="probability (dotted: uniform)", ylim=(0.03 / first["num_classes"], 1.2))
        _scale_log(panels[0])
        image = f"test image {first['index']} (of median confidence among those it gets right) as {name} sees it"
        set_heading(drawn, f"{title}; right: {image}")


def smoothed(num_classes: int, epsilon: float) -> list[float]:
    """The smoothed label `(1 - epsilon) q + epsilon u`, the true class first."""
    wrong = epsilon / num_classes
    return [1 - epsilon + wrong, *[wrong] * (num_classes - 1)]


def virtual_teacher(num_classes: int, temperature: float) -> list[float]:
    """`softmax(p^d / T)` of Tf-KD_reg (Yuan et al. 2020, eq. 8-9), the true class first."""
    probs = [CORRECT, *[(1 - CORRECT) / (num_classes - 1)] * (num_classes - 1)]
    powers = [math.exp(prob / temperature) for prob in probs]
    return [power / sum(powers) for power in powers]


def distance_to_uniform(probs: Sequence[float]) -> float:
    """KL(p || u) in nats."""
    return sum(prob * math.log(prob * len(probs)) for prob in probs if prob > 0)


def _distances(axes: Axes, teachers: Mapping[str, Mapping[str, Any]]) -> None:
    classes = next(iter(teachers.values()))["num_classes"]
    for name, found in teachers.items():
        axes.plot(found["temperatures"], found["kl_to_uniform"], "o-", label=legend_label(name))
    temperatures = next(iter(teachers.values()))["temperatures"]
    virtual = [distance_to_uniform(virtual_teacher(classes, temperature)) for temperature in temperatures]
    axes.plot(temperatures, virtual, "s:", color="0.4", label="Tf-KD_reg's virtual teacher")
    label = f"label smoothing, ε={EPSILON:g}"
    axes.axhline(distance_to_uniform(smoothed(classes, EPSILON)), color="0.4", linestyle="--", label=label)
    axes.set_xscale("log", base=2)
    _scale_log(axes)
    axes.set_xticks(temperatures, [f"{temperature:g}" for temperature in temperatures])
    axes.minorticks_off()
    axes.set(xlabel="temperature T", ylabel="KL to the uniform distribution (nats)")
    axes.legend(frameon=False, fontsize="small")


def _scale_log(axes: Axes) -> None:
    """A logarithmic ordinate, its numbers without mathematical notation, which is off in all figures."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def _classes(axes: Axes, found: Mapping[str, Any], temperature: float | None) -> None:
    """Bars of the likeliest classes, the true one dark; without a temperature the smoothed label."""
    classes = found["classes"]
    if temperature is None:
        right, wrong, *_ = smoothed(found["num_classes"], EPSILON)
        probs = [right if name == found["label"] else wrong for name in classes]
        title = f"label smoothing\nε={EPSILON:g}"
    else:
        probs = found["probs"][found["temperatures"].index(temperature)]
        title = f"teacher\nT={temperature:g}"
    axes.bar(range(len(classes)), probs, color=["C0" if name == found["label"] else "0.7" for name in classes])
    axes.axhline(1 / found["num_classes"], color="C3", linewidth=0.8, linestyle=":")
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(classes)), [str(name) for name in classes], fontsize=7)
    axes.set_xlabel("class", fontsize=8)
