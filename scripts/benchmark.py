# SPDX-License-Identifier: Apache-2.0
"""Measure CKS beside what it is compared to: time, memory, and what of the machine is reached.

Every comparison runs in a process of its own, in which its contestants take turns; figures are
medians of repeats. Weights are random, drawn by configuration, unless a comparison asks for a
trained model: nothing is downloaded, and time does not depend on their values. `--page` renders
the results as a page.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _cli import evidence, run_main, write_json
from tqdm import tqdm

COMPARISONS = (
    "ceilings",
    "stickers",
    "conversation",
    "shortcuts",
    "split",
    "knowledge",
    "data",
    "training",
    "index",
    "serving",
)
# What is no part of what was measured: where files are, and what is not run.
_HIDDEN = ("measure", "output", "page", "keep", "names")


def main(argv: list[str] | None = None) -> int:
    """Run the comparisons, print their tables, write the results, render the page."""
    args, parser = _parse(argv)
    if args.measure is not None:
        # In the child: what it says goes to its file, whatever its libraries print.
        write_json(args.output, _module(args.measure).measure(args))
        return 0
    found = _kept(args, parser)
    names = [name for name in args.names or COMPARISONS if name not in found]
    if args.page is not None and not args.names:
        names = []
    with tqdm(names, disable=not names) as bar:
        for name in bar:
            bar.set_description(name)
            found[name] = {
                "arguments": _arguments(args, parser, name),
                **_in_a_process(name, argv if argv is not None else sys.argv[1:]),
            }
            _write(args, found)
    for name in COMPARISONS:
        if name in found and (name in names or args.page is None):
            module = _module(name)
            print(f"\n{module.TITLE}\n{module.table(found[name])}")
    if args.page is not None:
        _render(args.output, args.page)
        print(f"rendered to {args.page}")
    else:
        print(f"\nwritten to {args.output}")
    return 0


def _parse(argv: list[str] | None) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        epilog=f"comparisons: {', '.join(COMPARISONS)}",
    )
    parser.add_argument(
        "names", nargs="*", metavar="COMPARISON", help="what to measure (default: everything)"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=("tiny", "full"),
        default=["tiny", "full"],
        help="full: RoBERTa-base, BERT-base, CLIP ViT-B/32, COMET-BART (large), 12 layers of 512 "
        "(needs about 16 GiB)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timings per median (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument(
        "--quick", action="store_true", help="everything at tiny size with two repeats, for CI"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark.json"),
        help="results file (default: runs/benchmark.json)",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep what the results file has of the same arguments, and measure the rest",
    )
    parser.add_argument(
        "--page",
        type=Path,
        help="render the results file as this page; without comparisons named, measure nothing",
    )
    parser.add_argument("--measure", choices=COMPARISONS, help=argparse.SUPPRESS)
    for name in COMPARISONS:
        _module(name).add_arguments(parser)
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in COMPARISONS]
    if unknown:
        raise ValueError(f"there is no comparison {unknown[0]!r}, only {', '.join(COMPARISONS)}")
    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, not {args.repeats}")
    if args.quick:
        args.repeats, args.sizes = min(args.repeats, 2), ["tiny"]
    return args, parser


def _module(name: str):
    # They import nothing large before they measure: a child's peak is counted from its parent's
    # size on.
    return importlib.import_module(f"_benchmark_{name}")


def _arguments(args: argparse.Namespace, parser: argparse.ArgumentParser, name: str) -> dict:
    """Give the arguments that a comparison depends on, paths by their last name."""
    own = {key for key in vars(args) if key.split("_")[0] in COMPARISONS}
    kept = {
        key: value
        for key, value in vars(args).items()
        if key not in _HIDDEN and (key not in own or key.startswith(f"{name}_"))
    }
    return {
        key: value.name if isinstance(value, Path) else value
        for key, value in json.loads(json.dumps(kept, default=lambda path: path.name)).items()
    }


def _kept(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, dict]:
    """Read what the results file has already, as far as it is still wanted."""
    if not args.output.exists():
        if args.page is not None and not args.names:
            raise ValueError(f"{args.output}: no such file; measure first")
        return {}
    found = _read(args.output)["comparisons"]
    if args.page is not None and not args.names:
        return found
    named = args.names or COMPARISONS
    return {
        name: one
        for name, one in found.items()
        if name not in named or (args.keep and one["arguments"] == _arguments(args, parser, name))
    }


def _read(path: Path) -> dict:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable results ({error})") from error
    if not isinstance(read, dict) or "comparisons" not in read:
        raise ValueError(f"{path}: not the results of benchmark.py")
    return read


def _in_a_process(name: str, argv: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        command = [sys.executable, os.fspath(Path(__file__).resolve()), *map(str, argv)]
        command += ["--measure", name, "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ValueError(f"measuring {name} failed: {said[-1]}")
        return json.loads(output.read_text(encoding="utf-8"))


def _write(args: argparse.Namespace, found: dict[str, dict]) -> None:
    """Write after each comparison, so that a run that is stopped has lost one at most."""
    headlines = []
    for name in COMPARISONS:
        module = _module(name)
        if name in found and hasattr(module, "headlines"):
            shown = module.headlines(found[name])
            # The README and the cards show the paper's size, where it was measured.
            large = [one for one in shown if one["size"] != "tiny"]
            headlines += large or shown
    threads = os.environ.get("OMP_NUM_THREADS")
    write_json(
        args.output,
        {
            "comparisons": {name: found[name] for name in COMPARISONS if name in found},
            "results": headlines,
            **evidence(OMP_NUM_THREADS=threads),
        },
    )


def _render(results: Path, page: Path) -> None:
    from _benchmark_page import render

    read = _read(results)
    modules = {name: _module(name) for name in COMPARISONS}
    render(read, modules, page)


if __name__ == "__main__":
    run_main(main)
