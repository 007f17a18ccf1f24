# SPDX-License-Identifier: Apache-2.0
"""MMBERT: BERT over the dialogue, the sticker's words and the sticker itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel
from transformers.activations import ACT2FN

from ..backbones import load_text, load_vision
from ..evaluation.evaluator import RankerOutput
from ..processing_cks import SPEAKER_TOKENS
from ..ranking import rank
from .base import Baseline, StickerFeatures, dialogue_tokens, emotion_targets, pad

_PAIRS_A_PASS = 256
# So that what a layer makes of a pass stays in a CPU's cache.
_PAIRS_A_PASS_ON_CPU = 32


class MmbertBaseline(Baseline):
    """MMBERT of the MOD data's authors, with the flaws of its published code mended.

    The sequence is `[CLS] dialogue [SEP] words on the sticker [SEP] <image>`. Its [CLS] state says
    whether sticker and dialogue match, the image's state names the emotion, and words of both
    texts are masked and told again. The newest words of a long dialogue are kept, where the
    published code keeps the oldest. Stickers of earlier turns are not read.

    Settings: `max_dialogue_tokens`, `max_ocr_tokens`, `mask_weight` (of each masked-token loss),
    `ocr`.
    """

    kind, title = "mmbert", "MMBERT"
    pretrained = ("bert.", "vision.")

    def __init__(self, configs, tokenizer, image_processor, emotions, settings):
        super().__init__(configs, tokenizer, image_processor, emotions, settings)
        config = configs["text"]
        self.bert = AutoModel.from_config(config)
        self.bert.pooler = None
        self.vision = StickerFeatures(configs["vision"])
        width = config.hidden_size
        self.image_map = nn.Linear(configs["vision"].hidden_size, width)
        self.match = nn.Linear(width, 2)
        self.emotion = nn.Linear(width, len(self.emotions))
        self.word_transform = nn.Sequential(
            nn.Linear(width, width), ACT2FN[config.hidden_act], nn.LayerNorm(width)
        )
        self.word_bias = nn.Parameter(torch.zeros(config.vocab_size))

    @classmethod
    def build(
        cls,
        *,
        emotions: Sequence[str],
        text: str | None = None,
        vision: str | None = None,
        checkpoint: str | None = None,
        scratch: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> MmbertBaseline:
        """Start from a BERT (`checkpoint`, or else `text`) and CLIP's visual encoder (`vision`).

        Raises:
            ValueError: a checkpoint is missing, cannot be loaded or has no room for the tokens.
        """
        if scratch or vision is None or (checkpoint or text) is None:
            raise ValueError("MMBERT starts from a BERT (text) and a CLIP (vision): name both")
        bert, tokenizer = load_text(checkpoint or text)
        clip, image_processor = load_vision(vision)
        defaults = {"max_dialogue_tokens": 256, "max_ocr_tokens": 32, "mask_weight": 0.5}
        settings = {**defaults, "ocr": "rapidocr", **settings}
        longest = settings["max_dialogue_tokens"] + settings["max_ocr_tokens"] + 4
        room = bert.config.max_position_embeddings
        if bert.config.model_type == "roberta":
            room -= bert.config.pad_token_id + 1
        if longest > room:
            raise ValueError(
                f"MMBERT: {longest} tokens asked for, and {checkpoint or text} has room for {room}"
            )
        configs = {"text": copy.deepcopy(bert.config), "vision": copy.deepcopy(clip.config)}
        baseline = cls(configs, tokenizer, image_processor, emotions, settings)
        baseline.bert.load_state_dict(bert.state_dict())
        baseline.vision.clip.load_state_dict(clip.state_dict())
        return baseline.eval()

    def forget_stickers(self) -> None:
        """Drop features that training is about to change."""
        if "vision" in self._modules:
            self.vision.forget()

    def train(self, mode: bool = True) -> MmbertBaseline:
        """Switch modes; features of a frozen CLIP outlive it."""
        nn.Module.train(self, mode)
        if self.vision.frozen:
            self.vision.eval()
        elif mode:
            self.forget_stickers()
        return self

    def collate(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Pair each dialogue with its right sticker (rows 0..B-1) and its negative (B..2B-1).

        Words are masked in both halves alike: a mask that only right pairs had would tell them.

        Returns:
            `input_ids`, `attention_mask`, `token_type_ids` (2B, L), words masked, without the
            image's slot; `stickers` (2B,) places in the inventory; `emotion_labels` (B,);
            `mask_labels` (B, L): the masked words of the right pairs, -100 elsewhere.
        """
        right = [self.inventory.place(row["sticker_id"]) for row in rows]
        wrong = [self.inventory.place(row["negative"]) for row in rows]
        words = self._dialogues(rows)
        batch = self._pairs(words + words, right + wrong)
        batch["input_ids"], labels = self._mask(batch["input_ids"])
        batch["mask_labels"] = labels[: len(rows)]
        batch["emotion_labels"] = emotion_targets(rows)
        return batch

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        stickers: Tensor,
        emotion_labels: Tensor,
        mask_labels: Tensor,
    ) -> dict[str, Tensor]:
        """Give the match, emotion and masked-token losses and their sum."""
        count = len(emotion_labels)
        features = self.vision(self.inventory, stickers.tolist())
        states = self._states(input_ids, attention_mask, token_type_ids, features)
        targets = torch.zeros_like(stickers)
        targets[:count] = 1
        losses = {"match_loss": F.cross_entropy(self.match(states[:, 0]), targets)}
        if (emotion_labels != -100).any():
            losses["emotion_loss"] = F.cross_entropy(
                self.emotion(states[:count, -1]), emotion_labels
            )
        loss = sum(losses.values())
        spoken, written = states[:count, :-1], mask_labels != -100
        sticker_side = token_type_ids[:count].bool()
        sides = (("dialogue_mask_loss", ~sticker_side), ("ocr_mask_loss", sticker_side))
        for name, side in sides:
            chosen = written & side
            if chosen.any():
                logits = self._words(spoken[chosen])
                losses[name] = F.cross_entropy(logits, mask_labels[chosen])
                loss = loss + self.settings["mask_weight"] * losses[name]
        return {"loss": loss, **losses}

    def score(self, rows: Sequence[dict]) -> RankerOutput:
        """Score each candidate by P(match); emotions are those of the image's state."""
        words = self._dialogues(rows)
        pairs = [
            (number, self.inventory.place(sticker))
            for number, row in enumerate(rows)
            for sticker in row["candidates"]
        ]
        # By length, so that short ones are not padded to the longest.
        order = sorted(range(len(pairs)), key=lambda i: len(words[pairs[i][0]]))
        match = torch.empty(len(pairs))
        emotion = torch.empty(len(pairs), len(self.emotions))
        size = _PAIRS_A_PASS_ON_CPU if self.device.type == "cpu" else _PAIRS_A_PASS
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            batch = self._pairs([words[pairs[i][0]] for i in chosen], [pairs[i][1] for i in chosen])
            features = self.vision(self.inventory, batch.pop("stickers").tolist())
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
            states = self._states(
                batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], features
            )
            match[chosen] = self.match(states[:, 0]).float().softmax(-1)[:, 1].cpu()
            emotion[chosen] = self.emotion(states[:, -1]).float().softmax(-1).cpu()
        scores, answer, top, start = [], [], [], 0
        for row in rows:
            stop = start + len(row["candidates"])
            scores.append(match[start:stop].numpy())
            best = int(rank(match[None, start:stop])[0, 0])
            top.append(emotion[start + best].numpy())
            answer.append(emotion[start + row["candidates"].index(row["sticker_id"])].numpy())
            start = stop
        return RankerOutput(scores, np.stack(answer), np.stack(top))

    def _dialogues(self, rows: Sequence[dict]) -> list[list[int]]:
        limit = self.settings["max_dialogue_tokens"]
        return [dialogue_tokens(self.tokenizer, row["utterances"], limit) for row in rows]

    def _pairs(self, words: Sequence[list[int]], places: Sequence[int]) -> dict[str, Tensor]:
        """Join dialogues and the words on stickers into sequences, the image's slot left out."""
        cls_id, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        texts = {place: self.inventory.captions[place] for place in set(places)}
        read = {
            place: self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for place, text in texts.items()
        }
        rows, sides = [], []
        for dialogue, place in zip(words, places, strict=True):
            written = read[place][: self.settings["max_ocr_tokens"]]
            rows.append([cls_id, *dialogue, sep, *written, sep])
            sides.append([0] * (len(dialogue) + 2) + [1] * (len(written) + 1))
        ids, mask = pad(rows, self.tokenizer.pad_token_id)
        types, _ = pad(sides, 0)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": types,
            "stickers": torch.tensor(list(places)),
        }

    def _states(self, ids: Tensor, mask: Tensor, types: Tensor, features: Tensor) -> Tensor:
        """Run BERT; the image stands last, at the position behind the real words."""
        words = self.bert.get_input_embeddings()(ids)
        image = self.image_map(features)[:, None]
        one = torch.ones_like(mask[:, :1])
        positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
        positions = torch.cat([positions, mask.sum(1, keepdim=True)], dim=1)
        known = getattr(self.configs["text"], "type_vocab_size", 1) > 1
        types = torch.cat([types, one.to(types.dtype)], dim=1)
        if self.configs["text"].model_type == "roberta":
            positions = positions + self.configs["text"].pad_token_id + 1
        return self.bert(
            inputs_embeds=torch.cat([words, image], dim=1),
            attention_mask=torch.cat([mask, one], dim=1),
            token_type_ids=types if known else torch.zeros_like(types),
            position_ids=positions,
        ).last_hidden_state

    def _words(self, states: Tensor) -> Tensor:
        embeddings = self.bert.get_input_embeddings().weight
        return F.linear(self.word_transform(states), embeddings, self.word_bias)

    def _mask(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Choose 15 % of the words; of those 80 % are masked, 10 % replaced, 10 % kept."""
        speakers = self.tokenizer.convert_tokens_to_ids(list(SPEAKER_TOKENS))
        kept = sorted({*self.tokenizer.all_special_ids, *speakers})
        special = torch.isin(ids, torch.tensor(kept))
        chosen = (torch.rand(ids.shape) < 0.15) & ~special
        labels = ids.masked_fill(~chosen, -100)
        draw = torch.rand(ids.shape)
        masked = ids.masked_fill(chosen & (draw < 0.8), self.tokenizer.mask_token_id)
        replaced = chosen & (draw >= 0.8) & (draw < 0.9)
        others = torch.randint(len(self.tokenizer), ids.shape)
        return torch.where(replaced, others, masked), labels
