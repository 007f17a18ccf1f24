# SPDX-License-Identifier: Apache-2.0
"""The models that benchmark.py measures, of random weights: time does not depend on their values.

Nothing is downloaded; the sizes are those of the checkpoints that the paper names.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

CANDIDATES = 11
EMOTIONS = [f"emotion {number}" for number in range(48)]
STICKERS = 307
"""As many as MOD has."""
TURNS = 6
_TEXTS = (
    "Guess what, I finally got the job I told you about!",
    "No way, that is wonderful news. When do you start?",
    "Next Monday already, and I am a little afraid of it to be honest.",
    "Do not worry, you were angry at your old boss every single day.",
    "That is true. Will you come and celebrate with me tonight?",
    "Of course I will, I am so happy for you!",
)
# Words that are one token each, so that a dialogue's length is known. They bear no letter of any
# language's words: what is measured must not depend on what a tokenizer was trained on.
_WORDS = [f"w{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst"]
_PAPER_TEXT = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_TINY_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# What `modeling_cks.backbones.build` takes, and the COMET's configuration.
SIZES = {
    "tiny": {
        "build": {
            "text_config": {"model_type": "roberta", **_TINY_TEXT},
            "bert_config": {"model_type": "bert", **_TINY_TEXT},
            "vision_config": {**_TINY_TEXT, "image_size": 32, "patch_size": 16},
            "embed_size": 32,
            "lstm_hidden_size": 16,
            "fusion_hidden_size": 32,
            "fusion_num_layers": 2,
            "fusion_num_heads": 2,
            "fusion_intermediate_size": 64,
        },
        "comet": {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
        },
    },
    "full": {
        "build": {
            "text_config": {
                "model_type": "roberta",
                **_PAPER_TEXT,
                "vocab_size": 50265,
                "max_position_embeddings": 514,
                "type_vocab_size": 1,
            },
            "bert_config": {"model_type": "bert", **_PAPER_TEXT, "vocab_size": 30522},
            "vision_config": {
                **_PAPER_TEXT,
                "image_size": 224,
                "patch_size": 32,
                "hidden_act": "quick_gelu",
            },
        },
        "comet": {"d_model": 1024, "vocab_size": 50272},  # BART-large, the library's default
    },
}


def build_cks(
    size: str, *, seed: int = 0, ocr: str = "none", comet: bool = False, **options
) -> tuple:
    """Build (model, processor, facts): model in evaluation mode, facts its numbers of parameters.

    Args:
        size: "tiny" or "full", the paper's.
        seed: of the weights.
        ocr: the OCR engine.
        comet: give the processor a COMET too.
        **options: of the processor.
    """
    import torch

    from modeling_cks.backbones import build, parameter_counts

    torch.manual_seed(seed)
    sizes = SIZES[size]
    model, processor = build(
        emotions=EMOTIONS,
        texts=[*_TEXTS, *(" ".join([word] * 3) for word in _WORDS)],
        knowledge_size=sizes["comet"]["d_model"],
        processor_options={"ocr": ocr, **options},
        **sizes["build"],
    )
    facts = {"parameters": parameter_counts(model)["total"]}
    if comet:
        processor.knowledge_extractor = build_comet(size)
        counts = parameter_counts(processor.knowledge_extractor.model)
        facts["comet_parameters"] = counts["total"]
    return model.eval(), processor, facts


def build_comet(size: str):
    """Draw a COMET, with a tokenizer that knows the relations."""
    from transformers import BartConfig, BartForConditionalGeneration

    from modeling_cks.backbones import train_tokenizer
    from modeling_cks.knowledge import GEN_TOKEN, RELATIONS, KnowledgeExtractor

    tokenizer = train_tokenizer([*_TEXTS, *(" ".join([word] * 3) for word in _WORDS)])
    tokenizer.add_tokens([*RELATIONS, GEN_TOKEN])
    config = BartConfig(**{"vocab_size": len(tokenizer), **SIZES[size]["comet"]})
    return KnowledgeExtractor(BartForConditionalGeneration(config), tokenizer)


def build_mmbert(size: str, folder: Path, *, seed: int = 0, dialogue_tokens: int = 96):
    """Build MMBERT of this size: BERT, and the CLIP that CKS has, as its stand-in is built.

    Its checkpoints are written to `folder`, since it starts from saved ones.
    """
    import torch
    from transformers import BertConfig, BertModel, CLIPImageProcessor, CLIPVisionConfig
    from transformers import CLIPVisionModel as Vision

    from modeling_cks.backbones import train_tokenizer
    from modeling_cks.baselines import baseline_class

    torch.manual_seed(seed)
    sizes = SIZES[size]["build"]
    text, vision = folder / "bert", folder / "clip"
    if not text.exists():
        tokenizer = train_tokenizer([*_TEXTS, *(" ".join([word] * 3) for word in _WORDS)])
        config = BertConfig(**{"vocab_size": len(tokenizer), **sizes["bert_config"]})
        BertModel(config).save_pretrained(text)
        tokenizer.save_pretrained(text)
        Vision(CLIPVisionConfig(**sizes["vision_config"])).save_pretrained(vision)
        edge = sizes["vision_config"]["image_size"]
        CLIPImageProcessor(
            size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}
        ).save_pretrained(vision)
    return baseline_class("mmbert").build(
        emotions=EMOTIONS,
        text=str(text),
        vision=str(vision),
        max_dialogue_tokens=dialogue_tokens,
        ocr="none",
    )


def sticker_table(count: int = STICKERS, *, seed: int = 0):
    """Draw stickers with captions of none to 12 words: a table as the prepared data has it."""
    import datasets

    words = random.Random(seed)
    images = sticker_images(count, seed)
    return datasets.Dataset.from_dict(
        {
            "id": [f"{number:03}" for number in range(count)],
            "image": images,
            "caption": [" ".join(words.choices(_WORDS, k=words.randint(0, 12))) for _ in images],
            "emotion": [number % len(EMOTIONS) for number in range(count)],
        },
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "image": datasets.Image(),
                "caption": datasets.Value("string"),
                "emotion": datasets.Value("int64"),
            }
        ),
    )


def sticker_images(count: int, seed: int = 0) -> list:
    """Draw so many pictures of 240 x 240, each another."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(seed)
    return [
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((240, 240))
        for _ in range(count)
    ]


def dialogue(tokens: int, number: int | str = 0, turns: int = TURNS) -> list[dict]:
    """Make a dialogue of `tokens` word pieces, the speakers' own included.

    Args:
        tokens: pieces of all turns together, at least two a turn.
        number: whose dialogue it is; another number has other words and the same lengths.
        turns: how many turns.
    """
    draw = random.Random(f"dialogue {number}")
    counts = [len(part) for part in _parts(range(tokens - turns), turns)]
    return [
        {"speaker": place % 2, "text": " ".join(draw.choices(_WORDS, k=max(count, 1)))}
        for place, count in enumerate(counts)
    ]


def utterance(tokens: int, number: int | str) -> str:
    """Make a new utterance of so many word pieces, the speaker's own included."""
    draw = random.Random(f"utterance {number}")
    return " ".join(draw.choices(_WORDS, k=max(tokens - 1, 1)))


def turn_flops(select, pack, turns: Sequence[dict], new: Sequence[dict], **options) -> float:
    """Count the work of the last of the `new` turns, when a conversation knows `turns`."""
    from _benchmark import flops

    followed = select.conversation(pack, **options)
    for turn in turns:
        followed.say(**turn)
    followed.select()
    followed.say(new[-1]["text"])
    return flops(followed.select)


def row(turns: Sequence[dict], stickers: Sequence[str], answer: str, **more) -> dict:
    """Make a row of the prepared data of a dialogue and its candidates."""
    return {
        "dialogue_id": "dialogue",
        "turn": len(turns),
        "utterances": [{**turn, "sticker_id": None, "emotion": None} for turn in turns],
        "sticker_id": answer,
        "emotion": 0,
        "candidates": list(stickers),
        **more,
    }


def _parts(values: Sequence, count: int) -> list[Sequence]:
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    return [values[start:stop] for start, stop in zip(edges, edges[1:], strict=False)]
