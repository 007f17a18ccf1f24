# SPDX-License-Identifier: Apache-2.0
"""Groups of the samples of prepared data, for the scripts that give figures of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset_mod import PreparedMod
from dataset_mod.bias import EmotionalWords, find_emotional_words, load_words, read_lexicon
from modeling_cks.evaluation import (
    CONTRASTS,
    LEAST_SAMPLES,
    group_figures,
    sample_groups,
    training_stickers,
)

TRAIN = "train"
STYLES_FILE = "styles.json"
SHOWN = ("R@1", "MRR", "Acc")


def add_lexicon(parser: argparse.ArgumentParser) -> None:
    """Add what says which words are emotional."""
    parser.add_argument(
        "--lexicon",
        type=Path,
        metavar="FILE",
        help="emotional words, TSV, CSV or JSON, taken alone. By default those that"
        " bias_report.py left in the data's folder, else what is found in its training split",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which samples belong together."""
    add_lexicon(parser)
    parser.add_argument(
        "--styles",
        type=Path,
        metavar="FILE",
        help=f"JSON: sticker id to the name of its style (default: {STYLES_FILE} of the data's"
        " folder, if it is there)",
    )


def emotional_words(
    data: PreparedMod, folder: Path, language: str | None, lexicon: Path | None
) -> tuple[EmotionalWords, str]:
    """Return the emotional words to judge by, and where they are from.

    Raises:
        ValueError: the lexicon cannot be read, or what bias_report.py left is of other data.
    """
    if lexicon is not None:
        given = read_lexicon(lexicon, data.emotions)
        rows = data.splits[TRAIN]
        return (
            find_emotional_words(rows, data.emotions, lexicon=given, found=False),
            lexicon.name,
        )
    language = language or data.statistics["languages"][0]
    if (folder / "bias" / language / "words.json").exists():
        return load_words(folder, language), "bias report"
    return find_emotional_words(data.splits[TRAIN], data.emotions), "training split"


def read_styles(data: PreparedMod, folder: Path, given: Path | None) -> dict[str, str] | None:
    """Return sticker id -> style; None where no file says.

    Raises:
        ValueError: the file is missing or broken, or names a sticker that the data does not have.
    """
    path = given or folder / STYLES_FILE
    if given is None and not path.exists():
        return None
    try:
        styles = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(styles, dict):
        raise ValueError(f"{path}: holds no JSON object of sticker id to style")
    known = set(data.stickers["id"])
    for sticker, style in styles.items():
        if sticker not in known:
            raise ValueError(f"{path}: the data has no sticker {sticker!r}")
        if not isinstance(style, str) or not style:
            raise ValueError(f"{path}: sticker {sticker!r}: {style!r} is not the name of a style")
    return styles


class Groups:
    """The groups of every sample of some splits, and what they were told from.

    Attributes:
        of: for each split and grouping the group of each sample.
        about: where words and styles are from; plain values, for results.
    """

    def __init__(
        self, data: PreparedMod, folder: Path, splits: Sequence[str], args: argparse.Namespace
    ):
        words, source = emotional_words(data, folder, args.language, args.lexicon)
        styles = read_styles(data, folder, args.styles)
        seen = training_stickers(data.splits[TRAIN])
        self.of = {
            split: sample_groups(data.splits[split], words=words, seen_stickers=seen, styles=styles)
            for split in splits
        }
        self.about = {
            "words": len(words.words),
            "words_from": source,
            "styles": styles and len(set(styles.values())),
            "least": LEAST_SAMPLES,
        }

    def figures(self, split: str, seeds: Sequence[Sequence[Mapping]]) -> dict[str, dict]:
        """Give the figures of each group of each grouping, of one ranker's records by seed."""
        return {
            name: group_figures(seeds, groups, contrast=CONTRASTS[name])
            for name, groups in self.of[split].items()
        }


def table(found: Mapping[str, Mapping[str, dict]]) -> str:
    """Lay the groups' figures of each split out for a terminal."""
    lines = ["split       group                samples" + "".join(f"{f:>9}" for f in SHOWN)]
    for split, groupings in found.items():
        for grouping, of in groupings.items():
            for name, figures in of["groups"].items():
                cells = [f"{figures[f]['mean']:9.2f}" if f in figures else f"{'-':>9}"
                         for f in SHOWN]  # fmt: skip
                label = f"{grouping} {name}"
                lines.append(f"{split:<11} {label:<20}{figures['samples']:>8}{''.join(cells)}")
            worst = {f: of["worst"][f] for f in SHOWN if f in of["worst"]}
            if worst:
                cells = [f"{worst[f]['gap']:9.2f}" if f in worst else f"{'-':>9}" for f in SHOWN]
                names = ", ".join(f"{f} {one['group']}" for f, one in worst.items())
                label = f"{grouping} gap"
                lines.append(f"{split:<11} {label:<28}{''.join(cells)}   worst: {names}")
    return "\n".join(lines)
