# SPDX-License-Identifier: Apache-2.0
"""The figures that selection is judged by, in numpy alone: recall, MRR, MAP, emotion accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

RECALL_AT = (1, 3, 5)
MRR_CUT = 10


def ranks(scores: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """Give the 1-based rank of each right candidate; of equal scores the lower position wins.

    Args:
        scores: (B, N), higher is better; infinities are allowed.
        targets: (B,) position of the right candidate among the N.
        mask: (B, N), true at real candidates; what stands elsewhere is never read.

    Returns:
        (B,) int64, each from 1 to the number of real candidates.

    Raises:
        ValueError: shapes do not fit, a real candidate's score is NaN, or a target is not among
            its candidates.
    """
    scores = np.asarray(scores, dtype=np.float64)
    targets = np.asarray(targets)
    if scores.ndim != 2:
        raise ValueError(f"scores must be (samples, candidates), got shape {scores.shape}")
    count, width = scores.shape
    if targets.shape != (count,):
        raise ValueError(f"{count} rows of scores need {count} targets, got shape {targets.shape}")
    if count and not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"targets must be integer positions, got {targets.dtype}")
    targets = targets.astype(np.int64)
    real = np.ones(scores.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if real.shape != scores.shape:
        raise ValueError(f"mask has shape {real.shape}, scores have shape {scores.shape}")
    broken = np.flatnonzero((np.isnan(scores) & real).any(axis=1))
    if broken.size:
        raise ValueError(f"sample {broken[0]}: a score is NaN ({broken.size} such samples)")
    inside = (targets >= 0) & (targets < width)
    inside[inside] = real[np.flatnonzero(inside), targets[inside]]
    missing = np.flatnonzero(~inside)
    if missing.size:
        raise ValueError(
            f"sample {missing[0]}: the right sticker is not among the candidates "
            f"(target {targets[missing[0]]}; {missing.size} such samples)"
        )
    own = scores[np.arange(count), targets][:, None]
    earlier = np.arange(width)[None, :] < targets[:, None]
    ahead = real & ((scores > own) | ((scores == own) & earlier))
    return 1 + ahead.sum(axis=1, dtype=np.int64)


def recall_at(ranks: ArrayLike, k: int) -> float:
    """Give the percentage of samples whose right candidate is among the first `k` (R@k)."""
    return 100.0 * float((_checked(ranks) <= k).mean())


def mean_reciprocal_rank(ranks: ArrayLike, cut: int) -> float:
    """Give the mean of 1 / rank, zero beyond `cut`, in percent.

    Cut at 10 it is the paper's MRR; cut at k it is MAP@k as MOD's own scorer has it.
    """
    ranks = _checked(ranks)
    return 100.0 * float(np.where(ranks <= cut, 1.0 / ranks, 0.0).mean())


def ranking_metrics(ranks: ArrayLike, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Give R@k and MAP@k for each k of `at`, and MRR cut at rank 10, all in percent.

    Args:
        ranks: (B,) 1-based ranks of the right candidates, among a sample's candidates or a whole
            sticker set.
        at: cut-offs, e.g. (1, 10, 50) over a whole set.

    Raises:
        ValueError: there is no sample, or a rank is not a whole number from 1 up.
    """
    return {
        **{f"R@{k}": recall_at(ranks, k) for k in at},
        "MRR": mean_reciprocal_rank(ranks, MRR_CUT),
        **{f"MAP@{k}": mean_reciprocal_rank(ranks, k) for k in at},
    }


def emotion_accuracy(predictions: ArrayLike, gold: ArrayLike) -> float | None:
    """Give the percentage of right emotions among the labelled samples.

    Args:
        predictions: (B,) class numbers.
        gold: (B,) class numbers, -1 where unlabelled: those samples are left out.

    Returns:
        The accuracy in percent, or None where no sample is labelled.

    Raises:
        ValueError: the two differ in length, or a label lies below -1.
    """
    predictions, gold = np.asarray(predictions), np.asarray(gold)
    if predictions.ndim != 1 or predictions.shape != gold.shape:
        raise ValueError(
            f"predictions {predictions.shape} and labels {gold.shape} must be two equal lists"
        )
    if (gold < -1).any():
        raise ValueError(f"label {gold.min()} is no emotion: 0 and up, or -1 for unlabelled")
    labelled = gold != -1
    if not labelled.any():
        return None
    return 100.0 * float((predictions[labelled] == gold[labelled]).mean())


def _checked(ranks: ArrayLike) -> np.ndarray:
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not ranks.size:
        raise ValueError(f"metrics need a list of at least one rank, got shape {ranks.shape}")
    if not np.issubdtype(ranks.dtype, np.integer) or (ranks < 1).any():
        raise ValueError("ranks must be whole numbers from 1 up")
    return ranks
