# SPDX-License-Identifier: Apache-2.0
"""Turn a folder in the MOD release's layout into Parquet tables that anyone can load."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from _cli import peak_memory_mib, run_main
from tqdm import tqdm

from dataset_mod.prepared import SKIPPED_FILE, prepare
from dataset_mod.schema import LANGUAGES


def main(argv: list[str] | None = None) -> int:
    """Prepare a release and say what came of it."""
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    statistics = prepare(
        args.release,
        args.output,
        languages=list(dict.fromkeys(args.language or ["en"])),
        captions=args.captions,
        skip_bad=args.skip_bad,
        progress=_progress,
    )
    _report(statistics, args.output)
    print(f"{time.perf_counter() - start:.1f} s, {peak_memory_mib():.0f} MiB at most")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", type=Path, help="folder of the release; any depth of folders")
    parser.add_argument(
        "--language",
        action="append",
        choices=LANGUAGES,
        help="which of its languages (default: en); repeat it for both, the first one then labels"
        " the stickers",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help=f"leave broken records out and list them in {SKIPPED_FILE}, instead of stopping",
    )
    parser.add_argument(
        "--captions",
        type=Path,
        metavar="FILE.json",
        help="sticker id -> text, for the stickers' column `caption`",
    )
    return parser.parse_args(argv)


def _progress(name: str, tables: Iterator) -> Iterator:
    with tqdm(desc=name, unit=" samples", disable=None, file=sys.stderr) as bar:
        for table in tables:
            yield table
            bar.update(table.num_rows)


def _report(statistics: dict, output: Path) -> None:
    for language, splits in statistics["splits"].items():
        for split, of in splits.items():
            line = f"{language} {split}: {of['rows']} samples, {of['rows_with_emotion']} with an"
            line += " emotion"
            if of["rows_without_answer"]:
                line += f", {of['rows_without_answer']} without an answer"
            unseen = of.get("answer_stickers_unseen_in_train")
            if unseen is not None:
                line += (
                    f"; {len(unseen)} of {of['answer_stickers']} stickers unseen in train"
                    f" ({of['rows_with_answer_unseen_in_train']} samples)"
                )
            print(line)
    print(
        f"stickers: {statistics['stickers']}, {statistics['stickers_with_emotion']} with an"
        f" emotion, {statistics['captions']} with a caption"
    )
    unlisted = statistics["unlisted_images"]
    if unlisted:
        print(f"images that img2id does not list: {len(unlisted)} ({', '.join(unlisted[:5])})")
    if statistics["skipped_records"]:
        where = output / SKIPPED_FILE
        print(f"broken records left out: {statistics['skipped_records']}, listed in {where}")
    print(f"written to {output} (fingerprint {statistics['fingerprint'][:16]})")


if __name__ == "__main__":
    run_main(main)
