# SPDX-License-Identifier: Apache-2.0
"""Count how words, stickers and emotion labels go together in prepared data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dataset_mod.bias_search import LEVEL, associate
from dataset_mod.bias_words import (
    CONFLICTING,
    GROUPS,
    EmotionalWord,
    EmotionalWords,
    episode,
    group_of,
)
from dataset_mod.schema import UNLABELLED

CONFIDENCE = 0.95
PLACES = ("last turn", "earlier, same speaker", "earlier, other speaker", "before the episode")
_TEXTS_HELD = 1 << 16  # a dialogue's samples repeat its utterances


@dataclass(frozen=True)
class Sample:
    """What is counted of a sample.

    Attributes:
        label: its emotion, -1 without one.
        sticker: its answer; None where the release keeps it back.
        theme: the answer's own emotion, -1 where training says nothing of it.
        words: its words, as `EmotionalWords.find_in`.
        places: (place in `PLACES`, emotion) of each word of the whole dialogue.
    """

    label: int
    sticker: str | None
    theme: int
    words: tuple[EmotionalWord, ...]
    places: tuple[tuple[int, int], ...]

    @property
    def emotions(self) -> Counter[int]:
        """Count the words by the emotion that they prefer."""
        return Counter(entry.emotion for entry in self.words)

    @property
    def group(self) -> str | None:
        """Return the sample's group."""
        return group_of(self.emotions, self.label)

    @property
    def leaders(self) -> set[int]:
        """Return the emotions that most words prefer."""
        counts = self.emotions
        return {one for one, count in counts.items() if count == max(counts.values())}


def read_samples(
    rows: Iterable[Mapping], words: EmotionalWords, themes: Mapping[str, int]
) -> list[Sample]:
    """Find the words of samples.

    Args:
        rows: of a dialogue table.
        words: the emotional words.
        themes: sticker id -> its emotion, the column `emotion` of the sticker table.
    """
    find = lru_cache(_TEXTS_HELD)(words.find)
    return [
        Sample(
            row["emotion"],
            row["sticker_id"],
            themes.get(row["sticker_id"], UNLABELLED),
            tuple(entry for one in words.utterances_of(row) for *_, entry in find(one["text"])),
            tuple(_places(row, find)),
        )
        for row in rows
    ]


def describe_split(samples: Sequence[Sample], emotions: Sequence[str]) -> dict:
    """Count groups, the co-occurrence of each emotion, places and associations of a split.

    Every share is a dict of `count`, `of`, `share` (None of nothing) and the bounds `low` and
    `high` of a 95 % Wilson interval, which takes samples for independent.

    Returns:
        `rows`, `without_label` and `without_theme` (labelled, but the sticker has no emotion of
        its own); `groups`: group -> share of the labelled; `cooccurrence`: see `cooccurrence`;
        `conflicting_stickers`: see `sticker_follows`; `places`: see `agreement_by_place`;
        `tables`: see `association`, of `theme_label`, `word_label` and `word_theme`, where a
        sample's word emotion is that which most of its words prefer, if it is a single one.
    """
    labelled = [one for one in samples if one.label != UNLABELLED]
    themed = [one for one in labelled if one.theme != UNLABELLED]
    led = [(min(one.leaders), one) for one in labelled if len(one.leaders) == 1]
    groups = Counter(one.group for one in labelled)
    size = len(emotions)
    return {
        "rows": len(samples),
        "without_label": len(samples) - len(labelled),
        "without_theme": len(labelled) - len(themed),
        "groups": {group: share(groups[group], len(labelled)) for group in GROUPS},
        "cooccurrence": {
            name: cooccurrence(themed, number) for number, name in enumerate(emotions)
        },
        "conflicting_stickers": sticker_follows(themed),
        "places": agreement_by_place(labelled),
        "tables": {
            "theme_label": association([(one.theme, one.label) for one in themed], size),
            "word_label": association([(word, one.label) for word, one in led], size),
            "word_theme": association(
                [(word, one.theme) for word, one in led if one.theme != UNLABELLED], size
            ),
        },
    }


def cooccurrence(themed: Sequence[Sample], emotion: int) -> dict:
    """Count how often sticker, label and word are of one emotion: the paper's figure.

    Args:
        themed: samples with a label and a sticker that has an emotion.
        emotion: which.

    Returns:
        Of the samples with a word of the emotion, the shares where `sticker_and_label`, the
        `label` and the `sticker` are of it too; `expected`: the first one among all samples,
        which it would be if words said nothing.
    """
    with_word = [one for one in themed if one.emotions[emotion]]

    def both(sample: Sample) -> bool:
        return sample.label == sample.theme == emotion

    return {
        "sticker_and_label": share(sum(map(both, with_word)), len(with_word)),
        "label": share(sum(one.label == emotion for one in with_word), len(with_word)),
        "sticker": share(sum(one.theme == emotion for one in with_word), len(with_word)),
        "expected": share(sum(map(both, themed)), len(themed)),
    }


def sticker_follows(themed: Sequence[Sample]) -> dict:
    """Count whose emotion the stickers of bias-conflicting samples have: label, words, neither."""
    conflicting = [one for one in themed if one.group == CONFLICTING]
    label = sum(one.theme == one.label for one in conflicting)
    words = sum(one.theme in one.leaders for one in conflicting)
    total = len(conflicting)
    return {
        "label": share(label, total),
        "words": share(words, total),
        "neither": share(total - label - words, total),
    }


def agreement_by_place(labelled: Sequence[Sample]) -> dict:
    """Count how often words agree with the label, by where in the dialogue they stand.

    `expected` is the share that would agree if the words were dealt out at random. Places whose
    words agree no more than that are no place to look for words in.
    """
    rates = np.bincount([one.label for one in labelled] or [0]) / max(1, len(labelled))
    found = {}
    for number, name in enumerate(PLACES):
        here = [(e, one.label) for one in labelled for place, e in one.places if place == number]
        rate = [rates[e] if e < len(rates) else 0.0 for e, _ in here]
        found[name] = {
            **share(sum(emotion == label for emotion, label in here), len(here)),
            "expected": float(np.mean(rate)) if rate else None,
        }
    return found


def association(pairs: Sequence[tuple[int, int]], size: int) -> dict:
    """Cross two emotions that each sample has.

    Returns:
        `counts`: (size, size) lists, the first of the pair down; `cramers_v`, between 0 (they
        are independent) and 1, and `p_value` of the chi-square test of independence; both None
        where either emotion is always the same.
    """
    from scipy import stats

    counts = np.zeros((size, size), np.int64)
    for row, column in pairs:
        counts[row, column] += 1
    table = counts[counts.any(1)][:, counts.any(0)]
    varies = min(table.shape) > 1
    return {
        "counts": counts.tolist(),
        "cramers_v": float(stats.contingency.association(table)) if varies else None,
        "p_value": float(stats.chi2_contingency(table).pvalue) if varies else None,
    }


def strongest_pairs(first: Sequence[Iterable[str]], second: Sequence[str], limit: int) -> dict:
    """Find which things go with which class; both given for each sample.

    Args:
        first: (n,) the things that a sample has.
        second: (n,) its class.
        limit: how many pairs to return.

    Returns:
        `tested`: how many pairs were looked at; `significant`: how many of them go together;
        `pairs`: the strongest of those, each with `first`, `second`, `count` (samples with both),
        `of` (samples with the first), `strength` and `p_value` as `associate` measures them.
    """
    totals = Counter(second)
    counts: dict[str, Counter[str]] = {}
    for things, kind in zip(first, second, strict=True):
        for thing in set(things):
            counts.setdefault(thing, Counter())[kind] += 1
    things, classes = sorted(counts), sorted(totals)
    if not things:
        return {"tested": 0, "significant": 0, "pairs": []}
    table = np.array([[counts[thing][kind] for kind in classes] for thing in things])
    strength, p_values = associate(table, np.array([totals[kind] for kind in classes]))
    good = (p_values < LEVEL) & (strength > 0)
    order = sorted(np.argwhere(good).tolist(), key=lambda at: -strength[tuple(at)])
    return {
        "tested": int(table.size),
        "significant": int(good.sum()),
        "pairs": [
            {
                "first": things[row],
                "second": classes[column],
                "count": int(table[row, column]),
                "of": int(table[row].sum()),
                "strength": float(strength[row, column]),
                "p_value": float(p_values[row, column]),
            }
            for row, column in order[:limit]
        ],
    }


def share(count: int, total: int) -> dict:
    """Return a share with its 95 % Wilson interval."""
    from scipy import stats

    if not total:
        return {"count": 0, "of": 0, "share": None, "low": None, "high": None}
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return {
        "count": int(count),
        "of": int(total),
        "share": count / total,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def _places(row: Mapping, find: Callable) -> Iterable[tuple[int, int]]:
    utterances = row["utterances"]
    start, last = len(utterances) - len(episode(utterances)), len(utterances) - 1
    for number, utterance in enumerate(utterances):
        if number == last:
            place = 0
        elif number < start:
            place = 3
        else:
            place = 1 if utterance["speaker"] == utterances[-1]["speaker"] else 2
        yield from ((place, entry.emotion) for *_, entry in find(utterance["text"]))
