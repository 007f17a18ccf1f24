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
faces. A share of the events of both tests (`new_events`) is of kinds that training never had:
there the word is all that a model goes by that has learnt training's events by heart, while the
common sense written in ATOMIC's form covers them. In the hard test a speaker has either an unseen
style (any face) or a seen one with faces that training never had, so that each answer is a
sticker never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset_mod.synthetic_drawing import STYLES
from dataset_mod.synthetic_faces import FACES
from dataset_mod.synthetic_text import (
    ASKS,
    CARRIERS,
    CONFIRMATIONS,
    EMOTIONS,
    EVENTS,
    NEW_EVENTS,
    OWN_FRAMES,
    PROMPTS,
    REPLIES,
    TOLD_FRAMES,
    WORDS,
    render_event,
    sentence,
)

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
_BARE = 0.05  # of the training turns that can do without a text
_CAPTIONED = 0.45
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
        """Refuse what is no probability."""
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
        sent (the quantity that VKD approximates).

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


class World:
    """The stickers and mechanisms of one release; writes its dialogues."""

    def __init__(
        self,
        stickers: list[Sticker],
        models: dict[str, CausalModel],
        seed: int,
        seen_styles: Sequence[str],
        unseen_styles: Sequence[str],
        new_events: float,
    ) -> None:
        """Take the inventory, the mechanism of each split and the share of new events in tests."""
        self.stickers = {(sticker.face, sticker.style): sticker for sticker in stickers}
        self.models = models
        self.seed = seed
        self.seen_styles = tuple(seen_styles)
        self.unseen_styles = tuple(unseen_styles)
        self.new_events = new_events

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
        n_new, n_label, n_bare = rng.random(3)
        emotion = int(n_emotion * len(EMOTIONS))
        word_emotion = model.word_emotion(emotion, n_depart, n_direction)
        word = _pick(WORDS[EMOTIONS[word_emotion]], n_word)
        is_new = split.startswith("test") and bool(n_new < self.new_events)
        event = _pick((NEW_EVENTS if is_new else EVENTS)[EMOTIONS[emotion]], n_event)
        theme = model.theme(emotion, word_emotion, n_theme)

        def send(theme: int) -> Sticker:
            face = _pick(self._faces(split, style, EMOTIONS[theme]), n_face)
            return self.stickers[face, style]

        turns, said_in = [], {}
        for position, (role, parts) in enumerate(SHAPES[shape]):
            said = [_say(part, event, word, rng.random()) for part in parts]
            said_in |= dict.fromkeys(parts, position)
            speaker = sender if role == "S" else 1 - sender
            turns.append({"speaker_id": f"[speaker{speaker + 1}]", "txt": sentence(*said)})
        sticker = send(theme)
        answer = turns[-1]
        can_be_bare = split == "train" and not {"event", "carrier"} & set(SHAPES[shape][-1][1])
        if can_be_bare and n_bare < _BARE:
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
            "event_seen": not is_new,
            "event_turn": said_in.get("event", said_in.get("told")),
            "word_turn": said_in["carrier"],
            "shape": shape,
            "labelled": labelled,
        }
        return turns, truth


def _say(part: str, event: str, word: str, noise: float) -> str:
    if part == "event":
        return _pick(OWN_FRAMES, noise).format(render_event(event, "own"))
    if part == "told":
        return _pick(TOLD_FRAMES, noise).format(render_event(event, "told"))
    if part == "carrier":
        return _pick(CARRIERS, noise).format(word=word)
    fillers = {"ask": ASKS, "reply": REPLIES, "confirmation": CONFIRMATIONS, "prompt": PROMPTS}
    return _pick(fillers[part], noise)
