# SPDX-License-Identifier: Apache-2.0
"""Read chats, a table of turns beside a folder of stickers, as samples of this package."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from datasets import Features

from dataset_mod.layout import IMAGE_SUFFIXES
from dataset_mod.release import Skipped, file_sha256
from dataset_mod.sampling import draw_candidates
from dataset_mod.schema import (
    NUM_CANDIDATES,
    SCHEMA_VERSION,
    TRAIN,
    UNLABELLED,
    normalise_sticker_id,
    sample_features,
)

COLUMNS = ("dialogue", "speaker", "text", "sticker")
EMOTION = "emotion"
VALIDATION, TEST = "validation", "test"
_ROWS_PER_TABLE = 2048
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class ChatError(ValueError):
    """Chats that cannot be read; the message names the file, the line and what is wrong."""


@dataclass(frozen=True)
class _Turn:
    speaker: str
    text: str
    sticker: str | None
    emotion: int | None


@dataclass(frozen=True)
class _Sample:
    dialogue: str
    turns: list[_Turn]
    place: int


class Chats:
    """A chat export and its stickers, to be written by [`write_prepared`].

    A line is a turn; the turns of a dialogue stand in the order in which they were said. Each turn
    behind the first that carries a sticker is a sample. A message that is a sticker alone belongs
    to the text that the same person said just before, as one turn. Of the two sides that CKS
    knows, one is the person who sends the sticker and the other is everybody else; number 0 is the
    side that spoke first.

    Args:
        path: a CSV (separated by commas, semicolons or tabs) or a JSONL file, UTF-8 or UTF-16 with
            a byte order mark, with the columns `dialogue`, `speaker`, `text`, `sticker` (the name
            of an image in `stickers`) and perhaps `emotion`; others are left alone.
        stickers: the folder of images. Each is a sticker, whether sent or not.
        language: the language's code, for the configuration's name.
        emotions: the emotions' names in their order, such as a checkpoint's; by default those of
            the file, sorted.
        held_out: the share of the dialogues that goes to validation, and again to test.
        context: how many turns a sample keeps at most, the newest.
        seed: of the splits and the candidates.
        skip_bad: leave a dialogue with a broken line out and note it in `skipped`, instead of
            raising.

    Attributes:
        left_out: what became of turns that are no samples of their own, by reason.
        other_columns: names of the columns that were left alone.
        speakers: the largest number of people in one dialogue.

    Raises:
        ChatError: the file, a line or the folder is not as described, or there are too few
            dialogues with a sample to fill three splits.
    """

    title = "Chats"
    origin = "Made by `prepare_chats.py` from the messages of an app and its folder of\nstickers."
    generator = None
    splits = (TRAIN, VALIDATION, TEST)

    def __init__(
        self,
        path: str | os.PathLike,
        stickers: str | os.PathLike,
        *,
        language: str = "en",
        emotions: Sequence[str] | None = None,
        held_out: float = 0.1,
        context: int = 32,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> None:
        if not 0 < held_out < 0.5:
            raise ChatError(f"held_out must lie between 0 and 0.5, not {held_out}")
        if context < 1:
            raise ChatError(f"context must be at least 1 turn, not {context}")
        self.path, self.folder = Path(path), Path(stickers)
        self.language, self.context, self.seed = language, context, seed
        self.held_out, self.skip_bad = held_out, skip_bad
        self.skipped: list[Skipped] = []
        self.left_out: Counter[str] = Counter()
        self.stickers, self.unlisted_images, self.other_files = self._read_stickers()
        self._ids = {each.name: sticker for sticker, each in self.stickers.items()}
        records = self._records()
        self.emotions = list(emotions) if emotions is not None else self._emotion_names(records)
        dialogues = self._dialogues(records)
        self.speakers = max(
            (len({turn.speaker for turn in turns}) for turns in dialogues.values()), default=0
        )
        self._samples = self._split(dialogues)

    @property
    def features(self) -> Features:
        """The features of the samples' tables."""
        return sample_features(self.emotions)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all that the tables are made from."""
        settings = [SCHEMA_VERSION, self.language, self.emotions, self.held_out, self.context]
        total = hashlib.sha256(json.dumps([*settings, self.seed]).encode())
        for path in (self.path, *self.stickers.values()):
            total.update(f"\n{path.name} {file_sha256(path)}".encode())
        return total.hexdigest()

    def image_name(self, path: Path) -> str:
        """Return an image's path as messages name it."""
        return str(path)

    def tables(self, split: str) -> Iterator[pa.Table]:
        """Yield the samples of a split, some 2,000 rows a table, in the order of the file."""
        samples = self._samples[split]
        schema = self.features.arrow_schema
        for start in range(0, len(samples), _ROWS_PER_TABLE):
            rows = [self._row(split, each) for each in samples[start : start + _ROWS_PER_TABLE]]
            yield pa.Table.from_pylist(rows, schema=schema)

    def _row(self, split: str, sample: _Sample) -> dict:
        turns, place = sample.turns, sample.place
        answer = turns[place]
        first_is_sender = turns[0].speaker == answer.speaker
        utterances = [
            {
                "speaker": int((turn.speaker == answer.speaker) != first_is_sender),
                "text": turn.text,
                "sticker_id": turn.sticker,
                "emotion": turn.emotion,
            }
            for turn in turns[max(0, place + 1 - self.context) : place + 1]
        ]
        utterances[-1] |= {"sticker_id": None, "emotion": None}
        candidates = []
        if split != TRAIN:
            # By the sample's name, so that another sample more or less changes nothing.
            name = f"{sample.dialogue}\n{place}".encode()
            number = int.from_bytes(hashlib.sha256(name).digest()[:7], "big")
            size = min(NUM_CANDIDATES, len(self.stickers))
            candidates = draw_candidates(
                list(self.stickers), answer.sticker, number, self.seed, size
            )
        return {
            "dialogue_id": sample.dialogue,
            "turn": place,
            "utterances": utterances,
            "sticker_id": answer.sticker,
            "emotion": UNLABELLED if answer.emotion is None else answer.emotion,
            "candidates": candidates,
        }

    # Reading

    def _read_stickers(self) -> tuple[dict[str, Path], list[str], list[str]]:
        if not self.folder.is_dir():
            raise ChatError(f"{self.folder}: no such folder of stickers")
        files = sorted(
            each for each in self.folder.iterdir() if each.is_file() and each.name[0] != "."
        )
        images = [each for each in files if each.suffix.lower() in IMAGE_SUFFIXES]
        if len(images) < 2:
            raise ChatError(f"{self.folder}: {len(images)} images, at least 2 stickers are needed")
        others = [each.name for each in files if each not in images]
        return {normalise_sticker_id(n): each for n, each in enumerate(images)}, [], others

    def _records(self) -> list[tuple[int, dict[str, str]]]:
        """Return (line, cells by column) of every turn; columns that are left alone are gone."""
        text = _decode(self.path)
        if self.path.suffix.lower() in (".jsonl", ".ndjson"):
            found = list(_json_records(self.path, text))
        elif self.path.suffix.lower() in (".csv", ".tsv"):
            found = list(_csv_records(self.path, text))
        else:
            raise ChatError(f"{self.path}: neither a .csv (or .tsv) nor a .jsonl file")
        if not found:
            raise ChatError(f"{self.path}: holds no turn")
        known = (*COLUMNS, EMOTION)
        names = dict.fromkeys(name for _, record in found for name in record)
        self.other_columns = [name for name in names if name not in known]
        return [
            (line, {name: _cell(self.path, line, name, record.get(name)) for name in known})
            for line, record in found
        ]

    @staticmethod
    def _emotion_names(records: list[tuple[int, dict[str, str]]]) -> list[str]:
        return sorted({record[EMOTION] for _, record in records} - {""})

    def _dialogues(self, records: list[tuple[int, dict[str, str]]]) -> dict[str, list[_Turn]]:
        numbers = {name: number for number, name in enumerate(self.emotions)}
        dialogues: dict[str, list[_Turn]] = {}
        broken: set[str] = set()
        for line, record in records:
            name = record["dialogue"]
            problem = None
            if not name or not record["speaker"]:
                problem = f"has no {'speaker' if name else 'dialogue'}"
            elif record["sticker"] and record["sticker"] not in self._ids:
                problem = f"sticker {record['sticker']!r} is no image of {self.folder}"
            elif record[EMOTION] and record[EMOTION] not in numbers:
                problem = f"emotion {record[EMOTION]!r} is none of {', '.join(self.emotions)}"
            if problem is not None:
                where = f"line {line}, dialogue {name!r}" if name else f"line {line}"
                found = Skipped(str(self.path), where, None, problem)
                if not self.skip_bad:
                    raise ChatError(str(found))
                self.skipped.append(found)
                broken.add(name)
                continue
            turn = _Turn(
                record["speaker"], record["text"], self._ids.get(record["sticker"]),
                numbers.get(record[EMOTION]),
            )  # fmt: skip
            self._add(dialogues.setdefault(name, []), turn)
        return {name: turns for name, turns in dialogues.items() if name not in broken and turns}

    def _add(self, turns: list[_Turn], turn: _Turn) -> None:
        """Add a turn to its dialogue, or to the turn that it belongs to."""
        before = turns[-1] if turns else None
        if not turn.text and turn.sticker is None:
            self.left_out["turns with neither text nor sticker"] += 1
        elif not turn.text and before and before.speaker == turn.speaker and not before.sticker:
            emotion = before.emotion if turn.emotion is None else turn.emotion
            turns[-1] = replace(before, sticker=turn.sticker, emotion=emotion)
            self.left_out["stickers joined to the text before them"] += 1
        else:
            turns.append(turn)

    def _split(self, dialogues: dict[str, list[_Turn]]) -> dict[str, list[_Sample]]:
        """Deal whole dialogues to the splits, by a hash of the seed and their name."""
        samples: dict[str, list[_Sample]] = {}
        for name, turns in dialogues.items():
            shown = [place for place, turn in enumerate(turns) if turn.sticker is not None]
            self.left_out["stickers on a dialogue's first turn"] += shown[:1] == [0]
            found = [_Sample(name, turns, place) for place in shown if place > 0]
            if found:
                samples[name] = found
            else:
                self.left_out["dialogues without a sticker behind their first turn"] += 1
        if len(samples) < len(self.splits):
            raise ChatError(
                f"{self.path}: {len(samples)} dialogues carry a sticker behind their first turn, "
                f"at least {len(self.splits)} are needed: one for each of {', '.join(self.splits)}"
            )

        def dealt(name: str) -> str:
            return hashlib.sha256(f"{self.seed}\n{name}".encode()).hexdigest()

        order = sorted(samples, key=dealt)
        held = max(1, round(self.held_out * len(order)))
        if len(order) - 2 * held < 1:
            held = (len(order) - 1) // 2
        split_of = dict.fromkeys(order, TRAIN)
        split_of |= dict.fromkeys(order[:held], VALIDATION)
        split_of |= dict.fromkeys(order[held : 2 * held], TEST)
        dealt_out: dict[str, list[_Sample]] = {split: [] for split in self.splits}
        for name, found in samples.items():
            dealt_out[split_of[name]] += found
        return dealt_out


def _decode(path: Path) -> str:
    content = path.read_bytes()
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ChatError(f"{path}, line {line}: not {encoding} text; save it as UTF-8") from None


def _csv_records(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    head = text.partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True
    )
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing or len(set(header)) < len(header):
            what = f"no column {', '.join(missing)}" if missing else "a column twice"
            raise ChatError(f"{path}, line 1: {what} (columns: {', '.join(header)})")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ChatError(
                    f"{path}, line {line}: has {len(cells)} fields, the header {len(header)}"
                )
            if cells:
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ChatError(f"{path}, line {line}: not readable as CSV ({error})") from None


def _json_records(path: Path, text: str) -> Iterator[tuple[int, dict]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ChatError(f"{path}, line {line}: not valid JSON ({error})") from None
        if not isinstance(record, dict):
            raise ChatError(f"{path}, line {line}: is no object, wanted one with {COLUMNS}")
        yield line, record


def _cell(path: Path, line: int, name: str, value: object) -> str:
    """Return a cell as text; numbers may stand for dialogues and speakers."""
    if value is None:
        return ""
    if type(value) is int and name in ("dialogue", "speaker"):
        value = str(value)
    if not isinstance(value, str):
        raise ChatError(f"{path}, line {line}: {name} is {value!r}, wanted text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ChatError(f"{path}, line {line}: {name} holds half a character") from None
    return value.strip()
