# SPDX-License-Identifier: Apache-2.0
"""ViLT: one transformer over words and patches."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPVisionModel,
    PreTrainedModel,
    ViltConfig,
    ViltForImageAndTextRetrieval,
)

from ..backbones import check_loaded, load_text, load_vision
from .base import StickerMemory, add_speakers
from .pairs import PairBaseline, fit_tokens, square_images

_DEFAULTS = {"max_dialogue_tokens": 256, "max_ocr_tokens": 12, "ocr": "rapidocr"}


class ViltBaseline(PairBaseline):
    """ViLT with its rank head (Kim et al., ICML 2021): a score for a text and an image.

    The text is `[CLS] dialogue [SEP] words on the sticker [SEP]`, all of ViLT's first segment, as
    it knows no other. All patches of a sticker are read, in their order. It learns as ViLT's
    retrieval does, by the cross-entropy of the right one among right and wrong ones: here the
    right sticker and the one negative. It names no emotion.

    Without a checkpoint it starts as ViLT itself did, from a ViT: CLIP's, whose norm of its
    patches comes along, and with the words of a BERT.

    Settings: those of [`PairBaseline`]; of the dialogue never more is kept than ViLT has positions
    for, 40 as published.
    """

    kind, title = "vilt", "ViLT"
    pretrained = ("vilt.vilt.", "patch_norm.")

    def __init__(self, configs, tokenizer, image_processor, emotions, settings):
        super().__init__(configs, tokenizer, image_processor, emotions, settings)
        config = configs["vilt"]
        self.vilt = ViltForImageAndTextRetrieval(config)
        self.patch_norm = nn.Identity()
        if settings["patch_norm"]:
            self.patch_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self._memory = StickerMemory(self._patches)

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
    ) -> ViltBaseline:
        """Start from a ViLT (`checkpoint`), or from a BERT's words (`text`) and CLIP (`vision`).

        Args:
            emotions: names of the emotions.
            text: whose tokenizer and word embeddings are taken when there is no `checkpoint`;
                embeddings wider than the transformer by their principal components.
            vision: CLIP's visual encoder, which becomes the transformer.
            checkpoint: a ViLT. One without a rank head, such as `dandelin/vilt-b32-mlm`, starts
                with a random one.
            scratch: further fields of `ViltConfig` when there is no `checkpoint`.
            **settings: see the class.

        Raises:
            ValueError: a checkpoint is missing or cannot be loaded, or a setting is unknown.
        """
        if unknown := sorted(set(settings) - set(_DEFAULTS)):
            raise ValueError(f"ViLT has no setting {unknown[0]!r}, only {', '.join(_DEFAULTS)}")
        norm = None
        if checkpoint is not None:
            vilt, tokenizer, image_processor = _load_vilt(checkpoint)
        elif text is None or vision is None:
            raise ValueError(
                "ViLT starts from a ViLT (checkpoint), or from a BERT (text) and a CLIP (vision)"
            )
        else:
            clip, image_processor = load_vision(vision)
            bert, tokenizer = load_text(text)
            vilt = _from_clip(clip, bert, scratch or {})
            norm = clip.pre_layrnorm
        settings = fit_tokens({**_DEFAULTS, **settings}, vilt.config.max_position_embeddings)
        settings["patch_norm"] = norm is not None
        configs = {"vilt": copy.deepcopy(vilt.config)}
        baseline = cls(configs, tokenizer, image_processor, emotions, settings)
        baseline.vilt.load_state_dict(vilt.state_dict())
        if norm is not None:
            baseline.patch_norm.load_state_dict(norm.state_dict())
        return baseline.eval()

    def forget_stickers(self) -> None:
        """Drop patches that training is about to change."""
        self._memory.forget()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, stickers: Tensor) -> dict:
        """Give the cross-entropy of the right sticker against the negative one.

        The batch is that of `collate`.
        """
        scores = self.judge(input_ids, attention_mask, stickers)
        right, wrong = scores.chunk(2)
        return {"loss": F.softplus(wrong - right).mean()}

    def judge(self, input_ids: Tensor, attention_mask: Tensor, stickers: Tensor) -> Tensor:
        """Give the rank head's logit (N,) of each pair."""
        if self.training:
            distinct, inverse = stickers.unique(return_inverse=True)
            pixels = self.inventory.pixel_values(distinct.tolist()).to(input_ids.device)
            patches = self._patches(pixels)[inverse]
        else:
            patches = self._memory.recall(self.inventory, stickers.tolist(), input_ids.device)
        return self.vilt(
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_embeds=self.vilt.vilt.embeddings.dropout(patches),
            pixel_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
        ).logits[:, 0]

    def _patches(self, pixels: Tensor) -> Tensor:
        """Embed a sticker's patches behind the class token, (S, patches + 1, hidden).

        ViLT's own way from pixels shuffles the patches by torch's generator each time.
        """
        embeddings = self.vilt.vilt.embeddings
        patches = embeddings.patch_embeddings(pixels).flatten(2).transpose(1, 2)
        first = embeddings.cls_token.expand(len(patches), -1, -1)
        placed = torch.cat([first, patches], dim=1) + embeddings.position_embeddings
        return self.patch_norm(placed)


def _load_vilt(name: str) -> tuple[ViltForImageAndTextRetrieval, Any, Any]:
    wanted = f"ViLT {name!r}: give a ViLT's folder or Hub name"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        vilt, info = ViltForImageAndTextRetrieval.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
        image_processor = square_images(name, vilt.config.image_size)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{wanted} ({str(error).splitlines()[0]})") from error
    check_loaded(vilt, info, wanted, may_miss="rank_output.")
    vilt.resize_token_embeddings(
        max(vilt.config.vocab_size, len(tokenizer) + 2), mean_resizing=False
    )
    add_speakers(tokenizer, vilt.get_input_embeddings())
    return vilt, tokenizer, image_processor


def _from_clip(
    clip: CLIPVisionModel, bert: PreTrainedModel, fields: Mapping[str, Any]
) -> ViltForImageAndTextRetrieval:
    """Make CLIP's ViT, which is laid out like ViLT's, one that reads a BERT's words as well."""
    words = bert.get_input_embeddings().weight
    seen = clip.config
    own = {
        "vocab_size": len(words),
        "hidden_size": seen.hidden_size,
        "num_hidden_layers": seen.num_hidden_layers,
        "num_attention_heads": seen.num_attention_heads,
        "intermediate_size": seen.intermediate_size,
        "hidden_act": seen.hidden_act,
        "layer_norm_eps": seen.layer_norm_eps,
        "image_size": seen.image_size,
        "patch_size": seen.patch_size,
        "pad_token_id": bert.config.pad_token_id,
    }
    if settled := sorted(own.keys() & fields.keys()):
        raise ValueError(f"ViLT: text and vision settle {settled[0]}: leave it out")
    vilt = ViltForImageAndTextRetrieval(ViltConfig(**own, **fields))
    body, embeddings = vilt.vilt, vilt.vilt.embeddings
    with torch.no_grad():
        embeddings.cls_token.copy_(clip.embeddings.class_embedding)
        embeddings.position_embeddings.copy_(clip.embeddings.position_embedding.weight)
        embeddings.patch_embeddings.projection.weight.copy_(clip.embeddings.patch_embedding.weight)
        embeddings.patch_embeddings.projection.bias.zero_()
    for layer, theirs in zip(body.encoder.layer, clip.encoder.layers, strict=True):
        attention = layer.attention.attention
        for part, source in (
            (layer.layernorm_before, theirs.layer_norm1),
            (attention.query, theirs.self_attn.q_proj),
            (attention.key, theirs.self_attn.k_proj),
            (attention.value, theirs.self_attn.v_proj),
            (layer.attention.output.dense, theirs.self_attn.out_proj),
            (layer.layernorm_after, theirs.layer_norm2),
            (layer.intermediate.dense, theirs.mlp.fc1),
            (layer.output.dense, theirs.mlp.fc2),
        ):
            part.load_state_dict(source.state_dict())
    body.layernorm.load_state_dict(clip.post_layernorm.state_dict())
    _take_words(embeddings.text_embeddings.word_embeddings, words)
    return vilt


def _take_words(embeddings: nn.Embedding, words: Tensor) -> None:
    """Fill word embeddings from wider or equally wide ones: the directions that tell most."""
    width = embeddings.embedding_dim
    with torch.no_grad():
        if words.shape[1] > width:
            centred = words - words.mean(0)
            words = centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -width:]
        if words.shape[1] == width:
            embeddings.weight.copy_(words)
