# SPDX-License-Identifier: Apache-2.0
"""What causal_bench.py judges on: worlds of MOD-mini, and the backbones that all models share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dataset_mod.synthetic import write_mini_release
from dataset_mod.synthetic_world import UNSEEN_STYLES

SCRIPTS = Path(__file__).resolve().parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
COMET_SIZE = ("--d-model", "64", "--layers", "1", "--vocab-size", "2000", "--lr", "3e-3")
_FIELDS = {"dialogues", "unseen_styles", "lean", "new_events", "eye_steps", "comet_epochs"}


@dataclass(frozen=True)
class World:
    """The sizes and strengths that all worlds of a bench share.

    Args:
        dialogues: how many in training, validation, easy and hard test.
        unseen_styles: the drawing styles of the hard test alone.
        lean: how often the word chooses the sticker, in training and in the tests of that name.
        new_events: the share of the tests' events that training never had.
        eye_steps: how long the shared eye is taught.
        comet_epochs: how long COMET is trained.
    """

    dialogues: tuple[int, int, int, int]
    unseen_styles: tuple[str, ...] = UNSEEN_STYLES
    lean: float = 0.25
    new_events: float = 0.5
    eye_steps: int = 450
    comet_epochs: float = 4


@dataclass(frozen=True)
class Test:
    """Both tests of one world at one strength of the confounding.

    Where `lean` is 0 the arrow from the word to the sticker is cut: the right sticker is what the
    same speaker sends when no word can choose it (`sticker_without_word` of truth.json).
    """

    rho: float
    lean: float

    @property
    def name(self) -> str:
        """How folders and results call it."""
        return f"rho{self.rho:g}-lean{self.lean:g}"


def read_world(path: Path) -> World:
    """Read the section `world` of a bench's recipe.

    Raises:
        ValueError: it is missing, or has a field that there is not.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a readable recipe ({error})") from error
    fields = recipe.get("world") if isinstance(recipe, dict) else None
    if not isinstance(fields, dict) or "dialogues" not in fields:
        raise ValueError(f"{path}: a bench needs a section `world` with `dialogues`")
    if unknown := sorted(set(fields) - _FIELDS):
        raise ValueError(f"{path}: world has no field {unknown[0]!r}, only {sorted(_FIELDS)}")
    return World(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def run_script(name: str, *arguments: object, log: Path, threads: int = 1) -> None:
    """Run one of the scripts and keep what it says.

    Raises:
        ValueError: it failed; with its last line.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **OFFLINE}
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / name), *map(str, arguments)],
            stdout=file, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    if done.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = said[-1] if said else f"ended with {done.returncode}"
        raise ValueError(f"{name}: {last} (see {log})")


class Workshop:
    """Make what the cells need under one folder; what is there of the same settings is kept.

    Args:
        folder: of `--work`.
        recipe: the bench's recipe.
        world: its section `world`.
    """

    def __init__(self, folder: Path, recipe: Path, world: World) -> None:
        """Write the recipe of the trainings, which knows no worlds, beside the rest."""
        self.folder, self.world = folder, world
        fields = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        del fields["world"]
        self.fields, self.scratch = fields, fields.get("scratch", {})
        self.recipe = folder / recipe.name
        folder.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")

    @property
    def eye(self) -> Path:
        """The shared eye."""
        return self.folder / "eye"

    @property
    def text(self) -> Path:
        """The shared, untrained encoder of words and its tokenizer."""
        return self.folder / "text"

    @property
    def comet(self) -> Path:
        """COMET, trained on the world's common sense, which no seed changes."""
        return self.folder / "comet"

    @property
    def store(self) -> Path:
        """COMET's knowledge of all that is said in any of the worlds."""
        return self.folder / "knowledge"

    def data(self, seed: int, rho: float) -> Path:
        """The prepared data to train on."""
        return self.folder / f"seed{seed}" / f"train-rho{rho:g}"

    def tests(self, seed: int, test: Test) -> Path:
        """The prepared data of a test; its training split is a stub."""
        return self.folder / f"seed{seed}" / f"test-{test.name}"

    def steps(
        self, seeds: Sequence[int], train_rhos: Sequence[float], tests: Sequence[Test]
    ) -> Iterator[str]:
        """Make everything, step by step; each step's name is given before it is done."""
        eye, world = self.scratch.get("vision_config"), self.world
        settings = {"config": eye, "steps": world.eye_steps}
        yield "the eye"
        self._once(self.eye, settings, self._make_eye)
        for seed in seeds:
            for rho in train_rhos:
                yield f"seed {seed}, training at rho {rho:g}"
                self._make_world(self.data(seed, rho), seed, rho, Test(rho, world.lean), whole=True)
            for test in tests:
                yield f"seed {seed}, test {test.name}"
                # The tests of a seed do not depend on what training was like.
                self._make_world(self.tests(seed, test), seed, 0.5, test, whole=False)
        atomic = self.data(seeds[0], train_rhos[0]) / "atomic.csv"
        yield "COMET"
        self._once(self.comet, {"size": COMET_SIZE, "epochs": world.comet_epochs},
                   lambda: self._make_comet(atomic))  # fmt: skip
        yield "the words"
        self._once(self.text, {"config": self.scratch.get("text_config")},
                   lambda: self._make_text(atomic))  # fmt: skip
        made = (self.comet / "training.json").read_bytes()
        for seed in seeds:
            folders = [self.data(seed, rho) for rho in train_rhos]
            for folder in folders + [self.tests(seed, test) for test in tests]:
                yield f"knowledge of {folder.parent.name}/{folder.name}"
                of = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
                settings = {"comet": str(hash_of(made)), "data": of["fingerprint"]}
                self._once(folder / "extracted", settings, lambda folder=folder: run_script(
                    "extract_knowledge.py", folder, "--comet", self.comet, "--store", self.store,
                    log=self.log("knowledge")))  # fmt: skip

    def log(self, name: str) -> Path:
        """Where a step's output goes."""
        return self.folder / "logs" / f"{name}.txt"

    def _once(self, folder: Path, settings: Mapping, make) -> None:
        """Make a folder unless it was made with these settings."""
        stamp = folder.parent / f".{folder.name}.made.json"
        wanted = json.loads(json.dumps(settings))
        if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
            return
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        make()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(wanted), encoding="utf-8")

    def _make_eye(self) -> None:
        run_script("_causal_eye.py", self.recipe, "--output", self.eye,
                   "--steps", self.world.eye_steps, log=self.log("eye"))  # fmt: skip

    def _make_comet(self, atomic: Path) -> None:
        run_script("train_comet.py", atomic, "--output", self.comet, *COMET_SIZE,
                   "--epochs", self.world.comet_epochs, log=self.log("comet"))  # fmt: skip

    def _make_text(self, atomic: Path) -> None:
        """Save an untrained BERT whose tokenizer knows the words of the world's common sense."""
        run_script("_causal_words.py", self.recipe, atomic, "--output", self.text,
                   log=self.log("text"))  # fmt: skip

    def _make_world(self, folder: Path, seed: int, rho: float, test: Test, whole: bool) -> None:
        """Write a release, prepare it, and keep of the release its truth and its ATOMIC."""
        train, validation, easy, hard = self.world.dialogues
        dialogues = (train, validation, 1, 1) if whole else (1, 1, easy, hard)
        strengths = {"rho": rho, "test_rho": test.rho, "lean": self.world.lean,
                     "test_lean": test.lean, "new_events": self.world.new_events}  # fmt: skip
        strengths["unseen_styles"] = self.world.unseen_styles
        settings = {"seed": seed, "dialogues": dialogues, **strengths}

        def make() -> None:
            release = folder.with_name(f"{folder.name}.release")
            shutil.rmtree(release, ignore_errors=True)
            write_mini_release(release, seed=seed, dialogues=dialogues, **strengths)
            run_script("prepare_mod.py", release, "--output", folder,
                       "--captions", release / "captions.json", log=self.log("worlds"))  # fmt: skip
            if whole:
                run_script("bias_report.py", folder, "--lexicon", release / "lexicon.tsv",
                           "--lexicon-only", log=self.log("bias"))  # fmt: skip
                shutil.copyfile(release / "atomic" / "v4_atomic_mini.csv", folder / "atomic.csv")
            shutil.copyfile(release / "truth.json", folder / "truth.json")
            shutil.rmtree(release)

        self._once(folder, settings, make)


def hash_of(content: bytes) -> str:
    """Return the sha256 of some bytes."""
    return hashlib.sha256(content).hexdigest()
