# SPDX-License-Identifier: Apache-2.0
"""Blind rating sheets: who is asked what, and reading what came back.

A study is a plain dictionary, as `key.json` holds it: the drawn samples, the models' answers under
codes, whose they are, and for each rater the order of the sheet. A sheet is the rows that a rater
is asked; it follows from the study, so that every cell of one that came back can be checked.

Nothing on a sheet tells models apart. What several models answer alike is rated once, for all of
them. The utterances that Rel-c is about are those of the first model that weighs utterances, and
they are the same for all stickers. Emotions are asked about after the stickers and apart from
them. Each sheet has its own order of dialogues, and of the answers to each.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .human import CRITERIA, EMOTIONS, STICKERS, Rating

COLUMNS = (
    "sheet", "item", "answer", "criterion", "dialogue", "shown", "question", "scale", "rating"
)  # fmt: skip
_KIND = "human evaluation"
# Letters alone: a spreadsheet takes other codes for numbers or dates sooner or later.
_CODES = ["".join(pair) for pair in itertools.product("BCDFGHJKLMNPQRSTVWXZ", repeat=2)]


@dataclass(frozen=True)
class Answers:
    """What a model answers to each sample.

    Attributes:
        title: what the model calls itself.
        folder: where it lies.
        stickers: the ids of its first stickers, best first.
        emotions: its first emotions in alphabetical order, None if it names none.
        marked: the places of its weightiest utterances in order, None if it weighs none.
    """

    title: str
    folder: str
    stickers: list[tuple[str, ...]]
    emotions: list[tuple[str, ...]] | None
    marked: list[list[int]] | None


def make_study(
    rows: Sequence[dict], answers: Sequence[Answers], *, raters: int, seed: int, data: str
) -> dict:
    """Join the models' answers to each sample, code them, and put each rater's sheet in order.

    Args:
        rows: the samples.
        answers: each model's, the first being the one that others are compared with.
        raters: how many sheets to make.
        seed: of codes and orders.
        data: fingerprint of the data.

    Returns:
        What `key.json` holds.
    """
    draws = np.random.default_rng((seed, 1))
    titles = Counter(each.title for each in answers)
    names = [
        each.title if titles[each.title] == 1 else f"{each.title} ({each.folder})"
        for each in answers
    ]
    marker = next((each for each in answers if each.marked is not None), None)
    items = []
    for number, row in enumerate(rows):
        given: dict[tuple, list[str]] = {}
        for name, each in zip(names, answers, strict=True):
            given.setdefault((STICKERS, each.stickers[number]), []).append(name)
            if each.emotions is not None:
                given.setdefault((EMOTIONS, each.emotions[number]), []).append(name)
        codes = draws.choice(_CODES, len(given), replace=False).tolist()
        items.append(
            {
                "item": number + 1,
                "dialogue_id": row["dialogue_id"],
                "turn": row["turn"],
                "utterances": [
                    {key: turn[key] for key in ("speaker", "text", "sticker_id")}
                    for turn in row["utterances"]
                ],
                "marked": marker.marked[number] if marker else [],
                "answers": {
                    code: {"of": of, "shown": list(shown), "models": models}
                    for code, ((of, shown), models) in zip(codes, given.items(), strict=True)
                },
            }
        )
    study = {
        "kind": _KIND,
        "data": {"fingerprint": data},
        "models": [
            {"name": name, "folder": each.folder} for name, each in zip(names, answers, strict=True)
        ],
        "marked_by": names[answers.index(marker)] if marker else None,
        "items": items,
        "sheets": [],
    }
    for rater in range(1, raters + 1):
        order = []
        for place in draws.permutation(len(items)).tolist():
            of = {code: each["of"] for code, each in items[place]["answers"].items()}
            codes = draws.permutation(list(of)).tolist()
            order.append([place + 1, sorted(codes, key=lambda code: of[code] == EMOTIONS)])
        sheet = {"rater": rater, "order": order}
        study["sheets"].append({**sheet, "fingerprint": fingerprint(study, sheet)})
    return study


def sheet_rows(study: Mapping, sheet: Mapping) -> Iterator[dict[str, str]]:
    """Yield what a sheet asks, in its order, a row a question; all columns but sheet and rating."""
    for number, codes in sheet["order"]:
        item = study["items"][number - 1]
        dialogue = dialogue_text(item)
        for code in codes:
            answer = item["answers"][code]
            for name, criterion in CRITERIA.items():
                asked = item["marked"] or not criterion.needs_marks
                if criterion.of == answer["of"] and asked:
                    yield {
                        "item": str(number),
                        "answer": code,
                        "criterion": name,
                        "dialogue": dialogue,
                        "shown": shown_text(answer),
                        "question": criterion.question.format(marked=marked_text(item)),
                        "scale": ", ".join(f"{n} {word}" for n, word in enumerate(criterion.scale)),
                    }
                    # Once an item is enough for eyes that go down a spreadsheet.
                    dialogue = ""


def fingerprint(study: Mapping, sheet: Mapping) -> str:
    """Name a sheet by what it asks, of which data, and of whom."""
    asked = [study["data"], sheet["rater"], list(sheet_rows(study, sheet))]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"sheet-{digest[:16]}"


def dialogue_text(item: Mapping) -> str:
    """Write a dialogue in one cell: a line an utterance, then who is about to send a sticker."""
    lines = []
    for number, turn in enumerate(item["utterances"], 1):
        sticker = f" [{image_name(turn['sticker_id'])}]" if turn["sticker_id"] else ""
        lines.append(f"{number} {speaker_name(turn)}: {turn['text']}{sticker}")
    return "\n".join([*lines, f"{speaker_name(item['utterances'][-1])} sends a sticker now."])


def shown_text(answer: Mapping) -> str:
    """Write an answer in one cell."""
    if answer["of"] == EMOTIONS:
        return ", ".join(answer["shown"])
    names = [image_name(sticker) for sticker in answer["shown"]]
    then = f", then {', '.join(names[3:])}" if names[3:] else ""
    return f"first {', '.join(names[:3])}{then}"


def marked_text(item: Mapping) -> str:
    """Name the marked utterances by their numbers."""
    numbers = [str(place + 1) for place in item["marked"]]
    if len(numbers) < 2:
        return f"utterance {''.join(numbers)}"
    return f"utterances {', '.join(numbers[:-1])} and {numbers[-1]}"


def image_name(sticker: str) -> str:
    """Name a sticker's file by its id, since the release's names often tell its emotion."""
    return f"{sticker}.png"


def speaker_name(turn: Mapping) -> str:
    """Name a turn's speaker, A or B."""
    return "AB"[turn["speaker"]]


def csv_sheet(study: Mapping, sheet: Mapping) -> str:
    """Write a sheet as CSV; the mark in front tells spreadsheets that it is UTF-8."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in sheet_rows(study, sheet):
        writer.writerow({"sheet": sheet["fingerprint"], **row, "rating": ""})
    return f"\ufeff{text.getvalue()}"


def read_key(path: Path) -> dict:
    """Read a study's key.

    Raises:
        ValueError: it is missing, something else, or was changed since the sheets were written.
    """
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        if study["kind"] != _KIND:
            raise ValueError(f"its kind is {study['kind']!r}")
        changed = [
            sheet["rater"]
            for sheet in study["sheets"]
            if fingerprint(study, sheet) != sheet["fingerprint"]
        ]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; is this a folder of `sample`?") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: not the key of a human evaluation ({error!r})") from error
    if changed:
        raise ValueError(f"{path}: was changed, it is not what the sheet of rater {changed[0]} is")
    return study


def read_ratings(path: Path, study: Mapping) -> list[Rating]:
    """Read a rater's sheet that came back, and hold it against what was asked.

    Rows may be in any order, and the columns parted by commas, semicolons or tabs, as spreadsheets
    like to have it.

    Raises:
        ValueError: naming the file, and the row and the field where there is one: the sheet is not
            of this study; a row is missing, new or there twice; a text was changed; a rating is
            missing, out of range or contradicts another.
    """
    rows = _read_rows(path)
    sheets = {sheet["fingerprint"]: sheet for sheet in study["sheets"]}
    names = {row["sheet"] for row in rows}
    strange = sorted(names - set(sheets))
    if strange:
        raise ValueError(f"{path}: sheet {strange[0]!r} is none of this study's")
    if len(names) > 1:
        raise ValueError(f"{path}: holds rows of several sheets: {', '.join(sorted(names))}")
    sheet = sheets[names.pop()]
    asked = {_place(row): row for row in sheet_rows(study, sheet)}
    found: dict[tuple, str] = {}
    for row in rows:
        place = _place(row)
        if place not in asked:
            raise ValueError(f"{path}: {_where(place)} was not asked on this sheet")
        if place in found:
            raise ValueError(f"{path}: {_where(place)} is there twice")
        for column, text in asked[place].items():
            if row[column].split() != text.split():
                raise ValueError(f"{path}: {_where(place)}: the text of {column!r} was changed")
        found[place] = row["rating"].strip()
    gone = [place for place in asked if place not in found]
    if gone:
        raise ValueError(f"{path}: {_where(gone[0])} is gone{_more(gone)}")
    empty = [place for place in asked if not found[place]]
    if empty:
        raise ValueError(f"{path}: {_where(empty[0])}: the rating is missing{_more(empty)}")
    ratings = []
    for place, text in found.items():
        number, code, criterion = place
        scale = [str(value) for value in range(len(CRITERIA[criterion].scale))]
        if text not in scale:
            raise ValueError(
                f"{path}: {_where(place)}: the rating {text!r} is none of {', '.join(scale)}"
            )
        if criterion == "Ps@5" and (text, found[number, code, "Ps@3"]) == ("0", "1"):
            raise ValueError(
                f"{path}: {_where(place)}: the rating is 0, but an apt sticker among the first "
                "three (Ps@3 is 1) is one of the five"
            )
        models = study["items"][int(number) - 1]["answers"][code]["models"]
        ratings.append(
            Rating(sheet["rater"], int(number), code, tuple(models), criterion, int(text))
        )
    return ratings


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 ({error}); save it as CSV UTF-8") from None
    header = text.partition("\n")[0]
    parted = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=parted, strict=True)
    rows = []
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: has no column {missing[0]!r}; it is not a sheet of ratings")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path}: line {reader.line_num}: too many or too few cells")
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not CSV ({error})") from None
    if not rows:
        raise ValueError(f"{path}: holds no rows")
    return rows


def _place(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["item"], row["answer"], row["criterion"]


def _where(place: tuple[str, str, str]) -> str:
    return "item {}, answer {}, {}".format(*place)


def _more(places: Sequence) -> str:
    return f" (and {len(places) - 1} more)" if len(places) > 1 else ""
