# SPDX-License-Identifier: Apache-2.0
"""From ratings to figures, on cases whose answer is known."""

import sys
from itertools import permutations

import numpy as np
import pytest

from modeling_cks.evaluation import paired_bootstrap
from modeling_cks.evaluation.human import CRITERIA, Rating, agreement, sample_means, summarise


def rated(criterion, *values, models=("cks",), answer="a"):
    """Ratings of several raters, a row each, of samples, a column each; None is no rating."""
    return [
        Rating(rater, sample, answer, models, criterion, value)
        for rater, row in enumerate(values)
        for sample, value in enumerate(row)
        if value is not None
    ]


def naive_alpha(table, ordinal):
    """Krippendorff's alpha from its definition: pairs within units against all pairs."""
    units = [[value for value in unit if value is not None] for unit in zip(*table, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]
    counts = {value: pooled.count(value) for value in set(pooled)}

    def distance(a, b):
        if not ordinal:
            return float(a != b)
        low, high = sorted((a, b))
        between = sum(counts.get(value, 0) for value in range(low, high + 1))
        return (between - (counts[low] + counts[high]) / 2) ** 2

    observed = sum(
        distance(a, b) / (len(unit) - 1) for unit in units for a, b in permutations(unit, 2)
    )
    expected = sum(distance(a, b) for a, b in permutations(pooled, 2)) / (len(pooled) - 1)
    return 1 - observed / expected


def test_the_criteria_and_scales_are_the_papers():
    assert {name: len(one.scale) for name, one in CRITERIA.items()} == {
        "Ps@3": 2, "Ps@5": 2, "Rel-d": 3, "Rel-c": 3, "Pe@3": 2,
    }  # fmt: skip
    assert [name for name, one in CRITERIA.items() if one.of == "emotions"] == ["Pe@3"]
    assert [name for name, one in CRITERIA.items() if one.needs_marks] == ["Rel-c"]
    assert {one.level for one in CRITERIA.values() if len(one.scale) == 3} == {"ordinal"}


def test_means_and_differences_by_hand():
    ratings = [
        *rated("Ps@3", [1, 1, 0, 1], [1, 0, 0, 1], models=("cks",)),
        *rated("Ps@3", [0, 1, 0, 0], [0, 0, 0, 1], models=("clip",), answer="b"),
        *rated("Rel-d", [2, 2, 1, 0], models=("cks",)),
        *rated("Pe@3", [1, 1, 1, 1], [1, 1, 1, 1], models=("cks",), answer="e"),
    ]
    found = summarise(ratings, ["cks", "clip"])
    cks, clip = np.array([1, 0.5, 0, 1]), np.array([0, 0.5, 0, 0.5])
    assert found["figures"]["cks"]["Ps@3"]["mean"] == pytest.approx(5 / 8)
    assert found["figures"]["clip"]["Ps@3"]["mean"] == pytest.approx(2 / 8)
    assert found["figures"]["cks"]["Rel-d"]["mean"] == pytest.approx(5 / 4)
    assert found["figures"]["cks"]["Pe@3"] == {"mean": 1, "low": 1, "high": 1, "samples": 4}
    assert set(found["figures"]["clip"]) == set(found["ahead"]["clip"]) == {"Ps@3"}
    wanted = paired_bootstrap(cks, clip, range(4))
    assert found["ahead"]["clip"]["Ps@3"] == pytest.approx(vars(wanted))
    assert wanted.mean == pytest.approx(3 / 8)
    alone = paired_bootstrap(cks, np.zeros(4), range(4))
    shown = found["figures"]["cks"]["Ps@3"]
    assert (shown["low"], shown["high"], shown["samples"]) == (alone.low, alone.high, 4)
    assert 0 <= shown["low"] < shown["mean"] < shown["high"] <= 1
    assert "cks" not in found["ahead"]
    assert set(found["agreement"]) == {"Ps@3", "Rel-d", "Pe@3"}


def test_samples_that_a_criterion_leaves_out_count_for_nothing():
    ratings = rated("Ps@3", [1, 0, 1]) + rated("Rel-c", [2, None, 1])
    means = sample_means(ratings, ["cks"])["cks"]
    np.testing.assert_array_equal(means["Rel-c"], [2, np.nan, 1])
    assert summarise(ratings, ["cks"])["figures"]["cks"]["Rel-c"]["samples"] == 2


def test_an_answer_of_two_models_counts_for_both_but_once_for_agreement():
    both = rated("Ps@5", [1, 0, 1], [1, 0, 0], models=("cks", "clip"))
    found = summarise(both, ["cks", "clip"])
    assert found["figures"]["cks"] == found["figures"]["clip"]
    assert found["ahead"]["clip"]["Ps@5"]["mean"] == 0
    assert found["agreement"]["Ps@5"]["answers"] == 3


def test_agreement_is_the_textbooks():
    # Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section A: Meg and Owen.
    meg, owen = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    found = agreement(rated("Ps@3", meg, owen), "Ps@3")
    assert found["alpha"] == pytest.approx(0.095, abs=5e-4)
    assert (found["raters"], found["answers"]) == (2, 10)
    assert agreement(rated("Ps@3", meg, meg), "Ps@3")["alpha"] == pytest.approx(1)


@pytest.mark.parametrize("criterion", ["Ps@3", "Rel-d"])
def test_agreement_is_what_the_definition_gives(criterion):
    draw = np.random.default_rng(7)
    scale = len(CRITERIA[criterion].scale)
    truth = draw.choice(scale, 30, p=[0.6, 0.4] if scale == 2 else [0.6, 0.1, 0.3])
    noise = draw.integers(scale, size=(4, 30))
    table = np.where(draw.random((4, 30)) < 0.6, truth, noise).astype(object)
    table[draw.random((4, 30)) < 0.15] = None
    found = agreement(rated(criterion, *table), criterion)["alpha"]
    assert found == pytest.approx(naive_alpha(table, ordinal=scale == 3))
    assert 0.1 < found < 0.9
    if scale == 3:
        assert found != pytest.approx(naive_alpha(table, ordinal=False), abs=1e-3)


def test_agreement_that_is_not_defined_is_none():
    alone = agreement(rated("Ps@3", [1, 0, 1]), "Ps@3")
    assert alone == {"alpha": None, "raters": 1, "answers": 3}
    assert agreement(rated("Ps@3", [1, 1], [1, 1]), "Ps@3")["alpha"] is None
    # They differ only where nobody else rated.
    assert agreement(rated("Ps@3", [1, 0, None], [1, None, 1]), "Ps@3")["alpha"] is None


def test_a_missing_library_and_missing_ratings_are_named(monkeypatch):
    with pytest.raises(ValueError, match="no ratings"):
        summarise([], ["cks"])
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    with pytest.raises(ValueError, match=r'pip install "cks\[evaluation\]"'):
        summarise(rated("Ps@3", [1, 0], [1, 0]), ["cks"])
