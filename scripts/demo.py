# SPDX-License-Identifier: Apache-2.0
"""The quick start: from drawn stickers to a trained CKS and a page that shows what it does.

Writes MOD-mini, trains a small COMET and a small CKS on it, evaluates, loads the saved model in a
fresh process, lets it choose stickers for three dialogues, and makes OUTPUT/index.html of it all.
What an earlier run has done already is not done again. With --serve, the model then answers on a
page on this machine (hub_cards/space), until it is stopped.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import _cli

SCRIPTS = Path(__file__).resolve().parent
SPACE_APP = SCRIPTS.parent / "hub_cards" / "space" / "app.py"
TEMPLATE = "demo_page.html.j2"
STYLE = "page_style.css.j2"
STATE = "demo.json"
DIALOGUES = (300, 60, 60, 60)
SPLITS = ("test_easy", "test_hard")
TOP_STICKERS = 5
PLATE_STICKERS = 3
STYLE_DRAWS = 4
COMET_SIZE = ("--d-model", "64", "--layers", "1", "--vocab-size", "2000", "--lr", "3e-3")
# Nothing of the demo needs a network.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

# What MOD-mini's people talk about; `sticker` names a drawing of it.
CONVERSATIONS = (
    {
        "title": "Good news",
        "note": "Feeling and word agree; the answer is in the style that its sender used before.",
        "turns": (
            {"speaker": 0, "text": "Are you there?"},
            {
                "speaker": 1,
                "text": "Yes, that is right. The radio plays that merry tune all day.",
                "sticker": "beam-flat.png",
            },
            {"speaker": 0, "text": "What did you want to tell me?"},
            {"speaker": 1, "text": "You know, I passed my driving exam."},
        ),
    },
    {
        "title": "Fun where nothing is funny",
        "note": "The last turn says “funny”, but what happened is sad: a model that leans on the "
        "word would laugh.",
        "turns": (
            {"speaker": 0, "text": "How was your day?", "sticker": "poker-flat.gif"},
            {"speaker": 1, "text": "Well, my old dog died last night.", "sticker": "bawl-ink.png"},
            {"speaker": 0, "text": "Tell me more."},
            {
                "speaker": 1,
                "text": "That is how it is. They are showing that funny film again.",
            },
        ),
    },
    {
        "title": "Told by the other",
        "note": "Nobody names a feeling: the other speaker tells what happened, and the one to "
        "whom it happened answers.",
        "turns": (
            {"speaker": 1, "text": "Where are you now?"},
            {"speaker": 0, "text": "I am just telling you. I wrote it down."},
            {
                "speaker": 1,
                "text": "I heard that someone scratched your car on purpose.",
            },
            {
                "speaker": 0,
                "text": "Yes, word gets around. I am wearing my plain T-shirt today.",
            },
        ),
    },
)

RELATION_WORDS = {
    "xReact": "feels",
    "xEffect": "what happens to them",
    "xWant": "wants",
    "oReact": "others feel",
    "oEffect": "what happens to others",
    "oWant": "others want",
}


@dataclass(frozen=True)
class Step:
    """One step of the demo.

    Args:
        name: how the state file calls it.
        label: what its line says.
        settings: what its result depends on, beside the steps before it.
        results: files or folders that it makes; they are removed where settings changed.
        run: does it, and returns a few words on what came of it.
    """

    name: str
    label: str
    settings: Mapping[str, object]
    results: tuple[Path, ...]
    run: Callable[[], str] = field(compare=False)


def main(argv: list[str] | None = None) -> int:
    """Run what is left to do, and say where the page is."""
    args = _parse(argv)
    if args.choose:
        choose(args.output)
        return 0
    out = args.output
    if args.serve and importlib.util.find_spec("gradio") is None:
        raise ValueError("--serve needs gradio: pip install -c constraints.txt -e '.[demo]'")
    _claim(out, args.fresh)
    start = time.perf_counter()
    state = run_steps(steps(args), out)
    state["total_seconds"] = round(sum(step["seconds"] for step in state["steps"]), 1)
    state["this_run_seconds"] = round(time.perf_counter() - start, 1)
    state["results"] = _read(out / "results.json")
    _cli.write_json(out / STATE, {**state, **_cli.evidence()})
    print(
        f"{state['this_run_seconds']:.0f} s ({state['total_seconds']:.0f} s with what was done "
        f"before). The page: {(out / 'index.html').resolve()}",
        flush=True,
    )
    if args.serve:
        serve(out / "model")
    return 0


def serve(model: Path) -> NoReturn:
    """Become the Space's page for a model, which serves this machine alone until it is stopped."""
    alone = {**os.environ, **OFFLINE, "GRADIO_SERVER_NAME": "127.0.0.1"}
    # In this process's place, so that whatever stops it stops the page.
    os.execve(sys.executable, [sys.executable, str(SPACE_APP), "--model", str(model)], alone)


def steps(args: argparse.Namespace) -> list[Step]:
    """List the demo's steps in their order."""
    out = args.output
    release, data, comet, model = out / "release", out / "data", out / "comet", out / "model"
    atomic = release / "atomic" / "v4_atomic_mini.csv"
    results, selection, page = out / "results.json", out / "selection.json", out / "index.html"

    def script(name: str, *arguments: object) -> str:
        return _run_script(name, arguments, out / "logs")

    def write_release() -> str:
        from dataset_mod.synthetic import write_mini_release

        counts = write_mini_release(release, seed=args.seed, dialogues=args.dialogues)
        return f"{counts['stickers']} stickers, {sum(counts['samples'].values())} samples"

    def train_comet() -> str:
        script("train_comet.py", atomic, "--output", comet, *COMET_SIZE,
               "--epochs", args.comet_epochs)  # fmt: skip
        return f"held-out loss {_read(comet / 'training.json')['held_out_loss']:.2f}"

    def find_words() -> str:
        from dataset_mod import find_emotional_words, load_prepared, read_lexicon
        from dataset_mod.bias import write_marks
        from dataset_mod.bias_marks import bias_folder

        loaded = load_prepared(data)
        lexicon = read_lexicon(release / "lexicon.tsv", loaded.emotions)
        rows = loaded.splits["train"]
        words = find_emotional_words(rows, loaded.emotions, lexicon=lexicon, found=False)
        folder = bias_folder(data, loaded.statistics["languages"][0])
        write_marks(folder, loaded.splits, words, loaded.fingerprint)
        return f"{len(words.words)} words"

    def train() -> str:
        changes = ["--set", f"training.num_train_epochs={args.epochs}"] if args.epochs else []
        script("train.py", args.recipe, "--data", data, "--output", model, "--comet", comet,
               "--seed", args.seed, *changes)  # fmt: skip
        return f"{_read(model / 'training.json')['steps']} steps"

    def evaluate() -> str:
        script("evaluate.py", model, "--data", data, "--split", ",".join(SPLITS),
               "--output", results)  # fmt: skip
        found = _read(results)["splits"]
        return ", ".join(f"{split} R@1 {of['metrics']['R@1']:.1f}" for split, of in found.items())

    def select() -> str:
        # A fresh process, so that nothing but what was saved can be at work.
        script("demo.py", "--choose", "--output", out)
        return ", ".join(one["stickers"][0]["name"] for one in _read(selection)["answers"])

    def write_page() -> str:
        done = _read(out / STATE)["steps"]
        html = render(_read(selection), _read(results), done)
        _write_text(page, html)
        return f"{len(html.encode()) / 2**20:.1f} MiB"

    recipe = args.recipe.read_text(encoding="utf-8")
    return [
        Step("release", "write MOD-mini", {"dialogues": args.dialogues, "seed": args.seed},
             (release,), write_release),
        Step("comet", "train a small COMET", {"size": COMET_SIZE, "epochs": args.comet_epochs},
             (comet, out / "comet.checkpoints"), train_comet),
        Step("prepare", "prepare the data", {}, (data,),
             lambda: script("prepare_mod.py", release, "--output", data).splitlines()[-1]),
        Step("words", "find the emotional words", {}, (data / "bias",), find_words),
        Step("knowledge", "ask COMET of every utterance", {}, (data / "knowledge",),
             lambda: script("extract_knowledge.py", data, "--comet", comet).splitlines()[-2]),
        Step("train", "train CKS", {"recipe": recipe, "epochs": args.epochs}, (model,), train),
        Step("evaluate", "evaluate it", {"splits": SPLITS}, (results,), evaluate),
        Step("choose", "choose stickers in a fresh process", {"turns": CONVERSATIONS},
             (selection,), select),
        Step("page", "make the page", {"template": _template_text()}, (page,), write_page),
    ]  # fmt: skip


def run_steps(todo: Sequence[Step], out: Path) -> dict:
    """Run the steps that are not done yet; return the state, which is also on disk.

    A step is done when the state says so under the same key, which covers its settings and those
    of all steps before it, and its results are there.
    """
    state = _read(out / STATE) if (out / STATE).exists() else {}
    before = {step["name"]: step for step in state.get("steps", [])}
    records: list[dict] = []
    key = ""
    for number, step in enumerate(todo, 1):
        settings = json.dumps([key, step.name, step.settings], default=str, sort_keys=True)
        key = hashlib.sha256(settings.encode()).hexdigest()
        head = f"[{number}/{len(todo)}] {step.label}"
        record = before.get(step.name, {})
        there = all(path.exists() for path in step.results[:1])
        if record.get("done") and record.get("key") == key and there:
            print(f"{head}: there already ({record['seconds']:.1f} s)", flush=True)
            records.append(record)
            continue
        if record.get("key") != key:
            for path in step.results:
                _remove(path)
        # What comes later was made from what is now made anew.
        before = {step.name: record}
        record = {"name": step.name, "label": step.label, "key": key, "done": False}
        _cli.write_json(out / STATE, {"steps": [*records, {**record, "seconds": 0.0}]})
        print(f"{head} ...", end="", flush=True)
        start = time.perf_counter()
        try:
            said = step.run()
        except BaseException:
            print(" failed", flush=True)
            raise
        record |= {"done": True, "seconds": round(time.perf_counter() - start, 2), "said": said}
        print(f" {record['seconds']:.1f} s ({said})", flush=True)
        records.append(record)
        _cli.write_json(out / STATE, {"steps": records})
    return {"steps": records}


def choose(out: Path) -> None:
    """Load what was saved and let it choose; runs in a process of its own."""
    import torch
    from transformers import AutoModel, AutoProcessor, pipeline

    # Registers CKS with AutoModel, AutoProcessor and pipeline.
    import modeling_cks  # noqa: F401
    from dataset_mod import load_prepared

    data = load_prepared(out / "data")
    model = AutoModel.from_pretrained(out / "model")
    processor = AutoProcessor.from_pretrained(out / "model")
    processor.ocr_cache_path = str(out / "data" / "ocr.json")
    select = pipeline("sticker-selection", model=model, processor=processor)
    images = dict(zip(data.stickers["name"], data.stickers["image"], strict=True))
    pack = select.load_stickers(data.stickers)
    dialogues = [
        [
            {**turn, "sticker": images[turn["sticker"]]} if "sticker" in turn else turn
            for turn in conversation["turns"]
        ]
        for conversation in CONVERSATIONS
    ]
    answers = select(dialogues, stickers=pack, top_k=TOP_STICKERS, explain=True)
    tops = list(dict.fromkeys(answer["stickers"][0]["name"] for answer in answers))
    shown = {sticker["name"] for answer in answers for sticker in answer["stickers"]}
    shown |= {t["sticker"] for one in CONVERSATIONS for t in one["turns"] if "sticker" in t}
    with torch.no_grad():
        plates = [
            {"name": name, "pictures": style_plate(model, processor, images[name])}
            for name in tops[:PLATE_STICKERS]
        ]
    _cli.write_json(
        out / "selection.json",
        {
            "conversations": CONVERSATIONS,
            "answers": answers,
            "inventory": len(pack),
            "parameters": model.num_parameters(),
            "images": {name: data_uri(images[name]) for name in sorted(shown)},
            "plates": plates,
        },
    )


def style_plate(model, processor, image) -> dict[str, list[str] | str]:
    """Show what CIM does to a sticker: as it is, its content alone, and with other styles.

    Returns:
        Data URIs: `original`, `content` (the band-passed part on mid-grey, its contrast doubled
        at most), and `styles`, a list of draws.
    """
    import torch

    cim = model.visual_extractor.cim
    pixels = processor.image_processor(images=[image.convert("RGB")], return_tensors="pt")
    pixels = pixels["pixel_values"].to(model.device, model.dtype)
    original = (pixels * cim.image_std + cim.image_mean).clamp(0, 1)
    content = cim.dct.T @ ((1 - cim.style) * (cim.dct @ original @ cim.dct.T)) @ cim.dct
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(STYLE_DRAWS, *pixels.shape[1:], generator=generator).to(pixels)
    styles = cim(pixels.expand(STYLE_DRAWS, -1, -1, -1), noise) * cim.image_std + cim.image_mean
    return {
        "original": tensor_uri(original[0]),
        "content": tensor_uri((content[0] + 0.5).clamp(0, 1)),
        "styles": [tensor_uri(style) for style in styles],
    }


def tensor_uri(image) -> str:
    """Return an image tensor (3, n, n) in [0, 1] as a data URI, three times as large."""
    from PIL import Image

    array = (image.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    picture = Image.fromarray(array)
    return data_uri(picture.resize((picture.width * 3, picture.height * 3), Image.BICUBIC))


def data_uri(image) -> str:
    """Return a PIL image as a PNG data URI."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def page_template(name: str):
    """Return the template of a page; it escapes every value and fails where one is missing."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(SCRIPTS), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    ).get_template(name)  # fmt: skip


def render(selection: Mapping, results: Mapping, done: Sequence[Mapping]) -> str:
    """Make the page, a single file that needs no network, from what the steps wrote.

    Args:
        selection: what `choose` wrote.
        results: what evaluate.py wrote for several splits.
        done: the records of the steps before.
    """
    scenes = [
        {**conversation, **_scene(conversation, answer)}
        for conversation, answer in zip(
            selection["conversations"], selection["answers"], strict=True
        )
    ]
    return page_template(TEMPLATE).render(
        scenes=scenes,
        images=selection["images"],
        plates=selection["plates"],
        inventory=selection["inventory"],
        parameters=selection["parameters"],
        relations=RELATION_WORDS,
        figures=_figures(results),
        steps=done,
        total_seconds=sum(step["seconds"] for step in done),
        versions=results["versions"],
        machine=results["machine"],
        fingerprint=results["data"]["fingerprint"],
    )


def _scene(conversation: Mapping, answer: Mapping) -> dict:
    """Join what was said with what the model made of it, and scale what is drawn as bars."""
    most = max((turn["weight"] or 0.0 for turn in answer["utterances"]), default=0.0) or 1.0
    best = answer["stickers"][0]["score"] or 1.0
    return {
        "sender": conversation["turns"][-1]["speaker"],
        "turns": [
            {**said, **seen, "sticker": said.get("sticker"), "share": (seen["weight"] or 0) / most}
            for said, seen in zip(conversation["turns"], answer["utterances"], strict=True)
        ],
        "stickers": [{**one, "share": one["score"] / best} for one in answer["stickers"]],
        "emotions": answer["emotions"],
    }


def _figures(results: Mapping) -> list[dict]:
    """Lay out the table: for each split a row for each ranker."""
    columns = ("R@1", "R@3", "R@5", "MRR", "Acc")
    return [
        {
            "split": split,
            "samples": of["metrics"]["samples"],
            "rows": [
                {"name": name, "cells": [metrics.get(column) for column in columns]}
                for name, metrics in (*of["yardsticks"].items(), ("CKS", of["metrics"]))
            ],
            "columns": columns,
        }
        for split, of in results["splits"].items()
    ]


def _run_script(name: str, arguments: Sequence[object], logs: Path) -> str:
    """Run a script of ours; return what it printed.

    Raises:
        ValueError: the script failed; its last line of stderr is the reason, the rest is in a log.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{Path(name).stem}.log"
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    offline = {**os.environ, **OFFLINE}
    with log.open("w", encoding="utf-8") as errors:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=offline, check=False
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ValueError(f"{lines[-1] if lines else name + ' failed'} (the rest is in {log})")
    return done.stdout.strip()


def _claim(out: Path, fresh: bool) -> None:
    """Refuse a folder that is not the demo's; empty it where a fresh start is asked for."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, not a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / STATE).is_file():
        raise ValueError(f"{out}: holds something else than a demo; give another --output")
    if fresh:
        _remove(out)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / STATE).exists():
        _cli.write_json(out / STATE, {"steps": []})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _template_text() -> str:
    return "".join((SCRIPTS / name).read_text(encoding="utf-8") for name in (STYLE, TEMPLATE))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what is there and start anew")
    parser.add_argument(
        "--recipe",
        type=Path,
        default=SCRIPTS / "recipes" / "mini.yaml",
        help="of the training (default: recipes/mini.yaml)",
    )
    parser.add_argument(
        "--dialogues",
        type=int,
        nargs=4,
        metavar=("TRAIN", "VALIDATION", "EASY", "HARD"),
        default=DIALOGUES,
        help="how many to write (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=float, help="of CKS; the recipe's by default")
    parser.add_argument(
        "--comet-epochs", type=float, default=4, help="of COMET (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of data and training")
    parser.add_argument("--serve", action="store_true", help="open a page where the model answers")
    parser.add_argument("--choose", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    _cli.run_main(main)
