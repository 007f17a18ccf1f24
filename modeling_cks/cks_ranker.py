# SPDX-License-Identifier: Apache-2.0
"""CKS behind the protocol by which any ranker is evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .evaluation.evaluator import RankerOutput
from .modeling_cks import CKSModel
from .processing_cks import CKSProcessor
from .ranking import rank
from .training.collator import CKSCollator, StickerInventory
from .utterance_features import UtteranceFeatures


class CKSRanker:
    """Rank rows of the prepared data; each sticker is encoded once, when first needed.

    Args:
        model: a [`CKSModel`]; it is put into evaluation mode while it ranks.
        processor: its processor.
        inventory: the stickers of the data.
        knowledge: False leaves COMET out.
        name: how results call it.
        features: the utterances' features, where somebody has them; each distinct utterance is
            encoded once either way.
        match_best: a shortcut that is not exact; see `CKSModel.forward`.
    """

    def __init__(
        self,
        model: CKSModel,
        processor: CKSProcessor,
        inventory: StickerInventory,
        knowledge: bool = True,
        name: str = "CKS",
        features: UtteranceFeatures | None = None,
        match_best: int | None = None,
    ):
        self.model = model
        self.match_best = match_best
        self.name = name
        self.inventory = inventory
        self.collator = CKSCollator(
            processor,
            inventory,
            knowledge=knowledge,
            pixels=False,
            features=features or UtteranceFeatures(model, processor),
        )
        self._embeds: torch.Tensor | None = None

    @torch.no_grad()
    def rank(self, rows: Sequence[dict]) -> RankerOutput:
        """Score the candidates and weigh the utterances of each row.

        The emotions are given both ways: with the answer, and with the top sticker.

        Raises:
            ValueError: if a row's answer is not among its candidates.
        """
        output = self._output(rows, self.match_best)
        scores = output.scores.float().cpu()
        given_answer = given_top = None
        if output.candidate_emotion_logits is not None:
            emotions = output.candidate_emotion_logits.float().softmax(-1).cpu().numpy()
            numbers = range(len(rows))
            given_top = emotions[numbers, rank(scores)[:, 0].numpy()]
            answers = [row["candidates"].index(row["sticker_id"]) for row in rows]
            given_answer = emotions[numbers, answers]
        weights = None
        if output.utterance_weights is not None:
            weights = []
            for row, read in zip(rows, output.utterance_weights.float().cpu().numpy(), strict=True):
                # What the collator left out, the oldest utterances, weighs nothing.
                length = len(row["utterances"])
                newest = read[: min(length, self.collator.processor.max_utterances)]
                weights.append(np.pad(newest, (length - len(newest), 0)))
        lengths = [len(row["candidates"]) for row in rows]
        return RankerOutput(
            [row[:length].numpy() for row, length in zip(scores, lengths, strict=True)],
            given_answer,
            given_top,
            weights,
        )

    @torch.no_grad()
    def dialogue_embeds(self, rows: Sequence[dict]) -> torch.Tensor:
        """Return h~_T of each row's dialogue, (B, D), for instance to tune an index with."""
        # The match encoder has no part in them.
        return self._output(rows, 1).dialogue_embeds.float().cpu()

    def _output(self, rows: Sequence[dict], match_best: int | None):
        training = self.model.training
        self.model.eval()
        try:
            embeds = self.sticker_embeds()
            batch = self.collator(rows)
            batch = {name: tensor.to(embeds.device) for name, tensor in batch.items()}
            return self.model(
                **batch, sticker_embeds=embeds[batch["sticker_ids"]], match_best=match_best
            )
        finally:
            self.model.train(training)

    @torch.no_grad()
    def sticker_embeds(self, batch_size: int = 32) -> torch.Tensor:
        """Return the unbiased features of the whole inventory, (len(inventory), D)."""
        if self._embeds is None:
            device = self.model.device
            dtype = self.model.dtype
            self._embeds = torch.cat(
                [
                    self.model.encode_stickers(
                        self.inventory.pixel_values(
                            range(start, min(start + batch_size, len(self.inventory)))
                        ).to(device, dtype)
                    )
                    for start in range(0, len(self.inventory), batch_size)
                ]
            )
        return self._embeds
