# SPDX-License-Identifier: Apache-2.0
"""A training step: CKS in several forms beside MMBERT, on a CPU or a GPU; and several processes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from _benchmark import Clock, alternate, flops, in_processes, lines, markdown, share
from _cli import peak_memory_mib

TITLE = "Training"
_TOKENS = 96
_PROFILED = 8
# Dense bf16 peaks by the makers' sheets, in TFLOP/s.
_PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add batch sizes, the device and its peak."""
    parser.add_argument(
        "--training-batch", type=int, nargs="+", default=[8], help="samples a step (default: 8)"
    )
    parser.add_argument("--training-device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--training-peak-tflops",
        type=float,
        help="bf16 peak of the device (default: by its name, where it is known)",
    )
    parser.add_argument(
        "--training-compile", action="store_true", help="time torch.compile too (minutes)"
    )


def measure(args: argparse.Namespace) -> dict:
    """Let all take a step, in turn."""
    rows, profiles = [], {}
    # First, while this process holds nothing: theirs hold as much as the machine has at full size.
    processes = []
    if args.training_device == "cpu":
        processes = [_processes(args, count) for count in (1, 2)]
    collation = []
    for size in args.sizes:
        for batch in args.training_batch:
            collation.append(_collation(args, size, 2 if args.quick else batch))
            found, profile = _measure(args, size, 2 if args.quick else batch)
            rows += found
            profiles[f"{size}, {batch} samples"] = profile
    return {
        "rows": rows,
        "profiles": profiles,
        "processes": processes,
        "collation": collation,
        "tokens": _TOKENS,
        "device": _device_name(args.training_device),
        "peak_tflops": _peak(args),
        "peak_memory_mib": peak_memory_mib(),
    }


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _peak(args: argparse.Namespace) -> float | None:
    name = _device_name(args.training_device)
    known = next((peak for part, peak in _PEAKS.items() if part in name), None)
    return args.training_peak_tflops or known


def _measure(args: argparse.Namespace, size: str, count: int) -> tuple[list[dict], list[dict]]:
    import torch

    device = args.training_device
    wait = torch.cuda.synchronize if device == "cuda" else None
    steps, work = {}, {}
    cks = _Step(size, args.seed, count, device)
    frozen = _Step(size, args.seed, count, device, frozen=True)
    steps["CKS"] = cks.run(wait=wait)
    work["CKS"] = cks.flops()
    steps["CKS, bfloat16"] = cks.run(wait=wait, bfloat16=True)
    steps["CKS, AdamW not fused"] = cks.run(wait=wait, fused=False)
    steps["CKS, RoBERTa and CLIP frozen"] = frozen.run(wait=wait)
    work["CKS, RoBERTa and CLIP frozen"] = frozen.flops()
    steps["CKS, RoBERTa and CLIP frozen, bfloat16"] = frozen.run(wait=wait, bfloat16=True)
    with tempfile.TemporaryDirectory() as folder:
        mmbert = _MmbertStep(size, args.seed, count, device, Path(folder))
        steps["MMBERT"] = mmbert.run(mmbert.together, wait)
        work["MMBERT"] = mmbert.flops(mmbert.together)
        steps["MMBERT, a pass for each task"] = mmbert.run(mmbert.task_by_task, wait)
        work["MMBERT, a pass for each task"] = mmbert.flops(mmbert.task_by_task)
        if args.training_compile:
            steps["CKS, compiled"] = _Step(size, args.seed, count, device, compiled=True).run(
                wait=wait
            )
        timings = alternate(steps, args.repeats)
    reference = timings["MMBERT"]["seconds"]
    rows = []
    for name, one in timings.items():
        like = name.replace(", bfloat16", "").replace(", AdamW not fused", "")
        rows.append(
            {
                "size": size,
                "batch": count,
                "contestant": name,
                **one,
                "samples_per_second": count / one["seconds"],
                "times_mmbert": reference / one["seconds"],
                "gflop_per_sample": work.get(like.replace(", compiled", ""), 0.0) / count / 1e9,
                "device_mib": torch.cuda.max_memory_allocated() / 2**20
                if device == "cuda"
                else None,
            }
        )
    return rows, cks.profile(bfloat16=device == "cuda")


class _Step:
    """A CKS, its optimiser and a batch: samples of 6 turns, a right and a wrong sticker each."""

    def __init__(
        self,
        size: str,
        seed: int,
        count: int,
        device: str,
        frozen: bool = False,
        compiled: bool = False,
    ):
        import torch
        from _benchmark_models import EMOTIONS, build_cks, dialogue, sticker_images, utterance

        from modeling_cks.training.trainer import freeze

        model, processor, _ = build_cks(size, seed=seed)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        dialogues = [dialogue(_TOKENS, f"{seed} {number}") for number in range(count)]
        batch = processor.encode_dialogues(dialogues, knowledge=False)
        batch["knowledge"] = torch.randn_like(batch["knowledge"])
        captions = [utterance(1 + number % 12, number) for number in range(2 * count)]
        batch.update(processor.encode_stickers(sticker_images(2 * count, seed), captions))
        batch["positive"] = torch.arange(count)
        batch["negative"] = torch.arange(count, 2 * count)
        batch["positive_shares"] = torch.full((count,), 1 / count)
        batch["emotion_labels"] = torch.arange(count) % len(EMOTIONS)
        # A sticker of another dialogue was sent before: history is read too.
        batch["history"] = torch.full(batch["speaker_ids"].shape, -1)
        batch["history"][:, 1] = torch.arange(count).roll(1)
        model.to(device).train()
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        if frozen:
            # As the trainer does it: what a frozen encoder says of text and image is computed once.
            freeze(model, ["text_encoder", "visual_extractor.clip"])
            with torch.no_grad():
                batch["utterance_embeds"] = model.encode_utterances(
                    batch.pop("utterance_input_ids"), batch.pop("utterance_attention_mask")
                )
                batch["clip_embeds"] = model.visual_extractor.encode_images(batch["pixel_values"])
        self.model, self.batch, self.device = model, batch, device
        self._called = torch.compile(model, dynamic=True) if compiled else model
        self._optimizers: dict[bool, torch.optim.Optimizer] = {}

    def optimizer(self, fused: bool):
        import torch

        if fused not in self._optimizers:
            trained = [each for each in self.model.parameters() if each.requires_grad]
            self._optimizers[fused] = torch.optim.AdamW(
                trained, lr=1e-5, weight_decay=3e-4, fused=fused, foreach=False
            )
        return self._optimizers[fused]

    def forward(self, bfloat16: bool = False):
        import torch

        context = torch.autocast(self.device, torch.bfloat16) if bfloat16 else nullcontext()
        with context:
            return self._called(**self.batch).loss

    def run(
        self,
        *,
        wait: Callable[[], object] | None = None,
        bfloat16: bool = False,
        fused: bool = True,
    ) -> Callable[[int], dict[str, float]]:
        def step(number: int) -> dict[str, float]:
            optimizer = self.optimizer(fused)
            optimizer.zero_grad()
            clock = Clock(wait)
            loss = self.forward(bfloat16)
            clock.stage("forward")
            loss.backward()
            clock.stage("backward")
            optimizer.step()
            clock.stage("optimizer")
            return clock.stages

        return step

    def flops(self) -> float:
        self.model.zero_grad()
        return flops(lambda: self.forward().backward())

    def profile(self, bfloat16: bool) -> list[dict]:
        """Name the operations that take most of a step's time, with their shares."""
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU]
        if self.device == "cuda":
            kinds.append(ProfilerActivity.CUDA)
        step = self.run(bfloat16=bfloat16)
        step(0)
        with profile(activities=kinds) as profiled:
            step(1)
        field = "self_device_time_total" if self.device == "cuda" else "self_cpu_time_total"
        events = sorted(profiled.key_averages(), key=lambda one: -getattr(one, field))
        total = sum(getattr(one, field) for one in events) or 1
        return [
            {"operation": one.key, "share": 100 * getattr(one, field) / total, "calls": one.count}
            for one in events[:_PROFILED]
        ]


class _MmbertStep:
    """MMBERT with all its tasks, its CLIP frozen as published, on a batch of the same size."""

    def __init__(self, size: str, seed: int, count: int, device: str, folder: Path):
        import torch
        from _benchmark_models import build_mmbert, dialogue, row, sticker_table

        self.baseline = build_mmbert(size, folder, seed=seed, dialogue_tokens=_TOKENS)
        table = sticker_table(2 * count, seed=seed)
        self.baseline.use_stickers(table)
        ids = list(table["id"])
        rows = [
            row(dialogue(_TOKENS, f"{seed} {number}"), ids[:1], ids[number],
                negative=ids[count + number])
            for number in range(count)
        ]  # fmt: skip
        for parameter in self.baseline.vision.parameters():
            parameter.requires_grad_(False)
        self.baseline.to(device).train()
        torch.manual_seed(seed)
        self.batch = {
            name: tensor.to(device) for name, tensor in self.baseline.collate(rows).items()
        }
        trained = [each for each in self.baseline.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def together(self) -> None:
        """As the baseline of this package trains: both pairs in one pass, all tasks read it."""
        self.baseline(**self.batch)["loss"].backward()

    def task_by_task(self) -> None:
        """As the published code trains: for each task the text is encoded anew."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        model, batch = self.baseline, self.batch
        count = len(batch["emotion_labels"])
        features = model.vision(model.inventory, batch["stickers"].tolist())
        right = slice(0, count)

        def states(part: slice):
            names = ("input_ids", "attention_mask", "token_type_ids")
            return model._states(*(batch[name][part] for name in names), features[part])

        for label, part in ((1, right), (0, slice(count, None))):
            logits = model.match(states(part)[:, 0])
            F.cross_entropy(logits, torch.full_like(batch["emotion_labels"], label)).backward()
        F.cross_entropy(model.emotion(states(right)[:, -1]), batch["emotion_labels"]).backward()
        chosen = batch["mask_labels"] != -100
        words = model._words(states(right)[:, :-1][chosen])
        F.cross_entropy(words, batch["mask_labels"][chosen]).backward()

    def run(
        self, passes: Callable[[], None], wait: Callable[[], object] | None
    ) -> Callable[[int], dict[str, float]]:
        def step(number: int) -> dict[str, float]:
            self.optimizer.zero_grad()
            clock = Clock(wait)
            passes()
            clock.stage("forward and backward")
            self.optimizer.step()
            clock.stage("optimizer")
            return clock.stages

        return step

    def flops(self, passes: Callable[[], None]) -> float:
        return flops(passes)


def _processes(args: argparse.Namespace, count: int) -> dict:
    """Measure the throughput of so many processes, which share the machine's cores."""
    size = "tiny" if args.quick else args.sizes[-1]
    batch = 4 if args.quick else args.training_batch[0]
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder, "seconds.json")
        in_processes(count, [__file__, taken, size, batch // count, args.repeats, args.seed])
        found = json.loads(taken.read_text())
    seconds = sorted(found)[len(found) // 2]
    return {
        "processes": count,
        "threads_each": max(1, (os.cpu_count() or 1) // count),
        "size": size,
        "batch": batch,
        "seconds": seconds,
        "samples_per_second": batch / seconds,
    }


def _worker(taken: Path, size: str, count: int, repeats: int, seed: int) -> None:
    """Train as one of several processes, as `Trainer` does it under DDP."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    step = _Step(size, seed, count, "cpu")
    import torch

    step.batch["sticker_ids"] = torch.arange(2 * count) + 2 * count * dist.get_rank()
    step._called = DistributedDataParallel(step.model)
    run, seconds = step.run(), []
    for number in range(repeats + 1):
        dist.barrier()
        start = time.perf_counter()
        run(number)
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    if dist.get_rank() == 0:
        taken.write_text(json.dumps(seconds[1:]))
    # None leaves while another still waits for it: over gloo that would end the other in an error.
    dist.monitored_barrier()
    dist.destroy_process_group()


def _collation(args: argparse.Namespace, size: str, count: int) -> dict:
    """Time how long a loader's worker makes a batch, pixels of new stickers among it."""
    import torch
    from _benchmark_models import build_cks, dialogue, row, sticker_table

    from modeling_cks.training import StickerInventory
    from modeling_cks.training.collator import CKSCollator

    _, processor, _ = build_cks(size, seed=args.seed)
    table = sticker_table(2 * count, seed=args.seed)
    collator = CKSCollator(processor, StickerInventory(table, processor), knowledge=False)
    ids = list(table["id"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    taken = []
    for repeat in range(args.repeats + 1):
        rows = [
            row(dialogue(_TOKENS, f"{repeat} {number}"), ids[:1], ids[number],
                negative=ids[count + number], share=1 / count)
            for number in range(count)
        ]  # fmt: skip
        start = time.perf_counter()
        collator(rows)
        taken.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return {"size": size, "batch": count, "seconds": sorted(taken[1:])[len(taken[1:]) // 2]}


def _share(row: dict, result: dict) -> float | None:
    """Say what share of the ceiling a step reaches."""
    work, seconds = row["gflop_per_sample"], 1 / row["samples_per_second"]
    if result["peak_tflops"]:
        return 100 * work / seconds / 1000 / result["peak_tflops"]
    if row["size"] != "full":
        return None
    precision = "bf16" if "bfloat16" in row["contestant"] else "fp32"
    return share(work, seconds, result.get("ceilings"), precision)


_TITLES = ["", "size", "samples", "s a step", "samples/s", "times MMBERT's", "GFLOP a sample"]


def _cells(row: dict) -> list[object]:
    return [row["contestant"], row["size"], row["batch"], row["seconds"],
            row["samples_per_second"], row["times_mmbert"], row["gflop_per_sample"]]  # fmt: skip


def _processes_lines(result: dict) -> list[str]:
    return [
        f"{one['processes']} process{'es' if one['processes'] > 1 else ''} of "
        f"{one['threads_each']} thread{'s' if one['threads_each'] > 1 else ''} ({one['size']} "
        f"size, {one['batch']} samples a step together): {one['samples_per_second']:.3f} samples/s"
        for one in result.get("processes", [])
    ]


def table(result: dict) -> str:
    """Lay out for the terminal."""
    rows = lines(_TITLES, [_cells(row) for row in result["rows"]])
    return "\n".join([rows, *_processes_lines(result)])


def page(result: dict, folder) -> str:
    """Render the section."""
    device = result["device"]
    parts = [
        f"On {'this CPU' if device == 'cpu' else device}. Dialogues of {result['tokens']} word "
        "pieces in 6 turns, a right and a wrong sticker for each sample. CKS trains all its parts, "
        "CLIP with a second, restyled view of every sticker among them, unless they are said to be "
        "frozen; MMBERT's CLIP is frozen, as in its published code. `MMBERT` is this package's "
        "form, which reads each pair once for all tasks; `a pass for each task` is the published "
        "way. FLOPs are counted in code, forward and backward; the share is that of the ceiling "
        "of the same precision.",
        markdown(
            [*_TITLES, "% of the ceiling"],
            [[*_cells(row), _share(row, result)] for row in result["rows"]],
        ),
    ]
    for name, profile in result["profiles"].items():
        named = ", ".join(f"`{one['operation']}` {one['share']:.1f} %" for one in profile)
        parts.append(f"Where the time of CKS's step goes ({name}): {named}.")
    for one in result["collation"]:
        step = next(
            row["seconds"]
            for row in result["rows"]
            if row["contestant"] == "CKS"
            and (row["size"], row["batch"]) == (one["size"], one["batch"])
        )
        parts.append(
            f"A loader's worker makes a batch of {one['batch']} ({one['size']} size) in "
            f"{1000 * one['seconds']:.1f} ms on one core, {100 * one['seconds'] / step:.1f} % of a "
            "step: that is how long the step would wait without a worker, and as many steps as "
            "fit into it a worker can feed."
        )
    found = _processes_lines(result)
    if found:
        parts.append("Processes that share these cores (DDP over gloo): " + "; ".join(found) + ".")
    return "\n\n".join(parts)


def headlines(result: dict) -> list[dict]:
    """Give the rows that the README and model cards show."""
    shown = ("CKS", "CKS, RoBERTa and CLIP frozen", "MMBERT", "MMBERT, a pass for each task")
    return [
        {
            "measurement": f"{row['contestant']}: train {row['batch']} samples",
            "size": row["size"],
            "seconds": row["seconds"],
            "rows_per_second": row["samples_per_second"],
            "peak_memory_mib": result["peak_memory_mib"],
        }
        for row in result["rows"]
        if row["contestant"] in shown
    ]


if __name__ == "__main__":
    _worker(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
