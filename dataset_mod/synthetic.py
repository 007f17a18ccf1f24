# SPDX-License-Identifier: Apache-2.0
"""Write MOD-mini: a small release in MOD's layout, drawn and written by code, CC0.

`synthetic_world` says from which causal model; here its dialogues become MOD's files, with their
quirks: some stickers without an emotion label, some training turns without text, stickers on
first turns (which give no sample), a file in meme_set that img2id does not name.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dataset_mod.layout import GENERATOR, is_mini_release
from dataset_mod.sampling import CANDIDATES, draw_candidates
from dataset_mod.synthetic_drawing import STYLES, encode_sticker
from dataset_mod.synthetic_faces import FACES, draw_sticker
from dataset_mod.synthetic_text import ATOMIC_COLUMNS, EMOTIONS, WORDS, atomic_rows
from dataset_mod.synthetic_world import (
    GRAPH,
    SEEN_STYLES,
    SPLITS,
    UNSEEN_STYLES,
    CausalModel,
    Sticker,
    World,
    sticker_inventory,
)

logger = logging.getLogger(__name__)

_UNLISTED = "not-in-the-dictionary.jpg"


def write_mini_release(
    output_dir: str | os.PathLike,
    *,
    rho: float = 0.9,
    test_rho: float | None = None,
    lean: float = 0.25,
    test_lean: float | None = None,
    new_events: float = 0.5,
    seed: int = 0,
    dialogues: Sequence[int] = (300, 60, 60, 60),
    seen_styles: Sequence[str] = SEEN_STYLES,
    unseen_styles: Sequence[str] = UNSEEN_STYLES,
    size: int = 96,
) -> dict:
    """Write MOD-mini, its ATOMIC events and the truth about it; return the counts.

    The same arguments write the same bytes. Beside MOD's own files there are
    `atomic/v4_atomic_mini.csv`, `captions.json` (sticker id to the text drawn on it, "" for none),
    `styles.json` (sticker id to the style that it is drawn in),
    `lexicon.tsv` (the emotional words) and `truth.json`.

    Args:
        output_dir: an empty or new folder, or an earlier MOD-mini, which is replaced.
        rho: how strongly words tell the emotion in training and validation.
        test_rho: the same in both tests; as in training if None.
        lean: how strongly words choose the stickers in training and validation.
        test_lean: the same in both tests; as in training if None.
        new_events: the share of both tests' events that are of kinds unknown to training.
        seed: of everything that is drawn by chance.
        dialogues: how many in training, validation, easy and hard test.
        seen_styles: the drawing styles of training, validation and easy test.
        unseen_styles: those of the hard test alone.
        size: edge of the sticker images in pixels.

    Returns:
        A dict with `output_dir`, `stickers`, `dialogues` and `samples` (per split),
        `atomic_events` and `agreement` (the measured share, per split).

    Raises:
        ValueError: a strength outside [0, 1], a bad style, size or count, or a folder that
            holds something else.
    """
    output_dir = Path(output_dir)
    train_model = CausalModel(rho, lean)
    test_model = CausalModel(
        rho if test_rho is None else test_rho, lean if test_lean is None else test_lean
    )
    models = dict(zip(SPLITS, (train_model, train_model, test_model, test_model), strict=True))
    dialogues = tuple(dialogues)
    if len(dialogues) != len(SPLITS) or min(dialogues) < 1:
        raise ValueError(f"dialogues must be {len(SPLITS)} positive numbers, not {dialogues}")
    if size < 32:
        raise ValueError(f"size is {size} pixels; a face needs at least 32")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    if not 0 <= new_events <= 1:
        raise ValueError(f"new_events is {new_events}, not a share between 0 and 1")
    stickers = sticker_inventory(seed, seen_styles, unseen_styles)
    _claim(output_dir)
    world = World(stickers, models, seed, seen_styles, unseen_styles, new_events)

    for sticker in stickers:
        image = draw_sticker(sticker.face, sticker.style, sticker.caption, size)
        _write(
            output_dir / "supplementary" / "meme_set" / sticker.name,
            encode_sticker(image, sticker.name.rpartition(".")[2]),
        )
    stray = draw_sticker(next(iter(FACES)), seen_styles[0], "?", size)
    _write(output_dir / "supplementary" / "meme_set" / _UNLISTED, encode_sticker(stray, "jpg"))
    by_name = sorted(stickers, key=lambda sticker: sticker.name)
    _write_json(output_dir / "supplementary" / "img2id.json", {one.name: one.id for one in by_name})
    _write_json(
        output_dir / "supplementary" / "emotion_dict.json",
        {name: number for number, name in enumerate(EMOTIONS)},
    )
    _write_json(output_dir / "captions.json", {one.id: one.caption for one in stickers})
    _write_json(output_dir / "styles.json", {one.id: one.style for one in stickers})

    truths = {}
    for split, count in zip(SPLITS, dialogues, strict=True):
        truths[split] = _write_split(output_dir, split, count, world, stickers, seed)
    rows = atomic_rows()
    _write_table(output_dir / "atomic" / "v4_atomic_mini.csv", ATOMIC_COLUMNS, rows)
    lexicon = [{"word": word, "emotion": name} for name in EMOTIONS for word in WORDS[name]]
    _write_table(output_dir / "lexicon.tsv", ("word", "emotion"), lexicon, delimiter="\t")
    _write_json(
        output_dir / "truth.json",
        {
            "generator": GENERATOR,
            "parameters": {
                "seed": seed,
                "dialogues": dialogues,
                "seen_styles": tuple(seen_styles),
                "unseen_styles": tuple(unseen_styles),
                "new_events": new_events,
                "size": size,
                "mechanisms": {split: asdict(model) for split, model in models.items()},
            },
            "graph": GRAPH,
            "emotions": EMOTIONS,
            "stickers": [asdict(sticker) for sticker in stickers],
            "turns": truths,
        },
    )
    counts = {
        "output_dir": str(output_dir),
        "stickers": len(stickers),
        "dialogues": dict(zip(SPLITS, dialogues, strict=True)),
        "samples": {
            split: sum(truth["sample"] is not None for truth in truths[split]) for split in SPLITS
        },
        "atomic_events": len(rows),
        "agreement": {
            split: float(np.mean([truth["agrees"] for truth in truths[split]])) for split in SPLITS
        },
    }
    logger.info("wrote MOD-mini: %s", counts)
    return counts


def _write_split(
    output_dir: Path,
    split: str,
    count: int,
    world: World,
    stickers: list[Sticker],
    seed: int,
) -> list[dict]:
    """Write the files of one split; return the truth about each turn with a sticker."""
    # As in MOD, the hard test's distractors come from all stickers.
    offered = [one.id for one in stickers if one.seen or split == "test_hard"]
    written, task2, task3, truths = {}, [], [], []
    for number in range(count):
        name = f"dialogue {10000 + number}"
        turns, found = world.dialogue(split, number)
        written[name] = turns
        for truth in found:
            is_sample = truth["turn"] > 0  # a sticker on the first turn answers nothing
            truths.append({"dialogue": name, "sample": len(task2) if is_sample else None, **truth})
            if not is_sample:
                continue
            history, last = turns[: truth["turn"]], turns[truth["turn"]]
            who, image = last["speaker_id"], last["img_id"]
            own = {"speaker_id": who, "txt": last.get("txt")}
            drawn_for = SPLITS.index(split) << 32 | len(task2)
            candidates = draw_candidates(offered, image, drawn_for, seed, CANDIDATES)
            task2.append(
                {
                    "history": [*history, own],
                    "candidate": {"speaker_id": who, "set": candidates},
                    "answer": {"speaker_id": who, "img_id": image},
                }
            )
            if "emotion_id" in last:
                task3.append(
                    {
                        "history": [*history, {**own, "img_id": image}],
                        "answer": {"speaker_id": who, "emotion_id": last["emotion_id"]},
                    }
                )
    if split == "train":
        _write_json(output_dir / "train" / "e_train.json", written)
        return truths
    folder, stem = output_dir / "validation", "e_val"
    if split == "validation":
        _write_json(folder / "e_val.json", written)
    else:
        folder, stem = output_dir / "test" / f"e_{split}", f"e_{split}"
    _write_json(folder / f"{stem}_task2.json", task2)
    _write_json(folder / f"{stem}_task3.json", task3)
    return truths


def _claim(output_dir: Path) -> None:
    """Make sure that the folder is ours to write, and clear an earlier release's stickers."""
    if output_dir.is_dir() and any(output_dir.iterdir()):
        if not is_mini_release(output_dir):
            raise ValueError(f"{output_dir} is not empty and holds no MOD-mini to replace")
        for image in (output_dir / "supplementary" / "meme_set").glob("*"):
            image.unlink()
    elif output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"{output_dir} is a file, not a folder")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)


def _write_table(
    path: Path, columns: Sequence[str], rows: list[dict[str, str]], delimiter: str = ","
) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n", delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    _write(path, table.getvalue().encode())


def _write_json(path: Path, value: object) -> None:
    _write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Write a release from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset_mod.synthetic",
        description="Write MOD-mini: drawn stickers and dialogues with known confounding.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("output", type=Path, help="a new or empty folder, or a MOD-mini to replace")
    parser.add_argument(
        "--rho", type=float, default=0.9, help="how often the word tells the true emotion"
    )
    parser.add_argument("--test-rho", type=float, help="the same in the tests (default: as --rho)")
    parser.add_argument(
        "--lean", type=float, default=0.25, help="how often the word chooses the sticker"
    )
    parser.add_argument("--test-lean", type=float, help="the same in the tests (default: --lean)")
    parser.add_argument(
        "--new-events", type=float, default=0.5, help="share of the tests' events new to training"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn by chance")
    parser.add_argument(
        *("--dialogues",),
        type=int,
        nargs=4,
        metavar=("TRAIN", "VALIDATION", "EASY", "HARD"),
        default=(300, 60, 60, 60),
        help="how many dialogues",
    )
    parser.add_argument(
        "--unseen-styles",
        nargs="+",
        default=UNSEEN_STYLES,
        choices=tuple(STYLES),
        help="drawing styles of the hard test alone",
    )
    parser.add_argument(
        "--seen-styles",
        nargs="+",
        default=SEEN_STYLES,
        choices=tuple(STYLES),
        help="drawing styles of all other splits",
    )
    parser.add_argument("--size", type=int, default=96, help="edge of the stickers in pixels")
    args = vars(parser.parse_args(argv))
    try:
        counts = write_mini_release(args.pop("output"), **args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {' '.join(str(error).split())}\n")
    print(json.dumps(counts, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
