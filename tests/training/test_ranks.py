"""A run on several ranks: every method's steps are those of one process on the whole batch, up to rounding."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from kdrun.distributed import Part, part_of, share
from kdrun.methods import shipped_methods
from kdrun.methods.kd import KD
from kdrun.training.distributed import distribute
from tests.training import ranks as group

BOUND = 1e-5
"""Of gradients (of all parameters together), relative to their norm, and of weights, relative to what training moved:
some 40 units in the last place of float32. The largest seen are 3e-6 and 2e-6."""
BF16_BOUND = 0.03
CASES = group.cases()
OTHERS = ("statistics of each rank", "rkd of parts", "spoiled", "resumed")
"""Cases that are compared with something else."""


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    return group.computed_by_groups(tmp_path_factory.mktemp("groups"))


@pytest.fixture(scope="module")
def alone():
    torch.set_num_threads(1)
    return {name: dataclasses.asdict(group.trained(case)) for name, case in CASES.items()}


def joined(tensors: dict[str, Tensor | None]) -> Tensor:
    """All floating-point numbers; those that nothing was computed for (NaN) as 0."""
    flat = [each.double().flatten() for each in tensors.values() if each is not None and each.is_floating_point()]
    return torch.cat(flat).nan_to_num()


def distance(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    return float((found - expected).norm() / scale.norm())


def furthest(found: dict, expected: dict) -> tuple[float, float]:
    """The largest relative differences of a step's gradients, and of the weights after an epoch."""
    gradients = [
        distance(joined(here), joined(there), joined(there))
        for here, there in zip(found["gradients"], expected["gradients"], strict=True)
    ]
    before, *after = (joined(state) for state in expected["states"])
    states = [
        distance(joined(here), there, there - before) for here, there in zip(found["states"][1:], after, strict=True)
    ]
    return max(gradients), max(states)


@pytest.mark.parametrize("ranks", group.GROUPS)
@pytest.mark.parametrize("name", [name for name in CASES if name not in OTHERS])
def test_gradients_weights_and_rows_are_those_of_one_process(groups, alone, ranks, name):
    found, expected = groups[ranks][0]["found"][name], alone[name]
    bound = BF16_BOUND if CASES[name].precision == "bf16" else BOUND
    assert max(furthest(found, expected)) < bound
    for here, there in zip(found["gradients"], expected["gradients"], strict=True):
        assert [key for key in here if here[key] is None] == [key for key in there if there[key] is None]
    assert found["states"][-1].keys() == expected["states"][-1].keys()
    if bound == BOUND:  # with bf16 an image changes sides now and then
        assert flat(found["rows"]) == pytest.approx(flat(expected["rows"]), rel=10 * bound, abs=bound)


def flat(rows: list[dict]) -> dict[str, float]:
    """The values of rows by their whole names."""

    def items(value: object, path: str):
        if isinstance(value, dict):
            for key, each in value.items():
                yield from items(each, f"{path} {key}")
        else:
            yield path, value

    return dict(pair for number, row in enumerate(rows) for pair in items(row, str(number)))


@pytest.mark.parametrize("ranks", group.GROUPS)
def test_the_first_gradient_of_a_network_with_batch_norm(groups, alone, ranks):
    found, expected = (joined(each["ce"]["gradients"][0]) for each in (groups[ranks][0]["found"], alone))
    assert distance(found, expected, expected) < 2e-6


@pytest.mark.parametrize("ranks", group.GROUPS)
def test_all_ranks_have_the_same_bits(groups, ranks):
    first, *others = groups[ranks]
    for other in others:
        for name in CASES:
            assert other["found"][name]["rows"] == first["found"][name]["rows"]
            for here, there in zip(other["found"][name]["states"], first["found"][name]["states"], strict=True):
                assert [key for key in there if not torch.equal(here[key].nan_to_num(), there[key].nan_to_num())] == []


@pytest.mark.parametrize("ranks", group.GROUPS)
def test_a_resumed_training_ends_with_the_same_bits(groups, ranks):
    """Of three ranks, too, whose sums depend on how the gradients are grouped."""
    whole, resumed = (groups[ranks][0]["found"][name] for name in ("four batches, the last of 3", "resumed"))
    assert len(resumed["gradients"]) == 4 < len(whole["gradients"])
    for name, tensor in whole["states"][-1].items():
        assert torch.equal(resumed["states"][-1][name], tensor), name


@pytest.mark.parametrize("ranks", group.GROUPS)
def test_a_relation_of_the_parts_is_none_of_the_batch(groups, alone, ranks):
    """So the bound tells a wrong flag."""
    assert furthest(groups[ranks][0]["found"]["rkd of parts"], alone["rkd"])[0] > 1000 * BOUND


@pytest.mark.parametrize("ranks", group.GROUPS)
def test_statistics_of_each_rank_are_of_its_part_alone_and_rank_0s_are_kept(groups, ranks):
    case = CASES["statistics of each rank"]
    data = group.examples(case.num, 0, tokens=False)
    method = group.build(case, data).train()
    (step,) = group.views_of(case, data).epoch(0)
    expected: dict[str, Tensor] = {name: torch.zeros_like(each) for name, each in method.named_parameters()}
    for rank in range(ranks):
        here = share(case.num, rank=rank, ranks=ranks)
        part = copy.deepcopy(method)
        loss = nn.functional.cross_entropy(part.student(step[0][here]), step[1][here])
        names, parameters = zip(*part.named_parameters(), strict=True)
        for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
            expected[name] += gradient * len(step[1][here]) / case.num
        if rank == 0:
            statistics = {name: buffer for name, buffer in part.named_buffers() if "running" in name}
    found = groups[ranks][0]["found"]["statistics of each rank"]
    assert distance(joined(found["gradients"][0]), joined(expected), joined(expected)) < BOUND
    assert statistics
    for name, buffer in statistics.items():
        torch.testing.assert_close(found["states"][-1][name], buffer)


@pytest.mark.parametrize("ranks", group.GROUPS)
def test_the_first_step_whose_loss_is_not_finite_on_one_rank_is_that_of_all(groups, alone, ranks):
    message = alone["spoiled"]["error"]
    assert "step" in message
    assert [found["found"]["spoiled"]["error"] for found in groups[ranks]] == [message] * ranks


@pytest.mark.parametrize("ranks", group.GROUPS)
def test_random_numbers_that_are_not_drawn_for_the_whole_batch_are_refused(groups, ranks):
    assert all("random numbers" in found["stray"] for found in groups[ranks])


def test_a_batch_is_divided_where_every_rank_gets_two(monkeypatch):
    monkeypatch.setattr("kdrun.distributed.num_ranks", lambda: 3)
    assert [total for total in range(10) if part_of(total) is not None] == [6, 7, 8, 9]
    assert [total for total in range(18) if part_of(total, unit=4) is not None] == [12, 13, 14, 15, 16, 17]


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_of_a_part_are_placed_and_cut_view_by_view(rows):
    part = Part(5, 1, 3, views=2)
    whole = torch.arange(2 * 5 * rows, dtype=torch.float32)[:, None]
    own = whole.view(2, 5, rows)[:, 1:3].reshape(-1, 1)
    assert torch.equal(part.cut(whole), own)
    placed = part.placed(own)
    assert torch.equal(part.cut(placed), own)
    assert placed.shape == whole.shape
    assert math.isclose(placed.sum(), own.sum())


def test_whether_the_whole_batch_is_needed_is_not_inherited():
    class Mine(KD):
        name = "mine"

    assert (KD.whole_batch, Mine.whole_batch) == (False, True)
    assert {name for name, kind in shipped_methods().items() if kind.whole_batch} == {
        *("born_again", "crd", "dist", "rkd", "sp", "sum", "triplet")
    }
    plain = group.Case("sum", {"terms": {"kd": {}, "at": {}}})
    data = group.examples(6, 0, tokens=False)
    assert [group.build(case, data).whole_batch for case in (plain, CASES["sum"])] == [False, True]


def test_a_batch_norm_of_another_class_is_refused_unless_each_rank_has_its_own():
    class Mine(nn.BatchNorm1d):
        pass

    method = shipped_methods()["ce"](nn.Sequential(nn.Flatten(), Mine(4)))
    with pytest.raises(ValueError, match=r"student\.1: Mine .* recipe\.batch_norm=per_rank"):
        distribute(method)
    distribute(method, per_rank=True)
    assert type(method.student[1]) is Mine
