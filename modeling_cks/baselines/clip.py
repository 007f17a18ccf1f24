# SPDX-License-Identifier: Apache-2.0
"""CLIP: two encoders and a cosine."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessor, CLIPModel

from ..backbones import load_text, load_vision
from ..evaluation.evaluator import RankerOutput
from ..losses import contrastive_loss
from .base import Baseline, StickerFeatures, add_speakers, dialogue_tokens, pad

_CONTEXTS = ("utterance", "dialogue")


class ClipBaseline(Baseline):
    """Two encoders whose projections are compared by cosine, trained by CLIP's contrastive loss.

    The text is the newest utterance (`context="utterance"`) or the newest tokens of the whole
    dialogue (`"dialogue"`). Samples of a batch with the same right sticker are not each other's
    negatives. It names no emotion.

    Settings: `context`, `max_tokens`, `ocr` (words are not read, so by default none is looked for).
    """

    kind, title = "clip", "CLIP"
    pretrained = ("text.", "vision.")

    def __init__(self, configs, tokenizer, image_processor, emotions, settings):
        super().__init__(configs, tokenizer, image_processor, emotions, settings)
        self.text = AutoModel.from_config(configs["text"])
        if hasattr(self.text, "pooler"):
            self.text.pooler = None
        self.vision = StickerFeatures(configs["vision"])
        size = settings["projection_size"]
        self.text_projection = nn.Linear(configs["text"].hidden_size, size, bias=False)
        self.visual_projection = nn.Linear(configs["vision"].hidden_size, size, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def name(self) -> str:
        """How results call it: the whole dialogue is a row of its own."""
        return "CLIP (dialogue)" if self.settings["context"] == "dialogue" else "CLIP"

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
    ) -> ClipBaseline:
        """Start from a CLIP (`checkpoint`), or from a BERT (`text`) and CLIP's eye (`vision`).

        Raises:
            ValueError: a checkpoint is missing or cannot be loaded, or a setting is unknown.
        """
        settings = {"context": "utterance", "max_tokens": 77, "ocr": "none", **settings}
        if settings["context"] not in _CONTEXTS:
            raise ValueError(f"CLIP: context is one of {_CONTEXTS}, not {settings['context']!r}")
        if scratch or (checkpoint is None and (text is None or vision is None)):
            raise ValueError(
                "CLIP starts from a CLIP (checkpoint), or from a BERT (text) and a CLIP (vision)"
            )
        if checkpoint is not None:
            return cls._from_clip(checkpoint, emotions, settings)
        bert, tokenizer = load_text(text)
        clip, image_processor = load_vision(vision)
        limit = bert.config.max_position_embeddings
        settings["max_tokens"] = min(settings["max_tokens"], limit)
        settings["projection_size"] = clip.config.projection_dim
        configs = {"text": copy.deepcopy(bert.config), "vision": copy.deepcopy(clip.config)}
        baseline = cls(configs, tokenizer, image_processor, emotions, settings)
        baseline.text.load_state_dict(bert.state_dict())
        baseline.vision.clip.load_state_dict(clip.state_dict())
        return baseline.eval()

    @classmethod
    def _from_clip(cls, name: str, emotions: Sequence[str], settings: dict) -> ClipBaseline:
        try:
            clip = CLIPModel.from_pretrained(name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(name)
            image_processor = CLIPImageProcessor.from_pretrained(name)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"CLIP {name!r}: give a CLIP's folder or Hub name ({reason})"
            ) from error
        clip.text_model.resize_token_embeddings(len(tokenizer) + 2, mean_resizing=False)
        add_speakers(tokenizer, clip.text_model.get_input_embeddings())
        limit = clip.config.text_config.max_position_embeddings
        settings["max_tokens"] = min(settings["max_tokens"], limit)
        settings["projection_size"] = clip.config.projection_dim
        configs = {
            "text": copy.deepcopy(clip.text_model.config),
            "vision": copy.deepcopy(clip.vision_model.config),
        }
        baseline = cls(configs, tokenizer, image_processor, emotions, settings)
        baseline.text.load_state_dict(clip.text_model.state_dict())
        baseline.vision.clip.load_state_dict(clip.vision_model.state_dict())
        with torch.no_grad():
            for part in ("text_projection", "visual_projection"):
                getattr(baseline, part).weight.copy_(getattr(clip, part).weight)
            baseline.logit_scale.copy_(clip.logit_scale)
        return baseline.eval()

    def forget_stickers(self) -> None:
        """Drop features that training is about to change."""
        if "vision" in self._modules:
            self.vision.forget()

    def train(self, mode: bool = True) -> ClipBaseline:
        """Switch modes; features of a frozen CLIP outlive it."""
        nn.Module.train(self, mode)
        if self.vision.frozen:
            self.vision.eval()
        elif mode:
            self.forget_stickers()
        return self

    def collate(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Give `input_ids`, `attention_mask` (B, L) and the right `stickers` (B,)."""
        places = [self.inventory.place(row["sticker_id"]) for row in rows]
        return {**self._texts(rows), "stickers": torch.tensor(places)}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, stickers: Tensor) -> dict:
        """Give the symmetric contrastive loss over the batch."""
        distinct, inverse = stickers.unique(return_inverse=True)
        visual = self.visual_projection(self.vision(self.inventory, distinct.tolist()))
        loss = contrastive_loss(
            self.encode_text(input_ids, attention_mask),
            visual[inverse],
            self.logit_scale,
            stickers,
        )
        return {"loss": loss}

    def score(self, rows: Sequence[dict]) -> RankerOutput:
        """Score each candidate by the scaled cosine."""
        batch = {name: tensor.to(self.device) for name, tensor in self._texts(rows).items()}
        texts = F.normalize(self.encode_text(**batch), dim=-1)
        scores = []
        for text, row in zip(texts, rows, strict=True):
            places = [self.inventory.place(sticker) for sticker in row["candidates"]]
            visual = self.visual_projection(self.vision(self.inventory, places))
            logits = self.logit_scale.exp() * F.normalize(visual, dim=-1) @ text
            scores.append(logits.float().cpu().numpy())
        return RankerOutput(scores)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode texts (B, L) into the joint space (B, projection_size).

        A CLIP's text encoder speaks by its last token, any other by its first.
        """
        output = self.text(input_ids=input_ids, attention_mask=attention_mask)
        if self.configs["text"].model_type == "clip_text_model":
            last = attention_mask.sum(1) - 1
            state = output.last_hidden_state[torch.arange(len(last), device=last.device), last]
        else:
            state = output.last_hidden_state[:, 0]
        return self.text_projection(state)

    def _texts(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        tokenizer = self.tokenizer
        first = tokenizer.cls_token_id
        last = tokenizer.sep_token_id
        if first is None:
            first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
        limit = self.settings["max_tokens"] - 2
        texts = []
        for row in rows:
            dialogue = row["utterances"]
            if self.settings["context"] == "utterance":
                dialogue = dialogue[-1:]
            texts.append([first, *dialogue_tokens(tokenizer, dialogue, limit), last])
        ids, mask = pad(texts, tokenizer.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask}
