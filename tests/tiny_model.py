# SPDX-License-Identifier: Apache-2.0
"""A whole CKS, processor and COMET included, of well under a million parameters."""

from pathlib import Path

import torch
from tiny_comet import tiny_comet

from modeling_cks.backbones import build

EMOTIONS = ("joy", "sadness", "anger", "surprise")
TEXTS = (
    "i am so happy today , we won the game !",
    "oh no , that is sad . i am sorry for you .",
    "you make me angry ! why did you break my cup ?",
    "what a surprise , a party for me ? thank you so much !",
    "happiness surprise disgust fear sadness anger",
    "see you tomorrow at the station , do not be late .",
)
TINY_TEXT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 160,
    "max_position_embeddings": 64,
    # Wide enough apart that different inputs show in every output.
    "initializer_range": 0.2,
}
TINY_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
TINY_SIZES = {
    "embed_size": 24,
    "lstm_hidden_size": 12,
    "fusion_hidden_size": 32,
    "fusion_num_layers": 2,
    "fusion_num_heads": 2,
    "fusion_intermediate_size": 64,
}
TINY_PROCESSOR = {
    "ocr": "none",
    "max_utterances": 8,
    "max_utterance_tokens": 24,
    "max_dialogue_tokens": 64,
    "max_ocr_tokens": 8,
}


def tiny_cks(tmp_path, *, seed=0, emotions=EMOTIONS, processor_options=None, **config_overrides):
    """Build (model, processor); the COMET is written to `tmp_path / "comet"`.

    With `use_knowledge=False` or a `knowledge_size` of the caller's there is no COMET.
    """
    comet = None
    if config_overrides.get("use_knowledge", True) and "knowledge_size" not in config_overrides:
        comet = tiny_comet(Path(tmp_path) / "comet", hidden_size=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(
            emotions=emotions,
            comet=comet,
            texts=TEXTS,
            text_config=TINY_TEXT,
            bert_config=TINY_TEXT,
            vision_config=TINY_VISION,
            processor_options={**TINY_PROCESSOR, **(processor_options or {})},
            **{**TINY_SIZES, **config_overrides},
        )
