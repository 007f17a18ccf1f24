# SPDX-License-Identifier: Apache-2.0
"""Is one ranker better than another, or was it luck: a paired bootstrap over dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .metrics import MRR_CUT


@dataclass(frozen=True)
class Difference:
    """A difference of two means in percent: first minus second.

    Attributes:
        mean: the difference on the samples at hand.
        low, high: the percentile interval of the bootstrap.
        p: two-sided: how often a resampled difference falls on the other side of zero, doubled,
            with one added so that it is never zero.
        samples, dialogues: how many there were.
    """

    mean: float
    low: float
    high: float
    p: float
    samples: int
    dialogues: int


def sample_figures(records: Sequence[dict]) -> dict[str, np.ndarray]:
    """Turn per-sample records into figures in percent: R@1, R@3, R@5, MRR and Acc.

    Returns:
        Arrays as long as `records`, NaN where a figure does not count a sample: no answer, or for
        Acc no emotion label or none named.
    """
    ranks = np.array([np.nan if r["rank"] is None else r["rank"] for r in records], dtype=float)
    known = ~np.isnan(ranks)
    figures = {}
    for k in (1, 3, 5):
        figures[f"R@{k}"] = np.where(known, 100.0 * (ranks <= k), np.nan)
    figures["MRR"] = np.where(known, np.where(ranks <= MRR_CUT, 100.0 / ranks, 0.0), np.nan)
    figures["Acc"] = np.array(
        [
            np.nan
            if r["rank"] is None or r["emotion"] == -1 or r["emotion_given_answer"] is None
            else 100.0 * (r["emotion_given_answer"] == r["emotion"])
            for r in records
        ]
    )
    return figures


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    dialogues: Sequence,
    *,
    resamples: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Test whether two rankers differ on the same samples.

    Whole dialogues are drawn with replacement, not single samples: the samples of a dialogue share
    words, speakers and earlier stickers, and count for less than as many independent ones.

    Args:
        first, second: (n,), a figure for each sample; of several seeds, their mean. Samples where
            either is NaN are left out.
        dialogues: (n,), which dialogue each sample belongs to.
        resamples: how often dialogues are drawn.
        level: of the interval.
        seed: of the draws.

    Raises:
        ValueError: the lengths differ, or no sample is left.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if not len(first) == len(second) == len(dialogues):
        raise ValueError(
            f"{len(first)} and {len(second)} figures for samples of {len(dialogues)} dialogues"
        )
    counted = ~(np.isnan(first) | np.isnan(second))
    if not counted.any():
        raise ValueError("no sample has a figure from both rankers")
    difference = (first - second)[counted]
    _, groups = np.unique(np.asarray(dialogues)[counted], return_inverse=True)
    sums = np.bincount(groups, weights=difference)
    sizes = np.bincount(groups)
    drawn = draw_dialogues(len(sizes), resamples, seed)
    totals = drawn @ np.stack([sums, sizes], 1).astype(np.float32)
    means = totals[:, 0] / totals[:, 1]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (beyond + 1) / (resamples + 1))
    return Difference(
        float(difference.mean()), float(low), float(high), float(p), len(difference), len(sizes)
    )


# A table compares many rankers on the same samples, and drawing takes longer than comparing.
@lru_cache(maxsize=4)
def draw_dialogues(dialogues: int, resamples: int, seed: int) -> np.ndarray:
    """Draw dialogues with replacement; give how often each was drawn, (resamples, dialogues)."""
    shares = np.full(dialogues, 1 / dialogues)
    drawn = np.random.default_rng(seed).multinomial(dialogues, shares, size=resamples)
    return drawn.astype(np.float32)
