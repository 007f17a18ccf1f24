# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from modeling_cks.ranking import rank


def slow_rank(scores, mask):
    """Repeatedly take the best of what is left, the first of equals; then the padding."""
    left = [i for i, real in enumerate(mask) if real]
    order = []
    while left:
        best = left[0]
        for i in left:
            if scores[i] > scores[best]:
                best = i
        order.append(best)
        left.remove(best)
    return order + [i for i, real in enumerate(mask) if not real]


def test_ties_go_to_the_lower_position():
    assert rank(torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0])).tolist() == [1, 2, 4, 3, 0]
    # Long enough for a sort that is not stable to show it.
    assert rank(torch.zeros(4000)).tolist() == list(range(4000))
    mask = torch.arange(4000) % 3 > 0
    expected = [i for i in range(4000) if i % 3] + [i for i in range(4000) if i % 3 == 0]
    assert rank(torch.zeros(4000), mask).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_matches_the_naive_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (6, 3, 9), generator=generator).float()
    mask = torch.rand(6, 3, 9, generator=generator) > 0.3
    scores[~mask] = float("nan")
    order = rank(scores, mask)
    assert order.dtype == torch.int64
    for i in range(6):
        for j in range(3):
            expected = slow_rank(scores[i, j].tolist(), mask[i, j].tolist())
            assert order[i, j].tolist() == expected
    full = torch.ones_like(mask)
    clean = scores.nan_to_num(1.0)
    assert torch.equal(rank(clean), rank(clean, full))


def test_padding_is_last_even_behind_minus_infinity():
    scores = torch.tensor([9.0, float("-inf"), 1.0, float("-inf")])
    mask = torch.tensor([False, True, True, True])
    assert rank(scores, mask).tolist() == [2, 1, 3, 0]


def test_permuting_candidates_permutes_the_order():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randperm(11, generator=generator).float()
    shuffle = torch.randperm(11, generator=generator)
    assert torch.equal(shuffle[rank(scores[shuffle])], rank(scores))


def test_whole_numbers_and_bfloat16_work():
    assert rank(torch.tensor([1, 5, 5])).tolist() == [1, 2, 0]
    assert rank(torch.tensor([1, 5, 5], dtype=torch.bfloat16)).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("scores", "mask", "says"),
    [
        (torch.tensor([1.0, float("nan")]), None, "NaN"),
        (torch.tensor([1.0, float("nan")]), torch.tensor([False, True]), "NaN"),
        (torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool), "mask has shape"),
        (torch.tensor(1.0), None, "candidate dimension"),
    ],
)
def test_bad_input(scores, mask, says):
    with pytest.raises(ValueError, match=says):
        rank(scores, mask)
