# SPDX-License-Identifier: Apache-2.0
"""What shortcuts cost: the quality of a trained model beside the time, for each of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from _benchmark import Run, alternate, lines, markdown, timed
from _cli import peak_memory_mib

TITLE = "What the shortcuts cost"
_METRICS = ("R@1", "R@5", "MRR")
_BEST = {"given": (1, 2, 3, 5, 8), "all": (1, 5, 10, 20, 50)}
_BATCH = 32
_MOST_REPEATS = 2  # each takes minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained model and its data."""
    parser.add_argument("--shortcuts-model", type=Path, help="folder of a trained model")
    parser.add_argument("--shortcuts-data", type=Path, help="folder of prepare_mod.py")
    parser.add_argument("--shortcuts-split", default="validation", help="default: validation")
    parser.add_argument(
        "--shortcuts-samples", type=int, help="the first so many (default: all of the split)"
    )
    parser.add_argument(
        "--shortcuts-all-samples",
        type=int,
        default=200,
        help="samples that choose among all stickers (default: 200, evenly spread)",
    )


def measure(args: argparse.Namespace) -> dict:
    """Rank a split exactly and by each shortcut."""
    if args.quick and args.shortcuts_model is None:
        return _of_a_tiny_model(args)
    if args.shortcuts_model is None or args.shortcuts_data is None:
        return {"skipped": "no --shortcuts-model and --shortcuts-data were given", "rows": []}
    for path in (args.shortcuts_model, args.shortcuts_data):
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder")
    from dataset_mod.prepared import load_prepared
    from modeling_cks import CKSModel, CKSProcessor

    data = load_prepared(args.shortcuts_data)
    if args.shortcuts_split not in data.splits:
        raise ValueError(f"{args.shortcuts_data}: has no split {args.shortcuts_split!r}")
    samples = list(data.splits[args.shortcuts_split])[: args.shortcuts_samples]

    def load():
        processor = CKSProcessor.from_pretrained(args.shortcuts_model)
        processor.ocr_cache_path = str(args.shortcuts_data / "ocr.json")
        processor.knowledge_store = str(args.shortcuts_data / "knowledge")
        return CKSModel.from_pretrained(args.shortcuts_model).eval(), processor

    count, repeats = args.shortcuts_all_samples, min(args.repeats, _MOST_REPEATS)
    found = _measure(load, data.stickers, samples, count, repeats)
    return {
        **found,
        "split": args.shortcuts_split,
        "data": data.fingerprint,
        "peak_memory_mib": peak_memory_mib(),
    }


def _of_a_tiny_model(args: argparse.Namespace) -> dict:
    from _benchmark_models import build_cks, sticker_table
    from _benchmark_split import _rows

    table = sticker_table(12)

    def load():
        return build_cks("tiny", seed=args.seed, comet=True)[:2]

    samples = _rows(6, list(table["id"]), args.seed)
    return {**_measure(load, table, samples, 3, args.repeats), "split": "drawn"}


def _measure(load, table, samples: list[dict], count: int, repeats: int) -> dict:
    from modeling_cks.cks_ranker import CKSRanker
    from modeling_cks.cpu_inference import pack_linear_maps, supported_precisions
    from modeling_cks.training import StickerInventory

    ids = list(table["id"])
    step = max(1, len(samples) // count)
    tasks = {
        "given": samples,
        "all": [{**one, "candidates": ids} for one in samples[::step][:count]],
    }
    rankers = {}
    for precision in (None, *supported_precisions()):
        model, processor = load()
        inventory = StickerInventory(table, processor)
        # Before COMET is less precise, so that its own knowledge is computed where it is.
        if precision is not None:
            pack_linear_maps(model, processor, precision)
        rankers[precision] = ranker = CKSRanker(model, processor, inventory)
        ranker.sticker_embeds()
        for chosen in tasks.values():
            # Each utterance and its knowledge once before, so that ranking alone is timed.
            for start in range(0, len(chosen), _BATCH):
                ranker.collator(chosen[start : start + _BATCH])
    rows = []
    for task, chosen in tasks.items():
        contestants, scores = {}, {}
        for precision in rankers:
            for best in {None: [None, *_BEST[task]], "float32": [None]}.get(precision, [None, 5]):
                contestants[precision, best] = _ranking(
                    rankers[precision], chosen, best, scores, (precision, best)
                )
        timings = alternate(contestants, repeats)
        for (precision, best), one in timings.items():
            largest = max(
                float(abs(a - b).max())
                for a, b in zip(scores[precision, best], scores[None, None], strict=True)
            )
            rows.append(
                {
                    "task": task,
                    "candidates": max(len(row["candidates"]) for row in chosen),
                    "samples": len(chosen),
                    "precision": precision or "torch float32",
                    "best": best,
                    "seconds": one["seconds"] / len(chosen),
                    # Of what is not judged the score is another by intention.
                    "largest_difference": None if best is not None else largest,
                    **_figures(scores[precision, best], chosen),
                }
            )
    return {"rows": rows}


def _ranking(ranker, samples: list[dict], best: int | None, scores: dict, key) -> Run:
    """Make a contestant that ranks all samples, and leaves its scores under a key."""

    def rank(number: int) -> None:
        ranker.match_best = best
        scores[key] = [
            one
            for start in range(0, len(samples), _BATCH)
            for one in ranker.rank(samples[start : start + _BATCH]).scores
        ]

    return timed(rank)


def _figures(scores: list, samples: list[dict]) -> dict[str, float]:
    import numpy as np

    from modeling_cks.evaluation import ranking_metrics, ranks

    found = []
    for one, row in zip(scores, samples, strict=True):
        target = row["candidates"].index(row["sticker_id"])
        found.append(int(ranks(np.asarray(one, dtype=float)[None], [target])[0]))
    figures = ranking_metrics(found)
    return {name: figures[name] for name in _METRICS}


def _exact(row: dict, result: dict) -> dict:
    return next(
        one
        for one in result["rows"]
        if one["task"] == row["task"]
        and one["best"] is None
        and one["precision"] == "torch float32"
    )


def _cells(result: dict, task: str) -> tuple[list[str], list[list[object]]]:
    titles = ["precision", "judged", "ms a sample", "times as fast", *_METRICS, "R@1 lost",
              "MRR lost", "largest difference of a score"]  # fmt: skip
    rows = []
    for row in result["rows"]:
        if row["task"] != task:
            continue
        exact = _exact(row, result)
        rows.append(
            [row["precision"], "all" if row["best"] is None else f"best {row['best']}",
             1000 * row["seconds"], exact["seconds"] / row["seconds"],
             *(row[name] for name in _METRICS), exact["R@1"] - row["R@1"],
             exact["MRR"] - row["MRR"], row["largest_difference"]]
        )  # fmt: skip
    return titles, rows


def table(result: dict) -> str:
    """Lay out for the terminal."""
    if result.get("skipped"):
        return f"skipped: {result['skipped']}"
    return "\n".join(lines(*_cells(result, task)) for task in _BEST)


def page(result: dict, folder) -> str:
    """Render the section."""
    if result.get("skipped"):
        return f"Not measured: {result['skipped']}."
    parts = [
        "A trained model (`moji.yaml`, a small one) on the samples of its "
        f"{result['split']} split, utterances, knowledge and stickers read before. `best k`: the "
        "multimodal encoder judges the k best by contrast. Lost points are those of exact ranking "
        "less those of the shortcut; below zero the shortcut is better."
    ]
    for task, said in {"given": "The candidates of the task", "all": "All stickers"}.items():
        first = next(row for row in result["rows"] if row["task"] == task)
        parts.append(
            f"**{said}** ({first['candidates']} candidates, {first['samples']} samples)\n\n"
            + markdown(*_cells(result, task))
        )
    return "\n\n".join(parts)
