# SPDX-License-Identifier: Apache-2.0
"""Find the words of emotional preference of a data set, or take them from a user's lexicon."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dataset_mod.bias_words import (
    EPISODE,
    EmotionalWord,
    EmotionalWords,
    is_character,
    sequences,
    spelled,
    units,
)
from dataset_mod.schema import UNLABELLED

PRIOR = 10.0
"""How many samples with the data's own mixture of classes are added to what was seen of a word."""
MIN_COUNT = 5
MIN_STRENGTH = math.log(3)
"""Three times the odds: below, most of what is found are function words ("are", "with")."""
LEVEL = 0.05


def find_emotional_words(
    rows: Iterable[Mapping],
    emotions: Sequence[str],
    *,
    lexicon: Mapping[str, int] | None = None,
    found: bool = True,
    min_count: int = MIN_COUNT,
    min_strength: float = MIN_STRENGTH,
    level: float = LEVEL,
    scope: str = EPISODE,
) -> EmotionalWords:
    """Find the words whose presence goes with an emotion label; see `dataset_mod.bias`.

    Args:
        rows: samples of the training split; those without a label tell nothing.
        emotions: the emotions' names.
        lexicon: word -> emotion id; these words are taken as they are, whatever the data say.
        found: whether the data's own words are taken too. A lexicon's word keeps its emotion.
        min_count: in how many dialogues a word must stand to be looked at.
        min_strength: by how much it must raise the log odds of an emotion, shrunk.
        level: share of false pairs of word and emotion that is let through among all found.
        scope: whether the words of the newest `episode` count or of the last `turn` alone.

    Raises:
        ValueError: nothing to find words with (no label, no lexicon), or a bad lexicon or scope.
    """
    lexicon = {_canonical(word): emotion for word, emotion in (lexicon or {}).items()}
    if not found and not lexicon:
        raise ValueError("without a lexicon, words can only be found from the data")
    # Checked before the data are read.
    blank = {word: EmotionalWord(word, emotion) for word, emotion in lexicon.items()}
    reader = EmotionalWords(blank, list(emotions), scope)
    words, counts, totals = _count(rows, reader, min_count)
    if found and not totals.any():
        raise ValueError("no training sample has an emotion label: no word can be found from them")
    strength, p_values = associate(counts, totals)
    place = {word: n for n, word in enumerate(words)}
    entries = {}
    if found:
        good = (p_values < level) & (strength > min_strength)
        best = np.where(good, strength, -np.inf).argmax(1)
        entries = {
            word: EmotionalWord(
                word, int(best[n]), int(counts[n].sum()),
                float(strength[n, best[n]]), float(p_values[n, best[n]]),
            )
            for word, n in place.items()
            if good[n].any()
        }  # fmt: skip
        entries = {word: one for word, one in entries.items() if _adds(one, entries)}
    for word, emotion in lexicon.items():
        n = place[word]
        entries[word] = EmotionalWord(
            word, emotion, int(counts[n].sum()), float(strength[n, emotion]),
            float(p_values[n, emotion]), from_lexicon=True,
        )  # fmt: skip
    order = sorted(entries.values(), key=lambda one: (one.emotion, -one.strength, one.word))
    return EmotionalWords({one.word: one for one in order}, list(emotions), scope)


def associate(counts: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure how much each word raises the odds of each class.

    Strength: log odds of the class given the word, less its log odds in all samples. `PRIOR`
    samples with the classes' own shares are first added to those with the word (a Dirichlet prior),
    so that a word seen three times says little. P-value: of so many or more samples of the class
    among those with the word, if the word were dealt out at random (hypergeometric, which is
    Fisher's exact test, one-sided), adjusted for all pairs by Benjamini and Hochberg.

    Args:
        counts: (words, classes), samples of each class that have the word.
        totals: (classes,), all samples of each class.

    Returns:
        Strength and p-value, both (words, classes); 0 and 1 for a class that none or all samples
        have, and for a word that none has.
    """
    from scipy import stats

    counts, totals = np.asarray(counts), np.asarray(totals)
    every, with_word = int(totals.sum()), counts.sum(1, keepdims=True)
    open_class = (totals > 0) & (totals < every)
    share = np.where(open_class, totals / max(every, 1), 0.5)
    inside, outside = counts + PRIOR * share, with_word - counts + PRIOR * (1 - share)
    strength = np.where(open_class, np.log(inside / outside) - np.log(share / (1 - share)), 0.0)
    p_values = np.ones(counts.shape)
    # Below expectation the one-sided p is near 1; leaving it at 1 saves most of the work.
    over = open_class & (counts * max(every, 1) > with_word * totals)
    if over.any():
        n, k = np.broadcast_to(with_word, counts.shape), np.broadcast_to(totals, counts.shape)
        p_values[over] = stats.hypergeom.sf(counts[over] - 1, every, k[over], n[over])
        p_values = stats.false_discovery_control(p_values.ravel()).reshape(counts.shape)
    return strength, p_values


def read_lexicon(path: str | os.PathLike, emotions: Sequence[str]) -> dict[str, int]:
    """Read a list of emotional words.

    Args:
        path: `.tsv` or `.csv` with the columns `word` and `emotion`, or `.json` with
            {word: emotion} or {emotion: [word, ...]}.
        emotions: the emotions' names; capitals do not matter.

    Returns:
        Word -> emotion id.

    Raises:
        ValueError: the file is missing or broken, names an emotion that the data do not have, or
            gives a word twice with two emotions.
    """
    path = Path(path)
    read = {".json": _read_json, ".csv": _read_table, ".tsv": _read_table}.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: a lexicon is a .tsv, .csv or .json file")
    numbers = {name.casefold(): number for number, name in enumerate(emotions)}
    lexicon: dict[str, int] = {}
    try:
        for where, word, emotion in read(path):
            number = numbers.get(str(emotion).strip().casefold())
            if number is None:
                has = f"only {', '.join(emotions)}" if emotions else "nor any other"
                raise ValueError(f"{where}: the data have no emotion {emotion!r}, {has}")
            key = _canonical(word, where)
            if lexicon.setdefault(key, number) != number:
                raise ValueError(f"{where}: {key!r} had {emotions[lexicon[key]]!r} before")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None
    if not lexicon:
        raise ValueError(f"{path}: holds no word")
    return lexicon


def _read_table(path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        tabs = path.suffix.lower() == ".tsv"
        reader = csv.DictReader(handle, delimiter="\t" if tabs else ",")
        if not {"word", "emotion"} <= set(reader.fieldnames or ()):
            raise ValueError("line 1: needs the columns word and emotion")
        for row in reader:
            yield f"line {reader.line_num}", row["word"] or "", row["emotion"] or ""


def _read_json(path: Path) -> Iterator[tuple[str, str, str]]:
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(value, dict):
        raise ValueError("needs an object of words or of emotions")
    for key, of in value.items():
        if isinstance(of, list):
            yield from ((f"{key!r}", word, key) for word in of)
        else:
            yield f"{key!r}", key, of


def _canonical(word: object, where: str = "lexicon") -> str:
    """Return a word as it is looked up: its units in lower case."""
    text = spelled([unit for *_, unit in units(word)]) if isinstance(word, str) else ""
    if not text:
        raise ValueError(f"{where}: {word!r} has no letter to look up")
    return text


def _count(
    rows: Iterable[Mapping], reader: EmotionalWords, min_dialogues: int
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Count labelled samples by the words in them.

    Returns:
        The words of enough dialogues, then those of the lexicon that are too rare;
        (words, emotions), a word counted once a sample; (emotions,), all samples.
    """
    samples: dict[str, Counter[int]] = {}
    dialogues: dict[str, set[str]] = {}
    totals = np.zeros(len(reader.emotions), np.int64)
    for row in rows:
        if row["emotion"] == UNLABELLED:
            continue
        totals[row["emotion"]] += 1
        texts = [utterance["text"] for utterance in reader.utterances_of(row)]
        for word in {word for text in texts for word in _candidates(text, reader)}:
            samples.setdefault(word, Counter())[row["emotion"]] += 1
            dialogues.setdefault(word, set()).add(row["dialogue_id"])
    words = sorted(word for word, of in dialogues.items() if len(of) >= min_dialogues)
    kept = set(words)
    words += [word for word in reader.words if word not in kept]
    counts = np.zeros((len(words), len(reader.emotions)), np.int64)
    for n, word in enumerate(words):
        for emotion, count in samples.get(word, {}).items():
            counts[n, emotion] = count
    return words, counts, totals


def _adds(entry: EmotionalWord, entries: Mapping[str, EmotionalWord]) -> bool:
    """Tell whether a pair of characters says more than either of them, as any other word does.

    A pair across the border of two words ("very sad") owes what it says to one of its characters.
    """
    parts = [entries[unit] for *_, unit in units(entry.word) if unit in entries]
    return all(part.strength <= entry.strength for part in parts if part.emotion == entry.emotion)


def _candidates(text: str | None, reader: EmotionalWords) -> Iterator[str]:
    """Yield what may turn out an emotional word: words, pairs of characters, the lexicon's."""
    found = units(text)
    longest = max(2, reader.longest)
    for place in range(len(found)):
        for sequence in sequences(text, found, place, longest):
            pair = len(sequence) == 2 and all(map(is_character, sequence))
            if len(sequence) == 1 or pair or sequence in reader.by_units:
                yield spelled(sequence)
