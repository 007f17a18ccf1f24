# SPDX-License-Identifier: Apache-2.0
"""The columns of the prepared tables, said once."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import ClassLabel, Features, Image, List, Value

LANGUAGES = ("en", "zh")
TRAIN = "train"
EVALUATION_SPLITS = ("validation", "test_easy", "test_hard")
SPLITS = (TRAIN, *EVALUATION_SPLITS)
STICKERS = "stickers"
"""The configuration of the sticker table; its only split is named `train`."""
NUM_CANDIDATES = 11
UNLABELLED = -1
"""A row's `emotion` where nobody gave one."""
SCHEMA_VERSION = "1.0.0"


def sample_features(emotions: Sequence[str]) -> Features:
    """Return the features of a dialogue table: one row is one turn that carries a sticker.

    `utterances` runs up to and including the turn `turn` that carries the answer. That last
    utterance never holds its own sticker or emotion: the answer stands in the row's
    `sticker_id` (null where the release keeps it back) and `emotion` (-1 where unlabelled).
    `candidates` is empty in the training split. `dialogue_id` is the dialogue's name in the
    training file, and "record N" (N from 0 on) in the others, whose samples name no dialogue.
    """
    emotion = ClassLabel(names=list(emotions))
    return Features(
        {
            "dialogue_id": Value("string"),
            "turn": Value("int32"),
            "utterances": List(
                {
                    "speaker": Value("int8"),
                    "text": Value("string"),
                    "sticker_id": Value("string"),
                    "emotion": emotion,
                }
            ),
            "sticker_id": Value("string"),
            "emotion": emotion,
            "candidates": List(Value("string")),
        }
    )


def sticker_features(emotions: Sequence[str]) -> Features:
    """Return the features of the sticker table: one row is one sticker of the release."""
    return Features(
        {
            "id": Value("string"),
            "name": Value("string"),
            "image": Image(),
            "caption": Value("string"),
            "emotion": ClassLabel(names=list(emotions)),
        }
    )


def normalise_sticker_id(value: object) -> str:
    """Return a sticker id as the tables write it, at least three digits: 7, "7", "007" -> "007".

    Raises:
        ValueError: `value` is neither a whole number from 0 on nor a string of digits.
    """
    # bool is an int to isinstance, and True is no sticker.
    if type(value) is int and value >= 0:
        return f"{value:03d}"
    if type(value) is str and value.isascii() and value.isdigit() and len(value) <= 9:
        return f"{int(value):03d}"
    raise ValueError(f"{value!r} is not a sticker id (a whole number or a string of digits)")
