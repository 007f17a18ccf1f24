# SPDX-License-Identifier: Apache-2.0
"""Write each sample's group as a column: beside the prepared tables, or in a table at hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, List, Value

from dataset_mod.bias_words import EmotionalWords, group_of
from dataset_mod.prepared import read_statistics

BIAS_FOLDER = "bias"
MARKS_FILE, WORDS_FILE = "marks.parquet", "words.json"
_FINGERPRINT, _WORDS = b"fingerprint", b"words"
_MARKS = pa.schema(
    {
        "split": pa.string(),
        "dialogue_id": pa.string(),
        "turn": pa.int32(),
        "bias": pa.string(),
        "words": pa.list_(pa.string()),
        "word_emotions": pa.list_(pa.int32()),
    }
)


def bias_folder(data_dir: str | os.PathLike, language: str | None = None) -> Path:
    """Return where a prepared folder keeps the marks of a language, its first if None."""
    if language is None:
        language = read_statistics(data_dir)["languages"][0]
    return Path(data_dir, BIAS_FOLDER, language)


def with_bias(dataset: Dataset, words: EmotionalWords) -> Dataset:
    """Add the columns `bias` and `word_emotions` to a dialogue table; old ones are replaced.

    `bias` is the sample's group, null where it has no label; `word_emotions` the emotions of its
    words, in their order.
    """
    found = [words.find_in(row) for row in dataset.select_columns("utterances")]
    emotions = [[entry.emotion for entry in entries] for entries in found]
    groups = [
        group_of(_counted(of), label)
        for of, label in zip(emotions, dataset["emotion"], strict=True)
    ]
    old = [name for name in ("bias", "word_emotions") if name in dataset.column_names]
    marked = dataset.remove_columns(old).add_column("bias", groups, feature=Value("string"))
    kind = List(ClassLabel(names=list(words.emotions)))
    return marked.add_column("word_emotions", emotions, feature=kind)


def write_marks(
    folder: str | os.PathLike,
    splits: Mapping[str, Iterable[Mapping]],
    words: EmotionalWords,
    fingerprint: str,
) -> None:
    """Write the words and every sample's group, where `load_marks` finds them.

    Args:
        folder: where to; see `bias_folder`.
        splits: the rows of each split's dialogue table.
        words: what marks them.
        fingerprint: of the prepared data.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words.save(folder / WORDS_FILE)
    # Both files name each other's content, so that a half-replaced pair is noticed.
    schema = _MARKS.with_metadata({_FINGERPRINT: fingerprint, _WORDS: _sha256(folder / WORDS_FILE)})
    beside = folder / f".{MARKS_FILE}.{os.getpid()}"
    with pq.ParquetWriter(beside, schema) as writer:
        for split, table in splits.items():
            writer.write_table(pa.Table.from_pylist(_marks(split, table, words), schema=schema))
    beside.replace(folder / MARKS_FILE)


def load_marks(
    data_dir: str | os.PathLike, language: str | None = None
) -> dict[tuple[str, str, int], str | None]:
    """Read the group of every sample: (split, dialogue_id, turn) -> group, None without a label.

    Raises:
        ValueError: there are no marks, or they are of other data.
    """
    table = _read_marks(data_dir, language)
    keys = zip(*(table[name].to_pylist() for name in ("split", "dialogue_id", "turn")), strict=True)
    return dict(zip(keys, table["bias"].to_pylist(), strict=True))


def load_words(data_dir: str | os.PathLike, language: str | None = None) -> EmotionalWords:
    """Read the words that the marks were made with.

    Raises:
        ValueError: as `load_marks`.
    """
    _read_marks(data_dir, language)
    return EmotionalWords.load(bias_folder(data_dir, language) / WORDS_FILE)


def _marks(split: str, table: Iterable[Mapping], words: EmotionalWords) -> list[dict]:
    rows = []
    for row in table:
        found = words.find_in(row)
        emotions = [entry.emotion for entry in found]
        rows.append(
            {
                "split": split,
                "dialogue_id": row["dialogue_id"],
                "turn": row["turn"],
                "bias": group_of(_counted(emotions), row["emotion"]),
                "words": [entry.word for entry in found],
                "word_emotions": emotions,
            }
        )
    return rows


def _counted(emotions: list[int]) -> dict[int, int]:
    return {emotion: emotions.count(emotion) for emotion in emotions}


def _read_marks(data_dir: str | os.PathLike, language: str | None) -> pa.Table:
    fingerprint = read_statistics(data_dir)["fingerprint"]
    folder = bias_folder(data_dir, language)
    path = folder / MARKS_FILE
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; scripts/bias_report.py writes it") from None
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from None
    said = table.schema.metadata or {}
    if said.get(_FINGERPRINT) != fingerprint.encode():
        raise ValueError(f"{path}: made of other data than {data_dir}; run bias_report.py again")
    words = folder / WORDS_FILE
    if not words.is_file() or said.get(_WORDS) != _sha256(words).encode():
        raise ValueError(f"{path}: made with other words than {words}; run bias_report.py again")
    return table


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
