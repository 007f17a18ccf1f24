# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pyarrow as pa
import pytest
from release_files import ReleaseFiles

from dataset_mod import load_prepared, prepare
from dataset_mod.schema import sample_features
from dataset_mod.statistics import describe, describe_split, sticker_images

EMOTIONS = ["calm", "glad", "sad"]
STICKERS = [f"{n:03}" for n in range(6)]


def random_rows(seed, count):
    draw = np.random.default_rng(seed)

    def sticker(share):
        return STICKERS[draw.integers(6)] if draw.random() < share else None

    return [
        {
            "dialogue_id": f"dialogue {n // 3}",
            "turn": 1,
            "utterances": [
                {"speaker": t % 2, "text": "hm", "sticker_id": sticker(0.4), "emotion": -1}
                for t in range(int(draw.integers(1, 9)))
            ],
            "sticker_id": sticker(0.8),
            "emotion": int(draw.integers(-1, 3)),
            "candidates": STICKERS[: int(draw.integers(2, 6))],
        }
        for n in range(count)
    ]


def batches(rows):
    """Several, the last one short."""
    schema = sample_features(EMOTIONS).arrow_schema
    return pa.Table.from_pylist(rows, schema=schema).to_batches(7)


def slow_description(rows, sticker_emotions):
    labelled = [row for row in rows if row["emotion"] != -1]
    answered = [row["sticker_id"] for row in rows if row["sticker_id"] is not None]
    lengths = [len(row["utterances"]) for row in rows]
    sizes = [len(row["candidates"]) for row in rows]
    emotions, together = {}, {}
    for number, name in enumerate(EMOTIONS):
        with_label = [row for row in labelled if row["emotion"] == number]
        emotions[name] = {
            "samples": len(with_label), "percent": 100 * len(with_label) / len(labelled)
        }  # fmt: skip
        of_sticker = [
            row
            for row in labelled
            if row["sticker_id"] is not None
            and sticker_emotions[STICKERS.index(row["sticker_id"])] == number
        ]
        same = sum(row["emotion"] == number for row in of_sticker)
        together[name] = {
            "samples": len(of_sticker),
            "percent": 100 * same / len(of_sticker) if of_sticker else None,
        }
    top = max(STICKERS, key=lambda one: (answered.count(one), -int(one)))
    return {
        "dialogues": len({row["dialogue_id"] for row in rows}),
        "utterances": sum(lengths),
        "longest": max(lengths),
        "history_stickers": sum(
            turn["sticker_id"] is not None for row in rows for turn in row["utterances"]
        ),
        "candidates": {"fewest": min(sizes), "most": max(sizes)},
        "unlabelled": len(rows) - len(labelled),
        "emotions": emotions,
        "top_sticker": {
            "id": top,
            "samples": answered.count(top),
            "percent": 100 * answered.count(top) / len(answered),
        },
        "together": together,
    }


@pytest.mark.parametrize("seed", range(3))
def test_counts_match_the_loop(seed):
    rows = random_rows(seed, 40)
    # 002 has no emotion, and no sticker has the second.
    of_stickers = np.array([0, 2, -1, 2, 0, 2])
    found = describe_split(batches(rows), EMOTIONS, STICKERS, of_stickers)
    expected = slow_description(rows, of_stickers)
    assert expected["together"]["glad"] == {"samples": 0, "percent": None}
    assert 0 < expected["together"]["sad"]["percent"] < 100
    assert found == expected


def test_a_share_of_nothing_is_none():
    rows = random_rows(0, 5)
    for row in rows:
        row["sticker_id"], row["emotion"] = None, -1
    found = describe_split(batches(rows), EMOTIONS, STICKERS, np.zeros(6, int))
    assert found["top_sticker"] is None and found["unlabelled"] == 5
    nothing = {name: {"samples": 0, "percent": None} for name in EMOTIONS}
    assert found["emotions"] == found["together"] == nothing


def test_a_prepared_folder_in_two_languages(tmp_path):
    files = ReleaseFiles("en")
    files.json |= ReleaseFiles("zh").json
    prepare(files.write(tmp_path / "release"), tmp_path / "data", languages=["zh", "en"])
    found = describe(tmp_path / "data")
    assert list(found["splits"]) == ["zh", "en"]
    assert list(found["splits"]["en"]) == ["train", "validation", "test_easy", "test_hard"]
    train = found["splits"]["en"]["train"]
    # "dialogue 9" gives no sample; in the others each sample has a name of its own.
    assert train["dialogues"] == 3 and found["splits"]["en"]["test_easy"]["dialogues"] == 3
    assert (train["utterances"], train["longest"], train["unlabelled"]) == (10, 4, 1)
    assert train["top_sticker"] == {"id": "000", "samples": 3, "percent": 75.0}
    assert train["emotions"]["sad"] == {"samples": 2, "percent": pytest.approx(66.67, abs=0.01)}
    assert train["together"]["sad"] == {"samples": 3, "percent": pytest.approx(66.67, abs=0.01)}
    assert found["splits"]["en"]["test_hard"]["candidates"] == {"fewest": 11, "most": 11}
    assert found["sticker_emotions"] == {"calm": 0, "glad": 0, "sad": 1}
    assert found["captions"] == 0
    emotions = load_prepared(tmp_path / "data", "en").splits["train"]["emotion"]
    assert sum(of["samples"] for of in train["emotions"].values()) == sum(e >= 0 for e in emotions)


def test_the_first_stickers_of_a_prepared_folder(tmp_path):
    prepare(ReleaseFiles().write(tmp_path / "release"), tmp_path / "data")
    for count, expected in ((3, 3), (14, 14), (20, 14)):
        images = sticker_images(tmp_path / "data", count)
        assert [image.getpixel((0, 0)) for image in images] == [(n, 0, 0) for n in range(expected)]
    # A damaged table is no table.
    path = tmp_path / "data" / "data" / "stickers" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    for call in (lambda: describe(tmp_path / "data"), lambda: sticker_images(tmp_path / "data", 1)):
        with pytest.raises(ValueError, match="missing or damaged"):
            call()
