# SPDX-License-Identifier: Apache-2.0
"""Settle what the paper leaves open: train each variant on several seeds and compare.

Each cell (variant and seed) is one run of train.py, judged on the validation split; a finished
cell is skipped, a stopped one goes on. The table is rendered from the cells' JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import _cli
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Variant:
    """One setting that differs from the recipe."""

    name: str
    question: str
    changes: tuple[str, ...] = ()


VARIANTS = (
    Variant("recipe", "the recipe as it stands"),
    Variant(
        "joint_attention",
        "KEUE: one softmax over both speakers' utterances instead of one for each",
        ("model.joint_attention=true",),
    ),
    Variant(
        "feature_softmax",
        "VKD: softmax over the features, as printed, instead of over the dictionary",
        ("model.vkd_form=feature_softmax",),
    ),
    Variant(
        "clip_negatives",
        "negatives seen through CLIP's feature, as printed, instead of the unbiased one",
        ("model.negative_visual=clip",),
    ),
    Variant(
        "decoder_bos",
        "COMET's state at the second decoder position instead of the first",
        ("processor.comet_feature=decoder_bos",),
    ),
    Variant(
        "encoder_mean",
        "COMET's mean encoder state instead of the first decoder position",
        ("processor.comet_feature=encoder_mean",),
    ),
    Variant(
        "no_history",
        "the stickers of earlier turns are not read",
        ("model.sticker_history=false",),
    ),
    Variant(
        "plain_contrast",
        "contrast without the logQ correction, as in the paper",
        ("model.logq_correction=false",),
    ),
    Variant(
        "full_noise",
        "CIM: noise of the printed strength instead of the recipe's",
        ("model.cim_noise_scale=1.0",),
    ),
    Variant("no_knowledge", "trained and run without COMET", ("knowledge=false",)),
)
FIGURES = ("R@1", "R@3", "R@5", "MRR", "Acc")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; what is not known goes to train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="All other arguments go to train.py, such as --text or --set."
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/choices"), help="models being made")
    parser.add_argument("--results", type=Path, default=Path("results/choices"))
    parser.add_argument("--page", type=Path, default=Path("docs/choices.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", choices=[v.name for v in VARIANTS])
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, sharing the cores")
    parser.add_argument("--only-render", action="store_true", help="render what there is")
    options, options.train_arguments = parser.parse_known_args(argv)
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the missing cells and render the page."""
    options = parse(argv)
    chosen = [v for v in VARIANTS if not options.variants or v.name in options.variants]
    # Seeds first, so that a stopped run leaves whole rounds and not one variant's seeds.
    cells = [(variant, seed) for seed in options.seeds for variant in chosen]
    missing = [cell for cell in cells if not _result_path(options, *cell).exists()]
    if not options.only_render and missing:
        with (
            ThreadPoolExecutor(options.jobs) as pool,
            tqdm(total=len(missing), desc="cells", unit="cell") as bar,
        ):
            futures = [pool.submit(_run_cell, options, *cell) for cell in missing]
            for future in futures:
                future.add_done_callback(lambda _: bar.update())
            for future in futures:
                future.result()
    results = {
        cell: json.loads(path.read_text(encoding="utf-8"))
        for cell in cells
        if (path := _result_path(options, *cell)).exists()
    }
    if not results:
        raise ValueError(f"{options.results}: there is no finished cell to render")
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(render(chosen, options.seeds, results), encoding="utf-8")
    print(f"{len(results)} of {len(cells)} cells are in {options.results}, the page {options.page}")
    return 0


def render(chosen: list[Variant], seeds: list[int], results: dict) -> str:
    """Render the page: one row a variant, means over seeds with each seed's R@1 beside them."""
    any_result = next(iter(results.values()))
    machine, recipe = any_result["machine"], any_result["recipe"]
    epochs = recipe["training"]["num_train_epochs"]
    backbones = ", ".join(f"{k} {v or 'from scratch'}" for k, v in any_result["backbones"].items())
    lines = [
        "# Choices that the paper leaves open",
        "",
        "Rendered by `scripts/choices.py` from the JSON in `results/choices`; do not edit.",
        "",
        f"Recipe `{any_result['recipe_file']}`, {epochs} epochs, validation split of the data "
        f"with fingerprint `{any_result['data']['fingerprint'][:12]}` "
        f"({any_result['validation']['samples']} samples), seeds {', '.join(map(str, seeds))}.",
        f"Backbones: {backbones}. Machine: {machine['cpu']}, one core a cell. Percent; the mean "
        "over seeds, R@1 and MRR with each seed's value.",
        "",
        "| variant | what differs | " + " | ".join(FIGURES) + " | seeds |",
        "|---|---|" + "---|" * (len(FIGURES) + 1),
    ]
    for variant in chosen:
        rows = [results[variant, seed] for seed in seeds if (variant, seed) in results]
        if not rows:
            lines.append(f"| {variant.name} | {variant.question} |" + " missing |" * 6)
            continue
        shown = []
        for figure in FIGURES:
            values = [row["validation"][figure] for row in rows]
            each = f" ({', '.join(f'{v:.1f}' for v in values)})" if figure in ("R@1", "MRR") else ""
            shown.append(f"{statistics.mean(values):.2f}{each}")
        lines.append(
            f"| {variant.name} | {variant.question} | {' | '.join(shown)} | {len(rows)} |"
        )
    samples = any_result["validation"]["samples"]
    share = any_result["validation"]["R@1"] / 100
    error = 100 * (share * (1 - share) / samples) ** 0.5
    lines += [
        "",
        f"The standard error of one R@1 over {samples} samples is {error:.1f} points, before what "
        "the seed adds: a difference within it decides nothing.",
        "",
    ]
    return "\n".join(lines)


def _result_path(options: argparse.Namespace, variant: Variant, seed: int) -> Path:
    return options.results / f"{variant.name}-seed{seed}.json"


def _run_cell(options: argparse.Namespace, variant: Variant, seed: int) -> None:
    """Train one cell in a process of its own, keep its evidence and drop its weights."""
    output = options.runs / f"{variant.name}-seed{seed}"
    changes = [part for change in variant.changes for part in ("--set", change)]
    command = [
        sys.executable,
        str(Path(__file__).with_name("train.py")),
        str(options.recipe),
        "--data", str(options.data), "--output", str(output), "--seed", str(seed),
        *options.train_arguments,
        *changes,
        "--set", "training.disable_tqdm=true",
    ]  # fmt: skip
    cores = max((os.cpu_count() or 1) // options.jobs, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{variant.name}, seed {seed}: train.py failed: {last}")
    result = json.loads((output / "training.json").read_text(encoding="utf-8"))
    _cli.write_json(_result_path(options, variant, seed), result)
    shutil.rmtree(output)


if __name__ == "__main__":
    _cli.run_main(main)
