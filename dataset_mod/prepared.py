# SPDX-License-Identifier: Apache-2.0
"""Write a release as Parquet that anyone can load, and load it again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetDict,
    DatasetInfo,
    Features,
    SplitDict,
    SplitInfo,
    load_dataset,
)

from dataset_mod.release import Release, Skipped, file_sha256, read_captions
from dataset_mod.schema import (
    SCHEMA_VERSION,
    STICKERS,
    TRAIN,
    UNLABELLED,
    sample_features,
    sticker_features,
)
from dataset_mod.stickers import load_sticker_image, png_bytes

logger = logging.getLogger(__name__)

STATISTICS_FILE = "statistics.json"
SKIPPED_FILE = "skipped.json"
_KIND = "prepared MOD"
_WRITTEN = ("README.md", "data", STATISTICS_FILE, SKIPPED_FILE)


@dataclass(frozen=True)
class PreparedMod:
    """A prepared folder, loaded.

    Attributes:
        splits: the dialogue tables: `train`, `validation`, and those of the tests.
        stickers: the sticker table.
        emotions: the emotions' names; an emotion's id is its position.
        statistics: what `statistics.json` holds.
        fingerprint: the sha256 of what the folder was made from.
    """

    splits: DatasetDict
    stickers: Dataset
    emotions: list[str]
    statistics: dict
    fingerprint: str


def load_prepared(folder: str | os.PathLike, language: str | None = None) -> PreparedMod:
    """Load a folder that `prepare_mod.py` or `prepare_chats.py` wrote.

    Args:
        folder: the prepared folder.
        language: which of its languages; None takes its first.

    Raises:
        ValueError: the folder is missing, not a prepared one, damaged, or lacks the language.
    """
    # Checked here: `datasets` would serve an earlier, undamaged load from its cache.
    statistics = verify_prepared(folder)
    language = language or statistics["languages"][0]
    if language not in statistics["languages"]:
        has = ", ".join(statistics["languages"])
        raise ValueError(f"{folder}: has no language {language!r}, only {has}")
    # Absolute: a folder named "mod" is not the builder of that name.
    path = str(Path(folder).resolve())
    splits = load_dataset(path, language)
    stickers = load_dataset(path, STICKERS, split=TRAIN)
    emotions = statistics["emotions"]
    wanted = {split: of["rows"] for split, of in statistics["splits"][language].items()}
    found = {split: table.num_rows for split, table in splits.items()}
    if found != wanted or splits[TRAIN].features != sample_features(emotions):
        raise ValueError(f"{folder}: {STATISTICS_FILE} and the tables disagree; prepare it again")
    return PreparedMod(splits, stickers, emotions, statistics, statistics["fingerprint"])


def verify_prepared(folder: str | os.PathLike) -> dict:
    """Check that a prepared folder is whole, and return its statistics.

    Raises:
        ValueError: the folder is missing, not a prepared one, or damaged.
    """
    statistics = read_statistics(folder)
    for name, digest in statistics["files"].items():
        path = Path(folder, name)
        if not path.is_file() or file_sha256(path) != digest:
            raise ValueError(f"{path}: missing or damaged; prepare {folder} again")
    return statistics


def reshard(
    folder: str | os.PathLike, staging: str | os.PathLike, max_bytes: int
) -> dict[str, Path]:
    """Split the large Parquet files of a prepared folder into shards that its card's patterns find.

    The same folder gives the same shards. The folder itself is not touched.

    Args:
        folder: the prepared folder.
        staging: a folder for the shards, and for the statistics that name them.
        max_bytes: no shard is larger, unless a single row is.

    Returns:
        Path in the folder -> file, for all tables and `statistics.json`.

    Raises:
        ValueError: the folder is not a prepared one.
    """
    folder, staging = Path(folder), Path(staging)
    statistics = read_statistics(folder)
    files, digests = {}, {}
    for name, digest in statistics["files"].items():
        path = folder / name
        if path.stat().st_size <= max_bytes:
            files[name], digests[name] = path, digest
            continue
        for shard in _split(path, staging / Path(name).parent, max_bytes):
            place = shard.relative_to(staging).as_posix()
            files[place], digests[place] = shard, file_sha256(shard)
    files[STATISTICS_FILE] = folder / STATISTICS_FILE
    if digests != statistics["files"]:
        files[STATISTICS_FILE] = staging / STATISTICS_FILE
        _write_json(files[STATISTICS_FILE], statistics | {"files": digests})
    return files


def _split(path: Path, output: Path, max_bytes: int) -> list[Path]:
    output.mkdir(parents=True, exist_ok=True)
    table = pq.ParquetFile(path, memory_map=True)
    stem = path.name.partition("-")[0]
    size = max(1, table.metadata.num_rows * max_bytes // path.stat().st_size)
    while True:
        count = -(-table.metadata.num_rows // size)
        shards = [output / f"{stem}-{n:05d}-of-{count:05d}.parquet" for n in range(count)]
        for shard, part in zip(shards, _rebatched(table, size), strict=True):
            pq.write_table(part, shard)
        if size == 1 or max(shard.stat().st_size for shard in shards) <= max_bytes:
            return shards
        # Rows differ in size, and each shard has a footer of its own.
        for shard in shards:
            shard.unlink()
        size -= max(1, size // 10)


def _rebatched(table: pq.ParquetFile, rows: int) -> Iterator[pa.Table]:
    """Yield tables of `rows` rows each, the last one of what is left."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in table.iter_batches(batch_size=min(rows, 1024)):
        while count + batch.num_rows >= rows:
            take = rows - count
            yield pa.Table.from_batches([*held, batch.slice(0, take)])
            held, count, batch = [], 0, batch.slice(take)
        if batch.num_rows:
            held.append(batch)
            count += batch.num_rows
    if held:
        yield pa.Table.from_batches(held)


def prepare(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    *,
    languages: Sequence[str] = ("en",),
    captions: str | os.PathLike | None = None,
    skip_bad: bool = False,
    progress: Callable[[str, Iterator[pa.Table]], Iterator[pa.Table]] | None = None,
) -> dict:
    """Write a release's samples and stickers as Parquet, with a README and statistics.

    The tables are written beside `output` and renamed when whole. A prepared folder that is
    already there is replaced; what else lies in it, such as extracted knowledge, stays.

    Args:
        folder: the release.
        output: the prepared folder to make.
        languages: the languages to write. The stickers' emotions are counted in the first.
        captions: a JSON file of sticker id -> text for the column `caption`.
        skip_bad: leave broken records out, listed in `skipped.json`, instead of raising.
        progress: wraps the stream of a split's tables, given its name and the tables.

    Returns:
        The statistics, as in `statistics.json`.

    Raises:
        ValueError: the release is broken (`ReleaseError`), an image is (`StickerImageError`), or
            `output` holds something else than a prepared folder.
        OSError: a file cannot be read or written.
    """
    _refuse_foreign(Path(output))
    releases = [Release(folder, language, skip_bad=skip_bad) for language in languages]
    texts = read_captions(captions, releases[0].stickers) if captions else {}
    return write_prepared(releases, output, captions=texts, progress=progress)


class Source(Protocol):
    """What a prepared folder is made from: a [`Release`] in one language, or chats.

    Attributes:
        title: a name for the card.
        origin: a sentence for the card: what it was made from, and whose terms bind.
        generator: the code that drew it; None for what people wrote.
        language: the configuration's name.
        splits: names of the splits, `train` among them.
        emotions: the emotions' names; an emotion's id is its position.
        features: of the samples' tables.
        stickers: sticker id -> image path.
        unlisted_images: names of images that no sticker is made of.
        skip_bad: whether broken records are left out.
        skipped: the broken records that were.
        fingerprint: the sha256 of all that the tables are made from.
    """

    title: str
    origin: str
    generator: str | None
    language: str
    splits: Sequence[str]
    emotions: list[str]
    features: Features
    stickers: dict[str, Path]
    unlisted_images: list[str]
    skip_bad: bool
    skipped: Sequence[Skipped]
    fingerprint: str

    def image_name(self, path: Path) -> str:
        """Return an image's path as messages name it."""
        ...

    def tables(self, split: str) -> Iterator[pa.Table]:
        """Yield the samples of a split."""
        ...


def write_prepared(
    releases: Sequence[Source],
    output: str | os.PathLike,
    *,
    captions: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str, Iterator[pa.Table]], Iterator[pa.Table]] | None = None,
    more: Mapping[str, object] = MappingProxyType({}),
) -> dict:
    """Write samples and stickers as a prepared folder; see `prepare`, which does it for a release.

    Args:
        releases: what to write, a configuration each.
        output: the prepared folder to make.
        captions: sticker id -> text for the column `caption`.
        progress: wraps the stream of a split's tables, given its name and the tables.
        more: what the statistics say beside.

    Returns:
        The statistics, as in `statistics.json`.

    Raises:
        ValueError: as `prepare`.
        OSError: a file cannot be read or written.
    """
    # Resolved, so that "beside" is on the same disk behind a symbolic link too.
    output = Path(output).resolve()
    _refuse_foreign(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        counts = {
            release.language: _write_language(release, beside, progress) for release in releases
        }
        first = counts[releases[0].language]
        table = sticker_table(releases[0], first[TRAIN].sticker_emotions(), captions)
        _write_table(beside, STICKERS, TRAIN, iter([table]), table.schema)
        statistics = _statistics(releases, counts, captions) | more | {"files": _digests(beside)}
        _write_json(beside / STATISTICS_FILE, statistics)
        if releases[0].skip_bad:
            skipped = [vars(one) for release in releases for one in release.skipped]
            _write_json(beside / SKIPPED_FILE, skipped)
        card = _readme(releases[0], counts, table, statistics["files"])
        (beside / "README.md").write_text(card, encoding="utf-8")
        _replace(beside, output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return statistics


def sticker_table(
    release: Source, emotions: dict[str, int], captions: Mapping[str, str] | None = None
) -> pa.Table:
    """Return the sticker table of a release, images as PNG content.

    Args:
        release: the release.
        emotions: sticker id -> its emotion; a sticker that is missing gets -1.
        captions: sticker id -> text; a sticker that is missing gets null.

    Raises:
        StickerImageError: an image is broken, truncated or too large.
    """
    captions = captions or {}
    rows = []
    for sticker, path in release.stickers.items():
        image = load_sticker_image(path, name=release.image_name(path))
        rows.append(
            {
                "id": sticker,
                "name": path.name,
                "image": {"bytes": png_bytes(image), "path": f"{sticker}.png"},
                "caption": captions.get(sticker),
                "emotion": emotions.get(sticker, UNLABELLED),
            }
        )
    return pa.Table.from_pylist(rows, schema=sticker_features(release.emotions).arrow_schema)


class SplitCounts:
    """What is counted of a split while its tables stream by.

    Args:
        stickers: all sticker ids.
        num_emotions: how many emotions there are.
    """

    def __init__(self, stickers: Sequence[str], num_emotions: int) -> None:
        self._stickers = list(stickers)
        self._ids = pa.array(self._stickers, pa.string())
        # One column more for the rows without an emotion.
        self._labels = np.zeros((len(self._stickers), num_emotions + 1), np.int64)
        self._context = np.zeros(len(self._stickers), bool)
        self.rows = self.without_answer = self.with_emotion = self.utterances = self.bytes = 0

    def add(self, table: pa.Table) -> None:
        """Count a table of samples."""
        utterances = pc.list_flatten(table["utterances"])
        emotions = table["emotion"].to_numpy()
        answers = self._positions(table["sticker_id"])
        given = answers >= 0
        np.add.at(self._labels, (answers[given], emotions[given]), 1)
        context = self._positions(pc.struct_field(utterances, "sticker_id"))
        self._context[context[context >= 0]] = True
        self.rows += table.num_rows
        self.utterances += len(utterances)
        self.without_answer += int((~given).sum())
        self.with_emotion += int((emotions >= 0).sum())
        self.bytes += table.nbytes

    def answers(self) -> dict[str, int]:
        """Return how often each sticker is the answer, those that never are left out."""
        totals = self._labels.sum(axis=1)
        return {one: int(n) for one, n in zip(self._stickers, totals, strict=True) if n}

    def seen(self) -> set[str]:
        """Return the stickers that occur at all, as an answer or in a dialogue."""
        seen = self._context | (self._labels.sum(axis=1) > 0)
        return {one for one, is_seen in zip(self._stickers, seen, strict=True) if is_seen}

    def sticker_emotions(self) -> dict[str, int]:
        """Return each labelled sticker's most frequent emotion as an answer, ties: lower id."""
        labels = self._labels[:, :-1]
        has = np.flatnonzero(labels.any(axis=1))
        return {self._stickers[i]: int(labels[i].argmax()) for i in has}

    def _positions(self, ids: pa.ChunkedArray) -> np.ndarray:
        return pc.fill_null(pc.index_in(ids, self._ids), -1).to_numpy()


def count_tables(release: Release, tables: Iterator[pa.Table]) -> SplitCounts:
    """Count all of `tables`, one after the other."""
    counts = SplitCounts(list(release.stickers), len(release.emotions))
    for table in tables:
        counts.add(table)
    return counts


def _write_language(release: Source, output: Path, progress: Callable | None) -> dict:
    counts = {}
    for split in release.splits:
        counts[split] = SplitCounts(list(release.stickers), len(release.emotions))
        tables = _counted(release.tables(split), counts[split])
        if progress:
            tables = progress(f"{release.language} {split}", tables)
        _write_table(output, release.language, split, tables, release.features.arrow_schema)
    return counts


def _counted(tables: Iterator[pa.Table], counts: SplitCounts) -> Iterator[pa.Table]:
    for table in tables:
        counts.add(table)
        yield table


def _write_table(
    output: Path, config: str, split: str, tables: Iterator[pa.Table], schema: pa.Schema
) -> None:
    path = output / "data" / config / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _statistics(
    releases: Sequence[Source],
    counts: dict[str, dict[str, SplitCounts]],
    captions: Mapping[str, str],
) -> dict:
    first = releases[0]
    digest = hashlib.sha256(json.dumps(dict(captions), sort_keys=True).encode())
    for release in releases:
        left_out = "".join(f"\n{one}" for one in release.skipped)
        digest.update(f"\n{release.fingerprint}{left_out}".encode())
    train_emotions = counts[first.language][TRAIN].sticker_emotions()
    return {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "fingerprint": digest.hexdigest(),
        # None for a release that people wrote; only what is drawn by code is free of their terms.
        "generator": first.generator,
        "languages": [release.language for release in releases],
        "emotions": first.emotions,
        "stickers": len(first.stickers),
        "stickers_with_emotion": len(train_emotions),
        "captions": len(captions),
        "unlisted_images": first.unlisted_images,
        "skipped_records": sum(len(release.skipped) for release in releases),
        "splits": {
            language: {split: _split_statistics(one, of[TRAIN]) for split, one in of.items()}
            for language, of in counts.items()
        },
    }


def _split_statistics(counts: SplitCounts, train: SplitCounts) -> dict:
    answers = counts.answers()
    found = {
        "rows": counts.rows,
        "rows_with_emotion": counts.with_emotion,
        "rows_without_answer": counts.without_answer,
        "utterances_per_row": round(counts.utterances / max(1, counts.rows), 3),
        "answer_stickers": len(answers),
    }
    if counts is not train:
        unseen = sorted(set(answers) - train.seen(), key=int)
        found["answer_stickers_unseen_in_train"] = unseen
        found["rows_with_answer_unseen_in_train"] = sum(answers[one] for one in unseen)
    return found


def _digests(output: Path) -> dict[str, str]:
    paths = sorted(output.glob("data/*/*.parquet"))
    return {path.relative_to(output).as_posix(): file_sha256(path) for path in paths}


def _readme(
    first: Source,
    counts: dict[str, dict[str, SplitCounts]],
    stickers: pa.Table,
    digests: dict[str, str],
) -> str:
    # Imported here: the private helpers that write the metadata of a card.
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    infos = {}
    for language, of in counts.items():
        sizes = {split: (one.rows, one.bytes) for split, one in of.items()}
        infos[language] = _info(first.features, sizes)
    sizes = {TRAIN: (stickers.num_rows, stickers.nbytes)}
    infos[STICKERS] = _info(sticker_features(first.emotions), sizes)
    # `datasets` finds a local folder's cache by its last name and this metadata alone. Without the
    # digest it would go on serving the old tables when a folder is prepared anew.
    digest = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    files = {
        config: {
            "description": f"content {digest[:16]}",
            "data_files": [
                {"split": split, "path": f"data/{config}/{split}-*.parquet"}
                for split in info.splits
            ],
        }
        for config, info in infos.items()
    }
    files[first.language]["default"] = True
    data = DatasetCardData(pretty_name=first.title, language=list(counts))
    DatasetInfosDict(infos).to_dataset_card_data(data)
    MetadataConfigs(files).to_dataset_card_data(data)
    lines = ["| language | split | samples | with emotion |", "|---|---|---:|---:|"]
    lines += [
        f"| {language} | {split} | {one.rows} | {one.with_emotion} |"
        for language, of in counts.items()
        for split, one in of.items()
    ]
    rows = "\n".join(lines)
    return f"""---
{data.to_yaml()}
---

# {first.title}, prepared

Dialogues in which a turn carries a sticker, one row for each such turn, and the table of all
{stickers.num_rows} stickers. {first.origin}

{rows}

```python
from datasets import load_dataset

dialogues = load_dataset("PATH_OF_THIS_FOLDER", "{first.language}")
stickers = load_dataset("PATH_OF_THIS_FOLDER", "{STICKERS}", split="train")
```
"""


def _info(features: Features, sizes: dict[str, tuple[int, int]]) -> DatasetInfo:
    splits = SplitDict()
    for split, (rows, size) in sizes.items():
        splits.add(SplitInfo(split, num_bytes=size, num_examples=rows))
    return DatasetInfo(features=features, splits=splits)


def read_statistics(folder: str | os.PathLike) -> dict:
    """Read what `statistics.json` of a prepared folder holds.

    Raises:
        ValueError: the folder is missing or not a prepared one of this schema.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    try:
        statistics = json.loads((folder / STATISTICS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder}: not a prepared folder (no {STATISTICS_FILE}); "
            "make one of a release with scripts/prepare_mod.py"
        ) from None
    except ValueError as error:
        raise ValueError(f"{folder / STATISTICS_FILE}: not valid JSON ({error})") from None
    if not isinstance(statistics, dict) or statistics.get("kind") != _KIND:
        raise ValueError(f"{folder}: not a prepared folder (its {STATISTICS_FILE} is another's)")
    if statistics.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{folder}: prepared with schema {statistics.get('schema_version')}, "
            f"this is {SCHEMA_VERSION}; prepare it again"
        )
    return statistics


def _refuse_foreign(output: Path) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"{output}: is a file, not a folder")
    if any(output.iterdir()):
        try:
            statistics = json.loads((output / STATISTICS_FILE).read_text(encoding="utf-8"))
            is_ours = isinstance(statistics, dict) and statistics.get("kind") == _KIND
        except (OSError, ValueError):
            is_ours = False
        if not is_ours:
            raise ValueError(f"{output}: holds something else than a prepared folder; not touched")


def _replace(new: Path, output: Path) -> None:
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    if output.exists():
        output.rename(old)
    new.rename(output)
    if old.exists():
        # What others keep in the folder, such as extracted knowledge, took long to make.
        for kept in old.iterdir():
            if kept.name not in _WRITTEN:
                kept.rename(output / kept.name)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
