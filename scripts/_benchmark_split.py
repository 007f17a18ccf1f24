# SPDX-License-Identifier: Apache-2.0
"""Ranking whole splits: each sticker and utterance once, beside a loop over pairs."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time

from _benchmark import Clock, alternate, flops, lines, markdown
from _cli import peak_memory_mib

TITLE = "Whole splits"
_TOKENS = 96
_SAMPLES_A_DIALOGUE = 4
# MOD's validation split, to which the sticker inventory is spread out.
_SPLIT = 3183


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the numbers of samples."""
    parser.add_argument(
        "--split-samples", type=int, default=24, help="samples ranked (default: 24)"
    )
    parser.add_argument(
        "--split-pairs",
        type=int,
        default=11,
        help="pairs that the loop goes through, at full size (default: 11, one sample)",
    )
    parser.add_argument(
        "--split-memory",
        type=int,
        nargs="+",
        default=[2000, 4000, 8000],
        help="samples at which memory is measured, at tiny size (default: 2000 4000 8000)",
    )


def measure(args: argparse.Namespace) -> dict:
    """Rank samples both ways, compare the scores, and measure memory at growing sizes."""
    rows = [row for size in args.sizes for row in _measure(args, size)]
    counts = [20, 40] if args.quick else args.split_memory
    memory = []
    for count in counts:
        command = [sys.executable, __file__, str(count), str(args.seed)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        memory.append(json.loads(done.stdout.splitlines()[-1]))
    return {"rows": rows, "memory": memory, "peak_memory_mib": peak_memory_mib()}


def _rows(count: int, stickers: list[str], seed: int) -> list[dict]:
    """Make samples of growing dialogues, four of each, as MOD's are."""
    from _benchmark_models import CANDIDATES, dialogue, row

    draw = random.Random(seed)
    made = []
    for number in range(count):
        turns = dialogue(_TOKENS, f"{seed} {number // _SAMPLES_A_DIALOGUE}")
        # The last has all of it, and the others the beginning.
        kept = len(turns) - (_SAMPLES_A_DIALOGUE - 1) + number % _SAMPLES_A_DIALOGUE
        candidates = draw.sample(stickers, min(CANDIDATES, len(stickers)))
        made.append(
            row(turns[:kept], candidates, candidates[0], dialogue_id=f"{number}", turn=number)
        )
    return made


def _measure(args: argparse.Namespace, size: str) -> list[dict]:
    import torch
    from _benchmark_models import STICKERS, build_cks, sticker_table

    from modeling_cks.cks_ranker import CKSRanker
    from modeling_cks.evaluation import evaluate_ranker
    from modeling_cks.training import StickerInventory

    model, processor, facts = build_cks(size, seed=args.seed, comet=True)
    comet = processor.knowledge_extractor
    inventory = StickerInventory(sticker_table(12 if args.quick else STICKERS), processor)
    samples = _rows(4 if args.quick else args.split_samples, inventory.ids, args.seed)
    distinct = list({turn["text"]: None for one in samples for turn in one["utterances"]})

    first = CKSRanker(model, processor, inventory)
    start = time.perf_counter()
    embeds = first.sticker_embeds()
    stickers = time.perf_counter() - start

    def ours(number: int) -> dict[str, float]:
        # By parts that are each done once a split; nothing is remembered from the last repeat.
        ranker = CKSRanker(model, processor, inventory)
        ranker._embeds = embeds
        comet._features.clear()
        clock = Clock()
        comet.features(distinct)
        clock.stage("COMET")
        evaluate_ranker(ranker, samples, batch_size=32, progress=False)
        clock.stage("ranking")
        return clock.stages

    # The loop: a call of processor and model for each pair, everything anew.
    pairs = [(one, sticker) for one in samples for sticker in one["candidates"]]
    pairs = pairs[: 22 if size == "tiny" else args.split_pairs]
    table = {sticker: place for place, sticker in enumerate(inventory.ids)}
    images = sticker_table(len(inventory))["image"]

    def pair(one: dict, sticker: str, clock: Clock):
        place = table[sticker]
        turns = [{"speaker": each["speaker"], "text": each["text"]} for each in one["utterances"]]
        comet._features.clear()
        clock.stage("between")
        comet.features([turn["text"] for turn in turns])
        clock.stage("COMET")
        with torch.no_grad():
            output = model(**processor(turns, [images[place]], [inventory.captions[place]]))
        clock.stage("ranking")
        return output

    def loop(number: int) -> dict[str, float]:
        clock = Clock()
        for one, sticker in pairs:
            pair(one, sticker, clock)
        del clock.stages["between"]
        return clock.stages

    timings = alternate({"loop": loop, "ours": ours}, args.repeats)
    largest = _difference(model, first, samples, pairs, pair)
    if largest > 1e-5:
        raise ValueError(f"the loop's scores differ by {largest:.2g}")
    candidates = len(samples[0]["candidates"])
    work = _work(first, samples, distinct, candidates, lambda: pair(*pairs[0], Clock()))
    common = {"size": size, "samples": len(samples), "largest_difference": largest, **facts}
    rows = []
    for name, taken, times in (
        ("loop over pairs", timings["loop"]["stages"], candidates / len(pairs)),
        ("each once", timings["ours"]["stages"], 1 / len(samples)),
    ):
        once = stickers / _SPLIT if name == "each once" else 0.0
        for more, stages in (("knowledge at hand", ["ranking"]), ("COMET too", list(taken))):
            rows.append(
                {
                    "contestant": f"{name}, {more}",
                    "seconds": times * sum(taken[stage] for stage in stages) + once,
                    "gflop": sum(work[name, stage] for stage in stages),
                    "stickers_seconds": stickers if name == "each once" else None,
                    **common,
                }
            )
    return rows


def _work(ranker, samples: list[dict], distinct: list[str], candidates: int, pair) -> dict:
    """Count the GFLOP of a sample, by contestant and stage."""
    import torch

    from modeling_cks.cks_ranker import CKSRanker

    model, processor = ranker.model, ranker.collator.processor
    comet = processor.knowledge_extractor
    with torch.no_grad():
        sticker = flops(
            lambda: model.encode_stickers(ranker.inventory.pixel_values([0]).to(model.device))
        )
        fresh = CKSRanker(model, processor, ranker.inventory)
        fresh._embeds = ranker.sticker_embeds()
        comet.features(distinct)  # the loop has forgotten them, and what follows is ranking alone
        ranking = flops(lambda: fresh.rank(samples))
        both = flops(pair)
        few = distinct[:8]
        comet._features.clear()
        knowledge = flops(lambda: comet.features(few)) / len(few)
        asked = len(samples[0]["utterances"])
    counted = {
        ("each once", "ranking"): ranking / len(samples) + sticker * len(ranker.inventory) / _SPLIT,
        ("each once", "COMET"): knowledge * len(distinct) / len(samples),
        ("loop over pairs", "COMET"): knowledge * asked * candidates,
        ("loop over pairs", "ranking"): (both - knowledge * asked) * candidates,
    }
    return {key: value / 1e9 for key, value in counted.items()}


def _difference(model, ranker, samples: list[dict], pairs: list, pair) -> float:
    """Compare what the loop and the ranker say of the pairs."""
    scores = ranker.rank(samples).scores
    largest = 0.0
    for number, (one, sticker) in enumerate(pairs):
        # Alone, a sticker's share in the contrast is 1: what is compared is P(match).
        match = float(pair(one, sticker, Clock()).match_logits.softmax(-1)[0, 0, 1])
        column, row_number = number % len(one["candidates"]), number // len(one["candidates"])
        alike = float(_shares(model, ranker, one)[column])
        largest = max(largest, abs(float(scores[row_number][column]) - alike - match))
    return largest


def _shares(model, ranker, one: dict):
    """Give the contrastive shares of a sample's candidates."""
    import torch

    with torch.no_grad():
        batch = ranker.collator([one])
        embeds = ranker.sticker_embeds()[batch["sticker_ids"]]
        return model(**batch, sticker_embeds=embeds).contrastive_logits[0].softmax(-1)


def _memory(count: int, seed: int) -> dict:
    """Rank so many samples at tiny size, and tell the peak before and after."""
    from _benchmark_models import STICKERS, build_cks, sticker_table

    from modeling_cks.cks_ranker import CKSRanker
    from modeling_cks.evaluation import evaluate_ranker
    from modeling_cks.training import StickerInventory

    model, processor, _ = build_cks("tiny", seed=seed)
    inventory = StickerInventory(sticker_table(STICKERS), processor)
    ranker = CKSRanker(model, processor, inventory, knowledge=False)
    evaluate_ranker(ranker, _rows(64, inventory.ids, -1), batch_size=64, progress=False)
    before = peak_memory_mib()
    evaluate_ranker(ranker, _Lazy(count, inventory.ids, seed), batch_size=64, progress=False)
    return {"samples": count, "mib_before": before, "peak_memory_mib": peak_memory_mib()}


class _Lazy:
    """Samples that are made when they are asked for, as a table on disk reads them."""

    def __init__(self, count: int, stickers: list[str], seed: int):
        self._count, self._stickers, self._seed = count, stickers, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict:
        if number >= self._count:
            raise IndexError(number)
        return _rows(1, self._stickers, self._seed + number)[0]


def _times(row: dict, result: dict) -> float:
    kind = row["contestant"].rpartition(", ")[2]
    loop = next(
        one
        for one in result["rows"]
        if one["size"] == row["size"] and one["contestant"] == f"loop over pairs, {kind}"
    )
    return loop["seconds"] / row["seconds"]


def _cells(result: dict) -> tuple[list[str], list[list[object]]]:
    return ["", "size", "s a sample", "times the loop"], [
        [row["contestant"], row["size"], row["seconds"], _times(row, result)]
        for row in result["rows"]
    ]


def _memory_line(result: dict) -> str:
    return "peak memory at tiny size: " + ", ".join(
        f"{one['samples']:,} samples {one['peak_memory_mib']:.0f} MiB" for one in result["memory"]
    )


def table(result: dict) -> str:
    """Lay out for the terminal."""
    return f"{lines(*_cells(result))}\n{_memory_line(result)}"


def page(result: dict, folder) -> str:
    """Render the section."""
    worst = max(row["largest_difference"] for row in result["rows"])
    encode = [
        f"{row['stickers_seconds']:.1f} s ({row['size']})"
        for row in result["rows"]
        if row["contestant"] == "each once, COMET too"
    ]
    line = _memory_line(result)
    return (
        "11 candidates, four samples a dialogue. The loop calls processor and model for each pair "
        "of dialogue and sticker; evaluation encodes each sticker and each distinct utterance "
        f"once. Encoding the 307 stickers, {', '.join(encode)}, is spread over the {_SPLIT:,} "
        f"samples of MOD's validation split. The scores differ by {worst:.1e} at most.\n\n"
        f"{markdown(*_cells(result))}\n\n{line[0].upper()}{line[1:]}."
    )


def headlines(result: dict) -> list[dict]:
    """Give the rows that the README and model cards show."""
    return [
        {
            "measurement": f"{row['contestant']}: rank a sample of a split",
            "size": row["size"],
            "seconds": row["seconds"],
            "rows_per_second": 1 / row["seconds"],
            "peak_memory_mib": result["peak_memory_mib"],
        }
        for row in result["rows"]
        if row["contestant"] == "each once, knowledge at hand"
    ]


if __name__ == "__main__":
    print(json.dumps(_memory(*map(int, sys.argv[1:]))))
