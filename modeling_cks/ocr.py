# SPDX-License-Identifier: Apache-2.0
"""Read the words on stickers: OCR engines behind one small interface, and each image once.

An engine has a `name`, the `settings` that its answers depend on, and `read(images)`, which gives
one line of text for each RGB image, "" where there is none.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .sticker_image import image_digest, open_sticker

logger = logging.getLogger(__name__)

OCR_ENGINES = ("rapidocr", "paddleocr", "none")
# Images read between two writings of the cache file.
_SAVE_EVERY = 256
# An engine sees no image that is longer, or more than so many times longer than wide.
_LONGEST_SIDE = 960
_MAX_ASPECT = 4


class MissingOCRError(ValueError):
    """An OCR engine that is asked for is not installed."""


class NoOCR:
    """The engine that reads nothing."""

    name = "none"
    settings: dict = {}

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """Return "" for each image."""
        return [""] * len(images)


class RapidOCR:
    """RapidOCR: PP-OCR models, which come with the package, on ONNX Runtime.

    The defaults were chosen on the 330 stickers of 240 pixels that the project measures on: side
    240 is seven times faster than the package's own 736 and reads as many captions; the box and
    confidence thresholds keep most of the drawings that look like letters out.

    Args:
        min_confidence: lines that are recognised with less are left out.
        params: settings of RapidOCR by their dotted names, over the defaults above.

    Raises:
        MissingOCRError: the package is not installed.
    """

    name = "rapidocr"

    def __init__(self, min_confidence: float = 0.8, params: dict | None = None) -> None:
        _require("rapidocr", "pip install rapidocr onnxruntime")
        self.min_confidence = min_confidence
        self._params = {
            "Det.limit_side_len": 240,
            "Det.box_thresh": 0.6,
            "Global.use_cls": False,
            **(params or {}),
        }
        self.settings = {
            "version": metadata.version("rapidocr"),
            "min_confidence": min_confidence,
            **self._params,
        }
        self._engine = None
        self._lock = threading.Lock()

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """Return the text of each RGB image, its lines in reading order joined by spaces."""
        with self._lock:
            return [self._read(image) for image in images]

    def _read(self, image: Image.Image) -> str:
        if self._engine is None:
            self._engine = self._load()
        found = self._engine(_pixels(image))
        if found.boxes is None or found.txts is None:
            return ""
        return _join(found.boxes, found.txts, found.scores, self.min_confidence)

    def _load(self):
        try:
            import rapidocr
        except ImportError as error:
            raise MissingOCRError(f"rapidocr cannot be imported ({error})") from error
        return rapidocr.RapidOCR(
            params={
                "Global.log_level": "error",  # it warns of every image without text
                "Global.text_score": 0.0,  # the threshold is applied here, for all engines alike
                "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),
                **self._params,
            }
        )


class PaddleOCR:
    """PaddleOCR: PP-OCR models, downloaded by the package or from folders of one's own.

    Args:
        min_confidence: lines that are recognised with less are left out.
        detection_dir: folder of a text detection model (`inference.yml` and the weights, Paddle's
            or ONNX).
        recognition_dir: the same of a text recognition model. Both or neither: without them the
            package downloads its own.
        params: arguments of `paddleocr.PaddleOCR`, over the defaults.

    Raises:
        MissingOCRError: the packages are not installed.
        ValueError: a folder holds no model, or only one of the two is named.
    """

    name = "paddleocr"

    def __init__(
        self,
        min_confidence: float = 0.8,
        detection_dir: str | os.PathLike | None = None,
        recognition_dir: str | os.PathLike | None = None,
        params: dict | None = None,
    ) -> None:
        _require("paddleocr", 'pip install "cks[paddle]"')
        if (detection_dir is None) != (recognition_dir is None):
            raise ValueError("detection_dir and recognition_dir: name both or neither")
        self.min_confidence = min_confidence
        self._params = {
            "text_det_limit_side_len": 240,
            "text_det_limit_type": "min",
            "text_det_box_thresh": 0.6,
            "use_doc_orientation_classify": False,
            "use_doc_unwarping": False,
            "use_textline_orientation": False,
            **_local_model("text_detection", detection_dir),
            **_local_model("text_recognition", recognition_dir),
            **(params or {}),
        }
        self.settings = {
            "version": metadata.version("paddleocr"),
            "min_confidence": min_confidence,
            **self._params,
        }
        self._engine = None
        self._lock = threading.Lock()

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """Return the text of each RGB image, its lines in reading order joined by spaces."""
        with self._lock:
            return [self._read(image) for image in images]

    def _read(self, image: Image.Image) -> str:
        if self._engine is None:
            self._engine = self._load()
        (found,) = self._engine.predict(_pixels(image))
        return _join(
            found["rec_polys"], found["rec_texts"], found["rec_scores"], self.min_confidence
        )

    def _load(self):
        try:
            import paddleocr
        except ImportError as error:
            raise MissingOCRError(
                f'paddleocr cannot be imported ({error}); pip install "cks[paddle]"'
            ) from error
        return paddleocr.PaddleOCR(**self._params)


def build_ocr_engine(name: str = "rapidocr", **options):
    """Return the OCR engine of that name.

    Args:
        name: `rapidocr`, `paddleocr` or `none`.
        **options: the keyword arguments of `RapidOCR` or `PaddleOCR`.

    Raises:
        MissingOCRError: the engine is not installed; the message says what to install.
        ValueError: no such engine.
    """
    engines = {"rapidocr": RapidOCR, "paddleocr": PaddleOCR, "none": NoOCR}
    if name not in engines:
        raise ValueError(f"unknown OCR engine {name!r}; one of {', '.join(OCR_ENGINES)}")
    return engines[name](**options)


class StickerTextReader:
    """Read stickers with an engine, each distinct image once.

    Texts are kept in memory by the image's content and, where asked, in a JSON file that other
    engines and settings may share. Threads may use one reader together.

    Args:
        engine: what `build_ocr_engine` returns.
        cache_path: the JSON file; made when the first texts are read.

    Raises:
        ValueError: there is a file at `cache_path` that is not such a cache.
    """

    def __init__(self, engine, cache_path: str | os.PathLike | None = None) -> None:
        self.engine = engine
        self.cache_path = Path(cache_path) if cache_path is not None else None
        settings = json.dumps(engine.settings, sort_keys=True, default=str)
        self._key = f"{engine.name} {settings}"
        self._texts: dict[str, str] = dict(self._load().get(self._key, {}))
        self._lock = threading.Lock()

    def read(self, images: Sequence[Image.Image]) -> list[str]:
        """Return the text on each image, "" where there is none.

        Args:
            images: PIL images; those that are not RGB are put on white first.
        """
        images = [image if image.mode == "RGB" else open_sticker(image) for image in images]
        digests = [image_digest(image) for image in images]
        with self._lock:
            new = {
                digest: image
                for digest, image in zip(digests, images, strict=True)
                if digest not in self._texts
            }
            pending = list(new)
            for start in range(0, len(pending), _SAVE_EVERY):
                part = pending[start : start + _SAVE_EVERY]
                read = self.engine.read([new[digest] for digest in part])
                self._texts.update(zip(part, read, strict=True))
                self._save()
            return [self._texts[digest] for digest in digests]

    def _load(self) -> dict[str, dict[str, str]]:
        if self.cache_path is None or not self.cache_path.exists():
            return {}
        try:
            held = json.loads(self.cache_path.read_text(encoding="utf-8"))
            if not all(isinstance(texts, dict) for texts in held.values()):
                raise ValueError("no texts by engine and image")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{self.cache_path}: not a cache of sticker texts ({error})") from None
        return held

    def _save(self) -> None:
        if self.cache_path is None:
            return
        # Read again: another process may have added its own since.
        held = self._load()
        self._texts = {**held.get(self._key, {}), **self._texts}
        held[self._key] = self._texts
        self.cache_path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.cache_path.with_name(f".{self.cache_path.name}.{os.getpid()}")
        beside.write_text(json.dumps(held, ensure_ascii=False, indent=1), encoding="utf-8")
        beside.replace(self.cache_path)


def _require(package: str, install: str) -> None:
    # Looked for, not imported: that takes seconds, and a reader may find all it needs in its cache.
    if importlib.util.find_spec(package) is None:
        raise MissingOCRError(
            f"the OCR engine {package!r} is not installed: {install}, choose another engine "
            f"({', '.join(OCR_ENGINES)}), or hand in captions"
        )


def _local_model(kind: str, folder: str | os.PathLike | None) -> dict:
    """Return PaddleOCR's arguments for the model in a folder."""
    if folder is None:
        return {}
    description = Path(folder) / "inference.yml"
    if not description.is_file():
        raise ValueError(f"{folder}: no {kind} model of PaddleOCR (no inference.yml)")
    # One line of a file that PaddleOCR itself reads in full.
    name = re.search(r"^\s*model_name:\s*(\S+)", description.read_text(encoding="utf-8"), re.M)
    if name is None:
        raise ValueError(f"{description}: names no model (model_name)")
    found = {f"{kind}_model_name": name[1], f"{kind}_model_dir": str(folder)}
    if (Path(folder) / "inference.onnx").is_file():
        found["engine"] = "onnxruntime"
    return found


def _pixels(image: Image.Image) -> np.ndarray:
    """Return what an engine sees, blue first as both want it: no large image, and no thin strip.

    Detection blows the shorter side up to its own measure, so a strip would become enormous; it
    is given white below or beside it.
    """
    if max(image.size) > _LONGEST_SIDE:
        image = image.copy()
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    least = max(image.size) // _MAX_ASPECT
    if min(image.size) < least:
        canvas = Image.new("RGB", (max(image.width, least), max(image.height, least)), "white")
        canvas.paste(image)
        image = canvas
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


def _join(boxes, texts, scores, min_confidence: float) -> str:
    """Join the lines that are sure enough, in reading order: rows downwards, then left to right.

    A line belongs to a row if its middle lies within the height of the row's first line.
    """
    lines = []
    for box, text, score in zip(boxes, texts, scores, strict=True):
        if score >= min_confidence and text.strip():
            points = np.asarray(box, dtype=float)
            (left, top), (_, bottom) = points.min(axis=0), points.max(axis=0)
            lines.append(((top + bottom) / 2, top, bottom, left, text))
    lines.sort(key=lambda line: line[0])
    rows: list[list] = []
    for line in lines:
        if rows and rows[-1][0][1] <= line[0] <= rows[-1][0][2]:
            rows[-1].append(line)
        else:
            rows.append([line])
    ordered = (line for row in rows for line in sorted(row, key=lambda line: line[3]))
    return " ".join(" ".join(line[4] for line in ordered).split())
