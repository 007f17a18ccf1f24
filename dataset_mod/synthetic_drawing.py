# SPDX-License-Identifier: Apache-2.0
"""How MOD-mini draws: six styles, a canvas in a face's coordinates, heads, captions, files.

Style is the shape and colours of the head, the pen, the background and the texture; it knows
nothing of expressions. Everything is drawn at four times the size and scaled down.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageFont

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
    "flat": Style(
        shape="circle",
        top="#ffd84f",
        bottom="#ffbf2e",
        rim="#f0a51c",
        rim_width=0.035,
        pen=1.0,
    ),
    "ink": Style(
        shape="circle",
        top="#ffffff",
        bottom="#ffffff",
        rim="#111111",
        rim_width=0.075,
        pen=1.25,
        wobble=0.022,
        texture="hatch",
        colours={
            "line": "#111111",
            "mouth": "#111111",
            "tongue": "#d8d8d8",
            "tear": "#b9c4cc",
            "steam": "#ffffff",
            "blush": "#dcdcdc",
            "sick": "#9c9c9c",
            "signal": "#d11f1f",
            "hand": "#ffffff",
            "text": "#111111",
        },
    ),
    "candy": Style(
        shape="square",
        top="#ffc1dd",
        bottom="#c9a2f5",
        rim="#ffffff",
        rim_width=0.13,
        pen=1.1,
        texture="dots",
        colours={
            "line": "#5b1f5e",
            "mouth": "#8a1c5b",
            "tongue": "#ff6fa5",
            "tear": "#38c6e8",
            "blush": "#ff6fa8",
            "sick": "#58c49a",
            "signal": "#e0115f",
            "hand": "#ffe3ef",
            "steam": "#fff5fb",
            "text": "#8a1c5b",
        },
    ),
    "neon": Style(
        shape="circle",
        top="#171a3d",
        bottom="#22154a",
        rim="#24e5ff",
        rim_width=0.05,
        pen=0.95,
        backdrop="#0b0c22",
        texture="glow",
        colours={
            "line": "#ff4fd8",
            "white": "#10122e",
            "mouth": "#3b0d4a",
            "tongue": "#ff4fd8",
            "tear": "#35c8ff",
            "steam": "#c7f7ff",
            "blush": "#7c2a86",
            "sick": "#6dff6a",
            "signal": "#ff5a36",
            "hand": "#3a56a8",
            "text": "#f7ff5c",
            "halo": "#0b0c22",
        },
    ),
    "cat": Style(
        shape="cat",
        top="#9fd3e6",
        bottom="#5f9cc9",
        rim="#2c5378",
        rim_width=0.045,
        pen=1.0,
        texture="wash",
        colours={
            "line": "#1d3550",
            "mouth": "#5a2440",
            "tongue": "#ef8fa0",
            "tear": "#e9fbff",
            "blush": "#e79bb0",
            "sick": "#a9cf5a",
            "signal": "#d63b3b",
            "hand": "#d5eef7",
            "text": "#1d3550",
        },
    ),
    "pixel": Style(
        shape="hexagon",
        top="#8fdc6c",
        bottom="#4fae57",
        rim="#173d22",
        rim_width=0.08,
        pen=1.35,
        texture="pixel",
        colours={
            "line": "#10301a",
            "mouth": "#4a1515",
            "tongue": "#ff7a6b",
            "tear": "#2f6bff",
            "blush": "#e7b04b",
            "sick": "#d9e021",
            "signal": "#d81e1e",
            "hand": "#c8f0a8",
            "text": "#10301a",
        },
    ),
}


class Canvas:
    """Strokes and fillings in the face's coordinates, in a style's colours."""

    def __init__(self, style: Style, pixels: int, centre: Point, radius: float, phase: float):
        """Open an empty square of that many pixels; `phase` varies how the hand shakes."""
        self.style = style
        self.image = Image.new("RGBA", (pixels, pixels))
        self.pen = ImageDraw.Draw(self.image)
        self.centre = centre
        self.radius = radius
        self.phase = phase

    def colour(self, name: str) -> str:
        """Return the style's colour for what is named."""
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
        """Draw a line with round ends; its width is in radii, before the style's pen."""
        placed = self.place(points)
        thick = width * self.radius * self.style.pen
        self.pen.line(placed, self.colour(colour), round(thick), joint="curve")
        for x, y in (placed[0], placed[-1]):
            self.pen.ellipse(
                (x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), self.colour(colour)
            )

    def fill(self, points: Sequence[Point], colour: str, rim: float = 0.0) -> None:
        """Fill an outline, with a rim of that width around it."""
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
        """Fill a circle or, with a height, an upright ellipse."""
        self.fill(oval(at, radius, radius if height is None else height), colour, rim)


def oval(at: Point, width: float, height: float, start: float = 0, stop: float = 360) -> list:
    """Return points on an ellipse, clockwise from the right, in degrees."""
    steps = max(8, int(abs(stop - start) / 6))
    angles = (math.radians(start + (stop - start) * i / steps) for i in range(steps + 1))
    return [(at[0] + width * math.cos(a), at[1] + height * math.sin(a)) for a in angles]


def curve(start: Point, bend: Point, stop: Point) -> list[Point]:
    """Return points on a quadratic Bezier curve."""
    points = []
    for step in range(17):
        t = step / 16
        weights = ((1 - t) ** 2, 2 * t * (1 - t), t * t)
        x, y = (
            sum(
                weight * point[axis]
                for weight, point in zip(weights, (start, bend, stop), strict=True)
            )
            for axis in (0, 1)
        )
        points.append((x, y))
    return points


def mirror(points: Sequence[Point]) -> list[Point]:
    """Return the points of the face's other half."""
    return [(-x, y) for x, y in points]


def _outline(shape: str) -> list[Point]:
    if shape == "circle":
        return oval((0, 0), 1, 1)
    if shape == "square":  # a superellipse
        return [
            tuple(math.copysign(abs(at) ** 0.5, at) * 0.94 for at in point)
            for point in oval((0, 0), 1, 1)
        ]
    if shape == "cat":
        head = oval((0, 0.06), 1.0, 0.92, -38, 218)
        return [*head, (-0.82, -1.0), (-0.36, -0.8), (0.36, -0.8), (0.82, -1.0), head[0]]
    corners = [(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in range(0, 420, 60)]
    return [(x * 1.08, y * 1.08) for x, y in corners]


def _head(canvas: Canvas) -> None:
    """Fill the head with its gradient and texture, and draw its rim."""
    style, image = canvas.style, canvas.image
    outline = canvas.place(_outline(style.shape))
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(outline, 255)
    rim = [*outline, outline[1]]
    width = round(style.rim_width * canvas.radius)
    skin = _skin(
        *(style.top, style.bottom, style.texture, image.width, canvas.centre, canvas.radius)
    )
    if style.shape == "square":  # a die-cut edge, with a thin shadow that shows it on white
        shadow = width + round(0.07 * canvas.radius)
        canvas.pen.line(rim, "#d9cfe0", shadow, joint="curve")
        canvas.pen.line(rim, style.rim, width, joint="curve")
        image.paste(skin, (0, 0), mask)
    else:
        image.paste(skin, (0, 0), mask)
        canvas.pen.line(rim, style.rim, width, joint="curve")


@functools.lru_cache(maxsize=8)
def _skin(
    top: str, bottom: str, texture: str, pixels: int, centre: Point, radius: float
) -> Image.Image:
    """Return the colours of a head, not yet cut out: the same for every face of a style."""
    share = np.clip((np.arange(pixels) - (centre[1] - radius)) / (2 * radius), 0, 1)[:, None]
    above, below = (np.array(ImageColor.getrgb(colour), float) for colour in (top, bottom))
    rows = (1 - share) * above + share * below
    filled = rows[:, None, :] + _texture(texture, pixels, centre, radius)[:, :, None]
    return Image.fromarray(filled.clip(0, 255).astype(np.uint8))


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


def _write_caption(canvas: Canvas, text: str) -> None:
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


def paint(
    expression: Callable[[Canvas], None], style: str, caption: str, size: int, phase: float
) -> Image.Image:
    """Draw an expression in a style, RGBA of `size` x `size`; a caption stands under the face."""
    look = STYLES[style]
    pixels = size * _OVERSAMPLE
    centre, radius = ((0.5, 0.42), 0.325) if caption else ((0.5, 0.515), 0.405)
    canvas = Canvas(look, pixels, (centre[0] * pixels, centre[1] * pixels), radius * pixels, phase)
    _head(canvas)
    expression(canvas)
    if look.texture == "pixel":
        canvas.image = _pixelate(canvas.image, size // 2)
        canvas.pen = ImageDraw.Draw(canvas.image)
    if caption:
        _write_caption(canvas, caption)
    image = canvas.image
    if look.texture == "glow":
        image = ImageChops.screen(image, image.filter(ImageFilter.GaussianBlur(pixels / 40)))
    image = Image.alpha_composite(_backdrop(look, pixels), image)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _pixelate(image: Image.Image, grid: int) -> Image.Image:
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
