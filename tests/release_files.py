# SPDX-License-Identifier: Apache-2.0
"""A small MOD release as plain Python objects, to spoil at will and then write."""

import copy
import io
import json
from pathlib import Path

from PIL import Image

EMOTIONS = {"calm": 0, "glad": 1, "sad": 2}
EN = ("I won the prize", "So what", "They cancelled it", "Oh dear", "Look at this", "Café ☕ 🎉")
ZH = ("我中奖了", "那又怎样", "他们取消了", "天哪", "你看这个", "咖啡 ☕ 🎉")


def picture(color, size=(6, 4), format="PNG", mode="RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, format=format, **options)
    return buffer.getvalue()


def turn(speaker, text=None, sticker=None, emotion=None, key="img_id") -> dict:
    found = {"speaker_id": f"[speaker{speaker + 1}]"}
    if emotion is not None:
        found["emotion_id"] = emotion
    if sticker is not None:
        found[key] = sticker
    if text is not None:
        found["txt"] = text
    return found


def task2(turns, candidates) -> dict:
    """The task-2 record whose answer is the sticker of the last turn."""
    *before, last = copy.deepcopy(turns)
    kept = {k: v for k, v in last.items() if k in ("speaker_id", "txt")}
    who = last["speaker_id"]
    return {
        "history": [*before, kept],
        "candidate": {"speaker_id": who, "set": candidates},
        "answer": {"speaker_id": who, "img_id": last["img_id"]},
    }


def task3(turns) -> dict:
    *before, last = copy.deepcopy(turns)
    kept = {k: v for k, v in last.items() if k != "emotion_id"}
    answer = {"speaker_id": last["speaker_id"], "emotion_id": last["emotion_id"]}
    return {"history": [*before, kept], "answer": answer}


class ReleaseFiles:
    """Paths and contents of a release: change `json` or `images`, then `write`."""

    def __init__(self, language="en", stickers=14):
        say = EN if language == "en" else ZH
        prefix = "e" if language == "en" else "c"
        ids = [f"{i:03d}" for i in range(stickers)]
        eleven = ids[:11]
        evaluation = [
            [turn(0, say[0], "001", 1), turn(1, say[1], "000", 2)],
            # No emotion: missing in task 3, so that the two files are not aligned.
            [turn(1, say[2]), turn(1, say[3], "003")],
            [turn(0, say[4], "000"), turn(1, say[5]), turn(0, None, "004", 0)],
        ]
        self.train = f"train/{prefix}_train.json"
        self.val = f"validation/{prefix}_val.json"
        self.task2 = {"validation": f"validation/{prefix}_val_task2.json"}
        self.task3 = {"validation": f"validation/{prefix}_val_task3.json"}
        for name in ("easy", "hard"):
            stem = f"test/{prefix}_test_{name}/{prefix}_test_{name}"
            self.task2[f"test_{name}"] = f"{stem}_task2.json"
            self.task3[f"test_{name}"] = f"{stem}_task3.json"
        self.json = {
            "supplementary/img2id.json": {f"s{one}.png": one for one in ids},
            "supplementary/emotion_dict.json": dict(EMOTIONS),
            self.train: {
                "dialogue 7": [
                    turn(0, say[0], "005", 1),
                    turn(1, say[1], "000", 1),
                    turn(0, say[5]),
                    turn(1, None, "002"),
                ],
                "dialogue 8": [turn(1, say[2]), turn(0, say[3], "000", 2)],
                "dialogue 9": [turn(0, say[4], "006", 0)],
                "dialogue 10": [turn(0, say[4], emotion=1), turn(1, say[2], "000", 2)],
            },
            self.val: {f"dialogue {i}": turns for i, turns in enumerate(evaluation)},
        }
        for split, path in self.task2.items():
            turns = evaluation
            if split == "test_hard":
                turns = [[turn(0, say[0]), turn(1, say[1], "009", 1)]]
            self.json[path] = [task2(one, list(eleven)) for one in turns]
            labelled = [one for one in turns if "emotion_id" in one[-1]]
            # The other way round: only the history tells which is which.
            self.json[self.task3[split]] = [task3(one) for one in reversed(labelled)]
        self.images = {f"s{one}.png": picture((i, 0, 0)) for i, one in enumerate(ids)}
        self.images["stray.png"] = picture("black")

    def rename(self, old: str, new: str) -> None:
        self.json[new] = self.json.pop(old)

    def write(self, root: Path) -> Path:
        for name, value in self.json.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = value if isinstance(value, bytes) else json.dumps(value, indent=1).encode()
            path.write_bytes(content)
        memes = root / "supplementary" / "meme_set"
        memes.mkdir(parents=True, exist_ok=True)
        for name, content in self.images.items():
            (memes / name).write_bytes(content)
        return root
