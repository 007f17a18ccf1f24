# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from modeling_cks import ocr
from modeling_cks.ocr import (
    MissingOCRError,
    NoOCR,
    StickerTextReader,
    _join,
    build_ocr_engine,
)
from modeling_cks.sticker_image import open_sticker

ROOT = Path(__file__).resolve().parents[2]


def draw(*lines, size=(240, 240), points=28):
    """A face without features, and lines of text (left, top, text) over it."""
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((70, 60, 170, 160), fill=(250, 200, 60), outline=(120, 80, 0))
    for left, top, text in lines:
        pen.text((left, top), text, fill="black", font=ImageFont.load_default(points))
    return image


class Fake:
    """An engine that says an image's first pixel, and remembers what it was shown."""

    name = "fake"

    def __init__(self, **settings):
        self.settings = settings
        self.shown = []

    def read(self, images):
        self.shown += images
        return ["-".join(map(str, image.getpixel((0, 0)))) for image in images]


def plain(*colour):
    return Image.new("RGB", (4, 4), colour)


# ---- the engines


@pytest.fixture(scope="module")
def rapid():
    pytest.importorskip("rapidocr")
    return build_ocr_engine()


def test_rapidocr_reads_lines_in_order(rapid):
    images = [
        draw((60, 195, "good night")),
        draw(),
        draw((60, 10, "first line"), (60, 200, "second")),
        draw((140, 198, "right"), (20, 200, "left")),
    ]
    assert rapid.name == "rapidocr"
    assert rapid.read(images) == ["good night", "", "first line second", "left right"]


def test_rapidocr_leaves_out_what_it_is_not_sure_of(rapid):
    image = draw((60, 195, "good night"))
    assert rapid.read([image]) == ["good night"]
    strict = build_ocr_engine("rapidocr", min_confidence=1.1)
    assert strict.read([image]) == [""]
    assert strict.settings != rapid.settings


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (700, 2), (33, 33), (4000, 4000), (4096, 1)])
def test_rapidocr_takes_any_size(rapid, size):
    assert rapid.read([Image.new("RGB", size, "white")]) == [""]


def test_what_an_engine_sees_is_never_large_nor_a_strip():
    for size, want in [
        ((240, 240), (240, 240)),
        ((4000, 2000), (960, 480)),
        ((4096, 1), (960, 240)),
        ((2, 700), (175, 700)),
        ((90, 300), (90, 300)),
    ]:
        pixels = ocr._pixels(Image.new("RGB", size, (1, 2, 3)))
        assert (pixels.shape[1], pixels.shape[0]) == want
        assert pixels[0, 0].tolist() == [3, 2, 1]  # blue first
    assert ocr._pixels(Image.new("RGB", (2, 700), (1, 2, 3)))[-1, -1].tolist() == [255] * 3


def test_large_stickers_and_banners_are_read_too(rapid):
    large = draw((60, 195, "good night")).resize((1600, 1600))
    banner = draw((20, 4, "good night"), size=(700, 40))
    assert rapid.read([large, banner]) == ["good night", "good night"]


def test_rapidocr_takes_settings_of_its_own(rapid):
    blind = build_ocr_engine("rapidocr", params={"Det.box_thresh": 0.999})
    assert blind.settings["Det.box_thresh"] == 0.999 and rapid.settings["Det.box_thresh"] < 0.9
    assert blind.read([draw((60, 195, "good night"))]) == [""]


def test_rapidocr_on_real_stickers(rapid, shared_dir):
    folder = shared_dir / "data" / "moji" / "supplementary" / "meme_set"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/moji")
    want = {
        "angry-noto.png": "not happy",
        "angry-fluentflat.webp": "",
        "mind-blown-openmoji.jpg": "mind blown",
        "pouting-cat-twemoji.gif": "go away",
        "anguished-fluent.png": "",
        "heart-eyes-fluentflat.webp": "wow so pretty",
    }
    assert rapid.read([open_sticker(folder / name) for name in want]) == list(want.values())


def paddle_models(folder):
    """Lay out the models that come with rapidocr as PaddleOCR wants its own."""
    onnxruntime = pytest.importorskip("onnxruntime")
    rapidocr = pytest.importorskip("rapidocr")
    models = Path(rapidocr.__file__).parent / "models"
    kinds = {
        "det": "PreProcess:\n  transform_ops:\n"
        "  - DecodeImage: {channel_first: false, img_mode: BGR}\n"
        "  - DetResizeForTest: {resize_long: 960}\n"
        "  - NormalizeImage: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], order: hwc,\n"
        "      scale: 1./255.}\n"
        "  - ToCHWImage: null\n"
        "  - KeepKeys: {keep_keys: [image, shape]}\n"
        "PostProcess: {name: DBPostProcess, thresh: 0.3, box_thresh: 0.6,\n"
        "  max_candidates: 1000, unclip_ratio: 1.5}\n",
        "rec": "PreProcess:\n  transform_ops:\n"
        "  - DecodeImage: {channel_first: false, img_mode: BGR}\n"
        "  - RecResizeImg: {image_shape: [3, 48, 320]}\n"
        "  - KeepKeys: {keep_keys: [image]}\n"
        "PostProcess:\n  name: CTCLabelDecode\n  character_dict: ",
    }
    for kind, description in kinds.items():
        weights = models / f"PP-OCRv6_{kind}_small.onnx"
        if not weights.is_file():
            pytest.skip("this rapidocr brings other models")
        (folder / kind).mkdir(parents=True)
        (folder / kind / "inference.onnx").symlink_to(weights)
        if kind == "rec":
            session = onnxruntime.InferenceSession(weights)
            characters = session.get_modelmeta().custom_metadata_map["character"].splitlines()
            description += json.dumps(characters) + "\n"  # JSON is YAML
        name = f"Global:\n  model_name: PP-OCRv6_small_{kind}\n"
        (folder / kind / "inference.yml").write_text(name + description, encoding="utf-8")
    return folder / "det", folder / "rec"


def test_paddleocr_reads_with_models_from_folders(tmp_path):
    pytest.importorskip("paddleocr")
    paddle_models(tmp_path / "models")
    draw((60, 195, "good night")).save(tmp_path / "0.png")
    Image.new("RGB", (240, 240), "white").save(tmp_path / "1.png")
    draw((140, 198, "right"), (20, 200, "left")).save(tmp_path / "2.png")
    # In a process of its own: its packages set up logging and signal handlers for all.
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from modeling_cks.ocr import build_ocr_engine\n"
        "from modeling_cks.sticker_image import open_sticker\n"
        "folder = Path(sys.argv[1])\n"
        "engine = build_ocr_engine('paddleocr', detection_dir=folder / 'models' / 'det',\n"
        "    recognition_dir=folder / 'models' / 'rec', params={'device': 'cpu'})\n"
        "assert engine.name == 'paddleocr'\n"
        "print(json.dumps(engine.read([open_sticker(folder / f'{i}.png') for i in range(3)])))\n"
    )
    environment = {
        **os.environ,
        "PADDLE_PDX_CACHE_HOME": str(tmp_path / "cache"),
        "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ["good night", "", "left right"]


def test_paddleocr_downloads_its_models_unless_folders_are_named(monkeypatch, tmp_path):
    """What reaches the package: by default no folder, so that it takes its own models."""
    calls = []

    class Engine:
        def __init__(self, **arguments):
            calls.append(arguments)

        def predict(self, pixels):
            assert pixels.shape == (4, 4, 3) and pixels[0, 0].tolist() == [3, 2, 1]  # BGR
            box = [[0, 0], [9, 0], [9, 9], [0, 9]]
            return [{"rec_polys": [box], "rec_texts": ["hi"], "rec_scores": [0.9]}]

    module = type(sys)("paddleocr")
    module.PaddleOCR = Engine
    monkeypatch.setitem(sys.modules, "paddleocr", module)
    monkeypatch.setattr(ocr.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ocr.metadata, "version", lambda name: "3")
    assert build_ocr_engine("paddleocr").read([plain(1, 2, 3)]) == ["hi"]
    assert not [name for name in calls[0] if name.endswith(("_dir", "_name")) or name == "engine"]
    for kind in ("det", "rec"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "inference.yml").write_text(f"Global:\n  model_name: my_{kind}\n")
    folders = {"detection_dir": tmp_path / "det", "recognition_dir": tmp_path / "rec"}
    build_ocr_engine("paddleocr", **folders, params={"device": "cpu"}).read([plain(1, 2, 3)])
    assert calls[1]["text_detection_model_name"] == "my_det"
    assert calls[1]["text_recognition_model_dir"] == str(tmp_path / "rec")
    assert calls[1]["device"] == "cpu" and "engine" not in calls[1]  # no ONNX file in it
    with pytest.raises(ValueError, match="both or neither"):
        build_ocr_engine("paddleocr", detection_dir=tmp_path / "det")
    with pytest.raises(ValueError, match=r"nowhere: no text_recognition model.*no inference.yml"):
        build_ocr_engine("paddleocr", **{**folders, "recognition_dir": tmp_path / "nowhere"})
    (tmp_path / "rec" / "inference.yml").write_text("Global: {}\n")
    with pytest.raises(ValueError, match=r"inference\.yml: names no model"):
        build_ocr_engine("paddleocr", **folders)


def test_a_missing_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ocr.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingOCRError, match=r"'paddleocr' is not.*pip install \"cks\[paddle\]\""):
        build_ocr_engine("paddleocr")
    with pytest.raises(MissingOCRError, match="'rapidocr' is not.*pip install rapidocr"):
        build_ocr_engine("rapidocr")
    with pytest.raises(ValueError, match="unknown OCR engine 'tesseract'.*rapidocr, paddleocr"):
        build_ocr_engine("tesseract")
    assert build_ocr_engine("none").read([plain(0, 0, 0)] * 2) == ["", ""]


def test_importing_and_building_load_no_engine():
    code = (
        "import sys\n"
        "from modeling_cks.ocr import build_ocr_engine, StickerTextReader\n"
        "StickerTextReader(build_ocr_engine('rapidocr'))\n"
        "loaded = {'rapidocr', 'onnxruntime', 'cv2', 'paddleocr', 'paddlex'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )
    pytest.importorskip("rapidocr")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# ---- reading order


def box(left, top, width=40, height=20):
    return [
        [left, top],
        [left + width, top],
        [left + width, top + height],
        [left, top + height],
    ]


def test_lines_are_joined_in_reading_order():
    lines = {
        "a": box(10, 12),
        "b": box(60, 5),  # of the same row, though it begins higher
        "c": box(120, 14, height=30),
        "d": box(0, 60),
        "e": box(100, 55),
        "f": box(50, 90),
    }
    names = list(lines)
    for order in (names, names[::-1], ["e", "c", "f", "a", "d", "b"]):
        boxes = np.array([lines[name] for name in order])
        assert _join(boxes, order, [1.0] * 6, 0.5) == "a b c d e f"


def test_a_staircase_is_not_one_row():
    # Each overlaps the next, but the third's middle is below the first, where a row ends.
    boxes = [box(60 * i, 8 * i) for i in range(5)]
    assert _join(boxes[::-1], list("edcba"), [1.0] * 5, 0.5) == "a b c d e"
    right_to_left = [box(240 - 60 * i, 8 * i) for i in range(4)]
    assert _join(right_to_left, list("abcd"), [1.0] * 4, 0.5) == "b a d c"


def test_unsure_and_empty_lines_are_left_out():
    boxes = [box(0, 0), box(0, 30), box(0, 60), box(0, 90)]
    texts = ["sure", "unsure", "  ", " two   words "]
    assert _join(boxes, texts, [0.8, 0.79, 1.0, 0.9], 0.8) == "sure two words"
    assert _join([], [], [], 0.8) == ""


# ---- each image once


def test_each_distinct_image_is_read_once():
    engine = Fake()
    reader = StickerTextReader(engine)
    red, blue = plain(255, 0, 0), plain(0, 0, 255)
    assert reader.read([red, blue, red.copy()]) == ["255-0-0", "0-0-255", "255-0-0"]
    assert reader.read([blue, plain(0, 1, 0)]) == ["0-0-255", "0-1-0"]
    assert len(engine.shown) == 3
    assert reader.read([]) == []


def test_what_is_not_rgb_is_put_on_white():
    engine = Fake()
    assert StickerTextReader(engine).read([Image.new("RGBA", (4, 4), (9, 9, 9, 0))]) == [
        "255-255-255"
    ]
    assert engine.shown[0].mode == "RGB"


def test_the_file_outlives_the_reader(tmp_path):
    path = tmp_path / "cache" / "texts.json"
    StickerTextReader(Fake(a=1), path).read([plain(1, 1, 1), plain(2, 2, 2)])
    again = Fake(a=1)
    assert StickerTextReader(again, path).read([plain(2, 2, 2)]) == ["2-2-2"]
    assert not again.shown
    # Another setting or engine reads for itself, and both are kept.
    other = Fake(a=2)
    StickerTextReader(other, path).read([plain(2, 2, 2)])
    assert len(other.shown) == 1
    assert StickerTextReader(NoOCR(), path).read([plain(2, 2, 2)]) == [""]
    third = Fake(a=1)
    StickerTextReader(third, path).read([plain(1, 1, 1), plain(2, 2, 2)])
    assert not third.shown
    assert [entry.name for entry in path.parent.iterdir()] == ["texts.json"]


def test_two_readers_of_one_file_keep_each_others_texts(tmp_path):
    path = tmp_path / "texts.json"
    one, other = StickerTextReader(Fake(), path), StickerTextReader(Fake(), path)
    one.read([plain(1, 1, 1)])
    other.read([plain(2, 2, 2)])
    last = Fake()
    StickerTextReader(last, path).read([plain(1, 1, 1), plain(2, 2, 2)])
    assert not last.shown


def test_a_failure_keeps_what_was_read_and_never_spoils_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(ocr, "_SAVE_EVERY", 2)
    path = tmp_path / "texts.json"

    class Failing(Fake):
        def read(self, images):
            if any(image.getpixel((0, 0)) == (5, 5, 5) for image in images):
                raise RuntimeError("the engine broke")
            return super().read(images)

    images = [plain(i, i, i) for i in range(7)]
    with pytest.raises(RuntimeError):
        StickerTextReader(Failing(), path).read(images)
    whole = Fake()
    assert StickerTextReader(whole, path).read(images)[6] == "6-6-6"
    assert len(whole.shown) == 3  # of 0..6, the first two pairs were kept
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        StickerTextReader(Fake(), path).read([plain(9, 9, 9)])
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"rapidocr": "text"}', '"text"'])
def test_a_file_that_is_no_cache_is_named_and_kept(tmp_path, content):
    path = tmp_path / "notes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"notes\.json: not a cache of sticker texts"):
        StickerTextReader(Fake(), path)
    assert path.read_text() == content


def test_threads_share_a_reader(tmp_path):
    engine = Fake()
    reader = StickerTextReader(engine, tmp_path / "texts.json")
    images = [plain(i % 20, 0, 0) for i in range(60)]
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(reader.read(images))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[f"{i % 20}-0-0" for i in range(60)]] * 6
    assert len(engine.shown) == 20
