# SPDX-License-Identifier: Apache-2.0
"""The data of sticker selection: MOD releases, prepared tables, bias, a synthetic world.

Importing it makes `load_dataset("mod", "en" | "zh" | "stickers", data_dir=RELEASE)` work.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

_NAMES = {
    "ChatError": "chats",
    "Chats": "chats",
    "Release": "release",
    "ReleaseError": "release",
    "PreparedMod": "prepared",
    "load_prepared": "prepared",
    "prepare": "prepared",
    "write_prepared": "prepared",
    "StickerImageError": "stickers",
    "load_sticker_image": "stickers",
    "NegativeSampler": "sampling",
    "draw_candidates": "sampling",
    "write_mini_release": "synthetic",
    "EmotionalWords": "bias",
    "find_emotional_words": "bias",
    "load_marks": "bias",
    "load_words": "bias",
    "read_lexicon": "bias",
    "with_bias": "bias",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def _register() -> None:
    # The hash is part of the cache's path: tables that older code built are not taken for ours.
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    _PACKAGED_DATASETS_MODULES["mod"] = (f"{__name__}.mod", digest.hexdigest())


_register()
