# SPDX-License-Identifier: Apache-2.0
"""Seeded draws: training negatives of another emotion, and candidate sets for data without any.

Every draw is a pure function of its arguments: the random number is a hash of (seed, epoch,
sample, sticker), not the next value of a generator. So the number of data-loader workers, the
order in which they ask and where a run was resumed change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CANDIDATES = 11  # MOD's retrieval task: the right sticker and ten others.

# SplitMix64 (Steele, Lea and Flood, 2014): the step and the two multipliers of its finaliser.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
# What a number is drawn for, so that two kinds of draws with the same seed share nothing.
_NEGATIVE, _CANDIDATE = 1, 2


def _hash(*parts: int | np.ndarray) -> np.ndarray:
    """Return uint64 hashes of the parts, which broadcast against each other."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = state ^ np.asarray(part).astype(np.int64).astype(np.uint64)
            state = state + _STEP
            state = (state ^ (state >> np.uint64(30))) * _MULTIPLY_1
            state = (state ^ (state >> np.uint64(27))) * _MULTIPLY_2
            state = state ^ (state >> np.uint64(31))
    return state


def _below(hashes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Map hashes to integers in [0, limit); off uniform by less than limit / 2**32."""
    scaled = (hashes >> np.uint64(32)) * limits.astype(np.uint64)
    return (scaled >> np.uint64(32)).astype(np.int64)


class NegativeSampler:
    """Draw, for each training sample and epoch, one sticker of another emotion.

    The rule, for "a sticker whose emotion differs from the right one's":

    * a negative is uniform over the stickers that are *known* to carry another emotion;
    * a sticker without an emotion (-1: no label in the training split) is not known to differ,
      so it is no negative of a labelled one; in particular stickers that training never saw stay
      unseen;
    * where no sticker is known to differ (the positive has no emotion itself, or all stickers
      share one), a negative is uniform over all other stickers.
    """

    def __init__(
        self, sticker_ids: Sequence[str], sticker_emotions: Sequence[int], seed: int
    ) -> None:
        """Group the inventory by emotion.

        Args:
            sticker_ids: the inventory, each id once.
            sticker_emotions: an emotion per sticker, -1 for none; the training split's majority.
            seed: any integer; another one gives other draws.

        Raises:
            ValueError: fewer than two stickers, an id twice, or lengths that differ.
        """
        if len(sticker_ids) != len(sticker_emotions):
            raise ValueError(
                f"{len(sticker_ids)} stickers but {len(sticker_emotions)} emotions: one for each"
            )
        if len(sticker_ids) < 2:
            raise ValueError(f"{len(sticker_ids)} stickers: a negative needs at least two")
        emotions = np.asarray(sticker_emotions, np.int64)
        labelled = emotions >= 0
        # Labelled stickers first, by emotion, so that what is forbidden is one run of positions.
        order = np.lexsort((np.arange(len(emotions)), emotions, ~labelled))
        self._ids = np.array([sticker_ids[i] for i in order], dtype=object)
        self._position = {sticker: i for i, sticker in enumerate(self._ids)}
        if len(self._position) != len(self._ids):
            raise ValueError("a sticker id occurs twice in the inventory")
        emotions = emotions[order]
        count, known = len(emotions), int(labelled.sum())
        start = np.searchsorted(emotions[:known], emotions, "left")
        stop = np.searchsorted(emotions[:known], emotions, "right")
        differs = (emotions >= 0) & (stop - start < known)
        own = np.arange(count)
        # Per sticker: draw from positions [0, domain) without [start, stop).
        self._domain = np.where(differs, known, count)
        self._start = np.where(differs, start, own)
        self._stop = np.where(differs, stop, own + 1)
        self.seed = int(seed)

    def draw(self, sample_index: int, positive_id: str, epoch: int) -> str:
        """Return the negative of one sample in one epoch.

        Raises:
            ValueError: `positive_id` is not in the inventory.
        """
        return self.draw_many([sample_index], [positive_id], epoch)[0]

    def draw_many(
        self, sample_indices: Sequence[int], positive_ids: Sequence[str], epoch: int
    ) -> list[str]:
        """Return the negatives of many samples in one epoch, each equal to its `draw`.

        Raises:
            ValueError: lengths that differ, or a positive that is not in the inventory.
        """
        if len(sample_indices) != len(positive_ids):
            raise ValueError(f"{len(sample_indices)} samples but {len(positive_ids)} positives")
        try:
            positive = np.fromiter(
                (self._position[sticker] for sticker in positive_ids), np.int64, len(positive_ids)
            )
        except KeyError as error:
            raise ValueError(f"sticker {error.args[0]!r} is not in the inventory") from None
        start, stop = self._start[positive], self._stop[positive]
        hashes = _hash(_NEGATIVE, self.seed, epoch, np.asarray(sample_indices), positive)
        drawn = _below(hashes, self._domain[positive] - (stop - start))
        drawn = np.where(drawn < start, drawn, drawn + (stop - start))
        return self._ids[drawn].tolist()


def draw_candidates(
    sticker_ids: Sequence[str],
    positive_id: str,
    sample_index: int,
    seed: int,
    size: int = CANDIDATES,
) -> list[str]:
    """Return a sorted candidate set: the right sticker and `size` - 1 others, uniform.

    The set depends on the inventory's members, not on their order.

    Raises:
        ValueError: the inventory is smaller than `size`, or lacks the right sticker.
    """
    inventory = sorted(set(sticker_ids))
    if len(inventory) < size:
        raise ValueError(f"{len(inventory)} stickers are too few for {size} candidates")
    if positive_id not in inventory:
        raise ValueError(f"sticker {positive_id!r} is not in the inventory")
    others = [sticker for sticker in inventory if sticker != positive_id]
    hashes = _hash(_CANDIDATE, seed, sample_index, np.arange(len(others)))
    chosen = np.argsort(hashes, kind="stable")[: size - 1]
    return sorted([positive_id, *(others[i] for i in chosen)])
