# SPDX-License-Identifier: Apache-2.0
"""FROMAGe: a frozen OPT that reads words and images, and asks for an image by one learnt token."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, OPTConfig, OPTModel

from ..backbones import check_loaded, load_vision
from ..evaluation.evaluator import RankerOutput
from ..losses import contrastive_loss
from .base import Baseline, StickerFeatures, pad

logger = logging.getLogger(__name__)

_SPEAKERS = ("A:", "B:")
_MAPS = "pretrained_ckpt.pth.tar"
_ARGUMENTS = "model_args.json"
# The published names, prefixes off, and what stands here for each.
_PUBLISHED = {
    "visual_embeddings.weight": "visual_embeddings.weight",
    "visual_embeddings.bias": "visual_embeddings.bias",
    "visual_fc.weight": "visual_fc.weight",
    "visual_fc.bias": "visual_fc.bias",
    "text_hidden_fcs.0.0.weight": "text_fc.weight",
    "text_hidden_fcs.0.0.bias": "text_fc.bias",
    "logit_scale": "logit_scale",
    "ret_input_embeddings.weight": "ret",
}
_DEFAULTS = {
    "zero_shot": True,
    "max_dialogue_tokens": 256,
    "visual_tokens": 1,
    "shared_size": 256,
    "dtype": "float32",
    "ocr": "none",
}


class FromageBaseline(Baseline):
    """FROMAGe (Koh et al., ICML 2023): retrieval by the state of a `[RET]` token.

    OPT and CLIP are frozen. Linear maps take CLIP's pooled feature of an image to `visual_tokens`
    input embeddings of OPT (`visual_embeddings`) and to the space of retrieval (`visual_fc`), and
    OPT's last state at `[RET]` to the same space (`text_fc`); the score is the scaled cosine.

    The prompt is FROMAGe's own for dialogues with images, `A: words B: words <image> A: words` and
    `[RET]` right behind: speakers in plain text, since it was taught no token for them, an earlier
    sticker in its place, and the newest words and images where there are too many. It names no
    emotion.

    In the paper's table it is not trained on dialogues (`zero_shot`). Otherwise the maps and
    `[RET]` learn by the contrastive loss, FROMAGe's for retrieval, without its captioning.

    Settings: `zero_shot`; `max_dialogue_tokens`; `visual_tokens` and `shared_size`, which
    published maps settle; `dtype` of OPT; `ocr` (words are not read, so by default none is looked
    for).
    """

    kind, title = "fromage", "FROMAGe"
    pretrained = ("lm.", "vision.")

    def __init__(self, configs, tokenizer, image_processor, emotions, settings):
        super().__init__(configs, tokenizer, image_processor, emotions, settings)
        dtype = getattr(torch, settings["dtype"])
        self.lm = AutoModel.from_config(configs["text"], dtype=dtype)
        self.vision = StickerFeatures(configs["vision"])
        width, seen = configs["text"].word_embed_proj_dim, configs["vision"].hidden_size
        self.ret = nn.Parameter(torch.zeros(width))
        self.visual_embeddings = nn.Linear(seen, width * settings["visual_tokens"])
        self.visual_fc = nn.Linear(seen, settings["shared_size"])
        self.text_fc = nn.Linear(width, settings["shared_size"])
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        (self if settings["zero_shot"] else self.lm).requires_grad_(False)
        self.vision.requires_grad_(False)

    @property
    def name(self) -> str:
        """How results call it."""
        return "FROMAGe (zero-shot)" if self.settings["zero_shot"] else self.title

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
    ) -> FromageBaseline:
        """Start from an OPT (`text`), a CLIP (`vision`) and the published maps (`checkpoint`).

        Args:
            emotions: names of the emotions.
            text: an OPT, such as `facebook/opt-6.7b`; or, with `scratch`, any model whose
                tokenizer an OPT from scratch takes.
            vision: CLIP's visual encoder, such as `openai/clip-vit-large-patch14`.
            checkpoint: folder with FROMAGe's `pretrained_ckpt.pth.tar` and `model_args.json`.
                Without it the maps are random, and so is the ranking until they are trained.
            scratch: fields of `OPTConfig` where `text` is no OPT.
            **settings: see the class.

        Raises:
            ValueError: a checkpoint is missing, cannot be loaded or does not fit the others, or a
                setting is unknown.
        """
        if unknown := sorted(set(settings) - set(_DEFAULTS)):
            raise ValueError(f"FROMAGe has no setting {unknown[0]!r}, only {', '.join(_DEFAULTS)}")
        if text is None or vision is None:
            raise ValueError("FROMAGe stands on an OPT (text) and a CLIP (vision): name both")
        maps: dict[str, Tensor] = {}
        if checkpoint is not None:
            maps, sizes = _read_maps(Path(checkpoint))
            if settled := sorted(set(settings) & set(sizes)):
                raise ValueError(f"FROMAGe: {checkpoint} settles {settled[0]}: leave it out")
            settings |= sizes
        settings = _DEFAULTS | settings
        if settings["dtype"] not in ("float32", "bfloat16"):
            raise ValueError(f"FROMAGe: dtype is float32 or bfloat16, not {settings['dtype']!r}")
        opt, tokenizer = _load_opt(text, scratch, getattr(torch, settings["dtype"]))
        clip, image_processor = load_vision(vision)
        # The beginning of the text and [RET] take a place each.
        longest, room = settings["max_dialogue_tokens"] + 2, opt.config.max_position_embeddings
        if longest > room:
            raise ValueError(f"FROMAGe: {longest} tokens asked for, and {text} has room for {room}")
        configs = {"text": copy.deepcopy(opt.config), "vision": copy.deepcopy(clip.config)}
        baseline = cls(configs, tokenizer, image_processor, emotions, settings)
        baseline.lm.load_state_dict(opt.state_dict())
        baseline.vision.clip.load_state_dict(clip.state_dict())
        with torch.no_grad():
            baseline.ret.copy_(opt.get_input_embeddings().weight.mean(0))
        if maps:
            baseline._take(maps, checkpoint)
        else:
            logger.warning("FROMAGe has no published maps (checkpoint): random ones are taken")
        return baseline.eval()

    def forget_stickers(self) -> None:
        """Drop the features of other stickers."""
        if "vision" in self._modules:
            self.vision.forget()

    def train(self, mode: bool = True) -> FromageBaseline:
        """Switch modes; OPT and CLIP are frozen, so features outlive it."""
        nn.Module.train(self, mode)
        self.lm.eval()
        self.vision.eval()
        return self

    def collate(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Give the prompts (see [`encode_dialogues`]) and the right `stickers` (B,)."""
        places = [self.inventory.place(row["sticker_id"]) for row in rows]
        return {**self._prompts(rows), "stickers": torch.tensor(places)}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, shown: Tensor, stickers: Tensor
    ) -> dict[str, Tensor]:
        """Give the symmetric contrastive loss over the batch."""
        loss = contrastive_loss(
            self.encode_dialogues(input_ids, attention_mask, shown),
            self.visual_fc(self.vision(self.inventory, stickers.tolist())),
            self.logit_scale,
            stickers,
        )
        return {"loss": loss}

    def score(self, rows: Sequence[dict]) -> RankerOutput:
        """Score each candidate by the scaled cosine with the state of `[RET]`."""
        batch = {name: tensor.to(self.device) for name, tensor in self._prompts(rows).items()}
        wanted = F.normalize(self.encode_dialogues(**batch), dim=-1)
        scores = []
        for want, row in zip(wanted, rows, strict=True):
            places = [self.inventory.place(sticker) for sticker in row["candidates"]]
            seen = F.normalize(self.visual_fc(self.vision(self.inventory, places)), dim=-1)
            scores.append((self.logit_scale.exp() * seen @ want).float().cpu().numpy())
        return RankerOutput(scores)

    def encode_dialogues(self, input_ids: Tensor, attention_mask: Tensor, shown: Tensor) -> Tensor:
        """Encode prompts into the space of retrieval, (B, shared_size).

        Args:
            input_ids: (B, L), the last real one of a row is the place of `[RET]`.
            attention_mask: (B, L), padding on the right.
            shown: (B, L), where the k-th token of the image of sticker s stands,
                s * visual_tokens + k; elsewhere -1.
        """
        embeds = self.lm.get_input_embeddings()(input_ids).clone()
        slots = shown >= 0
        if slots.any():
            parts = self.settings["visual_tokens"]
            places = shown[slots] // parts
            images = self.visual_embeddings(self.vision(self.inventory, places.tolist()))
            images = images.unflatten(-1, (parts, -1))
            part = shown[slots] % parts
            embeds[slots] = images[torch.arange(len(part), device=part.device), part].to(embeds)
        rows = torch.arange(len(embeds), device=embeds.device)
        last = attention_mask.sum(1) - 1
        embeds[rows, last] = self.ret.to(embeds)
        states = self.lm(
            inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return self.text_fc(states[rows, last].to(self.text_fc.weight))

    def _prompts(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        tokenizer, limit = self.tokenizer, self.settings["max_dialogue_tokens"]
        parts = self.settings["visual_tokens"]
        first = (
            tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        )
        sequences, images = [], []
        for row in rows:
            tokens, shown = [], []
            turns = row["utterances"]
            for number in reversed(range(len(turns))):
                turn = turns[number]
                said = f"{_SPEAKERS[turn['speaker']]} {turn['text']}".strip()
                # A byte-level tokenizer tells a word behind a space from one at the beginning.
                said = f" {said}" if number else said
                words = tokenizer(said, add_special_tokens=False)["input_ids"]
                places = [-1] * len(words)
                if turn["sticker_id"] is not None:
                    place = self.inventory.place(turn["sticker_id"])
                    words = words + [0] * parts
                    places += range(place * parts, (place + 1) * parts)
                tokens, shown = words + tokens, places + shown
                if len(tokens) > limit:
                    break
            tokens, shown = tokens[-limit:], shown[-limit:]
            # Of an image at the edge all tokens stay, or none.
            cut = next((i for i, s in enumerate(shown) if s < 0 or s % parts == 0), len(shown))
            sequences.append([first, *tokens[cut:], 0])
            images.append([-1, *shown[cut:], -1])
        ids, mask = pad(sequences, 0)
        return {"input_ids": ids, "attention_mask": mask, "shown": pad(images, -1)[0]}

    def _take(self, maps: Mapping[str, Tensor], checkpoint: str) -> None:
        """Fill the maps and `[RET]`; ValueError if one is missing or of another shape."""
        named = dict(self.named_parameters())
        for name, found in maps.items():
            wanted = named[name]
            # The embedding of [RET] is published as a row.
            found = found.reshape(-1) if name == "ret" else found
            if found.shape != wanted.shape:
                raise ValueError(
                    f"{Path(checkpoint) / _MAPS}: {name} has the shape {tuple(found.shape)}, and "
                    f"this OPT and CLIP take {tuple(wanted.shape)}: name those that "
                    f"{_ARGUMENTS} names"
                )
            with torch.no_grad():
                wanted.copy_(found)


def _read_maps(folder: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Read the published maps and their sizes; ValueError naming the file if they are not such."""
    path = folder / _ARGUMENTS
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        sizes = {"visual_tokens": given["n_visual_tokens"], "shared_size": given["shared_emb_dim"]}
        layers = given["text_emb_layers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not FROMAGe's arguments ({error!r})") from error
    if layers != [-1] or not all(type(size) is int and size > 0 for size in sizes.values()):
        raise ValueError(
            f"{path}: only maps of OPT's last layer into a space of its own are known "
            "(text_emb_layers [-1], whole numbers n_visual_tokens and shared_emb_dim)"
        )
    path = folder / _MAPS
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        found = {
            name.removeprefix("module.").removeprefix("model."): value
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"{path}: cannot be loaded as tensors alone ({reason})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: holds no state_dict of tensors") from error
    if missing := [name for name in _PUBLISHED if name not in found]:
        raise ValueError(f"{path}: holds no {missing[0]}")
    return {ours: found[name] for name, ours in _PUBLISHED.items()}, sizes


def _load_opt(
    text: str, scratch: Mapping[str, Any] | None, dtype: torch.dtype
) -> tuple[OPTModel, Any]:
    """Load an OPT and its tokenizer, or start one with the tokenizer of another model."""
    wanted = f"FROMAGe {text!r}: give an OPT's folder or Hub name"
    try:
        kind = AutoConfig.from_pretrained(text).model_type
        tokenizer = AutoTokenizer.from_pretrained(text)
        if kind == "opt":
            opt, info = OPTModel.from_pretrained(text, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{wanted} ({str(error).splitlines()[0]})") from error
    if kind == "opt":
        check_loaded(opt, info, wanted)
        return opt, tokenizer
    if not scratch:
        raise ValueError(
            f"{wanted}, not that of a {kind}; or, as scratch, the fields of an OPTConfig, to start "
            "one from scratch with its tokenizer"
        )
    if "vocab_size" in scratch:
        raise ValueError("FROMAGe: the tokenizer settles vocab_size: leave it out")
    own = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if "hidden_size" in scratch:
        own["word_embed_proj_dim"] = scratch["hidden_size"]
    return OPTModel(OPTConfig(**{**own, **scratch})), tokenizer
