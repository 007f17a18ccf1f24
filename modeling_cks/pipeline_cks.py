# SPDX-License-Identifier: Apache-2.0
"""The "sticker-selection" pipeline: a dialogue and stickers in, a ranking with its reasons out."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.pipelines.base import Pipeline

from .conversation import Conversation
from .processing_cks import is_one_dialogue, read_dialogue
from .ranking import rank
from .sticker_image import image_digest, open_sticker
from .sticker_pack import StickerPack, join_words

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".gif", ".jpg", ".jpeg", ".webp", ".bmp")
# Features kept between calls; at D = 768 this many take 48 MiB.
_REMEMBERED_STICKERS = 16_384
_EXPLAINED_UTTERANCES = 3
_ENCODED_A_PASS = 32
_CANDIDATES = 100


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
                mappings with `text`, `speaker` 0 or 1, perhaps `sticker`: a file, an image, or the
                name of one of the stickers to choose from), or a list of them.
            stickers: a folder, a list of files or PIL images, a mapping of names to either, a
                table with an `image` column (and `name` or `id`, `caption`), a [`StickerPack`]
                from `load_stickers`, which saves the reading, or a [`StickerIndex`], of which the
                nearest `candidates` are ranked.
            captions (`dict[str, str]`, *optional*): texts by sticker name, in the place of OCR.
            top_k (`int`, *optional*): how many stickers to return; all unless given.
            knowledge (`bool`, defaults to `True`): False runs a model trained with knowledge
                without COMET, with some loss of quality.
            explain (`bool`, defaults to `False`): add COMET's inferences for the three most
                emotional utterances.
            match_best (`int`, *optional*): a shortcut that is not exact: the multimodal encoder
                judges only so many stickers, the best by contrast; the others follow, in
                contrast's order, with scores below zero.
            candidates (`int`, defaults to 100): how many stickers of an index are ranked;
                contrast's share is then one among these.
            packs (`list[str]`, *optional*): choose among these packs of an index.

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
        _check_counts(kwargs)
        source = self._source(stickers, kwargs.pop("captions", None))
        if is_one_dialogue(dialogues):
            return super().__call__({"dialogue": dialogues}, source=source, **kwargs)
        inputs = [{"dialogue": dialogue} for dialogue in dialogues]
        return super().__call__(inputs, source=source, **kwargs)

    def conversation(
        self,
        stickers,
        captions: Mapping[str, str] | None = None,
        knowledge: bool = True,
        match_best: int | None = None,
        candidates: int = _CANDIDATES,
        packs: Sequence[str] | None = None,
    ) -> Conversation:
        """Begin a chat whose turns are read once each; arguments as those of a call.

        Raises:
            ValueError: if a sticker cannot be read.
        """
        options = {"match_best": match_best, "candidates": candidates, "packs": packs}
        _check_counts(options)
        return Conversation(self, self._source(stickers, captions), knowledge, options)

    def pack_linear_maps(self, precision: str = "float32") -> None:
        """Make answers on this processor faster; see [`~cpu_inference.pack_linear_maps`].

        Exact in float32; "bfloat16" and "int8" are shortcuts that are not. The pipeline can then
        be neither trained nor saved. Call it before conversations begin: they keep what they read.
        """
        from .cpu_inference import pack_linear_maps

        pack_linear_maps(self.model, self.processor, precision)
        self._known.clear()

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

    def _source(self, stickers, captions: Mapping[str, str] | None):
        """Return what a call chooses from: a pack, or an index that gives packs."""
        if not hasattr(stickers, "nearest"):
            return self.load_stickers(stickers, captions)
        if captions:
            raise ValueError("the captions of an index are those that were added with its stickers")
        stickers.check_model(self.model)
        return stickers

    def shown_stickers(
        self, turns: Sequence[Mapping[str, Any]], source
    ) -> list[tuple[str | None, Tensor] | None]:
        """Return for each turn the text and the feature (D,) of the sticker it carries, or None.

        A string that names one of the stickers to choose from means that one.
        """
        shown: list[tuple[str | None, Tensor] | None] = [None] * len(turns)
        unread = []
        for number, turn in enumerate(turns):
            sticker = turn["sticker"]
            if isinstance(sticker, str):
                shown[number] = _named(sticker, source)
            if sticker is not None and shown[number] is None:
                unread.append(number)
        if unread:
            images = [_open_shown(turns[number]["sticker"], number) for number in unread]
            texts = self._read(images, [None] * len(images))
            for number, text, embed in zip(unread, texts, self._encode(images), strict=True):
                shown[number] = (text, embed)
        return shown

    def dialogue_tensors(
        self,
        dialogues: Sequence[Sequence[Mapping[str, Any]]],
        knowledge: bool | Callable[[Sequence[str]], Tensor] = True,
        features: Callable[[Sequence[tuple[int, str]]], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Read B dialogues; arguments as those of [`CKSProcessor.encode_dialogues`]."""
        config = self.model.config
        wanted = config.use_keue and config.use_knowledge
        if wanted and knowledge:
            # Asked for here, so that a missing COMET says what to do and not what is None.
            _ = self.processor.knowledge_extractor
        elif not wanted:
            knowledge = False
        tensors = self.processor.encode_dialogues(dialogues, knowledge=knowledge, features=features)
        if not wanted:
            del tensors["knowledge"]
        return tensors

    def choose(
        self,
        dialogues: Sequence[Sequence[Mapping[str, Any]]],
        source,
        knowledge: bool | Callable[[Sequence[str]], Tensor] = True,
        features: Callable[[Sequence[tuple[int, str]]], Tensor] | None = None,
        shown: Sequence[Sequence[tuple[str | None, Tensor] | None]] | None = None,
        top_k: int | None = None,
        explain: bool = False,
        match_best: int | None = None,
        candidates: int = _CANDIDATES,
        packs: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Choose for B dialogues at once, in one pass of the model.

        Args:
            dialogues: B lists of {speaker, text, sticker}, none longer than `max_utterances`.
            source: a pack or an index.
            knowledge, features: as those of [`CKSProcessor.encode_dialogues`].
            shown: what `shown_stickers` returns for each dialogue, where it is known.
            top_k, explain, match_best, candidates, packs: as those of a call.

        Returns:
            The answers of B calls.
        """
        with torch.inference_mode(), self.device_placement():
            given = self._prepare(dialogues, source, knowledge, features, shown, candidates, packs)
            tensors = {name: value.to(self.device) for name, value in given["tensors"].items()}
            output = self.model(**tensors, match_best=match_best)
        return [
            self._answer(turns, pack, output, row, top_k, explain)
            for row, (turns, pack) in enumerate(zip(dialogues, given["packs"], strict=True))
        ]

    def _prepare(
        self, dialogues, source, knowledge, features, shown, candidates, packs
    ) -> dict[str, Any]:
        """Make the model's tensors, and the pack from which each dialogue chooses."""
        tensors = self.dialogue_tensors(dialogues, knowledge, features)
        if shown is None:
            shown = [self.shown_stickers(turns, source) for turns in dialogues]
        earlier = [each for row in shown for each in row if each is not None]
        if isinstance(source, StickerPack):
            distinct, chosen = [source], [source] * len(dialogues)
        else:
            found = self._nearest(tensors, shown, source, candidates, packs)
            distinct = chosen = found
        sizes = [len(pack) for pack in distinct]
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        width = max(sizes)
        places = torch.full((len(dialogues), width), -1)
        for row, pack in enumerate(chosen):
            start = starts[row] if len(distinct) > 1 else 0
            places[row, : len(pack)] = torch.arange(start, start + len(pack))
        tensors["candidates"] = places
        tensors["history"] = self._history(shown, tensors["speaker_ids"].shape, sum(sizes))
        parts = [pack.embeds for pack in distinct]
        if earlier:
            parts.append(torch.stack([embed for _, embed in earlier]))
        tensors["sticker_embeds"] = torch.cat(parts) if len(parts) > 1 else parts[0]
        if self.model.config.use_ocr:
            words = [pack.words(self.processor) for pack in distinct]
            if earlier:
                words.append(self.processor.encode_captions([text or "" for text, _ in earlier]))
            tensors.update(join_words(words))
        return {"tensors": tensors, "packs": chosen}

    @staticmethod
    def _history(shown, shape: tuple[int, int], start: int) -> Tensor:
        """Number the earlier turns' stickers from `start` on, in the order of the turns."""
        history = torch.full(shape, -1)
        for row, turns in enumerate(shown):
            for column, each in enumerate(turns):
                if each is not None:
                    history[row, column] = start
                    start += 1
        return history

    def _nearest(self, tensors, shown, index, candidates: int, packs) -> list[StickerPack]:
        """Encode the dialogues and let the index find what lies nearest to each."""
        model = self.model
        on_device = {
            name: value.to(self.device) for name, value in tensors.items() if "dialogue" not in name
        }
        if "utterance_embeds" not in on_device:
            # Kept, so that the utterances are encoded once.
            tensors["utterance_embeds"] = on_device["utterance_embeds"] = model.encode_utterances(
                on_device["utterance_input_ids"], on_device["utterance_attention_mask"]
            )
        history = self._history(shown, tensors["speaker_ids"].shape, 0).to(self.device)
        earlier = [each[1] for row in shown for each in row if each is not None]
        knowledge = on_device.get("knowledge")
        embeds, _ = model.encode_dialogue(
            on_device["utterance_embeds"].to(model.dtype),
            on_device["utterances"],
            on_device["speaker_ids"],
            None if knowledge is None else knowledge.to(model.dtype),
            history if earlier else None,
            torch.stack(earlier).to(self.device, model.dtype) if earlier else None,
        )
        return index.nearest(embeds.float().cpu(), candidates, packs)

    def _sanitize_parameters(
        self,
        source=None,
        top_k=None,
        knowledge=None,
        explain=None,
        match_best=None,
        candidates=None,
        packs=None,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"sticker-selection takes no argument {sorted(kwargs)[0]!r}")
        before = {
            "source": source, "knowledge": knowledge, "candidates": candidates, "packs": packs
        }  # fmt: skip
        after = {"top_k": top_k, "explain": explain}
        return (
            {name: value for name, value in before.items() if value is not None},
            {} if match_best is None else {"match_best": match_best},
            {name: value for name, value in after.items() if value is not None},
        )

    def preprocess(self, inputs, source, knowledge=True, candidates=_CANDIDATES, packs=None):
        """Turn a dialogue, and the stickers to choose from, into the model's tensors."""
        turns = read_dialogue(inputs["dialogue"])[-self.processor.max_utterances :]
        with torch.inference_mode():
            given = self._prepare([turns], source, knowledge, None, None, candidates, packs)
        return {"turns": turns, "pack": given["packs"][0], "tensors": given["tensors"]}

    def _forward(self, model_inputs, match_best=None):
        return {
            "turns": model_inputs["turns"],
            "pack": model_inputs["pack"],
            "output": self.model(**model_inputs["tensors"], match_best=match_best),
        }

    def postprocess(self, model_outputs, top_k=None, explain=False):
        """Turn the model's output into a ranking with its reasons."""
        turns, pack, output = (model_outputs[name] for name in ("turns", "pack", "output"))
        return self._answer(turns, pack, output, 0, top_k, explain)

    def _answer(self, turns, pack, output, row, top_k, explain) -> dict[str, Any]:
        """Say what the model's output means for one dialogue."""
        scores = output.scores[row, : len(pack)].float()
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
            shares = logits[row, order[0]].float().softmax(-1)
            emotions = [
                {"label": self.model.config.id2label[place], "score": float(shares[place])}
                for place in rank(shares).tolist()
            ]
        weights: list[float | None] = [None] * len(turns)
        if output.get("utterance_weights") is not None:
            weights = output["utterance_weights"][row, : len(turns)].float().tolist()
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


def _named(name: str, source) -> tuple[str | None, Tensor] | None:
    """Return text and feature of the sticker of this name; None if there is none."""
    if isinstance(source, StickerPack):
        place = source.place(name)
        return None if place is None else (source.captions[place], source.embeds[place])
    if source.missing([name]):
        return None
    found = source.get([name])
    return found.captions[0], found.embeds[0]


def _open_shown(sticker, number: int) -> Image.Image:
    try:
        return open_sticker(sticker)
    except FileNotFoundError:
        raise ValueError(
            f"the sticker of turn {number}: {sticker!r} is neither a file nor one to choose from"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"the sticker of turn {number}: {error}") from None


def _check_counts(options: Mapping[str, Any]) -> None:
    for name in ("top_k", "match_best", "candidates"):
        count = options.get(name)
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{name} must be a positive integer, not {count!r}")


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
