# SPDX-License-Identifier: Apache-2.0
import base64
import io
import struct
import zlib

import pytest
import uploads
from PIL import Image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def square(colour="red", size=(8, 8), mode="RGB"):
    return Image.new(mode, size, colour)


def file(name, content):
    return {"name": name, "data": base64.b64encode(content).decode()}


def png_that_claims(width, height):
    """A PNG of a few bytes whose header promises a huge picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_kinds_are_told_by_content_whatever_the_name(kind):
    pictures, problems = uploads.read_uploads([file("letter.txt", encoded(square(), kind))])
    assert problems == []
    (picture,) = pictures.values()
    assert picture.mode == "RGB" and picture.size == (8, 8)
    red, green, blue = picture.getpixel((4, 4))
    assert red > 240 and green < 16 and blue < 16


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GIF89a, or so it says", "not a PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
        (encoded(square(), "BMP"), "not a PNG"),
        (b"", "not a PNG"),
        (encoded(Image.radial_gradient("L"), "JPEG")[:2000], "broken or cut short"),
        (encoded(square("red", (64, 64)))[:-20], "broken or cut short"),
        (encoded(square()).replace(b"IDATx", b"IDATy"), "broken or cut short"),
        (png_that_claims(2001, 2000), "too large, 2001 x 2000 pixels"),
        (png_that_claims(60_000, 60_000), "too large"),
        (encoded(square()) + b"\0" * uploads.MAX_FILE_BYTES, "more than 2 MiB"),
    ],
)
def test_what_is_no_picture_is_refused_by_name_and_reason(content, says):
    pictures, problems = uploads.read_uploads([file("sticker.png", content)])
    assert pictures == {}
    (problem,) = problems
    assert problem.startswith("sticker.png: ") and says in problem


def test_a_file_is_weighed_before_it_is_opened():
    with pytest.raises(ValueError, match="more than 2 MiB"):
        uploads.open_picture(encoded(square()) + b"\0" * uploads.MAX_FILE_BYTES)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(ValueError, match="too large, 5000 x 5000 pixels"):
        uploads.open_picture(png_that_claims(5000, 5000))


def test_the_first_frame_counts_on_white_and_reduced():
    frames = [square(colour, (1200, 600)) for colour in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = uploads.open_picture(moving)
    assert picture.size == (512, 256)
    assert picture.getpixel((5, 5)) == (255, 0, 0)
    clear = uploads.open_picture(encoded(square((0, 0, 0, 0), mode="RGBA")))
    assert clear.getpixel((4, 4)) == (255, 255, 255)
    palette = square(0, mode="P")
    palette.putpalette([9, 9, 9] + [0] * 765)
    clear = uploads.open_picture(encoded(palette, "GIF", transparency=0))
    assert clear.getpixel((4, 4)) == (255, 255, 255)


def test_sixteen_bits_of_grey_stay_grey():
    picture = uploads.open_picture(encoded(Image.new("I;16", (8, 8), 0x4000)))
    assert all(abs(value - 0x40) <= 1 for value in picture.getpixel((4, 4)))


def test_good_pictures_stay_beside_bad_ones_and_names_become_their_own():
    good = encoded(square())
    pictures, problems = uploads.read_uploads(
        [
            file("../../etc/cat.png", good),
            file("cat.png", good),
            file("no.png", b"no"),
            file("C:\\pets\\dog.png", good),
            file("\x00\n", good),
            file(None, good),
            file("x" * 300 + ".png", good),
        ]
    )
    assert list(pictures)[:5] == ["cat.png", "cat.png (2)", "dog.png", "sticker", "sticker (2)"]
    assert len(list(pictures)[5]) == 40 and list(pictures)[5].endswith(".png")
    assert problems == ["no.png: not a PNG, JPEG, GIF or WebP picture."]


def test_number_and_sum_are_limited(monkeypatch):
    good = file("a.png", encoded(square()))
    pictures, problems = uploads.read_uploads([good] * (uploads.MAX_FILES + 1))
    assert pictures == {} and "40 at most" in problems[0]
    monkeypatch.setattr(uploads, "MAX_TOTAL_BYTES", 2 * len(encoded(square())))
    pictures, problems = uploads.read_uploads([good] * 3)
    assert len(pictures) == 2 and "together" in problems[0]


@pytest.mark.parametrize("sent", [None, [], "abc", 7, {"name": "a"}])
def test_a_message_without_files_says_so(sent):
    assert uploads.read_uploads(sent) == ({}, ["No file came."])


@pytest.mark.parametrize("data", [None, 7, "%%%", "AAA"])
def test_data_that_is_no_base64_is_refused(data):
    pictures, (problem,) = uploads.read_uploads([{"name": "a.png", "data": data}, 7][:1])
    assert pictures == {} and problem.startswith("a.png: ")


def test_an_entry_that_is_no_file_is_refused():
    pictures, problems = uploads.read_uploads([7])
    assert pictures == {} and len(problems) == 1
