# SPDX-License-Identifier: Apache-2.0
"""COMET's knowledge of a whole data set: a loop over dialogues, distinct utterances, processes."""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from _benchmark import alternate, flops, in_processes, lines, markdown, share, timed
from _cli import ROOT, peak_memory_mib

TITLE = "Knowledge"
# Of MOD's English release: samples, and the utterances that all their rows hold together where a
# row has as many as the mean of MOD-mini's. The distinct ones are what a release has turns.
_MOD_DIALOGUES, _MOD_TURNS = 45_000, 13
_GPU_SHARE = 0.35
_MOST_REPEATS = 2  # each takes minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the amount of work and the device."""
    parser.add_argument(
        "--knowledge-dialogues",
        type=int,
        default=10,
        help="training dialogues of the MOD-mini that is extracted (default: 10)",
    )
    parser.add_argument(
        "--knowledge-loop",
        type=int,
        default=6,
        help="utterances that the loop goes through (default: 6)",
    )
    parser.add_argument("--knowledge-device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--knowledge-peak-tflops",
        type=float,
        default=989.0,
        help="bf16 peak of the GPU for which the time for MOD is estimated (default: 989, H100)",
    )


def measure(args: argparse.Namespace) -> dict:
    """Extract by the script with one process and two, and loop over some utterances."""
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure(args, size, Path(folder))
    return {
        "rows": rows,
        "mod_utterances": _MOD_DIALOGUES * _MOD_TURNS,
        "gpu_peak_tflops": args.knowledge_peak_tflops,
        "gpu_share": _GPU_SHARE,
        "device": args.knowledge_device,
        "peak_memory_mib": peak_memory_mib(),
    }


def _measure(args: argparse.Namespace, size: str, folder: Path) -> list[dict]:
    import torch
    from _benchmark_models import build_comet
    from extract_knowledge import distinct_utterances

    from dataset_mod.prepared import prepare
    from dataset_mod.synthetic import write_mini_release

    torch.manual_seed(args.seed)
    dialogues = 4 if args.quick else args.knowledge_dialogues
    write_mini_release(folder / "release", dialogues=(dialogues, 2, 2, 2))
    prepare(folder / "release", folder / "data")
    texts, total = distinct_utterances(folder / "data", None, None)
    comet = build_comet(size)
    comet.model.to(args.knowledge_device)
    comet.model.save_pretrained(folder / "comet")
    comet.tokenizer.save_pretrained(folder / "comet")

    chosen = [texts[place * len(texts) // args.knowledge_loop]
              for place in range(args.knowledge_loop)]  # fmt: skip
    contestants = {"loop": timed(lambda number: [_alone(comet, text) for text in chosen])}
    for count in (1, 2):
        contestants[count] = lambda number, count=count: _extract(args, folder, count, number)
    timings = alternate(contestants, 1 if args.quick else min(args.repeats, _MOST_REPEATS))
    loop = timings["loop"]["seconds"] / len(chosen)
    work = flops(lambda: comet._compute(texts[:48], None)) / min(len(texts), 48)

    rows = [
        {
            "size": size,
            "contestant": "loop over dialogues",
            "processes": 1,
            "utterances": len(chosen),
            "seconds_per_distinct": loop * total / len(texts),
            "seconds_per_utterance": loop,
        }
    ]
    for processes in (1, 2):
        seconds = timings[processes]["seconds"]
        rows.append(
            {
                "size": size,
                "contestant": "each distinct utterance once, by length",
                "processes": processes,
                "utterances": len(texts),
                "seconds_per_distinct": seconds / len(texts),
                "seconds_per_utterance": seconds / total,
            }
        )
    for row in rows:
        row.update(occurrences=total, distinct=len(texts), gflop_per_utterance=work / 1e9)
    return rows


def _alone(comet, text: str) -> None:
    """Ask COMET of one utterance as plain code does: one relation after the other."""
    import torch

    from modeling_cks.knowledge import RELATIONS

    total = torch.zeros(2, comet.hidden_size)
    for number, relation in enumerate(RELATIONS):
        (source,) = comet.sources([(text, relation)])
        total[number // 3] += comet._states([source])[0].float().cpu()


def _extract(
    args: argparse.Namespace, folder: Path, processes: int, number: int
) -> dict[str, float]:
    """Run the script on an empty store and read the seconds that it tells."""
    script = [str(ROOT / "scripts" / "extract_knowledge.py"), str(folder / "data")]
    script += ["--comet", str(folder / "comet")]
    script += ["--store", str(folder / f"store {processes} {number}")]
    if args.knowledge_device == "cpu":
        script += ["--device", "cpu"]
    found = re.search(r"extracted.* in ([\d.]+) s", in_processes(processes, script))
    if found is None:
        raise ValueError("extract_knowledge.py does not tell how long it took")
    # Told to a tenth of a second, which is next to nothing at tiny size.
    return {"all": max(float(found[1]), 0.05)}


def _cells(result: dict) -> tuple[list[str], list[list[object]]]:
    loops = {
        row["size"]: row["seconds_per_distinct"]
        for row in result["rows"]
        if row["contestant"] == "loop over dialogues"
    }
    titles = ["", "size", "processes", "ms an utterance said", "ms a distinct one",
              "distinct/s", "times the loop"]  # fmt: skip
    return titles, [
        [row["contestant"], row["size"], row["processes"], 1000 * row["seconds_per_utterance"],
         1000 * row["seconds_per_distinct"], 1 / row["seconds_per_distinct"],
         loops[row["size"]] / row["seconds_per_distinct"]]
        for row in result["rows"]
    ]  # fmt: skip


def table(result: dict) -> str:
    """Lay out for the terminal."""
    return lines(*_cells(result))


def page(result: dict, folder) -> str:
    """Render the section."""
    last = result["rows"][-1]
    fastest = min(
        (row for row in result["rows"] if row["size"] == last["size"]),
        key=lambda row: row["seconds_per_distinct"],
    )
    hours = result["mod_utterances"] * fastest["seconds_per_distinct"] / 3600
    work = last["gflop_per_utterance"]
    rate = result["gpu_share"] * result["gpu_peak_tflops"] * 1e3
    minutes = result["mod_utterances"] * work / rate / 60
    reached = share(work, fastest["seconds_per_distinct"], result.get("ceilings"))
    said = ""
    if reached is not None and last["size"] == "full" and result["device"] == "cpu":
        said = f" That is {reached:.0f} % of the ceiling."
    return (
        f"MOD-mini, {last['occurrences']:,} utterances in its rows of which {last['distinct']:,} "
        "are distinct, as a row repeats what was said before; `extract_knowledge.py` with one "
        "process and two on the same cores. The loop asks COMET of each utterance of each row, one "
        "relation at a time.\n\n"
        f"{markdown(*_cells(result))}\n\n"
        f"An utterance takes {work:.1f} GFLOP ({last['size']} size).{said} MOD has about "
        f"{result['mod_utterances']:,} utterances ({_MOD_DIALOGUES:,} dialogues of "
        f"{_MOD_TURNS}), if all are distinct: at the measured rate {hours:.0f} hours on this "
        f"machine. On a GPU of {result['gpu_peak_tflops']:.0f} TFLOP/s (bf16) of which "
        f"{100 * result['gpu_share']:.0f} % are reached, which is an assumption and was not "
        f"measured, {minutes:.0f} minutes."
    )


def headlines(result: dict) -> list[dict]:
    """Give the row that the README and model cards show."""
    return [
        {
            "measurement": f"knowledge of an utterance, {row['processes']} process(es)",
            "size": row["size"],
            "seconds": row["seconds_per_distinct"],
            "rows_per_second": 1 / row["seconds_per_distinct"],
            "peak_memory_mib": result["peak_memory_mib"],
        }
        for row in result["rows"]
        if row["contestant"] != "loop over dialogues"
    ]
