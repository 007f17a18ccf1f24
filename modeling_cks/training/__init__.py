# SPDX-License-Identifier: Apache-2.0
"""Training: rows to batches, and the Trainer that ranks when it evaluates."""

from .arguments import CKSTrainingArguments
from .collator import CKSCollator, StickerInventory, TrainingSamples
from .intervention import WordIntervention
from .trainer import CKSTrainer

__all__ = [
    "CKSCollator",
    "CKSTrainer",
    "CKSTrainingArguments",
    "StickerInventory",
    "TrainingSamples",
    "WordIntervention",
]
