# SPDX-License-Identifier: Apache-2.0
"""Rows of the prepared data to batches: each distinct sticker once, wherever it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dataset_mod.sampling import NegativeSampler

from ..processing_cks import CKSProcessor
from .intervention import WordIntervention


class StickerInventory:
    """All stickers of a prepared data set: pixels and words, prepared once.

    Args:
        stickers: the table of stickers with `id`, `image`, `caption` and `emotion`.
        processor: prepares the images, and reads the words of those without a caption.

    Raises:
        ValueError: if the table is empty or names a sticker twice.
    """

    def __init__(self, stickers, processor: CKSProcessor):
        self.ids = list(stickers["id"])
        self.positions = {sticker: place for place, sticker in enumerate(self.ids)}
        if not self.ids or len(self.positions) != len(self.ids):
            raise ValueError("the table of stickers is empty or names a sticker twice")
        self.emotions = list(stickers["emotion"])
        images = list(stickers["image"])
        self.captions = list(stickers["caption"])
        unread = [place for place, caption in enumerate(self.captions) if caption is None]
        read = processor.read_text([images[place] for place in unread])
        for place, text in zip(unread, read, strict=True):
            self.captions[place] = text
        # uint8 is what the file holds, so nothing is lost and four times as much fits.
        self._pixels = processor.image_processor(
            images=images, return_tensors="pt", do_rescale=False, do_normalize=False
        )["pixel_values"].to(torch.uint8)
        self._processor = processor

    def __len__(self) -> int:
        """Count the stickers."""
        return len(self.ids)

    def place(self, sticker_id: str) -> int:
        """Return a sticker's place in the table; ValueError if there is no such sticker."""
        try:
            return self.positions[sticker_id]
        except KeyError:
            raise ValueError(f"there is no sticker {sticker_id!r} in the data") from None

    def pixel_values(self, places: Sequence[int]) -> Tensor:
        """Return CLIP-normalised pixels (S, 3, n, n) of the stickers at `places`."""
        return self._processor.image_processor(
            images=self._pixels[list(places)], return_tensors="pt", do_resize=False,
            do_center_crop=False,
        )["pixel_values"]  # fmt: skip

    def words(self, places: Sequence[int]) -> dict[str, Tensor]:
        """Return the words' tokens and mask (S, Lo) of the stickers at `places`."""
        return self._processor.encode_captions([self.captions[place] for place in places])


class TrainingSamples(Dataset):
    """Training rows, each with the negative that the epoch draws for it and its sticker's share.

    The epoch lies in shared memory, so that worker processes that outlive an epoch see the next.

    Args:
        rows: rows of the training split.
        sampler: draws the negatives.
        intervention: draws the emotional words of the dialogues anew; None leaves them.
    """

    def __init__(
        self, rows, sampler: NegativeSampler, intervention: WordIntervention | None = None
    ):
        self.rows = rows
        self.sampler = sampler
        self.intervention = intervention
        ids = [row["sticker_id"] for row in rows] if isinstance(rows, list) else rows["sticker_id"]
        counts = Counter(ids)
        self.shares = {sticker: count / len(rows) for sticker, count in counts.items()}
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose negatives are drawn."""
        self._epoch.fill_(epoch)

    def dialogue_ids(self) -> list[str]:
        """Return the dialogue of each sample."""
        if isinstance(self.rows, list):
            return [row["dialogue_id"] for row in self.rows]
        return list(self.rows["dialogue_id"])

    def utterances(self, newest: int, epochs: int = 1) -> list[tuple[int, str]]:
        """Return the distinct (speaker, text) of the samples' newest utterances in all epochs."""
        epochs = min(epochs, self.intervention.variants) if self.intervention else 1
        said = {
            (turn["speaker"], turn["text"])
            for row in self.rows
            for epoch in range(epochs)
            for turn in self._as_of(row, epoch)["utterances"][-newest:]
        }
        return sorted(said)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        """Return a row, its `negative`, and the `share` of the samples that carry its sticker."""
        epoch = int(self._epoch)
        row = self._as_of(self.rows[index], epoch)
        negative = self.sampler.draw(index, row["sticker_id"], epoch)
        return {**row, "negative": negative, "share": self.shares[row["sticker_id"]]}

    def _as_of(self, row: dict, epoch: int) -> dict:
        return self.intervention(row, epoch) if self.intervention else row


class DialogueSampler(Sampler[int]):
    """Shuffle dialogues, and the samples within each, and keep a dialogue's samples together.

    The order depends on the seed and the epoch alone.
    """

    def __init__(self, dialogue_ids: Sequence[str], seed: int):
        groups: dict[str, list[int]] = {}
        for index, dialogue in enumerate(dialogue_ids):
            groups.setdefault(dialogue, []).append(index)
        self.groups = list(groups.values())
        self.count = len(dialogue_ids)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the samples."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """Yield the samples' indices."""
        generator = np.random.default_rng((self.seed, self.epoch))
        for number in generator.permutation(len(self.groups)):
            yield from generator.permutation(self.groups[number]).tolist()


class CKSCollator:
    """Make the batch that `CKSModel.forward` takes from rows.

    A row with a `negative` becomes a training sample; any other is to be ranked, and its
    `candidates` are kept.

    Args:
        processor: turns dialogues into tensors.
        inventory: the stickers.
        knowledge: False leaves COMET out: its sums are zero.
        pixels: False leaves `pixel_values` out, where the stickers' features are known.
        features: gives the utterances' features where the encoder does not change (see
            [`CKSProcessor.encode_dialogues`]).

    Attributes:
        clip_embeds: (len(inventory), hidden), CLIP's features of all stickers where CLIP does not
            change, else None; the trainer sets it.
    """

    def __init__(
        self,
        processor: CKSProcessor,
        inventory: StickerInventory,
        knowledge: bool = True,
        pixels: bool = True,
        features: Callable[[Sequence[tuple[int, str]]], Tensor] | None = None,
    ):
        self.features = features
        self.clip_embeds: Tensor | None = None
        self.processor = processor
        self.inventory = inventory
        self.knowledge = knowledge
        self.pixels = pixels

    def __call__(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Collate rows; the shapes are those of `CKSModel.forward`."""
        keep = self.processor.max_utterances
        dialogues = [row["utterances"][-keep:] for row in rows]
        batch = self.processor.encode_dialogues(
            dialogues, knowledge=self.knowledge, features=self.features
        )
        places: dict[int, int] = {}

        def place(sticker_id: str) -> int:
            return places.setdefault(self.inventory.place(sticker_id), len(places))

        if "negative" in rows[0]:
            batch["positive"] = torch.tensor([place(row["sticker_id"]) for row in rows])
            batch["negative"] = torch.tensor([place(row["negative"]) for row in rows])
            batch["positive_shares"] = torch.tensor([row["share"] for row in rows])
            emotions = [row["emotion"] for row in rows]
            batch["emotion_labels"] = torch.tensor([-100 if e < 0 else e for e in emotions])
        else:
            width = max(len(row["candidates"]) for row in rows)
            candidates = torch.full((len(rows), width), -1)
            for number, row in enumerate(rows):
                found = [place(sticker_id) for sticker_id in row["candidates"]]
                candidates[number, : len(found)] = torch.tensor(found)
            batch["candidates"] = candidates
        history = torch.full(batch["speaker_ids"].shape, -1)
        for number, dialogue in enumerate(dialogues):
            for turn, utterance in enumerate(dialogue):
                if utterance["sticker_id"] is not None:
                    history[number, turn] = place(utterance["sticker_id"])
        batch["history"] = history

        distinct = list(places)
        batch["sticker_ids"] = torch.tensor(distinct)
        batch.update(self.inventory.words(distinct))
        if self.clip_embeds is not None:
            batch["clip_embeds"] = self.clip_embeds[distinct]
        if self.pixels:
            batch["pixel_values"] = self.inventory.pixel_values(distinct)
        return batch
