# SPDX-License-Identifier: Apache-2.0
"""The dialogue of a visitor: turns that never change, and functions that make new ones of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image

MAX_TURNS = 32
MAX_TEXT = 300

# Words that name or colour a feeling and so tempt a model; any other word can be undone as well.
EMOTIONAL_WORDS = frozenset(
    (Path(__file__).resolve().parent / "emotional_words.txt").read_text(encoding="utf-8").split()
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, eq=False)
class Sticker:
    """One sticker: its name, what it shows in words, RGB picture, and the picture as a data URI."""

    name: str
    alt: str
    image: Image.Image
    uri: str


@dataclass(frozen=True)
class Turn:
    """What one of the two speakers, 0 or 1, said, and the sticker sent with it."""

    speaker: int
    text: str
    sticker: Sticker | None = None


Dialogue = tuple[Turn, ...]


class Piece(NamedTuple):
    """A stretch of a text; `word` where it is an emotional word."""

    text: str
    word: str | None


def read_examples(path: Path, stickers: Iterable[Sticker]) -> dict[str, Dialogue]:
    """Read dialogues by title; the stickers that their turns name are among those given."""
    by_name = {sticker.name: sticker for sticker in stickers}
    return {
        example["title"]: tuple(
            Turn(
                turn["speaker"],
                turn["text"],
                by_name[turn["sticker"]] if "sticker" in turn else None,
            )
            for turn in example["turns"]
        )
        for example in json.loads(path.read_text(encoding="utf-8"))
    }


def say(dialogue: Dialogue, speaker: int, text: str) -> Dialogue:
    """Add a turn.

    Raises:
        ValueError: nothing is said, or too much.
    """
    text = " ".join(text.split())
    if not text:
        raise ValueError("Write something first.")
    if len(text) > MAX_TEXT:
        raise ValueError(f"A turn has {MAX_TEXT} characters at most; this one has {len(text)}.")
    if len(dialogue) >= MAX_TURNS:
        raise ValueError(f"A dialogue has {MAX_TURNS} turns at most: undo some, or clear it.")
    return (*dialogue, Turn(speaker, text))


def send(dialogue: Dialogue, sticker: Sticker) -> Dialogue:
    """Put a sticker to the last turn, in the place of one that it may have."""
    if not dialogue:
        raise ValueError("There is no turn yet to send a sticker with.")
    return (*dialogue[:-1], replace(dialogue[-1], sticker=sticker))


def undo(dialogue: Dialogue) -> Dialogue:
    """Take back what came last: the sticker of the last turn, else the turn."""
    if dialogue and dialogue[-1].sticker:
        return (*dialogue[:-1], replace(dialogue[-1], sticker=None))
    return dialogue[:-1]


def pieces(text: str) -> list[Piece]:
    """Cut a text into emotional words and what lies between them; joined they are the text."""
    cut, end = [], 0
    for match in _WORD.finditer(text):
        if match.group().lower() in EMOTIONAL_WORDS:
            cut += [Piece(text[end : match.start()], None), Piece(match.group(), match.group())]
            end = match.end()
    return [piece for piece in (*cut, Piece(text[end:], None)) if piece.text]


def words(dialogue: Iterable[Turn]) -> list[str]:
    """Return the distinct words of a dialogue in lower case, emotional ones first."""
    said = dict.fromkeys(word.lower() for turn in dialogue for word in _WORD.findall(turn.text))
    return sorted(said, key=lambda word: word not in EMOTIONAL_WORDS)


def tempting_word(dialogue: Sequence[Turn], weights: Sequence[float | None]) -> str | None:
    """Return the emotional word of the weightiest turn that has one; None if none has."""
    weighed = sorted(zip(dialogue, weights, strict=True), key=lambda pair: -(pair[1] or 0.0))
    for turn, _ in weighed:
        for piece in pieces(turn.text):
            if piece.word:
                return piece.word.lower()
    return None


def word_pattern(word: str) -> re.Pattern[str]:
    """Match a word, whole and in any case; where a script has no spaces, wherever it stands."""
    border = r"\b" if word.isascii() and word[0].isalnum() and word[-1].isalnum() else ""
    return re.compile(border + re.escape(word) + border, re.IGNORECASE)


def swap(dialogue: Dialogue, word: str, other: str = "") -> Dialogue:
    """Put another word in the place of a word wherever it is said, or leave it out.

    Raises:
        ValueError: the word is not said, or is all that a turn says.
    """
    word, other = " ".join(word.split()), " ".join(other.split())
    if not word:
        raise ValueError("Choose the word first.")
    if len(other) > MAX_TEXT:
        raise ValueError(f"What takes its place has {MAX_TEXT} characters at most.")
    pattern = word_pattern(word)
    changed = tuple(
        replace(turn, text=" ".join(pattern.sub(lambda _: other, turn.text).split()))
        for turn in dialogue
    )
    if not any(pattern.search(turn.text) for turn in dialogue):
        raise ValueError(f"Nobody says “{word}” in this dialogue.")
    if any(not turn.text for turn in changed):
        raise ValueError(f"“{word}” is all that a turn says: put another word in its place.")
    return changed
