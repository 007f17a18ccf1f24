# SPDX-License-Identifier: Apache-2.0
"""Read a MOD release: every record checked, samples as Arrow tables, memory flat."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Features

from dataset_mod.json_records import JSONRecords, ReleaseError
from dataset_mod.layout import (
    DIALOGUES,
    EMOTION,
    GENERATOR,
    RETRIEVAL,
    find_layout,
    is_mini_release,
)
from dataset_mod.schema import (
    LANGUAGES,
    NUM_CANDIDATES,
    SCHEMA_VERSION,
    SPLITS,
    TRAIN,
    UNLABELLED,
    normalise_sticker_id,
    sample_features,
)

logger = logging.getLogger(__name__)

_SPEAKERS = {"[speaker1]": 0, "[speaker2]": 1}
_ROWS_PER_TABLE = 2048
_SHARD_CHARACTERS = 1 << 18
_MAX_SHARDS = 64
_MAX_EMOTIONS = 1000
_SKIPPED_SHOWN = 20

Turn = tuple[int, str, str | None, int | None]
"""speaker, text, sticker id, emotion."""


@dataclass(frozen=True)
class Skipped:
    """A broken record that was left out, and why."""

    file: str
    record: str
    turn: int | None
    problem: str

    def __str__(self) -> str:
        """Say it in one line."""
        turn = "" if self.turn is None else f", turn {self.turn}"
        return f"{self.file}, {self.record}{turn}: {self.problem}"


class _BrokenError(Exception):
    def __init__(self, problem: str, turn: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.turn = problem, turn


class Release:
    """A MOD release folder in one language.

    Args:
        folder: the release; its parts are found by what they are, at any depth.
        language: `en` or `zh`; None takes the first that the release has.
        skip_bad: leave a broken record out and note it in `skipped` instead of raising. In a
            dialogue file a record is a whole dialogue, in a task file one sample.

    Attributes:
        stickers: sticker id -> image path, in the order of the ids.
        unlisted_images: names of the files in meme_set that img2id does not list.
        emotions: the emotions' names; an emotion's id is its position.
        skipped: the broken records met so far (only with `skip_bad`).

    Raises:
        ReleaseError: a part is missing, ambiguous or broken.
    """

    def __init__(
        self, folder: str | os.PathLike, language: str | None = None, *, skip_bad: bool = False
    ) -> None:
        if language is not None and language not in LANGUAGES:
            raise ReleaseError(f"no language {language!r}: choose from {', '.join(LANGUAGES)}")
        self.layout = find_layout(folder)
        self.root = self.layout.root
        self.language = language or next(iter(self.layout.languages()), LANGUAGES[0])
        self.skip_bad = skip_bad
        self.skipped: list[Skipped] = []
        self._files = self._require_parts()
        self.emotions = self._read_emotions()
        self.stickers, self.unlisted_images = self._read_stickers()
        self._ids: dict[str, str] = {one: one for one in self.stickers}

    title = "MOD"
    origin = (
        "Made by `prepare_mod.py` from a folder in the layout of the MOD\n"
        "release; whoever passes it on is bound by the terms of that release."
    )
    splits = SPLITS

    @property
    def generator(self) -> str | None:
        """The code that drew the release; None for one that people wrote."""
        return GENERATOR if is_mini_release(self.root) else None

    @property
    def features(self) -> Features:
        """The features of the samples' tables."""
        return sample_features(self.emotions)

    def image_name(self, path: Path) -> str:
        """Return an image's path as messages name it: relative to the release."""
        return self.layout.name(path)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all that the tables are made from, wherever it lies on the disk."""
        total = hashlib.sha256(f"{SCHEMA_VERSION} {self.language}".encode())
        parts = {" ".join(part): path for part, path in self._files.items()}
        parts |= {"img2id": self.layout.img2id, "emotion_dict": self.layout.emotion_dict}
        parts |= {f"image {name}": path for name, path in self.layout.images.items()}
        for part in sorted(parts):
            total.update(f"\n{part} {file_sha256(parts[part])}".encode())
        return total.hexdigest()

    def shards(self, split: str) -> list[int]:
        """Return the shards that `tables` can read a split in, apart and in any process.

        Only the training file is worth cutting. The other splits are joined record by record
        with their emotions, in order.
        """
        if split != TRAIN:
            return [0]
        return list(range(-(-self._size(split) // self._shard_size(split))))

    def tables(self, split: str, shards: Sequence[int] | None = None) -> Iterator[pa.Table]:
        """Yield the samples of a split, some 2,000 rows a table, in the order of the release.

        Args:
            split: one of `SPLITS`.
            shards: which of `shards(split)` to read; None is all of them.

        Raises:
            ReleaseError: a broken record (unless `skip_bad`), or no sample at all.
        """
        wanted = None if shards is None else set(shards)
        rows = 0
        batch = _Batch(self.features)
        source = self._train(batch, wanted) if split == TRAIN else self._evaluation(split, batch)
        for _ in source:
            if batch.rows >= _ROWS_PER_TABLE:
                rows += batch.rows
                yield batch.table()
        rows += batch.rows
        if batch.rows:
            yield batch.table()
        if not rows and wanted is None:
            file = self.layout.name(self._files[split, self._kind(split)])
            raise ReleaseError(f"{file}: holds no sample")

    # Reading records

    def _train(self, batch: _Batch, wanted: set[int] | None) -> Iterator[None]:
        for name, turns in self._dialogues(TRAIN, wanted):
            first = batch.add_turns(turns)
            for i, (_, _, sticker, emotion) in enumerate(turns):
                if i > 0 and sticker is not None:
                    batch.add_row(name, first, first + i + 1, sticker, emotion, ())
            yield

    def _dialogues(
        self, split: str, wanted: set[int] | None = None
    ) -> Iterator[tuple[str, list[Turn]]]:
        path = self._files[split, DIALOGUES]
        file = self.layout.name(path)
        records = self._records(path, is_object=True)
        size = self._shard_size(split)
        seen = set()
        for offset, name, value in records:
            if wanted is not None and offset // size > max(wanted):
                return
            is_repeated = name in seen
            seen.add(name)
            if wanted is not None and offset // size not in wanted:
                continue
            try:
                if is_repeated:
                    raise _BrokenError("a second dialogue of this name")
                turns = self._turns(value)
            except _BrokenError as error:
                self._report(file, str(name), error)
            else:
                yield name, turns

    def _evaluation(self, split: str, batch: _Batch) -> Iterator[None]:
        path = self._files[split, RETRIEVAL]
        file = self.layout.name(path)
        emotions = _Emotions(self, split)
        for _, position, value in self._records(path, is_object=False):
            name = f"record {position}"
            try:
                turns, candidates, answer, emotion = self._retrieval_record(value)
            except _BrokenError as error:
                self._report(file, name, error)
                continue
            joined = emotions.take(turns, answer)
            first = batch.add_turns(turns)
            batch.add_row(
                name,
                first,
                first + len(turns),
                answer,
                joined if emotion is None else emotion,
                candidates,
            )
            yield
        emotions.report_left()

    def _retrieval_record(
        self, value: object
    ) -> tuple[list[Turn], list[str], str | None, int | None]:
        turns, answer = self._history_and_answer(value)
        candidate = value.get("candidate")
        if not isinstance(candidate, dict) or not isinstance(candidate.get("set"), list):
            raise _BrokenError('no "candidate" with a list named "set"')
        self._same_speaker("candidate", candidate, turns)
        candidates = [self._known_sticker(one) for one in candidate["set"]]
        if len(candidates) != NUM_CANDIDATES or len(set(candidates)) != NUM_CANDIDATES:
            raise _BrokenError(
                f"{len(set(candidates))} distinct of {len(candidates)} candidates, "
                f"wanted {NUM_CANDIDATES} distinct ones"
            )
        sticker, emotion = self._sticker(answer), self._emotion(answer)
        if sticker is not None and sticker not in candidates:
            raise _BrokenError(f"the answer {sticker!r} is not among the candidates")
        return turns, candidates, sticker, emotion

    def _history_and_answer(self, value: object) -> tuple[list[Turn], dict]:
        if not isinstance(value, dict):
            raise _BrokenError(f"is {_kind_of(value)}, wanted an object")
        turns = self._turns(value.get("history"))
        answer = value.get("answer")
        if answer is None or answer == "":
            answer = {}
        if not isinstance(answer, dict):
            raise _BrokenError(f"the answer is {_kind_of(answer)}, wanted an object")
        self._same_speaker("answer", answer, turns)
        return turns, answer

    def _turns(self, value: object) -> list[Turn]:
        if not isinstance(value, list):
            raise _BrokenError(f"wanted a list of turns, found {_kind_of(value)}")
        if not value:
            raise _BrokenError("has no turns")
        turns = []
        for i, turn in enumerate(value):
            try:
                if not isinstance(turn, dict):
                    raise _BrokenError(f"is {_kind_of(turn)}, wanted an object")
                speaker = self._speaker(turn)
                turns.append((speaker, _text(turn), self._sticker(turn), self._emotion(turn)))
            except _BrokenError as error:
                raise _BrokenError(error.problem, i) from None
        return turns

    @staticmethod
    def _speaker(turn: dict) -> int:
        tag = turn.get("speaker_id")
        # An unhashable tag must reach the message too.
        speaker = _SPEAKERS.get(tag) if isinstance(tag, str) else None
        if speaker is None:
            raise _BrokenError(f"speaker_id {tag!r} is neither [speaker1] nor [speaker2]")
        return speaker

    def _same_speaker(self, what: str, value: dict, turns: list[Turn]) -> None:
        if "speaker_id" in value and self._speaker(value) != turns[-1][0]:
            raise _BrokenError(f"the {what} is not by the speaker of the last turn")

    def _sticker(self, turn: dict) -> str | None:
        ids = {
            self._known_sticker(turn[key])
            for key in ("img_id", "image_id")
            if turn.get(key) not in (None, "")
        }
        if len(ids) > 1:
            raise _BrokenError("img_id and image_id name different stickers")
        return ids.pop() if ids else None

    def _known_sticker(self, value: object) -> str:
        known = self._ids.get(value) if type(value) is str else None
        if known is None:
            try:
                known = normalise_sticker_id(value)
            except ValueError as error:
                raise _BrokenError(str(error)) from None
            if known not in self.stickers:
                raise _BrokenError(f"sticker {known!r} is not in img2id")
        return known

    def _emotion(self, turn: dict) -> int | None:
        value = turn.get("emotion_id")
        if value is None or value == "":
            return None
        if type(value) is not int or not 0 <= value < len(self.emotions):
            raise _BrokenError(
                f"emotion_id {value!r} is not one of the {len(self.emotions)} of emotion_dict"
            )
        return value

    def _report(self, file: str, record: str, error: _BrokenError) -> None:
        found = Skipped(file, record, error.turn, error.problem)
        if not self.skip_bad:
            raise ReleaseError(str(found)) from None
        self.skipped.append(found)
        if len(self.skipped) <= _SKIPPED_SHOWN:
            logger.warning("left out: %s", found)
        elif len(self.skipped) == _SKIPPED_SHOWN + 1:
            logger.warning("more broken records follow, left out without a line each")

    # The parts

    def _kind(self, split: str) -> str:
        return DIALOGUES if split == TRAIN else RETRIEVAL

    def _size(self, split: str) -> int:
        # Bytes: never fewer than the characters that offsets count.
        return max(1, self._files[split, self._kind(split)].stat().st_size)

    def _shard_size(self, split: str) -> int:
        return max(_SHARD_CHARACTERS, -(-self._size(split) // _MAX_SHARDS))

    def _records(self, path: Path, is_object: bool) -> Iterator[tuple[int, str | int, object]]:
        name = self.layout.name(path)
        records = JSONRecords(path, name)
        if records.is_object != is_object:
            found, wanted = ("a list", "an object") if is_object else ("an object", "a list")
            raise ReleaseError(f"{name}: is {found}, wanted {wanted}")
        yield from records

    def _require_parts(self) -> dict[tuple[str, str], Path]:
        files, missing = {}, []
        for split in SPLITS:
            for kind in (DIALOGUES, RETRIEVAL, EMOTION):
                path = self.layout.find(self.language, split, kind)
                if path:
                    files[split, kind] = path
            if (split, self._kind(split)) not in files:
                prefix = "e" if self.language == "en" else "c"
                short = split.replace("validation", "val")
                missing.append(f"{prefix}_{short}{'' if split == TRAIN else '_task2'}.json")
        missing += [
            f"{one}.json" for one in ("img2id", "emotion_dict") if getattr(self.layout, one) is None
        ]
        if not self.layout.images:
            missing.append("meme_set with images in it")
        if missing:
            raise ReleaseError(
                f"{self.root}: no MOD release in language {self.language!r}: "
                f"missing {', '.join(missing)} (or a file of that part under another known name)"
            )
        return files

    def _read_emotions(self) -> list[str]:
        path = self.layout.emotion_dict
        by_id: dict[int, str] = {}
        for _, name, number in self._records(path, is_object=True):
            if type(number) is not int or not 0 <= number < _MAX_EMOTIONS or number in by_id:
                raise ReleaseError(
                    f"{self.layout.name(path)}: emotion {name!r} has the id {number!r}, "
                    "wanted a whole number from 0 on that no other has"
                )
            by_id[number] = name
        if not by_id:
            raise ReleaseError(f"{self.layout.name(path)}: holds no emotion")
        # A gap keeps its number, so that ids stay what the release says.
        return [by_id.get(number, f"emotion {number}") for number in range(max(by_id) + 1)]

    def _read_stickers(self) -> tuple[dict[str, Path], list[str]]:
        path = self.layout.img2id
        file = self.layout.name(path)
        names: dict[str, str] = {}
        for _, name, value in self._records(path, is_object=True):
            try:
                sticker = normalise_sticker_id(value)
            except ValueError as error:
                raise ReleaseError(f"{file}: {name!r}: {error}") from None
            if sticker in names:
                raise ReleaseError(
                    f"{file}: {names[sticker]!r} and {name!r} both have the id {sticker}"
                )
            if name in names.values():
                raise ReleaseError(f"{file}: {name!r} has two ids")
            names[sticker] = name
        if not names:
            raise ReleaseError(f"{file}: holds no sticker")
        lost = [name for name in names.values() if name not in self.layout.images]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise ReleaseError(f"{file}: {lost[0]!r}{more} not found in meme_set")
        unlisted = sorted(set(self.layout.images) - set(names.values()))
        return {one: self.layout.images[names[one]] for one in sorted(names, key=int)}, unlisted


class _Emotions:
    """The emotions of a split's samples, found by the history and its sticker.

    They lie in the task-3 file, which lacks the unlabelled samples and so does not go along
    with task 2 by position; or in the split's dialogues. Of samples that are equal in every
    turn the first takes the first label, and so on.
    """

    def __init__(self, release: Release, split: str) -> None:
        self._sources: list[dict[tuple, deque[int]]] = []
        self._task: tuple[str, dict[tuple, deque[int]]] = ("", {})
        for kind, read in ((EMOTION, self._from_task), (DIALOGUES, self._from_dialogues)):
            path = release._files.get((split, kind))
            if path is not None:
                labels: dict[tuple, deque[int]] = {}
                for turns, emotion in read(release, split):
                    labels.setdefault(_key(turns), deque()).append(emotion)
                self._sources.append(labels)
                if kind == EMOTION:
                    self._task = (release.layout.name(path), labels)

    def take(self, turns: list[Turn], answer: str | None) -> int | None:
        """Return the emotion of a sample, None where no source has it."""
        key = _key([*turns[:-1], (*turns[-1][:2], answer, None)])
        found = None
        for labels in self._sources:
            emotions = labels.get(key)
            # Both sources give one label away, so that equal samples stay in step in each.
            emotion = emotions.popleft() if emotions else None
            found = emotion if found is None else found
        return found

    def report_left(self) -> None:
        """Say how many labels of the task-3 file belong to no sample."""
        file, labels = self._task
        left = sum(len(emotions) for emotions in labels.values())
        if left:
            logger.warning("%s: %d labels belong to no sample of task 2", file, left)

    @staticmethod
    def _from_task(release: Release, split: str) -> Iterator[tuple[list[Turn], int]]:
        path = release._files[split, EMOTION]
        for _, position, value in release._records(path, is_object=False):
            try:
                turns, answer = release._history_and_answer(value)
                emotion = release._emotion(answer)
            except _BrokenError as error:
                release._report(release.layout.name(path), f"record {position}", error)
            else:
                if emotion is not None:
                    yield turns, emotion

    @staticmethod
    def _from_dialogues(release: Release, split: str) -> Iterator[tuple[list[Turn], int]]:
        for _, turns in release._dialogues(split):
            for i, (_, _, sticker, emotion) in enumerate(turns):
                if i > 0 and sticker is not None and emotion is not None:
                    yield turns[: i + 1], emotion


class _Batch:
    """Turns and rows as flat columns; a table repeats each row's stretch of turns."""

    def __init__(self, features: Features) -> None:
        self._schema = features.arrow_schema
        self._clear()

    def _clear(self) -> None:
        self._turns: list[Turn] = []
        self._rows: list[tuple] = []
        self._candidates: list[str] = []

    @property
    def rows(self) -> int:
        return len(self._rows)

    def add_turns(self, turns: list[Turn]) -> int:
        """Add turns and return where the first of them lies."""
        first = len(self._turns)
        self._turns += turns
        return first

    def add_row(
        self,
        dialogue: str,
        start: int,
        end: int,
        sticker: str | None,
        emotion: int | None,
        candidates: Sequence[str],
    ) -> None:
        self._candidates += candidates
        label = UNLABELLED if emotion is None else emotion
        self._rows.append((dialogue, start, end, sticker, label, len(self._candidates)))

    def table(self) -> pa.Table:
        """Return the rows as a table and start anew."""
        names, starts, ends, stickers, emotions, candidate_ends = zip(*self._rows, strict=True)
        starts, ends = np.array(starts), np.array(ends)
        lengths = ends - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        # The turn that carries the answer must not show it: there, take the null at the end.
        hidden = index.copy()
        hidden[offsets[1:] - 1] = len(self._turns)
        speakers, texts, turn_stickers, turn_emotions = zip(*self._turns, strict=True)
        utterances = pa.StructArray.from_arrays(
            [
                pa.array(speakers, pa.int8()).take(pa.array(index)),
                pa.array(texts, pa.string()).take(pa.array(index)),
                pa.array([*turn_stickers, None], pa.string()).take(pa.array(hidden)),
                pa.array([*turn_emotions, None], pa.int64()).take(pa.array(hidden)),
            ],
            fields=list(self._schema.field("utterances").type.value_type),
        )
        columns = {
            "dialogue_id": pa.array(names, pa.string()),
            "turn": pa.array(lengths - 1, pa.int32()),
            "utterances": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), utterances),
            "sticker_id": pa.array(stickers, pa.string()),
            "emotion": pa.array(emotions, pa.int64()),
            "candidates": pa.ListArray.from_arrays(
                pa.array([0, *candidate_ends], pa.int32()), pa.array(self._candidates, pa.string())
            ),
        }
        self._clear()
        return pa.table([columns[name] for name in self._schema.names], schema=self._schema)


def _kind_of(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    return "nothing" if value is None else names.get(type(value), "a number")


def _text(turn: dict) -> str:
    text = turn.get("txt")
    if text is None:
        return ""
    if not isinstance(text, str):
        raise _BrokenError(f"txt is {_kind_of(text)}, wanted text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _BrokenError("txt holds half a character (a lone surrogate)") from None
    return text


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _key(turns: Sequence[Turn]) -> tuple:
    return tuple(turn[:3] for turn in turns)


def read_captions(path: str | os.PathLike, stickers: Sequence[str]) -> dict[str, str]:
    """Read a JSON of sticker id -> text, such as translated captions.

    Raises:
        ReleaseError: the file is no such JSON, or names a sticker that is not in `stickers`.
        OSError: the file cannot be read.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ReleaseError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise ReleaseError(f"{path}: is not an object of sticker id to text")
    known, captions = set(stickers), {}
    for key, text in found.items():
        try:
            sticker = normalise_sticker_id(key)
        except ValueError as error:
            raise ReleaseError(f"{path}: {error}") from None
        if sticker not in known:
            raise ReleaseError(f"{path}: sticker {sticker!r} is not in the release")
        if sticker in captions:
            raise ReleaseError(f"{path}: two captions for sticker {sticker!r}")
        if not isinstance(text, str):
            raise ReleaseError(f"{path}: the caption of sticker {sticker!r} is not text")
        captions[sticker] = text
    return captions
