# SPDX-License-Identifier: Apache-2.0
r"""MOD-mini: a small release in MOD's layout, written by code from a known causal model.

One *episode* ends with a turn that carries a sticker. Its variables, and the noise N of each,
which is independent of everything else:

==========================================  ====================================================
``W  = word of emotion w, w uniform``       the emotional word, the confounder
``D  = 0 if N_D < rho else 1 + floor(6N)``  by how far the feeling departs from the word
``Y  = (w + D) mod 7``                      the speaker's true emotion, the label
``E  = event(Y, N_E)``                      what happened: causes Y's emotion, names none
``P  = shape(N_P)``                         in which turns, by whom, event and word are said
``X  = text(E, W, P, N_X)``                 the dialogue as written
``S  = style of the speaker``               one for the whole dialogue
``T  = w if N_T < lean else Y``             the emotion whose face is sent
``F  = face(T, N_F)``                       content: brows, eyes, mouth, extras
``V  = drawing(F, S)``                      the sticker: content in a style
==========================================  ====================================================

so W confounds the sticker and the emotion (V <- W -> Y): along W -> Y with the strength `rho`,
P(Y = w | W = w), and along W -> V with the strength `lean`. ``rho = 1/7`` (CHANCE) cuts the first
arrow, ``lean = 0`` the second. Text and style are independent of each other, and both styles and
shapes of everything else. Because w and D are uniform and independent, so are Y and D; the code
draws Y and D and solves for w. That is the same law, and it makes a change of `rho` or `lean` at
the same seed change words (and the stickers that lean to them) and nothing else: not one emotion,
event, style, shape or filler, and not the other splits. So two strengths can be compared in pairs.

The true answers: the event alone determines Y, whatever the word (P(Y | E, do(W)) = P(Y | E)), and
`truth.json` keeps for every sticker turn the noise-free variables and `sticker_without_word`,
the sticker that the same speaker sends at the same turn where the arrow W -> V is cut.
`CausalModel` has the exact tables of the population.

Splits: training, validation and the easy test draw stickers in the seen styles with the seen
faces. In the hard test a speaker has either an unseen style (any face) or a seen one with faces
that training never had, so that each answer is a sticker never seen.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dataset_mod.sampling import CANDIDATES, draw_candidates
from dataset_mod.synthetic_faces import FACES, STYLES, draw_sticker, encode_sticker
from dataset_mod.synthetic_text import (
    ASKS,
    ATOMIC_COLUMNS,
    CARRIERS,
    CONFIRMATIONS,
    EMOTIONS,
    EVENTS,
    OWN_FRAMES,
    PROMPTS,
    REPLIES,
    TOLD_FRAMES,
    WORDS,
    atomic_rows,
    render_event,
    sentence,
)

logger = logging.getLogger(__name__)

CHANCE = 1 / len(EMOTIONS)
GRAPH = (
    *(("W", "Y"), ("W", "T"), ("W", "X"), ("Y", "E"), ("Y", "T"), ("E", "X"), ("P", "X")),
    *(("T", "F"), ("F", "V"), ("S", "V")),
)
SPLITS = ("train", "validation", "test_easy", "test_hard")
SEEN_STYLES = ("flat", "ink", "candy")
UNSEEN_STYLES = ("neon",)
MIN_TURNS, MAX_TURNS = 2, 10

_UNLABELLED = 0.06  # stickers without an emotion label, as in MOD
_BARE = 0.5  # of the training turns that could be a sticker alone, without text
_CAPTIONED = 0.45
_UNLISTED = "not-in-the-dictionary.jpg"
_FORMATS = ("png", "gif", "jpg", "webp")

# An episode's shape: a turn per entry, said by the speaker who sends the sticker ("S") or the
# other ("O"), and what is said in it. The event stands in the last turn or earlier, said by its
# owner or by the other; so does the word.
SHAPES = {
    "at_once": (("S", ("event", "carrier")),),
    "word_ahead": (("S", ("carrier", "event")),),
    "event_earlier": (("S", ("event",)), ("O", ("ask",)), ("S", ("reply", "carrier"))),
    "word_earlier": (("S", ("carrier",)), ("O", ("prompt",)), ("S", ("event",))),
    "both_earlier": (("S", ("event", "carrier")), ("O", ("ask",)), ("S", ("reply",))),
    "told": (("O", ("told",)), ("S", ("confirmation", "carrier"))),
    "told_with_word": (("O", ("told", "carrier")), ("S", ("confirmation",))),
    "word_of_other": (("O", ("carrier", "prompt")), ("S", ("event",))),
}


@dataclass(frozen=True)
class CausalModel:
    """Hold the two confounding strengths and answer about the population exactly.

    Args:
        rho: P(Y = w | W of emotion w); `CHANCE` makes word and emotion independent.
        lean: the probability that the word, not the feeling, chooses the face's emotion.

    Raises:
        ValueError: a strength outside [0, 1].
    """

    rho: float
    lean: float

    def __post_init__(self) -> None:
        for name in ("rho", "lean"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, not a probability between 0 and 1")

    def word_emotion(self, emotion: int, depart: float, direction: float) -> int:
        """Solve Y = (w + D) mod 7 for w, with D from two uniform noises."""
        count = len(EMOTIONS)
        departure = 0 if depart < self.rho else 1 + int(direction * (count - 1))
        return (emotion - departure) % count

    def theme(self, emotion: int, word_emotion: int, noise: float) -> int:
        """Return T, the emotion whose face is sent."""
        return word_emotion if noise < self.lean else emotion

    def joint(self) -> np.ndarray:
        """Return P(w, Y, T), shape (7, 7, 7)."""
        count = len(EMOTIONS)
        same = np.eye(count)
        emotion_given_word = same * self.rho + (1 - same) * (1 - self.rho) / (count - 1)
        # T given (w, Y): the word's with probability lean, else the feeling's.
        theme = self.lean * same[:, None, :] + (1 - self.lean) * same[None, :, :]
        return emotion_given_word[:, :, None] / count * theme

    def emotion_given_word(self) -> np.ndarray:
        """Return P(Y | w), shape (7 words' emotions, 7): what the word alone tells."""
        table = self.joint().sum(2)
        return table / table.sum(1, keepdims=True)

    def emotion_given_theme(self) -> np.ndarray:
        """Return P(Y | T), shape (7 themes, 7): what the sticker alone tells, words as they are."""
        table = self.joint().sum(0).T
        return table / table.sum(1, keepdims=True)

    def emotion_given_theme_adjusted(self) -> np.ndarray:
        """Return sum over w of P(w) P(Y | T, w), shape (7 themes, 7): the backdoor adjustment.

        What the sticker tells about the emotion where words no longer decide which sticker is
        sent (SPEC 3.1; the quantity that VKD approximates).

        Raises:
            ValueError: some pair of word and theme never occurs, so nothing is known of it.
        """
        joint = self.joint()
        pairs = joint.sum(1)
        if not (pairs > 0).all():
            raise ValueError(
                f"rho {self.rho} and lean {self.lean} leave words that never meet a theme: "
                "the adjustment is not defined"
            )
        return np.einsum("w,wyt->ty", pairs.sum(1), joint / pairs[:, None, :])


@dataclass(frozen=True)
class Sticker:
    """One drawing of the inventory."""

    id: str
    name: str
    face: str
    style: str
    emotion: str
    caption: str
    seen: bool


def sticker_inventory(
    seed: int, seen_styles: Sequence[str], unseen_styles: Sequence[str]
) -> list[Sticker]:
    """Return every face in every style, by id; ids and captions are dealt by the seed.

    Raises:
        ValueError: an unknown style, one named twice, or none that is seen or unseen.
    """
    styles = [*seen_styles, *unseen_styles]
    unknown = sorted(set(styles) - set(STYLES))
    if unknown:
        raise ValueError(f"no style {unknown[0]!r}; there are {', '.join(STYLES)}")
    if len(set(styles)) != len(styles):
        raise ValueError("a style is named twice")
    if not seen_styles or not unseen_styles:
        raise ValueError("at least one seen and one unseen style are needed")
    rng = np.random.default_rng([seed, len(SPLITS)])
    drawings = [(face, style) for style in styles for face in FACES]
    order = rng.permutation(len(drawings))
    captioned = rng.random(len(drawings)) < _CAPTIONED
    words = rng.random(len(drawings))
    stickers = []
    for number, position in enumerate(order):
        name, style = drawings[position]
        face = FACES[name]
        # Cycling through the formats, so that they tell neither style nor emotion.
        suffix = _FORMATS[(list(FACES).index(name) + 3 * styles.index(style)) % len(_FORMATS)]
        stickers.append(
            Sticker(
                id=f"{number:03d}",
                name=f"{name}-{style}.{suffix}",
                face=name,
                style=style,
                emotion=face.emotion,
                caption=_pick(face.captions, words[number]) if captioned[number] else "",
                seen=style in seen_styles and not face.held_out,
            )
        )
    return stickers


def _pick(items: Sequence, noise: float):
    return items[int(noise * len(items))]


class _World:
    """The stickers and mechanisms of one release; writes its dialogues."""

    def __init__(
        self,
        stickers: list[Sticker],
        models: dict[str, CausalModel],
        seed: int,
        seen_styles: Sequence[str],
        unseen_styles: Sequence[str],
    ) -> None:
        self.stickers = {(sticker.face, sticker.style): sticker for sticker in stickers}
        self.models = models
        self.seed = seed
        self.seen_styles = tuple(seen_styles)
        self.unseen_styles = tuple(unseen_styles)

    def dialogue(self, split: str, number: int) -> tuple[list[dict], list[dict]]:
        """Return the turns of a dialogue and the truth about each of its sticker turns.

        Noise is drawn in the same order whatever the strengths are: see the module's docstring.
        """
        rng = np.random.default_rng([self.seed, SPLITS.index(split), number])
        length = MIN_TURNS + int(rng.random() * (MAX_TURNS - MIN_TURNS + 1))
        styles = [self._speaker_style(split, rng.random(2)) for _ in range(2)]
        speaker = int(rng.random() * 2)  # who does not begin
        turns: list[dict] = []
        truths: list[dict] = []
        while len(turns) < length:
            fitting = [name for name, shape in SHAPES.items() if len(shape) <= length - len(turns)]
            shape = _pick(fitting, rng.random())
            first = 1 - speaker
            sender = first if SHAPES[shape][0][0] == "S" else 1 - first
            episode, truth = self._episode(split, shape, sender, styles[sender], rng)
            for key in ("turn", "event_turn", "word_turn"):
                truth[key] += len(turns)
            turns += episode
            truths.append(truth)
            speaker = sender
        return turns, truths

    def _speaker_style(self, split: str, noise: np.ndarray) -> str:
        unseen = split == "test_hard" and noise[0] < 0.5
        return _pick(self.unseen_styles if unseen else self.seen_styles, noise[1])

    def _faces(self, split: str, style: str, theme: str) -> list[str]:
        faces = [name for name, face in FACES.items() if face.emotion == theme]
        if style in self.unseen_styles:
            return faces
        return [name for name in faces if FACES[name].held_out == (split == "test_hard")]

    def _episode(
        self, split: str, shape: str, sender: int, style: str, rng: np.random.Generator
    ) -> tuple[list[dict], dict]:
        model = self.models[split]
        n_emotion, n_depart, n_direction, n_theme, n_face, n_word, n_event = rng.random(7)
        n_label, n_bare = rng.random(2)
        emotion = int(n_emotion * len(EMOTIONS))
        word_emotion = model.word_emotion(emotion, n_depart, n_direction)
        word = _pick(WORDS[EMOTIONS[word_emotion]], n_word)
        event = _pick(EVENTS[EMOTIONS[emotion]], n_event)
        theme = model.theme(emotion, word_emotion, n_theme)

        def send(theme: int) -> Sticker:
            face = _pick(self._faces(split, style, EMOTIONS[theme]), n_face)
            return self.stickers[face, style]

        turns = []
        said_in = {}
        for position, (role, parts) in enumerate(SHAPES[shape]):
            said = []
            for part in parts:
                said.append(_say(part, event, word, rng.random()))
                said_in[part] = position
            turns.append({"speaker_id": _speaker(sender if role == "S" else 1 - sender)})
            turns[-1]["txt"] = sentence(*said)
        sticker = send(theme)
        answer = turns[-1]
        last_parts = SHAPES[shape][-1][1]
        may_be_bare = split == "train" and not {"event", "carrier"} & set(last_parts)
        if may_be_bare and n_bare < _BARE * _UNLABELLED:
            del answer["txt"]
        answer["img_id"] = sticker.id
        labelled = bool(n_label >= _UNLABELLED)
        if labelled:
            answer["emotion_id"] = emotion
        truth = {
            "turn": len(turns) - 1,
            "speaker": sender,
            "emotion": EMOTIONS[emotion],
            "word": word,
            "word_emotion": EMOTIONS[word_emotion],
            "agrees": word_emotion == emotion,
            "theme": EMOTIONS[theme],
            "face": sticker.face,
            "style": style,
            "sticker": sticker.id,
            "sticker_without_word": send(emotion).id,
            "event": render_event(event, "own"),
            "event_turn": said_in.get("event", said_in.get("told")),
            "word_turn": said_in["carrier"],
            "shape": shape,
            "labelled": labelled,
        }
        return turns, truth


def _speaker(number: int) -> str:
    return f"[speaker{number + 1}]"


def _say(part: str, event: str, word: str, noise: float) -> str:
    if part == "event":
        return _pick(OWN_FRAMES, noise).format(render_event(event, "own"))
    if part == "told":
        return _pick(TOLD_FRAMES, noise).format(render_event(event, "told"))
    if part == "carrier":
        return _pick(CARRIERS, noise).format(word=word)
    fillers = {"ask": ASKS, "reply": REPLIES, "confirmation": CONFIRMATIONS, "prompt": PROMPTS}
    return _pick(fillers[part], noise)


def write_mini_release(
    output_dir: str | os.PathLike,
    *,
    rho: float = 0.9,
    test_rho: float | None = None,
    lean: float = 0.25,
    test_lean: float | None = None,
    seed: int = 0,
    dialogues: Sequence[int] = (300, 60, 60, 60),
    seen_styles: Sequence[str] = SEEN_STYLES,
    unseen_styles: Sequence[str] = UNSEEN_STYLES,
    size: int = 96,
) -> dict:
    """Write MOD-mini, its ATOMIC events and the truth about it; return the counts.

    The same arguments write the same bytes. Beside MOD's own files there are
    `atomic/v4_atomic_mini.csv`, `captions.json` (sticker id to the text drawn on it, "" for none)
    and `truth.json`.

    Args:
        output_dir: an empty or new folder, or an earlier MOD-mini, which is replaced.
        rho: how strongly words tell the emotion in training and validation.
        test_rho: the same in both tests; as in training if None.
        lean: how strongly words choose the stickers in training and validation.
        test_lean: the same in both tests; as in training if None.
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
    stickers = sticker_inventory(seed, seen_styles, unseen_styles)
    _claim(output_dir)
    world = _World(stickers, models, seed, seen_styles, unseen_styles)

    for sticker in stickers:
        image = draw_sticker(sticker.face, sticker.style, sticker.caption, size)
        _write(
            output_dir / "supplementary" / "meme_set" / sticker.name,
            encode_sticker(image, sticker.name.rpartition(".")[2]),
        )
    stray = draw_sticker(next(iter(FACES)), seen_styles[0], "?", size)
    _write(output_dir / "supplementary" / "meme_set" / _UNLISTED, encode_sticker(stray, "jpg"))
    by_name = sorted(stickers, key=lambda sticker: sticker.name)
    _write_json(
        output_dir / "supplementary" / "img2id.json", {one.name: one.id for one in by_name}
    )
    _write_json(
        output_dir / "supplementary" / "emotion_dict.json",
        {name: number for number, name in enumerate(EMOTIONS)},
    )
    _write_json(output_dir / "captions.json", {one.id: one.caption for one in stickers})

    truths = {}
    for split, count in zip(SPLITS, dialogues, strict=True):
        truths[split] = _write_split(output_dir, split, count, world, stickers, seed)
    rows = atomic_rows()
    table = io.StringIO()
    writer = csv.DictWriter(table, ATOMIC_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(output_dir / "atomic" / "v4_atomic_mini.csv", table.getvalue().encode())
    _write_json(
        output_dir / "truth.json",
        {
            "generator": "MOD-mini",
            "parameters": {
                "seed": seed,
                "dialogues": dialogues,
                "seen_styles": tuple(seen_styles),
                "unseen_styles": tuple(unseen_styles),
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
    world: _World,
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
            truths.append(
                {"dialogue": name, "sample": len(task2) if is_sample else None, **truth}
            )
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
        try:
            truth = json.loads((output_dir / "truth.json").read_text(encoding="utf-8"))
            ours = truth["generator"] == "MOD-mini"
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not ours:
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
