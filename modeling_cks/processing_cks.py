# SPDX-License-Identifier: Apache-2.0
"""CKSProcessor: dialogues and stickers in, the model's tensors out."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .knowledge import KnowledgeExtractor, MissingKnowledgeError
from .ocr import StickerTextReader, build_ocr_engine
from .sticker_image import image_digest, open_sticker

if TYPE_CHECKING:
    # Never imported here. The library copies what it sees imported, and so the pipeline's code
    # comes to lie beside the processor's, without which it could not run.
    from .pipeline_cks import StickerSelectionPipeline  # noqa: F401

SPEAKER_TOKENS = ("[speaker1]", "[speaker2]")
# Where a saved processor's own COMET lies, and how its configuration says so: no path looks so.
_COMET_FOLDER = "comet"
_EMBEDDED_COMET = "{checkpoint}/comet"
_LIVE = ("_reader", "_knowledge", "_source", "ocr_cache_path", "knowledge_store")


def read_dialogue(dialogue: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bring a dialogue into one form: a list of {speaker: 0|1, text, sticker}.

    Args:
        dialogue: oldest turn first. A turn is a string (speakers then alternate), or a mapping
            with `text` (or MOD's `txt`), perhaps `speaker` (0, 1) or MOD's `speaker_id`, and
            perhaps `sticker`: a file, bytes or image that the turn carried.

    Raises:
        ValueError: naming the turn that cannot be read; or if there is no turn at all.
    """
    if isinstance(dialogue, str) or not isinstance(dialogue, Sequence):
        raise ValueError("a dialogue is a list of turns (strings, or mappings with `text`)")
    if not dialogue:
        raise ValueError("the dialogue has no turn")
    turns = []
    for number, turn in enumerate(dialogue):
        if isinstance(turn, str):
            turn = {"text": turn}
        if not isinstance(turn, Mapping):
            raise ValueError(f"turn {number}: a turn is a string or a mapping, not {turn!r}")
        text = turn.get("text", turn.get("txt"))
        text = "" if text is None else text
        speaker = turn.get("speaker", turn.get("speaker_id"))
        if speaker is None:
            speaker = 1 - turns[-1]["speaker"] if turns else 0
        elif speaker in SPEAKER_TOKENS:
            speaker = SPEAKER_TOKENS.index(speaker)
        if speaker not in (0, 1) or isinstance(speaker, bool) or not isinstance(text, str):
            raise ValueError(
                f"turn {number}: `speaker` must be 0, 1 or one of {SPEAKER_TOKENS}, and `text` "
                f"a string, not {speaker!r} and {text!r}"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"turn {number}: {text!r} holds half of a character") from None
        turns.append({"speaker": int(speaker), "text": text, "sticker": turn.get("sticker")})
    return turns


class CKSProcessor(ProcessorMixin):
    r"""Bundle what stands before a [`CKSModel`]: two tokenizers, an image processor, OCR and COMET.

    Args:
        image_processor: CLIP's image processor.
        tokenizer: the utterance encoder's (RoBERTa's) tokenizer, with `[speaker1]`, `[speaker2]`.
        bert_tokenizer: the tokenizer of the multimodal encoder's words, with the same two.
        ocr: `"rapidocr"`, `"paddleocr"` or `"none"`.
        comet: name or folder of a COMET checkpoint, or None where the model takes no knowledge.
            A folder is copied into what `save_pretrained` writes; a name stays a name.
        comet_feature: which state of COMET is the feature: `"decoder_start"`, `"decoder_bos"`
            or `"encoder_mean"`.
        comet_gen_token: whether the checkpoint's input ends in `[GEN]`.
        knowledge_size: the size of a COMET state.
        max_utterances: the newest utterances are kept, older ones dropped.
        max_utterance_tokens: each utterance is cut behind this many tokens.
        max_dialogue_tokens: the newest tokens of the whole dialogue are kept.
        max_ocr_tokens: a sticker's text is cut behind this many tokens.
    """

    # The code travels with what is saved.
    _auto_class = "AutoProcessor"

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        bert_tokenizer=None,
        ocr="rapidocr",
        comet=None,
        comet_feature="decoder_start",
        comet_gen_token=True,
        knowledge_size=1024,
        max_utterances=32,
        max_utterance_tokens=64,
        max_dialogue_tokens=256,
        max_ocr_tokens=32,
    ):
        for name, each in (("tokenizer", tokenizer), ("bert_tokenizer", bert_tokenizer)):
            vocabulary = each.get_vocab() if each is not None else {}
            missing = [token for token in SPEAKER_TOKENS if token not in vocabulary]
            if missing:
                raise ValueError(f"{name} does not know {', '.join(missing)}")
        self.ocr = ocr
        self.comet = str(comet) if comet is not None else None
        self.comet_feature = comet_feature
        self.comet_gen_token = comet_gen_token
        self.knowledge_size = knowledge_size
        self.max_utterances = max_utterances
        self.max_utterance_tokens = max_utterance_tokens
        self.max_dialogue_tokens = max_dialogue_tokens
        self.max_ocr_tokens = max_ocr_tokens
        # Engines are loaded when first used, and never saved.
        self._reader: StickerTextReader | None = None
        self._knowledge: KnowledgeExtractor | None = None
        self._source: tuple[str, dict] | None = None
        self.ocr_cache_path: str | None = None
        self.knowledge_store: str | None = None
        super().__init__(image_processor, tokenizer, bert_tokenizer)

    def __call__(
        self,
        dialogues: Sequence | None = None,
        stickers: Sequence | None = None,
        captions: Sequence[str | None] | None = None,
        knowledge: bool = True,
    ) -> BatchFeature:
        """Prepare one dialogue or several, and stickers that each of them may choose from.

        Args:
            dialogues: a dialogue (see [`read_dialogue`]) or a list of them.
            stickers: N files, bytes or PIL images; earlier stickers of the dialogues which are
                not among them are added behind.
            captions: N texts that take the place of OCR; None in a place asks for OCR there.
            knowledge: False runs without COMET: its sums are zero, with some loss of quality.

        Returns:
            What `CKSModel.forward` takes: B dialogues, S >= N stickers, and `candidates` (B, N).

        Raises:
            ValueError: for a dialogue or a sticker that cannot be read, by its number or name.
            MissingKnowledgeError: if COMET is needed and cannot be had.
        """
        data: dict[str, Tensor] = {}
        if isinstance(stickers, (str, bytes, os.PathLike, Image.Image)):
            raise ValueError(f"`stickers` is a list of stickers, not {stickers!r}")
        images = [
            _open_numbered(sticker, f"sticker {number}")
            for number, sticker in enumerate(stickers or [])
        ]
        texts = list(captions) if captions is not None else [None] * len(images)
        if len(texts) != len(images):
            raise ValueError(f"{len(texts)} captions were given for {len(images)} stickers")
        candidates = len(images)
        if dialogues is not None:
            if is_one_dialogue(dialogues):
                dialogues = [dialogues]
            turns = [
                _read_numbered(dialogue, number)[-self.max_utterances :]
                for number, dialogue in enumerate(dialogues)
            ]
            data.update(self.encode_dialogues(turns, knowledge=knowledge))
            history = torch.full(data["speaker_ids"].shape, -1)
            places: dict[str, int] = {}
            for place, image in enumerate(images):
                places.setdefault(image_digest(image), place)
            for row, dialogue in enumerate(turns):
                for column, turn in enumerate(dialogue):
                    if turn["sticker"] is None:
                        continue
                    image = _open_numbered(turn["sticker"], f"the sticker of turn {column}")
                    place = places.setdefault(image_digest(image), len(images))
                    if place == len(images):
                        images.append(image)
                        texts.append(None)
                    history[row, column] = place
            data["history"] = history
            if candidates:
                data["candidates"] = torch.arange(candidates).expand(len(turns), -1)
        if images:
            data.update(self.encode_stickers(images, texts))
        return BatchFeature(data)

    def encode_dialogues(
        self,
        dialogues: Sequence[Sequence[Mapping]],
        knowledge: bool | Callable[[Sequence[str]], Tensor] = True,
        features: Callable[[Sequence[tuple[int, str]]], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Turn B dialogues, lists of {speaker, text}, into tensors, padded to the longest.

        Args:
            dialogues: the dialogues; the newest `max_utterances` of each are kept.
            knowledge: False puts zeros in the place of COMET's sums; a function gives those of
                distinct texts, (U, 2, knowledge_size), where they are known already.
            features: gives r (U, D_text) of distinct (speaker, text) where it is known already.

        Returns:
            `utterances` (B, T), the places among the U distinct utterances, -1 on padding;
            `speaker_ids` (B, T); `utterance_input_ids`, `utterance_attention_mask` (U, L), or
            `utterance_embeds` (U, D_text) where `features` gives them;
            `dialogue_input_ids`, `dialogue_attention_mask` (B, Ld); `knowledge`
            (U, 2, knowledge_size) where the processor has a COMET or `knowledge` is False.
        """
        dialogues = [list(dialogue)[-self.max_utterances :] for dialogue in dialogues]
        width = max(len(dialogue) for dialogue in dialogues)
        utterances = torch.full((len(dialogues), width), -1)
        speakers = torch.zeros(len(dialogues), width, dtype=torch.long)
        places: dict[tuple[int, str], int] = {}
        for row, dialogue in enumerate(dialogues):
            for column, turn in enumerate(dialogue):
                said = (turn["speaker"], turn["text"])
                speakers[row, column] = turn["speaker"]
                utterances[row, column] = places.setdefault(said, len(places))
        tagged = self._tagged(places)
        words = self.bert_tokenizer(tagged, add_special_tokens=False)["input_ids"]
        rows = [
            [token for place in row[row >= 0].tolist() for token in words[place]]
            for row in utterances
        ]
        data = {
            "utterances": utterances,
            "speaker_ids": speakers,
            **self._pad([row[-self.max_dialogue_tokens :] for row in rows], "dialogue"),
        }
        if features is None:
            data.update(self.encode_utterances(list(places)))
        else:
            data["utterance_embeds"] = features(list(places))
        if not knowledge:
            data["knowledge"] = torch.zeros(len(places), 2, self.knowledge_size)
        elif callable(knowledge):
            data["knowledge"] = knowledge([text for _, text in places])
        elif self.comet is not None or self._knowledge is not None:
            data["knowledge"] = self.knowledge_features([text for _, text in places])
        return data

    def encode_utterances(self, said: Sequence[tuple[int, str]]) -> dict[str, Tensor]:
        """Turn U (speaker, text) into `utterance_input_ids`, `utterance_attention_mask` (U, L)."""
        tokens = self.tokenizer(
            self._tagged(said), truncation=True, max_length=self.max_utterance_tokens,
            padding=True, return_tensors="pt",
        )  # fmt: skip
        return {f"utterance_{name}": tokens[name] for name in ("input_ids", "attention_mask")}

    def encode_stickers(
        self, images: Sequence, captions: Sequence[str | None] | None = None
    ) -> dict[str, Tensor]:
        """Turn S stickers into `pixel_values` (S, 3, n, n), `ocr_input_ids` and its mask (S, Lo).

        A caption takes the place of OCR; where there is none the sticker is read, once for each
        distinct image.
        """
        images = [open_sticker(image) for image in images]
        texts = list(captions) if captions is not None else [None] * len(images)
        unread = [place for place, text in enumerate(texts) if text is None]
        read = self.read_text([images[place] for place in unread])
        for place, text in zip(unread, read, strict=True):
            texts[place] = text
        pixels = self.image_processor(images=images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, **self.encode_captions(texts)}

    def encode_captions(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turn the stickers' texts into `ocr_input_ids`, `ocr_attention_mask` (S, Lo)."""
        words = self.bert_tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=self.max_ocr_tokens
        )["input_ids"]
        return self._pad(words, "ocr")

    def read_text(self, images: Sequence) -> list[str]:
        """Read the words on PIL images by OCR, once for each distinct image."""
        if not images:
            return []
        if self._reader is None:
            self._reader = StickerTextReader(build_ocr_engine(self.ocr), self.ocr_cache_path)
        return self._reader.read(images)

    def knowledge_features(self, texts: Sequence[str]) -> Tensor:
        """Return COMET's sums over the x and o relations, (len(texts), 2, knowledge_size)."""
        features = torch.from_numpy(self.knowledge_extractor.features(texts))
        if features.shape[-1] != self.knowledge_size:
            raise ValueError(
                f"COMET {self.comet} gives features of size {features.shape[-1]}, but the model "
                f"takes {self.knowledge_size}"
            )
        return features

    @property
    def knowledge_extractor(self) -> KnowledgeExtractor:
        """The COMET of this processor, loaded when first asked for."""
        if self._knowledge is None:
            if self.comet is None:
                raise MissingKnowledgeError(
                    "this model needs COMET's knowledge and its processor names no checkpoint: "
                    "set processor.comet to a COMET-BART name or folder, or pass knowledge=False"
                )
            self._knowledge = KnowledgeExtractor.from_pretrained(
                self._comet_folder() or self.comet,
                feature=self.comet_feature,
                gen_token=self.comet_gen_token,
                store=self.knowledge_store,
            )
        return self._knowledge

    @knowledge_extractor.setter
    def knowledge_extractor(self, extractor: KnowledgeExtractor | None) -> None:
        self._knowledge = extractor

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Save the processor; a COMET that lies in a folder is copied along.

        With `push_to_hub` it goes to the repository `repo_id` too; the other arguments are those
        of the method of that name.
        """
        comet = self.comet
        folder = self._comet_folder()
        if folder is not None:
            target = Path(save_directory) / _COMET_FOLDER
            if folder.resolve() != target.resolve():
                shutil.copytree(folder, target, dirs_exist_ok=True, ignore=_all_but_files)
            self.comet = _EMBEDDED_COMET
        for tokenizer in (self.tokenizer, self.bert_tokenizer):
            # The last call's lengths, and where the tokenizer was loaded from: of this process,
            # not of the processor, so that what is loaded and saved again is the same.
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
            for name in ("is_local", "local_files_only", "dtype"):
                tokenizer.init_kwargs.pop(name, None)
        try:
            saved = super().save_pretrained(save_directory)
        finally:
            self.comet = comet
        if push_to_hub:
            # Left to do it itself, the library would not see that COMET's folder is new.
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return saved

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load a processor from a folder or the Hub, and remember where its COMET may lie."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        wanted = ("revision", "token", "cache_dir", "local_files_only")
        options = {key: kwargs[key] for key in wanted if key in kwargs}
        processor._source = (str(pretrained_model_name_or_path), options)
        return processor

    def to_dict(self, *args, **kwargs) -> dict[str, Any]:
        """Leave out live engines and this machine's paths."""
        # The library copies whatever it finds in the instance, and an engine cannot be copied.
        live = {name: self.__dict__.pop(name) for name in _LIVE if name in self.__dict__}
        try:
            return super().to_dict(*args, **kwargs)
        finally:
            self.__dict__.update(live)

    def _comet_folder(self) -> Path | None:
        """Return the folder of this processor's COMET; None where `comet` is a name or None."""
        if self.comet != _EMBEDDED_COMET:
            folder = Path(self.comet) if self.comet is not None else None
            return folder if folder is not None and folder.is_dir() else None
        if self._source is None:
            raise MissingKnowledgeError(
                "the processor's COMET lies in its checkpoint folder: load the processor with "
                "from_pretrained, or set processor.comet"
            )
        name, options = self._source
        root = Path(name)
        if not root.is_dir():
            from huggingface_hub import snapshot_download

            root = Path(snapshot_download(name, allow_patterns=f"{_COMET_FOLDER}/*", **options))
        folder = root / _COMET_FOLDER
        if not folder.is_dir():
            raise MissingKnowledgeError(
                f"{name} holds no folder {_COMET_FOLDER} with the processor's COMET: set "
                "processor.comet to a COMET-BART name or folder, or pass knowledge=False"
            )
        return folder

    @staticmethod
    def _tagged(said: Iterable[tuple[int, str]]) -> list[str]:
        return [f"{SPEAKER_TOKENS[speaker]} {text}" for speaker, text in said]

    def _pad(self, words: list[list[int]], name: str) -> dict[str, Tensor]:
        rows = [torch.tensor(row, dtype=torch.long) for row in words]
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        ids = pad_sequence(rows, batch_first=True, padding_value=self.bert_tokenizer.pad_token_id)
        return {f"{name}_input_ids": ids, f"{name}_attention_mask": mask}


def is_one_dialogue(dialogues: Sequence) -> bool:
    """Say whether this is one dialogue, a list of turns, and not a list of dialogues.

    Raises:
        ValueError: if it is no list at all.
    """
    if not isinstance(dialogues, Sequence):
        raise ValueError("a dialogue is a list of turns (strings, or mappings with `text`)")
    return len(dialogues) == 0 or isinstance(dialogues[0], (str, Mapping))


def _all_but_files(place: str, names: list[str]) -> set[str]:
    """Name what does not belong to a checkpoint: folders (other formats, caches), hidden files."""
    return {name for name in names if name.startswith(".") or Path(place, name).is_dir()}


def _read_numbered(dialogue, number: int) -> list[dict[str, Any]]:
    try:
        return read_dialogue(dialogue)
    except ValueError as error:
        raise ValueError(f"dialogue {number}: {error}") from None


def _open_numbered(sticker, name: str) -> Image.Image:
    if not isinstance(sticker, (str, bytes, os.PathLike, Image.Image)):
        raise ValueError(f"{name}: a sticker is a file, bytes or an image, not {sticker!r}")
    try:
        return open_sticker(sticker)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {error}") from None
