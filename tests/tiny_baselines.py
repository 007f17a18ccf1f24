# SPDX-License-Identifier: Apache-2.0
"""Baselines of a few thousand parameters, built the way real ones are: from saved checkpoints."""

import torch
from small_world import rows, stickers
from tiny_model import EMOTIONS, TEXTS, TINY_TEXT, TINY_VISION
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from dataset_mod.sampling import NegativeSampler
from modeling_cks.backbones import train_tokenizer
from modeling_cks.baselines import baseline_class
from modeling_cks.training import TrainingSamples

SETTINGS = {
    "clip": {"settings": {"context": "dialogue", "max_tokens": 24}},
    "vilt": {
        "settings": {"max_dialogue_tokens": 24, "max_ocr_tokens": 8, "ocr": "none"},
        "scratch": {"initializer_range": 0.2},
    },
    "mmbert": {"settings": {"max_dialogue_tokens": 24, "max_ocr_tokens": 8, "ocr": "none"}},
    "mod_gpt": {
        "settings": {"max_dialogue_tokens": 24},
        "scratch": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40},
    },
    "blip2": {
        "settings": {"max_dialogue_tokens": 24, "max_ocr_tokens": 8, "ocr": "none"},
        "scratch": {
            "num_query_tokens": 4, "image_text_hidden_size": 16,
            "qformer_config": {"initializer_range": 0.2},
        },
    },
    "fromage": {
        "settings": {"max_dialogue_tokens": 24, "shared_size": 20, "zero_shot": False},
        "scratch": {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64,
            "max_position_embeddings": 40, "init_std": 0.2,
        },
    },
}


def checkpoints(folder):
    """Write a tiny BERT and a tiny CLIP eye; return their folders."""
    text, vision = folder / "text", folder / "vision"
    if not text.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fields = {k: v for k, v in TINY_TEXT.items() if k != "model_type"}
            tokenizer = train_tokenizer(TEXTS, fields["vocab_size"])
            BertModel(BertConfig(**fields | {"vocab_size": len(tokenizer)})).save_pretrained(text)
            tokenizer.save_pretrained(text)
            CLIPVisionModel(CLIPVisionConfig(**TINY_VISION)).save_pretrained(vision)
        size = TINY_VISION["image_size"]
        CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ).save_pretrained(vision)
    return str(text), str(vision)


def plain_tokenizer(folder):
    """Make a BERT's tokenizer that was never told of speakers."""
    words = dict.fromkeys(" ".join(TEXTS).split())
    path = folder / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    return BertTokenizer(str(path))


def tiny_baseline(kind, folder, **settings):
    """Build a baseline that has its stickers; the same one each time."""
    text, vision = checkpoints(folder)
    given = SETTINGS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        baseline = baseline_class(kind).build(
            emotions=EMOTIONS, text=text, vision=vision, scratch=given.get("scratch"),
            **{**given["settings"], **settings},
        )  # fmt: skip
    baseline.use_stickers(stickers())
    return baseline


def samples(baseline):
    """Twelve training samples with negatives."""
    inventory = baseline.inventory
    return TrainingSamples(rows(), NegativeSampler(inventory.ids, inventory.emotions, 1))
