# SPDX-License-Identifier: Apache-2.0
"""Samples of MOD-mini's world without its drawings, and a ranker that reads the word alone."""

import random

import numpy as np

from dataset_mod.bias import EmotionalWord, EmotionalWords
from dataset_mod.synthetic_text import EMOTIONS, WORDS
from dataset_mod.synthetic_world import (
    SEEN_STYLES,
    SPLITS,
    UNSEEN_STYLES,
    CausalModel,
    World,
    sticker_inventory,
)
from modeling_cks.evaluation import RankerOutput

WORD_TABLE = EmotionalWords(
    {
        word: EmotionalWord(word, number, 10, 3.0, 0.0)
        for number, emotion in enumerate(EMOTIONS)
        for word in WORDS[emotion]
    },
    list(EMOTIONS),
)


def inventory():
    return sticker_inventory(0, SEEN_STYLES, UNSEEN_STYLES)


def world_rows(split, count, rho, lean=0.0):
    """Rows of MOD-mini's world, one candidate of each emotion, without drawing a sticker."""
    stickers = inventory()
    models = dict.fromkeys(SPLITS, CausalModel(rho, lean))
    world = World(stickers, models, 0, SEEN_STYLES, UNSEEN_STYLES, 0.0)
    of = {emotion: [one.id for one in stickers if one.emotion == emotion] for emotion in EMOTIONS}
    draw, rows = random.Random(0), []
    for number in range(count):
        turns, truths = world.dialogue(split, number)
        turns = [
            {"speaker": 0, "text": turn.get("txt", ""), "sticker_id": turn.get("img_id")}
            for turn in turns
        ]
        for truth in truths:
            history = [*turns[: truth["turn"]], {**turns[truth["turn"]], "sticker_id": None}]
            others = [draw.choice(of[e]) for e in EMOTIONS if e != truth["theme"]]
            candidates = [*others, truth["sticker"]]
            draw.shuffle(candidates)
            rows.append(
                {
                    "dialogue_id": f"{split} {number}", "turn": truth["turn"],
                    "utterances": history, "sticker_id": truth["sticker"],
                    "emotion": EMOTIONS.index(truth["emotion"]), "candidates": candidates,
                }
            )  # fmt: skip
    return rows


class WordRanker:
    """Knows nothing but the words: scores 1 for the stickers of their emotion, 0 for others."""

    name = "word"

    def __init__(self, stickers):
        self.of = {one.id: EMOTIONS.index(one.emotion) for one in stickers}

    def rank(self, rows):
        scores, emotions = [], np.zeros((len(rows), len(EMOTIONS)))
        for number, row in enumerate(rows):
            named = WORD_TABLE.emotions_of(row).most_common(1)
            word = named[0][0] if named else -1
            scores.append(np.array([float(self.of[c] == word) for c in row["candidates"]]))
            emotions[number, word] = named != []
        return RankerOutput(scores, emotions, emotions)
