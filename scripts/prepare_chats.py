# SPDX-License-Identifier: Apache-2.0
"""Turn your own chats and a folder of stickers into tables that train.py and finetune.py read.

CHATS is a .csv (or .tsv) or .jsonl file with a turn on each line, in the order in which they were
said: dialogue, speaker, text, sticker (the file name of an image in the folder, or nothing) and,
if you have it, emotion. Other columns are left alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from _cli import run_main
from tqdm import tqdm

from dataset_mod.chats import Chats
from dataset_mod.prepared import SKIPPED_FILE, write_prepared
from dataset_mod.schema import NUM_CANDIDATES


def main(argv: list[str] | None = None) -> int:
    """Prepare chats and say what came of them, and what did not."""
    args = _parse(argv)
    chats = Chats(
        args.chats,
        args.stickers,
        language=args.language,
        emotions=_emotions_of(args.emotions_of) if args.emotions_of else None,
        held_out=args.held_out,
        context=args.context,
        seed=args.seed,
        skip_bad=args.skip_bad,
    )
    left_out = {reason: count for reason, count in chats.left_out.items() if count}
    statistics = write_prepared(
        [chats], args.output, progress=_progress, more={"left_out": left_out}
    )
    for split, of in statistics["splits"][args.language].items():
        print(f"{split}: {of['rows']} samples, {of['rows_with_emotion']} with an emotion")
    print(f"stickers: {statistics['stickers']}; emotions: {', '.join(chats.emotions) or 'none'}")
    if statistics["stickers"] < NUM_CANDIDATES:
        print(f"candidates: all {statistics['stickers']} stickers, fewer than {NUM_CANDIDATES}")
    if chats.speakers > 2:
        print(
            f"up to {chats.speakers} people in a dialogue: who sends the sticker is one side, all"
            " others are the other"
        )
    if chats.other_columns:
        print(f"columns left alone: {', '.join(chats.other_columns)}")
    if chats.other_files:
        print(f"files that are no images: {len(chats.other_files)} ({chats.other_files[0]}, ...)")
    for reason, count in left_out.items():
        print(f"{reason}: {count}")
    if chats.skipped:
        where = args.output / SKIPPED_FILE
        print(f"broken lines, left out with their dialogues: {len(chats.skipped)}, see {where}")
    if not chats.emotions:
        print("no emotions: train from scratch with --set model.use_emotion=false")
    print(f"written to {args.output}")
    return 0


def _emotions_of(model: str) -> list[str]:
    # Imported here: preparing data needs no model otherwise.
    from transformers import AutoConfig

    import modeling_cks  # noqa: F401 (registers CKS)

    labels = AutoConfig.from_pretrained(model).id2label
    return [labels[number] for number in range(len(labels))]


def _progress(name: str, tables: Iterator) -> Iterator:
    with tqdm(desc=name, unit=" samples", disable=None, file=sys.stderr) as bar:
        for table in tables:
            yield table
            bar.update(table.num_rows)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chats", type=Path, help="the .csv, .tsv or .jsonl file")
    parser.add_argument(
        "--stickers", type=Path, required=True, help="folder of images; each is a sticker"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--language", default="en", help="its code (default: %(default)s)")
    parser.add_argument(
        "--emotions-of",
        metavar="MODEL",
        help="take the emotions and their order from this checkpoint, to go on training it; an"
        " emotion that it does not know is then an error",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        help="share of the dialogues for validation, and again for test (default: %(default)s)",
    )
    parser.add_argument(
        "--context", type=int, default=32, help="newest turns that are kept (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of splits and candidates")
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help=f"leave a dialogue with a broken line out and list the line in {SKIPPED_FILE}, instead"
        " of stopping",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
