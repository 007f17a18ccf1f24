# SPDX-License-Identifier: Apache-2.0
"""Evaluate a trained CKS or baseline on prepared data, beside chance and the most frequent sticker.

Writes the figures, of all samples and of groups of them, to RESULTS.json and every sample's rank to
RESULTS.samples.jsonl beside it.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import _cli
import _groups
from _rankers import load_ranker

from dataset_mod import load_prepared
from modeling_cks.evaluation import (
    MostFrequentRanker,
    evaluate_ranker,
    ranking_metrics,
    write_samples,
)
from modeling_cks.evaluation.metrics import MRR_CUT, RECALL_AT

TRAIN = "train"
WHOLE_SET_AT = (1, 5, 10, 20, 50)
_COLUMNS = ("R@1", "R@3", "R@5", "MRR", "Acc", "Acc_top")
_WHOLE_SET_COLUMNS = (*(f"R@{k}" for k in WHOLE_SET_AT), "MRR", "Acc", "Acc_top")


def main(argv: list[str] | None = None) -> int:
    """Evaluate, write the results down and print them as a table."""
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    data = load_prepared(args.data, args.language)
    splits = _splits(args.split, list(data.splits), args.data)
    groups = _groups.Groups(data, args.data, splits, args)
    ranker, inventory, training = load_ranker(args.model, data, args.data, args.knowledge)
    train = data.splits[TRAIN]
    frequent = MostFrequentRanker(train["sticker_id"], train["emotion"])

    found, samples = {}, []
    for split in splits:
        rows = list(data.splits[split])
        if args.whole_set:
            rows = [{**row, "candidates": inventory.ids} for row in rows]
        began = time.perf_counter()
        metrics, records = _judged(ranker, rows, args)
        seconds = time.perf_counter() - began
        often, often_records = _judged(frequent, rows, args, progress=False)
        found[split] = {
            "metrics": metrics,
            "yardsticks": {"chance": chance(rows, _at(args)), frequent.name: often},
            "groups": groups.figures(split, [records]),
            "yardstick_groups": {frequent.name: groups.figures(split, [often_records])},
            "seconds": round(seconds, 2),
        }
        samples += [{"split": split, **record} for record in records]

    samples_path = args.output.with_suffix(".samples.jsonl")
    write_samples(samples_path, samples)
    first = found[splits[0]]
    several = {"splits": found} if len(splits) > 1 else {}
    _cli.write_json(
        args.output,
        _cli.evidence(
            metrics=first["metrics"],
            yardsticks=first["yardsticks"],
            groups=first["groups"],
            yardstick_groups=first["yardstick_groups"],
            split=splits[0],
            **several,
            grouped_by=groups.about,
            whole_set=args.whole_set,
            knowledge=args.knowledge and _takes_knowledge(ranker),
            model=args.model.resolve().name,
            data={"fingerprint": data.fingerprint, "language": args.language},
            recipe=training.get("recipe"),
            recipe_file=training.get("recipe_file"),
            seed=training.get("seed"),
            batch_size=args.batch_size,
            seconds=round(time.perf_counter() - start, 2),
            peak_memory_mib=round(_cli.peak_memory_mib()),
        ),
    )
    print(table(found, ranker.name, args.whole_set))
    print(f"\n{ranker.name} on groups of samples (words from: {groups.about['words_from']})")
    print(_groups.table({split: of["groups"] for split, of in found.items()}))
    print(f"written to {args.output}, each sample's rank to {samples_path}")
    return 0


def _takes_knowledge(ranker) -> bool:
    config = getattr(getattr(ranker, "model", None), "config", None)
    return bool(getattr(config, "use_keue", False) and config.use_knowledge)


def chance(rows: Sequence[dict], at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Return the expected figures, in percent, of an order drawn uniformly for each row.

    Rows without an answer count for nothing, as in every evaluation.
    """
    sizes = [len(row["candidates"]) for row in rows if row["sticker_id"]]

    def mean_reciprocal(cut: int) -> float:
        return _mean(sum(1 / r for r in range(1, min(cut, size) + 1)) / size for size in sizes)

    return {
        **{f"R@{k}": _mean(min(k, size) / size for size in sizes) for k in at},
        "MRR": mean_reciprocal(MRR_CUT),
        **{f"MAP@{k}": mean_reciprocal(k) for k in at},
    }


def table(found: dict[str, dict], name: str, whole_set: bool) -> str:
    """Lay the figures of each split out for a terminal."""
    columns = _WHOLE_SET_COLUMNS if whole_set else _COLUMNS
    lines = ["split       ranker                 " + "".join(f"{c:>9}" for c in columns)]
    for split, of in found.items():
        for ranker, metrics in (*of["yardsticks"].items(), (name, of["metrics"])):
            cells = (f"{metrics[c]:9.2f}" if c in metrics else f"{'-':>9}" for c in columns)
            lines.append(f"{split:<11} {ranker:<23}{''.join(cells)}")
    return "\n".join(lines)


def _judged(ranker, rows: list[dict], args, progress: bool = True) -> tuple[dict, list[dict]]:
    """Evaluate a ranker; over the whole set the recalls are those of longer lists."""
    result = evaluate_ranker(ranker, rows, batch_size=args.batch_size, progress=progress)
    metrics = result.metrics
    if args.whole_set:
        ranks = [sample["rank"] for sample in result.samples if sample["rank"] is not None]
        kept = {key: value for key, value in metrics.items() if not key.startswith(("R@", "MAP@"))}
        metrics = {**ranking_metrics(ranks, WHOLE_SET_AT), **kept}
    return metrics, result.samples


def _at(args: argparse.Namespace) -> tuple[int, ...]:
    return WHOLE_SET_AT if args.whole_set else RECALL_AT


def _mean(values) -> float:
    values = list(values)
    return 100 * sum(values) / len(values)


def _splits(wanted: str, known: list[str], data: Path) -> list[str]:
    """Read --split: names joined by commas, or `all` of those with candidates."""
    ranked = [split for split in known if split != TRAIN]
    names = ranked if wanted == "all" else list(dict.fromkeys(wanted.split(",")))
    for name in names:
        if name not in ranked:
            raise ValueError(f"{data}: no split {name!r} to rank, only {', '.join(ranked)} or all")
    return names


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder that train.py or train_baseline.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of prepare_mod.py")
    parser.add_argument(
        "--split",
        default="test_hard",
        help="validation, test_easy or test_hard (the default); several joined by commas, or all",
    )
    parser.add_argument("--language", help="which language of the data; its first by default")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="RESULTS.json", help="file to write"
    )
    parser.add_argument(
        "--no-knowledge",
        dest="knowledge",
        action="store_false",
        help="run a model trained with COMET without it, to see what that costs",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="rows ranked at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--whole-set",
        action="store_true",
        help="rank all stickers of the data instead of each sample's candidates, every one by the"
        " full score: exact, and slow where there are many (give a small --batch-size)",
    )
    _groups.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, not {args.batch_size}")
    return args


if __name__ == "__main__":
    _cli.run_main(main)
