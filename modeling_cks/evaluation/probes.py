# SPDX-License-Identifier: Apache-2.0
"""Counterfactual probes: change one thing about a sample, and see how far a ranker's scores move.

Some changes leave the right answer as it is: another emotional word, none, another style of
drawing. What moves then is a *leak*. Others change the answer: another event, another utterance,
other images. What moves then is *sensitivity*. A ranker that reads feelings and not words moves
little at the first and far at the second.

Scores are made comparable before they are compared: divided by the ranker's own spread (the mean
standard deviation of a sample's scores, before any change) and softmaxed, so that rankers with
scores in other units, or shifted, are measured alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter
from tqdm.auto import tqdm

from dataset_mod.bias import EmotionalWords

from .evaluator import Ranker, RankerOutput
from .metrics import ranks
from .significance import paired_bootstrap

if TYPE_CHECKING:
    from datasets import Dataset

NO_EMOTION = -1
MEASURES = (
    "distance", "top_changes", "top_to_target", "rank", "probability", "label",
    "target_probability", "named_to_target",
)  # fmt: skip
"""What [`movements`] says of each changed row."""


@dataclass(frozen=True)
class Counterfactual:
    """A row with one thing changed.

    Attributes:
        place: of the row among those that were asked about.
        row: the row as it is now.
        target: the emotion that the change speaks for; -1 where it speaks for none.
    """

    place: int
    row: dict
    target: int = NO_EMOTION


# ---- changed rows ------------------------------------------------------------------------------


def swap_words(rows: Sequence[dict], words: EmotionalWords, seed: int = 0) -> list[Counterfactual]:
    """Replace the emotional words of each row by words of one other emotion, drawn by chance.

    The other emotion is neither that of any word of the row nor, where there is another left, the
    row's label, so that whoever follows it goes wrong. Rows without a word are left out.
    """
    found = []
    for place, row in enumerate(rows):
        present = set(words.emotions_of(row))
        others = [e for e in range(len(words.emotions)) if words.words_of(e) and e not in present]
        if not present or not others:
            continue
        draw = _random(seed, row)
        target = draw.choice([e for e in others if e != row["emotion"]] or others)
        replaced = partial(words.replace, emotion=target, choose=draw.choice)
        found.append(Counterfactual(place, _rewrite(row, words, replaced), target))
    return found


def delete_words(rows: Sequence[dict], words: EmotionalWords) -> list[Counterfactual]:
    """Delete the emotional words of each row; rows without one are left out."""
    taken_out = partial(words.replace, emotion=None, choose=min)
    return [
        Counterfactual(place, _rewrite(row, words, taken_out))
        for place, row in enumerate(rows)
        if words.emotions_of(row)
    ]


def reword(rows: Sequence[dict], words: EmotionalWords, seed: int = 0) -> list[Counterfactual]:
    """Replace each emotional word by another of its own emotion: what mere wording moves.

    Rows in which no word's emotion has another word are left out.
    """
    found = []
    for place, row in enumerate(rows):
        draw = _random(seed, row)
        changed = _rewrite(row, words, partial(_synonyms, words=words, draw=draw))
        if changed["utterances"] != row["utterances"]:
            found.append(Counterfactual(place, changed))
    return found


def swap_last_utterance(rows: Sequence[dict], seed: int = 0) -> list[Counterfactual]:
    """Replace each labelled row's newest utterance by that of a row with another label.

    Earlier utterances stay, so that a ranker need not forget all of the old answer. The target is
    the other row's label.
    """
    labelled = [(place, row) for place, row in enumerate(rows) if row["emotion"] >= 0]
    by_label: dict[int, list[str]] = {}
    for _, row in labelled:
        if text := row["utterances"][-1]["text"]:
            by_label.setdefault(row["emotion"], []).append(text)
    found = []
    for place, row in labelled:
        draw = _random(seed, row)
        if others := sorted(set(by_label) - {row["emotion"]}):
            target = draw.choice(others)
            *earlier, last = row["utterances"]
            text = draw.choice(by_label[target])
            changed = {**row, "utterances": [*earlier, {**last, "text": text}]}
            found.append(Counterfactual(place, changed, target))
    return found


def _rewrite(row: dict, words: EmotionalWords, change: Callable[[str], str]) -> dict:
    """Change the texts in which words count; only there, as earlier ones are other samples'."""
    count = len(words.utterances_of(row))
    turns = row["utterances"]
    kept, changed = turns[: len(turns) - count], turns[len(turns) - count :]
    changed = [{**turn, "text": change(turn["text"] or "")} for turn in changed]
    return {**row, "utterances": [*kept, *changed]}


def _synonyms(text: str, words: EmotionalWords, draw: random.Random) -> str:
    for start, end, entry in reversed(words.find(text)):
        others = [word for word in words.words_of(entry.emotion) if word != entry.word]
        if others:
            new = draw.choice(others)
            new = new[0].upper() + new[1:] if text[start].isupper() else new
            text = text[:start] + new + text[end:]
    return text


def _random(seed: int, row: dict) -> random.Random:
    """Draw for each row by its name, so that a row's change depends on no other row."""
    return random.Random(f"{seed}/{row['dialogue_id']}/{row['turn']}")


# ---- changed stickers --------------------------------------------------------------------------


def _hue(image: Image.Image) -> Image.Image:
    hue, saturation, value = image.convert("RGB").convert("HSV").split()
    turned = hue.point(lambda h: (h + 128) % 256)
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def _sketch(image: Image.Image) -> Image.Image:
    return image.convert("L").filter(ImageFilter.CONTOUR).convert("RGB")


REPAINTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "hue": _hue,
    "grey": _grey,
    "sketch": _sketch,
}
"""Ways to draw any sticker in another style: opposite hues, no colours, outlines alone."""


def restyle(
    stickers: Dataset,
    repaint: Callable[[str, Image.Image], Image.Image],
    captions: Sequence[str | None],
) -> Dataset:
    """Repaint the images of a table of stickers; everything else stays.

    Args:
        stickers: with `id`, `image` and `caption`.
        repaint: makes the new image of a sticker's id and image.
        captions: the words on the stickers, as a ranker read them (`StickerInventory.captions`), so
            that it reads no others on the repainted images.
    """
    from datasets import Dataset

    columns = {name: list(stickers[name]) for name in stickers.column_names}
    pairs = zip(columns["id"], columns["image"], strict=True)
    columns["image"] = [repaint(sticker, image) for sticker, image in pairs]
    columns["caption"] = list(captions)
    return Dataset.from_dict(columns, features=stickers.features)


def exchange(stickers: Dataset, captions: Sequence[str | None], seed: int = 0) -> Dataset:
    """Give every sticker the image and words of another one, drawn by chance; none keeps its own.

    What is on the stickers changes here, so that scores should move.
    """
    order = list(range(len(stickers)))
    random.Random(seed).shuffle(order)
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    others = [following[place] for place in range(len(order))]
    ids, images = list(stickers["id"]), list(stickers["image"])
    moved = {sticker: images[other] for sticker, other in zip(ids, others, strict=True)}
    return restyle(stickers, lambda sticker, _: moved[sticker], [captions[one] for one in others])


# ---- how far scores move -----------------------------------------------------------------------


def ask(
    ranker: Ranker, rows: Sequence[dict], batch_size: int = 32, title: str | None = None
) -> RankerOutput:
    """Let a ranker score any number of rows; a `title` shows a progress bar under it."""
    scores, answers = [], []
    with tqdm(total=len(rows), desc=title, unit="row", disable=title is None) as bar:
        for start in range(0, len(rows), batch_size):
            batch = list(rows[start : start + batch_size])
            output = ranker.rank(batch)
            scores += [np.asarray(each, dtype=float) for each in output.scores]
            if output.emotion_given_answer is not None:
                answers.append(np.asarray(output.emotion_given_answer, dtype=float))
            bar.update(len(batch))
    return RankerOutput(scores, np.concatenate(answers) if answers else None)


def _spread(output: RankerOutput) -> float:
    """Return the mean standard deviation of a row's finite scores: the unit of a ranker's scores.

    1 where it prefers nothing anywhere.
    """
    finite = [scores[np.isfinite(scores)] for scores in output.scores]
    return float(np.mean([each.std() for each in finite if len(each)] or [0.0])) or 1.0


def movements(
    before: RankerOutput,
    after: RankerOutput,
    rows: Sequence[dict],
    changed: Sequence[Counterfactual],
    sticker_emotions: Mapping[str, int],
) -> list[dict]:
    """Say of each changed row how far the scores moved.

    Args:
        before: of `rows`.
        after: of the rows of `changed`.
        rows: the rows as they were, each with its answer among its candidates.
        changed: what became of some of them.
        sticker_emotions: the emotion of each sticker, -1 or missing where unknown.

    Returns:
        A record for each changed row: `dialogue_id`, `turn`, `target`; and the measures, None
        where one does not apply:

        - `distance`: total variation between the two distributions over the candidates, 0 to 1.
        - `top_changes`: whether another sticker comes first.
        - `top_to_target`: whether a sticker of the target's emotion comes first, and none did
          before; where the emotions of both first stickers are known.
        - `rank`: of the right sticker, after minus before; positive is worse.
        - `probability`: of the right sticker, after minus before.
        - `label`, `target_probability`: of the labelled and of the target emotion given the right
          sticker, after minus before; where the ranker names emotions.
        - `named_to_target`: whether the emotion named given the right sticker turned to the target.
    """
    unit, feelings = _spread(before), _feelings(before, after)
    records = []
    for number, one in enumerate(changed):
        row, old, new = rows[one.place], before.scores[one.place], after.scores[number]
        candidates = list(row["candidates"])
        right = candidates.index(row["sticker_id"])
        shares = [_softmax(scores / unit) for scores in (old, new)]
        tops = [int(scores.argmax()) for scores in (old, new)]
        of_tops = [sticker_emotions.get(candidates[top], NO_EMOTION) for top in tops]
        known = one.target != NO_EMOTION and NO_EMOTION not in of_tops
        places = [int(ranks(scores[None], [right])[0]) for scores in (old, new)]
        records.append(
            {
                "dialogue_id": row["dialogue_id"],
                "turn": int(row["turn"]),
                "target": one.target,
                "distance": float(np.abs(shares[1] - shares[0]).sum() / 2),
                "top_changes": tops[0] != tops[1],
                "top_to_target": of_tops[0] != one.target == of_tops[1] if known else None,
                "rank": places[1] - places[0],
                "probability": float(shares[1][right] - shares[0][right]),
                **_emotion_movement(feelings, row, one, number),
            }
        )
    return records


def _emotion_movement(feelings: tuple | None, row: dict, one: Counterfactual, number: int) -> dict:
    moved = dict.fromkeys(("label", "target_probability", "named_to_target"))
    if feelings is None:
        return moved
    old, new = feelings[0][one.place], feelings[1][number]
    if row["emotion"] != NO_EMOTION:
        moved["label"] = float(new[row["emotion"]] - old[row["emotion"]])
    if one.target != NO_EMOTION:
        moved["target_probability"] = float(new[one.target] - old[one.target])
        moved["named_to_target"] = bool(old.argmax() != one.target == new.argmax())
    return moved


def _feelings(before: RankerOutput, after: RankerOutput) -> tuple[np.ndarray, np.ndarray] | None:
    """Give the emotions' probabilities given the answer; None for a ranker that names none.

    Scores none of which is negative are shares or counts, others are logits.
    """
    given = before.emotion_given_answer, after.emotion_given_answer
    if given[0] is None or given[1] is None:
        return None
    if min(each.min() for each in given) < 0:
        return tuple(np.array([_softmax(row) for row in each]) for each in given)
    sums = [each.sum(axis=1, keepdims=True) for each in given]
    return tuple(
        np.where(total > 0, each / np.where(total > 0, total, 1), 1 / each.shape[1])
        for each, total in zip(given, sums, strict=True)
    )


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def summarise(records: Sequence[dict]) -> dict:
    """Average each measure of [`movements`], with the 95 % interval of a bootstrap over dialogues.

    Returns:
        `samples`, and by measure `mean`, `low`, `high` and `samples`; shares from 0 to 1. A measure
        that applies to no record is left out.
    """
    found: dict = {"samples": len(records)}
    dialogues = [record["dialogue_id"] for record in records]
    for measure in MEASURES:
        values = np.array([record[measure] for record in records], dtype=float)
        if np.isnan(values).all():
            continue
        # The bootstrap of a mean is that of its difference from nothing.
        of = paired_bootstrap(values, np.zeros_like(values), dialogues)
        found[measure] = {"mean": of.mean, "low": of.low, "high": of.high, "samples": of.samples}
    return found


def ratio(sensitivity: Mapping, leak: Mapping) -> float | None:
    """Say how many times as far scores move where they should as where they should not.

    Args:
        sensitivity, leak: of [`summarise`].

    Returns:
        The ratio of the two mean distances: 1 for a ranker to which both are the same, more for a
        better one; None where one of them was not measured or nothing leaks at all.
    """
    if "distance" not in sensitivity or "distance" not in leak or not leak["distance"]["mean"]:
        return None
    return sensitivity["distance"]["mean"] / leak["distance"]["mean"]
