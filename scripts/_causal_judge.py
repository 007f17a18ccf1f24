# SPDX-License-Identifier: Apache-2.0
"""Judge one trained model of causal_bench.py on tests whose truth is known, and the references.

A reference is no model: it knows the emotion of the word (or of the event) and sends any candidate
whose face shows that emotion, each with the same chance. Its figures are expectations, so nothing
is drawn, and `population` says what they are in the whole population of the causal model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import _cli
import numpy as np
from _rankers import load_ranker
from scipy.stats import hypergeom

from dataset_mod import load_prepared
from dataset_mod.sampling import CANDIDATES
from dataset_mod.synthetic_faces import FACES
from dataset_mod.synthetic_text import EMOTIONS
from dataset_mod.synthetic_world import SEEN_STYLES, CausalModel
from modeling_cks.evaluation import evaluate_ranker, write_samples
from modeling_cks.evaluation.metrics import MRR_CUT

SPLITS = ("test_easy", "test_hard")
REFERENCES = {"word_only": "word_emotion", "event_only": "emotion"}


def main(argv: list[str] | None = None) -> int:
    """Rank all tests by one model and write figures and samples."""
    args = _parse(argv)
    data = load_prepared(args.data)
    ranker, _, training = load_ranker(args.model, data, args.data)
    processor = getattr(getattr(ranker, "collator", None), "processor", None)
    if processor is not None:
        processor.knowledge_store = str(args.store)
    tests, samples, fingerprints = {}, [], {}
    for name, folder in (test.split("=", 1) for test in args.test):
        of = read_test(Path(folder))
        fingerprints[name] = of["fingerprint"]
        tests[name] = {}
        for split in SPLITS:
            records = evaluate_ranker(ranker, of["rows"][split], batch_size=64).samples
            tests[name][split] = figures(
                judged(records, of["truths"][split], of["rows"][split], of["emotions"])
            )
            samples += [{"test": name, "split": split, **short(record)} for record in records]
    # The samples first: a cell that has its figures is whole.
    write_samples(args.output.with_suffix(".samples.jsonl.gz"), samples)
    _cli.write_json(
        args.output,
        _cli.evidence(
            cell=json.loads(args.cell),
            tests=tests,
            data={"fingerprint": data.fingerprint, "tests": fingerprints},
            training={
                key: training.get(key)
                for key in (*("recipe", "backbones", "seed", "steps", "seconds", "parameters"),
                            *("frozen_parameters", "word_intervention", "machine"))
            },
        ),
    )  # fmt: skip
    return 0


def read_test(folder: Path) -> dict:
    """Read a test world: `rows` and `truths` by split, `emotions` of the stickers, `fingerprint`.

    Raises:
        ValueError: truth and prepared data are not of the same samples.
    """
    data = load_prepared(folder)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    rows = {split: list(data.splits[split]) for split in SPLITS}
    truths = {}
    for split in SPLITS:
        truths[split] = [turn for turn in truth["turns"][split] if turn["sample"] is not None]
        stickers = [turn["sticker"] for turn in truths[split]]
        if stickers != [row["sticker_id"] for row in rows[split]]:
            raise ValueError(f"{folder}: truth.json is not of the samples of {split}")
    return {
        "rows": rows,
        "truths": truths,
        "emotions": {sticker["id"]: sticker["emotion"] for sticker in truth["stickers"]},
        "fingerprint": data.fingerprint,
    }


def short(record: Mapping) -> dict:
    """Keep of a sample's record what its place in the file does not tell."""
    kept = ("rank", "predicted_sticker_id", "emotion_given_answer", "emotion_given_top")
    return {key: record[key] for key in kept}


def judged(
    records: Sequence[Mapping],
    truths: Sequence[Mapping],
    rows: Sequence[Mapping],
    emotions: Mapping[str, str],
) -> list[dict]:
    """Say of each sample what is counted of it: floats, None where it does not count.

    Args:
        records: of `evaluate_ranker`.
        truths: of truth.json, in the same order.
        rows: the same samples with their candidates.
        emotions: of the stickers' faces, by id.
    """
    found = []
    for record, truth, row in zip(records, truths, rows, strict=True):
        rank, shown = record["rank"], emotions[record["predicted_sticker_id"]]
        feeling, unmoved = EMOTIONS.index(truth["emotion"]), truth["sticker_without_word"]

        def right(named: int | None, truth=truth, feeling=feeling) -> float | None:
            return None if named is None or not truth["labelled"] else float(named == feeling)

        found.append(
            {
                **groups(truth),
                "R@1": float(rank <= 1),
                "R@3": float(rank <= 3),
                "MRR": 1 / rank if rank <= MRR_CUT else 0.0,
                "Acc": right(record["emotion_given_answer"]),
                "Acc_top": right(record["emotion_given_top"]),
                "shows_feeling": float(shown == truth["emotion"]),
                "shows_word": None if truth["agrees"] else float(shown == truth["word_emotion"]),
                # It is not always among the candidates, which were drawn for the right sticker.
                "R@1_without_word": float(record["predicted_sticker_id"] == unmoved)
                if unmoved in row["candidates"]
                else None,
            }
        )
    return found


def groups(truth: Mapping) -> dict:
    """Say to which groups a sample belongs."""
    return {
        "agrees": truth["agrees"],
        "event_seen": truth["event_seen"],
        "style": truth["style"],
        "new_face": FACES[truth["face"]].held_out,
    }


def figures(samples: Sequence[Mapping]) -> dict[str, dict]:
    """Average over all samples and over each group, in percent, with the counts.

    The group of an unseen style holds the faces that training had in other styles alone, so that
    nothing but the style is new.
    """
    chosen: dict[str, Callable[[Mapping], bool]] = {
        "all": lambda one: True,
        "agreeing": lambda one: one["agrees"],
        "conflicting": lambda one: not one["agrees"],
        "seen_event": lambda one: one["event_seen"],
        "new_event": lambda one: not one["event_seen"],
        "seen_style": lambda one: one["style"] in SEEN_STYLES,
        "unseen_style": lambda one: one["style"] not in SEEN_STYLES,
    }
    for style in sorted({one["style"] for one in samples} - set(SEEN_STYLES)):
        chosen[f"style_{style}"] = lambda one, style=style: (
            one["style"] == style and not one["new_face"]
        )
    parts = {name: [one for one in samples if fits(one)] for name, fits in chosen.items()}
    return {name: _means(part) for name, part in parts.items() if part}


_COUNTED = (
    "R@1", "R@3", "MRR", "Acc", "Acc_top", "shows_feeling", "shows_word", "R@1_without_word",
)  # fmt: skip


def _means(samples: Sequence[Mapping]) -> dict:
    found: dict = {"samples": len(samples)}
    for figure in _COUNTED:
        values = [one[figure] for one in samples if one.get(figure) is not None]
        if values:
            found[figure] = round(100 * float(np.mean(values)), 4)
        if figure == "R@1_without_word":
            found["with_sticker_without_word"] = len(values)
    return found


def reference(truths: Sequence[Mapping], rows: Sequence[Mapping], emotions, known: str) -> dict:
    """Give the expected figures of one who knows an emotion and nothing else.

    Args:
        truths: of truth.json.
        rows: the same samples with their candidates.
        emotions: of the stickers' faces, by id.
        known: the field of the truth that is known, `word_emotion` or `emotion`.
    """
    found = []
    for truth, row in zip(truths, rows, strict=True):
        fitting = [one for one in row["candidates"] if emotions[one] == truth[known]]
        fitting = fitting or list(row["candidates"])
        chance = dict.fromkeys(fitting, 1 / len(fitting))

        def shows(emotion: str, chance=chance) -> float:
            return sum(share for one, share in chance.items() if emotions[one] == emotion)

        named = float(truth[known] == truth["emotion"])
        found.append(
            {
                **groups(truth),
                "R@1": chance.get(row["sticker_id"], 0.0),
                "Acc": named if truth["labelled"] else None,
                "shows_feeling": shows(truth["emotion"]),
                "shows_word": None if truth["agrees"] else shows(truth["word_emotion"]),
                "R@1_without_word": chance.get(truth["sticker_without_word"], 0.0)
                if truth["sticker_without_word"] in row["candidates"]
                else None,
            }
        )
    return figures(found)


def population(model: CausalModel, known: str, stickers: int) -> dict[str, float]:
    """Give the same reference's R@1 and Acc in the whole population of the easy test, in percent.

    Args:
        model: the mechanism of the test.
        known: `word_emotion` or `emotion`.
        stickers: how many the candidates are drawn from, as many of each emotion.

    The joint law P(w, Y, T) says how often what is known is the sticker's theme. Where it is, the
    right sticker is one of K + 1 fitting candidates, K of the other ones being hypergeometric;
    where it is not, nothing is found, unless no candidate fits and any is as good as another.
    """
    joint = model.joint()
    count = range(len(EMOTIONS))
    if known == "word_emotion":
        hit = sum(joint[word, :, word].sum() for word in count)
        right = sum(joint[word, word].sum() for word in count)
    else:
        hit, right = sum(joint[:, feeling, feeling].sum() for feeling in count), 1.0
    each = stickers // len(EMOTIONS)
    others, drawn = stickers - 1, CANDIDATES - 1
    counts = np.arange(drawn + 1)
    found = float((hypergeom.pmf(counts, others, each - 1, drawn) / (counts + 1)).sum())
    none_fits = float(hypergeom.pmf(0, others, each, drawn))
    return {
        "R@1": float(100 * (hit * found + (1 - hit) * none_fits / CANDIDATES)),
        "Acc": float(100 * right),
    }


def judge_references(folders: Mapping[str, Path]) -> dict[str, dict]:
    """Give the figures of all references on all tests, by reference, test and split."""
    found: dict[str, dict] = {name: {} for name in REFERENCES}
    for test, folder in folders.items():
        of = read_test(folder)
        for name, known in REFERENCES.items():
            found[name][test] = {
                split: reference(of["truths"][split], of["rows"][split], of["emotions"], known)
                for split in SPLITS
            }
    return found


def _parse(argv: Iterable[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="what it was trained on")
    parser.add_argument("--store", type=Path, required=True, help="COMET's knowledge of the tests")
    parser.add_argument("--test", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--cell", default="{}", help="JSON that says what the cell is")
    parser.add_argument("--output", type=Path, required=True, metavar="RESULT.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    _cli.run_main(main)
