# SPDX-License-Identifier: Apache-2.0
"""MOD-GPT: GPT-2 reads turns and stickers and foretells the feature of the next sticker."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AddedToken, AutoModel, AutoTokenizer, GPT2Config, GPT2Model

from ..backbones import load_text, load_vision
from ..evaluation.evaluator import RankerOutput
from ..processing_cks import SPEAKER_TOKENS
from .base import Baseline, StickerFeatures, add_speakers, emotion_targets, pad

IMAGE_TOKEN = "[IMG]"


class ModGptBaseline(Baseline):
    """GPT-2 over `[speaker1] words [IMG] [speaker2] words ... [IMG]`.

    An earlier sticker stands in its `[IMG]` slot by a linear map of its CLIP feature. The last
    slot is empty: its state is mapped to the feature of the sticker to be sent, and candidates are
    ranked by their distance from it. The same state names the emotion, which therefore does not
    depend on the candidate. CLIP is frozen, as what is foretold must not move; its features are
    compared at unit length, since their common length says nothing of a sticker.

    Settings: `max_dialogue_tokens` (the newest are kept), `ocr` (words are not
    read, so by default none is looked for).
    """

    kind, title = "mod_gpt", "MOD-GPT"
    pretrained = ("gpt.", "vision.")

    def __init__(self, configs, tokenizer, image_processor, emotions, settings):
        super().__init__(configs, tokenizer, image_processor, emotions, settings)
        self.gpt = AutoModel.from_config(configs["gpt"])
        self.vision = StickerFeatures(configs["vision"])
        self.vision.requires_grad_(False)
        width, seen = configs["gpt"].n_embd, configs["vision"].hidden_size
        self.image_map = nn.Linear(seen, width)
        self.feature_head = nn.Linear(width, seen)
        self.emotion = nn.Linear(width, len(self.emotions))

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
    ) -> ModGptBaseline:
        """Start from a GPT-2 (`checkpoint`), or from scratch with the words of a BERT (`text`).

        Args:
            emotions: names of the emotions.
            text: whose tokenizer, and where the sizes agree whose word embeddings, are taken when
                there is no `checkpoint`.
            vision: CLIP's visual encoder.
            checkpoint: a GPT-2.
            scratch: fields of `GPT2Config` when there is no `checkpoint`.
            **settings: see the class.

        Raises:
            ValueError: a checkpoint is missing or cannot be loaded.
        """
        if vision is None or (checkpoint is None and text is None):
            raise ValueError(
                "MOD-GPT starts from a GPT-2 (checkpoint) or the words of a BERT (text), and a "
                "CLIP (vision): name both"
            )
        clip, image_processor = load_vision(vision)
        if checkpoint is not None:
            gpt, tokenizer = _load_gpt(checkpoint)
        else:
            gpt, tokenizer = _scratch_gpt(text, scratch or {})
        settings = {"max_dialogue_tokens": 256, "ocr": "none", **settings}
        if settings["max_dialogue_tokens"] + 1 > gpt.config.n_positions:
            raise ValueError(
                f"MOD-GPT: {settings['max_dialogue_tokens'] + 1} tokens asked for, and there is "
                f"room for {gpt.config.n_positions}"
            )
        configs = {"gpt": copy.deepcopy(gpt.config), "vision": copy.deepcopy(clip.config)}
        baseline = cls(configs, tokenizer, image_processor, emotions, settings)
        baseline.gpt.load_state_dict(gpt.state_dict())
        baseline.vision.clip.load_state_dict(clip.state_dict())
        return baseline.eval()

    def forget_stickers(self) -> None:
        """Drop the features of other stickers."""
        if "vision" in self._modules:
            self.vision.forget()

    def train(self, mode: bool = True) -> ModGptBaseline:
        """Switch modes; CLIP is frozen, so its features outlive it."""
        nn.Module.train(self, mode)
        self.vision.eval()
        return self

    def collate(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Give the sequences, the right `stickers` (B,) and the `emotion_labels` (B,)."""
        places = [self.inventory.place(row["sticker_id"]) for row in rows]
        return {
            **self._sequences(rows),
            "stickers": torch.tensor(places),
            "emotion_labels": emotion_targets(rows),
        }

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        shown: Tensor,
        stickers: Tensor,
        emotion_labels: Tensor,
    ) -> dict[str, Tensor]:
        """Give the regression loss, squared distance at unit length, and the emotion loss."""
        state = self._state(input_ids, attention_mask, shown)
        right = F.normalize(self.vision(self.inventory, stickers.tolist()), dim=-1)
        losses = {"feature_loss": (self._foretold(state) - right).square().sum(-1).mean()}
        if (emotion_labels != -100).any():
            losses["emotion_loss"] = F.cross_entropy(self.emotion(state), emotion_labels)
        return {"loss": sum(losses.values()), **losses}

    def score(self, rows: Sequence[dict]) -> RankerOutput:
        """Score each candidate by its negative distance from the foretold feature."""
        batch = {name: tensor.to(self.device) for name, tensor in self._sequences(rows).items()}
        state = self._state(**batch)
        scores = []
        for foretold, row in zip(self._foretold(state), rows, strict=True):
            places = [self.inventory.place(sticker) for sticker in row["candidates"]]
            features = F.normalize(self.vision(self.inventory, places), dim=-1)
            scores.append(-(features - foretold).norm(dim=-1).float().cpu().numpy())
        emotions = self.emotion(state).float().softmax(-1).cpu().numpy()
        return RankerOutput(scores, emotions, emotions)

    def _foretold(self, state: Tensor) -> Tensor:
        return F.normalize(self.feature_head(state), dim=-1)

    def _sequences(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Give `input_ids`, `attention_mask` and `shown` (B, L): a slot's sticker, -1 elsewhere."""
        slot = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        limit = self.settings["max_dialogue_tokens"]
        sequences, stickers = [], []
        for row in rows:
            tokens, shown = [slot], [-1]
            for turn in reversed(row["utterances"]):
                text = f"{SPEAKER_TOKENS[turn['speaker']]} {turn['text']}"
                words = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                places = [-1] * len(words)
                if turn["sticker_id"] is not None:
                    words = [*words, slot]
                    places.append(self.inventory.place(turn["sticker_id"]))
                tokens, shown = words + tokens, places + shown
                if len(tokens) > limit:
                    break
            sequences.append(tokens[-limit - 1 :])
            stickers.append(shown[-limit - 1 :])
        ids, mask = pad(sequences, self.tokenizer.pad_token_id)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "shown": pad(stickers, -1)[0],
        }

    def _state(self, input_ids: Tensor, attention_mask: Tensor, shown: Tensor) -> Tensor:
        """Return the state (B, width) of the last, empty slot."""
        embeds = self.gpt.get_input_embeddings()(input_ids)
        slots = shown >= 0
        if slots.any():
            features = self.vision(self.inventory, shown[slots].tolist())
            embeds = embeds.clone()
            embeds[slots] = self.image_map(features).to(embeds.dtype)
        states = self.gpt(
            inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        last = attention_mask.sum(1) - 1
        return states[torch.arange(len(last), device=last.device), last]


def _load_gpt(name: str) -> tuple[GPT2Model, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        gpt = GPT2Model.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"MOD-GPT {name!r}: give a GPT-2's folder or Hub name ({reason})"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    gpt.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
    add_speakers(tokenizer, gpt.get_input_embeddings())
    _add_slot(tokenizer, gpt)
    return gpt, tokenizer


def _scratch_gpt(text: str, fields: Mapping[str, Any]) -> tuple[GPT2Model, Any]:
    bert, tokenizer = load_text(text)
    known = len(tokenizer)
    if "vocab_size" in fields:
        raise ValueError("MOD-GPT: the tokenizer settles vocab_size: leave it out")
    own = {"vocab_size": known + 1, "bos_token_id": None, "eos_token_id": None}
    # As wide as the words that it takes over, unless another width is asked for.
    own["n_embd"] = bert.config.hidden_size
    config = GPT2Config(**{**own, **fields})
    gpt = GPT2Model(config)
    words = bert.get_input_embeddings().weight
    if words.shape[1] == config.n_embd:
        with torch.no_grad():
            gpt.get_input_embeddings().weight[:known] = words[:known]
    _add_slot(tokenizer, gpt)
    return gpt, tokenizer


def _add_slot(tokenizer, gpt: GPT2Model) -> None:
    """Teach tokenizer and model the slot of a sticker, which starts as the mean of the words."""
    known = len(tokenizer)
    slot = AddedToken(IMAGE_TOKEN, special=True, normalized=False)
    tokenizer.add_tokens([slot], special_tokens=True)
    with torch.no_grad():
        weight = gpt.get_input_embeddings().weight
        weight[known] = weight[:known].mean(0)
