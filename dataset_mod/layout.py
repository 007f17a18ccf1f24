# SPDX-License-Identifier: Apache-2.0
"""Find the parts of a MOD release by what they are, under any of the names in use."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from dataset_mod.json_records import JSONRecords, ReleaseError
from dataset_mod.schema import LANGUAGES

DIALOGUES, RETRIEVAL, EMOTION = "dialogues", "task2", "task3"
GENERATOR = "MOD-mini"
"""What the truth beside a release that was drawn by code names as its origin."""
IMAGE_SUFFIXES = (".gif", ".jpg", ".jpeg", ".png", ".webp")

_LANGUAGE = {"e": "en", "en": "en", "english": "en"}
_LANGUAGE |= {"c": "zh", "cn": "zh", "zh": "zh", "chinese": "zh"}
_SPLIT = {"train": "train", "training": "train", "test": "test"}
_SPLIT |= {"val": "validation", "valid": "validation", "validation": "validation"}
_SPLIT |= {"dev": "validation"}
_DIFFICULTY = {"easy": "easy", "hard": "hard"}
_KIND = {"task1": "task1", "task2": RETRIEVAL, "task3": EMOTION}
_ANNOTATED = "annotated"
_MEANINGLESS = {"fixed", "mod", "dialog", "dialogs", "dialogue", "dialogues", "data"}
_KNOWN = {*_LANGUAGE, *_SPLIT, *_DIFFICULTY, *_KIND, *_MEANINGLESS, _ANNOTATED}
_TEXT = re.compile(r'"txt"\s*:\s*("(?:[^"\\]|\\.)*")')
_SNIFF_BYTES = 1 << 16


@dataclass
class Layout:
    """Where the parts of a release lie.

    Attributes:
        root: the release folder.
        dialogues: (language, split, kind) -> file; kind is `DIALOGUES`, `RETRIEVAL`, `EMOTION`.
            Language None: the file says nothing about it and serves either.
        img2id, emotion_dict: the two supplementary files.
        images: image file name -> path, all that lie in meme_set.
    """

    root: Path
    dialogues: dict[tuple[str | None, str, str], Path] = field(default_factory=dict)
    img2id: Path | None = None
    emotion_dict: Path | None = None
    images: dict[str, Path] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        """Return `path` as messages name it: relative to the release."""
        return path.relative_to(self.root).as_posix()

    def find(self, language: str, split: str, kind: str) -> Path | None:
        """Return the file of one part, None where the release has none."""
        own = self.dialogues.get((language, split, kind))
        either = self.dialogues.get((None, split, kind))
        if own and either:
            raise _ambiguous(self, (language, split, kind), own, either)
        return own or either

    def languages(self) -> list[str]:
        """Return the languages that have a training file."""
        return [lang for lang in LANGUAGES if self.find(lang, "train", DIALOGUES)]


def is_mini_release(folder: str | os.PathLike) -> bool:
    """Say whether a release is MOD-mini, by the truth that lies beside it."""
    try:
        truth = json.loads(Path(folder, "truth.json").read_text(encoding="utf-8"))
        return truth["generator"] == GENERATOR
    except (OSError, ValueError, KeyError, TypeError):
        return False


def find_layout(folder: str | os.PathLike) -> Layout:
    """Look through `folder` for the parts of a release, at any depth.

    Raises:
        ReleaseError: the folder is missing, or two files claim to be the same part (an annotated
            version wins over the other, without a word).
    """
    root = Path(folder)
    if not root.is_dir():
        raise ReleaseError(f"{root}: no such folder")
    layout = Layout(root)
    annotated: dict[tuple, bool] = {}
    meme_sets: list[Path] = []
    for place, folders, files in os.walk(root):
        # Hidden files and __MACOSX hold what an archiver left behind, under the same names.
        folders[:] = sorted(one for one in folders if not one.startswith((".", "__")))
        here = Path(place)
        files = sorted(one for one in files if not one.startswith("."))
        if here.name.lower() == "meme_set":
            images = [one for one in files if one.lower().endswith(IMAGE_SUFFIXES)]
            if images:
                meme_sets.append(here)
                layout.images = {one: here / one for one in images}
            continue
        for file in files:
            path = here / file
            if path.suffix.lower() == ".json":
                _place(layout, path, annotated)
    if len(meme_sets) > 1:
        raise _ambiguous(layout, ("meme_set",), *meme_sets[:2])
    return layout


def _place(layout: Layout, path: Path, annotated: dict[tuple, bool]) -> None:
    stem = path.stem.lower()
    if stem in ("img2id", "emotion_dict"):
        if getattr(layout, stem):
            raise _ambiguous(layout, (stem,), getattr(layout, stem), path)
        setattr(layout, stem, path)
        return
    words = _words(stem)
    if not words or not _KNOWN.issuperset(words):
        return
    if not any(word in _SPLIT or word in _DIFFICULTY or word in _KIND for word in words):
        return
    around = [words, *(_words(one.lower()) for one in path.relative_to(layout.root).parts[-2::-1])]
    split = _nearest(around, _SPLIT | dict.fromkeys(_DIFFICULTY, "test"))
    if split == "test":
        difficulty = _nearest(around, _DIFFICULTY)
        split = difficulty and f"test_{difficulty}"
    kind = _nearest([words], _KIND) or _kind_by_content(layout, path)
    if split is None or kind not in (DIALOGUES, RETRIEVAL, EMOTION):
        return
    part = (_nearest(around, _LANGUAGE) or _language_by_content(path), split, kind)
    is_annotated = _ANNOTATED in words
    if part in layout.dialogues and annotated[part] == is_annotated:
        raise _ambiguous(layout, part, layout.dialogues[part], path)
    if part not in layout.dialogues or is_annotated:
        layout.dialogues[part], annotated[part] = path, is_annotated


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name) if word]


def _nearest(places: list[list[str]], meaning: dict[str, str]) -> str | None:
    """Return what the file's own name says, or else the nearest folder's."""
    for words in places:
        for word in words:
            if word in meaning:
                return meaning[word]
    return None


def _kind_by_content(layout: Layout, path: Path) -> str | None:
    records = JSONRecords(path, layout.name(path))
    if records.is_object:
        return DIALOGUES
    first = next((value for _, _, value in records), None)
    if not isinstance(first, dict) or "history" not in first:
        # Nothing known: whoever reads it as dialogues will say what it is instead.
        return DIALOGUES
    if "candidate" in first:
        return RETRIEVAL
    answer = first.get("answer")
    return EMOTION if isinstance(answer, dict) and "emotion_id" in answer else None


def _language_by_content(path: Path) -> str | None:
    with path.open("rb") as handle:
        start = handle.read(_SNIFF_BYTES).decode("utf-8", errors="ignore")
    chinese = latin = 0
    for match in _TEXT.finditer(start):
        try:
            text = json.loads(match[1])
        except json.JSONDecodeError:
            continue
        chinese += sum("一" <= one <= "鿿" for one in text)
        latin += sum(one.isascii() and one.isalpha() for one in text)
    if not chinese and not latin:
        return None
    # A Chinese character is about a word, and Chinese speakers write OK and 666 too.
    return "zh" if chinese * 3 > latin else "en"


def _ambiguous(layout: Layout, part: tuple, first: Path, second: Path) -> ReleaseError:
    what = " ".join(str(one) for one in part if one)
    names = f"{layout.name(first)} and {layout.name(second)}"
    return ReleaseError(f"{layout.root}: two candidates for {what}: {names}; keep one of them")
