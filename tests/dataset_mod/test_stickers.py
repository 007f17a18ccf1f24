# SPDX-License-Identifier: Apache-2.0
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from release_files import picture

from dataset_mod.stickers import MAX_PIXELS, StickerImageError, load_sticker_image, png_bytes


def saved(image, format, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def noise(mode, size=(40, 30), seed=0):
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), np.uint8)
    return Image.fromarray(values.squeeze(), mode)


def huge_png(width, height) -> bytes:
    """A PNG of a few bytes that claims to be of this size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(mode):
    image = noise(mode)
    found = np.asarray(load_sticker_image(saved(image, "PNG"))).astype(int)
    values = np.asarray(image.convert("RGBA")).astype(float)
    alpha = values[..., 3:] / 255
    expected = values[..., :3] * alpha + 255 * (1 - alpha)
    assert found.shape == (30, 40, 3)
    assert np.abs(found - expected).max() <= 1
    # Not vacuous: forgetting the alpha gives another picture.
    assert np.abs(values[..., :3] - expected).max() > 200


def test_a_palette_with_a_transparent_colour_shows_white():
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 1), 1)
    for format in ("GIF", "PNG"):
        found = load_sticker_image(saved(image, format, transparency=0))
        assert found.mode == "RGB"
        assert found.getpixel((0, 0)) == (255, 255, 255)
        assert found.getpixel((1, 1)) == (200, 100, 50)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    content = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert load_sticker_image(content).getcolors() == [(64, (255, 0, 0))]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK"])
def test_other_modes_become_rgb(mode):
    image = Image.new(mode, (4, 4))
    content = saved(image, "JPEG" if mode == "CMYK" else "PNG")
    assert load_sticker_image(content).getcolors() == [(16, image.convert("RGB").getpixel((0, 0)))]


def test_a_path_and_its_content_are_the_same_image(tmp_path):
    path = tmp_path / "a.webp"
    path.write_bytes(saved(noise("RGBA"), "WEBP"))
    one, other = load_sticker_image(path), load_sticker_image(path.read_bytes())
    assert one.tobytes() == other.tobytes()
    assert load_sticker_image(png_bytes(one)).tobytes() == one.tobytes()


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused_by_name(tmp_path, format, part):
    content = saved(noise("RGB"), format)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(StickerImageError, match=rf"cut.{format.lower()}: ") as caught:
        load_sticker_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [5_000, 30_000, 100_000])
def test_a_bomb_is_refused_by_name_before_it_is_decoded(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(side, side))
    assert side * side > MAX_PIXELS
    with pytest.raises(StickerImageError, match="bomb.png: too large to be a sticker"):
        load_sticker_image(path)


def test_other_files_are_refused_by_name(tmp_path):
    for name, content in {
        "text.png": b"hello",
        "drawing.gif": b"<svg/>",
        "other.png": picture("red", format="TIFF"),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StickerImageError, match=f"{name}: not a GIF, JPEG, PNG or WebP"):
            load_sticker_image(tmp_path / name)
    with pytest.raises(StickerImageError, match=r"img7: not a GIF"):
        load_sticker_image(b"hello", name="img7")
    with pytest.raises(FileNotFoundError):
        load_sticker_image(tmp_path / "nothing.png")
