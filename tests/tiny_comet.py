# SPDX-License-Identifier: Apache-2.0
"""A COMET of a few thousand random parameters, in the layout of a real one."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

RELATIONS = ["xEffect", "xReact", "xWant", "oEffect", "oReact", "oWant"]
SENTENCES = [
    "PersonX is happy about the news and wants to tell a friend",
    "I am so sad today, nobody came to my party",
    "you are angry because they lost the game again",
    "what a surprise, thank you for the present!",
]


def tiny_tokenizer(*, relations=tuple(RELATIONS), gen_token=True) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    added = [*relations, *(["[GEN]"] if gen_token else [])]
    fast.add_tokens([*added, "PersonX", "PersonY", "PersonZ"])
    return fast


def tiny_comet(path, *, hidden_size=32, seed=0, gen_token=True, positions=64) -> Path:
    """Write a random COMET of `hidden_size` to `path` and return `path`."""
    path = Path(path)
    tokenizer = tiny_tokenizer(gen_token=gen_token)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=hidden_size,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * hidden_size,
        decoder_ffn_dim=2 * hidden_size,
        max_position_embeddings=positions,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        # As drawn by default, all sources would look nearly alike.
        init_std=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BartForConditionalGeneration(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
