"""Shares of the gradient over a run: those in its result, and the terms with a negligible share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NEGLIGIBLE = 1.0
"""In percent."""


def recorded_shares(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last shares of each stage that has some.

    Returns:
        `{"stage": 1, "first": {"epoch": 1, "percent": {"ce": 20.1, "kd": 79.9}}, "last": ...}` for each of the stages.
    """
    stages: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if "shares" in row:
            stages.setdefault(row.get("stage", 1), []).append({"epoch": row["epoch"], "percent": row["shares"]})
    return [{"stage": stage, "first": measured[0], "last": measured[-1]} for stage, measured in stages.items()]


def negligible_terms(rows: Sequence[Mapping[str, Any]], reported: Sequence[str] = ()) -> Iterator[str]:
    """Each term whose share is below `NEGLIGIBLE` in the first and in the last measured epoch of a stage, in words.

    Args:
        rows: of `metrics.jsonl`, one per epoch.
        reported: terms of `first_shares`; where the first measured epoch is the last, they are left out.
    """
    for stage in recorded_shares(rows):
        first, last = stage["first"], stage["last"]
        for name in {**first["percent"], **last["percent"]}:
            if first is last and name in reported:
                continue
            # A term of weight 0 stands in no row.
            begins, ends = (row["percent"].get(name, 0.0) for row in (first, last))
            if max(begins, ends) < NEGLIGIBLE:
                then = "" if first is last else f", {ends:.2g} % in epoch {last['epoch']}"
                yield f"term {name} has {begins:.2g} % of the gradient in epoch {first['epoch']}{then}: it hardly acts"


def first_shares(rows: Sequence[Mapping[str, Any]], terms: Sequence[str]) -> Iterator[str]:
    """In words the shares of these terms, where the last row is the first of its stage that has shares."""
    for stage in recorded_shares(rows):
        first = stage["first"]
        if first["epoch"] == rows[-1]["epoch"]:
            for name in first["percent"].keys() & set(terms):
                yield f"term {name} has {first['percent'][name]:.2g} % of the gradient in epoch {first['epoch']}"
