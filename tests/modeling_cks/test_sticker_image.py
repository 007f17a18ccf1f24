# SPDX-License-Identifier: Apache-2.0
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from modeling_cks.sticker_image import image_digest, open_sticker

RED, GREEN = (200, 30, 40), (20, 180, 60)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half_red(mode="RGBA"):
    """A picture whose left half is red and whose right half is transparent, over green."""
    image = Image.new("RGBA", (8, 6), (*GREEN, 0))
    image.paste((*RED, 255), (0, 0, 4, 6))
    return image.convert(mode)


def frames():
    return [Image.new("RGB", (8, 6), colour) for colour in (RED, GREEN)]


def assert_half_red(image, tolerance=0):
    assert image.mode == "RGB" and image.size == (8, 6)
    pixels = np.asarray(image).astype(int)
    assert abs(pixels[:, :4] - RED).max() <= tolerance
    assert abs(pixels[:, 4:] - 255).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_becomes_white(tmp_path, kind):
    content = encode(half_red(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / "a").write_bytes(content)
    for source in (content, tmp_path / "a", str(tmp_path / "a"), half_red(), half_red("RGBa")):
        assert_half_red(open_sticker(source))


def test_half_transparency_is_mixed_with_white():
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 51))
    assert open_sticker(encode(image, "PNG")).getpixel((0, 0)) == (204, 204, 204)


def test_other_kinds_of_transparency():
    grey = Image.new("LA", (2, 1))
    grey.putdata([(7, 255), (7, 0)])
    assert np.asarray(open_sticker(encode(grey, "PNG")))[0, :, 0].tolist() == [7, 255]
    palette = half_red().quantize(4)
    assert palette.mode == "P"
    assert_half_red(open_sticker(encode(palette, "PNG")))
    assert_half_red(open_sticker(encode(half_red(), "GIF")))
    keyed = Image.new("RGB", (2, 1), RED)
    keyed.putpixel((1, 0), (1, 2, 3))
    opened = open_sticker(encode(keyed, "PNG", transparency=(1, 2, 3)))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


def test_cmyk_grey_and_sixteen_bits():
    cmyk = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    got = open_sticker(encode(cmyk, "JPEG", quality=100)).getpixel((0, 0))
    assert got[0] > 200 and max(got[1:]) < 60
    values = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFFFF]], dtype=np.uint16)
    opened = open_sticker(encode(Image.fromarray(values), "PNG"))
    assert np.asarray(opened)[0, :, 0].tolist() == [0, 0, 1, 0x12, 0x80, 0xFF]
    keyed = open_sticker(encode(Image.fromarray(values), "PNG", transparency=0x1234))
    assert np.asarray(keyed)[0, :, 2].tolist() == [0, 0, 1, 255, 0x80, 0xFF]
    assert open_sticker(Image.new("1", (2, 2), 1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation(kind):
    first, second = frames()
    more = {"lossless": True} if kind == "WEBP" else {}
    content = encode(first, kind, save_all=True, append_images=[second], **more)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert open_sticker(content).getpixel((3, 3)) == RED
    image = Image.open(io.BytesIO(content))
    image.seek(1)
    assert open_sticker(image).getpixel((3, 3)) == RED
    assert image.tell() == 1 and image.convert("RGB").getpixel((3, 3)) == GREEN


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG", "WEBP"])
def test_a_truncated_image_is_refused_by_name(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = encode(Image.fromarray(noise), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"cut\.{kind.lower()}: (broken or truncated|not a GIF)"):
        open_sticker(path)
    if kind != "WEBP":  # which Pillow cannot open at all
        with pytest.raises(ValueError, match=rf"cut\.{kind.lower()}: broken or truncated"):
            open_sticker(Image.open(path))


def bomb(width, height):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [4097, 12000, 60000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, side, recwarn):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    with pytest.raises(ValueError, match=r"bomb\.png: too large to be a sticker"):
        open_sticker(path)
    assert not recwarn.list


def test_what_is_no_image_is_refused_by_name(tmp_path):
    path = tmp_path / "notes.png"
    for content in (
        b"",
        b"not an image",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        encode(frames()[0], "TIFF"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"notes\.png: not a GIF, JPEG, PNG or WebP"):
            open_sticker(path)
    with pytest.raises(ValueError, match="^image: not a GIF"):
        open_sticker(b"nothing")
    with pytest.raises(FileNotFoundError):
        open_sticker(tmp_path / "nowhere.png")


def test_the_digest_follows_the_pixels_and_nothing_else(tmp_path):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    digest = image_digest(image)
    assert len(digest) == 64
    assert image_digest(open_sticker(encode(image, "PNG"))) == digest
    assert image_digest(open_sticker(encode(image, "WEBP", lossless=True))) == digest
    assert image_digest(image.convert("RGBA")) == digest
    changed = image.copy()
    changed.putpixel((3, 3), (0, 0, 0))
    assert image_digest(changed) != digest
    # The same bytes in another shape are another image.
    assert image_digest(Image.frombytes("RGB", (2, 8), image.tobytes())) != digest


def test_the_data_package_sees_the_same_pixels(tmp_path):
    stickers = pytest.importorskip("dataset_mod.stickers")
    first, second = frames()
    for content in (
        encode(half_red(), "PNG"),
        encode(half_red("LA"), "PNG"),
        encode(half_red().quantize(4), "PNG"),
        encode(half_red(), "GIF"),
        encode(half_red(), "WEBP"),
        encode(first, "GIF", save_all=True, append_images=[second]),
        encode(first, "JPEG"),
        encode(first.convert("CMYK"), "JPEG"),
        encode(Image.new("I;16", (4, 4), 0x1234), "PNG"),
    ):
        assert image_digest(open_sticker(content)) == image_digest(
            stickers.load_sticker_image(content)
        )


def test_real_stickers_are_seen_alike(shared_dir):
    stickers = pytest.importorskip("dataset_mod.stickers")
    folder = shared_dir / "data" / "moji" / "supplementary" / "meme_set"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/moji")
    paths = sorted(folder.iterdir())[::7]
    assert paths
    for path in paths:
        assert open_sticker(path).tobytes() == stickers.load_sticker_image(path).tobytes()
