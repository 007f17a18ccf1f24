# SPDX-License-Identifier: Apache-2.0
"""The page of the tables, in Markdown, from what tables.py gathered."""

from __future__ import annotations

import statistics

from _markdown import difference, head, row
from _tables_models import BEYOND, REFERENCE, TABLE_1, TABLE_2, Model

from dataset_mod.bias import GROUPS
from modeling_cks.evaluation.groups import SEEN, UNSEEN

SPLITS = ("validation", "test_easy", "test_hard")
FIGURES = ("R@1", "R@3", "R@5", "MRR", "Acc")
TESTED = ("R@1", "MRR")
IN_GROUPS = ("R@1", "MRR", "Acc")
GROUPINGS = {
    "bias": ("words of emotional preference", GROUPS),
    "style": ("style of the right sticker", (SEEN, UNSEEN)),
    "sticker": ("the right sticker", (SEEN, UNSEEN)),
}
_SAME_BUDGET = {model.name for model in (*TABLE_1, *TABLE_2)}


def render(tables: dict) -> str:
    """Lay the tables out in Markdown."""
    models = tables["models"]
    some = next((about for about in models.values() if about.get("machine")), {})
    machine = some.get("machine") or {}
    seeds = next(iter(models.values()))["asked_seeds"]
    for about in models.values():
        seeds = about["asked_seeds"] if len(about["asked_seeds"]) > len(seeds) else seeds
    lines = [
        "# Tables 1 and 2",
        "",
        "Written by `scripts/tables.py` from result files; do not edit by hand.",
        "",
        f"Data {tables['data']['fingerprint'][:12]}; {some.get('epochs', '?')} epochs in batches "
        f"of {some.get('batch', '?')} unless a row says otherwise; seeds "
        f"{', '.join(map(str, seeds))}; {machine.get('cores', '?')} cores, "
        f"{machine.get('cpu', '?')}. Figures in percent, mean over seeds ± standard deviation; "
        "Acc. is the emotion's, given the right sticker. How far CKS is ahead: 95 % interval and "
        "p of a paired bootstrap over dialogues. It holds for these trained models; "
        "how much another seed would change stands behind ±.",
        "",
        "† without the pretrained weights it is published with. It starts from what the last table "
        "names, and from scratch where that has nothing for a part, so that the row says little of "
        "the method.",
    ]
    sections = [("Table 1", TABLE_1), ("Table 2", TABLE_2)]
    if any(model.name in models for model in BEYOND if model.name != REFERENCE):
        sections.append(("What else CKS could have", BEYOND))
    for title, rows in sections:
        for split in SPLITS:
            lines += ["", f"## {title}: {split}", ""]
            lines += _table(rows, split, tables)
    lines += ["", *(f"Note: {note}" for note in tables["published"]["notes"])]
    lines += [*_groups(tables), ""]
    lines += ["## What each model was trained with", "", *_trainings(tables), ""]
    return "\n".join(lines)


def _table(rows: tuple[Model, ...], split: str, tables: dict) -> list[str]:
    lines = head(
        [
            *("model", *FIGURES, "CKS ahead in R@1", "CKS ahead in MRR"),
            "published on MOD: R@1, MRR, Acc",
        ]
    )
    for model in rows:
        about = tables["models"].get(model.name)
        published = tables["published"]["models"].get(model.name, {}).get(split)
        shown = "-"
        if published:
            r1, _, _, mrr, acc = published
            shown = ", ".join("-" if value is None else f"{value:.2f}" for value in (r1, mrr, acc))
        if about is None:
            lines.append(row([model.title, *["not run"] * len(FIGURES), "-", "-", shown]))
            continue
        title = _title(about)
        cells = [_figure(about["splits"][split].get(figure)) for figure in FIGURES]
        against = about.get("against_cks", {}).get(split)
        ahead = [difference(against and against[figure]) for figure in TESTED]
        lines.append(row([title, *cells, *ahead, shown]))
    return lines


def _title(about: dict) -> str:
    """Name a model that was run, with what a reader must know of its row."""
    title = about["title"] + (", zero-shot" if about.get("zero_shot") else "")
    title += " †" if about.get("without_weights") else ""
    if len(about["seeds"]) < len(about["asked_seeds"]):
        title += f" ({len(about['seeds'])} of {len(about['asked_seeds'])} seeds)"
    return title


def _groups(tables: dict) -> list[str]:
    """Give the figures of each group of samples, a table for each split and grouping."""
    told = tables.get("groups")
    if not told:
        return []
    lines = [
        "",
        "## Groups",
        "",
        f"Samples of each split, grouped by whether words of emotional preference ({told['words']} "
        f"words, from: {told['words_from']}) speak for the right emotion, and by whether training "
        "had the right sticker"
        + ("" if told["styles"] is None else f" and its style ({told['styles']} styles)")
        + ". R@1, MRR and Acc in percent, mean over seeds. The worst group is the one with the "
        f"lowest figure of those with at least {told['least']} samples, the gap is how far it is "
        "behind the best group of the same table. Groups differ in their stickers and emotions "
        "too: what the most frequent sticker also has of a gap is the data's. Differences as "
        "above: 95 % interval and p of a bootstrap over dialogues.",
    ]
    for split in SPLITS:
        for grouping in GROUPINGS:
            lines += _group_table(tables["models"], split, grouping, told["least"])
    return lines


def _group_table(models: dict, split: str, grouping: str, least: int) -> list[str]:
    title, order = GROUPINGS[grouping]
    found = {
        name: about["groups"][split][grouping]
        for name, about in models.items()
        if grouping in about.get("groups", {}).get(split, {})
    }
    sizes = next(iter(found.values()))["groups"] if found else {}
    groups = [name for name in order if name in sizes]
    if not groups:
        return []
    lines = ["", f"### {split}: {title}", ""]
    large = [name for name in groups if sizes[name]["samples"] >= least]
    if len(large) < 2:
        counts = ", ".join(f"{sizes[name]['samples']} {name}" for name in groups)
        return [*lines, f"Too few to compare: {counts}."]
    lines += head(
        [
            "model",
            *(f"{name} ({sizes[name]['samples']})" for name in groups),
            *(f"worst in {figure}, gap" for figure in TESTED),
            *(f"{order[0]} ahead of {order[1]} in {figure}" for figure in TESTED),
        ]
    )
    for name, of in found.items():
        cells = []
        for group in groups:
            means = [of["groups"][group].get(figure) for figure in IN_GROUPS]
            cells.append(", ".join(f"{one['mean']:.1f}" if one else "-" for one in means))
        worst = [of["worst"].get(figure) for figure in TESTED]
        cells += [f"{one['group']}, {one['gap']:.1f}" if one else "-" for one in worst]
        cells += [difference(of["contrast"].get(figure)) for figure in TESTED]
        lines.append(row([_title(models[name]), *cells]))
    return lines


def _trainings(tables: dict) -> list[str]:
    """Give each model's budget and what it started from; say where the budgets differ."""
    lines = head(
        ["model", "epochs", "batch", "steps", "seconds", "trained parameters", "all", "from"]
    )
    budgets = set()
    for name, about in tables["models"].items():
        if "backbones" not in about:
            continue
        if not about["zero_shot"] and name in _SAME_BUDGET:
            budgets.add((about["epochs"], about["batch"], about["steps"]))
        seconds = [value for value in about["seconds"] if value is not None]
        parts = [f"{part} {name}" for part, name in about["backbones"].items() if name]
        if about["without_weights"]:
            parts.append(f"without {about['without_weights']}")
        cells = [
            *(about[field] for field in ("epochs", "batch", "steps")),
            f"{statistics.mean(seconds):.0f}" if seconds else None,
            *(
                about[field] and f"{about[field] / 1e6:.1f} M"
                for field in ("trained_parameters", "parameters")
            ),
            ", ".join(parts),
        ]
        lines.append(row([about["title"], *("-" if cell is None else str(cell) for cell in cells)]))
    if len(budgets) > 1:
        lines += ["", "The models did not get the same budget: compare their rows with care."]
    return lines


def _figure(found: dict | None) -> str:
    if found is None:
        return "-"
    spread = "" if found["spread"] is None else f" ± {found['spread']:.1f}"
    return f"{found['mean']:.1f}{spread}"
