# SPDX-License-Identifier: Apache-2.0
"""MOD-mini's content: 21 expressions, three of each emotion, drawn by code, CC0.

Content is brows, eyes, mouth and extras such as tears or steam, in coordinates of the face: x to
the right, y down, the rim at distance 1. It knows nothing of style: a face is a list of strokes
and fillings in named colours, for which each style has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from dataset_mod.synthetic_drawing import Canvas, Point, curve, mirror, oval, paint

# ---- parts: each takes the canvas first --------------------------------------------------------


def _brows(c: Canvas, inner: float, outer: float, bend: float = 0.0, width: float = 0.085) -> None:
    """Draw both brows from the height of their inner to that of their outer ends."""
    brow = curve((0.17, inner), (0.36, (inner + outer) / 2 + bend), (0.58, outer))
    c.stroke(brow, width)
    c.stroke(mirror(brow), width)


def _dot_eyes(c: Canvas, y: float = -0.14, radius: float = 0.105) -> None:
    for x in (-0.36, 0.36):
        c.disc((x, y), radius, height=radius * 1.25)


def _open_eyes(
    c: Canvas,
    size: float = 0.24,
    pupil: float = 0.1,
    look: Point = (0.0, 0.0),
    y: float = -0.16,
    shine: bool = False,
) -> None:
    for x in (-0.37, 0.37):
        c.disc((x, y), size, "white", 0.055, size * 1.1)
        c.disc((x + look[0], y + look[1]), pupil)
        if shine:
            c.disc((x + look[0] + pupil * 0.35, y + look[1] - pupil * 0.4), pupil * 0.38, "halo")
            c.disc((x + look[0] - pupil * 0.4, y + look[1] + pupil * 0.4), pupil * 0.2, "halo")


def _arch_eyes(c: Canvas, up: bool, y: float = -0.14, x_sides: Sequence[int] = (-1, 1)) -> None:
    """Draw closed eyes: smiling arches (up) or tired bows."""
    sign = -1 if up else 1
    for side in x_sides:
        at = 0.37 * side
        c.stroke(curve((at - 0.19, y), (at, y + sign * 0.32), (at + 0.19, y)), 0.09)


def _squeezed_eyes(c: Canvas, y: float = -0.14) -> None:
    eye = [(0.54, y - 0.14), (0.24, y), (0.54, y + 0.14)]
    c.stroke(eye, 0.09)
    c.stroke(mirror(eye), 0.09)


def _crossed_eyes(c: Canvas, y: float = -0.16) -> None:
    for x in (-0.37, 0.37):
        c.stroke([(x - 0.15, y - 0.15), (x + 0.15, y + 0.15)], 0.09)
        c.stroke([(x - 0.15, y + 0.15), (x + 0.15, y - 0.15)], 0.09)


def _lidded_eyes(c: Canvas, y: float = -0.14, slope: float = 0.0) -> None:
    """Draw half-closed eyes; a positive slope lowers the inner end of the lid."""
    for side in (-1, 1):
        x = 0.37 * side
        c.fill(oval((x, y), 0.21, 0.2, 0, 180), "white", 0.05)
        c.fill(oval((x, y), 0.115, 0.15, 0, 180), "line")
        c.stroke([(x - side * 0.23, y + slope), (x + side * 0.23, y - slope)], 0.09)


def _line_mouth(c: Canvas, width: float, bend: float, y: float, tilt: float = 0.0) -> None:
    """Draw a closed mouth; a positive bend smiles."""
    c.stroke(curve((-width, y + tilt), (0, y + 2 * bend), (width, y - tilt)), 0.09)


def _grin(c: Canvas, width: float = 0.5, top: float = 0.14, depth: float = 0.52) -> None:
    """Draw an open laughing mouth with teeth and tongue."""
    mouth = [*curve((-width, top), (0, top + 0.1), (width, top))]
    mouth += oval((0, top), width, depth, 0, 180)
    c.fill(mouth, "mouth")
    tongue = []
    for x, y in oval((0, top + depth * 0.86), width * 0.55, depth * 0.36):
        lip = top + depth * math.sqrt(1 - (x / width) ** 2)
        tongue.append((x, min(y, lip)))
    c.fill(tongue, "tongue")
    across, below = width * 0.86, width * 0.72
    teeth = [(-across, top + 0.03), (across, top + 0.03), (below, top + 0.15), (-below, top + 0.15)]
    c.fill(teeth, "white")
    c.stroke([*mouth, mouth[0], mouth[1]], 0.06)


def _round_mouth(c: Canvas, at: Point, width: float, height: float, tongue: bool = False) -> None:
    c.disc(at, width, "mouth", 0.06, height)
    if tongue:
        c.disc((at[0], at[1] + height * 0.55), width * 0.6, "tongue", 0, height * 0.32)


def _wail(c: Canvas, width: float = 0.42, bottom: float = 0.72, height: float = 0.46) -> None:
    """Draw a crying mouth: open, its corners down."""
    mouth = oval((0, bottom), width, height, 180, 360)
    mouth += curve((width, bottom), (0, bottom - 0.16), (-width, bottom))
    c.fill(mouth, "mouth", 0.06)
    c.fill(curve((-0.22, bottom - 0.06), (0, bottom - 0.3), (0.22, bottom - 0.06)), "tongue")


def _teeth(
    c: Canvas, width: float, top: float, bottom: float, count: int, jag: float = 0.0
) -> None:
    """Draw clenched teeth; `jag` makes the bite a zigzag."""
    round_box = [
        *oval((width - 0.08, top + 0.08), 0.08, 0.08, 270, 360),
        *oval((width - 0.08, bottom - 0.08), 0.08, 0.08, 0, 90),
        *oval((-width + 0.08, bottom - 0.08), 0.08, 0.08, 90, 180),
        *oval((-width + 0.08, top + 0.08), 0.08, 0.08, 180, 270),
    ]
    c.fill(round_box, "white", 0.075)
    middle = (top + bottom) / 2
    step = 2 * width / count
    bite = [(-width + i * step, middle + (jag if i % 2 else -jag)) for i in range(count + 1)]
    c.stroke(bite, 0.05)
    if not jag:
        for i in range(1, count):
            c.stroke([(-width + i * step, top), (-width + i * step, bottom)], 0.045)


def _wave_mouth(c: Canvas, width: float, y: float, height: float, waves: float) -> None:
    points = [
        (-width + 2 * width * i / 40, y + height * math.sin(2 * math.pi * waves * i / 40))
        for i in range(41)
    ]
    c.stroke(points, 0.09)


def _drop(c: Canvas, at: Point, size: float, colour: str = "tear") -> None:
    """Draw a drop, its tip up."""
    x, y = at
    points = [*oval((x, y + size * 0.25), size * 0.62, size * 0.62, -20, 200), (x, y - size)]
    c.fill(points, colour, 0.035)


def _streams(c: Canvas) -> None:
    """Draw tears that run down both cheeks."""
    for side in (-1, 1):
        cheek = [(0.26, -0.02), (0.5, -0.02), (0.56, 0.5), (0.5, 0.74), (0.34, 0.84), (0.3, 0.4)]
        c.fill([(side * x, y) for x, y in cheek], "tear", 0.035)


def _blush(c: Canvas) -> None:
    for x in (-0.62, 0.62):
        c.disc((x, 0.2), 0.17, "blush", 0, 0.11)


def _steam(c: Canvas) -> None:
    """Draw puffs from both ears."""
    for side in (-1, 1):
        for x, y, radius in ((0.93, -0.42, 0.13), (1.07, -0.58, 0.15), (0.92, -0.68, 0.11)):
            c.disc((side * x, y), radius, "steam", 0.04)
        for x, y, radius in ((0.93, -0.42, 0.1), (1.07, -0.58, 0.12), (0.92, -0.68, 0.08)):
            c.disc((side * x, y), radius, "steam")


def _vein(c: Canvas, at: Point, size: float = 0.15) -> None:
    """Draw the four hooks that comics put on an angry temple."""
    for across in (-1, 1):
        for down in (-1, 1):
            hook = curve(
                (at[0] + across * size, at[1] + down * size * 0.35),
                (at[0] + across * size * 0.35, at[1] + down * size * 0.35),
                (at[0] + across * size * 0.35, at[1] + down * size),
            )
            c.stroke(hook, 0.065, "signal")


def _burst(c: Canvas) -> None:
    """Draw short rays over the head."""
    for angle in (-128, -109, -90, -71, -52):
        x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        c.stroke([(0.86 * x, 0.86 * y), (1.08 * x, 1.08 * y)], 0.075, "signal")


def _chill(c: Canvas) -> None:
    """Draw the lines of a face gone pale."""
    for x, length in ((-0.3, 0.2), (-0.1, 0.27), (0.1, 0.27), (0.3, 0.2)):
        c.stroke([(x, -0.9), (x, -0.9 + length)], 0.05, "tear")


def _hands(c: Canvas) -> None:
    """Draw two hands pressed to the cheeks."""
    for side in (-1, 1):
        hand = oval((side * 0.76, 0.5), 0.2, 0.42)
        c.fill(hand, "hand", 0.055)
        for x in (0.68, 0.8):
            c.stroke([(side * x, 0.14), (side * x, 0.36)], 0.04)


def _wrinkled_nose(c: Canvas) -> None:
    for y in (0.02, 0.12):
        c.stroke(curve((-0.1, y), (0, y - 0.08), (0.1, y)), 0.05)


def _tongue_out(c: Canvas, x: float, y: float, length: float, width: float = 0.17) -> None:
    shape = [(x - width, y), *oval((x, y + length - width), width, width, 180, 0), (x + width, y)]
    c.fill(shape, "tongue", 0.055)
    c.stroke([(x, y + 0.04), (x, y + length * 0.6)], 0.04)


# ---- the expressions ---------------------------------------------------------------------------


def _calm(c: Canvas) -> None:
    _brows(c, -0.44, -0.44)
    _dot_eyes(c)
    _line_mouth(c, 0.3, 0, 0.4)


def _poker(c: Canvas) -> None:
    _lidded_eyes(c)
    _line_mouth(c, 0.45, 0, 0.42)


def _aside(c: Canvas) -> None:
    _brows(c, -0.52, -0.5)
    _open_eyes(c, 0.21, 0.1, (0.1, 0))
    _line_mouth(c, 0.2, 0, 0.42)


def _laugh(c: Canvas) -> None:
    _blush(c)
    _arch_eyes(c, up=True)
    _grin(c)


def _beam(c: Canvas) -> None:
    _blush(c)
    _brows(c, -0.52, -0.48, -0.12)
    _dot_eyes(c, -0.16, 0.14)
    for x in (-0.32, 0.4):
        c.disc((x, -0.23), 0.05, "halo")
    _line_mouth(c, 0.5, 0.28, 0.26)


def _wink(c: Canvas) -> None:
    _blush(c)
    _arch_eyes(c, up=True, x_sides=(1,))
    c.disc((-0.36, -0.16), 0.13, height=0.16)
    c.disc((-0.31, -0.22), 0.045, "halo")
    _line_mouth(c, 0.44, 0.2, 0.24)
    _tongue_out(c, 0.14, 0.43, 0.38)


def _gasp(c: Canvas) -> None:
    _brows(c, -0.6, -0.54, -0.14)
    _open_eyes(c, 0.22, 0.1)
    _round_mouth(c, (0, 0.46), 0.2, 0.24)


def _stunned(c: Canvas) -> None:
    _burst(c)
    _brows(c, -0.62, -0.56, -0.12)
    _dot_eyes(c, -0.18, 0.13)
    _round_mouth(c, (0, 0.48), 0.34, 0.42, tongue=True)


def _boggle(c: Canvas) -> None:
    _burst(c)
    for x in (-0.4, 0.4):
        for radius, colour in ((0.34, "white"), (0.2, "tear"), (0.08, "line")):
            c.disc((x, -0.16), radius, colour, 0.055)
    _round_mouth(c, (0, 0.54), 0.13, 0.14)


def _scowl(c: Canvas) -> None:
    _brows(c, -0.22, -0.5, width=0.13)
    _dot_eyes(c, -0.08, 0.115)
    _line_mouth(c, 0.4, -0.17, 0.56)


def _rage(c: Canvas) -> None:
    _steam(c)
    _brows(c, -0.2, -0.48, width=0.14)
    _open_eyes(c, 0.17, 0.075, (0, 0.02), -0.06)
    _brows(c, -0.2, -0.48, width=0.14)
    _teeth(c, 0.46, 0.28, 0.62, 5)
    _vein(c, (0.5, -0.72))


def _shout(c: Canvas) -> None:
    _brows(c, -0.26, -0.52, width=0.13)
    _squeezed_eyes(c, -0.08)
    mouth = [(-0.36, 0.2), (0.36, 0.2), (0.54, 0.74), (-0.54, 0.74)]
    c.fill(mouth, "mouth", 0.075)
    c.fill([(-0.34, 0.23), (0.34, 0.23), (0.38, 0.35), (-0.38, 0.35)], "white")
    c.disc((0, 0.66), 0.26, "tongue", 0, 0.09)
    _vein(c, (-0.5, -0.74))


def _tear(c: Canvas) -> None:
    _brows(c, -0.54, -0.36)
    _dot_eyes(c, -0.1, 0.115)
    _line_mouth(c, 0.34, -0.15, 0.56)
    _drop(c, (0.44, 0.22), 0.19)


def _bawl(c: Canvas) -> None:
    _brows(c, -0.52, -0.36)
    _streams(c)
    _arch_eyes(c, up=False, y=-0.16)
    _wail(c)


def _pout(c: Canvas) -> None:
    _brows(c, -0.64, -0.46)
    _open_eyes(c, 0.26, 0.19, (0, 0.03), -0.12, shine=True)
    for side in (-1, 1):
        c.fill(oval((side * 0.37, 0.04), 0.19, 0.1, 0, 180), "tear")
    _line_mouth(c, 0.15, -0.11, 0.52)


def _tremble(c: Canvas) -> None:
    _brows(c, -0.62, -0.44)
    _open_eyes(c, 0.23, 0.055)
    _wave_mouth(c, 0.42, 0.46, 0.075, 3)
    _drop(c, (0.74, -0.42), 0.2)
    _drop(c, (-0.8, -0.22), 0.15)


def _scream(c: Canvas) -> None:
    _chill(c)
    _open_eyes(c, 0.2, 0.06, (0, 0), -0.2)
    _round_mouth(c, (0, 0.48), 0.21, 0.38)
    _hands(c)


def _chatter(c: Canvas) -> None:
    _chill(c)
    _brows(c, -0.56, -0.4)
    _open_eyes(c, 0.21, 0.05, (0, 0), -0.14)
    _teeth(c, 0.46, 0.32, 0.62, 8, jag=0.055)
    _drop(c, (0.82, -0.24), 0.17)


def _yuck(c: Canvas) -> None:
    _brows(c, -0.26, -0.4, width=0.1)
    _squeezed_eyes(c, -0.08)
    _wrinkled_nose(c)
    _line_mouth(c, 0.4, -0.12, 0.46)
    _tongue_out(c, 0.02, 0.38, 0.5, 0.2)


def _queasy(c: Canvas) -> None:
    for x in (-0.56, 0.56):
        c.disc((x, 0.38), 0.32, "sick", 0, 0.29)
    _brows(c, -0.46, -0.32)
    _lidded_eyes(c, slope=-0.05)
    _wave_mouth(c, 0.3, 0.44, 0.09, 1.5)
    _drop(c, (0.78, -0.4), 0.16)


def _retch(c: Canvas) -> None:
    _brows(c, -0.44, -0.5)
    _crossed_eyes(c)
    _round_mouth(c, (0, 0.36), 0.34, 0.24)
    flow = [
        (-0.26, 0.38),
        (0.26, 0.38),
        (0.3, 0.8),
        (0.36, 1.0),
        *oval((0, 1.0), 0.36, 0.1, 0, 180),
    ]
    c.fill([*flow, (-0.3, 0.8)], "sick", 0.05)
    for x in (-0.1, 0.1):
        c.stroke([(x, 0.5), (x * 1.2, 0.86)], 0.045)


@dataclass(frozen=True)
class Face:
    """One expression: whose emotion it shows, how it is drawn, what may be written under it."""

    emotion: str
    draw: Callable[[Canvas], None]
    captions: tuple[str, ...]
    held_out: bool = False  # kept for the hard test


# Three of each emotion, the third held out.
FACES = {
    "calm": Face("neutral", _calm, ("OK", "HMM", "I SEE")),
    "poker": Face("neutral", _poker, ("FINE", "MEH", "SO SO")),
    "aside": Face("neutral", _aside, ("WELL...", "AS YOU SAY"), held_out=True),
    "laugh": Face("joy", _laugh, ("HA HA HA", "YAY!", "HOORAY")),
    "beam": Face("joy", _beam, ("SO GLAD", "LOVELY", "WOOHOO")),
    "wink": Face("joy", _wink, ("HEE HEE", "YIPPEE"), held_out=True),
    "gasp": Face("surprise", _gasp, ("OH!", "WHAT?", "REALLY?")),
    "stunned": Face("surprise", _stunned, ("WOW!", "NO WAY", "WHOA")),
    "boggle": Face("surprise", _boggle, ("OMG", "HUH?!"), held_out=True),
    "scowl": Face("anger", _scowl, ("GRRR", "STOP IT", "HMPH")),
    "rage": Face("anger", _rage, ("ARGH!", "SO MAD", "ENOUGH!")),
    "shout": Face("anger", _shout, ("HOW DARE", "NOT OK!"), held_out=True),
    "tear": Face("sadness", _tear, ("SNIFF", "OH NO", "SIGH")),
    "bawl": Face("sadness", _bawl, ("WAAAH", "BOO HOO", "SOB SOB")),
    "pout": Face("sadness", _pout, ("MISS YOU", "WHIMPER"), held_out=True),
    "tremble": Face("fear", _tremble, ("YIKES", "EEEK", "GULP")),
    "scream": Face("fear", _scream, ("AAAAH!", "HELP!", "RUN!")),
    "chatter": Face("fear", _chatter, ("BRRR", "SHIVER"), held_out=True),
    "yuck": Face("disgust", _yuck, ("YUCK", "EWW", "BLEH")),
    "queasy": Face("disgust", _queasy, ("I FEEL SICK", "UGH", "ICK")),
    "retch": Face("disgust", _retch, ("BARF", "URGH"), held_out=True),
}


def draw_sticker(face: str, style: str, caption: str = "", size: int = 96) -> Image.Image:
    """Draw a face of `FACES` in a style of `STYLES`, RGBA of `size` x `size` pixels.

    The same content in another style is the same face drawn again with another style's name.

    Raises:
        KeyError: an unknown face or style.
    """
    expression = FACES[face].draw
    phase = 1.7 * list(FACES).index(face)  # a hand never shakes twice alike
    return paint(expression, style, caption, size, phase)
