# SPDX-License-Identifier: Apache-2.0
"""BLIP-2: queries that read a dialogue and look at a sticker through a frozen eye."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    CLIPVisionModel,
    PreTrainedModel,
)

from ..backbones import check_loaded, load_text, load_vision
from ..losses import contrast, match_loss
from .base import StickerMemory, add_speakers, pad
from .pairs import PairBaseline, fit_tokens, square_images

_DEFAULTS = {
    "max_dialogue_tokens": 256,
    "max_ocr_tokens": 32,
    "zero_shot": False,
    "ocr": "rapidocr",
}


class Blip2Baseline(PairBaseline):
    """BLIP-2's first stage (Li et al., ICML 2023): a frozen eye and the Q-Former.

    Queries and the text `[CLS] dialogue [SEP] words on the sticker [SEP]` run through the
    Q-Former together, the queries looking at the sticker; the head for image-text matching says
    whether they belong together, which is the score. It learns by that match on the right sticker
    and the negative one, and by BLIP-2's contrast over the batch of the dialogue alone (the words
    on its sticker would give it away) with the query most like it; samples with the same sticker
    are not each other's negatives. The eye is never trained, so that each sticker is looked at
    once. It names no emotion.

    Without a checkpoint it starts as BLIP-2 itself did: CLIP for an eye, the Q-Former from a BERT,
    its cross-attention and queries random.

    Settings: those of [`PairBaseline`]; `zero_shot`: nothing is trained.
    """

    kind, title = "blip2", "BLIP-2"
    pretrained = ("blip.",)

    def __init__(self, configs, tokenizer, image_processor, emotions, settings):
        super().__init__(configs, tokenizer, image_processor, emotions, settings)
        self.blip = Blip2ForImageTextRetrieval(configs["blip2"])
        if "vision" in configs:
            self.blip.vision_model = ClipEye(configs["vision"])
            self.pretrained = tuple(
                name
                for name, _ in self.named_parameters()
                if name.startswith(("blip.embeddings.", "blip.qformer."))
                and ".crossattention." not in name
            )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        (self if settings["zero_shot"] else self.blip.vision_model).requires_grad_(False)
        self._memory = StickerMemory(self._look)

    @property
    def name(self) -> str:
        """How results call it."""
        return "BLIP-2 (zero-shot)" if self.settings["zero_shot"] else self.title

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
    ) -> Blip2Baseline:
        """Start from a BLIP-2 (`checkpoint`), or from a BERT (`text`) and a CLIP (`vision`).

        Args:
            emotions: names of the emotions.
            text: becomes the Q-Former when there is no `checkpoint`; its first layers where
                `scratch` asks for fewer.
            vision: CLIP's visual encoder, the eye when there is no `checkpoint`.
            checkpoint: a BLIP-2 with its matching head, such as `Salesforce/blip2-itm-vit-g`.
            scratch: fields of `Blip2Config`, and under `qformer_config` of its Q-Former, when
                there is no `checkpoint`.
            **settings: see the class.

        Raises:
            ValueError: a checkpoint is missing, cannot be loaded or does not fit, or a setting is
                unknown.
        """
        if unknown := sorted(set(settings) - set(_DEFAULTS)):
            raise ValueError(f"BLIP-2 has no setting {unknown[0]!r}, only {', '.join(_DEFAULTS)}")
        configs = {}
        if checkpoint is not None:
            blip, tokenizer, image_processor = _load_blip(checkpoint)
        elif text is None or vision is None:
            raise ValueError(
                "BLIP-2 starts from a BLIP-2 (checkpoint), or from a BERT (text) and a CLIP "
                "(vision)"
            )
        else:
            clip, image_processor = load_vision(vision)
            bert, tokenizer = load_text(text)
            blip = _from_bert(bert, clip, scratch or {})
            configs["vision"] = copy.deepcopy(clip.config)
        room = blip.config.qformer_config.max_position_embeddings
        settings = fit_tokens({**_DEFAULTS, **settings}, room)
        configs["blip2"] = copy.deepcopy(blip.config)
        baseline = cls(configs, tokenizer, image_processor, emotions, settings)
        baseline.blip.load_state_dict(blip.state_dict())
        return baseline.eval()

    def forget_stickers(self) -> None:
        """Drop what was seen of other stickers."""
        self._memory.forget()

    def train(self, mode: bool = True) -> Blip2Baseline:
        """Switch modes; the eye is frozen, so what it saw outlives it."""
        nn.Module.train(self, mode)
        self.blip.vision_model.eval()
        return self

    def collate(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Give the pairs of [`PairBaseline`], and the texts without words on stickers.

        Returns:
            Beside the pairs `dialogue_ids` and `dialogue_mask` (B, L).
        """
        first, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        texts = [[first, *words, sep] for words in self.dialogues(rows)]
        ids, mask = pad(texts, self.tokenizer.pad_token_id)
        return {**super().collate(rows), "dialogue_ids": ids, "dialogue_mask": mask}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        stickers: Tensor,
        dialogue_ids: Tensor,
        dialogue_mask: Tensor,
    ) -> dict[str, Tensor]:
        """Give the match and contrastive losses and their sum."""
        right, wrong = self.match_logits(input_ids, attention_mask, stickers).chunk(2)
        stickers = stickers[: len(dialogue_ids)]
        similarity = self.similarity(dialogue_ids, dialogue_mask, stickers)
        losses = {
            "match_loss": match_loss(right, wrong),
            "contrastive_loss": contrast(self.logit_scale.exp() * similarity, stickers),
        }
        return {"loss": sum(losses.values()), **losses}

    def judge(self, input_ids: Tensor, attention_mask: Tensor, stickers: Tensor) -> Tensor:
        """Give P(match) (N,) of each pair."""
        return self.match_logits(input_ids, attention_mask, stickers).float().softmax(-1)[:, 1]

    def match_logits(self, input_ids: Tensor, attention_mask: Tensor, stickers: Tensor) -> Tensor:
        """Give the logits (N, 2) of no match and match, the mean over the queries."""
        queries = self.blip.query_tokens.expand(len(input_ids), -1, -1)
        count = queries.shape[1]
        states = self.blip.qformer(
            query_embeds=self.blip.embeddings(input_ids=input_ids, query_embeds=queries),
            query_length=count,
            attention_mask=F.pad(attention_mask, (count, 0), value=1),
            encoder_hidden_states=self._seen(stickers),
        ).last_hidden_state
        return self.blip.itm_head(states[:, :count]).mean(1)

    def similarity(self, input_ids: Tensor, attention_mask: Tensor, stickers: Tensor) -> Tensor:
        """Give the cosine (N, N) of each text with that query of each sticker most like it."""
        distinct, inverse = stickers.unique(return_inverse=True)
        looking = self.blip.qformer(
            query_embeds=self.blip.query_tokens.expand(len(distinct), -1, -1),
            encoder_hidden_states=self._seen(distinct),
        ).last_hidden_state
        reading = self.blip.qformer(
            query_embeds=self.blip.embeddings(input_ids=input_ids),
            query_length=0,
            attention_mask=attention_mask,
        ).last_hidden_state[:, 0]
        images = F.normalize(self.blip.vision_projection(looking), dim=-1)
        texts = F.normalize(self.blip.text_projection(reading), dim=-1)
        return torch.einsum("nd,sqd->nsq", texts, images).amax(-1)[:, inverse]

    def _seen(self, stickers: Tensor) -> Tensor:
        return self._memory.recall(self.inventory, stickers.tolist(), stickers.device)

    def _look(self, pixels: Tensor) -> Tensor:
        return self.blip.vision_model(pixel_values=pixels).last_hidden_state


class ClipEye(CLIPVisionModel):
    """CLIP's visual encoder that gives what BLIP-2's gives: all states under the final norm."""

    def forward(self, pixel_values: Tensor, **kwargs):
        """Encode pixels; `last_hidden_state` is (S, patches + 1, hidden)."""
        output = super().forward(pixel_values)
        output.last_hidden_state = self.post_layernorm(output.last_hidden_state)
        return output


def _load_blip(name: str) -> tuple[Blip2ForImageTextRetrieval, Any, Any]:
    wanted = f"BLIP-2 {name!r}: give the folder or Hub name of a BLIP-2 with its matching head"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        blip, info = Blip2ForImageTextRetrieval.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
        image_processor = square_images(name, blip.config.vision_config.image_size)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{wanted} ({str(error).splitlines()[0]})") from error
    check_loaded(blip, info, wanted)
    known = blip.config.qformer_config.vocab_size
    blip.resize_token_embeddings(max(known, len(tokenizer) + 2), mean_resizing=False)
    blip.config.qformer_config.vocab_size = len(blip.get_input_embeddings().weight)
    add_speakers(tokenizer, blip.get_input_embeddings())
    return blip, tokenizer, image_processor


def _from_bert(
    bert: PreTrainedModel, clip: CLIPVisionModel, fields: Mapping[str, Any]
) -> Blip2ForImageTextRetrieval:
    """Make a BERT the Q-Former of BLIP-2, with CLIP for its eye."""
    read, seen, words = bert.config, clip.config, bert.embeddings
    # RoBERTa counts positions from behind its padding, and BERT adds its first segment to each.
    start = read.pad_token_id + 1 if read.model_type == "roberta" else 0
    positions = words.position_embeddings.weight[start:] + words.token_type_embeddings.weight[0]
    own = {
        "vocab_size": len(words.word_embeddings.weight),
        "hidden_size": read.hidden_size,
        "num_attention_heads": read.num_attention_heads,
        "intermediate_size": read.intermediate_size,
        "hidden_act": read.hidden_act,
        "layer_norm_eps": read.layer_norm_eps,
        "max_position_embeddings": len(positions),
        "pad_token_id": read.pad_token_id,
        "use_qformer_text_input": True,
    }
    fields = dict(fields)
    qformer = dict(fields.pop("qformer_config", {}))
    if settled := sorted((own.keys() & qformer) | ({"vision_config"} & fields.keys())):
        raise ValueError(f"BLIP-2: text and vision settle {settled[0]}: leave it out")
    # CLIP takes the place of the eye that is drawn here, of which only the width matters.
    eye = {"hidden_size": seen.hidden_size, "num_hidden_layers": 0, "num_attention_heads": 1}
    qformer = {"num_hidden_layers": read.num_hidden_layers, **own, **qformer}
    config = Blip2Config(vision_config=eye, qformer_config=qformer, **fields)
    blip = Blip2ForImageTextRetrieval(config)
    blip.vision_model = ClipEye(seen)
    blip.vision_model.load_state_dict(clip.state_dict())
    with torch.no_grad():
        # Queries that start alike, at zero as the class has them, would stay alike.
        blip.query_tokens.normal_(std=config.qformer_config.initializer_range)
        blip.embeddings.position_embeddings.weight.copy_(positions)
    blip.embeddings.word_embeddings.load_state_dict(words.word_embeddings.state_dict())
    blip.qformer.layernorm.load_state_dict(words.LayerNorm.state_dict())
    for layer, theirs in zip(blip.qformer.encoder.layer, bert.encoder.layer, strict=False):
        for part, source in (
            (layer.attention.attention, theirs.attention.self),
            (layer.attention.output, theirs.attention.output),
            (layer.intermediate, theirs.intermediate),
            (layer.intermediate_query, theirs.intermediate),
            (layer.output, theirs.output),
            (layer.output_query, theirs.output),
        ):
            part.load_state_dict(source.state_dict())
    return blip
