# SPDX-License-Identifier: Apache-2.0
"""What every baseline is: a module that collates rows, gives a loss, ranks, saves and loads."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from ..evaluation.evaluator import RankerOutput
from ..ocr import StickerTextReader, build_ocr_engine
from ..processing_cks import SPEAKER_TOKENS
from ..training.collator import StickerInventory

_RECORD = "baseline.json"
_WEIGHTS = "model.safetensors"


class Baseline(nn.Module, ABC):
    """A ranker that learns from the same samples, negatives and candidates as CKS.

    A subclass builds its transformers modules in `__init__` from configurations alone, so that a
    saved one is loaded without the checkpoints it came from; its classmethod `build` fills them
    with pretrained weights.

    Args:
        configs: the transformers configurations of its parts, by name.
        tokenizer: knows `[speaker1]` and `[speaker2]` (see [`add_speakers`]).
        image_processor: gives square images of one size.
        emotions: names of the emotions in the order of their class numbers.
        settings: what else `__init__` needs; plain JSON values.
    """

    kind: ClassVar[str]
    """Name on the command line and in saved folders, such as `mmbert`."""
    title: ClassVar[str]
    """Name in tables, such as `MMBERT`."""
    pretrained: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of the parameters that come from checkpoints."""

    def __init__(
        self,
        configs: Mapping[str, PretrainedConfig],
        tokenizer: PreTrainedTokenizerBase,
        image_processor: CLIPImageProcessor,
        emotions: Sequence[str],
        settings: Mapping[str, Any],
    ):
        super().__init__()
        self.configs = dict(configs)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.emotions = list(emotions)
        self.settings = dict(settings)
        self.ocr_cache_path: str | None = None
        self._reader: StickerTextReader | None = None
        self._inventory: StickerInventory | None = None

    @property
    def name(self) -> str:
        """How results call it."""
        return self.title

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @property
    def trains(self) -> bool:
        """Whether any of its parameters learns; otherwise it is judged as it comes."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def inventory(self) -> StickerInventory:
        """The stickers it ranks; ValueError until [`use_stickers`] was called."""
        if self._inventory is None:
            raise ValueError(f"{self.title} has no stickers yet: call use_stickers(data.stickers)")
        return self._inventory

    def use_stickers(self, stickers) -> StickerInventory:
        """Prepare a table of stickers (`id`, `image`, `caption`, `emotion`) for this baseline.

        Raises:
            ValueError: if the table is empty or names a sticker twice.
        """
        self._inventory = StickerInventory(stickers, self)
        self.forget_stickers()
        return self._inventory

    def read_text(self, images: Sequence) -> list[str]:
        """Read the words on stickers without a caption by OCR, once for each distinct image."""
        if not images:
            return []
        if self._reader is None:
            engine = build_ocr_engine(self.settings.get("ocr", "rapidocr"))
            self._reader = StickerTextReader(engine, self.ocr_cache_path)
        return self._reader.read(images)

    def forget_stickers(self) -> None:
        """Drop what was cached of stickers, since the weights that made it may have changed."""

    def train(self, mode: bool = True) -> Baseline:
        """Switch modes; what training is about to change is not kept."""
        if mode:
            self.forget_stickers()
        return super().train(mode)

    @abstractmethod
    def collate(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Turn training rows, each with its `negative`, into what `forward` takes."""

    @abstractmethod
    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Give `loss` and, beside it, the losses it is the sum of, by name."""

    @abstractmethod
    def score(self, rows: Sequence[dict]) -> RankerOutput:
        """Score the candidates of each row; called in evaluation mode, without gradients."""

    def rank(self, rows: Sequence[dict]) -> RankerOutput:
        """Score the candidates of each row, as the evaluation of any ranker asks for it."""
        training = self.training
        if training:
            self.eval()
        try:
            with torch.no_grad():
                return self.score(rows)
        finally:
            if training:
                self.train()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write configuration, tokenizer, image processor and, last, the weights."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.image_processor.save_pretrained(folder / "image_processor")
        record = {
            "kind": self.kind,
            "emotions": self.emotions,
            "settings": self.settings,
            "configs": {part: config.to_dict() for part, config in self.configs.items()},
        }
        (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        weights = {key: value.contiguous() for key, value in self.state_dict().items()}
        beside = folder / f".{_WEIGHTS}"
        save_file(weights, beside, metadata={"format": "pt"})
        beside.replace(folder / _WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Baseline:
        """Load what [`save_pretrained`] wrote, in evaluation mode.

        Raises:
            ValueError: naming the file that is missing, unreadable or of another baseline.
        """
        folder = Path(folder)
        record = read_record(folder)
        if record["kind"] != cls.kind:
            raise ValueError(f"{folder / _RECORD}: holds a {record['kind']}, not a {cls.kind}")
        configs = {part: _config(fields) for part, fields in record["configs"].items()}
        baseline = cls(
            configs,
            AutoTokenizer.from_pretrained(folder / "tokenizer"),
            CLIPImageProcessor.from_pretrained(folder / "image_processor"),
            record["emotions"],
            record["settings"],
        )
        try:
            baseline.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{folder / _WEIGHTS}: cannot be loaded ({reason})") from error
        return baseline.eval()


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read which baseline a folder holds; ValueError naming the file if it holds none."""
    path = Path(folder) / _RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["kind"], record["emotions"], record["settings"], record["configs"]
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; the folder holds no baseline") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a baseline's record ({error})") from error
    return record


def _config(fields: dict[str, Any]) -> PretrainedConfig:
    return AutoConfig.for_model(**fields)


def add_speakers(tokenizer: PreTrainedTokenizerBase, embeddings: nn.Embedding | None = None) -> int:
    """Teach a tokenizer `[speaker1]` and `[speaker2]`; return the number of tokens it knows.

    Where `embeddings` is given, which must have room for the new tokens, each of the new rows
    starts as the mean of the others.
    """
    known = len(tokenizer)
    added = tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                AddedToken(token, special=True, normalized=False) for token in SPEAKER_TOKENS
            ]
        },
        replace_extra_special_tokens=False,
    )
    if embeddings is not None and added:
        with torch.no_grad():
            embeddings.weight[known : known + added] = embeddings.weight[:known].mean(0)
    return len(tokenizer)


def dialogue_tokens(
    tokenizer: PreTrainedTokenizerBase, dialogue: Sequence[Mapping], limit: int
) -> list[int]:
    """Give the newest `limit` tokens of a dialogue, `[speaker1] words [speaker2] words ...`.

    A row's `utterances` end with the turn that the sticker goes with; what is cut off is the
    oldest, so that this turn is always read.
    """
    tokens: list[int] = []
    for turn in reversed(dialogue):
        text = f"{SPEAKER_TOKENS[turn['speaker']]} {turn['text']}"
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"] + tokens
        if len(tokens) >= limit:
            break
    return tokens[-limit:] if limit else []


def pad(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Pad lists of tokens on the right: ids and attention mask, each (B, L)."""
    tensors = [torch.tensor(list(row), dtype=torch.long) for row in rows]
    mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    return pad_sequence(tensors, batch_first=True, padding_value=value), mask


def distinct_stickers(rows: Sequence[dict], inventory: StickerInventory) -> dict[int, int]:
    """Number the stickers that training rows need: place in the inventory to place in the batch."""
    places: dict[int, int] = {}
    for row in rows:
        for sticker in (row["sticker_id"], row["negative"]):
            places.setdefault(inventory.place(sticker), len(places))
    return places


class StickerMemory:
    """What an encoder makes of each sticker, made once for all of them until told to forget.

    Args:
        encode: takes pixels (S, 3, n, n) to a tensor with a row for each of them.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor]):
        self.encode = encode
        self._known: Tensor | None = None

    def forget(self) -> None:
        """Drop it all, as after a change of weights or stickers."""
        self._known = None

    def recall(
        self, inventory: StickerInventory, places: Sequence[int], device: torch.device
    ) -> Tensor:
        """Give the rows of the stickers at `places`, without gradients."""
        if self._known is None:
            with torch.no_grad():
                self._known = torch.cat(
                    [
                        self.encode(inventory.pixel_values(chunk.tolist()).to(device))
                        for chunk in torch.arange(len(inventory)).split(64)
                    ]
                )
        self._known = self._known.to(device)
        return self._known[torch.as_tensor(list(places), dtype=torch.long, device=device)]


class StickerFeatures(nn.Module):
    """CLIP's pooled features of stickers; while CLIP is frozen each sticker is encoded once.

    Args:
        config: of `CLIPVisionModel`.
    """

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.clip = AutoModel.from_config(config)
        self._memory = StickerMemory(self._encode)

    @property
    def frozen(self) -> bool:
        """Whether no parameter of CLIP is trained."""
        return not any(parameter.requires_grad for parameter in self.clip.parameters())

    def forget(self) -> None:
        """Drop the features, as after a change of weights or stickers."""
        self._memory.forget()

    def forward(self, inventory: StickerInventory, places: Sequence[int]) -> Tensor:
        """Give the features (len(places), hidden) of the stickers at `places`."""
        device = next(self.clip.parameters()).device
        if self.training and not self.frozen:
            return self._encode(inventory.pixel_values(places).to(device))
        return self._memory.recall(inventory, places, device)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.clip(pixel_values=pixels).pooler_output


def emotion_targets(rows: Sequence[dict]) -> Tensor:
    """Give the emotion labels (B,), -100 where unlabelled."""
    return torch.tensor([-100 if row["emotion"] < 0 else row["emotion"] for row in rows])
