# SPDX-License-Identifier: Apache-2.0
"""A new turn of a chat, with knowledge: MMBERT, CKS without memory, CKS as it follows the chat."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from _benchmark import Clock, alternate, flops, lines, markdown, share, timed
from _cli import peak_memory_mib

TITLE = "A conversation, turn by turn"
_EXACT, _SHORT = "exact", "shortcut"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the dialogue's length, the numbers of candidates and how many are judged."""
    parser.add_argument(
        "--conversation-tokens",
        type=int,
        nargs="+",
        default=[96, 256],
        help="word pieces of the dialogue; of the second and later the fewest candidates only "
        "(default: 96 256)",
    )
    parser.add_argument(
        "--conversation-candidates",
        type=int,
        nargs="+",
        default=[11, 307],
        help="stickers to choose from (default: 11 307)",
    )
    parser.add_argument(
        "--conversation-best",
        type=int,
        default=5,
        help="stickers that the multimodal encoder judges, as a shortcut (default: 5)",
    )
    parser.add_argument(
        "--conversation-long-repeats",
        type=int,
        default=2,
        help="repeats where there are more than 50 candidates (default: 2)",
    )


def measure(args: argparse.Namespace) -> dict:
    """Let all take a new turn, in turn."""
    rows = []
    for size in args.sizes:
        for tokens in args.conversation_tokens:
            first = tokens == args.conversation_tokens[0]
            counts = args.conversation_candidates
            with tempfile.TemporaryDirectory() as folder:
                rows += _measure(
                    args, size, tokens, counts if first else [min(counts)], Path(folder)
                )
    return {
        "rows": rows,
        "best": args.conversation_best,
        "peak_memory_mib": peak_memory_mib(),
    }


def _measure(
    args: argparse.Namespace, size: str, tokens: int, counts: list[int], folder: Path
) -> list[dict]:
    import torch
    from _benchmark_models import TURNS, build_cks, build_mmbert, dialogue, row, sticker_table
    from transformers import pipeline

    import modeling_cks  # noqa: F401 (registers the pipeline)
    from modeling_cks.cpu_inference import supported_precisions

    table = sticker_table(max(counts), seed=args.seed)
    mmbert = build_mmbert(size, folder, seed=args.seed, dialogue_tokens=tokens)
    mmbert.use_stickers(table)
    selects = {}
    for precision in (None, *supported_precisions()):
        model, processor, facts = build_cks(
            size, seed=args.seed, comet=True, max_utterances=TURNS, max_dialogue_tokens=tokens
        )
        selects[precision] = pipeline("sticker-selection", model=model, processor=processor)
    whole = selects[None].load_stickers(table)
    for precision, select in selects.items():
        if precision is not None:
            select.pack_linear_maps(precision)
    turns = dialogue(tokens, args.seed)
    rows = []

    def asked(number: int) -> list[dict]:
        """The chat when its next turn has come; of one length, and new to every memory."""
        new = dialogue(tokens, f"{args.seed} {number}")[-1]["text"]
        return [*turns[1:], {"speaker": turns[0]["speaker"], "text": new}]

    for candidates in counts:
        ids = list(table["id"][:candidates])
        pack = type(whole)(ids, whole.captions[:candidates], whole.embeds[:candidates])

        def by_mmbert(number: int, ids=ids) -> None:
            with torch.no_grad():
                mmbert.score([row(asked(number), ids, ids[0])])

        def without_memory(number: int, pack=pack) -> dict[str, float]:
            select, clock = selects[None], Clock()
            select.processor.knowledge_extractor._features.clear()
            select(asked(number), pack, top_k=3)
            clock.stage("all")
            return clock.stages

        def chat(precision, best, pack=pack):
            followed = selects[precision].conversation(pack, match_best=best)
            for turn in turns:
                followed.say(**turn)
            followed.select()

            def run(number: int) -> dict[str, float]:
                # Contestants share a COMET, and what one asked the next would find.
                selects[precision].processor.knowledge_extractor._features.clear()
                followed.say(asked(number)[-1]["text"])
                clock = Clock()
                followed.prepare()
                clock.stage("read the turn (COMET, RoBERTa)")
                followed.select(top_k=3)
                clock.stage("choose")
                return clock.stages

            return run

        best = args.conversation_best
        contestants = {
            ("MMBERT", _EXACT): timed(by_mmbert),
            ("CKS, no memory", _EXACT): without_memory,
            ("CKS, conversation", _EXACT): chat(None, None),
            ("CKS, conversation, packed", _EXACT): chat("float32", None),
            (f"the same, best {best} judged", _SHORT): chat("float32", best),
        }
        for precision in supported_precisions()[1:]:
            name = f"packed in {precision}"
            contestants[name, _SHORT] = chat(precision, None)
            contestants[f"{name}, best {best} judged", _SHORT] = chat(precision, best)
        if candidates > 50:
            for name in [("CKS, no memory", _EXACT), ("CKS, conversation", _EXACT)]:
                contestants.pop(name)
        repeats = args.repeats if candidates <= 50 else args.conversation_long_repeats
        timings = alternate(contestants, repeats)
        first = timings["MMBERT", _EXACT]["seconds"]
        work = _count(mmbert, selects[None], asked, pack, ids, best, candidates)
        rows += [
            {
                "size": size,
                "tokens": tokens,
                "candidates": candidates,
                "contestant": name,
                "kind": kind,
                **one,
                "times_mmbert": first / one["seconds"],
                "gflop": work.get(
                    "mmbert" if name == "MMBERT" else "best" if "judged" in name else
                    "none" if name == "CKS, no memory" else "chat"
                ),
                **facts,
            }
            for (name, kind), one in timings.items()
        ]  # fmt: skip
    return rows


def _count(mmbert, select, asked, pack, ids, best: int, candidates: int) -> dict[str, float]:
    """Count the GFLOP of a turn; those of 307 candidates from what one adds."""
    import torch
    from _benchmark_models import row, turn_flops

    few = ids[: min(candidates, 11)]
    small = type(pack)(few, pack.captions[: len(few)], pack.embeds[: len(few)])

    def none():
        select.processor.knowledge_extractor._features.clear()
        select(asked(-6), small)

    with torch.no_grad():
        counted = {
            "mmbert": flops(lambda: mmbert.score([row(asked(-1), few, few[0])])) / 1e9,
            "none": flops(none) / 1e9,
            "chat": turn_flops(select, small, asked(-2), asked(-3)) / 1e9,
            "best": turn_flops(select, small, asked(-4), asked(-5), match_best=best) / 1e9,
        }
    if len(few) < candidates:
        one = (counted["chat"] - counted["best"]) / max(len(few) - best, 1)
        more = candidates - len(few)
        counted["mmbert"] *= candidates / len(few)
        counted["chat"] += one * more
        counted["none"] += one * more
    return counted


def _ceiling(row: dict, ceilings: dict | None) -> float | None:
    if row["size"] != "full":
        return None
    name = row["contestant"]
    precision = "bf16" if "bfloat16" in name else "int8" if "int8" in name else "fp32"
    return share(row.get("gflop"), row["seconds"], ceilings, precision)


def table(result: dict) -> str:
    """Lay out for the terminal."""
    return lines(
        ["contestant", "size", "tokens", "candidates", "seconds", "x MMBERT", "GFLOP"],
        [
            [row["contestant"], row["size"], row["tokens"], row["candidates"], row["seconds"],
             row["times_mmbert"], row["gflop"]]
            for row in result["rows"]
        ],
    )  # fmt: skip


def page(result: dict, folder) -> str:
    """Render the section."""
    parts = [
        "A chat of six turns goes on by one turn, new to every memory; then stickers are ranked. "
        "COMET's knowledge of the new turn is part of it. MMBERT has its stickers encoded already, "
        "and reads the dialogue again for each of them. A conversation keeps what was read of "
        "earlier turns. `packed` is exact; what is named a shortcut is off unless asked for, and "
        "what it costs stands in the next section.",
    ]
    groups = dict.fromkeys((r["size"], r["tokens"], r["candidates"]) for r in result["rows"])
    for size, tokens, candidates in groups:
        rows = [
            row
            for row in result["rows"]
            if (row["size"], row["tokens"], row["candidates"]) == (size, tokens, candidates)
        ]
        parts.append(
            f"**{candidates} candidates, {tokens} tokens, {size} size**\n\n"
            + markdown(
                ["", "kind", "s", "times as fast as MMBERT", "of it reading the turn, s", "GFLOP",
                 "% of the ceiling"],
                [
                    [row["contestant"], row["kind"], row["seconds"], row["times_mmbert"],
                     row["stages"].get("read the turn (COMET, RoBERTa)"), row["gflop"],
                     _ceiling(row, result.get("ceilings"))]
                    for row in rows
                ],
            )
        )  # fmt: skip
    return "\n\n".join(parts)


def headlines(result: dict) -> list[dict]:
    """Give the rows that the README and model cards show."""
    shown = ("MMBERT", "CKS, conversation, packed", f"the same, best {result['best']} judged")
    return [
        {
            "measurement": f"{row['contestant']}: rank {row['candidates']} stickers at a new turn "
            f"of {row['tokens']} pieces",
            "size": row["size"],
            "seconds": row["seconds"],
            "rows_per_second": 1 / row["seconds"],
            "peak_memory_mib": result["peak_memory_mib"],
        }
        for row in result["rows"]
        if row["contestant"] in shown
    ]
