# SPDX-License-Identifier: Apache-2.0
"""From the cells of causal_bench.py to one JSON, three plots and a page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import _causal_plots as plots
import _cli
from _markdown import head, row

from dataset_mod.sampling import CANDIDATES
from dataset_mod.synthetic_text import EMOTIONS

REFERENCE = "cks"
SUMMARY = "causal.json"
_BENCH = "bench.json"
_PROBED = ".probe.json"
_LEAD = 5.0  # points above chance, below which no share of them is given
# Title and name of each probe that is shown, and of what is held against what should move.
_PROBES = (
    ("another word of the same emotion: stay", "reword"),
    ("a word of another emotion: stay", "swap word"),
    ("no word: stay", "delete word"),
    ("another style: stay", "redraw"),
    ("other colours: stay", "repaint, hue"),
    ("another event: move", "swap event"),
    ("other stickers: move", "exchange"),
)
_RATIOS = {"event / word": "swap word", "stickers / style": "redraw"}
_SHARE = 1 / 3  # CKS is to fall by no more than this share of the best baseline's fall


def collect(
    results: Path, variants: Iterable[tuple[str, str, str]], asked: set[str], seeds: Sequence[int]
) -> dict:
    """Gather the finished cells of the asked seeds.

    Args:
        results: the folder of the cells.
        variants: name, title and kind of everything that can be trained, in the page's order.
        asked: the names whose absence the page shows.
        seeds: which seeds.

    Returns:
        `bench` (what bench.json says), `seeds`, `cells` (how many), `trainings` (the strengths
        trained at) and `models`: for each name `title`, `kind`, `asked` and `rho`: training
        strength -> `seeds`, `seconds` and `figures`: test -> split -> group -> figure -> one value
        for each seed, in order.

    Raises:
        ValueError: there is no bench.json, or a cell cannot be read or has another seed's name.
    """
    bench = _read(results / _BENCH)
    models = {}
    for name, title, kind in variants:
        of: dict[str, dict] = {}
        for seed in seeds:
            for path in sorted(results.glob(f"{name}-rho*-seed{seed}.json")):
                cell = _read(path)
                about = of.setdefault(
                    f"{cell['cell']['rho']:g}", {"seeds": [], "seconds": [], "figures": {}}
                )
                about["seeds"].append(seed)
                about["seconds"].append(cell["training"]["seconds"])
                about["steps"] = cell["training"]["steps"]
                about["machine"] = cell["machine"]
                about["parameters"] = cell["training"]["parameters"]["total"]
                probed = probe_path(results, path.stem)
                if probed.exists():
                    about.setdefault("probes", []).append(_read(probed))
                _append(about["figures"], cell["tests"])
        if of or name in asked:
            models[name] = {"title": title, "kind": kind, "rho": of}
    cells = sum(len(about["seeds"]) for one in models.values() for about in one["rho"].values())
    rhos = sorted({rho for one in models.values() for rho in one["rho"]}, key=float, reverse=True)
    return {
        "bench": bench,
        "seeds": list(seeds),
        "cells": cells,
        "trainings": rhos,
        "models": models,
    }


def _append(into: dict, figures: Mapping) -> None:
    """Put a cell's figures, however deep they lie, behind those of the seeds before."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            _append(into.setdefault(key, {}), value)
        else:
            into.setdefault(key, []).append(value)


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run the bench first") from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable ({error})") from error
    if path.name == _BENCH:
        wanted = "references"
    else:
        wanted = "probes" if path.name.endswith(_PROBED) else "tests"
    if not isinstance(found, dict) or wanted not in found:
        raise ValueError(f"{path}: holds no {wanted}")
    return found


def probe_path(results: Path, name: str) -> Path:
    """Name the file of what probe.py said of a cell."""
    return results / f"{name}{_PROBED}"


def write(found: dict, results: Path, page: Path) -> None:
    """Write the summary, the plots and the page."""
    found["falls"] = {rho: falls(found, rho) for rho in found["trainings"]}
    _cli.write_json(results / SUMMARY, found)
    images = page.parent / "images"
    for name, drawn in plots.draw(found).items():
        _cli.write_bytes(images / f"causal-{name}.svg", drawn.encode())
    _cli.write_bytes(page, render(found).encode())


def tests_of(found: Mapping, cut: bool) -> list[dict]:
    """List the tests by falling rho: those with the word's arrow to the sticker cut, or not."""
    chosen = [test for test in found["bench"]["tests"] if (test["lean"] == 0) == cut]
    return sorted(chosen, key=lambda test: -test["rho"])


def falls(found: Mapping, training: str) -> dict:
    """Say how far each model falls from the strongest to the weakest confounding.

    Returns:
        Model -> `cut` or `uncut` -> figure -> `mean` and `seeds`, in points, of the easy test.
    """
    fallen: dict[str, dict] = {}
    for name, model in found["models"].items():
        about = model["rho"].get(training)
        if about is None:
            continue
        for kind, cut in (("cut", True), ("uncut", False)):
            tests = tests_of(found, cut)
            if len(tests) < 2:
                continue
            ends = [about["figures"][tests[end]["name"]]["test_easy"]["all"] for end in (0, -1)]
            for figure in ("R@1", "MRR", "Acc", "Acc_top"):
                if figure in ends[0]:
                    by_seed = [a - b for a, b in zip(ends[0][figure], ends[1][figure], strict=True)]
                    of = fallen.setdefault(name, {}).setdefault(kind, {})
                    of[figure] = {"mean": statistics.mean(by_seed), "seeds": by_seed}
    return fallen


def verdict(found: Mapping, training: str, kind: str, figure: str) -> dict | None:
    """Compare the fall of CKS with that of the best baseline, the one that is best at the start.

    Returns:
        `cks`, `baseline` (its name), `fall` (its fall), `ratio` (None where it does not fall) and
        `kept`; None where CKS or every baseline is missing.
    """
    fallen = found["falls"][training]
    tests = tests_of(found, kind == "cut")
    if REFERENCE not in fallen or figure not in fallen[REFERENCE].get(kind, {}):
        return None
    start = {}
    for name in fallen:
        model = found["models"][name]
        baseline = model["kind"] != "cks" and not name.endswith("_do_word")
        if baseline and figure in fallen[name].get(kind, {}):
            figures = model["rho"][training]["figures"][tests[0]["name"]]["test_easy"]["all"]
            start[name] = statistics.mean(figures[figure])
    if not start:
        return None
    best = max(start, key=start.__getitem__)
    own, theirs = (fallen[name][kind][figure]["mean"] for name in (REFERENCE, best))
    return {
        "cks": own,
        "baseline": best,
        "fall": theirs,
        "ratio": own / theirs if theirs > 0 else None,
        "kept": own <= _SHARE * theirs,
    }


def render(found: Mapping) -> str:
    """Lay everything out in Markdown."""
    lines = ["# A bench with known truth", "", *_preamble(found)]
    for training in found["trainings"]:
        at = f"trained at ρ = {training}"
        lines += ["", f"## Against the strength of the confounding, {at}", ""]
        lines += [f"![R@1 against ρ, {at}](images/causal-rho-r1-{training}.svg)", ""]
        lines += [f"![Acc. against ρ, {at}](images/causal-rho-acc-{training}.svg)", ""]
        for cut in (True, False):
            lines += [*_rho_table(found, training, cut), ""]
        strong, weak = (tests_of(found, cut=True)[end]["rho"] for end in (0, -1))
        lines += [f"The fall from ρ {strong:g} to ρ {weak:g}, arrow cut, in points:", ""]
        lines += [*_falls_table(found, training), ""]
        if len(verdicts := _verdicts(found, training)) > 2:
            lines += ["CKS keeps its claim where it falls by at most a third of the fall of the "
                      "best baseline, the one that is best at the strongest ρ:"]  # fmt: skip
            lines += ["", *verdicts, ""]
        lines += _parts(found, training)
        lines += [f"## Against style, {at}", ""]
        lines += [f"![R@1 against style, {at}](images/causal-style-{training}.svg)", ""]
        lines += [*_style_table(found, training), ""]
        lines += [f"## What leads astray, {at}", "", *_astray_table(found, training), ""]
        lines += _probes(found, training)
    lines += ["## What each model was trained with", "", *_trainings(found), ""]
    return "\n".join(lines)


def _preamble(found: Mapping) -> list[str]:
    bench = found["bench"]
    world, eye = bench["world"], bench["eye"]["faces_named"]
    train, _, easy, hard = world["dialogues"]
    lean = f"{world['lean']:g}"
    named = ", ".join(f"{100 * eye[style]:.0f} % ({style})" for style in world["unseen_styles"])
    machine = bench["machine"]
    return [
        "Written by `scripts/causal_bench.py` from the result files; do not edit by hand.",
        "",
        "MOD-mini is written by a causal model that stands in `dataset_mod/synthetic_world.py`: a "
        "word W of emotional preference occurs with the speaker's emotion Y (with the strength "
        "ρ = P(Y = w | W)) and chooses the sticker in the feeling's stead "
        f"(with the probability lean = {lean}); the event, not the word, says how the speaker "
        "feels. Every model is trained where the word tells the emotion, and judged where it tells "
        "it less and less: on the same dialogues, events, styles and speakers, of which only the "
        "words are others. ρ = 0.14 is chance.",
        "",
        "**Which test is the fair one.** Where the word goes on choosing the sticker in a quarter "
        "of all cases, the right sticker itself follows the word, and one who knows the event "
        "exactly falls with ρ as well. So the test that counts is the interventional one "
        "(*arrow cut*, lean = 0): the right sticker is the one that the same speaker sends where "
        "no word can choose it, the truth of do(W), on which one who knows the event does not "
        f"fall at all. The other (*as in training*, lean = {lean}) stands beside it. Acc. is the "
        "emotion's, given the right sticker (which with the arrow cut gives the emotion away to "
        "one who can read faces); Acc. (own) is given the model's own first sticker.",
        "",
        "CKS draws the emotional words of its training dialogues anew, do(W), and hides the words "
        "of a part of its training samples, so that COMET's knowledge has to speak "
        "(`word_intervention` and `text_dropout` of the recipe); the row without both is trained "
        "on the dialogues as they are. So are the baselines, as they are published, but for rows "
        "that say do(W).",
        "",
        "Two references are no models: one knows the emotion of the word, the other that of the "
        "event, and both send any candidate whose face shows it. Their figures are expectations; "
        "`tests/scripts/test_causal_bench.py` holds them against the causal model's tables.",
        "",
        f"{train} dialogues to train on, {easy} in the easy test and {hard} in the hard one; of "
        f"the tests' events {100 * world['new_events']:.0f} % are of kinds that training never had "
        "but COMET, trained on the world's own common sense, has. All models start from the same "
        f"eye, which in the seen styles tells all faces apart and in the unseen ones names {named} "
        f"of them, and from untrained words. Chance is {100 / CANDIDATES:.1f} in R@1 and "
        f"{100 / len(EMOTIONS):.1f} in Acc. Seeds {', '.join(map(str, found['seeds']))}, each a "
        "world and a training of its own; figures in percent, mean ± standard deviation over "
        f"seeds. {machine['cpu']}.",
    ]  # fmt: skip


def values(found: Mapping, name: str, training: str, *path: str) -> list[float] | None:
    """Find a figure's values, one for each seed: test, split, group, figure."""
    place = found["models"][name]["rho"].get(training, {}).get("figures", {})
    for key in path:
        place = place.get(key, {})
    return place or None


def reference_values(found: Mapping, name: str, *path: str) -> list[float] | None:
    """Find a reference's figure for each seed."""
    drawn = []
    for seed in found["seeds"]:
        place = found["bench"]["references"].get(str(seed), {}).get(name, {})
        for key in path:
            place = place.get(key, {})
        if place != {}:
            drawn.append(place)
    return drawn or None


def shown(of: Sequence[float] | None, digits: int = 1) -> str:
    """Write a mean and its spread over seeds."""
    if of is None:
        return "-"
    spread = f" ± {statistics.stdev(of):.{digits}f}" if len(of) > 1 else ""
    return f"{statistics.mean(of):.{digits}f}{spread}"


_REFERENCES = (("event_only", "*knows the event*"), ("word_only", "*knows the word*"))


def _rows(found: Mapping, training: str, paths: Sequence[tuple[str, ...]]) -> list[str]:
    """One row for each model, references last; a model without a cell stands there as missing."""
    lines = []
    for name, model in found["models"].items():
        about = model["rho"].get(training)
        title = model["title"]
        if about is None:
            lines.append(row([title, *["missing"] * len(paths)]))
            continue
        if len(about["seeds"]) < len(found["seeds"]):
            title += f" ({len(about['seeds'])} of {len(found['seeds'])} seeds)"
        lines.append(row([title, *(shown(values(found, name, training, *p)) for p in paths)]))
    for name, title in _REFERENCES:
        lines.append(row([title, *(shown(reference_values(found, name, *p)) for p in paths)]))
    return lines


def _rho_table(found: Mapping, training: str, cut: bool) -> list[str]:
    tests = tests_of(found, cut)
    figures = (("R@1", "R@1"), ("Acc", "Acc."), ("Acc_top", "Acc. (own)"))
    paths = [(t["name"], "test_easy", "all", f) for f, _ in figures for t in tests]
    titles = [f"{title}, ρ {test['rho']:g}" for _, title in figures for test in tests]
    caption = "Arrow cut" if cut else "As in training"
    return [f"**{caption}**", "", *head(["model", *titles]), *_rows(found, training, paths)]


def _falls_table(found: Mapping, training: str) -> list[str]:
    """How far everybody falls, also as a share of what there was above chance at the start."""
    tests = tests_of(found, cut=True)
    ends = (tests[0]["name"], tests[-1]["name"])
    columns = (("R@1", 100 / CANDIDATES), ("Acc", 100 / len(EMOTIONS)))
    titles = ["model", "R@1", "of what is above chance", "Acc.", "of what is above chance"]
    lines = head(titles)
    everybody = [
        (found["models"][name]["title"], name, values) for name in found["falls"][training]
    ]
    for title, name, read in everybody + [(t, n, None) for n, t in _REFERENCES]:
        cells = [title]
        for figure, chance in columns:
            path = ("test_easy", "all", figure)
            strong, weak = (
                read(found, name, training, end, *path) if read
                else reference_values(found, name, end, *path)
                for end in ends
            )  # fmt: skip
            if strong is None or weak is None:
                cells += ["-", "-"]
                continue
            lost = statistics.mean(strong) - statistics.mean(weak)
            lead = statistics.mean(strong) - chance
            cells.append(shown([a - b for a, b in zip(strong, weak, strict=True)]))
            # Who is hardly above chance has nothing to lose.
            cells.append(f"{100 * lost / lead:.0f} %" if lead > _LEAD else "-")
        lines.append(row(cells))
    return lines


def _verdicts(found: Mapping, training: str) -> list[str]:
    """Hold CKS's fall against the best baseline's."""
    lines = head(["fall of", "CKS", "best baseline", "CKS / it", "at most a third"])
    for kind, title in (("cut", "arrow cut"), ("uncut", "as in training")):
        for figure in ("R@1", "Acc", "Acc_top"):
            one = verdict(found, training, kind, figure)
            if one is None:
                continue
            ratio = "-" if one["ratio"] is None else f"{one['ratio']:.2f}"
            baseline = f"{one['fall']:.1f} ({found['models'][one['baseline']]['title']})"
            name = figure.replace("Acc", "Acc.").replace("_top", " (own)")
            cells = [f"{name}, {title}", f"{one['cks']:.1f}", baseline, ratio]
            lines.append(row([*cells, "yes" if one["kept"] else "no"]))
    return lines


def _parts(found: Mapping, training: str) -> list[str]:
    """What every part and setting of CKS buys, and who keeps the claim without it."""
    fallen, bar = found["falls"][training], verdict(found, training, "cut", "R@1")
    others = [name for name in fallen if name != REFERENCE
              and found["models"][name]["kind"] == "cks"]  # fmt: skip
    if bar is None or not others:
        return []
    tests = tests_of(found, cut=True)
    ends = [(tests[place]["name"], tests[place]["rho"]) for place in (0, -1)]
    lines = [
        f"## What each part buys, trained at ρ = {training}",
        "",
        "Each row is CKS with one thing taken away or set otherwise. How far CKS is ahead of it in "
        "R@1 (arrow cut; points, over the seeds that both have), how far the row itself falls, and "
        "whether it would keep the claim in R@1. A few points are no more than another seed "
        "changes.",
        "",
        *head(["CKS with", "seeds", *(f"CKS ahead at ρ {rho:g}" for _, rho in ends), "fall",
               "keeps the claim"]),
    ]  # fmt: skip
    for name in others:
        of = [found["models"][one]["rho"][training] for one in (REFERENCE, name)]
        common = [seed for seed in of[0]["seeds"] if seed in of[1]["seeds"]]
        if not common:
            continue
        ahead = []
        for test, _ in ends:
            own, other = (
                dict(zip(one["seeds"], one["figures"][test]["test_easy"]["all"]["R@1"],
                         strict=True))
                for one in of
            )  # fmt: skip
            ahead.append(shown([own[seed] - other[seed] for seed in common]))
        fall = fallen[name]["cut"]["R@1"]["seeds"]
        kept = "yes" if statistics.mean(fall) <= _SHARE * bar["fall"] else "no"
        title = found["models"][name]["title"]
        lines.append(row([title, ", ".join(map(str, common)), *ahead, shown(fall), kept]))
    return [*lines, ""]


def _style_table(found: Mapping, training: str) -> list[str]:
    test = tests_of(found, cut=True)[0]
    paths = [(test["name"], *place, "R@1") for _, place in style_places(found)]
    titles = [title for title, _ in style_places(found)]
    head_line = f"R@1 at ρ {test['rho']:g}, arrow cut; the answers of all columns but the first "
    head_line += "are stickers that no training showed. What feeling a new face shows is told by "
    head_line += "nothing in training, so that its column says how far looks alone lead."
    return [head_line, "", *head(["model", *titles]), *_rows(found, training, paths)]


def style_places(found: Mapping) -> list[tuple[str, tuple[str, str]]]:
    """List the steps of the style shift: a title, and the split and group where it is found."""
    unseen = found["bench"]["world"]["unseen_styles"]
    return [
        ("seen styles, seen faces", ("test_easy", "all")),
        ("seen styles, new faces", ("test_hard", "seen_style")),
        *((f"{style}, seen faces", ("test_hard", f"style_{style}")) for style in unseen),
    ]


def _astray_table(found: Mapping, training: str) -> list[str]:
    tests = tests_of(found, cut=True)
    first, last = tests[0]["name"], tests[-1]["name"]
    paths = [
        (last, "test_easy", "conflicting", "shows_word"),
        (last, "test_easy", "conflicting", "shows_feeling"),
        (first, "test_easy", "all", "shows_feeling"),
        (last, "test_easy", "seen_event", "R@1"),
        (last, "test_easy", "new_event", "R@1"),
    ]
    titles = [
        f"first sticker shows the word's emotion, conflicting, ρ {tests[-1]['rho']:g}",
        "shows the feeling, same samples",
        f"shows the feeling, all, ρ {tests[0]['rho']:g}",
        f"R@1, known kinds of events, ρ {tests[-1]['rho']:g}",
        "R@1, new kinds",
    ]
    return [*head(["model", *titles]), *_rows(found, training, paths)]


def _probes(found: Mapping, training: str) -> list[str]:
    """How far scores move when one thing is changed, when they should not and when they should."""
    models = {
        name: model
        for name, model in found["models"].items()
        if model["rho"].get(training, {}).get("probes")
    }
    if not models:
        return []
    strongest = tests_of(found, cut=True)[0]["rho"]
    lines = [
        f"## What moves the scores, trained at ρ = {training}",
        "",
        "One thing about each sample of the easy test is changed (`scripts/probe.py`; "
        f"ρ {strongest:g}, arrow cut). "
        "The distance is half the sum of what the candidates' shares of the score move, 0 to 1, "
        "the scores in units of each model's own spread. Under *stay*, nothing that the speaker "
        "feels or the face shows has changed; under *move*, it has. The ratio says how much "
        "farther the scores move where they should.",
        "",
        *head(["model", *(title for title, _ in _PROBES), *_RATIOS]),
    ]
    for model in models.values():
        probes = model["rho"][training]["probes"]
        told = [[one["probes"].get(name, {}).get("distance") for one in probes]
                for _, name in _PROBES]  # fmt: skip
        cells = [shown([one["mean"] for one in of if one] or None, 2) for of in told]
        ratios = [[one["ratios"].get(name) for one in probes] for name in _RATIOS.values()]
        cells += [shown([one for one in of if one is not None] or None) for of in ratios]
        lines.append(row([model["title"], *cells]))
    return [*lines, ""]


def _trainings(found: Mapping) -> list[str]:
    lines = head(["model", "trained at ρ", "seeds", "steps", "seconds", "parameters"])
    for model in found["models"].values():
        for training, about in model["rho"].items():
            seconds = f"{statistics.mean(about['seconds']):.0f}"
            cells = (training, ", ".join(map(str, about["seeds"])), about["steps"], seconds,
                     f"{about['parameters'] / 1e3:.0f} k")  # fmt: skip
            lines.append(row([model["title"], *map(str, cells)]))
    return lines
