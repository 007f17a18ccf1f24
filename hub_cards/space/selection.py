# SPDX-License-Identifier: Apache-2.0
"""What the page asks of the model: packs made ready once, rankings, inferences, moves."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chat import Dialogue, Sticker
from PIL import Image
from transformers import pipeline
from uploads import open_picture

logger = logging.getLogger(__name__)

PACK = Path(__file__).resolve().parent / "pack"
# Stickers are shown at 80 pixels at most; screens may draw two for one.
_SHOWN_EDGE = 160


@dataclass(frozen=True, eq=False)
class Pack:
    """Stickers to choose from, and what the pipeline made of them, to rank them many times."""

    title: str
    stickers: tuple[Sticker, ...]
    ready: object


@dataclass(frozen=True, eq=False)
class Answer:
    """A ranking of a pack for a dialogue; `weights` has a number for each turn, or None."""

    dialogue: Dialogue
    pack: Pack
    ranked: tuple[dict, ...]
    emotions: tuple[dict, ...]
    weights: tuple[float | None, ...]
    seconds: float


@dataclass(frozen=True)
class Move:
    """Where a sticker stood before and where it stands after; ranks count from 1."""

    sticker: Sticker
    before: int
    after: int
    score_before: float
    score_after: float

    @property
    def up(self) -> int:
        """By how many places it rose; negative where it fell."""
        return self.before - self.after


class Selector:
    """The model with its pipeline, shared by all visitors, one question at a time.

    Args:
        model: a folder or a name on the Hub.

    Raises:
        OSError, ValueError: it cannot be loaded.
    """

    def __init__(self, model: str) -> None:
        self.name = Path(model).name if Path(model).is_dir() else model
        # The checkpoint brings its own code, so this page needs no other package.
        self._select = pipeline("sticker-selection", model=model, trust_remote_code=True)
        self._lock = threading.Lock()
        config = self._select.model.config
        self._takes_knowledge = bool(config.use_keue and config.use_knowledge)
        self.has_comet = self._takes_knowledge and self._load_comet()
        self.parameters = self._select.model.num_parameters()

    def _load_comet(self) -> bool:
        try:
            return self._select.processor.knowledge_extractor is not None
        except ValueError as error:
            logger.warning("the model runs without its COMET: %s", error)
            return False

    @property
    def comet_note(self) -> str:
        """Say in a sentence why there are no inferences; empty where there are."""
        if self.has_comet:
            return ""
        if self._takes_knowledge:
            return "This model’s COMET cannot be loaded: it ranks without, a little less well."
        return "This model has no COMET, so nothing is inferred."

    def bundled_pack(self) -> Pack:
        """Load the drawn pack that lies beside this file."""
        index = json.loads((PACK / "pack.json").read_text(encoding="utf-8"))["stickers"]
        pictures, alts, captions = {}, {}, {}
        for one in index:
            name = Path(one["file"]).stem
            pictures[name] = open_picture((PACK / one["file"]).read_bytes())
            alts[name], captions[name] = one["alt"], one["caption"]
        return self.make_pack("Drawn faces", pictures, alts, captions)

    def make_pack(
        self,
        title: str,
        pictures: Mapping[str, Image.Image],
        alts: Mapping[str, str] | None = None,
        captions: Mapping[str, str] | None = None,
    ) -> Pack:
        """Read and encode stickers once.

        Args:
            title: what the page calls them.
            pictures: RGB pictures by name.
            alts: what they show, by name; their names unless given.
            captions: the words on them, by name; OCR reads them unless given.
        """
        with self._lock:
            ready = self._select.load_stickers(dict(pictures), captions=captions)
        stickers = tuple(
            Sticker(name, (alts or {}).get(name, name), image, _data_uri(image))
            for name, image in pictures.items()
        )
        return Pack(title, stickers, ready)

    def rank(self, dialogue: Dialogue, pack: Pack) -> Answer:
        """Rank a pack for the last turn of a dialogue, whose own sticker is the question."""
        turns = [
            {
                "speaker": turn.speaker,
                "text": turn.text,
                "sticker": turn.sticker.image if turn.sticker else None,
            }
            for turn in dialogue
        ]
        turns[-1]["sticker"] = None
        start = time.perf_counter()
        with self._lock:
            found = self._select(
                turns, stickers=pack.ready, knowledge=self.has_comet or not self._takes_knowledge
            )
        seconds = time.perf_counter() - start
        weights = [one["weight"] for one in found["utterances"]]
        # The model may look at the newest turns alone.
        weights = [None] * (len(dialogue) - len(weights)) + weights
        return Answer(
            dialogue, pack, tuple(found["stickers"]), tuple(found["emotions"]), tuple(weights),
            seconds,
        )  # fmt: skip

    def infer(self, texts: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return by text what COMET infers, {relation: words}; nothing where there is none."""
        texts = list(dict.fromkeys(texts))
        if not self.has_comet or not texts:
            return {}
        with self._lock:
            inferred = self._select.processor.knowledge_extractor.infer(texts)
        return dict(zip(texts, inferred, strict=True))


def moves(before: Answer, after: Answer) -> list[Move]:
    """Compare two rankings of one pack, in the order of the second."""
    stood = {one["position"]: one for one in before.ranked}
    return [
        Move(
            after.pack.stickers[one["position"]],
            stood[one["position"]]["rank"],
            one["rank"],
            stood[one["position"]]["score"],
            one["score"],
        )
        for one in after.ranked
    ]


def _data_uri(image: Image.Image) -> str:
    shown = image.copy()
    shown.thumbnail((_SHOWN_EDGE, _SHOWN_EDGE))
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
