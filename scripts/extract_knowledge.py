# SPDX-License-Identifier: Apache-2.0
"""Extract COMET's knowledge of every distinct utterance of a prepared data folder.

What is extracted is kept: stopped at any moment, the next run goes on where this one was. Started
by torchrun or accelerate, several processes share the work, each on its own GPU where there are
GPUs:

    torchrun --nproc_per_node 2 scripts/extract_knowledge.py DATA --comet COMET
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from _cli import peak_memory_mib, run_main
from accelerate import PartialState
from tqdm import tqdm

from dataset_mod.prepared import load_prepared
from modeling_cks.knowledge import (
    FEATURES,
    KnowledgeExtractor,
    KnowledgeStore,
    normalize_text,
)

# Utterances between two writings: seconds of work on a CPU, and full batches of each length.
_CHUNK = 256
# As many utterances as fill a pass: six sources each.
_LEAST_CHUNK = 8


def main(argv: list[str] | None = None) -> int:
    """Extract what is missing and say what came of it."""
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    state = PartialState(cpu=args.device == "cpu")
    texts, total = distinct_utterances(args.data, args.language, args.splits)
    extractor = KnowledgeExtractor.from_pretrained(
        args.comet,
        subfolder=args.subfolder,
        device=args.device or state.device,
        feature=args.feature,
        gen_token=args.gen_token,
        batch_size=args.batch_size,
    )
    folder = args.store or args.data / "knowledge"
    store = KnowledgeStore(folder, extractor.hidden_size, extractor.key)
    missing = store.missing(texts)
    before = len(store)
    # All must have seen the same store before the first of them adds to it, or their shares would
    # not make a whole.
    state.wait_for_everyone()
    done = len(texts) - len(missing)
    if state.is_main_process:
        print(f"{len(texts)} distinct of {total} utterances, {done} already there", flush=True)
    start = time.perf_counter()
    share = work_list(missing, state.num_processes)[state.process_index :: state.num_processes]
    hidden = not state.is_main_process
    with tqdm(total=len(texts), initial=done, unit="utt", disable=hidden) as bar:

        def shown(_: int) -> None:
            # What the others have added counts too, as far as this process has seen it.
            bar.update(done + len(store) - before - bar.n)

        for chunk in share:
            own = bar.update if state.num_processes == 1 else None
            store.add(chunk, extractor.features(chunk, progress=own))
            if own is None:
                shown(len(chunk))
        state.wait_for_everyone()
        left = store.missing(texts)
        shown(0)
    seconds = time.perf_counter() - start
    if left:
        raise ValueError(f"{store.path}: {len(left)} texts are missing; run it again to go on")
    if state.is_main_process:
        rate = f", {len(missing) / seconds:.1f} utterances/s" if missing else ""
        several = f" by {state.num_processes} processes" if state.num_processes > 1 else ""
        print(
            f"{len(missing)} extracted{several} in {seconds:.1f} s{rate}, "
            f"{peak_memory_mib():.0f} MiB at most\n{len(store)} texts in {store.path}"
        )
    if state.num_processes > 1:
        state.destroy_process_group()
    return 0


def distinct_utterances(
    data: Path, language: str | None, splits: list[str] | None
) -> tuple[list[str], int]:
    """Return the distinct normalised utterances of a prepared folder, and how many there are.

    Raises:
        ValueError: the folder is not a prepared one, or has no such split.
    """
    tables = load_prepared(data, language).splits
    unknown = [split for split in splits or () if split not in tables]
    if unknown:
        raise ValueError(f"{data}: has no split {unknown[0]!r}, only {', '.join(tables)}")
    texts: dict[str, None] = {}
    total = 0
    for split in splits or tables:
        # Batch by batch: the rows of a dialogue repeat its utterances, and MOD has 212,248 rows.
        for batch in tables[split].select_columns("utterances").iter(batch_size=1000):
            for utterances in batch["utterances"]:
                total += len(utterances)
                texts.update((normalize_text(one["text"]), None) for one in utterances)
    return list(texts), total


def work_list(texts: list[str], workers: int = 1) -> list[list[str]]:
    """Cut the texts into chunks of about one length each.

    The longest come first, so that a batch that is too large for the memory fails at once and the
    time that is left is never underestimated. Each chunk stands for itself: several workers may
    each take every n-th, and with several of them chunks are small enough for all to have work.
    """
    order = sorted(texts, key=lambda text: (-len(text), text))
    size = _CHUNK
    if workers > 1:
        size = min(_CHUNK, max(_LEAST_CHUNK, -(-len(order) // (4 * workers))))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that prepare_mod.py wrote")
    parser.add_argument(
        "--comet", required=True, help="COMET checkpoint: a folder or the name of a Hub repository"
    )
    parser.add_argument("--subfolder", default="", help="where in it the checkpoint lies")
    parser.add_argument(
        "--feature",
        choices=FEATURES,
        default=FEATURES[0],
        help="the hidden state that is the feature (default: %(default)s)",
    )
    parser.add_argument(
        "--no-gen-token",
        dest="gen_token",
        action="store_false",
        help="for checkpoints whose input does not end in [GEN]",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=48,
        help="sources per pass, six for each utterance (default: %(default)s)",
    )
    parser.add_argument(
        "--device", help="where COMET runs (default: the GPU of the process, if there is one)"
    )
    parser.add_argument("--language", help="which language of the data (default: its first)")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="splits (default: all)")
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="folder of the knowledge store (default: DATA/knowledge)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_main(main)
