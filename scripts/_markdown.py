# SPDX-License-Identifier: Apache-2.0
"""Tables of Markdown, for the pages that scripts write from results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def row(cells: Iterable[str]) -> str:
    """Write one row of a table."""
    return "| " + " | ".join(cells) + " |"


def head(cells: Sequence[str]) -> list[str]:
    """Write a table's head and the line under it."""
    return [row(cells), row(["---"] * len(cells))]


def difference(found: Mapping | None, digits: int = 1) -> str:
    """Write a difference with its interval and p; "-" for None."""
    if found is None:
        return "-"
    p = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
    mean, low, high = (f"{found[key]:+.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}], {p}"
