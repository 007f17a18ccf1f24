# SPDX-License-Identifier: Apache-2.0
"""Stickers by the million: which lie nearest to a dialogue, found without comparing them all.

A sticker's unbiased feature v depends on the sticker alone, so it is computed once and kept. An
index is a folder of segments that never change, and a manifest that names those that count:

- `manifest.json`: the segments, which rows were removed, and the model whose features these are;
- `segment-N/`: `embeds.npy` (n, D) float32, v as it came; `norms.npy`; `stickers.arrow` with name,
  caption and pack; and where it was optimised `axes.npy` and `nearest.faiss`, an inverted file of
  the normalised features along the few axes on which they differ.

Whatever changes is written beside and counts when the manifest is replaced, so a reader, in this
process or another, sees all of a change or nothing, and a killed writer leaves the index as it was.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .sticker_pack import StickerPack, features_fingerprint

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_KEYS = {"id", "size", "model", "exact_below", "recall", "next", "segments", "removed"}
_VERSION = 2
# Rows that are compared, normalised or copied at once: 48 MiB at D = 768.
_ROWS_A_PASS = 16_384
# A last segment of fewer rows is rewritten with what is added to it, so that stickers added one by
# one do not become as many segments.
_SMALL_SEGMENT = 4096
_LOCK_SECONDS = 60.0
# What is asked of the inverted file, and put in exact order by v itself: so many times `count`, and
# never fewer than `_CANDIDATES`.
_SPARE = 2
_CANDIDATES = 256
# How many axes may be kept, as long as what they lose is not seen among the candidates.
_AXES = (64, 128, 256)
_AXES_SAMPLE = 65_536
_FEW_VALUES = 1000
_TUNING_QUERIES = 256
_TUNING_COUNT = 10
# Share of removed rows above which an index is better written anew.
_WASTE = 0.2


class StickerIndex:
    """An index on disk of stickers' features v, searched by cosine similarity to h~_T.

    Below `exact_below` rows every sticker is compared. Above, `optimize` writes a FAISS inverted
    file of the features along their main axes, 8 bits each, and what it finds is put in exact order
    by v itself: features of a trained model vary along few axes, so that a pass over all of a
    million stickers reads 64 MB, not 3 GB. Of the kinds that were measured (docs/speed.md) it is
    the one that is memory-mapped, takes removals and filters, and comes to a recall@10 of 0.99 in
    milliseconds wherever dialogues lie. How many axes are kept, and how many lists are looked into,
    is tuned when it is built; give `optimize` dialogues to tune with, since they lie off the
    stickers, and how far decides how much must be looked into.

    What was added is found at once, by comparison, until `optimize` takes it in; what was removed
    is never found. Any number of threads and processes may search while one writes: each object
    searches the state that it opened, or that its last `refresh` saw. Writers wait for each other.

    Use `create` or `open`.

    Example:
        >>> index = StickerIndex.create("stickers.index", 768)  # doctest: +SKIP
        >>> index.add(["a.png", "b.png"], embeds, captions=["oh no", None])  # doctest: +SKIP
        >>> index.nearest(dialogue_embeds, count=100)[0].names  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._checked: weakref.ref | None = None
        self._state = self._read()

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        size: int,
        model=None,
        exact_below: int = 10_000,
        recall: float = 0.99,
    ) -> StickerIndex:
        """Make an empty index.

        Args:
            folder: a new or an empty folder.
            size: D, the size of v.
            model: the [`CKSModel`] whose features it will hold; with another, `check_model` then
                fails.
            exact_below: up to so many stickers are compared one by one, also after `optimize`.
            recall: recall@10 against exact search to which an optimised index is tuned.

        Raises:
            ValueError: the folder holds something, or a number is out of range.
        """
        folder = Path(folder)
        if size < 1 or exact_below < 0 or not 0 < recall <= 1:
            raise ValueError(
                f"an index wants size >= 1, exact_below >= 0 and 0 < recall <= 1, not {size}, "
                f"{exact_below}, {recall}"
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder}: is there already; open it, or give another folder")
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {
            "version": _VERSION,
            "id": uuid.uuid4().hex,
            "size": size,
            "model": None if model is None else features_fingerprint(model),
            "exact_below": exact_below,
            "recall": recall,
            "next": 0,
            "segments": [],
            "removed": None,
        }
        _write_json(folder / _MANIFEST, manifest)
        return cls(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> StickerIndex:
        """Open an index; its files are memory-mapped, not read.

        Raises:
            ValueError: the folder holds no index, or a damaged one, naming the file.
        """
        return cls(folder)

    def __len__(self) -> int:
        """Count the stickers."""
        return self._state.rows - len(self._state.removed)

    @property
    def size(self) -> int:
        """D, the size of v."""
        return self._state.manifest["size"]

    @property
    def packs(self) -> list[str]:
        """The names of the packs, in order."""
        return sorted(self._state.packs())

    def names(self, packs: Sequence[str] | None = None) -> list[str]:
        """Return the names of all stickers, or of those of some packs."""
        state = self._state
        live = state.allowed(None if packs is None else tuple(packs))
        rows = np.arange(state.rows) if live is None else np.flatnonzero(live)
        return state.column("name", rows)

    @property
    def needs_optimizing(self) -> bool:
        """Whether much was added or removed since the index was last optimised."""
        state = self._state
        compared = sum(segment.rows for segment in state.segments if segment.faiss is None)
        wasted = len(state.removed) > max(_WASTE * state.rows, _SMALL_SEGMENT)
        return wasted or compared > state.manifest["exact_below"]

    def refresh(self) -> bool:
        """Take in what others have written since; True if there was anything."""
        before = self._state.manifest
        if _read_json(self.folder / _MANIFEST) == before:
            return False
        self._state = self._read(self._state)
        return True

    def check_model(self, model) -> None:
        """Make sure that this model's features are those of the index; ValueError if not."""
        held = self._state.manifest["model"]
        if held is None or (self._checked is not None and self._checked() is model):
            return
        if features_fingerprint(model) != held:
            raise ValueError(
                f"{self.folder}: holds the features of another model; build the index anew"
            )
        self._checked = weakref.ref(model)

    def search(
        self, queries: Tensor, count: int = 100, packs: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find the nearest stickers by cosine similarity.

        Args:
            queries: (B, D), h~_T of dialogues.
            count: how many for each; fewer if there are no more.
            packs: search these packs only; up to `exact_below` stickers of them are compared one
                by one.

        Returns:
            Similarities (B, n) float32, best first, and rows (B, n) for `take`, which hold until
            the index is changed or refreshed; of equal similarities the lower row comes first.

        Raises:
            ValueError: queries of another size, or NaN among them; a pack that is not there.
        """
        return self._search(self._state, queries, count, packs)

    def nearest(
        self, dialogue_embeds: Tensor, count: int = 100, packs: Sequence[str] | None = None
    ) -> list[StickerPack]:
        """Return for each dialogue the nearest stickers, best first, ready to be ranked.

        Raises:
            ValueError: as `search` does, and if no sticker is left to choose from.
        """
        state = self._state
        _, rows = self._search(state, dialogue_embeds, count, packs)
        if rows.shape[1] == 0:
            raise ValueError(f"{self.folder}: holds no sticker to choose from")
        return [state.take(each.numpy()) for each in rows]

    def take(self, rows: Sequence[int]) -> StickerPack:
        """Return the stickers at rows: names, captions, and v as it was added."""
        return self._state.take(np.asarray(rows, dtype=np.int64))

    def get(self, names: Sequence[str]) -> StickerPack:
        """Return the stickers of these names, in this order.

        Raises:
            ValueError: naming one that is not there.
        """
        state = self._state
        places = state.places(names)
        if (places < 0).any():
            raise ValueError(
                f"{self.folder}: there is no sticker {names[int((places < 0).argmax())]!r}"
            )
        return state.take(places)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of the names that are not in the index, in order."""
        places = self._state.places(names)
        return [name for name, place in zip(names, places, strict=True) if place < 0]

    def add(
        self,
        names: Sequence[str],
        embeds: Tensor | np.ndarray,
        captions: Sequence[str | None] | None = None,
        pack: str | Sequence[str] = "",
    ) -> None:
        """Add stickers; they are found at once.

        Args:
            names: n names, new to the index.
            embeds: (n, D), v of each.
            captions: n texts; None where a sticker has none.
            pack: the pack of all, or of each.

        Raises:
            ValueError: naming the sticker: a name that is there or comes twice, features of
                another size, not finite or all zero; or another writer does not come to an end.
        """
        embeds = np.asarray(embeds, dtype=np.float32)
        names = list(names)
        captions = [None] * len(names) if captions is None else list(captions)
        packs = [pack] * len(names) if isinstance(pack, str) else list(pack)
        if embeds.shape != (len(names), self.size):
            raise ValueError(
                f"{self.folder}: features of shape {embeds.shape} for {len(names)} stickers; "
                f"expected {(len(names), self.size)}"
            )
        if not len(names) == len(captions) == len(packs):
            raise ValueError(
                f"{self.folder}: {len(names)} stickers, {len(captions)} captions and "
                f"{len(packs)} packs do not belong together"
            )
        norms = np.linalg.norm(embeds, axis=1)
        bad = ~np.isfinite(norms) | (norms == 0)
        if bad.any():
            raise ValueError(
                f"{self.folder}: the features of {names[int(bad.argmax())]!r} are not finite or "
                "all zero"
            )
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise ValueError(f"{self.folder}: {name!r} is added twice")
            seen.add(name)
        if not names:
            return
        with self._writing() as state:
            places = state.places(names)
            if (places >= 0).any():
                raise ValueError(
                    f"{self.folder}: {names[int((places >= 0).argmax())]!r} is in the index already"
                )
            parts = [_Rows(embeds, names, captions, packs)]
            kept = list(state.segments)
            removed = state.removed
            last = kept[-1] if kept else None
            if last is not None and last.faiss is None and last.rows < _SMALL_SEGMENT:
                start = state.rows - last.rows
                live = np.setdiff1d(np.arange(start, state.rows), removed)
                parts.insert(0, state.rows_at(live))
                removed = removed[removed < start]
                kept.pop()
            number, manifest = self._next(state)
            self._write_segment(number, parts)
            manifest["segments"] = [segment.entry for segment in kept]
            manifest["segments"].append(
                {"number": number, "rows": sum(len(part) for part in parts), "probes": None}
            )
            self._commit(manifest, removed)

    def remove(self, names: Sequence[str]) -> None:
        """Remove stickers; they are not found any more.

        Raises:
            ValueError: naming a sticker that is not there; or another writer does not end.
        """
        names = list(dict.fromkeys(names))
        with self._writing() as state:
            places = state.places(names)
            if (places < 0).any():
                raise ValueError(
                    f"{self.folder}: there is no sticker {names[int((places < 0).argmax())]!r}"
                )
            _, manifest = self._next(state)
            self._commit(manifest, np.union1d(state.removed, places))

    def optimize(
        self,
        queries: Tensor | np.ndarray | None = None,
        progress: Callable[[str, int, int], object] | None = None,
    ) -> None:
        """Write the index anew as one segment, without what was removed.

        With more than `exact_below` stickers an inverted file is trained and tuned: axes are kept
        and lists looked into until recall@10 against exact search is as asked for. Stopped at any
        moment, the index is what it was.

        Args:
            queries: (Q, D), h~_T of dialogues like those to come, to tune with. Without them,
                pairs of stickers are averaged, which is harder to search for than a sticker.
            progress: called with a stage's name, how much of it is done, and of how much.
        """
        with self._writing() as state:
            live = np.setdiff1d(np.arange(state.rows), state.removed)
            number, manifest = self._next(state)
            beside = self._write_segment(number, state.blocks(live), commit=False)
            entry = {"number": number, "rows": len(live), "probes": None}
            if len(live) > manifest["exact_below"]:
                segment = _Segment.open(beside, entry, self.size)
                entry["probes"], entry["recall"] = _build(
                    segment,
                    beside,
                    manifest["recall"],
                    None if queries is None else _checked_queries(queries, self.size),
                    progress or (lambda *_: None),
                )
            beside.replace(self._segment(number))
            manifest["segments"] = [entry] if len(live) else []
            self._commit(manifest, np.empty(0, dtype=np.int64))

    def _search(self, state: _State, queries, count: int, packs) -> tuple[Tensor, Tensor]:
        wanted = _checked_queries(queries, self.size)
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        if packs is not None:
            unknown = sorted(set(packs) - state.packs())
            if unknown:
                raise ValueError(f"{self.folder}: there is no pack {unknown[0]!r}")
        allowed = state.allowed(None if packs is None else tuple(packs))
        there = state.rows if allowed is None else int(allowed.sum())
        exact = packs is not None and there <= state.manifest["exact_below"]
        found = [
            segment.search(
                wanted,
                count,
                None if allowed is None else allowed[start : start + segment.rows],
                exact,
                start,
            )
            for start, segment in zip(state.starts, state.segments, strict=True)
        ]
        count = min(count, there)
        if not found:
            return torch.empty(len(wanted), 0), torch.empty(len(wanted), 0, dtype=torch.long)
        similar = torch.cat([each[0] for each in found], dim=1)
        rows = torch.cat([each[1] for each in found], dim=1)
        # By row first, so that a stable sort leaves the lower one in front.
        order = rows.argsort(dim=1)
        similar, rows = similar.gather(1, order), rows.gather(1, order)
        order = similar.sort(dim=1, descending=True, stable=True).indices[:, :count]
        return similar.gather(1, order), rows.gather(1, order)

    def _read(self, before: _State | None = None) -> _State:
        last: Exception | None = None
        # A writer may replace the manifest, and delete what it no longer names, in between.
        for attempt in range(10):
            time.sleep(0.01 * attempt)
            manifest = _read_json(self.folder / _MANIFEST)
            try:
                return _State.open(self.folder, manifest, before)
            except FileNotFoundError as error:
                last = error
        raise ValueError(f"{self.folder}: a damaged index ({last})")

    @contextmanager
    def _writing(self) -> Iterator[_State]:
        """Lock out other writers, and see what the last of them left."""
        try:
            from filelock import FileLock, Timeout
        except ImportError as error:
            raise ImportError("changing an index needs filelock: pip install filelock") from error
        lock = FileLock(self.folder / "lock", timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"{self.folder}: another process has been writing for {_LOCK_SECONDS:.0f} s"
            ) from None
        try:
            self.refresh()
            self._clean()
            yield self._state
        finally:
            lock.release()

    def _next(self, state: _State) -> tuple[int, dict]:
        manifest = json.loads(json.dumps(state.manifest))
        number = manifest["next"]
        manifest["next"] = number + 1
        return number, manifest

    def _segment(self, number: int) -> Path:
        return self.folder / f"segment-{number}"

    def _write_segment(self, number: int, parts, commit: bool = True) -> Path:
        beside = self.folder / f".segment-{number}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        _write_rows(beside, parts, self.size)
        if commit:
            beside.replace(self._segment(number))
        return beside

    def _commit(self, manifest: dict, removed: np.ndarray) -> None:
        manifest["removed"] = None
        if len(removed):
            # Its own name at each change, since readers may have the last one open.
            manifest["removed"] = f"removed-{manifest['next'] - 1}.npy"
            with open(self.folder / manifest["removed"], "wb") as file:
                np.save(file, removed.astype(np.int64))
        _write_json(self.folder / _MANIFEST, manifest)
        self._state = self._read(self._state)
        self._clean()

    def _clean(self) -> None:
        """Delete what the manifest does not name: old states, and what a killed writer left."""
        manifest = self._state.manifest
        named = {self._segment(entry["number"]).name for entry in manifest["segments"]}
        named |= {manifest["removed"], _MANIFEST, "lock"}
        for path in self.folder.iterdir():
            ours = path.name.lstrip(".").startswith(("segment-", "removed-", _MANIFEST))
            if ours and path.name not in named:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@dataclass
class _Rows:
    """Stickers on their way into a segment."""

    embeds: np.ndarray
    names: list[str]
    captions: list[str | None]
    packs: list[str]

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class _Segment:
    """Stickers that never change, memory-mapped."""

    entry: dict
    embeds: np.ndarray  # (n, D)
    norms: np.ndarray  # (n,)
    stickers: object  # a table of name, caption, pack
    faiss: object | None
    axes: np.ndarray | None  # (d, D)

    @property
    def rows(self) -> int:
        return self.entry["rows"]

    @classmethod
    def open(cls, folder: Path, entry: dict, size: int) -> _Segment:
        try:
            # Copy-on-write: torch wants writable memory, and nobody writes.
            embeds = np.load(folder / "embeds.npy", mmap_mode="c")
            norms = np.load(folder / "norms.npy", mmap_mode="c")
            stickers = _read_table(folder / "stickers.arrow")
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: a damaged segment ({error})") from error
        rows = entry["rows"]
        if embeds.shape != (rows, size) or norms.shape != (rows,) or stickers.num_rows != rows:
            raise ValueError(
                f"{folder}: a damaged segment, of {embeds.shape} features and "
                f"{stickers.num_rows} stickers where {(rows, size)} are named"
            )
        index = axes = None
        if entry["probes"] is not None:
            index, axes = _open_faiss(folder / "nearest.faiss"), _load(folder / "axes.npy")
            if axes.shape != (index.d, size) or index.ntotal != rows:
                raise ValueError(
                    f"{folder}: a damaged segment, of {index.ntotal} rows along {index.d} axes "
                    f"where {rows} along {axes.shape} are named"
                )
        return cls(entry, embeds, norms, stickers, index, axes)

    def column(self, name: str, rows: np.ndarray) -> list:
        """Return a column's values at rows."""
        column = self.stickers[name]
        if len(rows) > _FEW_VALUES:
            return column.take(_arrow(rows)).to_pylist()
        # `take` looks at every chunk, of which a million stickers have 60.
        ends = np.cumsum([len(chunk) for chunk in column.chunks])
        numbers = np.searchsorted(ends, rows, side="right")
        inner = rows - np.concatenate([[0], ends])[numbers]
        return [
            column.chunk(number)[place].as_py()
            for number, place in zip(numbers.tolist(), inner.tolist(), strict=True)
        ]

    def directions(self, rows) -> np.ndarray:
        """Return v of rows (..., D), of length 1."""
        return self.embeds[rows] / self.norms[rows, None]

    def search(
        self, queries: Tensor, count: int, allowed: np.ndarray | None, exact: bool, start: int
    ) -> tuple[Tensor, Tensor]:
        """Return similarities (B, n) and rows from `start` on, in no particular order."""
        if allowed is not None:
            rows = np.flatnonzero(allowed)
            if exact or self.faiss is None:
                similar, places = self._compare(queries, count, rows)
                return similar, places + start
            count = min(count, len(rows))
        if self.faiss is None or exact:
            similar, places = self._compare(queries, count, None)
        else:
            similar, places = self._probe(queries, count, allowed)
        return similar, places + start

    def _compare(
        self, queries: Tensor, count: int, rows: np.ndarray | None
    ) -> tuple[Tensor, Tensor]:
        """Compare with all rows, or with some, and keep the best."""
        total = self.rows if rows is None else len(rows)
        best = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
        for first in range(0, total, _ROWS_A_PASS):
            part = slice(first, min(first + _ROWS_A_PASS, total))
            chosen = part if rows is None else rows[part]
            similar = queries @ torch.from_numpy(self.embeds[chosen]).T
            similar /= torch.from_numpy(self.norms[chosen])
            places = torch.arange(part.start, part.stop).expand(len(queries), -1)
            similar = torch.cat([best[0], similar], dim=1)
            places = torch.cat([best[1], places], dim=1)
            # Stable, where topk may take any of equals.
            if similar.shape[1] > count:
                kept = _first_best(similar, count)
                similar, places = similar.gather(1, kept), places.gather(1, kept)
            best = similar, places
        if rows is None:
            return best
        return best[0], torch.from_numpy(rows)[best[1]]

    def _probe(
        self, queries: Tensor, count: int, allowed: np.ndarray | None
    ) -> tuple[Tensor, Tensor]:
        """Ask the inverted file, and compare what it finds exactly."""
        import faiss

        probes, options = self.entry["probes"], {}
        if allowed is not None:
            # Both must live as long as the search.
            bits = np.packbits(allowed, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
            # The fewer may be found, the farther away are the nearest of them.
            wider = probes * self.rows / max(int(allowed.sum()), 1)
            probes = min(int(np.ceil(wider)), self.faiss.nlist)
        asked = min(max(_SPARE * count, _CANDIDATES), self.rows)
        parameters = faiss.SearchParametersIVF(nprobe=probes, **options)
        # What all rows have in common was taken off them; off a query it would change the order.
        along = np.ascontiguousarray(queries.numpy() @ self.axes.T)
        _, found = self.faiss.search(along, asked, params=parameters)
        similar = torch.full(found.shape, float("-inf"))
        for row, places in enumerate(found):
            # In rising order, as they lie in the file; -1 stands for nothing more found.
            places = found[row] = np.sort(places)
            real = places >= 0
            embeds = torch.from_numpy(self.embeds[places[real]])
            norms = torch.from_numpy(self.norms[places[real]])
            similar[row, torch.from_numpy(real)] = (embeds @ queries[row]) / norms
        places = torch.from_numpy(found)
        kept = _first_best(similar, min(count, similar.shape[1]))
        similar, places = similar.gather(1, kept), places.gather(1, kept)
        short = similar[:, -1:].isinf().any(1) if similar.shape[1] else torch.tensor([])
        if not short.any():
            return similar, places
        # Too few in the lists that were looked into, as for a narrow pack: compare with all.
        rows = None if allowed is None else np.flatnonzero(allowed)
        again = self._compare(queries[short], count, rows)
        similar[short], places[short] = again[0], again[1]
        return similar, places


@dataclass
class _State:
    """What one manifest names."""

    manifest: dict
    segments: tuple[_Segment, ...]
    removed: np.ndarray
    starts: list[int] = field(init=False)
    rows: int = field(init=False)
    _masks: dict = field(init=False, default_factory=dict)
    _packs: set[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        sizes = [segment.rows for segment in self.segments]
        self.starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self.rows = sum(sizes)

    @classmethod
    def open(cls, folder: Path, manifest: dict, before: _State | None) -> _State:
        # Segments never change: those that are open already stay open.
        there = {}
        if before is not None and before.manifest["id"] == manifest["id"]:
            there = {segment.entry["number"]: segment for segment in before.segments}
        segments = tuple(
            there.get(entry["number"])
            or _Segment.open(folder / f"segment-{entry['number']}", entry, manifest["size"])
            for entry in manifest["segments"]
        )
        removed = np.empty(0, dtype=np.int64)
        if manifest["removed"] is not None:
            removed = np.array(_load(folder / manifest["removed"]))
            rows = sum(segment.rows for segment in segments)
            if removed.ndim != 1 or len(removed) and not 0 <= removed.min() <= removed.max() < rows:
                raise ValueError(f"{folder / manifest['removed']}: not rows of this index")
        return cls(manifest, segments, removed)

    def packs(self) -> set[str]:
        """Return the packs of which something is left."""
        if self._packs is None:
            found: set[str] = set()
            for segment in self.segments:
                found.update(segment.stickers["pack"].unique().to_pylist())
            if len(self.removed):
                found = {pack for pack in found if self.live_of_packs((pack,)).any()}
            self._packs = found
        return self._packs

    def allowed(self, packs: tuple[str, ...] | None) -> np.ndarray | None:
        """Return which rows may be found, (rows,); None for all."""
        if packs is not None:
            return self.live_of_packs(packs)
        if not len(self.removed):
            return None
        if packs not in self._masks:
            live = np.ones(self.rows, dtype=bool)
            live[self.removed] = False
            self._masks[packs] = live
        return self._masks[packs]

    def live_of_packs(self, packs: tuple[str, ...]) -> np.ndarray:
        """Return which rows belong to the packs and were not removed."""
        if packs not in self._masks:
            import pyarrow as pa
            import pyarrow.compute as pc

            wanted = pa.array(packs, pa.string())
            parts = [
                pc.is_in(segment.stickers["pack"], value_set=wanted).to_numpy()
                for segment in self.segments
            ]
            mask = np.concatenate(parts) if parts else np.zeros(0, dtype=bool)
            mask[self.removed] = False
            if len(self._masks) > 64:
                self._masks.clear()
            self._masks[packs] = mask
        return self._masks[packs]

    def places(self, names: Sequence[str]) -> np.ndarray:
        """Return the row of each name, -1 for one that is not there."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(list(names), pa.string())
        found = np.full(len(wanted), -1, dtype=np.int64)
        gone = np.zeros(self.rows, dtype=bool)
        gone[self.removed] = True
        for start, segment in zip(self.starts, self.segments, strict=True):
            # The rows of the segment that bear a wanted name, and which.
            which = pc.index_in(segment.stickers["name"], value_set=wanted)
            rows = np.flatnonzero(which.is_valid().to_numpy())
            live = rows[~gone[rows + start]]
            found[which.take(pa.array(live)).to_numpy()] = live + start
        return found

    def column(self, name: str, rows: np.ndarray) -> list:
        """Return a column's values at rows."""
        values: list = [None] * len(rows)
        for places, segment, inner in self._by_segment(rows):
            taken = segment.column(name, inner)
            for place, value in zip(places.tolist(), taken, strict=True):
                values[place] = value
        return values

    def rows_at(self, rows: np.ndarray) -> _Rows:
        """Return the stickers at rows, copied."""
        embeds = np.empty((len(rows), self.manifest["size"]), dtype=np.float32)
        for places, segment, inner in self._by_segment(rows):
            embeds[places] = segment.embeds[inner]
        return _Rows(embeds, *(self.column(name, rows) for name in ("name", "caption", "pack")))

    def blocks(self, rows: np.ndarray) -> Iterator[_Rows]:
        """Yield the stickers at rows, some at a time."""
        for first in range(0, len(rows), _ROWS_A_PASS):
            yield self.rows_at(rows[first : first + _ROWS_A_PASS])

    def take(self, rows: np.ndarray) -> StickerPack:
        """Return the stickers at rows as a pack."""
        taken = self.rows_at(rows)
        return StickerPack(taken.names, taken.captions, torch.from_numpy(taken.embeds))

    def _by_segment(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, _Segment, np.ndarray]]:
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            yield places, self.segments[number], rows[places] - self.starts[number]


def _first_best(similar: Tensor, count: int) -> Tensor:
    """Return the places of the `count` largest of each row; of equals those in front."""
    if similar.shape[1] <= 4 * count:
        return similar.sort(dim=1, descending=True, stable=True).indices[:, :count]
    least = similar.topk(count, dim=1).values[:, -1:]
    # Ties at the edge are rare: sort the few that reach it.
    width = int((similar >= least).sum(1).max())
    reach = similar.masked_fill(similar < least, float("-inf"))
    places = (reach > float("-inf")).to(torch.uint8).sort(dim=1, descending=True, stable=True)
    places = places.indices[:, :width]
    order = reach.gather(1, places).sort(dim=1, descending=True, stable=True).indices[:, :count]
    return places.gather(1, order)


def _checked_queries(queries, size: int) -> Tensor:
    queries = torch.as_tensor(queries).detach().float().cpu()
    if queries.dim() != 2 or queries.shape[1] != size:
        raise ValueError(f"queries of shape {tuple(queries.shape)}; the index wants (B, {size})")
    if not queries.isfinite().all():
        row = int((~queries.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"query {row} is not finite")
    return torch.nn.functional.normalize(queries, dim=1).contiguous()


def _build(
    segment: _Segment,
    folder: Path,
    recall: float,
    queries: Tensor | None,
    progress: Callable[[str, int, int], object],
) -> tuple[int, float]:
    """Train and write the inverted file of a segment; return its probes and its recall@10."""
    faiss = _faiss()
    rows, size = segment.embeds.shape
    draw = np.random.default_rng(0)
    progress("training", 0, 1)
    sample = segment.directions(np.sort(draw.choice(rows, min(rows, _AXES_SAMPLE), replace=False)))
    mean = sample.mean(0)
    if queries is None:
        pairs = draw.choice(rows, (_TUNING_QUERIES, 2))
        queries = _checked_queries(segment.directions(pairs).sum(1), size)
    queries = queries[:_TUNING_QUERIES]
    # By similarity, so that another of equals is as good.
    similar, _ = segment._compare(queries, min(_TUNING_COUNT, rows), None)
    least = similar.sort(dim=1, descending=True).values[:, -1:] - 1e-6
    axes = _axes(segment, sample - mean, queries, least, recall)
    lists = 2 ** round(np.log2(np.sqrt(rows)))
    index = faiss.index_factory(len(axes), f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.seed = 10, 0
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, len(sample)
    index.train(np.ascontiguousarray((sample - mean) @ axes.T))
    progress("training", 1, 1)
    for first in range(0, rows, _ROWS_A_PASS):
        part = slice(first, min(first + _ROWS_A_PASS, rows))
        index.add(np.ascontiguousarray((segment.directions(part) - mean) @ axes.T))
        progress("adding", part.stop, rows)
    searched = _Segment({"rows": rows}, segment.embeds, segment.norms, None, index, axes)
    probes, reached = _tune(searched, queries, least, recall)
    progress("tuning", 1, 1)
    np.save(folder / "axes.npy", axes)
    faiss.write_index(index, os.fspath(folder / "nearest.faiss"))
    return probes, reached


def _axes(
    segment: _Segment, centred: np.ndarray, queries: Tensor, least: Tensor, recall: float
) -> np.ndarray:
    """Return the main axes (d, D): as few as leave the nearest among the candidates."""
    size = centred.shape[1]
    _, main = np.linalg.eigh(centred.T @ centred)
    main = np.ascontiguousarray(main.T[::-1], dtype=np.float32)
    for kept in _AXES:
        if kept >= size:
            break
        axes = torch.from_numpy(main[:kept])
        # Half of what may be missed is left to the lists that are not looked into.
        if _seen(segment, queries, axes, least) >= (1 + recall) / 2:
            return main[:kept]
    return main


def _seen(segment: _Segment, queries: Tensor, axes: Tensor, least: Tensor) -> float:
    """Say how many of the nearest are candidates if all rows are compared along the axes."""
    best = torch.empty(len(queries), 0), torch.empty(len(queries), 0)
    along = queries @ axes.T
    for first in range(0, segment.rows, _ROWS_A_PASS):
        part = slice(first, min(first + _ROWS_A_PASS, segment.rows))
        rows = torch.from_numpy(segment.directions(part))
        shown = torch.cat([best[0], along @ (rows @ axes.T).T], dim=1)
        similar = torch.cat([best[1], queries @ rows.T], dim=1)
        kept = shown.topk(min(_CANDIDATES, shown.shape[1]), dim=1).indices
        best = shown.gather(1, kept), similar.gather(1, kept)
    nearest = (best[1] >= least).sum(1).clamp(max=_TUNING_COUNT)
    return float(nearest.float().mean()) / min(_TUNING_COUNT, segment.rows)


def _tune(searched: _Segment, queries: Tensor, least: Tensor, recall: float) -> tuple[int, float]:
    """Look into more lists until recall@10 is as wanted."""
    probes, count = 4, min(_TUNING_COUNT, searched.rows)
    while True:
        searched.entry["probes"] = probes
        found, _ = searched._probe(queries, count, None)
        reached = float((found >= least).float().mean())
        if reached >= recall or probes >= searched.faiss.nlist:
            return probes, reached
        probes = min(int(np.ceil(probes * 1.3)), searched.faiss.nlist)


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error})") from error


def _open_faiss(path: Path):
    faiss = _faiss()
    try:
        index = faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there") from None
        raise ValueError(f"{path}: a damaged index ({str(error).splitlines()[0]})") from error
    # It would start 32 threads for each search, to read ahead what is mostly in memory: they cost
    # three times what the search does.
    faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
    return index


def _faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "more stickers than are compared one by one need FAISS: pip install faiss-cpu"
        ) from error
    return faiss


def _arrow(rows: np.ndarray):
    import pyarrow as pa

    return pa.array(rows)


def _write_rows(folder: Path, parts, size: int) -> None:
    """Write a segment's files from parts, each in memory only while it is written."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in ("name", "caption", "pack")])
    rows, norms = 0, []
    with (
        open(folder / "embeds.npy", "w+b") as file,
        pa.OSFile(os.fspath(folder / "stickers.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, schema) as table,
    ):
        # The number of rows is known at the end: a header of the same length is written twice.
        _write_header(file, 0, size)
        for part in parts:
            file.write(np.ascontiguousarray(part.embeds, dtype="<f4").tobytes())
            norms.append(np.linalg.norm(part.embeds, axis=1).astype(np.float32))
            columns = (part.names, part.captions, part.packs)
            table.write_batch(
                pa.record_batch([pa.array(each, pa.string()) for each in columns], schema=schema)
            )
            rows += len(part)
        file.seek(0)
        _write_header(file, rows, size)
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / "norms.npy", np.concatenate(norms) if norms else np.empty(0, np.float32))


def _write_header(file, rows: int, size: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, size)}
    np.lib.format.write_array_header_1_0(file, header)


def _read_table(path: Path):
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError("an index of stickers needs pyarrow: pip install pyarrow") from error
    try:
        with pa.memory_map(os.fspath(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: holds no index of stickers") from None
    except ValueError as error:
        raise ValueError(f"{path}: not a readable index of stickers ({error})") from error
    if not isinstance(read, dict) or read.get("version") != _VERSION:
        raise ValueError(f"{path}: not the manifest of an index of stickers of this version")
    lacking = _KEYS - read.keys()
    for entry in read.get("segments", ()):
        lacking |= {"number", "rows", "probes"} - set(entry)
    if lacking:
        raise ValueError(f"{path}: lacks {', '.join(sorted(lacking))}")
    return read


def _write_json(path: Path, value: dict) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
