# SPDX-License-Identifier: Apache-2.0
"""Answer many chats at once over HTTP: what waits is ranked together, in one pass of the model."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from .pipeline_cks import StickerSelectionPipeline
from .processing_cks import read_dialogue
from .sticker_pack import StickerPack
from .utterance_features import UtteranceFeatures

_LONGEST_BODY = 1 << 20
_RETRY_SECONDS = 1


class ClosedError(RuntimeError):
    """Nothing is answered any more."""


class FullError(RuntimeError):
    """So many requests wait already that another would wait too long."""


@dataclass
class _Request:
    dialogue: list[dict[str, Any]]
    top_k: int | None
    # Only what is asked alike is ranked together.
    options: tuple[tuple[str, Any], ...]
    answer: Future = field(default_factory=Future)


class Batcher:
    """Choose stickers for requests of many threads, as many at once as wait.

    One thread of its own owns the model. While it works, requests gather; nothing waits for others
    to come. Utterances that any of them had before are not encoded again, and COMET reads the new
    ones of all in one pass.

    Args:
        select: the pipeline.
        stickers: a pack or an index.
        max_batch: dialogues ranked together at most.
        max_waiting: requests that may wait; more are refused.
        knowledge: False leaves COMET out.
        **options: `match_best`, `candidates`, as those of a call of the pipeline.
    """

    def __init__(
        self,
        select: StickerSelectionPipeline,
        stickers,
        max_batch: int = 16,
        max_waiting: int = 256,
        knowledge: bool = True,
        **options,
    ):
        if max_batch < 1 or max_waiting < 1:
            raise ValueError("max_batch and max_waiting must be at least 1")
        self.select, self.stickers, self.max_batch = select, stickers, max_batch
        self.batches = 0
        self._closed, self._lock = False, threading.Lock()
        self._knowledge, self._options = knowledge, options
        self._features = UtteranceFeatures(select.model, select.processor)
        self._waiting: queue.Queue[_Request | None] = queue.Queue(max_waiting)
        self._next: _Request | None = None
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._waiting.qsize()

    def submit(
        self,
        dialogue: Sequence,
        top_k: int | None = None,
        explain: bool = False,
        packs: Sequence[str] | None = None,
    ) -> Future:
        """Ask for a choice; the future's result is the pipeline's answer.

        Raises:
            ValueError: the dialogue cannot be read.
            FullError: too many wait already.
            ClosedError: it was closed.
        """
        turns = read_dialogue(dialogue)[-self.select.processor.max_utterances :]
        options = (("explain", explain), ("packs", None if packs is None else tuple(packs)))
        request = _Request(turns, top_k, options)
        with self._lock:
            if self._closed:
                raise ClosedError("closed: nothing is answered any more")
            try:
                self._waiting.put_nowait(request)
            except queue.Full:
                raise FullError(f"{self._waiting.maxsize} requests wait already") from None
        return request.answer

    def close(self) -> None:
        """Answer what waits, and end; to close again does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            first = self._next or self._waiting.get()
            self._next = None
            if first is None:
                return
            batch, last = self._gather(first)
            batch = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)
            if last:
                return

    def _gather(self, first: _Request) -> tuple[list[_Request], bool]:
        """Take what waits now and is asked alike; True if this is the end."""
        batch = [first]
        while len(batch) < self.max_batch:
            try:
                request = self._waiting.get_nowait()
            except queue.Empty:
                break
            if request is None:
                return batch, True
            if request.options != first.options:
                self._next = request
                break
            batch.append(request)
        return batch, False

    def _answer(self, batch: list[_Request]) -> None:
        try:
            answers = self._choose(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            # One of them is at fault, and the others are not.
            for one in batch if len(batch) > 1 else ():
                self._answer([one])
            return
        for one, answer in zip(batch, answers, strict=True):
            answer["stickers"] = answer["stickers"][: one.top_k]
            one.answer.set_result(answer)

    def _choose(self, batch: list[_Request]) -> list[dict[str, Any]]:
        if hasattr(self.stickers, "refresh"):
            self.stickers.refresh()  # what others have added to the index, or removed
        wanted = [one.top_k for one in batch]
        answers = self.select.choose(
            [one.dialogue for one in batch],
            self.stickers,
            knowledge=self._knowledge,
            features=self._features,
            top_k=None if None in wanted else max(wanted),
            **dict(batch[0].options),
            **self._options,
        )
        self.batches += 1
        return answers


def create_app(batcher: Batcher):
    """Make the Starlette application that answers in JSON.

    `POST /select` takes `{"dialogue": [...], "top_k": 3}`, and if wanted `"explain": true` and, of
    an index, `"packs": [...]`. Turns are as the pipeline takes them; a sticker in them is the name
    of one to choose from, never a file. The answer is the pipeline's. `GET /health` tells how many
    stickers there are and how many requests wait. What cannot be read is answered by 400, a body
    above 1 MiB by 413, and by 503 what would wait too long.

    Raises:
        ImportError: without starlette.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.responses import JSONResponse
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError("serving needs starlette and uvicorn: pip install cks[serve]") from error

    def refused(status: int, message: str, **headers: str):
        return JSONResponse({"error": message}, status, headers or None)

    async def select(request):
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_BODY:
                return refused(413, f"a request is at most {_LONGEST_BODY} bytes long")
        try:
            answer = batcher.submit(**_read(body, batcher.stickers))
        except ValueError as error:
            return refused(400, str(error))
        except (FullError, ClosedError) as error:
            return refused(503, str(error), **{"Retry-After": str(_RETRY_SECONDS)})
        try:
            return JSONResponse(await asyncio.wrap_future(answer))
        except ValueError as error:
            return refused(400, str(error))

    async def health(request):
        return JSONResponse(
            {"status": "ok", "stickers": len(batcher.stickers), "waiting": batcher.waiting}
        )

    async def http_error(request, error):
        return refused(error.status_code, error.detail)

    async def failed(request, error):
        # The log has the rest: it is nothing for strangers.
        return refused(500, "the request could not be answered; the server's log says why")

    @asynccontextmanager
    async def lifespan(app):
        yield
        await asyncio.to_thread(batcher.close)

    return Starlette(
        routes=[
            Route("/select", select, methods=["POST"]),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: http_error, Exception: failed},
        lifespan=lifespan,
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "dialogue": lambda value: isinstance(value, list) and bool(value),
    "top_k": lambda value: type(value) is int and value > 0,
    "explain": lambda value: isinstance(value, bool),
    "packs": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
}


def _read(body: bytes, stickers) -> dict[str, Any]:
    """Read a request.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is no JSON ({error})") from None
    if not isinstance(given, dict) or "dialogue" not in given:
        raise ValueError('the request is no object with a "dialogue"')
    for name, value in given.items():
        if name not in _FIELDS:
            raise ValueError(f"there is no field {name!r}, only {', '.join(_FIELDS)}")
        if not _FIELDS[name](value):
            raise ValueError(f"{name!r} cannot be {json.dumps(value)[:80]}")
    if "packs" in given and isinstance(stickers, StickerPack):
        raise ValueError("'packs' are those of an index, and here is none")
    for number, turn in enumerate(given["dialogue"]):
        sticker = turn.get("sticker") if isinstance(turn, Mapping) else None
        # A file of this machine is not for strangers to name.
        if sticker is not None and not (isinstance(sticker, str) and _known(sticker, stickers)):
            raise ValueError(f"turn {number}: there is no sticker {json.dumps(sticker)[:80]}")
    return given


def _known(name: str, stickers) -> bool:
    if isinstance(stickers, StickerPack):
        return stickers.place(name) is not None
    return not stickers.missing([name])
