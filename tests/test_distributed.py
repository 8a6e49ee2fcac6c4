"""A rank's part of a number of things."""

import pytest
import torch

from kdrun import distributed


@pytest.mark.parametrize("total", [0, 1, 2, 5, 12, 100])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("unit", [1, 2, 4])
def test_the_parts_of_all_ranks_are_all_of_it_and_cut_no_unit(total: int, ranks: int, unit: int) -> None:
    parts = [range(total)[distributed.share(total, unit=unit, rank=rank, ranks=ranks)] for rank in range(ranks)]

    assert [number for part in parts for number in part] == list(range(total))
    assert all(part.start % unit == 0 for part in parts if part)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) < 2 * unit


def test_without_a_group_this_process_is_the_only_rank() -> None:
    assert (distributed.rank(), distributed.num_ranks()) == (0, 1)
    assert distributed.broadcast({"a": 1}) == {"a": 1}
    assert distributed.gathered(3) == [3]
    assert distributed.share(7) == slice(0, 7)


def test_random_numbers_are_drawn_for_rows_of_the_batch_alone() -> None:
    """The mask of 4 rows, and the second half of it; other first dimensions are refused."""
    torch.manual_seed(0)
    whole = torch.rand(4, 3)
    torch.manual_seed(0)
    with distributed.computing(distributed.Part(total=4, start=2, stop=4)):
        assert torch.equal(distributed.drawn_for_all(torch.rand_like, torch.ones(2, 3)), whole[2:])
        with pytest.raises(ValueError, match=r"\[1, 3\]"):
            distributed.drawn_for_all(torch.rand_like, torch.ones(1, 3))
