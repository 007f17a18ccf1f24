# SPDX-License-Identifier: Apache-2.0
"""The paired bootstrap on cases whose answer is known."""

import numpy as np
import pytest

from modeling_cks.evaluation import paired_bootstrap, sample_figures


def test_equal_rankers_do_not_differ():
    figures = np.random.default_rng(0).integers(0, 2, 200) * 100.0
    found = paired_bootstrap(figures, figures, np.arange(200) // 3)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_constant_shift_is_certain():
    figures = np.random.default_rng(0).random(90)
    found = paired_bootstrap(figures + 5, figures, np.arange(90) // 3, resamples=999)
    assert [found.mean, found.low, found.high] == pytest.approx([5, 5, 5])
    assert found.p == pytest.approx(2 / 1000)
    assert (found.samples, found.dialogues) == (90, 30)


def test_it_is_what_a_plain_loop_gives():
    draw = np.random.default_rng(1)
    dialogues = np.repeat(["a", "b", "c", "d"], [1, 2, 3, 4])
    first, second = draw.random(10), draw.random(10)
    found = paired_bootstrap(first, second, dialogues, resamples=4000, seed=3)
    means, again = [], np.random.default_rng(5)
    for _ in range(4000):
        chosen = again.choice(["a", "b", "c", "d"], 4)
        places = np.concatenate([np.flatnonzero(dialogues == one) for one in chosen])
        means.append((first - second)[places].mean())
    assert found.mean == pytest.approx((first - second).mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.03)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.03)


def test_level_resamples_and_seed_do_what_they_say():
    draw = np.random.default_rng(6)
    first, second, dialogues = draw.normal(0.5, 1, 60), np.zeros(60), np.arange(60)

    def found(**changes):
        return paired_bootstrap(first, second, dialogues, **{"resamples": 4000, **changes})

    whole, half = found(), found(level=0.5)
    # Of a normal distribution half lies within 0.674 standard deviations, 95 % within 1.960.
    ratio = (half.high - half.low) / (whole.high - whole.low)
    assert ratio == pytest.approx(0.674 / 1.960, rel=0.06)
    assert half.p == whole.p and half.mean == whole.mean
    other = found(seed=1)
    assert (other.low, other.high) != (whole.low, whole.high) and other.mean == whole.mean
    assert found() == whole
    # A p is a whole number of resamples, and no smaller than they can tell.
    for resamples in (9, 99):
        certain = paired_bootstrap(first + 100, second, dialogues, resamples=resamples)
        assert certain.p == pytest.approx(2 / (resamples + 1))
    # A difference of one standard error: on the other side in a sixth of the resamples.
    weak = first - first.mean() + first.std() / 60**0.5
    few = [paired_bootstrap(weak, second, dialogues, resamples=19, seed=n).p for n in range(20)]
    assert 0.2 < np.mean(few) < 0.6
    assert {round(10 * p, 6) % 1 for p in few} == {0}


def test_long_dialogues_are_summed_exactly():
    # 3,000 samples at 100 percent are beyond what half precision holds, and thirds beyond bytes.
    figures = np.full(6000, 100 / 3)
    found = paired_bootstrap(figures, np.zeros(6000), np.arange(6000) // 3000)
    assert [found.low, found.high] == pytest.approx([100 / 3] * 2, rel=1e-5)


def test_the_order_of_two_only_turns_the_sign():
    draw = np.random.default_rng(2)
    first, second, dialogues = draw.random(60), draw.random(60), np.arange(60) // 2
    there, back = (paired_bootstrap(a, b, dialogues) for a, b in ((first, second), (second, first)))
    assert there.mean == pytest.approx(-back.mean) and there.p == back.p
    assert there.low == pytest.approx(-back.high) and there.high == pytest.approx(-back.low)


def test_samples_of_one_dialogue_count_as_one():
    # The same differences: as single dialogues they say more than tied together in tens.
    difference = np.repeat(np.random.default_rng(3).normal(0.3, 1, 20), 10)
    single = paired_bootstrap(difference, np.zeros(200), np.arange(200))
    tied = paired_bootstrap(difference, np.zeros(200), np.arange(200) // 10)
    assert tied.high - tied.low > 2 * (single.high - single.low)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draw, covered = np.random.default_rng(4), 0
    for trial in range(200):
        first = draw.normal(1.0, 2.0, 120)
        found = paired_bootstrap(first, np.zeros(120), np.arange(120), resamples=400, seed=trial)
        covered += found.low <= 1.0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_samples_without_a_figure_are_left_out():
    first, second = np.array([1.0, np.nan, 3.0]), np.array([0.0, 9.0, np.nan])
    found = paired_bootstrap(first, second, ["a", "b", "c"])
    assert (found.mean, found.samples, found.dialogues) == (1, 1, 1)
    with pytest.raises(ValueError, match="no sample has a figure from both"):
        paired_bootstrap(first[1:], second[1:], ["b", "c"])
    with pytest.raises(ValueError, match="2 and 3 figures for samples of 3"):
        paired_bootstrap(first[1:], second, ["a", "b", "c"])


def test_figures_of_samples():
    def record(rank, emotion=2, named=2):
        return {"rank": rank, "emotion": emotion, "emotion_given_answer": named}

    found = sample_figures(
        [record(1), record(3, named=1), record(11, -1), record(None), record(5, named=None)]
    )
    nan = np.nan
    np.testing.assert_array_equal(found["R@1"], [100, 0, 0, nan, 0])
    np.testing.assert_array_equal(found["R@3"], [100, 100, 0, nan, 0])
    np.testing.assert_array_equal(found["R@5"], [100, 100, 0, nan, 100])
    np.testing.assert_allclose(found["MRR"], [100, 100 / 3, 0, nan, 20])
    np.testing.assert_array_equal(found["Acc"], [100, 0, nan, nan, nan])
    # The paper's MRR is cut at rank 10, which still counts.
    assert sample_figures([record(10)])["MRR"].tolist() == [10]
