# SPDX-License-Identifier: Apache-2.0
"""Turn what is known into the page's parts; the templates escape whatever they are handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import uploads
from chat import Dialogue, pieces, word_pattern
from selection import Answer, Pack, Selector, moves

SHOWN = 6
SUGGESTED = 3
RELATIONS = {
    "xReact": "feels",
    "xEffect": "what happens to them",
    "xWant": "wants",
    "oReact": "others feel",
    "oEffect": "what happens to others",
    "oWant": "others want",
}
_LIMITS = {
    "bytes": uploads.MAX_FILE_BYTES,
    "total": uploads.MAX_TOTAL_BYTES,
    "files": uploads.MAX_FILES,
}
_PARTS = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
).get_template("page.html.j2").module  # fmt: skip


def header() -> str:
    """Render the title and the switch of light and dark."""
    return _PARTS.header()


def footer(selector: Selector) -> str:
    """Render what the page runs and keeps."""
    return _PARTS.footer(selector)


def undo_word() -> str:
    """Render what undoing a word is for."""
    return _PARTS.undo_word()


def notice(text: str) -> str:
    """Render a line that says why something was not done."""
    return _PARTS.notice(text)


def count(number: int, thing: str) -> str:
    """Return "1 picture" or "2 pictures"."""
    return f"{number} {thing}{'s' * (number != 1)}"


def chat(
    dialogue: Dialogue,
    answer: Answer | None = None,
    inferred: Mapping[str, Mapping[str, str]] | None = None,
    comet_note: str = "",
) -> str:
    """Render the dialogue, shaded by weight where there is an answer, with its suggestions.

    Args:
        dialogue: the turns.
        answer: the ranking for this dialogue.
        inferred: what COMET makes of a text, by text.
        comet_note: why nothing is inferred.
    """
    weights = answer.weights if answer else [None] * len(dialogue)
    most = max((weight or 0.0 for weight in weights), default=0.0) or 1.0
    turns = [
        {
            "speaker": turn.speaker,
            "pieces": pieces(turn.text),
            "sticker": turn.sticker,
            "weight": weight,
            "share": (weight or 0.0) / most,
            "inferred": _in_words((inferred or {}).get(turn.text, {})),
        }
        for turn, weight in zip(dialogue, weights, strict=True)
    ]
    suggested = []
    if answer and not dialogue[-1].sticker:
        suggested = _rows(answer)[:SUGGESTED]
    speaker = dialogue[-1].speaker if dialogue else 0
    return _PARTS.chat(turns, suggested, speaker, comet_note)


def pack(pack: Pack, own: bool = False, problems: Sequence[str] = (), added: str = "") -> str:
    """Render the pack, the way to bring an own one, and what became of what was brought."""
    return _PARTS.pack(pack, _LIMITS, own, problems, added)


def ranking(answer: Answer | None) -> str:
    """Render the ranked stickers and the emotions."""
    rows = _rows(answer) if answer else []
    emotions = answer.emotions if answer else ()
    return _PARTS.ranking(rows[:SHOWN], rows[SHOWN:], emotions, answer)


def comparison(before: Answer, after: Answer, word: str, other: str) -> str:
    """Render two rankings side by side: before a word was undone and after."""
    made = moves(before, after)
    by_rank = sorted(made, key=lambda move: move.before)
    feelings = [answer.emotions[0] if answer.emotions else None for answer in (before, after)]
    return _PARTS.comparison(
        word,
        other,
        [
            _struck(turn.text, word)
            for turn in before.dialogue
            if word_pattern(word).search(turn.text)
        ],
        summarize(before, after),
        [
            {"rank": one.before, "score": one.score_before, "move": one, "moved": False}
            for one in by_rank[:SHOWN]
        ],
        [
            {"rank": one.after, "score": one.score_after, "move": one, "moved": True}
            for one in made[:SHOWN]
        ],
        feelings,
        "",
    )


def no_comparison(problem: str = "") -> str:
    """Render the place of the comparison while there is none, with the reason if there is one."""
    return _PARTS.comparison("", "", [], "", [], [], [], problem)


def summarize(before: Answer, after: Answer) -> str:
    """Say in a line which sticker leads now and which moved furthest."""
    made = moves(before, after)
    leader = made[0]
    if leader.before == 1:
        said = f"{leader.sticker.name} stays first."
    else:
        said = f"{leader.sticker.name} comes first, from place {leader.before}."
    furthest = max(made, key=lambda move: abs(move.up))
    if furthest.up == 0:
        return f"{said} No sticker moves."
    if furthest is leader:
        return said
    how = "rises" if furthest.up > 0 else "falls"
    return f"{said} {furthest.sticker.name} {how} most, from {furthest.before} to {furthest.after}."


def _rows(answer: Answer) -> list[dict]:
    best = answer.ranked[0]["score"] or 1.0
    sent = answer.dialogue[-1].sticker
    return [
        {
            **one,
            "sticker": answer.pack.stickers[one["position"]],
            "share": max(0.0, one["score"] / best),
            "sent": answer.pack.stickers[one["position"]] is sent,
        }
        for one in answer.ranked
    ]


def _in_words(inferences: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(label, inferences[name]) for name, label in RELATIONS.items() if name in inferences]


def _struck(text: str, word: str) -> list[dict]:
    """Cut a text at a word: pieces of {text, gone}."""
    cut, end = [], 0
    for match in word_pattern(word).finditer(text):
        cut.append({"text": text[end : match.start()], "gone": False})
        cut.append({"text": match.group(), "gone": True})
        end = match.end()
    return [*cut, {"text": text[end:], "gone": False}]
