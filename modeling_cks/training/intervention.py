# SPDX-License-Identifier: Apache-2.0
"""do(W): the words of emotional preference, drawn anew for training."""

from __future__ import annotations

import random
from collections.abc import Mapping
from zlib import crc32

from dataset_mod.bias import EmotionalWords

# Every rewriting of an utterance is a new text to encode and to ask COMET about. A few of each
# make word and emotion independent over the training set as well as one for each epoch would.
_VARIANTS = 4


class WordIntervention:
    """Replace the words of emotional preference of dialogues by words drawn without looking.

    The words W confound sticker V and emotion Y (V <- W -> Y, section 9 of the reading of the
    paper). In dialogues whose words are drawn from their own distribution P(w), whatever happened
    in them, no arrow leads from W any more: what is left to learn is P(V, Y | dialogue, do(W)),
    the backdoor adjustment by experiment instead of by formula.

    The same seed, epoch and utterance give the same words, so that the samples of a dialogue,
    which share utterances, go on sharing them.

    Args:
        words: the words; at least one.
        probability: of an utterance to be rewritten; 1 cuts the arrows, 0 changes nothing.
        seed: of the draws.

    Raises:
        ValueError: a probability outside [0, 1], or no word.
    """

    def __init__(self, words: EmotionalWords, probability: float, seed: int):
        if not 0 <= probability <= 1:
            raise ValueError(f"word_intervention is {probability}, not between 0 and 1")
        if not words.words:
            raise ValueError("word_intervention needs words of emotional preference; there is none")
        self.words = words
        self.probability = probability
        self.seed = seed
        # A lexicon's word that training never has counts as one.
        self._counts = {word: max(entry.count, 1) for word, entry in words.words.items()}
        self._shares = {
            emotion: sum(self._counts[word] for word in words.words_of(emotion))
            for emotion in {entry.emotion for entry in words.words.values()}
        }

    def __call__(self, row: Mapping, epoch: int) -> dict:
        """Return the row with the utterances of this epoch; the row itself is left alone."""
        said = [
            {**turn, "text": self.rewrite(turn["text"], f"{row['dialogue_id']}/{place}", epoch)}
            for place, turn in enumerate(row["utterances"])
        ]
        return {**row, "utterances": said}

    def rewrite(self, text: str, name: str, epoch: int) -> str:
        """Return an utterance as this epoch has it; `name` tells it from all others."""
        if not self.words.find(text):
            return text
        drawn = random.Random(crc32(f"{self.seed}/{epoch % _VARIANTS}/{name}".encode()))
        if drawn.random() >= self.probability:
            return text
        (emotion,) = drawn.choices(list(self._shares), list(self._shares.values()))

        def choose(words):
            return drawn.choices(words, [self._counts[word] for word in words])[0]

        return self.words.replace(text, emotion, choose)

    @property
    def variants(self) -> int:
        """How many epochs differ; after them the draws repeat."""
        return _VARIANTS
