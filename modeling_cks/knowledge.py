# SPDX-License-Identifier: Apache-2.0
"""Commonsense knowledge of utterances: what COMET says they do to, or make of, their speakers.

COMET is a BART-type sequence-to-sequence model trained on ATOMIC. CKS reads two sums of its hidden
states per utterance (equation 2 of the paper): over what happens to the speaker (xEffect,
xReact, xWant) and over what happens to others (oEffect, oReact, oWant). `KnowledgeExtractor` makes
them, `KnowledgeStore` keeps them on disk, and `KnowledgeExtractor.infer` writes out the inferences
for people to read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.bart.modeling_bart import BartAttention, BartDecoder

logger = logging.getLogger(__name__)

RELATIONS = ("xEffect", "xReact", "xWant", "oEffect", "oReact", "oWant")
FEATURES = ("decoder_start", "decoder_bos", "encoder_mean")
GEN_TOKEN = "[GEN]"

# Beside the weights and the vocabulary, the settings of a BART that change its hidden states.
_CONFIG_FIELDS = (
    "model_type",
    "activation_function",
    "scale_embedding",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "decoder_start_token_id",
    "bos_token_id",
)
# Utterances kept in memory: at a hidden size of 1024 they take 64 MiB.
_REMEMBERED = 8192


class MissingKnowledgeError(ValueError):
    """Knowledge that is wanted is not there: no COMET checkpoint, or texts not extracted yet."""


def normalize_text(text: str) -> str:
    """Collapse every run of white space to one space and strip the ends; case is kept.

    Knowledge is extracted from, and stored under, the text in this form.
    """
    return " ".join(text.split())


class KnowledgeExtractor:
    """Turn utterances into COMET's features and into readable inferences.

    The source is `"{utterance} {relation} [GEN]"`; one that is too long loses the end of its
    utterance, never its relation or `[GEN]`.

    Args:
        model: a BART-type sequence-to-sequence model, taken over and put into eval mode.
        tokenizer: its tokenizer, which must know the six relations (and `[GEN]`) as tokens.
        feature: which hidden state is g: `decoder_start` the decoder's last hidden state at
            position 0, from one step with the decoder start token; `decoder_bos` at position 1,
            after the start token and `<s>`; `encoder_mean` the mean of the encoder's last
            hidden states.
        gen_token: end the source with `[GEN]`, as the demo checkpoint of COMET-BART wants it.
        max_source_tokens: longest source, its special tokens included.
        max_target_tokens: longest inference in tokens.
        batch_size: sources per forward pass; six belong to each utterance.
        store: a folder; features are read from its `KnowledgeStore` and new ones added to it.

    Raises:
        ValueError: a setting out of range, a model that is no encoder-decoder, or a tokenizer
            that does not know the relations.

    Example:
        >>> comet = KnowledgeExtractor.from_pretrained("path/to/comet")  # doctest: +SKIP
        >>> comet.features(["I lost my job."]).shape  # doctest: +SKIP
        (1, 2, 1024)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        *,
        feature: str = "decoder_start",
        gen_token: bool = True,
        max_source_tokens: int = 48,
        max_target_tokens: int = 24,
        batch_size: int = 48,
        store: str | os.PathLike | None = None,
    ) -> None:
        if feature not in FEATURES:
            raise ValueError(f"feature {feature!r} is not one of {', '.join(FEATURES)}")
        if not model.config.is_encoder_decoder:
            raise ValueError(
                f"a model of type {model.config.model_type!r} is no encoder-decoder; "
                "COMET is a BART-type sequence-to-sequence model"
            )
        positions = getattr(model.config, "max_position_embeddings", max_source_tokens)
        if not 8 <= max_source_tokens <= positions:
            raise ValueError(
                f"max_source_tokens is {max_source_tokens}; it must lie between 8 and "
                f"the model's {positions} positions"
            )
        if max_target_tokens < 1 or batch_size < 1:
            raise ValueError("max_target_tokens and batch_size must be at least 1")
        _check_tokens(tokenizer, gen_token)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.feature = feature
        self.gen_token = gen_token
        self.max_source_tokens = max_source_tokens
        self.max_target_tokens = max_target_tokens
        self.batch_size = batch_size
        self._store_dir = store
        self._store: KnowledgeStore | None = None
        self._fingerprint: str | None = None
        self._features: OrderedDict[str, np.ndarray] = OrderedDict()
        self._inferences: OrderedDict[tuple[str, str, int], str] = OrderedDict()
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        *,
        subfolder: str = "",
        cache_dir: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        **settings,
    ) -> KnowledgeExtractor:
        """Load a COMET from a folder or from the Hub.

        Args:
            name_or_path: a folder or the name of a Hub repository.
            subfolder: where in it the checkpoint lies.
            cache_dir: where downloads from the Hub are kept.
            device: where the model runs; the CPU by default.
            dtype: what it runs in; float32 whatever the checkpoint was saved in.
            **settings: the keyword arguments of `KnowledgeExtractor`.

        Raises:
            MissingKnowledgeError: no checkpoint can be read there.
            ValueError: as `KnowledgeExtractor` does.
        """
        where = {"subfolder": subfolder, "cache_dir": cache_dir}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **where)
            model = AutoModelForSeq2SeqLM.from_pretrained(name_or_path, dtype=dtype, **where)
        except (OSError, ValueError) as error:
            place = str(name_or_path) + (f"/{subfolder}" if subfolder else "")
            reason = " ".join(str(error).split())
            raise MissingKnowledgeError(
                f"no COMET can be loaded from {place!r}: name a folder or a Hub repository that "
                "holds a COMET-BART (model and tokenizer), or train one with "
                f"scripts/train_comet.py ({reason[:300]})"
            ) from error
        return cls(model.to(device or "cpu"), tokenizer, **settings)

    @property
    def hidden_size(self) -> int:
        """Size of one feature: 1024 for COMET-BART (large)."""
        return self.model.config.d_model

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the features depend on: weights, vocabulary and configuration.

        The same checkpoint has the same fingerprint from the Hub and from any folder, in whatever
        file format; another dtype has another, as its features differ.
        """
        with self._lock:
            if self._fingerprint is None:
                self._fingerprint = _fingerprint(self.model, self.tokenizer)
            return self._fingerprint

    def use_precision(self, precision: str) -> None:
        """Keep what a model of another precision says apart from what it said in full.

        Call it before the model's weights are changed; "float32" only fixes the fingerprint.
        """
        with self._lock:
            exact = self.fingerprint
            if precision != "float32":
                self._fingerprint = hashlib.sha256(f"{exact} {precision}".encode()).hexdigest()
                self._features.clear()
                self._store = None

    @property
    def key(self) -> str:
        """What the features of a text are stored under: the fingerprint and the settings."""
        gen = GEN_TOKEN if self.gen_token else "no-gen"
        return f"{self.fingerprint}/{self.feature}/{gen}/{self.max_source_tokens}"

    def features(
        self, texts: Sequence[str], *, progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Return the summed features of utterances.

        Each distinct text is computed once, and kept in memory and in the store.

        Args:
            texts: utterances, in any number and with any repetition.
            progress: called with a number of distinct utterances whenever that many more are done.

        Returns:
            float32 (len(texts), 2, hidden_size): [:, 0] the sum over xEffect, xReact and xWant,
            [:, 1] the sum over oEffect, oReact and oWant.
        """
        texts = [normalize_text(text) for text in texts]
        with self._lock:
            found = {}
            for text in dict.fromkeys(texts):
                if text in self._features:
                    self._features.move_to_end(text)
                    found[text] = self._features[text]
            wanted = [text for text in dict.fromkeys(texts) if text not in found]
            store = self._open_store() if wanted else None
            if store is not None:
                missing = set(store.missing(wanted))
                stored = [text for text in wanted if text not in missing]
                found.update(zip(stored, store.get(stored), strict=True))
                wanted = [text for text in wanted if text in missing]
            if wanted:
                computed = self._compute(wanted, progress)
                found.update(zip(wanted, computed, strict=True))
                if store is not None:
                    store.add(wanted, computed)
            for text, value in found.items():
                _remember(self._features, text, value)
        if not texts:
            return np.empty((0, 2, self.hidden_size), dtype=np.float32)
        return np.stack([found[text] for text in texts])

    def infer(
        self, texts: Sequence[str], relations: Sequence[str] = RELATIONS, num_beams: int = 5
    ) -> list[dict[str, str]]:
        """Write out the most probable inference of each relation, for people to read.

        Args:
            texts: utterances.
            relations: which relations, of `RELATIONS`.
            num_beams: width of the beam search.

        Returns:
            For each text its inferences by relation; "none" where COMET says that nothing follows.

        Raises:
            ValueError: an unknown relation.
        """
        unknown = [relation for relation in relations if relation not in RELATIONS]
        if unknown:
            raise ValueError(f"unknown relation {unknown[0]!r}; one of {', '.join(RELATIONS)}")
        texts = [normalize_text(text) for text in texts]
        pairs = [(text, relation) for text in dict.fromkeys(texts) for relation in relations]
        with self._lock:
            found = {}
            for pair in pairs:
                if (*pair, num_beams) in self._inferences:
                    found[pair] = self._inferences[(*pair, num_beams)]
            wanted = [pair for pair in pairs if pair not in found]
            sources = self.sources(wanted)
            # A beam multiplies what one pass holds.
            for batch in _buckets(sources, max(1, self.batch_size // num_beams)):
                written = self._generate([sources[i] for i in batch], num_beams)
                found.update(zip([wanted[i] for i in batch], written, strict=True))
            for pair, line in found.items():
                _remember(self._inferences, (*pair, num_beams), line)
        return [{relation: found[text, relation] for relation in relations} for text in texts]

    def sources(self, pairs: Iterable[tuple[str, str]]) -> list[list[int]]:
        """Return the token ids that COMET reads for (text, relation) pairs, none too long."""
        pairs = [(normalize_text(text), relation) for text, relation in pairs]
        if not pairs:
            return []
        end = f" {GEN_TOKEN}" if self.gen_token else ""
        prompts = [f"{text} {relation}{end}" for text, relation in pairs]
        rows = self.tokenizer(prompts, verbose=False)["input_ids"]
        return [
            self._shorten(ids, self.tokenizer.convert_tokens_to_ids(relation))
            for ids, (_, relation) in zip(rows, pairs, strict=True)
        ]

    def _open_store(self) -> KnowledgeStore | None:
        if self._store is None and self._store_dir is not None:
            self._store = KnowledgeStore(self._store_dir, self.hidden_size, self.key)
        return self._store

    def _shorten(self, ids: list[int], relation_id: int) -> list[int]:
        """Cut the end of the utterance out of a source that is too long."""
        if len(ids) <= self.max_source_tokens:
            return ids
        # The last one: an utterance may itself contain the name of a relation.
        start = len(ids) - 1 - ids[::-1].index(relation_id)
        if self.tokenizer.decode(ids[start - 1]).isspace():
            start -= 1  # a byte-level tokenizer has the space before an added token on its own
        return ids[: self.max_source_tokens - (len(ids) - start)] + ids[start:]

    def _compute(self, texts: list[str], progress: Callable[[int], object] | None) -> np.ndarray:
        half = len(RELATIONS) // 2
        sources = self.sources((text, relation) for text in texts for relation in RELATIONS)
        sums = torch.zeros(len(texts), 2, self.hidden_size)
        left = [len(RELATIONS)] * len(texts)
        for batch in _buckets(sources, self.batch_size):
            states = self._states([sources[i] for i in batch]).float().cpu()
            for i, state in zip(batch, states, strict=True):
                text, relation = divmod(i, len(RELATIONS))
                sums[text, relation // half] += state
                left[text] -= 1
            if progress is not None:
                progress(sum(left[text] == 0 for text in {i // len(RELATIONS) for i in batch}))
        return sums.numpy()

    @torch.no_grad()
    def _states(self, sources: list[list[int]]) -> torch.Tensor:
        """Return the feature (len(sources), hidden_size) of each source."""
        ids, mask = self._pad(sources)
        encoded = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.feature == "encoder_mean":
            weights = mask.unsqueeze(-1).to(encoded.dtype)
            return (encoded * weights).sum(1) / weights.sum(1)
        config = self.model.config
        decoder = self.model.get_decoder()
        prefix = [config.decoder_start_token_id]
        if self.feature == "decoder_bos":
            prefix.append(config.bos_token_id)
        elif type(decoder) is BartDecoder:
            return _first_step(decoder, prefix[0], encoded, mask)
        decoded = decoder(
            input_ids=torch.tensor([prefix] * len(sources), device=ids.device),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        return decoded.last_hidden_state[:, -1]

    @torch.no_grad()
    def _generate(self, sources: list[list[int]], num_beams: int) -> list[str]:
        ids, mask = self._pad(sources)
        written = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=self.max_target_tokens,
        )
        lines = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [normalize_text(line.replace(GEN_TOKEN, " ")) or "none" for line in lines]

    def _pad(self, sources: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, sources))
        ids = torch.full((len(sources), width), self.model.config.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, source in enumerate(sources):
            ids[row, : len(source)] = torch.tensor(source)
            mask[row, : len(source)] = 1
        return ids.to(self.model.device), mask.to(self.model.device)


def _first_step(decoder: BartDecoder, start: int, encoded: Tensor, mask: Tensor) -> Tensor:
    """Return the decoder's last hidden state (R, width) of one step, as its own forward has it.

    A single position needs less than that forward does: its self-attention is the value map, and
    until the sources come in, all rows are one.
    """
    token = torch.tensor([[start]], device=encoded.device)
    hidden = decoder.embed_tokens(token) + decoder.embed_positions(token)
    hidden = decoder.layernorm_embedding(hidden)[:, 0]
    for layer in decoder.layers:
        own = layer.self_attn.out_proj(layer.self_attn.v_proj(hidden))
        hidden = layer.self_attn_layer_norm(hidden + own)
        read = _attend_once(layer.encoder_attn, hidden, encoded, mask)
        hidden = layer.encoder_attn_layer_norm(hidden + read)
        change = layer.fc2(layer.activation_fn(layer.fc1(hidden)))
        hidden = layer.final_layer_norm(hidden + change)
    return hidden


def _attend_once(attention: BartAttention, query: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
    """Attend from one position a row (R or 1, width) to sources (R, L, width).

    The key and value maps are not run over the L places. A key map can be applied to the query
    instead, q (W x + b) = (q W) x + q b, where q b is the same at all places and no part of the
    softmax; and a value map to the mean that the weights, which sum to 1, make of the places.
    """
    heads, size = attention.num_heads, attention.head_dim
    keys, values = (
        each.weight.view(heads, size, -1) for each in (attention.k_proj, attention.v_proj)
    )
    query = (attention.q_proj(query) * attention.scaling).view(-1, heads, size)
    query = torch.einsum("rhs,hsw->rhw", query, keys)
    logits = (query @ encoded.mT).masked_fill(mask[:, None] == 0, float("-inf"))
    mixed = torch.einsum("rhw,hsw->rhs", logits.softmax(-1) @ encoded, values).flatten(1)
    return attention.out_proj(mixed + attention.v_proj.bias)


class KnowledgeStore:
    """Features of texts on disk: appended to, memory-mapped, safe against being killed.

    A folder may hold the stores of many keys, each in a folder of its own named after the key:
    `key.json` (the key in full, the hidden size), `index.bin` (16 bytes of the SHA-256 of each
    normalised text) and `features.f32` (its (2, hidden_size) little-endian float32), row by row
    in step. A row counts once it is whole in both files; what a killed writer left after the last
    such row is ignored by readers and cut off by the next writer. Any number of processes may
    read; writers wait for each other at a file lock.

    Args:
        folder: where; made when the first features are added.
        hidden_size: size of one feature.
        key: what the features were made with, as `KnowledgeExtractor.key` has it.

    Raises:
        ValueError: the folder holds features of another size under this key.
    """

    _DIGEST = 16

    def __init__(self, folder: str | os.PathLike, hidden_size: int, key: str) -> None:
        self.hidden_size = hidden_size
        self.key = key
        self.path = Path(folder) / hashlib.sha256(key.encode()).hexdigest()[:20]
        self._row_bytes = 2 * hidden_size * 4
        self._rows: dict[bytes, int] = {}
        self._data = np.empty((0, 2, hidden_size), dtype="<f4")
        self._check_key()
        self._refresh()

    def __len__(self) -> int:
        """Return the number of texts stored."""
        return len(self._rows)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct texts, normalised and in order, that are not stored yet."""
        wanted = {_digest(text): text for text in dict.fromkeys(map(normalize_text, texts))}
        if any(digest not in self._rows for digest in wanted):
            self._refresh()
        return [text for digest, text in wanted.items() if digest not in self._rows]

    def get(self, texts: Sequence[str]) -> np.ndarray:
        """Return the features of texts, float32 (len(texts), 2, hidden_size), copied.

        Raises:
            MissingKnowledgeError: some of them are not stored.
        """
        missing = self.missing(texts)
        if missing:
            raise MissingKnowledgeError(
                f"{self.path}: no knowledge of {len(missing)} of {len(set(texts))} texts, the "
                f"first {missing[0]!r}; scripts/extract_knowledge.py extracts it"
            )
        rows = [self._rows[_digest(normalize_text(text))] for text in texts]
        return np.asarray(self._data[rows], dtype=np.float32)

    def add(self, texts: Sequence[str], features: np.ndarray) -> None:
        """Append the features of texts; those stored already are left as they are.

        Args:
            texts: the texts.
            features: (len(texts), 2, hidden_size), finite.

        Raises:
            ValueError: features of another shape, or not finite.
        """
        features = np.asarray(features, dtype="<f4")
        if features.shape != (len(texts), 2, self.hidden_size):
            raise ValueError(
                f"{self.path}: features of shape {features.shape} for {len(texts)} texts; "
                f"expected {(len(texts), 2, self.hidden_size)}"
            )
        finite = np.isfinite(features).all(axis=(1, 2))
        if not finite.all():
            raise ValueError(
                f"{self.path}: the features of {texts[int(finite.argmin())]!r} are not finite"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with _file_lock(self.path / "lock"):
            self._write_key()
            self._refresh()
            rows = {}
            for row, text in enumerate(texts):
                digest = _digest(normalize_text(text))
                if digest not in self._rows:
                    rows.setdefault(digest, row)
            # The data first: an index row stands for features that are safely on disk.
            self._append("features.f32", self._row_bytes, features[list(rows.values())].tobytes())
            self._append("index.bin", self._DIGEST, b"".join(rows))
            self._refresh()

    def _append(self, name: str, row_bytes: int, content: bytes) -> None:
        with open(self.path / name, "ab") as file:
            file.truncate(len(self._rows) * row_bytes)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _refresh(self) -> None:
        """Take in the rows that have been added since."""
        index, data = self.path / "index.bin", self.path / "features.f32"
        if not index.exists() or not data.exists():
            return
        rows = min(index.stat().st_size // self._DIGEST, data.stat().st_size // self._row_bytes)
        known = len(self._rows)
        if rows <= known:
            return
        with open(index, "rb") as file:
            file.seek(known * self._DIGEST)
            added = file.read((rows - known) * self._DIGEST)
        for row in range(known, rows):
            start = (row - known) * self._DIGEST
            self._rows[added[start : start + self._DIGEST]] = row
        self._data = np.memmap(data, dtype="<f4", mode="r", shape=(rows, 2, self.hidden_size))

    def _check_key(self) -> None:
        path = self.path / "key.json"
        if not path.exists():
            return
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not a readable knowledge store ({error})") from error
        if held != {"key": self.key, "hidden_size": self.hidden_size}:
            raise ValueError(
                f"{path}: holds features of size {held.get('hidden_size')} under the key "
                f"{held.get('key')!r}, not of size {self.hidden_size} under {self.key!r}"
            )

    def _write_key(self) -> None:
        path = self.path / "key.json"
        if not path.exists():
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_text(json.dumps({"key": self.key, "hidden_size": self.hidden_size}))
            beside.replace(path)
        self._check_key()


def _check_tokens(tokenizer, gen_token: bool) -> None:
    wanted = [*RELATIONS, GEN_TOKEN] if gen_token else list(RELATIONS)
    vocabulary = tokenizer.get_vocab()
    # A token that is in the vocabulary may still be cut up where it is no added token.
    seen = set(tokenizer("it " + " ".join(wanted))["input_ids"])
    missing = [token for token in wanted if vocabulary.get(token) not in seen]
    if missing:
        raise ValueError(
            f"the tokenizer does not know {', '.join(missing)} as tokens of their own, so this "
            "checkpoint is no COMET" + (" (or one without [GEN])" if missing == [GEN_TOKEN] else "")
        )


def _fingerprint(model: torch.nn.Module, tokenizer) -> str:
    settings = {name: getattr(model.config, name, None) for name in _CONFIG_FIELDS}
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    total.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    # named_parameters and named_buffers give a tied tensor once.
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        total.update(memoryview(raw.numpy()))
    return total.hexdigest()


def _buckets(sources: list[list[int]], size: int) -> Iterable[list[int]]:
    """Yield batches of positions, of sources of about one length, so that padding is rare."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _remember(cache: OrderedDict, key, value) -> None:
    cache[key] = value
    if len(cache) > _REMEMBERED:
        cache.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[: KnowledgeStore._DIGEST]


def _file_lock(path: Path):
    try:
        from filelock import FileLock
    except ImportError as error:
        raise ImportError("writing knowledge needs filelock: pip install filelock") from error
    return FileLock(path)
