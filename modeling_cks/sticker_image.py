# SPDX-License-Identifier: Apache-2.0
"""Open sticker images: the first frame, on white, as RGB; and name images by their content."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

# Stickers are a few hundred pixels wide; what claims more is refused before it is decoded.
MAX_PIXELS = 4096 * 4096
_FORMATS = ("GIF", "JPEG", "PNG", "WEBP")


def open_sticker(source: str | os.PathLike | bytes | Image.Image) -> Image.Image:
    """Return a sticker's first frame, composited on white where it is transparent, as RGB.

    Args:
        source: a path, the content of a GIF, JPEG, PNG or WebP file, or an image of any mode.

    Raises:
        ValueError: the image is truncated, of no such format, or has more than `MAX_PIXELS`
            pixels.
        OSError: the file cannot be read.
    """
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "image"
        image = source
    else:
        name = "image" if isinstance(source, bytes) else str(source)
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        image = _open(content, name)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name}: too large to be a sticker ({width} x {height} pixels, at most {MAX_PIXELS})"
        )
    try:
        return _first_frame(image)
    # Pillow's decoders raise nearly anything on broken data: struct.error, EOFError, KeyError...
    except Exception as error:
        raise ValueError(f"{name}: broken or truncated image ({error})") from None


def image_digest(image: Image.Image) -> str:
    """Return the SHA-256, in hex, of an image's size and RGB pixels, whatever file it came from."""
    if image.mode != "RGB":
        image = image.convert("RGB")
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _open(content: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # The size is judged by the caller, so that a big image fails there and by name.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: too large to be a sticker ({error})") from None
    except Exception:
        raise ValueError(f"{name}: not a GIF, JPEG, PNG or WebP image") from None


def _first_frame(image: Image.Image) -> Image.Image:
    if getattr(image, "is_animated", False) and image.tell():
        place = image.tell()
        image.seek(0)
        try:
            return _on_white(image)
        finally:
            image.seek(place)  # it is the caller's
    image.load()
    return _on_white(image)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255, which leaves a white sheet.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[values == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
