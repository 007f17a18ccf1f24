# SPDX-License-Identifier: Apache-2.0
"""JSON objects that know where they come from, so that what is missing can be named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class CardError(ValueError):
    """A card that cannot be rendered; one line says what is missing or does not fit, and where."""


class Record(Mapping):
    """A JSON object that names its file and the field when a value is asked for and not there.

    A field that is null counts as missing: `in` says whether there is a value.

    Args:
        value: the object.
        file: what an error calls its file.
        place: where in the file the object lies, "" at the top.
    """

    def __init__(self, value: Mapping, file: str, place: str = "") -> None:
        if not isinstance(value, Mapping):
            raise CardError(f"{file}: {place or 'the file'} is not a JSON object")
        self.file, self.place = file, place
        self._value = value

    def __getitem__(self, key: str) -> object:
        if key not in self:
            raise CardError(f"{self.file}: there is no {self._name(key)}")
        return self._wrapped(self._value[key], self._name(key))

    def __contains__(self, key: object) -> bool:
        return self._value.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._value if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def get(self, key: str, default: object = None) -> object:
        """Return a field that may be missing."""
        if key not in self:
            return default
        return self[key]

    def plain(self) -> Mapping:
        """Return the object as it was read."""
        return self._value

    def _name(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def _wrapped(self, value: object, place: str) -> object:
        if isinstance(value, Mapping):
            return Record(value, self.file, place)
        if isinstance(value, list):
            return [self._wrapped(one, f"{place}[{i}]") for i, one in enumerate(value)]
        return value
