# SPDX-License-Identifier: Apache-2.0
"""The page of benchmark.py: a section for each comparison, from the results alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

# Tried, measured, and taken out again; a comparison's result has the figure where there is one.
_HEAD = """<!-- Rendered by scripts/benchmark.py --page; do not edit by hand. -->
# How fast it is

{machine}, torch {torch}; measured on {day} by

```bash
python scripts/benchmark.py --output results/benchmark.json
python scripts/benchmark.py --output results/benchmark.json --page docs/speed.md
```

Every comparison runs in a process of its own, its contestants in turn; seconds are medians of
repeats, and the results file has every argument. Weights are random unless a trained model is
named: time does not depend on them. The standing comparison is MMBERT as this package has it
(`modeling_cks/baselines/mmbert.py`)."""


def render(results: dict, modules: dict[str, ModuleType], page: Path) -> None:
    """Write the page and its pictures.

    Raises:
        ValueError: a comparison is missing, or a value of one.
    """
    found = results["comparisons"]
    missing = [name for name in modules if name not in found]
    if missing:
        raise ValueError(f"the results lack {', '.join(missing)}: measure with --keep first")
    pictures = page.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    machine, versions = results["machine"], results["versions"]
    parts = [
        _HEAD.format(
            machine=f"{machine['cpu']}, {machine['cores']} cores",
            torch=versions["torch"],
            day=str(results["time"])[:10],
        )
    ]
    ceilings = found.get("ceilings")
    for name, module in modules.items():
        result = {**found[name], "ceilings": ceilings}
        try:
            section = module.page(result, pictures)
        except (KeyError, TypeError, StopIteration) as error:
            raise ValueError(f"the results of {name} lack a value: {error!r}") from error
        parts.append(f"## {module.TITLE}\n\n{section}")
    parts.append(f"## What else was tried\n\n{_not_paid(found)}")
    page.parent.mkdir(parents=True, exist_ok=True)
    beside = page.with_name(f".{page.name}")
    beside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    beside.replace(page)


def _not_paid(found: dict[str, dict]) -> str:
    """List what was tried and gains nothing, by what the comparisons measured."""
    lines = []
    training = found["training"]["rows"]
    for size in dict.fromkeys(row["size"] for row in training):
        rows = {row["contestant"]: row for row in training if row["size"] == size}
        plain, fused = rows["CKS, AdamW not fused"], rows["CKS"]
        gain = plain["stages"]["optimizer"] / fused["stages"]["optimizer"]
        lines.append(
            f"A fused AdamW ({size} size): its step takes "
            f"{1000 * fused['stages']['optimizer']:.0f} ms instead of "
            f"{1000 * plain['stages']['optimizer']:.0f}"
            + (", so it is kept; it is the library's default." if gain > 1.05 else ".")
        )
        if "CKS, compiled" in rows:
            lines.append(
                f"`torch.compile` ({size} size): a step takes "
                f"{rows['CKS, compiled']['seconds']:.2f} s instead of {fused['seconds']:.2f}."
            )
        half = rows["CKS, bfloat16"]
        lines.append(
            f"bfloat16 by autocast in training ({size} size): a step takes {half['seconds']:.3f} s "
            f"instead of {fused['seconds']:.3f}, {fused['seconds'] / half['seconds']:.2f} times as "
            "fast."
        )
    for one in found["index"]["kinds"]:
        if "chosen" not in one["kind"]:
            lines.append(
                f"Index, {one['kind']}, {found['index']['kinds_rows']:,} stickers: "
                f"{one['p50_ms']:.2f} ms a search, {one['build_seconds']:.0f} s to build"
                + ("." if one["removes"] else ", and nothing can be removed from it.")
            )
    tiny = [row for row in found["conversation"]["rows"] if row["size"] == "tiny"]
    for row in tiny:
        if row["contestant"] == "CKS, conversation, packed" and row["candidates"] <= 50:
            plain = next(
                one["seconds"]
                for one in tiny
                if one["contestant"] == "CKS, conversation"
                and one["candidates"] == row["candidates"]
            )
            lines.append(
                f"Packed linear maps in a tiny model: {1000 * row['seconds']:.1f} ms a turn "
                f"instead of {1000 * plain:.1f}; calls outweigh the products there."
            )
    return "\n".join(f"- {line}" for line in lines)
