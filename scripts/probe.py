# SPDX-License-Identifier: Apache-2.0
"""Probe a trained CKS or baseline: change one thing about each sample, see how far scores move.

Scores should stay where only an emotional word or the stickers' style changes, and move where the
cause of the feeling or the images do. Words that are found in the data are also those of what
happened ("died"); words that tell nothing of the speaker's feeling, such as those in the name of a
song, are best given by --lexicon. Writes the figures to PROBE.json, each sample's movements to
PROBE.samples.jsonl beside it.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Mapping
from pathlib import Path

import _cli
from _groups import add_lexicon, emotional_words
from _rankers import load_ranker, with_stickers

from dataset_mod import load_prepared
from dataset_mod.synthetic_counterfactuals import MiniTruth
from modeling_cks.evaluation import write_samples
from modeling_cks.evaluation.probes import (
    REPAINTS,
    Counterfactual,
    ask,
    delete_words,
    exchange,
    movements,
    ratio,
    restyle,
    reword,
    summarise,
    swap_last_utterance,
    swap_words,
)

TRAIN = "train"
ABOUT = {
    "reword": "each emotional word by another of its emotion",
    "swap word": "the emotional words by those of another emotion",
    "delete word": "the emotional words taken out",
    "swap utterance": "the newest utterance by one of another emotion",
    "swap event": "what happened by what causes another emotion, the word stays",
    **{f"repaint, {name}": "the stickers in other colours or strokes" for name in REPAINTS},
    "redraw": "the stickers' faces drawn in another style",
    "exchange": "each sticker's image and words by another's",
}
SHOULD_MOVE = ("swap utterance", "swap event", "exchange")
SHOWN = {
    "distance": "distance", "top_changes": "top moves", "top_to_target": "to target",
    "rank": "rank", "probability": "P(right)", "label": "P(label)",
    "target_probability": "P(target)",
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Probe, write the results down and print them as a table."""
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    data = load_prepared(args.data, args.language)
    truth = MiniTruth(args.truth) if args.truth else None
    rows = _rows(data, args)
    words, source = emotional_words(data, args.data, args.language, args.lexicon)
    ranker, inventory, training = load_ranker(args.model, data, args.data)
    records, left_out = probe(ranker, inventory, rows, words, data.stickers, truth, args)
    found = {
        name: {
            "what": ABOUT[name],
            "should_move": name in SHOULD_MOVE,
            "left_out": left_out[name],
            **summarise(of),
        }
        for name, of in records.items()
        if of
    }
    samples_path = args.output.with_suffix(".samples.jsonl")
    write_samples(
        samples_path, ({"probe": name, **one} for name, of in records.items() for one in of)
    )
    results = _cli.evidence(
        probes=found,
        ratios=ratios(found),
        split=args.split,
        samples=len(rows),
        words=len(words.words),
        words_from=source,
        truth=bool(truth),
        model=args.model.resolve().name,
        data={"fingerprint": data.fingerprint, "language": args.language},
        training_seed=training.get("seed"),
        seed=args.seed,
        seconds=round(time.perf_counter() - start, 2),
    )
    _cli.write_json(args.output, results)
    print(table(results, ranker.name))
    print(f"written to {args.output}, each sample's movements to {samples_path}")
    return 0


def probe(ranker, inventory, rows, words, stickers, truth: MiniTruth | None, args) -> tuple:
    """Make each change and measure it: by name, the records and how many rows had to be left out.

    The stickers are changed last, as a baseline knows one table at a time.
    """
    emotions = dict(zip(stickers["id"], stickers["emotion"], strict=True))
    emotions |= truth.sticker_emotions() if truth else {}
    before = ask(ranker, rows, args.batch_size, "as it is")
    records, left_out = {}, {}

    def measure(name: str, changed: list[Counterfactual], by) -> None:
        after = ask(by, [one.row for one in changed], args.batch_size, name)
        records[name] = movements(before, after, rows, changed, emotions)
        left_out[name] = len(rows) - len(changed)

    for name, changed in _texts(rows, words, truth, args).items():
        measure(name, changed, ranker)
    same = [Counterfactual(place, row) for place, row in enumerate(rows)]
    for name, changed_stickers in _tables(stickers, inventory.captions, truth, args.seed):
        measure(name, same, with_stickers(ranker, changed_stickers))
    return records, left_out


def ratios(found: Mapping[str, dict]) -> dict[str, float | None]:
    """Compare what moves with what should not: by name of the leak, sensitivity over leak.

    Text is held against the other event where that is known, else against the other utterance;
    images against exchanged ones.
    """
    text = found.get("swap event") or found.get("swap utterance") or {}
    of_leaks = {}
    for name, of in found.items():
        if not of["should_move"]:
            drawn = name == "redraw" or name.startswith("repaint")
            of_leaks[name] = ratio(found["exchange"] if drawn else text, of)
    return of_leaks


def table(results: Mapping, name: str) -> str:
    """Lay the movements out for a terminal."""
    lines = [
        f"{name} on {results['split']}: how far scores move (means over samples; distance and"
        " shares from 0 to 1)",
        f"{'probe':<17}{'should':>7}{'samples':>9}" + "".join(f"{t:>11}" for t in SHOWN.values())
        + f"{'ratio':>9}",
    ]  # fmt: skip
    for probe, of in results["probes"].items():
        cells = [f"{of[m]['mean']:11.3f}" if m in of else f"{'-':>11}" for m in SHOWN]
        compared = results["ratios"].get(probe)
        shown = "-" if compared is None else f"{compared:.2f}"
        should = "move" if of["should_move"] else "stay"
        lines.append(f"{probe:<17}{should:>7}{of['samples']:>9}{''.join(cells)}{shown:>9}")
    lines.append("ratio: distance where scores should move over distance where they should stay")
    return "\n".join(lines)


def _texts(rows, words, truth: MiniTruth | None, args) -> dict[str, list[Counterfactual]]:
    changed = {
        "reword": reword(rows, words, args.seed),
        "swap word": swap_words(rows, words, args.seed),
        "delete word": delete_words(rows, words),
        "swap utterance": swap_last_utterance(rows, args.seed),
    }
    if truth:
        swapped = (truth.swap_event(args.split, row, args.seed) for row in rows)
        changed["swap event"] = [
            Counterfactual(place, row, emotion) for place, (row, emotion) in enumerate(swapped)
        ]
    return changed


def _tables(stickers, captions, truth: MiniTruth | None, seed: int):
    """Yield the changed tables of stickers by name, one at a time: a table may be large."""
    for name, repaint in REPAINTS.items():
        yield f"repaint, {name}", restyle(stickers, lambda _, image, r=repaint: r(image), captions)
    if truth:
        yield "redraw", restyle(stickers, lambda sticker, _: truth.restyled(sticker), captions)
    yield "exchange", exchange(stickers, captions, seed)


def _rows(data, args: argparse.Namespace) -> list[dict]:
    """Return the answered rows of the split, or as many of them as asked for, drawn by chance."""
    ranked = [split for split in data.splits if split != TRAIN]
    if args.split not in ranked:
        raise ValueError(f"{args.data}: no split {args.split!r} to rank, only {', '.join(ranked)}")
    rows = [row for row in data.splits[args.split] if row["sticker_id"]]
    if not rows:
        raise ValueError(f"{args.data}: {args.split} has no row with an answer")
    if len(rows) > args.samples:
        places = sorted(random.Random(args.seed).sample(range(len(rows)), args.samples))
        rows = [rows[place] for place in places]
    return rows


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder that train.py or train_baseline.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of prepare_mod.py")
    parser.add_argument("--split", default="test_hard", help="split to probe (%(default)s)")
    parser.add_argument("--language", help="which language of the data; its first by default")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PROBE.json", help="file to write"
    )
    add_lexicon(parser)
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="RELEASE/truth.json",
        help="of the MOD-mini that the data was prepared from: what happened can then be exchanged"
        " and faces be drawn in another style",
    )
    parser.add_argument(
        "--samples", type=int, default=1000, help="at most as many samples (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the changes drawn by chance")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="rows ranked at a time (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    for name in ("samples", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return args


if __name__ == "__main__":
    _cli.run_main(main)
