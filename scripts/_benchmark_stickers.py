# SPDX-License-Identifier: Apache-2.0
"""What comes before the first answer: the stickers' features, at every start or once."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from _benchmark import alternate, lines, markdown, timed
from _cli import peak_memory_mib

TITLE = "Before the first answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there are as many stickers as MOD has."""


def measure(args: argparse.Namespace) -> dict:
    """Encode them, keep them, and open what was kept."""
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure(args, size, Path(folder))
    return {"rows": rows, "peak_memory_mib": peak_memory_mib()}


def _measure(args: argparse.Namespace, size: str, folder: Path) -> list[dict]:
    import torch
    from _benchmark_models import STICKERS, build_cks, build_mmbert, sticker_table
    from transformers import pipeline

    import modeling_cks  # noqa: F401 (registers the pipeline)
    from modeling_cks.build_index import build_index
    from modeling_cks.sticker_index import StickerIndex

    table = sticker_table(seed=args.seed)
    mmbert = build_mmbert(size, folder, seed=args.seed, dialogue_tokens=96)
    model, processor, _ = build_cks(size, seed=args.seed)
    select = pipeline("sticker-selection", model=model, processor=processor)

    def by_mmbert(number: int) -> None:
        mmbert.use_stickers(table)
        with torch.no_grad():
            mmbert.vision(mmbert.inventory, list(range(STICKERS)))

    def built(number: int) -> None:
        select._known.clear()  # it remembers pictures, and would not encode them again
        index = StickerIndex.create(folder / f"index {number}", model.config.embed_size, model)
        build_index(select, table, index)

    def opened(number: int) -> None:
        index = StickerIndex.open(folder / "index 0")
        index.check_model(model)
        index.take(range(STICKERS))

    contestants = {
        "MMBERT, at every start": timed(by_mmbert),
        "CKS, once: encoded and written to an index": timed(built),
        "CKS, at every start: the index opened": timed(opened),
    }
    timings = alternate(contestants, min(args.repeats, 2))
    return [
        {"size": size, "stickers": STICKERS, "contestant": name, **one}
        for name, one in timings.items()
    ]


def _cells(result: dict) -> tuple[list[str], list[list[object]]]:
    return ["", "size", "stickers", "s"], [
        [row["contestant"], row["size"], row["stickers"], row["seconds"]] for row in result["rows"]
    ]


def table(result: dict) -> str:
    """Lay out for the terminal."""
    return lines(*_cells(result))


def page(result: dict, folder) -> str:
    """Render the section."""
    return (
        "Before the first answer the stickers must be encoded. A sticker's features depend on the "
        "sticker alone, so an index keeps them from start to start.\n\n" + markdown(*_cells(result))
    )
