# SPDX-License-Identifier: Apache-2.0
"""Export a trained CKS to ONNX, checked against the model; measure what int8 costs and gains.

Writes three graphs, the processor and onnx.json into a folder that `OnnxCKS` runs without torch's
model. Exits with 1, and leaves no folder, where a graph does not answer as the model does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import _cli
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor

# Registers CKS with AutoModel and AutoProcessor.
import modeling_cks  # noqa: F401
from dataset_mod import load_prepared
from modeling_cks.cks_ranker import CKSRanker
from modeling_cks.evaluation import RankerOutput, evaluate_ranker
from modeling_cks.onnx_runtime import EXPORT_FILE, GRAPHS, OnnxCKS, graph_file
from modeling_cks.ranking import rank
from modeling_cks.training import CKSCollator, StickerInventory

TIMED_ROWS = 100
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_COLUMNS = ("R@1", "R@3", "R@5", "MRR", "Acc")


def main(argv: list[str] | None = None) -> int:
    """Export, check, and measure where there is data."""
    args = _parse(argv)
    try:
        from modeling_cks.onnx_export import TOLERANCE, ExportError, export_onnx, quantise
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'cks[onnx]'") from error
    model = AutoModel.from_pretrained(args.model, dtype=torch.float32).eval()
    if model.config.model_type != "cks":
        raise ValueError(f"{args.model}: holds a {model.config.model_type} model, not a CKS one")
    processor = AutoProcessor.from_pretrained(args.model)
    output = args.output.resolve()
    _refuse_foreign(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        try:
            differences = export_onnx(model, beside)
        except ExportError as error:
            print(f"export_onnx.py: {error}", file=sys.stderr)
            return 1
        if args.int8:
            quantise(beside)
        processor.save_pretrained(beside)
        told = {
            "model": args.model.rstrip("/").rpartition("/")[2],
            "tolerance": TOLERANCE,
            "largest_difference": differences,
            "mib": {
                kind: {
                    name: round((beside / graph_file(name, int8)).stat().st_size / 2**20, 2)
                    for name in GRAPHS
                }
                for kind, int8 in (("onnx", False), ("onnx_int8", True))
                if args.int8 or not int8
            },
        }
        if args.data:
            told.update(_measured(args, model, processor, beside))
        told = _cli.evidence(**told)
        told["versions"] |= {name: metadata.version(name) for name in _PACKAGES}
        _cli.write_json(beside / EXPORT_FILE, told)
        shutil.rmtree(output, ignore_errors=True)
        beside.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if args.report:
        _cli.write_json(args.report, told)
    worst = max(differences, key=differences.get)
    print(f"largest difference from the model: {differences[worst]:.2g} ({worst})")
    if args.data:
        print(table(told))
    print(f"written to {args.output}")
    return 0


class OnnxRanker:
    """An exported CKS behind the protocol by which any ranker is evaluated.

    Args:
        exported: the graphs.
        collator: makes batches without pixels.
        inventory: the stickers, each of which is encoded once.
        name: how results call it.
    """

    def __init__(
        self, exported: OnnxCKS, collator: CKSCollator, inventory: StickerInventory, name: str
    ):
        self.exported, self.collator, self.name = exported, collator, name
        self.embeds = exported.encode_stickers(inventory.pixel_values(range(len(inventory))))

    def rank(self, rows: Sequence[dict]) -> RankerOutput:
        """Score the candidates of each row; emotions given the answer and given the top one."""
        batch = self.collator(rows)
        answer = self.exported(**batch, sticker_embeds=self.embeds[batch["sticker_ids"]])
        scores, emotions = answer["scores"], answer.get("candidate_emotion_logits")
        given_answer = given_top = None
        if emotions is not None:
            numbers = range(len(rows))
            given_top = emotions[numbers, rank(torch.from_numpy(scores))[:, 0].numpy()]
            right = [row["candidates"].index(row["sticker_id"]) for row in rows]
            given_answer = emotions[numbers, right]
        return RankerOutput(
            [found[: len(row["candidates"])] for found, row in zip(scores, rows, strict=True)],
            given_answer,
            given_top,
        )


def _measured(args: argparse.Namespace, model, processor, folder: Path) -> dict:
    """Rank a split by the model and its exports, and time them by turns."""
    data = load_prepared(args.data, args.language)
    if args.split not in data.splits:
        raise ValueError(f"{args.data}: no split {args.split!r}, only {', '.join(data.splits)}")
    processor.ocr_cache_path = str(args.data / "ocr.json")
    if (args.data / "knowledge").is_dir():
        processor.knowledge_store = str(args.data / "knowledge")
    inventory = StickerInventory(data.stickers, processor)
    collator = CKSCollator(processor, inventory, pixels=False)
    threads = torch.get_num_threads()
    exports = {"onnx": OnnxCKS(folder, threads=threads)}
    if args.int8:
        exports["onnx_int8"] = OnnxCKS(folder, int8=True, threads=threads)
    rankers = {"torch": CKSRanker(model, processor, inventory, name="torch")}
    for name, exported in exports.items():
        rankers[name] = OnnxRanker(exported, collator, inventory, name)
    rows = [row for row in data.splits[args.split] if row["sticker_id"]]
    return {
        "data": {"fingerprint": data.fingerprint, "split": args.split, "rows": len(rows)},
        "metrics": {
            name: evaluate_ranker(ranker, rows, batch_size=args.batch_size).metrics
            for name, ranker in rankers.items()
        },
        "latency": {
            "rows": min(TIMED_ROWS, len(rows)),
            "threads": threads,
            # Of the last minute: what else ran slows all of them down.
            "load_average": round(os.getloadavg()[0], 1),
            "median_ms": _latencies(
                {"torch": torch.inference_mode()(lambda **batch: model(**batch)), **exports},
                rows[:TIMED_ROWS],
                CKSCollator(processor, inventory),
                rankers["torch"].sticker_embeds(),
            ),
        },
    }


def _latencies(
    backends: dict[str, Callable], rows: Sequence[dict], collator: CKSCollator, embeds: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Time one dialogue's ranking, its stickers new or known, by turns; medians in ms."""
    times: dict[str, dict[str, list[float]]] = {
        case: {name: [] for name in backends} for case in ("new_stickers", "known_stickers")
    }
    for number, row in enumerate(tqdm([rows[0], *rows], desc="timing", unit="row")):
        batch = collator([row])
        pixels, known = batch.pop("pixel_values"), embeds[batch["sticker_ids"]]
        cases = ({"pixel_values": pixels}, {"sticker_embeds": known})
        for stickers, seen in zip(cases, times.values(), strict=True):
            for name, backend in backends.items():
                start = time.perf_counter()
                backend(**batch, **stickers)
                if number:  # the first row warms up
                    seen[name].append(1000 * (time.perf_counter() - start))
    return {
        case: {name: round(statistics.median(values), 3) for name, values in seen.items()}
        for case, seen in times.items()
    }


def table(told: dict) -> str:
    """Lay out figures, time and size of the model and its exports."""
    latency = told["latency"]["median_ms"]
    head = [*_COLUMNS, "new ms", "known ms", "MiB"]
    lines = [f"{'':10}" + "".join(f"{each:>10}" for each in head)]
    for name, metrics in told["metrics"].items():
        size = sum(told["mib"][name].values()) if name in told["mib"] else None
        cells = [*(metrics.get(each) for each in _COLUMNS), latency["new_stickers"][name],
                 latency["known_stickers"][name], size]  # fmt: skip
        shown = ("-" if cell is None else f"{cell:.2f}" for cell in cells)
        lines.append(f"{name:10}" + "".join(f"{cell:>10}" for cell in shown))
    return "\n".join(lines)


def _refuse_foreign(output: Path) -> None:
    if not output.exists() or (output / EXPORT_FILE).is_file():
        return
    if not output.is_dir() or any(output.iterdir()):
        raise ValueError(f"{output}: holds something else than an exported CKS; not touched")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or Hub name of a trained CKS")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--int8", action="store_true", help="also write the graphs with weights of 8 bits"
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of prepare_mod.py: rank a split by the model and its exports, and time them",
    )
    parser.add_argument(
        "--split", default="validation", help="which split to rank (default: %(default)s)"
    )
    parser.add_argument("--language", help="which language of the data; its first by default")
    parser.add_argument(
        "--report", type=Path, metavar="FILE.json", help="write what was measured here as well"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="rows ranked at a time (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.report and not args.data:
        parser.error("--report tells what was measured on --data: give it too")
    return args


if __name__ == "__main__":
    _cli.run_main(main)
