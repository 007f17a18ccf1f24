# SPDX-License-Identifier: Apache-2.0
"""MOD-mini's stickers: 21 expressions (content) in six drawing styles, drawn by code, CC0.

Content is brows, eyes, mouth and extras such as tears or steam, in coordinates of the face: x to
the right, y down, the rim at distance 1. Style is the shape and colours of the head, the pen, the
background and the texture. Neither knows of the other: a face is a list of strokes in named
colours, which the style fills in. Everything is drawn at four times the size and scaled down.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

_OVERSAMPLE = 4
Point = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """How a head is drawn; colours by what they are for."""

    shape: str  # circle, square, cat or hexagon
    top: str  # the head's colour above and below: a gradient
    bottom: str
    rim: str
    rim_width: float  # in radii
    pen: float  # width of strokes relative to the usual
    backdrop: str | None = None  # a filled tile behind the head
    wobble: float = 0.0  # how far a hand shakes, in radii
    texture: str = "none"
    colours: dict[str, str] = field(default_factory=dict)


_COLOURS = {
    "line": "#4a2c12",
    "white": "#ffffff",
    "mouth": "#7a2318",
    "tongue": "#f2707a",
    "tear": "#4fb3f6",
    "steam": "#ffffff",
    "blush": "#ff8f6b",
    "sick": "#7fb93c",
    "signal": "#e8262c",
    "hand": "#ffdb7a",
    "text": "#4a2c12",
    "halo": "#ffffff",
}

STYLES = {
    "flat": Style("circle", "#ffd84f", "#ffbf2e", "#f0a51c", 0.035, 1.0),
    "ink": Style(
        *("circle", "#ffffff", "#ffffff", "#111111", 0.075, 1.25),
        wobble=0.022,
        texture="hatch",
        colours={
            **{"line": "#111111", "mouth": "#111111", "tongue": "#d8d8d8", "tear": "#b9c4cc"},
            **{"steam": "#ffffff", "blush": "#dcdcdc", "sick": "#9c9c9c", "signal": "#d11f1f"},
            **{"hand": "#ffffff", "text": "#111111"},
        },
    ),
    "candy": Style(
        *("square", "#ffc1dd", "#c9a2f5", "#ffffff", 0.13, 1.1),
        texture="dots",
        colours={
            **{"line": "#5b1f5e", "mouth": "#8a1c5b", "tongue": "#ff6fa5", "tear": "#38c6e8"},
            **{"blush": "#ff6fa8", "sick": "#58c49a", "signal": "#e0115f", "hand": "#ffe3ef"},
            **{"steam": "#fff5fb", "text": "#8a1c5b"},
        },
    ),
    "neon": Style(
        *("circle", "#171a3d", "#22154a", "#24e5ff", 0.05, 0.95),
        backdrop="#0b0c22",
        texture="glow",
        colours={
            **{"line": "#ff4fd8", "white": "#10122e", "mouth": "#3b0d4a", "tongue": "#ff4fd8"},
            **{"tear": "#35c8ff", "steam": "#c7f7ff", "blush": "#7c2a86", "sick": "#6dff6a"},
            **{"signal": "#ff5a36", "hand": "#3a56a8", "text": "#f7ff5c", "halo": "#0b0c22"},
        },
    ),
    "cat": Style(
        *("cat", "#9fd3e6", "#5f9cc9", "#2c5378", 0.045, 1.0),
        texture="wash",
        colours={
            **{"line": "#1d3550", "mouth": "#5a2440", "tongue": "#ef8fa0", "tear": "#e9fbff"},
            **{"blush": "#e79bb0", "sick": "#a9cf5a", "signal": "#d63b3b", "hand": "#d5eef7"},
            **{"text": "#1d3550"},
        },
    ),
    "pixel": Style(
        *("hexagon", "#8fdc6c", "#4fae57", "#173d22", 0.08, 1.35),
        texture="pixel",
        colours={
            **{"line": "#10301a", "mouth": "#4a1515", "tongue": "#ff7a6b", "tear": "#2f6bff"},
            **{"blush": "#e7b04b", "sick": "#d9e021", "signal": "#d81e1e", "hand": "#c8f0a8"},
            **{"text": "#10301a"},
        },
    ),
}


class _Canvas:
    """Strokes and fillings in the face's coordinates, in a style's colours."""

    def __init__(self, style: Style, pixels: int, centre: Point, radius: float, phase: float):
        self.style = style
        self.image = Image.new("RGBA", (pixels, pixels))
        self.pen = ImageDraw.Draw(self.image)
        self.centre = centre
        self.radius = radius
        self.phase = phase

    def colour(self, name: str) -> str:
        return self.style.colours.get(name, _COLOURS[name])

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Return pixel positions; a shaking hand bends them smoothly."""
        shake, phase = self.style.wobble, self.phase
        return [
            (
                self.centre[0] + self.radius * (x + shake * math.sin(9 * y + 5 * x + phase)),
                self.centre[1] + self.radius * (y + shake * math.sin(8 * x - 6 * y + 2 * phase)),
            )
            for x, y in points
        ]

    def stroke(self, points: Sequence[Point], width: float = 0.085, colour: str = "line") -> None:
        placed = self.place(points)
        thick = width * self.radius * self.style.pen
        self.pen.line(placed, self.colour(colour), round(thick), joint="curve")
        for x, y in (placed[0], placed[-1]):
            self.pen.ellipse(
                (x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), self.colour(colour)
            )

    def fill(self, points: Sequence[Point], colour: str, rim: float = 0.0) -> None:
        self.pen.polygon(self.place(points), self.colour(colour))
        if rim:
            self.stroke([*points, points[0], points[1]], rim)

    def disc(
        self,
        at: Point,
        radius: float,
        colour: str = "line",
        rim: float = 0.0,
        height: float | None = None,
    ) -> None:
        self.fill(_oval(at, radius, radius if height is None else height), colour, rim)


def _oval(at: Point, width: float, height: float, start: float = 0, stop: float = 360) -> list:
    """Return points on an ellipse, clockwise from the right, in degrees."""
    steps = max(8, int(abs(stop - start) / 6))
    angles = (math.radians(start + (stop - start) * i / steps) for i in range(steps + 1))
    return [(at[0] + width * math.cos(a), at[1] + height * math.sin(a)) for a in angles]


def _curve(start: Point, bend: Point, stop: Point) -> list[Point]:
    """Return points on a quadratic Bezier curve."""
    return [
        tuple((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c
              for a, b, c in zip(start, bend, stop, strict=True))
        for t in (i / 16 for i in range(17))
    ]  # fmt: skip


def _mirror(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


# ---- parts: each takes the canvas first --------------------------------------------------------


def _brows(c: _Canvas, inner: float, outer: float, bend: float = 0.0, width: float = 0.085) -> None:
    """Draw both brows from the height of their inner to that of their outer ends."""
    brow = _curve((0.17, inner), (0.36, (inner + outer) / 2 + bend), (0.58, outer))
    c.stroke(brow, width)
    c.stroke(_mirror(brow), width)


def _dot_eyes(c: _Canvas, y: float = -0.14, radius: float = 0.105) -> None:
    for x in (-0.36, 0.36):
        c.disc((x, y), radius, height=radius * 1.25)


def _open_eyes(
    c: _Canvas,
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


def _arch_eyes(c: _Canvas, up: bool, y: float = -0.14, x_sides: Sequence[int] = (-1, 1)) -> None:
    """Draw closed eyes: smiling arches (up) or tired bows."""
    sign = -1 if up else 1
    for side in x_sides:
        at = 0.37 * side
        c.stroke(_curve((at - 0.19, y), (at, y + sign * 0.32), (at + 0.19, y)), 0.09)


def _squeezed_eyes(c: _Canvas, y: float = -0.14) -> None:
    eye = [(0.54, y - 0.14), (0.24, y), (0.54, y + 0.14)]
    c.stroke(eye, 0.09)
    c.stroke(_mirror(eye), 0.09)


def _crossed_eyes(c: _Canvas, y: float = -0.16) -> None:
    for x in (-0.37, 0.37):
        c.stroke([(x - 0.15, y - 0.15), (x + 0.15, y + 0.15)], 0.09)
        c.stroke([(x - 0.15, y + 0.15), (x + 0.15, y - 0.15)], 0.09)


def _lidded_eyes(c: _Canvas, y: float = -0.14, slope: float = 0.0) -> None:
    """Draw half-closed eyes; a positive slope lowers the inner end of the lid."""
    for side in (-1, 1):
        x = 0.37 * side
        c.fill(_oval((x, y), 0.21, 0.2, 0, 180), "white", 0.05)
        c.fill(_oval((x, y), 0.115, 0.15, 0, 180), "line")
        c.stroke([(x - side * 0.23, y + slope), (x + side * 0.23, y - slope)], 0.09)


def _line_mouth(c: _Canvas, width: float, bend: float, y: float, tilt: float = 0.0) -> None:
    """Draw a closed mouth; a positive bend smiles."""
    c.stroke(_curve((-width, y + tilt), (0, y + 2 * bend), (width, y - tilt)), 0.09)


def _grin(c: _Canvas, width: float = 0.5, top: float = 0.14, depth: float = 0.52) -> None:
    """Draw an open laughing mouth with teeth and tongue."""
    mouth = [*_curve((-width, top), (0, top + 0.1), (width, top))]
    mouth += _oval((0, top), width, depth, 0, 180)
    c.fill(mouth, "mouth")
    c.fill(_clip_oval((0, top + depth * 0.86), width * 0.55, depth * 0.36, top, width, depth),
           "tongue")  # fmt: skip
    c.fill([(-width * 0.86, top + 0.03), (width * 0.86, top + 0.03),
            (width * 0.72, top + 0.15), (-width * 0.72, top + 0.15)], "white")  # fmt: skip
    c.stroke([*mouth, mouth[0], mouth[1]], 0.06)


def _clip_oval(
    at: Point, width: float, height: float, top: float, mouth_width: float, depth: float
) -> list[Point]:
    """Return an oval kept within the lower half of a mouth."""
    points = []
    for x, y in _oval(at, width, height):
        lowest = top + depth * math.sqrt(max(0.0, 1 - (x / mouth_width) ** 2))
        points.append((x, min(y, lowest)))
    return points


def _round_mouth(c: _Canvas, at: Point, width: float, height: float, tongue: bool = False) -> None:
    c.disc(at, width, "mouth", 0.06, height)
    if tongue:
        c.disc((at[0], at[1] + height * 0.55), width * 0.6, "tongue", 0, height * 0.32)


def _wail(c: _Canvas, width: float = 0.42, bottom: float = 0.72, height: float = 0.46) -> None:
    """Draw a crying mouth: open, its corners down."""
    mouth = _oval((0, bottom), width, height, 180, 360)
    mouth += _curve((width, bottom), (0, bottom - 0.16), (-width, bottom))
    c.fill(mouth, "mouth", 0.06)
    c.fill(_curve((-0.22, bottom - 0.06), (0, bottom - 0.3), (0.22, bottom - 0.06)), "tongue")


def _teeth(
    c: _Canvas, width: float, top: float, bottom: float, count: int, jag: float = 0.0
) -> None:
    """Draw clenched teeth; `jag` makes the bite a zigzag."""
    round_box = [
        *_oval((width - 0.08, top + 0.08), 0.08, 0.08, 270, 360),
        *_oval((width - 0.08, bottom - 0.08), 0.08, 0.08, 0, 90),
        *_oval((-width + 0.08, bottom - 0.08), 0.08, 0.08, 90, 180),
        *_oval((-width + 0.08, top + 0.08), 0.08, 0.08, 180, 270),
    ]
    c.fill(round_box, "white", 0.075)
    middle = (top + bottom) / 2
    step = 2 * width / count
    bite = [(-width + i * step, middle + (jag if i % 2 else -jag)) for i in range(count + 1)]
    c.stroke(bite, 0.05)
    if not jag:
        for i in range(1, count):
            c.stroke([(-width + i * step, top), (-width + i * step, bottom)], 0.045)


def _wave_mouth(c: _Canvas, width: float, y: float, height: float, waves: float) -> None:
    points = [
        (-width + 2 * width * i / 40, y + height * math.sin(2 * math.pi * waves * i / 40))
        for i in range(41)
    ]
    c.stroke(points, 0.09)


def _drop(c: _Canvas, at: Point, size: float, colour: str = "tear") -> None:
    """Draw a drop, its tip up."""
    x, y = at
    points = [*_oval((x, y + size * 0.25), size * 0.62, size * 0.62, -20, 200), (x, y - size)]
    c.fill(points, colour, 0.035)


def _streams(c: _Canvas) -> None:
    """Draw tears that run down both cheeks."""
    for side in (-1, 1):
        cheek = [(0.26, -0.02), (0.5, -0.02), (0.56, 0.5), (0.5, 0.74), (0.34, 0.84), (0.3, 0.4)]
        c.fill([(side * x, y) for x, y in cheek], "tear", 0.035)


def _blush(c: _Canvas) -> None:
    for x in (-0.62, 0.62):
        c.disc((x, 0.2), 0.17, "blush", 0, 0.11)


def _steam(c: _Canvas) -> None:
    """Draw puffs from both ears."""
    for side in (-1, 1):
        for x, y, radius in ((0.93, -0.42, 0.13), (1.07, -0.58, 0.15), (0.92, -0.68, 0.11)):
            c.disc((side * x, y), radius, "steam", 0.04)
        for x, y, radius in ((0.93, -0.42, 0.1), (1.07, -0.58, 0.12), (0.92, -0.68, 0.08)):
            c.disc((side * x, y), radius, "steam")


def _vein(c: _Canvas, at: Point, size: float = 0.15) -> None:
    """Draw the four hooks that comics put on an angry temple."""
    for across in (-1, 1):
        for down in (-1, 1):
            hook = _curve(
                (at[0] + across * size, at[1] + down * size * 0.35),
                (at[0] + across * size * 0.35, at[1] + down * size * 0.35),
                (at[0] + across * size * 0.35, at[1] + down * size),
            )
            c.stroke(hook, 0.065, "signal")


def _burst(c: _Canvas) -> None:
    """Draw short rays over the head."""
    for angle in (-128, -109, -90, -71, -52):
        x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        c.stroke([(0.86 * x, 0.86 * y), (1.08 * x, 1.08 * y)], 0.075, "signal")


def _chill(c: _Canvas) -> None:
    """Draw the lines of a face gone pale."""
    for x, length in ((-0.3, 0.2), (-0.1, 0.27), (0.1, 0.27), (0.3, 0.2)):
        c.stroke([(x, -0.9), (x, -0.9 + length)], 0.05, "tear")


def _hands(c: _Canvas) -> None:
    """Draw two hands pressed to the cheeks."""
    for side in (-1, 1):
        hand = _oval((side * 0.76, 0.5), 0.2, 0.42)
        c.fill(hand, "hand", 0.055)
        for x in (0.68, 0.8):
            c.stroke([(side * x, 0.14), (side * x, 0.36)], 0.04)


def _wrinkled_nose(c: _Canvas) -> None:
    for y in (0.02, 0.12):
        c.stroke(_curve((-0.1, y), (0, y - 0.08), (0.1, y)), 0.05)


def _tongue_out(c: _Canvas, x: float, y: float, length: float, width: float = 0.17) -> None:
    shape = [(x - width, y), *_oval((x, y + length - width), width, width, 180, 0), (x + width, y)]
    c.fill(shape, "tongue", 0.055)
    c.stroke([(x, y + 0.04), (x, y + length * 0.6)], 0.04)


# ---- the expressions ---------------------------------------------------------------------------


def _calm(c: _Canvas) -> None:
    _brows(c, -0.44, -0.44)
    _dot_eyes(c)
    _line_mouth(c, 0.3, 0, 0.4)


def _poker(c: _Canvas) -> None:
    _lidded_eyes(c)
    _line_mouth(c, 0.45, 0, 0.42)


def _aside(c: _Canvas) -> None:
    _brows(c, -0.52, -0.5)
    _open_eyes(c, 0.21, 0.1, (0.1, 0))
    _line_mouth(c, 0.2, 0, 0.42)


def _laugh(c: _Canvas) -> None:
    _blush(c)
    _arch_eyes(c, up=True)
    _grin(c)


def _beam(c: _Canvas) -> None:
    _blush(c)
    _brows(c, -0.52, -0.48, -0.12)
    _dot_eyes(c, -0.16, 0.14)
    for x in (-0.32, 0.4):
        c.disc((x, -0.23), 0.05, "halo")
    _line_mouth(c, 0.5, 0.28, 0.26)


def _wink(c: _Canvas) -> None:
    _blush(c)
    _arch_eyes(c, up=True, x_sides=(1,))
    c.disc((-0.36, -0.16), 0.13, height=0.16)
    c.disc((-0.31, -0.22), 0.045, "halo")
    _line_mouth(c, 0.44, 0.2, 0.24)
    _tongue_out(c, 0.14, 0.43, 0.38)


def _gasp(c: _Canvas) -> None:
    _brows(c, -0.6, -0.54, -0.14)
    _open_eyes(c, 0.22, 0.1)
    _round_mouth(c, (0, 0.46), 0.2, 0.24)


def _stunned(c: _Canvas) -> None:
    _burst(c)
    _brows(c, -0.62, -0.56, -0.12)
    _dot_eyes(c, -0.18, 0.13)
    _round_mouth(c, (0, 0.48), 0.34, 0.42, tongue=True)


def _boggle(c: _Canvas) -> None:
    _burst(c)
    for x in (-0.4, 0.4):
        for radius, colour in ((0.34, "white"), (0.2, "tear"), (0.08, "line")):
            c.disc((x, -0.16), radius, colour, 0.055)
    _round_mouth(c, (0, 0.54), 0.13, 0.14)


def _scowl(c: _Canvas) -> None:
    _brows(c, -0.22, -0.5, width=0.13)
    _dot_eyes(c, -0.08, 0.115)
    _line_mouth(c, 0.4, -0.17, 0.56)


def _rage(c: _Canvas) -> None:
    _steam(c)
    _brows(c, -0.2, -0.48, width=0.14)
    _open_eyes(c, 0.17, 0.075, (0, 0.02), -0.06)
    _brows(c, -0.2, -0.48, width=0.14)
    _teeth(c, 0.46, 0.28, 0.62, 5)
    _vein(c, (0.5, -0.72))


def _shout(c: _Canvas) -> None:
    _brows(c, -0.26, -0.52, width=0.13)
    _squeezed_eyes(c, -0.08)
    mouth = [(-0.36, 0.2), (0.36, 0.2), (0.54, 0.74), (-0.54, 0.74)]
    c.fill(mouth, "mouth", 0.075)
    c.fill([(-0.34, 0.23), (0.34, 0.23), (0.38, 0.35), (-0.38, 0.35)], "white")
    c.disc((0, 0.66), 0.26, "tongue", 0, 0.09)
    _vein(c, (-0.5, -0.74))


def _tear(c: _Canvas) -> None:
    _brows(c, -0.54, -0.36)
    _dot_eyes(c, -0.1, 0.115)
    _line_mouth(c, 0.34, -0.15, 0.56)
    _drop(c, (0.44, 0.22), 0.19)


def _bawl(c: _Canvas) -> None:
    _brows(c, -0.52, -0.36)
    _streams(c)
    _arch_eyes(c, up=False, y=-0.16)
    _wail(c)


def _pout(c: _Canvas) -> None:
    _brows(c, -0.64, -0.46)
    _open_eyes(c, 0.26, 0.19, (0, 0.03), -0.12, shine=True)
    for side in (-1, 1):
        c.fill(_oval((side * 0.37, 0.04), 0.19, 0.1, 0, 180), "tear")
    _line_mouth(c, 0.15, -0.11, 0.52)


def _tremble(c: _Canvas) -> None:
    _brows(c, -0.62, -0.44)
    _open_eyes(c, 0.23, 0.055)
    _wave_mouth(c, 0.42, 0.46, 0.075, 3)
    _drop(c, (0.74, -0.42), 0.2)
    _drop(c, (-0.8, -0.22), 0.15)


def _scream(c: _Canvas) -> None:
    _chill(c)
    _open_eyes(c, 0.2, 0.06, (0, 0), -0.2)
    _round_mouth(c, (0, 0.48), 0.21, 0.38)
    _hands(c)


def _chatter(c: _Canvas) -> None:
    _chill(c)
    _brows(c, -0.56, -0.4)
    _open_eyes(c, 0.21, 0.05, (0, 0), -0.14)
    _teeth(c, 0.46, 0.32, 0.62, 8, jag=0.055)
    _drop(c, (0.82, -0.24), 0.17)


def _yuck(c: _Canvas) -> None:
    _brows(c, -0.26, -0.4, width=0.1)
    _squeezed_eyes(c, -0.08)
    _wrinkled_nose(c)
    _line_mouth(c, 0.4, -0.12, 0.46)
    _tongue_out(c, 0.02, 0.38, 0.5, 0.2)


def _queasy(c: _Canvas) -> None:
    for x in (-0.56, 0.56):
        c.disc((x, 0.38), 0.32, "sick", 0, 0.29)
    _brows(c, -0.46, -0.32)
    _lidded_eyes(c, slope=-0.05)
    _wave_mouth(c, 0.3, 0.44, 0.09, 1.5)
    _drop(c, (0.78, -0.4), 0.16)


def _retch(c: _Canvas) -> None:
    _brows(c, -0.44, -0.5)
    _crossed_eyes(c)
    _round_mouth(c, (0, 0.36), 0.34, 0.24)
    flow = [(-0.26, 0.38), (0.26, 0.38), (0.3, 0.8), (0.36, 1.0), *_oval((0, 1.0), 0.36, 0.1, 0, 180)]
    c.fill([*flow, (-0.3, 0.8)], "sick", 0.05)
    for x in (-0.1, 0.1):
        c.stroke([(x, 0.5), (x * 1.2, 0.86)], 0.045)


@dataclass(frozen=True)
class Face:
    """One expression: whose emotion it shows, how it is drawn, what may be written under it."""

    emotion: str
    draw: Callable[[_Canvas], None]
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


# ---- heads, textures, captions -----------------------------------------------------------------


def _outline(shape: str) -> list[Point]:
    if shape == "circle":
        return _oval((0, 0), 1, 1)
    if shape == "square":  # a superellipse
        return [
            (math.copysign(abs(math.cos(a)) ** 0.5, math.cos(a)) * 0.94,
             math.copysign(abs(math.sin(a)) ** 0.5, math.sin(a)) * 0.94)
            for a in (math.radians(i * 3) for i in range(121))
        ]  # fmt: skip
    if shape == "cat":
        head = _oval((0, 0.06), 1.0, 0.92, -38, 218)
        return [*head, (-0.82, -1.0), (-0.36, -0.8), (0.36, -0.8), (0.82, -1.0), head[0]]
    corners = [(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in range(0, 420, 60)]
    return [(x * 1.08, y * 1.08) for x, y in corners]


def _head(canvas: _Canvas) -> None:
    """Fill the head with its gradient, texture and rim."""
    style, image = canvas.style, canvas.image
    pixels = image.width
    outline = canvas.place(_outline(style.shape))
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(outline, 255)
    x, y, radius = *canvas.centre, canvas.radius
    share = np.clip((np.arange(pixels) - (y - radius)) / (2 * radius), 0, 1)[:, None]
    ends = [np.array(Image.new("RGB", (1, 1), c).getpixel((0, 0)), float)
            for c in (style.top, style.bottom)]  # fmt: skip
    rows = (1 - share) * ends[0] + share * ends[1]
    filled = np.repeat(rows[:, None, :], pixels, 1)
    filled += _texture(style.texture, pixels, (x, y), radius)[:, :, None]
    skin = Image.fromarray(filled.clip(0, 255).astype(np.uint8))
    rim = round(style.rim_width * radius)
    if style.shape == "square":  # a die-cut edge, with a thin shadow that shows it on white
        canvas.pen.line([*outline, outline[1]], "#d9cfe0", rim + round(0.07 * radius), joint="curve")
        canvas.pen.line([*outline, outline[1]], style.rim, rim, joint="curve")
    image.paste(skin, (0, 0), mask)
    if style.shape != "square":
        canvas.pen.line([*outline, outline[1]], style.rim, rim, joint="curve")


def _texture(kind: str, pixels: int, centre: Point, radius: float) -> np.ndarray:
    """Return what the texture adds to the brightness of each pixel, (pixels, pixels)."""
    down, across = np.mgrid[:pixels, :pixels].astype(float)
    u, v = (across - centre[0]) / radius, (down - centre[1]) / radius
    if kind == "hatch":  # pen strokes in the shade, lower right
        shade = (u + v > 0.62) & (np.mod((u - v) * 9, 1) < 0.28)
        return np.where(shade, -110.0, 0.0)
    if kind == "dots":
        ring = np.hypot(np.mod(u * 4, 1) - 0.5, np.mod(v * 4, 1) - 0.5)
        return np.where(ring < 0.2, 20.0, 0.0)
    if kind == "wash":  # pigment that has run: slow waves and a darker edge
        waves = np.sin(5 * u + 3 * np.sin(3 * v)) + np.sin(6 * v + 2 * np.sin(4 * u + 1))
        return 9 * waves - 45 * np.clip(np.hypot(u, v) - 0.62, 0, 1)
    return np.zeros((pixels, pixels))


def _backdrop(style: Style, pixels: int) -> Image.Image:
    tile = Image.new("RGBA", (pixels, pixels))
    if style.backdrop is None:
        return tile
    pen = ImageDraw.Draw(tile)
    pen.rounded_rectangle((0, 0, pixels - 1, pixels - 1), pixels // 9, style.backdrop)
    step = pixels // 8
    for at in range(step, pixels, step):
        pen.line((at, 0, at, pixels), "#1a1c46", max(1, pixels // 160))
        pen.line((0, at, pixels, at), "#1a1c46", max(1, pixels // 160))
    return tile


def _write_caption(canvas: _Canvas, text: str) -> None:
    pixels = canvas.image.width
    size = 0.2 * pixels
    while True:
        font = ImageFont.load_default(size)
        left, top, right, bottom = font.getbbox(text, stroke_width=size * 0.035)
        if right - left <= 0.92 * pixels:
            break
        size *= 0.94
    at = (pixels / 2 - (left + right) / 2, 0.885 * pixels - (top + bottom) / 2)
    halo, bold = size * 0.11, size * 0.035  # the only font that comes with PIL is a light one
    for width, colour in ((halo, "halo"), (bold, "text")):
        canvas.pen.text(
            at,
            text,
            canvas.colour(colour),
            font,
            stroke_width=width,
            stroke_fill=canvas.colour(colour),
        )


def draw_sticker(face: str, style: str, caption: str = "", size: int = 96) -> Image.Image:
    """Draw a face in a style, RGBA of `size` x `size`; a caption stands under a smaller face."""
    look = STYLES[style]
    pixels = size * _OVERSAMPLE
    centre, radius = ((0.5, 0.515), 0.405) if not caption else ((0.5, 0.42), 0.325)
    phase = 1.7 * list(FACES).index(face)  # a hand never shakes twice alike
    canvas = _Canvas(look, pixels, (centre[0] * pixels, centre[1] * pixels), radius * pixels, phase)
    _head(canvas)
    FACES[face].draw(canvas)
    if look.texture == "pixel":
        canvas.image = _pixelate(canvas.image, size)
        canvas.pen = ImageDraw.Draw(canvas.image)
    if caption:
        _write_caption(canvas, caption)
    image = canvas.image
    if look.texture == "glow":
        light = image.filter(ImageFilter.GaussianBlur(pixels / 40))
        image = ImageChops.screen(image, light)
    image = Image.alpha_composite(_backdrop(look, pixels), image)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _pixelate(image: Image.Image, size: int) -> Image.Image:
    grid = size // 2
    small = image.resize((grid, grid), Image.Resampling.BOX)
    alpha = small.getchannel("A").point(lambda a: 255 if a > 127 else 0)
    small.putalpha(alpha)
    return small.resize(image.size, Image.Resampling.NEAREST)


def encode_sticker(image: Image.Image, suffix: str) -> bytes:
    """Return a drawn sticker as a PNG, an animated GIF, a JPEG on white or a WebP file."""
    out = io.BytesIO()
    if suffix == "png":
        image.save(out, "PNG")
    elif suffix == "webp":
        image.save(out, "WEBP", quality=90)
    elif suffix == "jpg":
        _on_white(image).save(out, "JPEG", quality=92)
    else:
        moved = Image.new("RGBA", image.size)
        moved.paste(image, (0, max(1, image.height // 32)))
        first, second = _indexed(image), _indexed(moved)
        first.save(
            *(out, "GIF"),
            save_all=True,
            append_images=[second],
            duration=350,
            loop=0,
            disposal=2,
            transparency=255,
            optimize=False,
        )
    return out.getvalue()


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _indexed(image: Image.Image) -> Image.Image:
    """Return 255 colours and, as number 255, the transparent one that GIF knows."""
    indexed = _on_white(image).quantize(255, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    clear = image.getchannel("A").point(lambda a: 255 if a < 128 else 0)
    indexed.paste(255, (0, 0), clear)
    return indexed
