# SPDX-License-Identifier: Apache-2.0
"""Save an untrained BERT that knows the words of MOD-mini, for causal_bench.py.

The tokenizer is trained on the sentences of the world's ATOMIC, in which all words of the
dialogues occur; the weights are random, so that no model knows more than another.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import _cli
import torch
from train import read_recipe
from transformers import AutoConfig, AutoModel

from modeling_cks.backbones import train_tokenizer


def main(argv: list[str] | None = None) -> int:
    """Train the tokenizer, draw the weights, save both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="whose scratch.text_config is the encoder's size")
    parser.add_argument("atomic", type=Path, help="ATOMIC's v4 CSV")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    fields = dict(read_recipe(args.recipe)["scratch"]["text_config"])
    texts = []
    with args.atomic.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            texts.append(row["event"])
            texts += json.loads(row["xReact"])
    tokenizer = train_tokenizer(texts, fields["vocab_size"])
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**fields, "vocab_size": len(tokenizer)})
    AutoModel.from_config(config).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    return 0


if __name__ == "__main__":
    _cli.run_main(main)
