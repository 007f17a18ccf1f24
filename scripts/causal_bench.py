# SPDX-License-Identifier: Apache-2.0
"""Measure the causal claim where the truth is known: on MOD-mini, the model that wrote it in code.

Every model is trained where words and feelings agree (--train-rho) and judged where they agree
less and less (--test-rho), and on stickers in styles that it never saw; all on the same dialogues
but for their words. A finished cell (model, training and seed) is skipped and a stopped one goes
on, so the command can be given again at any time. The figures are written to RESULTS, one JSON for
each cell, and drawn on the page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import _causal_page as page
import _cli
from _causal_judge import judge_references
from _causal_worlds import Test, Workshop, hash_of, read_world, run_script
from tqdm.auto import tqdm

from dataset_mod.synthetic_text import WORDS

BENCH = "bench.json"


@dataclass(frozen=True)
class Variant:
    """What is trained: CKS or a baseline, and what is set in its recipe."""

    name: str
    title: str
    kind: str = "cks"
    changes: tuple[str, ...] = ()


def _without(part: str, field: str) -> Variant:
    return Variant(f"without_{part.lower()}", f"w/o {part}", changes=(f"model.{field}=false",))


def _intervened(kind: str, title: str) -> Variant:
    change = f"baselines.{kind}.training.word_intervention=1"
    return Variant(f"{kind}_do_word", f"{title}, do(W) in training", kind, (change,))


_BASELINES = {"clip": "CLIP", "vilt": "ViLT", "mod_gpt": "MOD-GPT", "mmbert": "MMBERT",
              "blip2": "BLIP-2"}  # fmt: skip
_WORDS_AS_THEY_ARE = "training.word_intervention=0"
_WORDS_READ = "model.text_dropout=0.0"
_EYE = "visual_extractor.clip"
_EYE_LEARNS = (
    f"training.freeze=[{_EYE}.embeddings, {_EYE}.pre_layrnorm, {_EYE}.encoder.layers.0., "
    f"{_EYE}.encoder.layers.1.]"
)
STANDARD = (
    Variant("cks", "CKS"),
    Variant("as_published", "CKS without do(W) and hidden words",
            changes=(_WORDS_AS_THEY_ARE, _WORDS_READ)),
    *(Variant(kind, title, kind) for kind, title in _BASELINES.items()),
    _without("KEUE", "use_keue"),
    Variant("without_knowledge", "w/o COMET", changes=("knowledge=false",)),
    _without("VKD", "use_vkd"),
    _without("CIM", "use_cim"),
    _without("ITC", "use_itc"),
    _without("ITM", "use_itm"),
    _without("Emo", "use_emotion"),
    _without("OCR", "use_ocr"),
)  # fmt: skip
FURTHER = (
    Variant("without_do_word", "w/o do(W)", changes=(_WORDS_AS_THEY_ARE,)),
    Variant("half_do_word", "half of the utterances under do(W)",
            changes=("training.word_intervention=0.5",)),
    Variant("without_hiding", "w/o hidden words", changes=(_WORDS_READ,)),
    Variant(
        "paper_form", "CKS as printed",
        changes=(_WORDS_AS_THEY_ARE, _WORDS_READ, "model.vkd_form=feature_softmax",
                 "model.negative_visual=clip", "model.logq_correction=false",
                 "model.cim_noise_scale=1.0"),
    ),
    Variant("feature_softmax", "VKD: softmax over features",
            changes=("model.vkd_form=feature_softmax",)),
    Variant("clip_negatives", "negatives by CLIP's feature",
            changes=("model.negative_visual=clip",)),
    Variant("plain_contrast", "contrast without logQ", changes=("model.logq_correction=false",)),
    Variant("data_prior", "VKD: P(w) counted", changes=("data_prior=true",)),
    # The triplet loss teaches the eye alone, so its margin matters only where the eye learns.
    Variant("eye_learns", "the eye's last layer learns", changes=(_EYE_LEARNS,)),
    Variant("no_margin", "the same, triplet margin 0",
            changes=(_EYE_LEARNS, "model.triplet_margin=0.0")),
    Variant("wide_margin", "the same, triplet margin 0.5",
            changes=(_EYE_LEARNS, "model.triplet_margin=0.5")),
    Variant("little_noise", "CIM: noise 0.05", changes=("model.cim_noise_scale=0.05",)),
    Variant("full_noise", "CIM: noise 1", changes=("model.cim_noise_scale=1.0",)),
    Variant("no_history", "earlier stickers not read", changes=("model.sticker_history=false",)),
    *(_intervened(kind, title) for kind, title in _BASELINES.items()),
)  # fmt: skip
VARIANTS = {variant.name: variant for variant in (*STANDARD, *FURTHER)}


@dataclass(frozen=True)
class Cell:
    """One training: of a variant, at a strength of the confounding, with a seed."""

    variant: Variant
    rho: float
    seed: int

    @property
    def name(self) -> str:
        """How its files and folders are called."""
        return f"{self.variant.name}-rho{self.rho:g}-seed{self.seed}"


def main(argv: list[str] | None = None) -> int:
    """Make the worlds, run the missing cells, draw the page, and name what failed."""
    options = _parse(argv)
    chosen = [VARIANTS[name] for name in options.models or [one.name for one in STANDARD]]
    failed: list[str] = []
    if not options.only_render:
        failed = _run(chosen, options)
    for error in failed:
        print(f"failed: {error}", file=sys.stderr)
    names = [(variant.name, variant.title, variant.kind) for variant in VARIANTS.values()]
    asked = {variant.name for variant in chosen}
    found = page.collect(options.results, names, asked, options.seeds)
    page.write(found, options.results, options.page)
    print(f"{found['cells']} cells are in {options.results}, the page in {options.page}")
    return 1 if failed else 0


def bench_tests(test_rhos: list[float], lean: float) -> list[Test]:
    """List the tests: each strength with the word's arrow to the sticker cut, and left as it is."""
    return [Test(rho, cut) for cut in dict.fromkeys((0.0, lean)) for rho in test_rhos]


def _run(chosen: list[Variant], options: argparse.Namespace) -> list[str]:
    """Make what the cells need and run those without a result; a line for each that failed."""
    world = read_world(options.recipe)
    tests = bench_tests(options.test_rho, world.lean)
    workshop = Workshop(options.work, options.recipe, world)
    with tqdm(desc="worlds", unit="step") as bar:
        for step in workshop.steps(options.seeds, options.train_rho, tests):
            bar.set_postfix_str(step)
            bar.update()
    _write_bench(workshop, tests, options)
    # Seeds first, so that a stopped run leaves whole rounds of fewer seeds.
    cells = [
        Cell(variant, rho, seed)
        for seed in options.seeds
        for rho in options.train_rho
        for variant in chosen
    ]
    missing = [cell for cell in cells if not _is_done(cell, workshop, tests, options)]
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        tqdm(total=len(missing), desc="cells", unit="cell") as bar,
    ):
        ends = pool.map(lambda cell: _run_cell(cell, workshop, tests, options, bar), missing)
        failed = [error for error in ends if error]
    if options.probe:
        failed += _probe(cells, workshop, tests[0], options)
    return failed


def _probe(cells: list[Cell], workshop: Workshop, test: Test, options) -> list[str]:
    """Probe the models that were kept on the easy test; a line for each that failed."""
    lexicon = options.work / "lexicon.json"
    _cli.write_json(lexicon, {word: name for name, words in WORDS.items() for word in words})
    failed = []
    waiting = [
        cell
        for cell in cells
        if (_folder(cell, options) / "training.json").exists()
        and not page.probe_path(options.results, cell.name).exists()
    ]
    for cell in tqdm(waiting, desc="probes", unit="model"):
        folder = _folder(cell, options)
        data = workshop.tests(cell.seed, test)
        try:
            run_script("probe.py", folder, "--data", data, "--split", "test_easy",
                       "--lexicon", lexicon, "--truth", data / "truth.json",
                       "--output", folder / "probe.json", log=folder / "log.txt")  # fmt: skip
        except ValueError as error:
            failed.append(f"{cell.name}: {error}")
            continue
        told = (folder / "probe.json").read_bytes()
        _cli.write_bytes(page.probe_path(options.results, cell.name), told)
    return failed


def _whole(workshop: Workshop) -> str:
    return hash_of(json.dumps(workshop.fields, sort_keys=True).encode())


def _is_stale(folder: Path, wanted: dict, workshop: Workshop) -> bool:
    """Whether what lies in a cell's folder is of another cell, or cannot be gone on with."""
    stamp = folder / "cell.json"
    if not stamp.exists():
        return False
    made_as = json.loads(stamp.read_text(encoding="utf-8"))
    whole = made_as.pop("whole_recipe", None)
    if made_as != wanted:
        return True
    # Half a training goes on by its whole recipe alone; a finished one is what its own part made.
    return whole != _whole(workshop) and not (folder / "training.json").exists()


def _folder(cell: Cell, options) -> Path:
    return options.work / "cells" / cell.name


def identity(cell: Cell, workshop: Workshop, tests: list[Test], options) -> dict:
    """Say what a cell's figures depend on."""
    return {
        "variant": cell.variant.name,
        "kind": cell.variant.kind,
        "changes": [*options.set, *cell.variant.changes],
        "rho": cell.rho,
        "seed": cell.seed,
        "recipe": hash_of(json.dumps(_recipe_of(cell, workshop), sort_keys=True).encode()),
        "world": repr(workshop.world),
        "tests": [test.name for test in tests],
    }


def _recipe_of(cell: Cell, workshop: Workshop) -> dict:
    """Leave out of the recipe what concerns other kinds of models alone."""
    kind = cell.variant.kind
    aside = ("baselines",) if kind == "cks" else ("baselines", "model", "processor")
    kept = {section: of for section, of in workshop.fields.items() if section not in aside}
    return kept | {"own": workshop.fields.get("baselines", {}).get(kind)}


def _is_done(cell: Cell, workshop: Workshop, tests: list[Test], options) -> bool:
    path = options.results / f"{cell.name}.json"
    if not path.exists():
        return False
    try:
        made_as = json.loads(path.read_text(encoding="utf-8"))["cell"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a cell's figures ({error!r})") from error
    wanted = identity(cell, workshop, tests, options)
    for key, value in wanted.items():
        if made_as.get(key) != value:
            raise ValueError(
                f"{path}: was made with another {key}; give another --results, or remove it"
            )
    return True


def _run_cell(cell: Cell, workshop: Workshop, tests: list[Test], options, bar) -> str | None:
    """Train and judge a cell; return what went wrong in one line, or None."""
    folder = _folder(cell, options)
    wanted = identity(cell, workshop, tests, options)
    stamp, log = folder / "cell.json", folder / "log.txt"
    if _is_stale(folder, wanted, workshop):
        shutil.rmtree(folder)
    _cli.write_json(stamp, {**wanted, "whole_recipe": _whole(workshop)})
    data = workshop.data(cell.seed, cell.rho)
    try:
        if not (folder / "training.json").exists():
            run_script(*_training(cell, workshop, options), "--data", data, "--output", folder,
                       "--seed", cell.seed, log=log)  # fmt: skip
        given = [f"{test.name}={workshop.tests(cell.seed, test)}" for test in tests]
        run_script(
            "_causal_judge.py", folder, "--data", data, "--store", workshop.store,
            *(part for test in given for part in ("--test", test)),
            "--cell", json.dumps(wanted), "--output", options.results / f"{cell.name}.json",
            log=log,
        )  # fmt: skip
    except ValueError as error:
        return f"{cell.name}: {error}"
    finally:
        bar.update()
    if not (options.keep_models or options.probe):
        shutil.rmtree(folder)
    return None


def _training(cell: Cell, workshop: Workshop, options) -> list[object]:
    """Give the command that trains a cell, without its data and its folder."""
    command: list[object] = ["train.py", workshop.recipe]
    if cell.variant.kind == "cks":
        command += ["--bert", workshop.text, "--comet", workshop.comet,
                    "--knowledge-store", workshop.store]  # fmt: skip
    else:
        command = ["train_baseline.py", cell.variant.kind, workshop.recipe]
    command += ["--text", workshop.text, "--vision", workshop.eye]
    for change in (*options.set, *cell.variant.changes):
        command += ["--set", change]
    return command


def _write_bench(workshop: Workshop, tests: list[Test], options) -> None:
    """Write what is known without any model: the references, the eye, COMET."""
    path = options.results / BENCH
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    references = before.get("references", {})
    for seed in options.seeds:
        folders = {test.name: workshop.tests(seed, test) for test in tests}
        references[str(seed)] = judge_references(folders)
    read = {
        name: json.loads((folder / "training.json").read_text(encoding="utf-8"))
        for name, folder in (("eye", workshop.eye), ("comet", workshop.comet))
    }
    _cli.write_json(
        path,
        _cli.evidence(
            world=asdict(workshop.world),
            tests=[{"name": test.name, "rho": test.rho, "lean": test.lean} for test in tests],
            references=references,
            eye={key: read["eye"][key] for key in ("pictures", "steps", "loss", "faces_named")},
            comet={"held_out_loss": read["comet"]["held_out_loss"]},
        ),
    )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="YAML file: recipes/causal_bench.yaml")
    parser.add_argument("--work", type=Path, default=Path("runs/causal"), help="what is being made")
    parser.add_argument("--results", type=Path, default=Path("results/causal"))
    parser.add_argument("--page", type=Path, default=Path("docs/causal.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train-rho", type=float, nargs="+", default=[0.9], metavar="RHO")
    parser.add_argument("--test-rho", type=float, nargs="+", default=[0.9, 0.5, 0.1], metavar="RHO")
    parser.add_argument(
        "--models", nargs="+", choices=VARIANTS, metavar="MODEL",
        help=f"by default {', '.join(one.name for one in STANDARD)}; there are also "
        f"{', '.join(one.name for one in FURTHER)}",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.FIELD=VALUE",
        help="a change to the recipe of all models",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, a core for each")
    parser.add_argument("--keep-models", action="store_true", help="keep each cell's weights")
    parser.add_argument(
        *("--probe",),
        action="store_true",
        help="also change one thing about each sample (probe.py), with each model that was kept",
    )
    parser.add_argument("--only-render", action="store_true", help="draw the page of what there is")
    return parser.parse_args(argv)


if __name__ == "__main__":
    _cli.run_main(main)
