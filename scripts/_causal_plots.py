# SPDX-License-Identifier: Apache-2.0
"""The plots of causal_bench.py: figures against rho and against style, as SVG."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence

import _causal_page as page

from dataset_mod.sampling import CANDIDATES
from dataset_mod.synthetic_text import EMOTIONS

_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "causal", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#777777",
    "axes.grid": True, "grid.color": "#dddddd", "legend.frameon": False, "legend.fontsize": 9,
}  # fmt: skip
_OWN = "#d1495b"
_COLOURS = ("#2e4057", "#00798c", "#edae49", "#66a182", "#8d6a9f", "#a0522d", "#5f7d95", "#b07aa1")
_MARKERS = "sD^vP*X<>"
_REFERENCES = (("event_only", "knows the event", "--"), ("word_only", "knows the word", ":"))


def draw(found: Mapping) -> dict[str, str]:
    """Draw all plots; SVG by name. The same figures give the same bytes."""
    drawn = {}
    for training in found["trainings"]:
        drawn[f"rho-r1-{training}"] = rho_plot(found, training, "R@1", "R@1 (%)")
        drawn[f"rho-acc-{training}"] = rho_plot(found, training, "Acc", "Acc. (%)")
        drawn[f"style-{training}"] = style_plot(found, training)
    return drawn


def rho_plot(found: Mapping, training: str, figure: str, label: str) -> str:
    """Draw a figure of the easy test against rho: arrow cut above, as in training below."""
    canvas, grid = _canvas(2)
    chance = 100 / (len(EMOTIONS) if figure.startswith("Acc") else CANDIDATES)
    for cut, line in zip((True, False), grid, strict=True):
        tests = page.tests_of(found, cut)
        places = [test["rho"] for test in tests]
        paths = [(test["name"], "test_easy", "all", figure) for test in tests]
        for axes, names in zip(line, _panels(found, training), strict=True):
            _lines(axes, found, training, names, places, paths, chance)
            axes.set_xticks(places)
            axes.invert_xaxis()
            axes.set_ylim(0, None)
            axes.axvspan(0.1, 1 / 7, color="#eeeeee")
        line[0].set_ylabel(f"{label}, {'arrow cut' if cut else 'as in training'}")
    for axes in grid[-1]:
        axes.set_xlabel("ρ of the test: how often the word tells the emotion")
    _legends(grid[0])
    return _svg(canvas)


def style_plot(found: Mapping, training: str) -> str:
    """Draw R@1 at the training's end of rho against ever stranger stickers."""
    canvas, ((left, right),) = _canvas(1)
    places = page.style_places(found)
    test = page.tests_of(found, cut=True)[0]["name"]
    paths = [(test, *place, "R@1") for _, place in places]
    for axes, names in zip((left, right), _panels(found, training), strict=True):
        _lines(axes, found, training, names, list(range(len(places))), paths, 100 / CANDIDATES)
        axes.set_xticks(range(len(places)), [title.replace(", ", ",\n").replace(" (", "\n(")
                                             for title, _ in places])  # fmt: skip
        axes.set_ylim(0, None)
    _legends((left, right))
    left.set_ylabel("R@1 (%), arrow cut")
    return _svg(canvas)


def _legends(line) -> None:
    """Name the lines above each panel of the first row, where they hide none."""
    for axes in line:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _panels(found: Mapping, training: str) -> tuple[list[str], list[str]]:
    """Split what was trained: CKS and the baselines, and CKS and its variants."""
    there = [name for name, model in found["models"].items() if training in model["rho"]]
    kinds = {name: found["models"][name]["kind"] == "cks" for name in there}
    own = [name for name in there if name == page.REFERENCE]
    others = [name for name in there if not kinds[name]]
    variants = [name for name in there if kinds[name] and name != page.REFERENCE]
    return own + others, own + variants


def _lines(
    axes,
    found: Mapping,
    training: str,
    names: Sequence[str],
    places: Sequence[float],
    paths: Sequence[tuple[str, ...]],
    chance: float,
) -> None:
    """Draw a line for each model that has the figure, its mean and spread, and the references."""
    width = 0.012 * (max(places) - min(places) or 1)
    for number, name in enumerate(names):
        of = [page.values(found, name, training, *path) for path in paths]
        if None in of:
            continue
        own = name == page.REFERENCE
        # Side by side, so that error bars do not hide each other.
        shift = width * (number - len(names) / 2) * 0.6
        axes.errorbar(
            [place + shift for place in places],
            [statistics.mean(one) for one in of],
            [statistics.stdev(one) if len(one) > 1 else 0 for one in of],
            label=found["models"][name]["title"],
            color=_OWN if own else _COLOURS[number % len(_COLOURS)],
            marker="o" if own else _MARKERS[number % len(_MARKERS)],
            linewidth=2.4 if own else 1.2, markersize=6 if own else 4.5, capsize=3,
            zorder=4 if own else 3,
        )  # fmt: skip
    axes.axhline(chance, color="#999999", linewidth=1, dashes=(1, 3), label="chance", zorder=1)
    for name, title, dashes in _REFERENCES:
        of = [page.reference_values(found, name, *path) for path in paths]
        if None not in of:
            axes.plot(places, [statistics.mean(one) for one in of], dashes, color="#555555",
                      linewidth=1.3, label=title, zorder=2)  # fmt: skip


def _canvas(rows: int):
    """Make a figure with two panels in each row."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(_STYLE)
    canvas = Figure(figsize=(11, 1.0 + 3.9 * rows), layout="constrained")
    return canvas, canvas.subplots(rows, 2, sharey="row", squeeze=False)


def _svg(canvas) -> str:
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
