# SPDX-License-Identifier: Apache-2.0
"""Let people judge what models choose, blindly, and report what they found (section 5.4.2).

`sample` draws dialogues, lets every model rank each one's candidates, and writes a sheet for each
rater. FOLDER/hand_out is for the raters; FOLDER/key.json, which says whose answers those are, is
not. `report` reads the ratings that came back and computes the figures of the paper's table 3.
What is asked, and how the paper was read, stands in modeling_cks/evaluation/human.py; how sheets
are kept blind in rating_sheets.py beside it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import _cli
import _markdown as markdown
import jinja2
import numpy as np
import torch
from _rankers import load_ranker
from tqdm.auto import tqdm

from dataset_mod import PreparedMod, load_prepared
from dataset_mod.stickers import png_bytes
from modeling_cks.evaluation import Ranker
from modeling_cks.evaluation.human import CRITERIA, STICKERS, Rating, summarise
from modeling_cks.evaluation.rating_sheets import (
    COLUMNS,
    Answers,
    csv_sheet,
    image_name,
    make_study,
    read_key,
    read_ratings,
    sheet_rows,
    speaker_name,
)
from modeling_cks.ranking import rank

SCRIPTS = Path(__file__).resolve().parent
TEMPLATE = "rating_page.html.j2"
PUBLISHED = "published_human.json"
TRAIN = "train"
KEY, HAND_OUT, IMAGES = "key.json", "hand_out", "stickers"
FORMS = ("html", "csv")
TOP_STICKERS, TOP_EMOTIONS, TOP_UTTERANCES = 5, 3, 3
_BATCH_SIZE = 32
_IMAGE_SIZE = 192


def main(argv: list[str] | None = None) -> int:
    """Do what the subcommand says."""
    args = _parse(argv)
    return args.run(args)


def sample(args: argparse.Namespace) -> int:
    """Draw dialogues, let the models answer, write the sheets and the key."""
    if args.output.exists():
        raise ValueError(f"{args.output}: is there already, and sheets are never written over")
    twice = [folder for folder, times in Counter(args.models).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]}: is given twice")
    data = load_prepared(args.data, args.language)
    ranked = [split for split in data.splits if split != TRAIN]
    if args.split not in ranked:
        raise ValueError(f"{args.data}: no split {args.split!r} to rank, only {', '.join(ranked)}")
    rows = draw(list(data.splits[args.split]), args.count, args.seed, args.split)
    answers = []
    for folder in args.models:
        ranker = load_ranker(folder, data, args.data)[0]
        answers.append(ask(ranker, folder, rows, data.emotions))
    study = make_study(rows, answers, raters=args.raters, seed=args.seed, data=data.fingerprint)
    study |= _cli.evidence(split=args.split, language=args.language, seed=args.seed)
    write_study(args.output, study, args.form, data)
    asked = sum(1 for _ in sheet_rows(study, study["sheets"][0]))
    print(
        f"{len(rows)} dialogues, {asked} questions for each of {args.raters} raters. Hand out what "
        f"is in {args.output / HAND_OUT}; keep {args.output / KEY}, which says whose answers "
        "those are, from the raters"
    )
    return 0


def draw(rows: Sequence[dict], count: int, seed: int, split: str) -> list[dict]:
    """Draw `count` answered samples of as many dialogues, in random order.

    The splits that are ranked name no dialogues, so samples whose first two utterances are the
    same count as one dialogue's.

    Raises:
        ValueError: there are fewer dialogues.
    """
    drawn: dict[tuple, dict] = {}
    for place in np.random.default_rng(seed).permutation(len(rows)):
        row = rows[place]
        if row["sticker_id"]:
            opening = tuple((turn["speaker"], turn["text"]) for turn in row["utterances"][:2])
            drawn.setdefault(opening, row)
    if len(drawn) < count:
        raise ValueError(
            f"{split} has {len(drawn)} dialogues with an answer, fewer than the {count} to draw; "
            "give a smaller --count or another --split"
        )
    return list(drawn.values())[:count]


def ask(ranker: Ranker, folder: Path, rows: Sequence[dict], emotions: Sequence[str]) -> Answers:
    """Let a model answer; emotions are those it names given its own first sticker."""
    answers = Answers(ranker.name, str(folder), [], [], [])
    for start in tqdm(range(0, len(rows), _BATCH_SIZE), desc=ranker.name, unit="batch"):
        batch = rows[start : start + _BATCH_SIZE]
        output = ranker.rank(batch)
        for row, scores in zip(batch, output.scores, strict=True):
            best = rank(torch.as_tensor(scores))[:TOP_STICKERS]
            answers.stickers.append(tuple(row["candidates"][place] for place in best))
        if output.emotion_given_top is not None:
            best = rank(torch.as_tensor(output.emotion_given_top))[:, :TOP_EMOTIONS]
            answers.emotions.extend(tuple(sorted(emotions[n] for n in each)) for each in best)
        for weights in output.utterance_weights or ():
            best = rank(torch.as_tensor(weights))[:TOP_UTTERANCES].tolist()
            answers.marked.append(sorted(place for place in best if weights[place] > 0))
    return Answers(
        answers.title, answers.folder, answers.stickers, answers.emotions or None,
        answers.marked or None,
    )  # fmt: skip


def write_study(output: Path, study: Mapping, form: str, data: PreparedMod) -> None:
    """Write the sheets in their form, the stickers and the key, and then show the whole folder."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    (beside / HAND_OUT).mkdir(parents=True)
    try:
        images = {sticker: png_bytes(image) for sticker, image in _images(study, data).items()}
        if form == "csv":
            (beside / HAND_OUT / IMAGES).mkdir()
            for sticker, content in images.items():
                (beside / HAND_OUT / IMAGES / image_name(sticker)).write_bytes(content)
        for sheet in study["sheets"]:
            text = csv_sheet(study, sheet) if form == "csv" else page_of_sheet(study, sheet, images)
            path = beside / HAND_OUT / f"rater{sheet['rater']}.{form}"
            path.write_text(text, encoding="utf-8", newline="")
        _cli.write_json(beside / KEY, study)
        beside.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def page_of_sheet(study: Mapping, sheet: Mapping, images: Mapping[str, bytes]) -> str:
    """Write a sheet as one page that needs no network; it saves the same CSV, filled in."""
    items = [
        _page_item(study["items"][int(number) - 1], list(rows))
        for number, rows in groupby(sheet_rows(study, sheet), lambda row: row["item"])
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((SCRIPTS / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        page={
            "sheet": sheet["fingerprint"],
            "rater": sheet["rater"],
            "columns": COLUMNS,
            "images": {
                sticker: f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
                for sticker, content in images.items()
            },
            "items": items,
        }
    )


def _page_item(item: Mapping, rows: list[dict]) -> dict:
    """Lay an item out for the page: what was said, and each answer with its questions."""
    sender = item["utterances"][-1]
    answers = []
    for code, asked in groupby(rows, lambda row: row["answer"]):
        questions = [
            {
                "row": row,
                "scale": CRITERIA[row["criterion"]].scale,
                "about": item["marked"] if CRITERIA[row["criterion"]].needs_marks else [],
            }
            for row in asked
        ]
        given = item["answers"][code]
        answers.append({"of": given["of"], "shown": given["shown"], "questions": questions})
    turns = [
        {**turn, "name": speaker_name(turn), "sends": turn["speaker"] == sender["speaker"]}
        for turn in item["utterances"]
    ]
    return {"turns": turns, "sender": speaker_name(sender), "answers": answers}


def report(args: argparse.Namespace) -> int:
    """Read the ratings that came back, compute the figures and lay them out."""
    study = read_key(args.folder / KEY)
    ratings: list[Rating] = []
    came: dict[int, Path] = {}
    for path in args.ratings:
        found = read_ratings(path, study)
        rater = found[0].rater
        if rater in came:
            raise ValueError(f"{path}: is of rater {rater}, and so is {came[rater]}")
        came[rater] = path
        ratings += found
    names = [model["name"] for model in study["models"]]
    found = {
        "models": study["models"],
        "marked_by": study["marked_by"],
        "samples": len(study["items"]),
        "raters": {"asked": len(study["sheets"]), "came": sorted(came)},
        **summarise(ratings, names),
        "published": json.loads((SCRIPTS / PUBLISHED).read_text(encoding="utf-8")),
        "sampled": {key: study[key] for key in ("split", "seed", "time", "git")},
        **_cli.evidence(data=study["data"]),
    }
    _cli.write_json(args.output, found)
    page = render(found)
    if args.page:
        args.page.parent.mkdir(parents=True, exist_ok=True)
        args.page.write_text(page, encoding="utf-8")
    print(page)
    print(f"written to {args.output}{f' and {args.page}' if args.page else ''}")
    return 0


def render(found: Mapping) -> str:
    """Lay the figures out in Markdown, beside the published ones."""
    raters, published = found["raters"], found["published"]
    reference = found["models"][0]["name"]
    columns = ["", *CRITERIA]
    lines = [
        "# Human evaluation",
        "",
        f"{found['samples']} dialogues of {found['sampled']['split']} (data "
        f"{found['data']['fingerprint'][:12]}), ratings of {len(raters['came'])} of "
        f"{raters['asked']} raters. Ps@3, Ps@5 and Pe@3 from 0 to 1, Rel-d and Rel-c from 0 to 2; "
        "mean over dialogues and raters, with the 95 % interval of a bootstrap over dialogues. "
        + (
            f"Rel-c is about the utterances that {found['marked_by']} finds weightiest."
            if found["marked_by"]
            else "No model weighs utterances, so Rel-c was not asked."
        ),
        "",
        *markdown.head(columns),
    ]
    for model, figures in found["figures"].items():
        lines.append(markdown.row([model, *(_figure(figures.get(name)) for name in CRITERIA)]))
    alphas = [found["agreement"].get(name, {}).get("alpha") for name in CRITERIA]
    shown = ("-" if alpha is None else f"{alpha:.2f}" for alpha in alphas)
    lines.append(markdown.row(["agreement of raters (α)", *shown]))
    for model, figures in published["models"].items():
        values = dict(zip(published["figures"], figures, strict=True))
        cells = ["-" if values.get(name) is None else f"{values[name]:.2f}" for name in CRITERIA]
        lines.append(markdown.row([f"{model}, published", *cells]))
    lines += ["", f"Published: {published['source']}. {' '.join(published['notes'])}"]
    if found["ahead"]:
        lines += ["", f"## How far {reference} is ahead", "", *markdown.head(columns)]
        for model, differences in found["ahead"].items():
            cells = [markdown.difference(differences.get(name), 2) for name in CRITERIA]
            lines.append(markdown.row([f"of {model}", *cells]))
    return "\n".join([*lines, ""])


def _images(study: Mapping, data: PreparedMod) -> dict:
    """Give the stickers that the study shows, as thumbnails."""
    needed = {
        turn["sticker_id"]
        for item in study["items"]
        for turn in item["utterances"]
        if turn["sticker_id"]
    }
    for item in study["items"]:
        for answer in item["answers"].values():
            needed.update(answer["shown"] if answer["of"] == STICKERS else ())
    images = {}
    for place, sticker in enumerate(data.stickers["id"]):
        if sticker in needed:
            images[sticker] = data.stickers[place]["image"].convert("RGB")
            images[sticker].thumbnail((_IMAGE_SIZE, _IMAGE_SIZE))
    return images


def _figure(found: Mapping | None) -> str:
    if found is None:
        return "-"
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="sample | report")
    sampling = commands.add_parser("sample", description=sample.__doc__, help=sample.__doc__)
    sampling.set_defaults(run=sample)
    sampling.add_argument(
        "models", type=Path, nargs="+", metavar="MODEL_DIR",
        help="folders that train.py or train_baseline.py wrote; others are compared with the first",
    )  # fmt: skip
    sampling.add_argument("--data", type=Path, required=True, help="folder of prepare_mod.py")
    sampling.add_argument(
        "--split", default="test_easy", help="which split to draw from (default: %(default)s)"
    )
    sampling.add_argument("--language", help="which language of the data; its first by default")
    sampling.add_argument(
        "--count", type=_positive, default=200, help="dialogues to draw (default: %(default)s)"
    )
    sampling.add_argument(
        "--raters", type=_positive, default=5, help="sheets to write (default: %(default)s)"
    )
    sampling.add_argument("--seed", type=int, default=0, help="of draws and orders")
    sampling.add_argument(
        "--form", choices=FORMS, default="html",
        help="one page a rater for any browser, or a CSV a rater beside a folder of stickers"
        " (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="folder to make"
    )
    reporting = commands.add_parser("report", description=report.__doc__, help=report.__doc__)
    reporting.set_defaults(run=report)
    reporting.add_argument("folder", type=Path, metavar="FOLDER", help="what `sample` made")
    reporting.add_argument(
        "ratings", type=Path, nargs="+", metavar="RATINGS.csv", help="the sheets that came back"
    )
    reporting.add_argument(
        "--output", type=Path, required=True, metavar="REPORT.json", help="file to write"
    )
    reporting.add_argument(
        "--page", type=Path, metavar="REPORT.md", help="write the tables as Markdown too"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    _cli.run_main(main)
