"""The accuracies of a result: last, best on test, and selected on the held-out split."""

from kdrun.spec.dataset import ImageDatasetSpec
from kdrun.spec.spec import Component, Spec
from kdrun.store.result import accuracies, best, describe


def row(epoch: int, test: float, val: float | None = None) -> dict:
    held_out = {} if val is None else {"val": {"top1": val, "nll": val / 10}}
    return {"epoch": epoch, "lr": 0.1, "train": {}, "test": {"top1": test, "nll": test / 10}, **held_out}


def test_last_best_and_selected_are_three_different_epochs():
    rows = [row(1, 50.0, 61.0), row(2, 70.0, 60.0), row(3, 65.0, 62.0), row(4, 60.0, 59.0)]
    assert accuracies(rows, {}) == {
        "test": {
            "last": {"epoch": 4, "top1": 60.0, "nll": 6.0},
            "best": {"epoch": 2, "top1": 70.0, "nll": 7.0},
        },
        "val": {
            "last": {"epoch": 4, "top1": 59.0, "nll": 5.9},
            "selected": {"epoch": 3, "top1": 62.0, "nll": 6.2, "test": {"top1": 65.0, "nll": 6.5}},
        },
    }


def test_of_equals_the_first_is_best():
    rows = [row(1, 50.0), row(2, 70.0), row(3, 70.0)]
    assert best(rows, "test") is rows[1]
    assert "val" not in accuracies(rows, {})


def test_without_an_epoch_the_network_as_it_is_counts_as_epoch_0():
    untrained = {"val": {"top1": 9.0}, "test": {"top1": 10.0}}
    found = accuracies([], untrained)
    assert found["test"] == {"last": {"epoch": 0, "top1": 10.0}, "best": {"epoch": 0, "top1": 10.0}}
    assert found["val"]["selected"] == {"epoch": 0, "top1": 9.0, "test": {"top1": 10.0}}


def test_a_teacher_is_described_with_those_that_taught_it():
    def result(name: str, *teachers: dict) -> dict:
        own = [{"run_id": each["run_id"], "name": each["student"]["name"], "top1": 1.0} for each in teachers]
        for entry, each in zip(own, teachers, strict=True):
            entry.update({"teachers": each["teachers"]} if each["teachers"] else {})
        return {
            **{"run_id": f"id of {name}", "student": {"name": name}, "dataset": "synthetic", "epochs": 2, "seed": 0},
            **{"test": {"last": {"top1": 50.0, "confidence": 0.5}}, "teachers": own},
        }

    dataset = ImageDatasetSpec("kdrun.data.synthetic", "none", 4, 1, 8, 64, 40, (0.5,), (0.25,))
    spec = Spec(dataset, Component("kdrun.models.cnn"), Component("kdrun.methods.CE"))
    small = result("resnet14", result("resnet20", result("resnet56")))
    alone, assisted = describe(spec, [result("mlp"), small])["teachers"]
    assert "teachers" not in alone
    assert assisted["teachers"] == [
        {
            **{"run_id": "id of resnet20", "name": "resnet20"},
            "teachers": [{"run_id": "id of resnet56", "name": "resnet56"}],
        }
    ]
