# SPDX-License-Identifier: Apache-2.0
"""Preparing a release of MOD's size: 45,000 dialogues, about 212,000 samples, 307 stickers."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _benchmark import lines, markdown, slope
from _cli import ROOT, peak_memory_mib

TITLE = "Preparing the data"
_TURNS = 13
_SHARES = (0.25, 0.5, 1.0)
# Of the turns after the first: 45,000 dialogues then have about 212,000 samples, as MOD has.
_CARRY = 0.3926
_STICKERS = 307


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of dialogues."""
    parser.add_argument(
        "--data-dialogues",
        type=int,
        default=45_000,
        help="training dialogues at full scale; a quarter and a half are prepared too "
        "(default: 45000)",
    )


def measure(args: argparse.Namespace) -> dict:
    """Prepare a quarter, a half and the whole, each in a process of its own."""
    dialogues = 80 if args.quick else args.data_dialogues
    rows = []
    for share in _SHARES:
        with tempfile.TemporaryDirectory() as folder:
            release = Path(folder) / "release"
            samples = write_release(release, round(share * dialogues), args.seed)
            taken = []
            for number in range(1 if args.quick else args.repeats):
                output = Path(folder) / f"data {number}"
                command = [sys.executable, __file__, str(release), str(output)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                taken.append(json.loads(done.stdout.splitlines()[-1]))
        taken.sort(key=lambda one: one["seconds"])
        middle = taken[len(taken) // 2]
        rows.append(
            {
                "share": share,
                "dialogues": round(share * dialogues),
                "samples": samples,
                "stickers": _STICKERS,
                "seconds": middle["seconds"],
                "all_seconds": [one["seconds"] for one in taken],
                "peak_memory_mib": max(one["peak_memory_mib"] for one in taken),
                "images_decoded": middle["images_decoded"],
                "release_mib": middle["release_mib"],
                "data_mib": middle["data_mib"],
            }
        )
    exponent = slope([row["samples"] for row in rows], [row["seconds"] for row in rows])
    return {"rows": rows, "exponent": exponent}


def write_release(folder: Path, dialogues: int, seed: int) -> int:
    """Write a release in MOD's layout and return the number of its training samples.

    Its other splits and the first stickers are those of a small MOD-mini, drawn in a process of
    its own, so that this one's memory is not what is measured.
    """
    command = [sys.executable, "-m", "dataset_mod.synthetic", str(folder)]
    command += ["--dialogues", "20", "20", "20", "20", "--seed", str(seed)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    extra = folder / "supplementary"
    places = json.loads((extra / "img2id.json").read_text())
    drawn = sorted((extra / "meme_set").iterdir())
    for number in range(len(places), _STICKERS):
        like = drawn[number % len(drawn)]
        name = f"more-{number}{like.suffix}"
        # Bytes behind its end make another file of it, and the same picture.
        (extra / "meme_set" / name).write_bytes(like.read_bytes() + bytes([number % 256]))
        places[name] = f"{number:03}"
    (extra / "img2id.json").write_text(json.dumps(places))
    emotions = len(json.loads((extra / "emotion_dict.json").read_text()))
    seen = sorted(
        {
            turn["img_id"]
            for dialogue in json.loads((folder / "train" / "e_train.json").read_text()).values()
            for turn in dialogue
            if "img_id" in turn
        }
        | {f"{number:03}" for number in range(len(drawn), _STICKERS)}
    )
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(1, 9)))
             for _ in range(5000)]  # fmt: skip
    samples = 0
    with open(folder / "train" / "e_train.json", "w", encoding="utf-8") as file:
        for number in range(dialogues):
            turns = []
            for place in range(_TURNS):
                turn = {
                    "speaker_id": f"[speaker{1 + place % 2}]",
                    "txt": " ".join(draw.choices(words, k=draw.randint(2, 16))),
                }
                if place and draw.random() < _CARRY:
                    turn["img_id"] = draw.choice(seen)
                    turn["emotion_id"] = draw.randrange(emotions)
                    samples += 1
                turns.append(turn)
            start = "{" if number == 0 else ", "
            file.write(f"{start}{json.dumps(f'dialogue {number}')}: {json.dumps(turns)}")
        file.write("}")
    return samples


def _prepare(release: Path, output: Path) -> dict:
    """Prepare once, and count how often an image is decoded."""
    from dataset_mod import stickers
    from dataset_mod.prepared import prepare

    decoded = []
    load = stickers.Image.open
    stickers.Image.open = lambda *given, **more: decoded.append(1) or load(*given, **more)
    start = time.perf_counter()
    prepare(release, output)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak_memory_mib": peak_memory_mib(),
        "images_decoded": len(decoded),
        "release_mib": _mib(release),
        "data_mib": _mib(output),
    }


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def _cells(result: dict) -> tuple[list[str], list[list[object]]]:
    titles = ["dialogues", "samples", "stickers", "images decoded", "release, MiB",
              "prepared, MiB", "s", "samples/s", "peak MiB"]  # fmt: skip
    return titles, [
        [row["dialogues"], row["samples"], row["stickers"], row["images_decoded"],
         row["release_mib"], row["data_mib"], row["seconds"], row["samples"] / row["seconds"],
         row["peak_memory_mib"]]
        for row in result["rows"]
    ]  # fmt: skip


def table(result: dict) -> str:
    """Lay out for the terminal."""
    return f"{lines(*_cells(result))}\nseconds grow with samples ** {result['exponent']:.2f}"


def page(result: dict, folder) -> str:
    """Render the section."""
    last = result["rows"][-1]
    text = (
        "A release in MOD's layout with random words, as many dialogues, samples and stickers as "
        "MOD; each preparation in a process of its own, which starts Python and the libraries "
        f"outside the time. Seconds grow with samples to the power of {result['exponent']:.2f}."
    )
    ceilings = result.get("ceilings") or {}
    if "copy_gb_per_s" in ceilings:
        moved = (last["release_mib"] + last["data_mib"]) * 2**20 / 1e9
        least = moved / (ceilings["copy_gb_per_s"] / 2)
        text += (
            f" The bytes alone could be moved through memory in {least:.2f} s, "
            f"{100 * least / last['seconds']:.1f} % of the time: the rest is reading JSON, "
            "checking records and writing Parquet."
        )
    return f"{text}\n\n{markdown(*_cells(result))}"


def headlines(result: dict) -> list[dict]:
    """Give the row that the README and model cards show."""
    last = result["rows"][-1]
    return [
        {
            "measurement": f"prepare {last['samples']:,} samples",
            "size": "data",
            "seconds": last["seconds"],
            "rows_per_second": last["samples"] / last["seconds"],
            "peak_memory_mib": last["peak_memory_mib"],
        }
    ]


if __name__ == "__main__":
    print(json.dumps(_prepare(Path(sys.argv[1]), Path(sys.argv[2]))))
