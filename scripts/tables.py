# SPDX-License-Identifier: Apache-2.0
"""Make the paper's tables 1 and 2 for any prepared data: every model, one budget, several seeds.

Each cell (model and seed) is trained by train.py or train_baseline.py and judged by evaluate.py. A
finished cell is skipped and a stopped one goes on, so the command can be given again at any time.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import _cli
import numpy as np
from _groups import Groups, add_arguments
from _tables_models import MODELS, REFERENCE, TABLE_1, TABLE_2, Model
from _tables_page import FIGURES, SPLITS, TESTED, render
from tqdm.auto import tqdm

from dataset_mod import load_prepared
from modeling_cks.evaluation import (
    BagOfWordsRanker,
    MostFrequentRanker,
    evaluate_ranker,
    paired_bootstrap,
    sample_figures,
    write_samples,
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="YAML file, such as recipes/moji_table.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder of prepare_mod.py")
    parser.add_argument("--language", help="which language of the data; its first by default")
    for name in ("text", "bert", "vision", "comet"):
        parser.add_argument(f"--{name}", help=f"name or folder of the {name} checkpoint")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="models being made")
    parser.add_argument("--results", type=Path, default=Path("results/tables"))
    parser.add_argument("--page", type=Path, default=Path("docs/tables.md"))
    add_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        *("--models",),
        nargs="+",
        choices=MODELS,
        metavar="MODEL",
        help=f"those of tables 1 and 2 by default; {', '.join(MODELS)}",
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, sharing the cores")
    parser.add_argument("--only-render", action="store_true", help="render what there is")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the missing cells, render the tables, and name the cells that failed."""
    options = parse(argv)
    data = load_prepared(options.data, options.language)
    names = options.models or [model.name for model in (*TABLE_1, *TABLE_2)]
    chosen = [model for name, model in MODELS.items() if name in names]
    failed = [] if options.only_render else _run(chosen, data, options)
    for error in failed:
        print(f"failed: {error}", file=sys.stderr)
    _keep_trainings(chosen, options)
    groups = Groups(data, options.data, [s for s in SPLITS if s in data.splits], options)
    tables = collect(options.results, options.seeds, data.fingerprint, groups)
    _cli.write_json(options.results / "tables.json", tables)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text(render(tables), encoding="utf-8")
    there = sum(len(model["seeds"]) for model in tables["models"].values())
    print(f"{there} cells are in {options.results}, the tables in {options.page}")
    return 1 if failed else 0


def _run(chosen: list[Model], data, options: argparse.Namespace) -> list[str]:
    """Run the cells without a result; say what went wrong, a line for each that failed."""
    failed = []
    for model in chosen:
        if model.kind == "yardstick" and not result_path(options.results, model, 0).exists():
            try:
                _judge_yardstick(model, data, options)
            except (ValueError, ImportError) as error:
                failed.append(f"{model.name}: {error}")
    # Seeds first, so that a stopped run leaves whole tables of fewer seeds.
    cells = [
        (model, seed)
        for seed in options.seeds
        for model in chosen
        if model.kind != "yardstick" and not result_path(options.results, model, seed).exists()
    ]
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        tqdm(total=len(cells), desc="cells", unit="cell") as bar,
    ):
        ends = pool.map(lambda cell: _run_cell(options, *cell, bar), cells)
        return failed + [error for error in ends if error]


def result_path(results: Path, model: Model, seed: int) -> Path:
    """Name the file of a cell's figures; a yardstick knows no seed."""
    suffix = "" if model.kind == "yardstick" else f"-seed{seed}"
    return results / f"{model.name}{suffix}.json"


def samples_path(result: Path) -> Path:
    """Name the file of each sample's rank: small, so that it is kept with the figures."""
    return result.with_suffix(".samples.jsonl.gz")


def training_path(results: Path, model: Model, seed: int) -> Path:
    """Name the file that says how a cell was trained."""
    return result_path(results, model, seed).with_suffix(".training.json")


def _keep_trainings(chosen: list[Model], options: argparse.Namespace) -> None:
    """Put the record of each training beside its figures, since models are not kept for ever."""
    for model in chosen:
        for seed in options.seeds:
            trained = options.runs / model.name / f"seed{seed}" / "training.json"
            if trained.exists() and result_path(options.results, model, seed).exists():
                shutil.copyfile(trained, training_path(options.results, model, seed))


def _judge_yardstick(model: Model, data, options: argparse.Namespace) -> None:
    train = data.splits["train"]
    if model.name == "bag_of_words":
        ranker = BagOfWordsRanker(list(train), len(data.emotions))
    else:
        ranker = MostFrequentRanker(train["sticker_id"], train["emotion"])
    splits, samples = {}, []
    for split in SPLITS:
        if split in data.splits:
            found = evaluate_ranker(ranker, list(data.splits[split]))
            splits[split] = {"metrics": found.metrics}
            samples += [{"split": split, **record} for record in found.samples]
    path = result_path(options.results, model, 0)
    write_samples(samples_path(path), samples)
    _cli.write_json(
        path, _cli.evidence(splits=splits, model=model.name, data={"fingerprint": data.fingerprint})
    )


def _run_cell(options: argparse.Namespace, model: Model, seed: int, bar) -> str | None:
    """Train and judge a cell; return what went wrong in one line, or None."""
    here = Path(__file__).parent
    folder = options.runs / model.name / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = ("text", "bert", "vision", "comet") if model.kind == "cks" else ("text", "vision")
    command = [str(here / "train.py")]
    if model.kind != "cks":
        command = [str(here / "train_baseline.py"), model.kind]
    command += [str(options.recipe), "--output", str(folder), "--seed", str(seed)]
    for part in parts:
        if value := getattr(options, part):
            command += [f"--{part}", value]
    for change in (*options.set, *model.changes):
        command += ["--set", change]
    result = result_path(options.results, model, seed)
    judged = folder / "judged.json"
    judge = [str(here / "evaluate.py"), str(folder), "--split", "all", "--output", str(judged)]
    trained = folder / "training.json"
    steps = [judge] if trained.exists() else [command, judge]
    cores = max((os.cpu_count() or 1) // options.jobs, 1)
    environment = {"OMP_NUM_THREADS": str(cores), **os.environ}
    try:
        for step in steps:
            step += ["--data", str(options.data)]
            if options.language:
                step += ["--language", options.language]
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                done = subprocess.run(
                    [sys.executable, *step], stdout=log, stderr=subprocess.STDOUT, env=environment
                )
            if done.returncode:
                said = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
                # One that was killed says nothing.
                last = said[-1] if said else f"ended with {done.returncode}"
                return f"{model.name} seed {seed}: {last} (see {folder / 'log.txt'})"
    finally:
        bar.update()
    with judged.with_suffix(".samples.jsonl").open(encoding="utf-8") as lines:
        write_samples(samples_path(result), map(json.loads, lines))
    # The figures last: a cell that has them is whole.
    _cli.write_bytes(result, judged.read_bytes())
    # The model stays; what training could be resumed from is not needed any more.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return None


def collect(
    results: Path, seeds: list[int], fingerprint: str, groups: Groups | None = None
) -> dict:
    """Gather all finished cells: means, spreads, differences from CKS, and figures of groups.

    Raises:
        ValueError: a cell is unreadable or was judged on other data; or there is none.
    """
    models, figures, dialogues = {}, {}, {}
    for model in MODELS.values():
        cells, trainings = {}, {}
        for seed in [0] if model.kind == "yardstick" else seeds:
            path = result_path(results, model, seed)
            if path.exists():
                cells[seed] = _read_cell(path, fingerprint)
                # What the judge wrote down of the training stands in where that was not kept.
                training = _read_training(training_path(results, model, seed), fingerprint)
                trainings[seed] = {**cells[seed], "seconds": None, **training}
        if not cells:
            continue
        models[model.name] = {
            "title": model.title,
            "seeds": sorted(cells),
            "asked_seeds": [0] if model.kind == "yardstick" else list(seeds),
            **_about(model, [trainings[seed] for seed in sorted(cells)]),
            "splits": {split: _mean_figures(split, cells) for split in SPLITS},
        }
        for split in SPLITS:
            found = [_records(result_path(results, model, seed), split) for seed in sorted(cells)]
            names = [(r["dialogue_id"], r["turn"]) for r in found[0]]
            if dialogues.setdefault(split, names) != names or any(
                [(r["dialogue_id"], r["turn"]) for r in other] != names for other in found[1:]
            ):
                raise ValueError(f"{results}: {model.name} was judged on other samples of {split}")
            of_seeds = [sample_figures(records) for records in found]
            figures[model.name, split] = {
                name: np.mean([each[name] for each in of_seeds], axis=0) for name in FIGURES
            }
            if groups and split in groups.of:
                of_groups = models[model.name].setdefault("groups", {})
                of_groups[split] = groups.figures(split, found)
    if not models:
        raise ValueError(f"{results}: there is no finished cell to render")
    for name, about in models.items():
        if name == REFERENCE or REFERENCE not in models:
            continue
        about["against_cks"] = {
            split: {
                figure: asdict(
                    paired_bootstrap(
                        figures[REFERENCE, split][figure],
                        figures[name, split][figure],
                        [dialogue for dialogue, _ in dialogues[split]],
                    )
                )
                for figure in TESTED
            }
            for split in SPLITS
            if dialogues[split]
        }
    published = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    told = {"groups": groups.about} if groups else {}
    return {"models": models, "data": {"fingerprint": fingerprint}, **told, "published": published}


def _read_cell(path: Path, fingerprint: str) -> dict:
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        judged_on = cell["data"]["fingerprint"]
        cell["splits"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a cell's figures ({error!r})") from error
    if judged_on != fingerprint:
        raise ValueError(f"{path}: was judged on other data; give another --results")
    return cell


def _read_training(path: Path, fingerprint: str) -> dict:
    """Read how a cell was trained; {} where that was not kept."""
    if not path.exists():
        return {}
    try:
        training = json.loads(path.read_text(encoding="utf-8"))
        trained_on = training["data"]["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the record of a training ({error!r})") from error
    if trained_on != fingerprint:
        raise ValueError(f"{path}: was trained on other data; give another --results")
    return training


def _records(path: Path, split: str) -> list[dict]:
    lines = samples_path(path)
    try:
        with gzip.open(lines, "rt", encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{lines}: the ranks of each sample cannot be read ({error})") from error
    return [record for record in records if record["split"] == split]


def _about(model: Model, trainings: list[dict]) -> dict:
    """Say what the cells of a model were trained with, as far as it was written down."""
    if model.kind == "yardstick":
        return {}
    first = trainings[0]
    recipe = first.get("recipe") or {}
    fields = dict(recipe.get("training") or {})
    if model.kind != "cks":
        fields |= ((recipe.get("baselines") or {}).get(model.kind) or {}).get("training") or {}
    sources = first.get("backbones") or {}
    missing = model.weights if model.weights and not sources.get("checkpoint") else None
    if not missing and model.weights is None and not sources.get("checkpoint"):
        scratch = [part for part in ("text", "bert", "vision") if sources.get(part, "") is None]
        missing = ", ".join(scratch) or None
    total = (first.get("parameters") or {}).get("total")
    # A model that is judged as it comes spent nothing of the budget.
    zero_shot = first.get("steps") == 0
    return {
        "machine": first.get("machine"),
        "zero_shot": zero_shot,
        "epochs": None if zero_shot else fields.get("num_train_epochs"),
        "batch": None if zero_shot else fields.get("per_device_train_batch_size"),
        "steps": first.get("steps"),
        "seconds": [training.get("seconds") for training in trainings],
        "parameters": total,
        "trained_parameters": total and total - first["frozen_parameters"],
        "backbones": sources,
        "without_weights": missing,
    }


def _mean_figures(split: str, cells: dict[int, dict]) -> dict:
    found = {}
    for figure in FIGURES:
        values = [
            cell["splits"][split]["metrics"][figure]
            for cell in cells.values()
            if figure in cell["splits"].get(split, {}).get("metrics", {})
        ]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else None
            found[figure] = {"mean": statistics.mean(values), "spread": spread, "seeds": values}
    return found


if __name__ == "__main__":
    _cli.run_main(main)
