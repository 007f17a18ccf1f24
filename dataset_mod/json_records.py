# SPDX-License-Identifier: Apache-2.0
"""Read a big JSON file record by record, without ever holding the whole of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_ENDS = frozenset(" \t\n\r,:]}")
_DECODE = json.JSONDecoder().raw_decode


class ReleaseError(ValueError):
    """A release that cannot be read; the message names the file, the record and the turn."""


class JSONRecords:
    """The members of a JSON file whose top level is one object or one list.

    Args:
        path: the file; UTF-8, with or without a byte order mark.
        name: what error messages call the file.

    Iterating yields (offset, key, value): the character at which the member begins (whatever
    the reader, the same member begins at the same offset), its key in an object or its position
    in a list, and the decoded value. `is_object` tells the two apart.

    Raises:
        ReleaseError: the file is not valid JSON, not UTF-8, or its top level is a bare value.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        with self._open() as cursor:
            self.is_object = cursor.opening() == "{"

    def __iter__(self) -> Iterator[tuple[int, str | int, object]]:
        """Yield (offset, key, value) of each member, in order."""
        with self._open() as cursor:
            closing = "}" if cursor.opening() == "{" else "]"
            cursor.position += 1
            position = 0
            if cursor.peek() == closing:
                cursor.position += 1
            else:
                while True:
                    cursor.peek()
                    offset = cursor.dropped + cursor.position
                    key: str | int = position
                    if closing == "}":
                        if cursor.peek() != '"':
                            cursor.fail("expected a key in double quotes")
                        key = cursor.value()
                        cursor.expect(":")
                        cursor.peek()
                    yield offset, key, cursor.value()
                    position += 1
                    if cursor.expect("," + closing) == closing:
                        break
            if cursor.peek():
                cursor.fail("text after the end")

    def _open(self) -> _Cursor:
        return _Cursor(self.path, self.name)


class _Cursor:
    """A window on the text: `buffer`, the place in it, and what came before it."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.buffer, self.position = "", 0
        self.dropped, self.lines = 0, 0
        self._handle = path.open(encoding="utf-8-sig")

    def __enter__(self) -> _Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def opening(self) -> str:
        """Return the bracket the file opens with, which stays unread."""
        found = self.peek()
        if found not in ("{", "["):
            self.fail("expected an object or a list")
        return found

    def peek(self) -> str:
        """Step over white space and return the next character, "" at the end."""
        while True:
            self.position = _SPACE.match(self.buffer, self.position).end()
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._fill(_CHUNK):
                return ""

    def expect(self, wanted: str) -> str:
        """Step over one of the characters of `wanted` and return it."""
        found = self.peek()
        if not found or found not in wanted:
            self.fail("expected " + " or ".join(repr(one) for one in wanted))
        self.position += 1
        return found

    def value(self) -> object:
        """Decode the value that begins here."""
        size = _CHUNK
        while True:
            try:
                found, end = _DECODE(self.buffer, self.position)
            except json.JSONDecodeError as error:
                # Either the value goes on behind the window or it is broken: only more text tells.
                if not self._fill(size):
                    self.fail(error.msg[0].lower() + error.msg[1:], error.pos)
            except (RecursionError, ValueError) as error:
                # Nested too deeply, or a number of too many digits.
                self.fail(str(error))
            else:
                # A number cut by the window's edge ("1.5e") decodes too, to a wrong one.
                if self.buffer[end : end + 1] in _ENDS or not self._fill(size):
                    self.position = end
                    return found
            size *= 2

    def fail(self, problem: str, position: int | None = None) -> None:
        at = self.position if position is None else position
        line = self.lines + self.buffer.count("\n", 0, at) + 1
        raise ReleaseError(f"{self.name}: not valid JSON: {problem} at line {line}")

    def _fill(self, size: int) -> bool:
        try:
            more = self._handle.read(size)
        except UnicodeDecodeError as error:
            raise ReleaseError(f"{self.name}: not UTF-8 text ({error.reason})") from None
        if not more:
            return False
        self.lines += self.buffer.count("\n", 0, self.position)
        self.dropped += self.position
        self.buffer, self.position = self.buffer[self.position :] + more, 0
        return True
