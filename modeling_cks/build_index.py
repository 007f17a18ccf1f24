# SPDX-License-Identifier: Apache-2.0
"""Fill a `StickerIndex` from a folder or a table of stickers, in streaming."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .pipeline_cks import IMAGE_SUFFIXES, StickerSelectionPipeline
from .sticker_image import open_sticker
from .sticker_index import StickerIndex

_STICKERS_A_PASS = 64


@dataclass
class Built:
    """What became of the stickers of a source.

    Args:
        added: how many were added.
        known: how many were in the index already.
        other_files: how many files of the folder are no images.
        unreadable: name -> why, of those that were left out.
    """

    added: int = 0
    known: int = 0
    other_files: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def build_index(
    select: StickerSelectionPipeline,
    source,
    index: StickerIndex,
    *,
    captions: Mapping[str, str] | None = None,
    pack: str | None = None,
    skip_unreadable: bool = False,
    batch_size: int = _STICKERS_A_PASS,
    progress: Callable[[int, int], object] | None = None,
) -> Built:
    """Read, encode and add stickers, some at a time; stopped and begun again, it goes on.

    Args:
        select: the pipeline that encodes them, and reads their words.
        source: a folder of images, whose sub-folders are packs, or a table with `image`, `name` or
            `id`, and perhaps `caption` and `pack`.
        index: where they go; those that it has by name are left as they are.
        captions: texts by name, in the place of OCR.
        pack: the pack of all, in the place of the source's own.
        skip_unreadable: leave out what cannot be read, instead of ending there.
        batch_size: stickers encoded at once and then written.
        progress: called with how many stickers are done, and of how many.

    Raises:
        ValueError: naming the sticker that cannot be read; a source without stickers, or with two
            of one name; captions of unknown stickers; an index of another model.
    """
    index.check_model(select.model)
    stickers, other_files = _list(source)
    names = [name for name, _ in stickers]
    if not names:
        raise ValueError(f"there is no sticker in {_shown(source)}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"the stickers to add hold {twice[0]!r} twice")
    captions = dict(captions or {})
    unknown = sorted(set(captions) - set(names))
    if unknown:
        raise ValueError(f"captions name a sticker that is not there: {unknown[0]!r}")
    wanted = set(index.missing(names))
    built = Built(known=len(names) - len(wanted), other_files=other_files)
    pending = [(name, load) for name, load in stickers if name in wanted]
    done = built.known
    for first in range(0, len(pending), batch_size):
        part = pending[first : first + batch_size]
        images, texts, packs = {}, {}, {}
        for name, load in part:
            try:
                image, text, own = load()
                images[name] = open_sticker(image)
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())
                if not skip_unreadable:
                    raise ValueError(f"{_shown(source)}: sticker {name!r}: {reason}") from error
                built.unreadable[name] = reason
                continue
            packs[name] = own if pack is None else pack
            text = captions.get(name, text)
            if text is not None:
                texts[name] = text
        if images:
            ready = select.load_stickers(images, captions=texts)
            index.add(
                ready.names, ready.embeds, ready.captions, [packs[name] for name in ready.names]
            )
            built.added += len(ready)
        done += len(part)
        if progress is not None:
            progress(done, len(names))
    return built


Load = Callable[[], tuple[object, str | None, str]]


def _shown(source) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else "the table of stickers"


def _list(source) -> tuple[list[tuple[str, Load]], int]:
    """Name the stickers of a source, and how to read each: image, caption, pack."""
    if isinstance(source, (str, os.PathLike)):
        return _list_folder(Path(source))
    columns = getattr(source, "column_names", None)
    if columns is None or "image" not in columns:
        raise ValueError("stickers come as a folder or as a table with a column `image`")
    named = next((column for column in ("name", "id") if column in columns), None)
    names = list(source[named]) if named else [str(number) for number in range(len(source))]

    def load(number: int) -> tuple[object, str | None, str]:
        row = source[number]
        return row["image"], row.get("caption"), row.get("pack") or ""

    return [(name, _bound(load, number)) for number, name in enumerate(names)], 0


def _list_folder(folder: Path) -> tuple[list[tuple[str, Load]], int]:
    if not folder.is_dir():
        raise ValueError(f"there is no folder of stickers at {folder}")
    stickers, others = [], 0
    for path in _files(folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            others += 1
            continue
        name = path.relative_to(folder)
        pack = name.parent.as_posix() if len(name.parts) > 1 else ""
        stickers.append((name.as_posix(), _bound(_file, path, pack)))
    return stickers, others


def _file(path: Path, pack: str) -> tuple[object, str | None, str]:
    return path, None, pack


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(place, name)


def _bound(load: Callable, *arguments) -> Load:
    return lambda: load(*arguments)
