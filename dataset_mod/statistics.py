# SPDX-License-Identifier: Apache-2.0
"""What a dataset card tells of a prepared folder beyond its `statistics.json`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from dataset_mod.prepared import verify_prepared
from dataset_mod.schema import STICKERS, TRAIN
from dataset_mod.stickers import load_sticker_image

_BATCH = 4096
_COLUMNS = ["dialogue_id", "utterances", "sticker_id", "emotion", "candidates"]


def describe(folder: str | os.PathLike) -> dict:
    """Count the dialogues, emotions and co-occurrences of a prepared folder, all languages.

    The tables are read as they lie there, batch by batch, without their README.

    Returns:
        `captions`: how many stickers have one; `sticker_emotions`: emotion -> how many stickers it
        is the emotion of; and `splits`: language -> split -> what [`describe_split`] returns.

    Raises:
        ValueError: `folder` is not a prepared folder, or damaged.
    """
    statistics = verify_prepared(folder)
    names = statistics["emotions"]
    columns = ["id", "caption", "emotion"]
    stickers = pa.Table.from_batches(_batches(folder, statistics, STICKERS, TRAIN, columns))
    ids, emotions = stickers["id"].to_pylist(), stickers["emotion"].to_numpy()
    return {
        "captions": sum(bool(caption) for caption in stickers["caption"].to_pylist()),
        "sticker_emotions": dict(
            zip(names, (int((emotions == n).sum()) for n in range(len(names))), strict=True)
        ),
        "splits": {
            language: {
                split: describe_split(
                    _batches(folder, statistics, language, split, _COLUMNS), names, ids, emotions
                )
                for split in of
            }
            for language, of in statistics["splits"].items()
        },
    }


def sticker_images(folder: str | os.PathLike, count: int) -> list[Image.Image]:
    """Return the first stickers of a prepared folder, `count` at most, in the order of the table.

    Raises:
        ValueError: `folder` is not a prepared folder, or damaged.
    """
    images = []
    for batch in _batches(folder, verify_prepared(folder), STICKERS, TRAIN, ["image"]):
        for image in batch["image"].slice(0, count - len(images)).to_pylist():
            images.append(load_sticker_image(image["bytes"], image["path"]))
    return images


def describe_split(
    batches: Iterable[pa.RecordBatch],
    emotions: Sequence[str],
    stickers: Sequence[str],
    sticker_emotions: np.ndarray,
) -> dict:
    """Count one dialogue table, of one row at least.

    Args:
        batches: its rows.
        emotions: C names.
        stickers: S ids.
        sticker_emotions: (S,) class numbers, -1 for none: each sticker's majority in training.

    Returns:
        `dialogues`: distinct names of dialogues; `utterances` of all rows, `longest`: those of the
        longest; `history_stickers`: utterances that carried a sticker before the answer;
        `candidates` {fewest, most}; `unlabelled` rows; `emotions`: name -> {samples, percent of
        the labelled}; `top_sticker` {id, samples, percent of the answered}, None where no row is;
        `together`: name -> {samples, percent}: the labelled rows whose answer's sticker is of that
        emotion, and how many of them carry that very label. What would be a share of nothing is
        None.
    """
    ids = pa.array(stickers, pa.string())
    dialogues, history = set(), 0
    lengths, labels, answers, sizes = [], [], [], []
    for batch in batches:
        dialogues.update(batch["dialogue_id"].to_pylist())
        carried = pc.struct_field(pc.list_flatten(batch["utterances"]), "sticker_id")
        history += len(carried) - carried.null_count
        lengths.append(_numpy(pc.list_value_length(batch["utterances"])))
        labels.append(_numpy(batch["emotion"]))
        answers.append(_numpy(pc.fill_null(pc.index_in(batch["sticker_id"], ids), -1)))
        sizes.append(_numpy(pc.list_value_length(batch["candidates"])))
    length, label, answer, size = map(np.concatenate, (lengths, labels, answers, sizes))
    labelled, answered = label >= 0, answer >= 0
    of_sticker = np.where(answered, np.asarray(sticker_emotions)[answer], -1)
    counts = np.bincount(answer[answered], minlength=len(stickers))
    top = int(counts.argmax())
    together = {}
    for number, name in enumerate(emotions):
        rows = labelled & (of_sticker == number)
        total = int(rows.sum())
        together[name] = {**_share(int((label[rows] == number).sum()), total), "samples": total}
    return {
        "dialogues": len(dialogues),
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


def _batches(
    folder: str | os.PathLike, statistics: dict, config: str, split: str, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    start = f"data/{config}/{split}-"
    for name in sorted(statistics["files"]):
        if name.startswith(start):
            with pq.ParquetFile(Path(folder, name)) as table:
                yield from table.iter_batches(_BATCH, columns=columns)


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


def _share(count: int, total: int) -> dict:
    return {"samples": count, "percent": 100 * count / total if total else None}
