# SPDX-License-Identifier: Apache-2.0
"""Check the pictures that visitors bring: by their content, before decoding, in memory alone."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Mapping, Sequence

from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
MAX_FILES = 40
MAX_FILE_BYTES = 2 * 2**20
MAX_TOTAL_BYTES = 12 * 2**20
MAX_PIXELS = 4_000_000
# Longer edges are reduced to this: the model sees 224 pixels.
EDGE = 512
_NAME_LENGTH = 40


def read_uploads(files: object) -> tuple[dict[str, Image.Image], list[str]]:
    """Open what the page sent, a list of {name, data}, the data in base64.

    Returns:
        The pictures that can be used, RGB by name, and for each of the others a line that says
        why it cannot.
    """
    if not isinstance(files, Sequence) or isinstance(files, str) or not files:
        return {}, ["No file came."]
    if len(files) > MAX_FILES:
        return {}, [f"These are {len(files)} files; a pack takes {MAX_FILES} at most."]
    pictures: dict[str, Image.Image] = {}
    problems = []
    total = 0
    for file in files:
        given = file if isinstance(file, Mapping) else {}
        name = _name(given.get("name"), pictures)
        try:
            content = _decode(given.get("data"))
            total += len(content)
            if total > MAX_TOTAL_BYTES:
                raise ValueError(f"more than {MAX_TOTAL_BYTES >> 20} MiB together")
            pictures[name] = open_picture(content)
        except ValueError as error:
            problems.append(f"{name}: {error}.")
    return pictures, problems


def open_picture(content: bytes) -> Image.Image:
    """Return the first frame of a picture on white, RGB, its longer edge `EDGE` pixels at most.

    Raises:
        ValueError: too many bytes or pixels, no PNG, JPEG, GIF or WebP, or broken; the message
            reads on from the file's name.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES >> 20} MiB")
    with _open(content) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"too large, {width} x {height} pixels")
        try:
            # It checks sums without decoding, and leaves an image that is of no more use.
            image.verify()
        except Exception:
            raise ValueError("broken or cut short") from None
    with _open(content) as image:
        try:
            image.load()
            return _on_white(image)
        # Pillow's decoders raise nearly anything on broken data.
        except Exception:
            raise ValueError("broken or cut short") from None


def _open(content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # The size is judged by the caller, whose limit is lower.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError("too large, far too many pixels") from None
    except Exception:
        raise ValueError("not a PNG, JPEG, GIF or WebP picture") from None


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255, which leaves a white sheet.
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    image = image.convert("RGBA")
    image.thumbnail((EDGE, EDGE))
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _decode(data: object) -> bytes:
    # The page sends no data of a file that is too large.
    if not isinstance(data, str) or len(data) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise ValueError(f"more than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ValueError("did not arrive whole") from None


def _name(given: object, taken: Mapping[str, object]) -> str:
    """Return a short printable name without folders, different from those taken."""
    text = given if isinstance(given, str) else ""
    base = text.replace("\\", "/").rpartition("/")[2]
    base = "".join(sign for sign in base if sign.isprintable())[-_NAME_LENGTH:].strip() or "sticker"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base} ({number})"
    return name
