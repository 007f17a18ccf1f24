# SPDX-License-Identifier: Apache-2.0
"""Measure how long CKS takes and how much memory it needs, at a tiny size and at the paper's.

Weights are random, drawn by configuration: nothing is downloaded, and neither time nor memory
depends on their values. Each measurement runs in a process of its own, so that its peak memory is
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# The parent imports nothing large: a child's peak is counted from its parent's size on.
from _cli import ROOT, evidence, peak_memory_mib, run_main, write_json
from tqdm import tqdm

CANDIDATES = 11
EMOTIONS = 48
DIALOGUE = (
    "Guess what, I finally got the job I told you about!",
    "No way, that is wonderful news. When do you start?",
    "Next Monday already, and I am a little afraid of it to be honest.",
    "Do not worry, you were angry at your old boss every single day.",
    "That is true. Will you come and celebrate with me tonight?",
    "Of course I will, I am so happy for you!",
)
PAPER_TEXT = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
TINY_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# What `modeling_cks.backbones.build` takes, the COMET's configuration, and the training dialogues
# of MOD-mini from which preparation is timed (about three samples each; MOD has 212,248).
SIZES = {
    "tiny": {
        "build": {
            "text_config": {"model_type": "roberta", **TINY_TEXT},
            "bert_config": {"model_type": "bert", **TINY_TEXT},
            "vision_config": {**TINY_TEXT, "image_size": 32, "patch_size": 16},
            "embed_size": 32,
            "lstm_hidden_size": 16,
            "fusion_hidden_size": 32,
            "fusion_num_layers": 2,
            "fusion_num_heads": 2,
            "fusion_intermediate_size": 64,
        },
        "comet": {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
        },
        "dialogues": 300,
    },
    "full": {
        "build": {
            "text_config": {
                "model_type": "roberta",
                **PAPER_TEXT,
                "vocab_size": 50265,
                "max_position_embeddings": 514,
                "type_vocab_size": 1,
            },
            "bert_config": {"model_type": "bert", **PAPER_TEXT, "vocab_size": 30522},
            "vision_config": {
                **PAPER_TEXT,
                "image_size": 224,
                "patch_size": 32,
                "hidden_act": "quick_gelu",
            },
        },
        "comet": {"d_model": 1024, "vocab_size": 50272},  # BART-large, the library's default
        "dialogues": 70_700,
    },
}


def main(argv: list[str] | None = None) -> int:
    """Run every measurement in a process of its own, print a table and write the results."""
    args = _parse(argv)
    if args.measure is not None:
        print(json.dumps(_measure(args)))
        return 0
    results = []
    with tqdm([(name, size) for size in args.sizes for name in MEASUREMENTS]) as bar:
        for name, size in bar:
            bar.set_description(f"{name} ({size})")
            results.append(_in_a_process(name, size, args))
    # Where the file was written is nobody else's business.
    hidden = ("measure", "output")
    arguments = {key: value for key, value in vars(args).items() if key not in hidden}
    threads = os.environ.get("OMP_NUM_THREADS")
    write_json(
        args.output,
        {"results": results, **evidence(arguments=arguments, OMP_NUM_THREADS=threads)},
    )
    print(_table(results))
    print(f"written to {args.output}")
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=sorted(SIZES, reverse=True),
        default=["tiny", "full"],
        help="full: RoBERTa-base, BERT-base, CLIP ViT-B/32, COMET-BART (large), 12 layers of 512 "
        "(needs about 9 GiB)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timings per median (default: 5)")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="dialogues per training step (default: 8)"
    )
    parser.add_argument("--quick", action="store_true", help="two repeats on little data, for CI")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/benchmark.json"),
        help="results file (default: runs/benchmark.json)",
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.batch_size < 1:
        raise ValueError("--repeats and --batch-size must be at least 1")
    if args.quick:
        args.repeats, args.batch_size = 2, 2
    return args


def _in_a_process(name: str, size: str, args: argparse.Namespace) -> dict:
    command = [sys.executable, os.fspath(Path(__file__).resolve()), "--measure", name]
    command += ["--sizes", size, "--repeats", str(args.repeats)]
    command += ["--batch-size", str(args.batch_size), *(["--quick"] if args.quick else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"measuring {name} ({size}) failed: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(args: argparse.Namespace) -> dict:
    """Run one measurement in this process; the first, unreported run warms it up."""
    (size,) = args.sizes
    with tempfile.TemporaryDirectory() as folder:
        run, facts = MEASUREMENTS[args.measure](size, Path(folder), args)
        ready = peak_memory_mib()
        run(0)
        timings = [run(number) for number in range(1, args.repeats + 1)]
    stages = {name: statistics.median(one[name] for one in timings) for name in timings[0]}
    totals = [sum(one.values()) for one in timings]
    median = statistics.median(totals)
    return {
        "measurement": args.measure,
        "size": size,
        "seconds": median,
        "all_seconds": totals,
        "stages": stages,
        "rows_per_second": facts["rows"] / median,
        "peak_memory_mib": peak_memory_mib(),
        "peak_memory_ready_mib": ready,
        **facts,
    }


Run = Callable[[int], dict[str, float]]


def _prepare(size: str, folder: Path, args: argparse.Namespace) -> tuple[Run, dict]:
    """Turn a MOD-mini release, scaled up to `size`, into Parquet."""
    from dataset_mod.prepared import prepare

    dialogues = 20 if args.quick else SIZES[size]["dialogues"]
    # In a process of its own: writing a release takes more memory than preparing it.
    command = [sys.executable, "-m", "dataset_mod.synthetic", str((folder / "release").resolve())]
    command += ["--dialogues", str(dialogues), "20", "20", "20"]
    made = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)

    def run(number: int) -> dict[str, float]:
        start = time.perf_counter()
        prepare(folder / "release", folder / "data")
        return {"prepare": time.perf_counter() - start}

    return run, {"rows": sum(made["samples"].values()), "stickers": made["stickers"]}


def _train_step(size: str, folder: Path, args: argparse.Namespace) -> tuple[Run, dict]:
    """Run forward, backward and Adam on a batch of dialogues, two stickers to each."""
    import torch

    count = args.batch_size
    model, processor, stickers, facts = _build(size, folder)
    batch = processor.encode_dialogues(_dialogues(count), knowledge=False)
    batch["knowledge"] = torch.randn_like(batch["knowledge"])
    images = [stickers[place % len(stickers)] for place in range(2 * count)]
    batch.update(processor.encode_stickers(images, ["so happy for you"] * len(images)))
    batch["positive"] = torch.arange(count)
    batch["negative"] = torch.arange(count, 2 * count)
    batch["positive_shares"] = torch.full((count,), 1 / count)
    batch["emotion_labels"] = torch.arange(count) % EMOTIONS
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, weight_decay=3e-4)

    def run(number: int) -> dict[str, float]:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = model(**batch).loss
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        optimizer.step()
        return {
            "forward": forward - start,
            "backward": backward - forward,
            "optimizer": time.perf_counter() - backward,
        }

    return run, {"rows": count, "utterances": len(DIALOGUE), **facts}


def _rank_new_stickers(size: str, folder: Path, args: argparse.Namespace) -> tuple[Run, dict]:
    """Rank stickers never seen for a dialogue never seen: OCR, COMET, CLIP and the rest."""
    model, processor, stickers, facts = _build(size, folder, ocr="rapidocr", comet=True)

    def run(number: int) -> dict[str, float]:
        # Any change makes an image new to the OCR's memory, and a text new to COMET's.
        images = [image.copy() for image in stickers[:CANDIDATES]]
        for image in images:
            image.putpixel((0, 0), (number, 0, 0))
        dialogue = [f"{text} {number}" for text in DIALOGUE]
        clock = _Clock()
        captions = processor.read_text(images)
        clock.stage("ocr")
        processor.knowledge_features(dialogue)
        clock.stage("knowledge")
        inputs = processor(dialogue, images, captions)
        clock.stage("processor")
        _rank(model, inputs)
        clock.stage("model")
        return clock.stages

    return run, {"rows": 1, "candidates": CANDIDATES, **facts}


def _rank_known_stickers(size: str, folder: Path, args: argparse.Namespace) -> tuple[Run, dict]:
    """Rank stickers encoded before, after one new utterance: a conversation as it goes on."""
    import torch

    model, processor, stickers, facts = _build(size, folder, comet=True)
    captions = ["so happy for you"] * CANDIDATES
    known = processor.encode_stickers(stickers[:CANDIDATES], captions)
    with torch.no_grad():
        embeds = model.encode_stickers(known.pop("pixel_values"))
    known.update(sticker_embeds=embeds, candidates=torch.arange(CANDIDATES)[None])

    def run(number: int) -> dict[str, float]:
        dialogue = [*DIALOGUE[:-1], f"{DIALOGUE[-1]} {number}"]
        clock = _Clock()
        processor.knowledge_features(dialogue)
        clock.stage("knowledge")
        inputs = processor(dialogue)
        inputs.update(known)
        clock.stage("processor")
        _rank(model, inputs)
        clock.stage("model")
        return clock.stages

    return run, {"rows": 1, "candidates": CANDIDATES, **facts}


MEASUREMENTS = {
    "prepare": _prepare,
    "train_step": _train_step,
    "rank_new_stickers": _rank_new_stickers,
    "rank_known_stickers": _rank_known_stickers,
}


class _Clock:
    """Seconds from one stage's end to the next one's."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.stages[name] = now - self._last
        self._last = now


def _rank(model, inputs) -> None:
    import torch

    from modeling_cks.ranking import rank

    with torch.no_grad():
        order = rank(model(**inputs).scores)
    if order.shape != (1, CANDIDATES):
        raise ValueError(f"{tuple(order.shape)} is not one order of {CANDIDATES} candidates")


def _build(size: str, folder: Path, *, ocr: str = "none", comet: bool = False) -> tuple:
    """Build model and processor of random weights, and draw MOD-mini's stickers to work on."""
    import torch

    from dataset_mod.stickers import load_sticker_image
    from dataset_mod.synthetic import write_mini_release
    from modeling_cks.backbones import build, parameter_counts

    write_mini_release(folder / "release", dialogues=(1, 1, 1, 1))
    files = sorted((folder / "release" / "supplementary" / "meme_set").iterdir())
    stickers = [load_sticker_image(file) for file in files]
    torch.manual_seed(0)
    sizes = SIZES[size]
    model, processor = build(
        emotions=[f"emotion {number}" for number in range(EMOTIONS)],
        texts=DIALOGUE,
        knowledge_size=sizes["comet"]["d_model"],
        processor_options={"ocr": ocr},
        **sizes["build"],
    )
    facts = {"parameters": parameter_counts(model)["total"]}
    if comet:
        processor.knowledge_extractor = _random_comet(sizes["comet"])
        counts = parameter_counts(processor.knowledge_extractor.model)
        facts["comet_parameters"] = counts["total"]
    return model, processor, stickers, facts


def _random_comet(sizes: dict):
    """Draw a COMET of these sizes, with a tokenizer that knows the relations."""
    from transformers import BartConfig, BartForConditionalGeneration

    from modeling_cks.backbones import train_tokenizer
    from modeling_cks.knowledge import GEN_TOKEN, RELATIONS, KnowledgeExtractor

    tokenizer = train_tokenizer(DIALOGUE)
    tokenizer.add_tokens([*RELATIONS, GEN_TOKEN])
    config = BartConfig(**{"vocab_size": len(tokenizer), **sizes})
    return KnowledgeExtractor(BartForConditionalGeneration(config), tokenizer)


def _dialogues(count: int) -> list[list[dict]]:
    return [
        [{"speaker": place % 2, "text": f"{text} {row}"} for place, text in enumerate(DIALOGUE)]
        for row in range(count)
    ]


def _table(results: list[dict]) -> str:
    titles = f"{'measurement':<20} {'size':<5} {'median s':>9} {'rows/s':>10} {'peak MiB':>9}"
    lines = [f"{titles}  stages (s)"]
    for one in results:
        stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in one["stages"].items())
        lines.append(
            f"{one['measurement']:<20} {one['size']:<5} {one['seconds']:>9.3f} "
            f"{one['rows_per_second']:>10.2f} {one['peak_memory_mib']:>9.0f}  {stages}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
