# SPDX-License-Identifier: Apache-2.0
"""The "sticker-selection" pipeline: a dialogue and stickers in, a ranking with its reasons out."""

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.pipelines.base import Pipeline

from .processing_cks import is_one_dialogue, read_dialogue
from .ranking import rank
from .sticker_image import image_digest, open_sticker

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".gif", ".jpg", ".jpeg", ".webp", ".bmp")
# Features kept between calls; at D = 768 this many take 48 MiB.
_REMEMBERED_STICKERS = 16_384
_EXPLAINED_UTTERANCES = 3
_ENCODED_A_PASS = 64


@dataclass
class StickerPack:
    """Stickers that are ready to be chosen from: N names, captions and unbiased features.

    Args:
        names: N names, by which answers call them.
        captions: N texts read from or given for the stickers; None where the model reads none.
        embeds: (N, D), on the CPU.
    """

    names: list[str]
    captions: list[str | None]
    embeds: Tensor

    def __len__(self) -> int:
        """Count the stickers."""
        return len(self.names)


class StickerSelectionPipeline(Pipeline):
    """Rank stickers for a dialogue and name the emotion, with the utterances that led there.

    Example:
        ```python
        >>> from transformers import pipeline
        >>> import modeling_cks
        >>> select = pipeline("sticker-selection", model="path/to/cks")  # doctest: +SKIP
        >>> answer = select(["I lost my keys.", "Oh no!"], stickers="stickers/")  # doctest: +SKIP
        >>> answer["stickers"][0]["name"], answer["emotion"]["label"]  # doctest: +SKIP
        ('crying.png', 'sadness')

        ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.eval()
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def save_pretrained(self, save_directory, **kwargs):
        """Save model, processor and code: a folder that `pipeline` loads."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def __call__(self, dialogues, stickers=None, **kwargs):
        """Choose among stickers for one dialogue or for several.

        Args:
            dialogues: a dialogue, which is a list of turns (strings, whose speakers alternate, or
                mappings with `text`, `speaker` 0 or 1, perhaps `sticker`), or a list of them.
            stickers: a folder, a list of files or PIL images, a mapping of names to either, a
                table with an `image` column (and `name` or `id`, `caption`), or a
                [`StickerPack`] from `load_stickers`, which saves the reading.
            captions (`dict[str, str]`, *optional*): texts by sticker name, in the place of OCR.
            top_k (`int`, *optional*): how many stickers to return; all unless given.
            knowledge (`bool`, defaults to `True`): False runs a model trained with knowledge
                without COMET, with some loss of quality.
            explain (`bool`, defaults to `False`): add COMET's inferences for the three most
                emotional utterances.

        Returns:
            For each dialogue `stickers`, best first, each {rank, position, name, score, caption};
            `emotion` {label, score}, given the best sticker, and `emotions`, all of them by
            score (None and [] for a model without the emotion head); `utterances`, each
            {speaker, text, weight, inferences}, the weight None without KEUE.

        Raises:
            ValueError: if a dialogue or a sticker cannot be read.
        """
        if stickers is None:
            raise ValueError("give `stickers` to choose from: a folder, files, images or a table")
        top_k = kwargs.get("top_k")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be a positive integer, not {top_k!r}")
        pack = self.load_stickers(stickers, captions=kwargs.pop("captions", None))
        if is_one_dialogue(dialogues):
            return super().__call__({"dialogue": dialogues}, pack=pack, **kwargs)
        inputs = [{"dialogue": dialogue} for dialogue in dialogues]
        return super().__call__(inputs, pack=pack, **kwargs)

    def load_stickers(self, source, captions: Mapping[str, str] | None = None) -> StickerPack:
        """Read and encode stickers once, to choose from them many times.

        Args:
            source: as `stickers` of a call.
            captions: texts by sticker name, in the place of OCR.

        Raises:
            ValueError: naming the sticker that cannot be read, or if there is none.
        """
        if isinstance(source, StickerPack):
            return source
        names, images, texts = _read_source(source)
        if not names:
            raise ValueError(f"there is no sticker in {source!r}")
        given = dict(captions or {})
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f"captions name stickers that are not there: {', '.join(unknown)}")
        texts = [given.get(name, text) for name, text in zip(names, texts, strict=True)]
        opened = [open_sticker(image) for image in images]
        return StickerPack(names, self._read(opened, texts), self._encode(opened))

    def _read(self, images: Sequence[Image.Image], texts: Sequence[str | None]) -> list[str | None]:
        """Read the images that have no text yet, if the model looks at texts at all."""
        texts = list(texts)
        if self.model.config.use_ocr:
            unread = [place for place, text in enumerate(texts) if text is None]
            read = self.processor.read_text([images[place] for place in unread])
            for place, text in zip(unread, read, strict=True):
                texts[place] = text
        return texts

    @torch.no_grad()
    def _encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode images into unbiased features (N, D), those met before from memory."""
        digests = [image_digest(image) for image in images]
        found = {digest: self._known[digest] for digest in digests if digest in self._known}
        new = {
            digest: image
            for digest, image in zip(digests, images, strict=True)
            if digest not in found
        }
        pending = list(new)
        for start in range(0, len(pending), _ENCODED_A_PASS):
            part = pending[start : start + _ENCODED_A_PASS]
            pixels = self.processor.image_processor(
                images=[new[digest] for digest in part], return_tensors="pt"
            )["pixel_values"]
            embeds = self.model.encode_stickers(pixels.to(self.device, self.model.dtype))
            found.update(zip(part, embeds.cpu(), strict=True))
        for digest in found:
            self._known[digest] = found[digest]
            self._known.move_to_end(digest)
        while len(self._known) > _REMEMBERED_STICKERS:
            self._known.popitem(last=False)
        return torch.stack([found[digest] for digest in digests])

    def _sanitize_parameters(self, pack=None, top_k=None, knowledge=None, explain=None, **kwargs):
        if kwargs:
            raise TypeError(f"sticker-selection takes no argument {sorted(kwargs)[0]!r}")
        before: dict[str, Any] = {}
        after: dict[str, Any] = {}
        if pack is not None:
            before["pack"] = after["pack"] = pack
        if knowledge is not None:
            before["knowledge"] = knowledge
        if top_k is not None:
            after["top_k"] = top_k
        if explain is not None:
            after["explain"] = explain
        return before, {}, after

    def preprocess(self, inputs, pack, knowledge=True):
        """Turn a dialogue and a pack into the model's tensors."""
        turns = read_dialogue(inputs["dialogue"])[-self.processor.max_utterances :]
        config = self.model.config
        wanted = config.use_keue and config.use_knowledge
        if wanted and knowledge:
            # Asked for here, so that a missing COMET says what to do and not what is None.
            _ = self.processor.knowledge_extractor
        tensors = self.processor.encode_dialogues([turns], knowledge=knowledge)
        history = torch.full(tensors["speaker_ids"].shape, -1)
        shown = [place for place, turn in enumerate(turns) if turn["sticker"] is not None]
        embeds, captions = pack.embeds, list(pack.captions)
        if shown:
            images = [open_sticker(turns[place]["sticker"]) for place in shown]
            history[0, shown] = torch.arange(len(shown)) + len(pack)
            embeds = torch.cat([embeds, self._encode(images)])
            captions += self._read(images, [None] * len(images))
        if config.use_ocr:
            tensors.update(self.processor.encode_captions([text or "" for text in captions]))
        tensors["history"] = history
        tensors["sticker_embeds"] = embeds
        tensors["candidates"] = torch.arange(len(pack))[None]
        return {"turns": turns, "tensors": tensors}

    def _forward(self, model_inputs):
        return {"turns": model_inputs["turns"], "output": self.model(**model_inputs["tensors"])}

    def postprocess(self, model_outputs, pack, top_k=None, explain=False):
        """Turn the model's output into a ranking with its reasons."""
        turns, output = model_outputs["turns"], model_outputs["output"]
        scores = output.scores[0].float()
        order = rank(scores).tolist()
        stickers = [
            {
                "rank": number + 1,
                "position": place,
                "name": pack.names[place],
                "score": float(scores[place]),
                "caption": pack.captions[place],
            }
            for number, place in enumerate(order[:top_k])
        ]
        emotions = []
        # On its way here the library makes a plain ModelOutput of it, without what is None.
        logits = output.get("candidate_emotion_logits")
        if logits is not None:
            shares = logits[0, order[0]].float().softmax(-1)
            emotions = [
                {"label": self.model.config.id2label[place], "score": float(shares[place])}
                for place in rank(shares).tolist()
            ]
        weights: list[float | None] = [None] * len(turns)
        if output.get("utterance_weights") is not None:
            weights = output["utterance_weights"][0, : len(turns)].float().tolist()
        utterances = [
            {
                "speaker": turn["speaker"],
                "text": turn["text"],
                "weight": weight,
                "inferences": None,
            }
            for turn, weight in zip(turns, weights, strict=True)
        ]
        if explain:
            self._explain(utterances)
        return {
            "stickers": stickers,
            "emotion": emotions[0] if emotions else None,
            "emotions": emotions,
            "utterances": utterances,
        }

    def _explain(self, utterances: list[dict[str, Any]]) -> None:
        """Add what COMET infers from the most emotional utterances."""
        weighed = sorted(utterances, key=lambda turn: -(turn["weight"] or 0.0))
        chosen = [turn for turn in weighed if turn["text"].strip()][:_EXPLAINED_UTTERANCES]
        inferred = self.processor.knowledge_extractor.infer([turn["text"] for turn in chosen])
        for turn, inferences in zip(chosen, inferred, strict=True):
            turn["inferences"] = inferences


def _read_source(source) -> tuple[list[str], list, list[str | None]]:
    """Return names, images (or files) and captions of any form that stickers come in."""
    if isinstance(source, (str, os.PathLike)):
        return _read_folder(Path(source))
    if isinstance(source, Mapping):
        return list(source), list(source.values()), [None] * len(source)
    columns = getattr(source, "column_names", None)
    if columns is not None:
        if "image" not in columns:
            raise ValueError(f"the table of stickers has no column `image`, only {columns}")
        named = next((column for column in ("name", "id") if column in columns), None)
        count = len(source)
        names = list(source[named]) if named else [str(number) for number in range(count)]
        captions = list(source["caption"]) if "caption" in columns else [None] * count
        return names, list(source["image"]), captions
    if isinstance(source, Sequence):
        names = [
            Path(each).name if isinstance(each, (str, os.PathLike)) else f"sticker {number}"
            for number, each in enumerate(source)
        ]
        return names, list(source), [None] * len(names)
    raise ValueError(f"stickers come as a folder, files, images or a table, not {type(source)}")


def _read_folder(folder: Path) -> tuple[list[str], list, list[str | None]]:
    if not folder.is_dir():
        raise ValueError(f"there is no folder of stickers at {folder}")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if len(images) < len(files):
        logger.warning(
            "%s: %d of %d files are no images and were left out",
            folder,
            len(files) - len(images),
            len(files),
        )
    return [path.name for path in images], images, [None] * len(images)
