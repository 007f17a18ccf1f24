# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
import torch

from modeling_cks.evaluation.metrics import (
    emotion_accuracy,
    mean_reciprocal_rank,
    ranking_metrics,
    ranks,
    recall_at,
)
from modeling_cks.ranking import rank


def slow_rank(scores, target, mask):
    """Sort the real candidates by score, then position, and look the target up."""
    order = sorted((i for i, real in enumerate(mask) if real), key=lambda i: (-scores[i], i))
    return order.index(target) + 1


def slow_metrics(all_ranks):
    result = {}
    for k in (1, 3, 5):
        hits = points = 0.0
        for r in all_ranks:
            if r <= k:
                hits += 1
                points += 1 / r
        result[f"R@{k}"] = 100 * hits / len(all_ranks)
        result[f"MAP@{k}"] = 100 * points / len(all_ranks)
    result["MRR"] = 100 * sum(1 / r for r in all_ranks if r <= 10) / len(all_ranks)
    return result


def random_case(seed, levels):
    """Scores of few levels, so that most rows hold ties; padding anywhere but at the target."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (40, 11)).astype(float)
    mask = rng.random((40, 11)) > 0.25
    targets = rng.integers(0, 11, 40)
    mask[np.arange(40), targets] = True
    return scores, targets, mask


@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_ranks_match_the_sort(levels):
    scores, targets, mask = random_case(levels, levels)
    expected = [slow_rank(s, t, m) for s, t, m in zip(scores, targets, mask, strict=True)]
    assert len(set(expected)) > 3
    assert ranks(scores, targets, mask).tolist() == expected
    everywhere = [slow_rank(s, t, [True] * 11) for s, t in zip(scores, targets, strict=True)]
    assert ranks(scores, targets).tolist() == everywhere


def test_ranks_agree_with_the_order_that_users_are_shown():
    scores, targets, mask = random_case(7, 3)
    order = rank(torch.tensor(scores), torch.tensor(mask))
    place = (order == torch.tensor(targets)[:, None]).int().argmax(-1) + 1
    assert place.tolist() == ranks(scores, targets, mask).tolist()


def test_ties_and_infinities_by_hand():
    assert ranks([[2, 2, 2]], [0]).tolist() == [1]
    assert ranks([[2, 2, 2]], [2]).tolist() == [3]
    assert ranks([[-np.inf, -np.inf, np.inf]], [1]).tolist() == [3]
    # Precision: float32 values that differ must not be made equal.
    assert ranks(np.array([[1.0, 1.0 + 2**-23]], np.float32), [0]).tolist() == [2]


def test_what_stands_in_padding_is_never_read():
    scores, targets, mask = random_case(5, 3)
    before = ranks(scores, targets, mask)
    for junk in (np.nan, np.inf, -np.inf):
        assert (ranks(np.where(mask, scores, junk), targets, mask) == before).all()


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(4))))
def test_permuting_candidates(permutation):
    permutation = list(permutation)
    distinct = np.array([[0.3, 0.1, 0.9, 0.5]])
    for target in range(4):
        moved = permutation.index(target)
        assert ranks(distinct[:, permutation], [moved]) == ranks(distinct, [target])
    # With a tie the rank follows the position among the equals, and nothing else.
    tied = np.array([[0.5, 0.9, 0.5, 0.5]])
    for target in (0, 2, 3):
        moved = permutation.index(target)
        before = sum(permutation.index(other) < moved for other in (0, 2, 3))
        assert ranks(tied[:, permutation], [moved]) == 2 + before


def test_permuting_samples_changes_no_figure():
    rng = np.random.default_rng(0)
    all_ranks = rng.integers(1, 12, 50)
    shuffled = ranking_metrics(rng.permutation(all_ranks))
    assert shuffled == pytest.approx(ranking_metrics(all_ranks))


def test_chance_with_eleven_candidates_by_closed_form():
    # Every rank equally often is what chance gives.
    figures = ranking_metrics(np.arange(1, 12))
    assert figures["R@1"] == pytest.approx(9.09, abs=0.005)
    assert figures["R@3"] == pytest.approx(27.27, abs=0.005)
    assert figures["R@5"] == pytest.approx(45.45, abs=0.005)
    assert figures["MRR"] == pytest.approx(26.63, abs=0.005)
    assert figures["MAP@3"] == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 11)


def test_perfect_and_hopeless():
    assert set(ranking_metrics([1, 1, 1]).values()) == {100.0}
    assert set(ranking_metrics([11, 12]).values()) == {0.0}
    # The cuts, one by one: the right sticker at 10 counts in MRR, at 11 no more.
    assert mean_reciprocal_rank([10], 10) == pytest.approx(10.0)
    assert mean_reciprocal_rank([11], 10) == 0.0
    assert mean_reciprocal_rank([3], 3) == pytest.approx(100 / 3)
    assert mean_reciprocal_rank([4], 3) == 0.0
    assert (recall_at([3], 3), recall_at([4], 3)) == (100.0, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_match_the_loop(seed):
    all_ranks = np.random.default_rng(seed).integers(1, 12, 37)
    assert ranking_metrics(all_ranks) == pytest.approx(slow_metrics(all_ranks.tolist()))


def test_recall_over_a_whole_sticker_set():
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(20, 330)), rng.integers(0, 330, 20)
    scores[np.arange(20), targets] += 2
    figures = ranking_metrics(ranks(scores, targets), at=(1, 10, 330))
    assert figures["R@330"] == 100.0
    expected = np.mean([t in np.argsort(-s)[:10] for s, t in zip(scores, targets, strict=True)])
    assert 0 < expected < 1
    assert figures["R@10"] == pytest.approx(100 * expected)


def test_emotion_accuracy_leaves_unlabelled_samples_out():
    assert emotion_accuracy([0, 1, 2, 3], [0, 2, -1, -1]) == 50.0
    assert emotion_accuracy([-1, 1], [-1, 1]) == 100.0
    assert emotion_accuracy([0, 1], [-1, -1]) is None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ranks([[1.0, np.nan]], [0]), "sample 0: a score is NaN"),
        (lambda: ranks([[1.0, 2.0], [1.0, 2.0]], [0, 2]), "sample 1: the right sticker is not"),
        (lambda: ranks([[1.0, 2.0]], [-1]), "the right sticker is not among"),
        (lambda: ranks([[1.0, 2.0]], [1], [[True, False]]), "the right sticker is not among"),
        (lambda: ranks([1.0, 2.0], [1]), "scores must be"),
        (lambda: ranks([[1.0, 2.0]], [1, 0]), "targets"),
        (lambda: ranks([[1.0, 2.0]], [0.5]), "integer"),
        (lambda: ranks([[1.0, 2.0]], [1], [[True]]), "mask has shape"),
        (lambda: ranking_metrics([]), "at least one"),
        (lambda: ranking_metrics([0, 1]), "from 1 up"),
        (lambda: ranking_metrics([1.5]), "from 1 up"),
        (lambda: emotion_accuracy([1], [1, 2]), "equal"),
        (lambda: emotion_accuracy([1], [-2]), "label -2"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()
