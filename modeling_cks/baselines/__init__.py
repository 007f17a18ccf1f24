# SPDX-License-Identifier: Apache-2.0
"""Baselines of the paper's table 1, each on transformers' own classes."""

from __future__ import annotations

import importlib
from pathlib import Path

from .base import Baseline, read_record

BASELINES = {
    "clip": ("clip", "ClipBaseline"),
    "vilt": ("vilt", "ViltBaseline"),
    "mod_gpt": ("mod_gpt", "ModGptBaseline"),
    "mmbert": ("mmbert", "MmbertBaseline"),
    "blip2": ("blip2", "Blip2Baseline"),
    "fromage": ("fromage", "FromageBaseline"),
}
"""Each kind's module and class."""


def baseline_class(kind: str) -> type[Baseline]:
    """Return the class of a kind of baseline; ValueError if there is no such kind."""
    if kind not in BASELINES:
        raise ValueError(f"there is no baseline {kind!r}, only {', '.join(BASELINES)}")
    module, name = BASELINES[kind]
    return getattr(importlib.import_module(f".{module}", __name__), name)


def load_baseline(folder: str | Path) -> Baseline:
    """Load whichever baseline a folder holds; ValueError if it holds none."""
    return baseline_class(read_record(folder)["kind"]).from_pretrained(folder)


__all__ = ["BASELINES", "Baseline", "baseline_class", "load_baseline"]
