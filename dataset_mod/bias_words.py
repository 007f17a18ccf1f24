# SPDX-License-Identifier: Apache-2.0
"""Words of emotional preference: find them in a text, say where they point, put others there."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from dataset_mod.schema import UNLABELLED

ALIGNED, CONFLICTING, NEUTRAL = "aligned", "conflicting", "neutral"
GROUPS = (ALIGNED, CONFLICTING, NEUTRAL)
EPISODE, TURN = "episode", "turn"
SCOPES = (EPISODE, TURN)
_KIND = "emotional words"

_NO_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters
_UNIT = re.compile(
    rf"[{_NO_SPACES}\u2600-\u27bf\U0001f300-\U0001faff]"
    rf"|[^\W_{_NO_SPACES}]+(?:['’][^\W_{_NO_SPACES}]+)*"
)
_CHARACTER = re.compile(f"[{_NO_SPACES}]")


@dataclass(frozen=True)
class EmotionalWord:
    """A word that prefers an emotion.

    Attributes:
        word: in lower case; several words where a lexicon has a phrase.
        emotion: the emotion's id.
        count: in how many labelled training samples it stands.
        strength: how much it raises the log odds of its emotion, shrunk towards 0. A lexicon's word
            may have any, also below 0: it is there because somebody put it there.
        p_value: of that rise, one-sided and adjusted for all pairs of word and emotion that were
            looked at (Benjamini-Hochberg); 1 for a lexicon's word too rare to be looked at.
        from_lexicon: whether the user named it.
    """

    word: str
    emotion: int
    count: int = 0
    strength: float = 0.0
    p_value: float = 1.0
    from_lexicon: bool = False


def units(text: str | None) -> list[tuple[int, int, str]]:
    """Cut a text into its words: (start, end, word in lower case).

    What is written without spaces (Chinese, Japanese) is cut into single characters, and an emoji
    is a word of its own; so `EmotionalWords` can find longer words as sequences of these.
    """
    return [
        (match.start(), match.end(), match[0].lower().replace("’", "'"))
        for match in _UNIT.finditer(text or "")
    ]


def sequences(
    text: str, found: Sequence[tuple[int, int, str]], start: int, longest: int
) -> Iterator[tuple[str, ...]]:
    """Yield the words from `start` on, 1 to `longest` of them, as far as only spaces part them."""
    for end in range(start + 1, min(start + longest, len(found)) + 1):
        if end - start > 1 and text[found[end - 2][1] : found[end - 1][0]].strip():
            return
        yield tuple(unit for *_, unit in found[start:end])


def is_character(unit: str) -> bool:
    """Tell whether a unit is a character of a script without spaces."""
    return bool(_CHARACTER.fullmatch(unit))


def spelled(sequence: Sequence[str]) -> str:
    """Write a sequence of units as one word: characters without spaces, words with."""
    text = ""
    for unit in sequence:
        glued = not text or (is_character(text[-1]) and is_character(unit))
        text += unit if glued else f" {unit}"
    return text


def episode(utterances: Sequence[Mapping]) -> Sequence[Mapping]:
    """Return the newest utterances: all since the last turn that carried a sticker."""
    start = 0
    for place, utterance in enumerate(utterances[:-1]):
        if utterance["sticker_id"] is not None:
            start = place + 1
    return utterances[start:]


@dataclass(frozen=True)
class EmotionalWords:
    """The words of emotional preference of a data set, see `dataset_mod.bias`.

    Attributes:
        words: a word in lower case -> what is known of it.
        emotions: the emotions' names; an emotion's id is its position.
        scope: which of a sample's utterances count: `episode` or `turn`.
    """

    words: Mapping[str, EmotionalWord]
    emotions: list[str]
    scope: str = EPISODE

    def __post_init__(self) -> None:
        """Refuse what could not be looked up later."""
        if self.scope not in SCOPES:
            raise ValueError(f"no scope {self.scope!r}; there are {', '.join(SCOPES)}")
        for word, entry in self.words.items():
            if not 0 <= entry.emotion < len(self.emotions):
                raise ValueError(f"{word!r}: no emotion {entry.emotion} of {len(self.emotions)}")
            cut = [unit for *_, unit in units(word)]
            if not cut or word != entry.word or word != spelled(cut):
                raise ValueError(f"{word!r} is not a word as a text is cut into words")

    @cached_property
    def by_units(self) -> dict[tuple[str, ...], EmotionalWord]:
        """What is known of a word, by what `units` cuts it into."""
        return {tuple(u for *_, u in units(word)): entry for word, entry in self.words.items()}

    @cached_property
    def longest(self) -> int:
        """The number of units of the longest word."""
        return max(map(len, self.by_units), default=0)

    @cached_property
    def _by_emotion(self) -> list[list[str]]:
        entries = sorted(self.words.values(), key=lambda entry: entry.word)
        return [
            [entry.word for entry in entries if entry.emotion == n]
            for n in range(len(self.emotions))
        ]

    def words_of(self, emotion: int) -> list[str]:
        """Return the words of an emotion in alphabetical order, none if it has none."""
        return list(self._by_emotion[emotion])

    def find(self, text: str | None) -> list[tuple[int, int, EmotionalWord]]:
        """Return the words of a text, (start, end, word) in order.

        Of words that overlap, a lexicon's is taken before one that was found, then the longer
        ("not happy" before "happy"), then the stronger, then the first.
        """
        found, candidates = units(text), []
        for place in range(len(found)):
            for sequence in sequences(text, found, place, self.longest):
                if sequence in self.by_units:
                    candidates.append((place, len(sequence), self.by_units[sequence]))
        if self.longest > 1:
            candidates.sort(key=_preference)
        taken: dict[int, tuple[int, int, EmotionalWord]] = {}
        used: set[int] = set()
        for place, length, entry in candidates:
            if used.isdisjoint(range(place, place + length)):
                used.update(range(place, place + length))
                taken[place] = (found[place][0], found[place + length - 1][1], entry)
        return [taken[place] for place in sorted(taken)]

    def utterances_of(self, row: Mapping) -> Sequence[Mapping]:
        """Return those utterances of a sample whose words count: its newest ones."""
        utterances = row["utterances"]
        return episode(utterances) if self.scope == EPISODE else utterances[-1:]

    def find_in(self, row: Mapping) -> list[EmotionalWord]:
        """Return the words of a sample in order, one that is said twice twice."""
        return [
            entry
            for utterance in self.utterances_of(row)
            for *_, entry in self.find(utterance["text"])
        ]

    def emotions_of(self, row: Mapping) -> Counter[int]:
        """Count the emotions that the words of a sample prefer: emotion id -> number of words."""
        return Counter(entry.emotion for entry in self.find_in(row))

    def group(self, row: Mapping) -> str | None:
        """Say whether the words of a sample point to its label; see `group_of`."""
        return group_of(self.emotions_of(row), row["emotion"])

    def replace(
        self, text: str, emotion: int | None, choose: Callable[[Sequence[str]], str]
    ) -> str:
        """Put words of one emotion where a text has emotional words.

        A word that has the emotion already stays. Capitals are kept (Happy, HAPPY). Nothing else
        changes: an article before the word ("an angry") stays as it is.

        Args:
            text: what is said.
            emotion: of the new words; None takes the words out instead.
            choose: picks one of the words that are handed to it, such as `random.Random(0).choice`.

        Raises:
            ValueError: there is no word of the emotion.
        """
        offered = None if emotion is None else self.words_of(emotion)
        if offered is not None and not offered:
            raise ValueError(f"there is no word of the emotion {self.emotions[emotion]!r}")
        pieces, end = [], 0
        for start, stop, entry in self.find(text):
            if entry.emotion == emotion:
                continue
            before, after = text[end:start], text[stop : stop + 1]
            if offered is not None:
                before += _with_capitals_of(text[start:stop], choose(offered))
            elif not after.isspace():
                before = before.rstrip()
            elif not before or before[-1].isspace():
                stop += 1  # of the two spaces around it, one
            pieces.append(before)
            end = stop
        return "".join(pieces) + text[end:]

    def save(self, path: str | os.PathLike) -> None:
        """Write the words as JSON beside `path`, then rename."""
        path = Path(path)
        value = {
            "kind": _KIND,
            "emotions": list(self.emotions),
            "scope": self.scope,
            "words": [asdict(entry) for entry in self.words.values()],
        }
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> EmotionalWords:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is missing or something else.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            if value["kind"] != _KIND:
                raise ValueError(f"it is of kind {value['kind']!r}")
            entries = [EmotionalWord(**entry) for entry in value["words"]]
            return cls({entry.word: entry for entry in entries}, value["emotions"], value["scope"])
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: no list of emotional words ({error})") from None


def group_of(emotions: Mapping[int, int], label: int) -> str | None:
    """Say whether words point to a label.

    What the words point to is the emotion that most of them prefer.

    Args:
        emotions: emotion id -> how many of a sample's words prefer it.
        label: the sample's emotion.

    Returns:
        `aligned` if the words point to the label, `conflicting` if they point elsewhere, `neutral`
        if there is no word or if the label is one of several emotions that equally many prefer, and
        None for a sample without a label, of which none of these can be said.
    """
    if label == UNLABELLED:
        return None
    most = max(emotions.values(), default=0)
    leading = {emotion for emotion, count in emotions.items() if count == most}
    if leading == {label}:
        return ALIGNED
    return CONFLICTING if leading and label not in leading else NEUTRAL


def _preference(candidate: tuple[int, int, EmotionalWord]) -> tuple:
    place, length, entry = candidate
    strength = 0.0 if entry.from_lexicon else entry.strength
    return not entry.from_lexicon, -length, -strength, place


def _with_capitals_of(old: str, new: str) -> str:
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
