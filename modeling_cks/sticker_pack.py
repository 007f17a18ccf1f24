# SPDX-License-Identifier: Apache-2.0
"""Stickers that are ready to be chosen from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

WORDS = ("ocr_input_ids", "ocr_attention_mask")


class StickerPack:
    """N stickers with all that ranking reads of them; the same for every dialogue.

    Args:
        names: N names, by which answers call them.
        captions: N texts read from or given for the stickers; None where the model reads none.
        embeds: (N, D), the unbiased features v, on the CPU.

    Raises:
        ValueError: the three differ in number.
    """

    def __init__(self, names: Sequence[str], captions: Sequence[str | None], embeds: Tensor):
        if not len(names) == len(captions) == len(embeds):
            raise ValueError(
                f"{len(names)} names, {len(captions)} captions and {len(embeds)} features do not "
                "make a pack of stickers"
            )
        self.names = list(names)
        self.captions = list(captions)
        self.embeds = embeds
        self._places: dict[str, int] | None = None
        self._words: tuple[object, dict[str, Tensor]] | None = None

    def __len__(self) -> int:
        """Count the stickers."""
        return len(self.names)

    def place(self, name: str) -> int | None:
        """Return the place of the sticker of this name, the first of equals; None for none."""
        if self._places is None:
            self._places = {}
            for place, each in enumerate(self.names):
                self._places.setdefault(each, place)
        return self._places.get(name)

    def words(self, processor) -> dict[str, Tensor]:
        """Return `ocr_input_ids`, `ocr_attention_mask` (N, Lo); tokenized once."""
        if self._words is None or self._words[0] is not processor:
            words = processor.encode_captions([caption or "" for caption in self.captions])
            self._words = (processor, words)
        return self._words[1]


def join_words(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the words of several sets of stickers below each other, padded to the longest."""
    if len(parts) == 1:
        return dict(parts[0])
    width = max(part[WORDS[0]].shape[1] for part in parts)
    return {
        # What stands on padding is never read.
        name: torch.cat([F.pad(part[name], (0, width - part[name].shape[1])) for part in parts])
        for name in WORDS
    }


def features_fingerprint(model) -> str:
    """Return the SHA-256 of what a model's stickers' features depend on: its visual extractor."""
    known = getattr(model, "known_fingerprint", None)  # of a model that was packed since
    if known is not None:
        return known
    total = hashlib.sha256()
    for name, tensor in sorted(model.visual_extractor.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        total.update(memoryview(raw.numpy()))
    return total.hexdigest()
