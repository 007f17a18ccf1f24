# SPDX-License-Identifier: Apache-2.0
"""What the baselines share that read one text and one sticker together and judge the pair."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoImageProcessor, CLIPImageProcessor

from ..evaluation.evaluator import RankerOutput
from .base import Baseline, dialogue_tokens, pad

_PAIRS_A_PASS = 256
# So that what a layer makes of a pass stays in a CPU's cache.
_PAIRS_A_PASS_ON_CPU = 32


class PairBaseline(Baseline):
    """A ranker that judges each candidate in a pass of its own, by `[CLS] dialogue [SEP] words`.

    It is handed the right sticker and the negative of each sample.

    Settings: `max_dialogue_tokens` (the newest are kept), `max_ocr_tokens`, `ocr`.
    """

    @abstractmethod
    def judge(self, input_ids: Tensor, attention_mask: Tensor, stickers: Tensor) -> Tensor:
        """Score pairs (N,) of a text (N, L) and the sticker at a place in the inventory (N,)."""

    def collate(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Pair each dialogue with its right sticker (rows 0..B-1) and its negative (B..2B-1).

        Returns:
            `input_ids`, `attention_mask` (2B, L); `stickers` (2B,) places in the inventory.
        """
        right = [self.inventory.place(row["sticker_id"]) for row in rows]
        wrong = [self.inventory.place(row["negative"]) for row in rows]
        dialogues = self.dialogues(rows)
        return self._pairs(dialogues + dialogues, right + wrong)

    def score(self, rows: Sequence[dict]) -> RankerOutput:
        """Judge each candidate."""
        dialogues = self.dialogues(rows)
        pairs = [
            (number, self.inventory.place(sticker))
            for number, row in enumerate(rows)
            for sticker in row["candidates"]
        ]
        # By length, so that short ones are not padded to the longest.
        order = sorted(range(len(pairs)), key=lambda i: len(dialogues[pairs[i][0]]))
        scores = torch.empty(len(pairs))
        size = _PAIRS_A_PASS_ON_CPU if self.device.type == "cpu" else _PAIRS_A_PASS
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            numbers, places = zip(*(pairs[i] for i in chosen), strict=True)
            batch = self._pairs([dialogues[number] for number in numbers], places)
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
            scores[chosen] = self.judge(**batch).float().cpu()
        counts = [len(row["candidates"]) for row in rows]
        return RankerOutput([found.numpy() for found in scores.split(counts)])

    def dialogues(self, rows: Sequence[dict]) -> list[list[int]]:
        """Give the newest tokens of each row's dialogue."""
        limit = self.settings["max_dialogue_tokens"]
        return [dialogue_tokens(self.tokenizer, row["utterances"], limit) for row in rows]

    def _pairs(self, dialogues: Sequence[list[int]], places: Sequence[int]) -> dict[str, Tensor]:
        first, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        read = {
            place: self.tokenizer(self.inventory.captions[place], add_special_tokens=False)[
                "input_ids"
            ][: self.settings["max_ocr_tokens"]]
            for place in set(places)
        }
        texts = []
        for dialogue, place in zip(dialogues, places, strict=True):
            words = [*read[place], sep] if read[place] else []
            texts.append([first, *dialogue, sep, *words])
        ids, mask = pad(texts, self.tokenizer.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask, "stickers": torch.tensor(list(places))}


def fit_tokens(settings: dict, room: int) -> dict:
    """Shorten `max_dialogue_tokens` to what `room` positions leave beside words on stickers.

    Raises:
        ValueError: if they leave nothing.
    """
    left = room - settings["max_ocr_tokens"] - 3
    if left < 1:
        raise ValueError(
            f"max_ocr_tokens is {settings['max_ocr_tokens']}, and {room} positions leave no room "
            "for the dialogue"
        )
    return {**settings, "max_dialogue_tokens": min(settings["max_dialogue_tokens"], left)}


def square_images(name: str, size: int) -> CLIPImageProcessor:
    """Normalise images as the checkpoint `name` wants it, each squeezed whole into a square.

    Raises:
        OSError: the checkpoint does not say how.
    """
    given = AutoImageProcessor.from_pretrained(name)
    return CLIPImageProcessor(
        size={"height": size, "width": size},
        do_center_crop=False,
        image_mean=given.image_mean,
        image_std=given.image_std,
        resample=given.resample,
    )
