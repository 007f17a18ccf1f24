# SPDX-License-Identifier: Apache-2.0
"""A chat as it goes on: what was read of it once is not read again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .processing_cks import read_dialogue
from .utterance_features import UtteranceFeatures


class Conversation:
    """One chat and the stickers it may choose from; made by the pipeline's `conversation`.

    What it answers is what the pipeline answers to the same turns. It keeps of the newest
    `max_utterances` turns, which are all that the model reads, their features, their knowledge
    and the stickers they carried, and so stays of one size however long the chat becomes.

    Conversations of one pipeline share its model, its COMET and their packs. Like the model, none
    is made to be used by two threads at once.

    Example:
        ```python
        >>> chat = select.conversation("stickers/")  # doctest: +SKIP
        >>> chat.say("I lost my keys again.", speaker=0)  # doctest: +SKIP
        >>> chat.say("Oh no, what now?", speaker=1)  # doctest: +SKIP
        >>> chat.select(top_k=3)["stickers"][0]["name"]  # doctest: +SKIP
        'crying.png'

        ```
    """

    def __init__(self, select, stickers, knowledge: bool, options: dict[str, Any]):
        self._select = select
        self._stickers = stickers
        self._options = options
        kept = select.processor.max_utterances
        self._turns: list[dict[str, Any]] = []
        self._shown: list[tuple[str | None, Tensor] | None] = []
        self._kept = kept
        self._features = UtteranceFeatures(select.model, select.processor, remembered=kept)
        self._knowledge = _Knowledge(select.processor, kept) if knowledge else False

    @property
    def turns(self) -> list[dict[str, Any]]:
        """The turns that are read, oldest first: {speaker, text, sticker}."""
        return [dict(turn) for turn in self._turns]

    def say(self, text: str, speaker: int | str | None = None, sticker=None) -> None:
        """Add a turn.

        Args:
            text: what is said.
            speaker: 0 or 1; unless given, the one who did not speak last.
            sticker: what the turn carries: the name of one of the pack's, a file or an image.

        Raises:
            ValueError: the speaker, the text or the sticker cannot be read.
        """
        if speaker is None:
            speaker = 1 - self._turns[-1]["speaker"] if self._turns else 0
        (turn,) = read_dialogue([{"speaker": speaker, "text": text, "sticker": sticker}])
        shown = None
        if sticker is not None:
            (shown,) = self._select.shown_stickers([turn], self._stickers)
        self._turns.append(turn)
        self._shown.append(shown)
        del self._turns[: -self._kept], self._shown[: -self._kept]

    def prepare(self) -> None:
        """Read the new turns now, while nobody waits; `select` would do it."""
        if self._turns:
            self._select.dialogue_tensors(
                [self._turns], knowledge=self._knowledge, features=self._features
            )

    def select(self, top_k: int | None = None, explain: bool = False) -> dict[str, Any]:
        """Choose among the stickers for the chat as it stands; answers as the pipeline does.

        Raises:
            ValueError: nothing was said yet.
        """
        if not self._turns:
            raise ValueError("nothing was said yet in this conversation")
        return self._select.choose(
            [self._turns],
            self._stickers,
            knowledge=self._knowledge,
            features=self._features,
            shown=[self._shown],
            top_k=top_k,
            explain=explain,
            **self._options,
        )[0]


class _Knowledge:
    """COMET's sums of the texts of one chat, kept whatever other chats ask of COMET."""

    def __init__(self, processor, remembered: int):
        self._processor = processor
        self._remembered = remembered
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = {text: self._known[text] for text in texts if text in self._known}
        if missing:
            found.update(zip(missing, self._processor.knowledge_features(missing), strict=True))
        for text, sums in found.items():
            self._known[text] = sums
            self._known.move_to_end(text)
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return torch.stack([found[text] for text in texts])
