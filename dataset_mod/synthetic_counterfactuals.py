# SPDX-License-Identifier: Apache-2.0
"""MOD-mini with one variable changed and the others kept: what would have been said or drawn.

The generator knows each variable of a sample (`truth.json`), so that the cause of a feeling can be
exchanged while the emotional word stays, and a sticker can be drawn in another style with the same
face.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from dataset_mod.layout import GENERATOR
from dataset_mod.stickers import load_sticker_image
from dataset_mod.synthetic_drawing import encode_sticker
from dataset_mod.synthetic_faces import draw_sticker
from dataset_mod.synthetic_text import EMOTIONS, EVENTS, NEW_EVENTS, render_event


class MiniTruth:
    """What `truth.json` of a MOD-mini tells of its samples and stickers.

    Args:
        path: the file.

    Attributes:
        stickers: sticker id -> its record: `face`, `style`, `emotion`, `caption`, `name`.

    Raises:
        ValueError: it is missing or something else.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = path
        try:
            truth = json.loads(Path(path).read_text(encoding="utf-8"))
            if truth["generator"] != GENERATOR:
                raise ValueError(f"it is by {truth['generator']!r}")
            parameters = truth["parameters"]
            self._styles = [*parameters["seen_styles"], *parameters["unseen_styles"]]
            self._size = parameters["size"]
            self.stickers = {sticker["id"]: sticker for sticker in truth["stickers"]}
            self._turns = {
                (split, *self._key(split, turn)): turn
                for split, turns in truth["turns"].items()
                for turn in turns
                if turn["sample"] is not None
            }
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the truth of a MOD-mini ({error!r})") from None

    def sticker_emotions(self) -> dict[str, int]:
        """Return the emotion that each sticker's face shows."""
        return {name: EMOTIONS.index(of["emotion"]) for name, of in self.stickers.items()}

    def swap_event(self, split: str, row: Mapping, seed: int = 0) -> tuple[dict, int]:
        """Let something else have happened that causes another emotion, as new or old to training.

        The word, all other text and the candidates stay. The word's emotion is not what the new
        event causes, so that whoever follows the event leaves the word too.

        Returns:
            The row as it would have been, and the emotion that its event causes.

        Raises:
            ValueError: the row is not of this release.
        """
        try:
            truth = self._turns[split, row["dialogue_id"], row["turn"]]
            turn = row["utterances"][truth["event_turn"]]
        except (KeyError, IndexError):
            raise self._stranger(split, row) from None
        draw = random.Random(f"{seed}/{row['dialogue_id']}/{row['turn']}")
        target = draw.choice(
            [e for e in EMOTIONS if e not in (truth["emotion"], truth["word_emotion"])]
        )
        new = draw.choice((EVENTS if truth["event_seen"] else NEW_EVENTS)[target])
        text = _told_instead(turn["text"], _TEMPLATES[truth["event"]], new)
        if text is None:
            raise self._stranger(split, row)
        utterances = list(row["utterances"])
        utterances[truth["event_turn"]] = {**turn, "text": text}
        return {**row, "utterances": utterances}, EMOTIONS.index(target)

    def restyled(self, sticker: str) -> Image.Image:
        """Draw a sticker's face and words in the next of the release's styles, RGB on white.

        Styles only change places, so that what was drawn alike still is.

        Raises:
            ValueError: the release has no such sticker.
        """
        if sticker not in self.stickers:
            raise ValueError(f"{self._path}: has no sticker {sticker!r}")
        one = self.stickers[sticker]
        style = self._styles[(self._styles.index(one["style"]) + 1) % len(self._styles)]
        return self.drawn(sticker, style)

    def drawn(self, sticker: str, style: str) -> Image.Image:
        """Draw a sticker in a style, as the prepared data would have it."""
        one = self.stickers[sticker]
        image = draw_sticker(one["face"], style, one["caption"], self._size)
        return load_sticker_image(encode_sticker(image, one["name"].rpartition(".")[2]))

    @staticmethod
    def _key(split: str, turn: Mapping) -> tuple[str, int]:
        """Name a sample as the prepared data does."""
        dialogue = turn["dialogue"] if split == "train" else f"record {turn['sample']}"
        return dialogue, turn["turn"]

    def _stranger(self, split: str, row: Mapping) -> ValueError:
        return ValueError(
            f"{self._path}: is not the truth of {split}, dialogue {row['dialogue_id']}, turn "
            f"{row['turn']}"
        )


_TEMPLATES = {
    render_event(event, "own"): event
    for events in (EVENTS, NEW_EVENTS)
    for of_emotion in events.values()
    for event in of_emotion
}


def _told_instead(text: str, old: str, new: str) -> str | None:
    """Put one event for another, told by the same speaker; None if the old one is not told."""
    for who in ("own", "told"):
        said, instead = render_event(old, who), render_event(new, who)
        # A sentence's first letter is a capital, whatever the event's is.
        start = text.lower().find(said.lower())
        if start >= 0:
            before, behind = text[:start], text[start + len(said) :]
            if not before or before.rstrip()[-1] in ".?!":
                instead = instead[0].upper() + instead[1:]
            return before + instead + behind
    return None
