# SPDX-License-Identifier: Apache-2.0
"""Build an index of stickers for a model, add to one, or remove from it.

What was added is kept: stopped at any moment, the next run goes on where this one was.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import torch
from _cli import peak_memory_mib, run_main
from _rankers import load_ranker
from tqdm import tqdm

from dataset_mod.prepared import load_prepared
from modeling_cks.build_index import build_index
from modeling_cks.sticker_index import StickerIndex

_SHOWN = 5
_DIALOGUES = 256


def main(argv: list[str] | None = None) -> int:
    """Read, encode and add stickers, remove others, and say what came of it."""
    args = _parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    start = time.perf_counter()
    if args.stickers is not None:
        select, index = _open(args)
        _add(args, select, index)
    else:
        index = StickerIndex.open(args.output)
    if args.remove:
        index.remove(args.remove)
        print(f"{len(args.remove)} removed")
    if args.optimize or (args.optimize is None and index.needs_optimizing):
        _optimize(index, args)
    print(
        f"{len(index)} stickers in {len(index.packs)} packs, in {args.output}; "
        f"{time.perf_counter() - start:.1f} s, {peak_memory_mib():.0f} MiB at most"
    )
    return 0


def _open(args: argparse.Namespace):
    from transformers import pipeline

    import modeling_cks  # noqa: F401 (registers the pipeline)

    if not args.model.is_dir():
        raise ValueError(f"{args.model}: there is no model; train one with train.py")
    if not args.stickers.is_dir():
        raise ValueError(f"there is no folder of stickers at {args.stickers}")
    select = pipeline("sticker-selection", model=str(args.model), device=args.device)
    if args.no_ocr:
        select.processor.ocr = "none"
    if (args.output / "manifest.json").exists():
        return select, StickerIndex.open(args.output)
    index = StickerIndex.create(
        args.output, select.model.config.embed_size, select.model, exact_below=args.exact_below
    )
    return select, index


def _add(args: argparse.Namespace, select, index: StickerIndex) -> None:
    captions = None
    if args.captions is not None:
        captions = json.loads(args.captions.read_text(encoding="utf-8"))
        if not isinstance(captions, dict):
            raise ValueError(f"{args.captions}: captions are a mapping of names to texts")
    source = args.stickers
    if (source / "data" / "stickers").is_dir():
        source = load_prepared(source).stickers
    with tqdm(desc="stickers", unit="sticker") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        built = build_index(
            select,
            source,
            index,
            captions=captions,
            pack=args.pack,
            skip_unreadable=args.skip_unreadable,
            batch_size=args.batch_size,
            progress=progress,
        )
    print(f"{built.added} added, {built.known} already there")
    if built.other_files:
        print(f"{built.other_files} files are no images and were left out")
    if built.unreadable:
        print(f"{len(built.unreadable)} could not be read and were left out:")
        for name, reason in list(built.unreadable.items())[:_SHOWN]:
            print(f"  {name}: {reason}")
        if len(built.unreadable) > _SHOWN:
            print(f"  and {len(built.unreadable) - _SHOWN} more")


def _optimize(index: StickerIndex, args: argparse.Namespace) -> None:
    queries = None if args.dialogues is None else _queries(args)
    with tqdm(desc="optimising") as bar:

        def progress(stage: str, done: int, total: int) -> None:
            bar.set_description(stage)
            bar.total = total
            bar.update(done - bar.n)
            bar.refresh()

        index.optimize(queries, progress)


def _queries(args: argparse.Namespace) -> torch.Tensor:
    """Encode dialogues that lie as those to come do, spread over the validation split."""
    tables = load_prepared(args.dialogues)
    ranker, _, _ = load_ranker(args.model, tables, args.dialogues)
    split = tables.splits.get("validation")
    if not split:
        raise ValueError(f"{args.dialogues}: there is no validation split to tune with")
    places = range(0, len(split), max(len(split) // _DIALOGUES, 1))
    rows = [split[place] for place in list(places)[:_DIALOGUES]]
    starts = tqdm(range(0, len(rows), args.batch_size), desc="dialogues to tune with")
    return torch.cat([ranker.dialogue_embeds(rows[at : at + args.batch_size]) for at in starts])


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("--output", type=Path, required=True, help="folder of the index")
    parser.add_argument(
        "--stickers",
        type=Path,
        help="folder of images, whose sub-folders are packs, or of prepare_mod.py; those that the "
        "index has by name are left as they are",
    )
    parser.add_argument("--captions", type=Path, help="JSON of texts by name, in the place of OCR")
    parser.add_argument("--no-ocr", action="store_true", help="read no words off the stickers")
    parser.add_argument("--pack", help="pack of all stickers added (default: their sub-folder)")
    parser.add_argument("--remove", nargs="+", metavar="NAME", help="stickers to remove")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out and count what cannot be read, instead of ending there",
    )
    parser.add_argument(
        "--dialogues",
        type=Path,
        help="folder of prepare_mod.py whose validation split the index is tuned with when it is "
        "optimised (default: with pairs of its stickers)",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")
    parser.add_argument(
        "--exact-below",
        type=int,
        default=10_000,
        help="of a new index: up to so many stickers are compared one by one "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--optimize",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="write the index anew in the end (default: where much has changed)",
    )
    args = parser.parse_args(argv)
    if args.stickers is None and not args.remove and not args.optimize:
        raise ValueError("nothing to do: give --stickers, --remove or --optimize")
    if args.dialogues is not None and not (args.dialogues / "data").is_dir():
        raise ValueError(f"{args.dialogues}: no data; make it with prepare_mod.py")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {args.batch_size}")
    return args


if __name__ == "__main__":
    run_main(main)
