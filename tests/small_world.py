# SPDX-License-Identifier: Apache-2.0
"""Twelve samples of four dialogues over six stickers, and a tiny model to train on them."""

import datasets
import numpy as np
import torch
from PIL import Image
from tiny_model import tiny_cks

from dataset_mod.sampling import NegativeSampler
from modeling_cks.training import (
    CKSTrainer,
    CKSTrainingArguments,
    StickerInventory,
    TrainingSamples,
)

TEXTS = ("i am so happy", "oh no", "you make me angry", "what a surprise", "thank you", "sad")
EMOTIONS = (0, 0, 1, 1, 2, 3)


def stickers():
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in EMOTIONS]
    return datasets.Dataset.from_dict(
        {"id": [f"{n:03}" for n in range(6)], "image": images,
         "caption": ["happy", "", "oh no", "", "you", "sad"], "emotion": list(EMOTIONS)},
        features=datasets.Features(
            {"id": datasets.Value("string"), "image": datasets.Image(),
             "caption": datasets.Value("string"), "emotion": datasets.Value("int64")}
        ),
    )  # fmt: skip


def rows(count=12, seed=0):
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        utterances = [
            {
                "speaker": turn % 2,
                "text": TEXTS[int(draw.integers(6))],
                "sticker_id": f"{int(draw.integers(6)):03}" if draw.random() < 0.3 else None,
                "emotion": None,
            }
            for turn in range(2 + number % 3)
        ]
        utterances[-1]["sticker_id"] = None
        place = int(draw.integers(6))
        others = [n for n in range(6) if n != place]
        chosen = sorted([place, *draw.choice(others, 3, replace=False).tolist()])
        made.append(
            {
                "dialogue_id": f"dialogue {number // 3}",
                "turn": number % 3 + 1,
                "utterances": utterances,
                "sticker_id": f"{place:03}",
                # The second half carries hardly a label: processes see uneven numbers of them.
                "emotion": EMOTIONS[place] if number < 7 else -1,
                "candidates": [f"{n:03}" for n in chosen],
            }
        )
    return made


def world(folder, **model_fields):
    """Return (model, processor, inventory)."""
    model, processor = tiny_cks(folder, knowledge_size=32, **model_fields)
    processor.comet = None
    return model, processor, StickerInventory(stickers(), processor)


def trainer(folder, output, *, model_fields=None, eval_rows=None, kind=CKSTrainer, **arguments):
    """Build a trainer without COMET whose dropout and restyling draw from the seed."""
    model, processor, inventory = world(folder, **(model_fields or {}))
    samples = TrainingSamples(rows(), NegativeSampler(inventory.ids, inventory.emotions, 1))
    fields = {
        "output_dir": str(output), "per_device_train_batch_size": 4, "num_train_epochs": 2,
        "learning_rate": 1e-3, "logging_steps": 1, "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "save_strategy": "no", "seed": 3, **arguments,
    }  # fmt: skip
    torch.manual_seed(0)
    return kind(
        model, CKSTrainingArguments(**fields), processor, inventory, samples, eval_rows,
        knowledge=False,
    )  # fmt: skip
