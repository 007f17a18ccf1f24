# SPDX-License-Identifier: Apache-2.0
"""Rankers that look at nothing: what any figure must be held against."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable

import numpy as np

from .evaluator import RankerOutput


class ChanceRanker:
    """Scores drawn uniformly, from a seed and the row's identity: the same in any batching."""

    name = "chance"

    def __init__(self, seed: int = 0) -> None:
        """Keep the seed, a whole number from 0 up."""
        self.seed = seed

    def rank(self, rows: list[dict]) -> RankerOutput:
        """Draw a score for each candidate of each row; names no emotion."""
        return RankerOutput(scores=[self._scores(row) for row in rows])

    def _scores(self, row: dict) -> np.ndarray:
        identity = zlib.crc32(f"{row['dialogue_id']}/{row['turn']}".encode())
        return np.random.default_rng([self.seed, identity]).random(len(row["candidates"]))


class MostFrequentRanker:
    """Prefers the stickers that training used most, and always names training's main emotion."""

    name = "most frequent sticker"

    def __init__(self, sticker_ids: Iterable[str | None], emotions: Iterable[int | None]) -> None:
        """Count the stickers and emotions of the training split.

        Args:
            sticker_ids: the split's column `sticker_id`; blanks are not counted.
            emotions: the split's column `emotion`; unlabelled (-1) ones are not counted. Of
                equally frequent emotions the lower number is named.
        """
        self._stickers = Counter(sticker for sticker in sticker_ids if sticker)
        labelled = Counter(int(e) for e in emotions if e is not None and e != -1)
        self._emotions = None
        if labelled:
            self._emotions = np.zeros(max(labelled) + 1)
            self._emotions[list(labelled)] = list(labelled.values())

    def rank(self, rows: list[dict]) -> RankerOutput:
        """Score each candidate with how often training used it, 0 for one it never saw."""
        scores = [np.array([self._stickers[c] for c in r["candidates"]], float) for r in rows]
        if self._emotions is None:
            return RankerOutput(scores=scores)
        emotions = np.tile(self._emotions, (len(rows), 1))
        return RankerOutput(scores, emotion_given_answer=emotions, emotion_given_top=emotions)
