# SPDX-License-Identifier: Apache-2.0
import pytest
from PIL import Image

from hub_cards import contact_sheet

WHITE = (255, 255, 255)


def test_stickers_stand_in_rows_in_their_order():
    colors = [(n * 11, 255 - n * 11, n) for n in range(23)]
    sheet = contact_sheet([Image.new("RGB", (80, 80), color) for color in colors])
    # Two rows of 20 at 64 pixels, 4 between and around them.
    assert sheet.size == (20 * 68 + 4, 2 * 68 + 4)
    for place, color in enumerate(colors):
        row, column = divmod(place, 20)
        assert sheet.getpixel((4 + column * 68 + 32, 4 + row * 68 + 32)) == color
    assert sheet.getpixel((4 + 3 * 68 + 32, 4 + 68 + 32)) == WHITE
    assert sheet.getpixel((2, 2)) == WHITE and sheet.getpixel((4 + 65, 30)) == WHITE


def test_a_sticker_keeps_its_shape_and_is_not_blown_up():
    wide, tiny = Image.new("RGB", (128, 32), "red"), Image.new("RGB", (10, 10), "blue")
    sheet = contact_sheet([wide, tiny])
    assert sheet.size == (2 * 68 + 4, 68 + 4)
    red = [xy for xy in _pixels(sheet) if sheet.getpixel(xy) == (255, 0, 0)]
    assert (min(red), max(red)) == ((4, 28), (67, 43)) and len(red) == 64 * 16
    blue = [xy for xy in _pixels(sheet) if sheet.getpixel(xy) == (0, 0, 255)]
    assert (min(blue), max(blue)) == ((99, 31), (108, 40)) and len(blue) == 100


def test_the_images_are_left_as_they_are_and_none_is_an_error():
    image = Image.new("RGB", (100, 50), "red")
    first = contact_sheet([image]).tobytes()
    assert image.size == (100, 50) and contact_sheet([image]).tobytes() == first
    with pytest.raises(ValueError, match="no sticker"):
        contact_sheet([])


def _pixels(image):
    return [(x, y) for x in range(image.width) for y in range(image.height)]
