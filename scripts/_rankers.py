# SPDX-License-Identifier: Apache-2.0
"""Load whatever train.py or train_baseline.py wrote, as a ranker of prepared data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

# Registers CKS with AutoModel and AutoProcessor.
import modeling_cks  # noqa: F401
from dataset_mod import PreparedMod
from modeling_cks.baselines import load_baseline
from modeling_cks.baselines.base import Baseline
from modeling_cks.cks_ranker import CKSRanker
from modeling_cks.training import StickerInventory


def load_ranker(folder: Path, data: PreparedMod, data_dir: Path, knowledge: bool = True) -> tuple:
    """Load a CKS or a baseline as a ranker, its stickers, and the record of its training.

    Raises:
        ValueError: the folder is missing, holds neither, or knows other emotions than the data.
    """
    if (folder / "baseline.json").is_file():
        baseline = load_baseline(folder)
        baseline.ocr_cache_path = str(data_dir / "ocr.json")
        check_emotions(baseline.emotions, data.emotions, folder, data_dir)
        return baseline.to(_device()), baseline.use_stickers(data.stickers), _training(folder)
    model, processor, training = load_trained(folder)
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    check_emotions(names, data.emotions, folder, data_dir)
    processor.ocr_cache_path = str(data_dir / "ocr.json")
    if (data_dir / "knowledge").is_dir():
        processor.knowledge_store = str(data_dir / "knowledge")
    inventory = StickerInventory(data.stickers, processor)
    ranker = CKSRanker(model.to(_device()), processor, inventory, knowledge=knowledge)
    return ranker, inventory, training


def with_stickers(ranker, stickers):
    """Return a ranker that judges by another table of stickers.

    A CKS as it was goes on judging by its own; a baseline knows one table at a time.
    """
    if isinstance(ranker, Baseline):
        ranker.use_stickers(stickers)
        return ranker
    collator = ranker.collator
    inventory = StickerInventory(stickers, collator.processor)
    return CKSRanker(
        ranker.model, collator.processor, inventory, knowledge=collator.knowledge,
        features=collator.features,
    )  # fmt: skip


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_trained(folder: Path) -> tuple:
    """Load model, processor and the record of its training ({} where there is none).

    Raises:
        ValueError: the folder is missing or holds no CKS model.
    """
    if not (folder / "config.json").is_file():
        what = "not a model's folder (no config.json)" if folder.is_dir() else "no such folder"
        raise ValueError(f"{folder}: {what}; train one with scripts/train.py")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'}: not a model's configuration") from error
    if kind != "cks":
        raise ValueError(f"{folder}: holds a {kind} model, not a CKS one")
    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    return model, processor, _training(folder)


def _training(folder: Path) -> dict:
    try:
        return json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / 'training.json'}: not valid JSON ({error})") from error


def check_emotions(names: Sequence[str], emotions: Sequence[str], folder: Path, data: Path) -> None:
    """Refuse a model whose emotions are not the data's, in their order; ValueError says which."""
    if list(names) != list(emotions):
        differ = next(
            (n for n, (a, b) in enumerate(zip(names, emotions, strict=False)) if a != b),
            min(len(names), len(emotions)),
        )
        shown = [each[differ] if differ < len(each) else "none" for each in (names, emotions)]
        raise ValueError(
            f"{folder} was trained on other emotions than {data} has: {len(names)} and "
            f"{len(emotions)} of them; number {differ} is {shown[0]} there and {shown[1]} here"
        )
