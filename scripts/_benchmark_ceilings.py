# SPDX-License-Identifier: Apache-2.0
"""What this processor can do at most: matrix products and memory, with torch's own operations."""

from __future__ import annotations

import argparse

from _benchmark import alternate, lines, markdown, timed

TITLE = "The machine's ceilings"
# Rows, inputs, outputs of linear maps: one large, and those that carry the full model's work.
_SHAPES = {
    "large": (2048, 2048, 2048),
    "match encoder, 11 candidates": (1155, 512, 2048),
    "BERT, 11 candidates": (1155, 768, 3072),
    "COMET, one utterance": (120, 1024, 4096),
}
_FORMS = ("torch float32", "packed float32", "packed bfloat16", "packed int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add none."""


def measure(args: argparse.Namespace) -> dict:
    """Time linear maps in each form and precision, and reading and copying of memory."""
    import torch

    from modeling_cks.cpu_inference import PackedLinear, supported_precisions

    torch.manual_seed(args.seed)
    torch.set_grad_enabled(False)
    supported = supported_precisions()
    rows = []
    for name, (count, inputs, outputs) in _SHAPES.items():
        if args.quick:
            count, inputs, outputs = count // 8, inputs // 8, outputs // 8
        linear, given = torch.nn.Linear(inputs, outputs), torch.randn(count, inputs)
        forms = {"torch float32": linear}
        for precision in supported:
            forms[f"packed {precision}"] = PackedLinear(linear, precision)
        operations = 2 * count * inputs * outputs
        repeats = max(args.repeats, 3)
        timings = alternate(
            {form: timed(lambda _, run=run, x=given: run(x)) for form, run in forms.items()},
            repeats if args.quick else 4 * repeats,
        )
        rows += [
            {
                "what": name,
                "shape": [count, inputs, outputs],
                "contestant": form,
                "seconds": one["seconds"],
                "gflops": operations / one["seconds"] / 1e9,
            }
            for form, one in timings.items()
        ]
    # Far more than any cache holds.
    memory = torch.ones((1 << 22) if args.quick else (1 << 28))
    target = torch.empty_like(memory)
    timings = alternate(
        {"read": timed(lambda _: memory.sum()), "copy": timed(lambda _: target.copy_(memory))},
        max(args.repeats, 3),
    )
    size = memory.numel() * memory.element_size()

    def best(form: str) -> float | None:
        found = [row["gflops"] for row in rows if row["contestant"] == form]
        return max(found) if found else None

    return {
        "rows": rows,
        "threads": torch.get_num_threads(),
        "fp32_gflops": max(best("torch float32"), best("packed float32")),
        "bf16_gflops": best("packed bfloat16"),
        "int8_gflops": best("packed int8"),
        "read_gb_per_s": size / timings["read"]["seconds"] / 1e9,
        "copy_gb_per_s": 2 * size / timings["copy"]["seconds"] / 1e9,
    }


def _cells(result: dict) -> tuple[list[str], list[list[object]]]:
    forms = [form for form in _FORMS if any(r["contestant"] == form for r in result["rows"])]
    found = {(row["what"], row["contestant"]): row for row in result["rows"]}
    titles = ["linear map (rows x in x out)", *(f"{form}, GFLOP/s" for form in forms)]
    return titles, [
        [
            f"{what} ({' x '.join(map(str, found[what, forms[0]]['shape']))})",
            *(found[what, form]["gflops"] for form in forms),
        ]
        for what in _SHAPES
    ]


def table(result: dict) -> str:
    """Lay out for the terminal."""
    memory = f"memory: reads {result['read_gb_per_s']:.1f} GB/s, copies "
    return f"{lines(*_cells(result))}\n{memory}{result['copy_gb_per_s']:.1f} GB/s (both ways)"


def page(result: dict, folder) -> str:
    """Render the section."""
    return (
        f"{result['threads']} threads. `packed` is `modeling_cks/cpu_inference.py`: the same map, "
        "its weights laid out for oneDNN (int8: for FBGEMM) once. The largest figure of a "
        "precision is the ceiling against which shares below are given.\n\n"
        f"{markdown(*_cells(result))}\n\n"
        f"Memory is read at {result['read_gb_per_s']:.1f} GB/s and copied at "
        f"{result['copy_gb_per_s']:.1f} GB/s (read and written bytes together)."
    )
