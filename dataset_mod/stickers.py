# SPDX-License-Identifier: Apache-2.0
"""The sticker inventory: which image has which id, and the images as RGB on white."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

MAX_PIXELS = 4096 * 4096
"""Stickers are a few hundred pixels wide; what claims more is refused before it is decoded."""
_FORMATS = ("GIF", "JPEG", "PNG", "WEBP")


class StickerImageError(ValueError):
    """An image that cannot be used, named in the message."""


def load_sticker_image(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Decode a sticker: the first frame, on white, as RGB.

    Args:
        source: path or content of a GIF, JPEG, PNG or WebP file.
        name: what an error calls the image; by default the path.

    Raises:
        StickerImageError: the image is truncated, no image of these formats, or claims more
            than `MAX_PIXELS` pixels.
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        content, name = source, name or "image"
    else:
        content, name = Path(source).read_bytes(), name or str(source)
    try:
        with warnings.catch_warnings():
            # The size is judged below, so that a big image fails here and by name.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise StickerImageError(f"{name}: too large to be a sticker ({error})") from None
    except Exception:
        raise StickerImageError(f"{name}: not a GIF, JPEG, PNG or WebP image") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise StickerImageError(
            f"{name}: too large to be a sticker ({width} x {height} pixels, at most {MAX_PIXELS})"
        )
    try:
        image.load()
        return _on_white(image)
    # Pillow's decoders raise nearly anything on broken data: struct.error, EOFError, KeyError...
    except Exception as error:
        raise StickerImageError(f"{name}: broken or truncated image ({error})") from None


def png_bytes(image: Image.Image) -> bytes:
    """Return `image` as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


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
