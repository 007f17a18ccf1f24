# SPDX-License-Identifier: Apache-2.0
"""Figures of groups of samples: which group a ranker serves worst, and how far behind it is.

A *grouping* splits the samples of one split by one thing: `bias` by whether the emotional words
speak for the right emotion, `style` and `sticker` by whether training had the answer's. Groups are
compared within a grouping only. A sample may be in no group of a grouping, and is in none of its
figures then.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from dataset_mod.bias import ALIGNED, CONFLICTING, EmotionalWords

from .significance import draw_dialogues, sample_figures

FIGURES = ("R@1", "R@3", "R@5", "MRR", "Acc")
LEAST_SAMPLES = 20
"""A group with fewer is reported, but not compared: luck alone may make it the worst."""
SEEN, UNSEEN = "seen", "unseen"
CONTRASTS = {
    "bias": (ALIGNED, CONFLICTING),
    "style": (SEEN, UNSEEN),
    "sticker": (SEEN, UNSEEN),
}
"""The two groups of each grouping whose difference is asked about before looking."""
RESAMPLES = 5000

SampleKey = tuple[str, int]
"""What names a sample of a split: its dialogue and turn."""


def sample_key(sample: Mapping) -> SampleKey:
    """Name a row of the data, or the record that `evaluate_ranker` made of it."""
    return sample["dialogue_id"], int(sample["turn"])


def sample_groups(
    rows: Iterable[dict],
    *,
    words: EmotionalWords | None = None,
    seen_stickers: Iterable[str] | None = None,
    styles: Mapping[str, str] | None = None,
) -> dict[str, dict[SampleKey, str]]:
    """Put each answered row into a group of every grouping that is known.

    Args:
        rows: the rows of one split.
        words: gives the grouping `bias`.
        seen_stickers: the stickers of the training split (see [`training_stickers`]); gives the
            grouping `sticker`, and with `styles` also `style`.
        styles: sticker id to the name of its style. A style is seen if a seen sticker has it.

    Returns:
        For each grouping the group of each sample that is in one.

    Raises:
        ValueError: two rows are the same turn of the same dialogue.
    """
    seen = None if seen_stickers is None else set(seen_stickers)
    askers: dict[str, Callable[[dict], str | None]] = {}
    if words is not None:
        askers["bias"] = words.group
    if seen is not None and styles is not None:
        seen_styles = {styles[sticker] for sticker in seen if sticker in styles}

        def style_group(row: dict) -> str | None:
            style = styles.get(row["sticker_id"])
            return style and (SEEN if style in seen_styles else UNSEEN)

        askers["style"] = style_group
    if seen is not None:
        askers["sticker"] = lambda row: SEEN if row["sticker_id"] in seen else UNSEEN
    found: dict[str, dict[SampleKey, str]] = {name: {} for name in askers}
    keys = set()
    for row in rows:
        if not row["sticker_id"]:
            continue
        key = sample_key(row)
        if key in keys:
            raise ValueError(f"dialogue {key[0]}, turn {key[1]}: is there twice")
        keys.add(key)
        for name, ask in askers.items():
            if (group := ask(row)) is not None:
                found[name][key] = group
    return found


def training_stickers(rows: Iterable[dict]) -> set[str]:
    """Return the stickers that training rows have, as an answer or within a dialogue."""
    seen = set()
    for row in rows:
        seen.add(row["sticker_id"])
        seen.update(turn["sticker_id"] for turn in row["utterances"])
    return {sticker for sticker in seen if sticker}


def group_figures(
    seeds: Sequence[Sequence[Mapping]],
    groups: Mapping[SampleKey, str],
    *,
    contrast: tuple[str, str] | None = None,
    least: int = LEAST_SAMPLES,
) -> dict:
    """Compute the figures of each group of a grouping, the worst group and the gap.

    Intervals and p are of a bootstrap over dialogues, of the mean over seeds. The gap has none:
    worst and best are chosen by looking, and the interval would be too narrow. The contrast is
    chosen before.

    Args:
        seeds: records of `evaluate_ranker` on one split, one list for each trained model.
        groups: the group of each sample that is in one.
        contrast: two groups whose difference is asked about, whichever turns out worse.
        least: a group needs as many samples with a figure to be its worst or best, and to be in
            the contrast.

    Returns:
        `groups`: for each group `samples` and, by figure, `mean`, `low`, `high` (95 %), `samples`,
        `seeds` (the mean of each) and `spread` (their standard deviation, None for one);
        `worst`: by figure the `group`, the `best` one and the `gap` between them, where at least
        two groups are large enough and not all are alike; `contrast`: by figure `of` (first,
        second), `mean` (first minus second), `low`, `high` and `p`, where both are large enough;
        `ungrouped`: how many answered samples are in no group. A figure that no sample of a group
        has is left out.

    Raises:
        ValueError: the seeds were not judged on the same samples.
    """
    keys = [sample_key(record) for record in seeds[0]]
    if any([sample_key(record) for record in other] != keys for other in seeds[1:]):
        raise ValueError("the seeds were judged on different samples")
    names = np.array([groups.get(key, "") for key in keys])
    answered = np.array([record["rank"] is not None for record in seeds[0]], bool)
    known = sorted({str(name) for name in names[answered]} - {""})
    figures = [sample_figures(records) for records in seeds]
    found: dict = {
        "groups": {name: {"samples": int((answered & (names == name)).sum())} for name in known},
        "worst": {},
        "contrast": {},
        "ungrouped": int((answered & (names == "")).sum()),
    }
    cells = {}
    for figure in FIGURES:
        values = np.array([of[figure] for of in figures])
        for name in known:
            counted = (names == name) & ~np.isnan(values).any(axis=0)
            if counted.any():
                cells[figure, name] = np.where(counted, values, np.nan)
    drawn = _drawn_means(cells, [dialogue for dialogue, _ in keys])
    for figure in FIGURES:
        means = {name: _mean(cells[figure, name], drawn[figure, name]) for name in known
                 if (figure, name) in cells}  # fmt: skip
        for name, mean in means.items():
            found["groups"][name][figure] = mean
        if worst := _worst(means, least):
            found["worst"][figure] = worst
        if contrast and all(means.get(n, {}).get("samples", 0) >= least for n in contrast):
            ends = [drawn[figure, name] for name in contrast]
            found["contrast"][figure] = _difference(contrast, means, *ends)
    return found


def _drawn_means(cells: Mapping[tuple, np.ndarray], dialogues: Sequence[str]) -> dict:
    """Give the mean of each cell in every resample, (R,), NaN in one that has none of its samples.

    All cells see the same draws, so that what a dialogue does to two of them is kept.

    Args:
        cells: (seeds, n) each, NaN outside.
        dialogues: (n,) the dialogue of each sample.
    """
    if not cells:
        return {}
    places = np.unique(dialogues, return_inverse=True)[1]
    means = np.array([values.mean(axis=0) for values in cells.values()])
    per_dialogue = [np.bincount(places, weights=each) for each in np.nan_to_num(means)]
    per_dialogue += [np.bincount(places, weights=each) for each in ~np.isnan(means)]
    drawn = draw_dialogues(int(places.max()) + 1, RESAMPLES, 0)
    totals = drawn @ np.array(per_dialogue, np.float32).T
    with np.errstate(invalid="ignore"):
        shares = totals[:, : len(cells)] / totals[:, len(cells) :]
    return dict(zip(cells, shares.T, strict=True))


def _interval(drawn: np.ndarray) -> dict[str, float]:
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _mean(values: np.ndarray, drawn: np.ndarray) -> dict:
    seeds = [float(value) for value in np.nanmean(values, axis=1)]
    return {
        "mean": statistics.mean(seeds),
        **_interval(drawn),
        "samples": int((~np.isnan(values)).any(axis=0).sum()),
        "seeds": seeds,
        "spread": statistics.stdev(seeds) if len(seeds) > 1 else None,
    }


def _worst(means: Mapping[str, dict], least: int) -> dict | None:
    large = [name for name, of in means.items() if of["samples"] >= least]
    if len(large) < 2:
        return None
    worst, *_, best = sorted(large, key=lambda name: means[name]["mean"])
    gap = means[best]["mean"] - means[worst]["mean"]
    return {"group": worst, "best": best, "gap": gap} if gap else None


def _difference(
    contrast: tuple[str, str], means: Mapping[str, dict], first: np.ndarray, second: np.ndarray
) -> dict:
    between = first - second
    between = between[~np.isnan(between)]
    beyond = min((between <= 0).sum(), (between >= 0).sum())
    return {
        "of": list(contrast),
        "mean": means[contrast[0]]["mean"] - means[contrast[1]]["mean"],
        **_interval(between),
        "p": float(min(1.0, 2 * (beyond + 1) / (len(between) + 1))),
    }
