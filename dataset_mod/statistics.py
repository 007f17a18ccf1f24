# SPDX-License-Identifier: Apache-2.0
"""What a dataset card tells of a prepared folder beyond its `statistics.json`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from dataset_mod.prepared import load_prepared
from dataset_mod.schema import TRAIN

_BATCH = 10_000


def describe(folder: str | os.PathLike) -> dict:
    """Count the dialogues, emotions and co-occurrences of a prepared folder, all languages.

    Returns:
        `captions`: how many stickers have one; `sticker_emotions`: emotion -> how many stickers it
        is the emotion of; and `splits`: language -> split -> what [`describe_split`] returns.

    Raises:
        ValueError: `folder` is not a prepared folder, or damaged.
    """
    data = load_prepared(folder)
    stickers = data.stickers.select_columns(["id", "caption", "emotion"])[:]
    emotions = np.array(stickers["emotion"])
    splits = {}
    for language in data.statistics["languages"]:
        tables = load_prepared(Path(folder), language).splits
        splits[language] = {
            split: describe_split(table, data.emotions, stickers["id"], emotions)
            | ({"dialogues": len(set(table["dialogue_id"]))} if split == TRAIN else {})
            for split, table in tables.items()
        }
    return {
        "captions": sum(bool(caption) for caption in stickers["caption"]),
        "sticker_emotions": {
            name: int((emotions == number).sum()) for number, name in enumerate(data.emotions)
        },
        "splits": splits,
    }


def describe_split(
    table: Dataset, emotions: Sequence[str], stickers: Sequence[str], sticker_emotions: np.ndarray
) -> dict:
    """Count one dialogue table.

    Args:
        table: the rows.
        emotions: C names.
        stickers: S ids.
        sticker_emotions: (S,) class numbers, -1 for none: each sticker's majority in training.

    Returns:
        `utterances` of all rows, `longest`: those of the longest; `history_stickers`: utterances
        that carried a sticker before the answer; `candidates` {fewest, most}; `unlabelled` rows;
        `emotions`: name -> {samples, percent of the labelled}; `top_sticker` {id, samples, percent
        of the answered}, None where no row is; `together`: name -> {samples, percent}: the labelled
        rows whose answer's sticker is of that emotion, and how many of them carry that very label.
        What would be a share of nothing is None.
    """
    ids = pa.array(stickers, pa.string())
    columns = table.select_columns(["utterances", "sticker_id", "emotion", "candidates"])
    lengths, history, labels, answers, sizes = [], 0, [], [], []
    for batch in columns.with_format("arrow").iter(_BATCH):
        lengths.append(pc.list_value_length(batch["utterances"]).to_numpy())
        said = pc.list_flatten(batch["utterances"])
        carried = pc.struct_field(said, "sticker_id")
        history += len(carried) - carried.null_count
        labels.append(batch["emotion"].to_numpy())
        answers.append(pc.fill_null(pc.index_in(batch["sticker_id"], ids), -1).to_numpy())
        sizes.append(pc.list_value_length(batch["candidates"]).to_numpy())
    length, label, answer, size = map(np.concatenate, (lengths, labels, answers, sizes))
    labelled, answered = label >= 0, answer >= 0
    of_sticker = np.where(answered, np.asarray(sticker_emotions)[answer], -1)
    counts = np.bincount(answer[answered], minlength=len(stickers))
    top = int(counts.argmax())
    together = {}
    for number, name in enumerate(emotions):
        rows = labelled & (of_sticker == number)
        together[name] = _share(int((label[rows] == number).sum()), int(rows.sum()))
        together[name]["samples"] = int(rows.sum())
    return {
        "utterances": int(length.sum()),
        "longest": int(length.max()),
        "history_stickers": int(history),
        "candidates": {"fewest": int(size.min()), "most": int(size.max())},
        "unlabelled": int((~labelled).sum()),
        "emotions": {
            name: _share(int((label == number).sum()), int(labelled.sum()))
            for number, name in enumerate(emotions)
        },
        "top_sticker": {"id": stickers[top], **_share(int(counts[top]), int(answered.sum()))}
        if answered.any()
        else None,
        "together": together,
    }


def _share(count: int, total: int) -> dict:
    return {"samples": count, "percent": 100 * count / total if total else None}
