# SPDX-License-Identifier: Apache-2.0
"""Plots of the bias report, as SVG that takes its colours from the page."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence

# Stand-ins that matplotlib can draw with; the page knows its own colours in light and in dark.
_INK, _SOFT, _LINE = "#010203", "#010204", "#010205"
_ACCENT, _BAD, _GOOD, _GLOW = "#010206", "#010207", "#010208", "#010209"
_VARIABLES = {
    _INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)", _ACCENT: "var(--accent)",
    _BAD: "var(--bad)", _GOOD: "var(--good)", _GLOW: "rgb(var(--glow))",
}  # fmt: skip
_SERIES = ((_ACCENT, "o"), (_GOOD, "s"), (_BAD, "D"), (_GLOW, "^"))
_GROUPS = {"aligned": (_ACCENT, 0.5), "conflicting": (_BAD, 0.5), "neutral": (_SOFT, 0.35)}
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "bias", "font.size": 10, "axes.edgecolor": _LINE,
    "text.color": _INK, "axes.labelcolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
}  # fmt: skip
_ANNOTATED = 12  # a cross table of more emotions has no room for numbers


def groups_plot(groups: Mapping[str, Mapping[str, Mapping]]) -> str:
    """Draw split -> group -> share as one bar a split."""
    figure, axes = _figure(8, 0.8 + 0.5 * len(groups))
    for place, of in enumerate(groups.values()):
        left = 0.0
        for group, one in of.items():
            width = 100 * (one["share"] or 0.0)
            colour, alpha = _GROUPS[group]
            axes.barh(place, width, left=left, height=0.62, color=colour, alpha=alpha,
                      label=group if place == 0 else None)  # fmt: skip
            if width >= 6:
                axes.text(left + width / 2, place, f"{width:.1f} %", ha="center", va="center")
            left += width
    axes.set_yticks(range(len(groups)), [split.replace("_", " ") for split in groups])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent of the labelled samples")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3,
                  frameon=False)  # fmt: skip
    return _svg(figure)


def shares_plot(rows: Mapping[str, Mapping[str, tuple[Mapping, float | None]]]) -> str:
    """Draw shares with their intervals, a line a row and a mark a series.

    Args:
        rows: row -> series -> (share, what it would be by chance).
    """
    series = list(dict.fromkeys(name for of in rows.values() for name in of))
    figure, axes = _figure(8, 1.0 + len(rows) * (0.24 + 0.16 * len(series)))
    for number, name in enumerate(series):
        colour, marker = _SERIES[number % len(_SERIES)]
        for place, of in enumerate(rows.values()):
            one, expected = of.get(name, ({"share": None}, None))
            if one["share"] is None:
                continue
            y = place + 0.7 * ((number + 0.5) / len(series) - 0.5)
            axes.plot([100 * one["low"], 100 * one["high"]], [y, y], color=colour, lw=1.6)
            axes.plot(100 * one["share"], y, marker, color=colour, ms=5)
            if expected is not None:
                axes.plot(100 * expected, y, "|", color=_INK, ms=9, mew=1.6)
        axes.plot([], [], marker, color=colour, label=name.replace("_", " "))
    axes.plot([], [], "|", color=_INK, ms=9, mew=1.6, label="by chance")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("percent")
    axes.grid(axis="x", color=_LINE, lw=0.8)
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=5,
                  frameon=False)  # fmt: skip
    return _svg(figure)


def cross_plot(
    counts: Sequence[Sequence[int]], names: Sequence[str], down: str, across: str
) -> str:
    """Draw a cross table, each line in percent of itself."""
    size = len(names)
    figure, axes = _figure(min(9, 1.6 + 0.36 * size), min(9, 1.4 + 0.33 * size))
    for row, line in enumerate(counts):
        total = sum(line)
        for column, count in enumerate(line):
            part = count / total if total else 0.0
            if part:
                axes.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5,
                                  color=_ACCENT, alpha=0.85 * part, lw=0)  # fmt: skip
            if total and size <= _ANNOTATED and part >= 0.005:
                axes.text(column, row, f"{100 * part:.0f}", ha="center", va="center", size=8)
    axes.set_xticks(range(size), list(names), rotation=90, color=_INK)
    axes.set_yticks(range(size), list(names))
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    return _svg(figure)


def _figure(width: float, height: float):
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(_STYLE)
    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure) -> str:
    """Return a figure as an inline element, in the page's colours and its font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # Several stand on one page: no name may be there twice, and few are used at all.
    mine = hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{mine}-", text)
    text = re.sub(r' id="([^"]+)"', rf' id="{mine}-\1"', text)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda name: name[0] if name[1] in used else "", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
