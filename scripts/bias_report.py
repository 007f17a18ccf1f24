# SPDX-License-Identifier: Apache-2.0
"""Show how far words, stickers and emotion labels go together in prepared data, and mark samples.

Works on any folder of prepare_mod.py or prepare_chats.py. Finds the words of emotional preference
(or takes --lexicon) and writes to DATA_DIR/bias/LANGUAGE: words.json; marks.parquet, with each
sample's group (aligned, conflicting, neutral) in the column `bias`; report.json and report.html.
The prepared tables themselves are not touched.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import _bias_plots as plots
import _cli
import numpy as np
from demo import data_uri, page_template
from tqdm.auto import tqdm

from dataset_mod import PreparedMod, load_prepared
from dataset_mod.bias import (
    CONFLICTING,
    GROUPS,
    SCOPES,
    EmotionalWords,
    find_emotional_words,
    read_lexicon,
    write_marks,
)
from dataset_mod.bias_figures import PLACES, Sample, describe_split, read_samples, strongest_pairs
from dataset_mod.bias_marks import bias_folder
from dataset_mod.bias_search import LEVEL, MIN_COUNT, MIN_STRENGTH, PRIOR
from dataset_mod.schema import TRAIN

TEMPLATE = "bias_report.html.j2"
SHOWN_WORDS, SHOWN_PAIRS, SHOWN_SAMPLES = 24, 12, 3
CROSSED = {
    "theme_label": ("sticker’s emotion", "label"),
    "word_label": ("words’ emotion", "label"),
    "word_theme": ("words’ emotion", "sticker’s emotion"),
}
_CHOSEN_BY = 0  # the seed that draws the samples shown


def main(argv: list[str] | None = None) -> int:
    """Find the words, mark the samples, count, write the report."""
    args = _parse(argv)
    data = load_prepared(args.data, args.language)
    language = args.language or data.statistics["languages"][0]
    lexicon = read_lexicon(args.lexicon, data.emotions) if args.lexicon else None
    words = find_emotional_words(
        _watched(data.splits[TRAIN], "words"),
        data.emotions,
        lexicon=lexicon,
        found=not args.lexicon_only,
        min_strength=args.min_strength,
        scope=args.scope,
    )
    folder = args.output or bias_folder(args.data, language)
    themes = dict(zip(data.stickers["id"], data.stickers["emotion"], strict=True))
    samples = {
        split: read_samples(_watched(table, split), words, themes)
        for split, table in data.splits.items()
    }
    report = describe(samples, words, themes, data, language)
    report |= _cli.evidence(
        arguments={
            "lexicon": args.lexicon and args.lexicon.name, "lexicon_only": args.lexicon_only,
            "scope": args.scope, "min_strength": args.min_strength, "min_count": MIN_COUNT,
            "level": LEVEL, "prior": PRIOR,
        },
    )  # fmt: skip
    html = render(report, data, examples(data, samples, words))
    tables = {split: _watched(table, f"{split} marks") for split, table in data.splits.items()}
    write_marks(folder, tables, words, data.fingerprint)
    _cli.write_json(folder / "report.json", report)
    _cli.write_bytes(folder / "report.html", html.encode())
    print(summary(report))
    print(f"written to {folder}: report.html, report.json, words.json, marks.parquet")
    return 0


def _watched(table: Iterable[Mapping], what: str) -> Iterable[Mapping]:
    return tqdm(table, desc=what, unit=" samples", disable=None)


def describe(
    samples: Mapping[str, Sequence[Sample]],
    words: EmotionalWords,
    themes: Mapping[str, int],
    data: PreparedMod,
    language: str,
) -> dict:
    """Gather all figures of the report."""
    names = data.emotions
    answered = [one for one in samples[TRAIN] if one.sticker is not None]
    labelled = [one for one in answered if one.label >= 0]
    return {
        "kind": "bias report",
        "data": {"fingerprint": data.fingerprint, "language": language},
        "emotions": names,
        "stickers_without_emotion": sum(emotion < 0 for emotion in themes.values()),
        "words": {name: _listed(words, number) for number, name in enumerate(names)},
        "splits": {split: describe_split(of, names) for split, of in samples.items()},
        "word_sticker": strongest_pairs(
            [[entry.word for entry in one.words] for one in answered],
            [one.sticker for one in answered],
            SHOWN_PAIRS,
        ),
        "sticker_emotion": strongest_pairs(
            [[one.sticker] for one in labelled], [names[one.label] for one in labelled], SHOWN_PAIRS
        ),
    }


def _listed(words: EmotionalWords, emotion: int) -> dict:
    """List an emotion's strongest words, and how many it has in all."""
    entries = [entry for entry in words.words.values() if entry.emotion == emotion]
    entries.sort(key=lambda entry: (-entry.strength, entry.word))
    return {
        "number": len(entries),
        "strongest": [
            {
                "word": entry.word, "count": entry.count, "strength": entry.strength,
                "p_value": entry.p_value, "from_lexicon": entry.from_lexicon,
            }
            for entry in entries[:SHOWN_WORDS]
        ],
    }  # fmt: skip


def examples(
    data: PreparedMod, samples: Mapping[str, Sequence[Sample]], words: EmotionalWords
) -> dict[str, list[dict]]:
    """Draw a few samples of each group that has words, from the splits that training never saw."""
    seen = [split for split in samples if split != TRAIN] or [TRAIN]
    found = {}
    for group in (CONFLICTING, GROUPS[0]):
        places = [
            (split, n)
            for split in seen
            for n, one in enumerate(samples[split])
            if one.group == group and one.sticker is not None
        ]
        order = np.random.default_rng(_CHOSEN_BY).permutation(len(places))[:SHOWN_SAMPLES]
        found[group] = [_example(data, *places[n], words) for n in order]
    return found


def _example(data: PreparedMod, split: str, place: int, words: EmotionalWords) -> dict:
    row = data.splits[split][place]
    speaker = row["utterances"][-1]["speaker"]
    return {
        "split": split,
        "dialogue": row["dialogue_id"],
        "turn": row["turn"],
        "label": data.emotions[row["emotion"]],
        "sticker": row["sticker_id"],
        "turns": [
            {
                "speaker": one["speaker"] + 1,
                "sends": one["speaker"] == speaker,
                "pieces": list(_pieces(one["text"] or "", words)),
            }
            for one in words.utterances_of(row)
        ],
    }


def _pieces(text: str, words: EmotionalWords) -> Iterable[tuple[str, str | None]]:
    """Cut a text at its emotional words: (piece, the emotion's name if it is such a word)."""
    end = 0
    for start, stop, entry in words.find(text):
        yield text[end:start], None
        yield text[start:stop], words.emotions[entry.emotion]
        end = stop
    yield text[end:], None


def render(report: Mapping, data: PreparedMod, shown: Mapping[str, Sequence[Mapping]]) -> str:
    """Make the page, one file that needs no network, from the report."""
    splits = report["splits"]
    themed = {split: of for split, of in splits.items() if of["without_theme"] < _labelled(of)}
    with_words = [name for name in report["emotions"] if report["words"][name]["number"]]
    wanted = {one["sticker"] for of in shown.values() for one in of}
    wanted |= {pair["second"] for pair in report["word_sticker"]["pairs"]}
    wanted |= {pair["first"] for pair in report["sticker_emotion"]["pairs"]}
    places = {sticker: n for n, sticker in enumerate(data.stickers["id"])}
    return page_template(TEMPLATE).render(
        report=report,
        splits=splits,
        themed=themed,
        with_words=with_words,
        crossed=CROSSED,
        drawings=draw(report, themed, with_words),
        examples=shown,
        stickers={one: data_uri(data.stickers[places[one]]["image"]) for one in sorted(wanted)},
        train=TRAIN,
    )


def draw(report: Mapping, themed: Mapping[str, Mapping], with_words: Sequence[str]) -> dict:
    """Draw the plots of the page: name -> SVG."""
    splits = report["splits"]
    drawings = {
        "groups": plots.groups_plot({split: of["groups"] for split, of in splits.items()}),
        "places": plots.shares_plot(
            {
                place: {
                    split: (of["places"][place], of["places"][place]["expected"])
                    for split, of in splits.items()
                }
                for place in PLACES
            }
        ),
    }
    if themed and with_words:
        together = {split: of["cooccurrence"] for split, of in themed.items()}
        drawings["cooccurrence"] = plots.shares_plot(
            {
                name: {
                    split: (of[name]["sticker_and_label"], of[name]["expected"]["share"])
                    for split, of in together.items()
                }
                for name in with_words
            }
        )
    for name, sides in CROSSED.items():
        counts = splits[TRAIN]["tables"][name]["counts"]
        drawings[name] = plots.cross_plot(counts, report["emotions"], *sides)
    return drawings


def _labelled(of: Mapping) -> int:
    return of["rows"] - of["without_label"]


def summary(report: Mapping) -> str:
    """Say the groups of each split in lines for a terminal."""
    number = sum(of["number"] for of in report["words"].values())
    lines = [f"{number} words of emotional preference"]
    for split, of in report["splits"].items():
        shares = (
            f"{group} {100 * one['share']:.1f} %"
            for group, one in of["groups"].items()
            if one["share"] is not None
        )
        line = f"{split}: {of['rows']} samples, {', '.join(shares) or 'none labelled'}"
        if of["without_label"]:
            line += f"; {of['without_label']} without a label are in no group"
        lines.append(line)
    return "\n".join(lines)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="a prepared folder")
    parser.add_argument("--language", help="which language of the data; its first by default")
    parser.add_argument(
        "--lexicon", type=Path, metavar="FILE",
        help="emotional words beside those found: .tsv or .csv with the columns word and emotion,"
        " or .json",
    )  # fmt: skip
    parser.add_argument(
        "--lexicon-only", action="store_true", help="take no other words than the lexicon's"
    )
    parser.add_argument(
        "--scope", choices=SCOPES, default=SCOPES[0],
        help="whose words count: all since the last sticker (episode, the default) or the last"
        " turn's; the report shows which of them say something of the label",
    )  # fmt: skip
    parser.add_argument(
        "--min-strength", type=float, default=MIN_STRENGTH, metavar="LOG_ODDS",
        help="by how much a word that is found must raise the log odds of its emotion"
        " (default: %(default).2f, three times the odds)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="another folder than DATA_DIR/bias/LANGUAGE, where evaluate.py and others look",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.lexicon_only and not args.lexicon:
        parser.error("--lexicon-only needs --lexicon")
    return args


if __name__ == "__main__":
    _cli.run_main(main)
