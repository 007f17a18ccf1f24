# SPDX-License-Identifier: Apache-2.0
"""Many stickers on one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

_COLUMNS = 20
_SIZE = 64
_GAP = 4


def contact_sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Draw stickers in rows on white, in their order, none larger than 64 pixels.

    Args:
        images: RGB images, transparency already on white.

    Raises:
        ValueError: there is no image.
    """
    if not images:
        raise ValueError("there is no sticker to draw")
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    step = _SIZE + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP), "white")
    for place, image in enumerate(images):
        thumbnail = image.convert("RGB")
        thumbnail.thumbnail((_SIZE, _SIZE), Image.Resampling.LANCZOS)
        row, column = divmod(place, columns)
        left = _GAP + column * step + (_SIZE - thumbnail.width) // 2
        top = _GAP + row * step + (_SIZE - thumbnail.height) // 2
        sheet.paste(thumbnail, (left, top))
    return sheet
