# SPDX-License-Identifier: Apache-2.0
"""Put the measured figures into the README, from the results' JSON; nothing is typed by hand.

Reads RESULTS/moji/seed*.json (evaluate.py on all splits, one file a seed) with the training.json
of each beside it as seed*.training.json, RESULTS/causal/causal.json (causal_bench.py),
RESULTS/demo.json (demo.py), RESULTS/onnx.json (export_onnx.py) and RESULTS/benchmark.json
(benchmark.py). A result that is missing is an error, not a gap.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import _cli
from _benchmark import shown

BEGIN, END = "<!-- measured:begin", "<!-- measured:end -->"
FIGURES = ("R@1", "R@3", "R@5", "MRR", "Acc")
SPLITS = ("validation", "test_easy", "test_hard")
_IN_README = ("cks", "as_published", "clip", "mod_gpt", "mmbert")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=_cli.ROOT / "results")
    parser.add_argument("--readme", type=Path, default=_cli.ROOT / "README.md")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Render the figures and put them between the README's markers."""
    options = parse(argv)
    text = options.readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    comment, newline, rest = rest.partition("\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{options.readme}: the markers {BEGIN} and {END} are not there")
    block = render(options.results)
    options.readme.write_text(
        f"{before}{begin}{comment}{newline}{block}\n{end}{after}", encoding="utf-8"
    )
    print(f"the figures of {options.results} are in {options.readme}")
    return 0


def render(results: Path) -> str:
    """Render every section."""
    parts = (
        moji(results / "moji"),
        causal(results / "causal" / "causal.json"),
        demo(results / "demo.json"),
        onnx(results / "onnx.json"),
        benchmark(results),
    )
    return "\n\n".join(parts)


def read(path: Path) -> dict:
    """Read one result.

    Raises:
        ValueError: if it is missing.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: the result is missing, and no figure is made up") from None


def moji(folder: Path) -> str:
    """Render the evaluation on emoji stickers in MELD's scenes, mean over seeds."""
    runs = [read(path) for path in sorted(folder.glob("seed?.json"))]
    if not runs:
        raise ValueError(f"{folder}: there is no seed?.json of evaluate.py")
    trained = [read(folder / f"seed{run['seed']}.training.json") for run in runs]
    one = trained[0]
    backbones = ", ".join(f"{part} {name}" for part, name in one["backbones"].items() if name)
    minutes = " and ".join(f"{run['seconds'] / 60:.0f}" for run in trained)
    memory = max(run["peak_memory_mib"] for run in trained) / 1024
    lines = [
        "**Human-labelled emotions, rule-made choices.** Scenes of MELD with emoji stickers in "
        "MOD's layout (moji), 11 candidates; in the hard test no right sticker was seen in "
        f"training. Recipe `{one['recipe_file']}`, backbones {backbones}; seeds "
        f"{', '.join(str(run['seed']) for run in runs)}, trained in {minutes} minutes on "
        f"{one['machine']['cores']} cores ({one['machine']['cpu']}), at most {memory:.1f} GiB. "
        "Percent, mean over seeds (R@1: each).",
        "",
        "| ranker | split | " + " | ".join(FIGURES) + " |",
        "|---|---|" + "---|" * len(FIGURES),
    ]
    for split in SPLITS:
        found = [run["splits"][split] for run in runs]
        lines.append(row("CKS", split, [each["metrics"] for each in found]))
        for yardstick in found[0]["yardsticks"]:
            lines.append(row(yardstick, split, [each["yardsticks"][yardstick] for each in found]))
    for path in sorted(folder.glob("seed?-no-knowledge.json")):
        bare = read(path)
        name = f"CKS run without COMET (seed {bare['seed']})"
        lines += [row(name, split, [bare["splits"][split]["metrics"]]) for split in SPLITS]
    return "\n".join(lines)


def row(name: str, split: str, metrics: list[dict]) -> str:
    """Render one line of means; R@1 also for each seed where they differ."""
    cells = []
    for figure in FIGURES:
        values = [each[figure] for each in metrics if figure in each]
        if not values:
            cells.append("-")
            continue
        shown = f"{statistics.mean(values):.1f}"
        if figure == "R@1" and len(set(values)) > 1:
            shown += f" ({', '.join(f'{value:.1f}' for value in values)})"
        cells.append(shown)
    return f"| {name} | {split} | {' | '.join(cells)} |"


def causal(path: Path) -> str:
    """Render how far each model falls where words tell less of the feeling than in training."""
    found = read(path)
    tests = sorted(
        (test for test in found["bench"]["tests"] if test["lean"] == 0), key=lambda t: -t["rho"]
    )
    strengths = ", ".join(f"{test['rho']:g}" for test in tests)
    training = max(found["trainings"], key=float)
    lines = [
        f"**Words or feeling** (`scripts/causal_bench.py`, [docs/causal.md](docs/causal.md)): "
        f"MOD-mini, trained where a word tells the feeling with probability {training}, judged "
        f"where it does with {strengths}; {found['bench']['machine']['cpu']}. Percent, mean over "
        "seeds (R@1: each at the ends).",
        "",
        f"| model | seeds | R@1 at {strengths} | first to last | Acc first to last |",
        "|---|---|---|---|---|",
    ]
    for name in _IN_README:
        model = found["models"].get(name)
        if model is None or training not in model["rho"]:
            raise ValueError(f"{path}: has no figures of {name}")
        about = model["rho"][training]
        of = [about["figures"][test["name"]]["test_easy"]["all"] for test in tests]
        means = ", ".join(f"{statistics.mean(one['R@1']):.1f}" for one in of)
        each = "; ".join(
            f"{first:.1f} to {last:.1f}"
            for first, last in zip(of[0]["R@1"], of[-1]["R@1"], strict=True)
        )
        accuracy = "-"
        if of[0].get("Acc"):
            accuracy = " to ".join(f"{statistics.mean(one['Acc']):.1f}" for one in (of[0], of[-1]))
        seeds = ", ".join(map(str, about["seeds"]))
        lines.append(f"| {model['title']} | {seeds} | {means} | {each} | {accuracy} |")
    return "\n".join(lines)


def demo(path: Path) -> str:
    """Render what `make demo` took and reached."""
    state = read(path)
    machine = state["machine"]
    lines = [
        f"**`make demo`** on MOD-mini, from scratch: {state['total_seconds']:.0f} s after "
        f"installation ({machine['cores']} cores, {machine['cpu']}).",
        "",
        "| ranker | split | " + " | ".join(FIGURES) + " |",
        "|---|---|" + "---|" * len(FIGURES),
    ]
    for split, found in state["results"]["splits"].items():
        lines.append(row("CKS", split, [found["metrics"]]))
        for name, figures in found["yardsticks"].items():
            lines.append(row(name, split, [figures]))
    return "\n".join(lines)


def onnx(path: Path) -> str:
    """Render what export_onnx.py measured of the same model in three runtimes."""
    found = read(path)
    data, latency = found["data"], found["latency"]
    lines = [
        f"**Runtimes** (`scripts/export_onnx.py`): one model of `moji_table.yaml`, {data['rows']} "
        f"samples of {data['split']}; medians of {latency['rows']} rankings of 11 stickers, taken "
        f"in turn, {latency['threads']} thread, {found['machine']['cpu']}, beside other work. "
        f"fp32 scores differ by {found['largest_difference']['scores']:.0e} at most.",
        "",
        "| runtime | R@1 | MRR | MiB | ms, known stickers | ms, new stickers |",
        "|---|---|---|---|---|---|",
    ]
    for runtime, metrics in found["metrics"].items():
        size = found["mib"].get(runtime)
        cells = (
            runtime,
            f"{metrics['R@1']:.1f}",
            f"{metrics['MRR']:.1f}",
            "-" if size is None else f"{sum(size.values()):.0f}",
            *(
                f"{latency['median_ms'][which][runtime]:.0f}"
                for which in ("known_stickers", "new_stickers")
            ),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def benchmark(results: Path) -> str:
    """Render the table of benchmark.py."""
    found = read(results / "benchmark.json")
    machine = found["machine"]
    lines = [
        f"**Time and memory** (`scripts/benchmark.py`, {machine['cores']} cores, "
        f"{machine['cpu']}, random weights of the paper's sizes; medians, each comparison in a "
        "process of its own; [docs/speed.md](docs/speed.md) has all of it, with curves and "
        "limits). Peak memory is that of the whole comparison, all its contestants together.",
        "",
        "| measurement | size | median s | rows/s | peak MiB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['measurement']} | {one['size']} | {one['seconds']:.3f} | "
        f"{shown(one['rows_per_second'])} | {one['peak_memory_mib']:.0f} |"
        for one in found["results"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    _cli.run_main(main)
