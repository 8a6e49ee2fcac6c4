"""The content of `result.json`, schema 1. Top-1 and top-5 are in percent."""

from __future__ import annotations

from typing import Any

from kdrun.spec.spec import Spec

RESULT_SCHEMA = 1


def describe(spec: Spec, teachers: list[dict[str, Any]]) -> dict[str, Any]:
    """What was run: the part of a result that follows from the spec and the teachers' results."""
    from kdrun.spec.components import all_options, method_class  # which needs torch; reading results does not

    return {
        "schema": RESULT_SCHEMA,
        "run_id": spec.run_id,
        "status": "finished",
        "semantics": spec.semantics,
        "dataset": spec.dataset.name,
        "method": {"name": method_class(spec.method).name, **all_options(spec.method)},
        "teachers": [
            {
                "run_id": teacher["run_id"],
                "name": teacher["student"]["name"],
                "dataset": teacher["dataset"],
                "top1": teacher["test"]["last"]["top1"],
                "confidence": teacher["test"]["last"]["confidence"],
                "epochs": teacher["epochs"],
                "seed": teacher["seed"],
                **_taught_by(teacher),
            }
            for teacher in teachers
        ],
        "seed": spec.seed,
        "precision": spec.precision,
        "epochs": spec.epochs_trained,
    }


def _taught_by(teacher: dict[str, Any]) -> dict[str, Any]:
    """The teachers of a teacher, theirs within: by name and run_id; nothing where it had none."""
    own = [{"run_id": each["run_id"], "name": each["name"], **_taught_by(each)} for each in teacher.get("teachers", [])]
    return {"teachers": own} if own else {}


def best(rows: list[dict[str, Any]], split: str) -> dict[str, Any]:
    """Of the rows that were evaluated, one at least, that with the highest top-1 on a split; the first of equals."""
    return max((row for row in rows if split in row), key=lambda row: row[split]["top1"])


def accuracies(rows: list[dict[str, Any]], untrained: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The `test` and `val` parts: the last epoch, the best on test (never the headline), the selected on val.

    Networks that were trained with the student have the same parts under `peers`, by name.

    Args:
        rows: one per epoch.
        untrained: the metrics by split where there are no rows.
    """
    rows = rows or [{"epoch": 0, **untrained}]
    last, top = rows[-1], best(rows, "test")
    parts: dict[str, Any] = {
        "test": {
            "last": {"epoch": last["epoch"], **last["test"]},
            "best": {"epoch": top["epoch"], **top["test"]},
        }
    }
    if "val" in last:
        selected = best(rows, "val")
        parts["val"] = {
            "last": {"epoch": last["epoch"], **last["val"]},
            "selected": {"epoch": selected["epoch"], **selected["val"], "test": selected["test"]},
        }
    if "peers" in last:
        parts["peers"] = {
            name: accuracies([{"epoch": row["epoch"], **row["peers"][name]} for row in rows if "peers" in row], {})
            for name in last["peers"]
        }
    return parts
