# SPDX-License-Identifier: Apache-2.0
"""A small chat export and its stickers, whose text tells the sticker, to prepare and train on."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

TEXTS = ("i am so happy", "oh no", "you make me angry", "what a surprise")
STICKERS = ("happy.png", "sad.png", "angry.gif", "wow.webp", "never sent.jpg")
EMOTIONS = ("glad", "low", "furious", "glad")


def write_stickers(folder: Path) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in STICKERS:
        Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / name)
    return folder


def turns(dialogues=12, emotions=True) -> list[dict]:
    """Two people each time; the second sends the sticker that the first one's words ask for."""
    found = []
    for number in range(dialogues):
        for place in (number % 4, (number + 1) % 4):
            common = {"dialogue": f"chat {number}"}
            found.append({**common, "speaker": "ann", "text": TEXTS[place], "sticker": ""})
            found.append({**common, "speaker": "bob", "text": "", "sticker": STICKERS[place]})
            if emotions:
                found[-1]["emotion"] = EMOTIONS[place]
                found[-2]["emotion"] = ""
    return found


def write_csv(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path
