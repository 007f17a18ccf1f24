# SPDX-License-Identifier: Apache-2.0
"""Show what models choose for single samples, as the paper's figure 6 does, on one HTML page.

Takes any folders that train.py or train_baseline.py wrote. Samples are named (--samples) or drawn
(--count, --seed); with --differing only those count whose first sticker is not the same for all
models. The page needs no network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os.path import commonpath
from pathlib import Path

import _cli
import numpy as np
import torch
from _rankers import load_ranker
from demo import data_uri, page_template
from tqdm.auto import tqdm

from dataset_mod import PreparedMod, load_prepared
from modeling_cks.evaluation import Ranker
from modeling_cks.ranking import rank

TEMPLATE = "case_study.html.j2"
TRAIN = "train"
MARKED = 3
SHOWN_TURNS = 12
_BATCH_SIZE = 16


@dataclass(frozen=True)
class Answer:
    """What a model says of a sample.

    Attributes:
        stickers: the candidates' ids, best first.
        scores: theirs.
        emotion: the number of the emotion that it names with its first sticker, None if it names
            none.
        weights: how emotional it finds each utterance, None if it does not say.
    """

    stickers: list[str]
    scores: list[float]
    emotion: int | None
    weights: list[float] | None


def main(argv: list[str] | None = None) -> int:
    """Choose the samples, ask the models, write the page."""
    args = _parse(argv)
    data = load_prepared(args.data, args.language)
    ranked = [split for split in data.splits if split != TRAIN]
    if args.split not in ranked:
        raise ValueError(f"{args.data}: no split {args.split!r} to rank, only {', '.join(ranked)}")
    # A blank answer is kept back by the release: nothing could be right or wrong.
    rows = [row for row in data.splits[args.split] if row["sticker_id"]]
    if args.samples:
        rows = named(rows, args.samples, args.split)
    else:
        rows = [rows[n] for n in np.random.default_rng(args.seed).permutation(len(rows))]
    wanted = len(rows) if args.samples else min(args.count, len(rows))
    rankers = [load_ranker(folder, data, args.data)[0] for folder in args.models]
    asked = ask_all(rankers, rows)
    if args.differing:
        asked = (one for one in asked if differ(one[1]))
    cases = list(tqdm(islice(asked, wanted), total=wanted, unit="sample"))
    if not cases:
        raise ValueError(f"{args.split}: the models put the same sticker first everywhere")
    shown = [
        scene(row, answers, titles(rankers, args.models), data.emotions, args.top)
        for row, answers in cases
    ]
    html = render(shown, data, args, _cli.evidence())
    _cli.write_bytes(args.output, html.encode())
    short = f", not the {args.count} asked for" if len(cases) < wanted else ""
    print(f"{len(cases)} samples{short}: {args.output} ({len(html.encode()) / 2**20:.1f} MiB)")
    return 0


def named(rows: Sequence[dict], samples: Sequence[str], split: str) -> list[dict]:
    """Find the samples called `dialogue:turn`; ValueError naming one that is not there."""
    known = {(row["dialogue_id"], str(row["turn"])): row for row in rows}
    found = []
    for sample in samples:
        dialogue, _, turn = sample.rpartition(":")
        if (dialogue, turn) not in known:
            turns = [t for d, t in known if d == dialogue]
            there = f"{dialogue!r} has one at turn {', '.join(turns)}" if turns else (
                f"write it as dialogue:turn, such as {':'.join(next(iter(known)))!r}"
            )  # fmt: skip
            raise ValueError(f"{split} has no answered sample {sample!r}; {there}")
        found.append(known[dialogue, turn])
    return found


def ask(ranker: Ranker, rows: Sequence[dict]) -> list[Answer]:
    """Let a model answer rows; of equal scores the earlier candidate is first, as everywhere."""
    output = ranker.rank(list(rows))
    emotions, weights = output.emotion_given_top, output.utterance_weights
    answers = []
    for number, (row, scores) in enumerate(zip(rows, output.scores, strict=True)):
        order = rank(torch.as_tensor(scores)).tolist()
        answers.append(
            Answer(
                [row["candidates"][place] for place in order],
                [float(scores[place]) for place in order],
                None if emotions is None else int(np.argmax(emotions[number])),
                None if weights is None else [float(weight) for weight in weights[number]],
            )
        )
    return answers


def ask_all(
    rankers: Sequence[Ranker], rows: Sequence[dict]
) -> Iterator[tuple[dict, tuple[Answer, ...]]]:
    """Yield each row with the models' answers, as far as somebody goes on asking."""
    for start in range(0, len(rows), _BATCH_SIZE):
        batch = rows[start : start + _BATCH_SIZE]
        answers = zip(*(ask(ranker, batch) for ranker in rankers), strict=True)
        yield from zip(batch, answers, strict=True)


def differ(answers: Sequence[Answer]) -> bool:
    """Tell whether the models' first stickers are not all the same."""
    return len({answer.stickers[0] for answer in answers}) > 1


def titles(rankers: Sequence[Ranker], folders: Sequence[Path]) -> list[str]:
    """Name the models; those of one name by that in their paths which they have not in common."""
    of_name: dict[str, list[Path]] = {}
    for ranker, folder in zip(rankers, folders, strict=True):
        of_name.setdefault(ranker.name, []).append(folder.resolve())
    return [
        ranker.name
        if len(of_name[ranker.name]) == 1
        else f"{ranker.name} ({folder.resolve().relative_to(commonpath(of_name[ranker.name]))})"
        for ranker, folder in zip(rankers, folders, strict=True)
    ]


def scene(
    row: Mapping,
    answers: Sequence[Answer],
    names: Sequence[str],
    emotions: Sequence[str],
    top: int,
) -> dict:
    """Lay out a sample and the models' answers for the page.

    The first model that weighs utterances marks the three that it finds most emotional.
    """
    right = row["sticker_id"]
    weighing = next(
        ((n, a.weights) for n, a in zip(names, answers, strict=True) if a.weights), None
    )
    marks = _marks(weighing[1]) if weighing else {}
    most = max(marks.values(), default=1.0)
    turns = [
        {
            "number": place + 1,
            "speaker": turn["speaker"] + 1,
            "sends": turn["speaker"] == row["utterances"][-1]["speaker"],
            "text": turn["text"],
            "sticker": turn["sticker_id"],
            "emotion": _name(turn["emotion"], emotions),
            "place": list(marks).index(place) + 1 if place in marks else None,
            "weight": marks.get(place),
            "share": marks.get(place, 0.0) / most,
        }
        for place, turn in enumerate(row["utterances"])
    ]  # fmt: skip
    return {
        "dialogue": row["dialogue_id"],
        "turn": row["turn"],
        "earlier": turns[:-SHOWN_TURNS],
        "turns": turns[-SHOWN_TURNS:],
        "sender": turns[-1]["speaker"],
        "marked_by": weighing[0] if marks else None,
        "right": right,
        "emotion": _name(row["emotion"], emotions),
        "models": [
            {
                "name": name,
                "rank": answer.stickers.index(right) + 1,
                "of": len(answer.stickers),
                "stickers": list(zip(answer.stickers[:top], answer.scores[:top], strict=True)),
                "emotion": _name(answer.emotion, emotions),
                "weights": [
                    (place + 1, weight) for place, weight in _marks(answer.weights or ()).items()
                ],
            }
            for name, answer in zip(names, answers, strict=True)
        ],
    }


def _name(emotion: int | None, emotions: Sequence[str]) -> str | None:
    return None if emotion is None or emotion < 0 else emotions[emotion]


def _marks(weights: Sequence[float]) -> dict[int, float]:
    """Give the places of the weightiest utterances and their weights, the weightiest first."""
    order = rank(torch.as_tensor(weights))[:MARKED].tolist() if len(weights) else []
    return {place: weights[place] for place in order if weights[place] > 0}


def render(
    cases: Sequence[Mapping], data: PreparedMod, args: argparse.Namespace, evidence: Mapping
) -> str:
    """Make the page; each sticker that it shows stands in it once."""
    shown = {case["right"] for case in cases}
    for case in cases:
        shown |= {turn["sticker"] for turn in (*case["earlier"], *case["turns"])} - {None}
        shown |= {sticker for model in case["models"] for sticker, _ in model["stickers"]}
    places = {sticker: place for place, sticker in enumerate(data.stickers["id"])}
    stickers = {}
    for number, sticker in enumerate(sorted(shown)):
        row = data.stickers[places[sticker]]
        words = f", reads “{row['caption']}”" if row["caption"] else ""
        stickers[sticker] = {
            "name": f"s{number}",
            "label": f"sticker {sticker}{words}",
            "uri": data_uri(row["image"]),
        }
    return page_template(TEMPLATE).render(
        cases=cases,
        stickers=stickers,
        split=args.split,
        language=args.language or data.statistics["languages"][0],
        seed=None if args.samples else args.seed,
        differing=args.differing,
        fingerprint=data.fingerprint,
        evidence=evidence,
    )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", nargs="+", type=Path, metavar="MODEL_DIR", help="folders of trained models"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of prepare_mod.py")
    parser.add_argument("--language", help="which language of the data; its first by default")
    parser.add_argument("--split", default="test_hard", help="default: %(default)s")
    parser.add_argument(
        "--samples", nargs="+", metavar="DIALOGUE:TURN", help="which, instead of drawing some"
    )
    parser.add_argument("--count", type=int, default=6, help="to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument(
        "--differing", action="store_true", help="only those where the models' first choices differ"
    )
    parser.add_argument(
        "--top", type=int, default=3, help="stickers shown of each model (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="PAGE.html")
    args = parser.parse_args(argv)
    if args.count < 1 or args.top < 1:
        parser.error("--count and --top must be at least 1")
    if args.differing and len(args.models) < 2:
        parser.error("--differing needs two models or more")
    return args


if __name__ == "__main__":
    _cli.run_main(main)
