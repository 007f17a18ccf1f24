# SPDX-License-Identifier: Apache-2.0
"""One variable of MOD-mini's world changed, and no other."""

import json
import re

import numpy as np
import pytest

from dataset_mod import load_prepared
from dataset_mod.prepared import prepare
from dataset_mod.synthetic import write_mini_release
from dataset_mod.synthetic_counterfactuals import MiniTruth
from dataset_mod.synthetic_text import EMOTIONS, EVENTS, NEW_EVENTS, WORDS, render_event

SPLITS = ("train", "validation", "test_easy", "test_hard")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counterfactuals")
    write_mini_release(folder / "release", dialogues=(12, 4, 12, 12), size=32)
    prepare(folder / "release", folder / "data")
    return folder


@pytest.fixture(scope="module")
def data(place):
    return load_prepared(place / "data")


@pytest.fixture(scope="module")
def truth(place):
    return MiniTruth(place / "release" / "truth.json")


TOLD = [
    (emotion, seen, re.compile(rf"\b{re.escape(render_event(event, who))}\b", re.IGNORECASE))
    for seen, kinds in ((True, EVENTS), (False, NEW_EVENTS))
    for emotion, of in kinds.items()
    for event in of
    for who in ("own", "told")
]


def events(text):
    """Find the events that are told in a text: (emotion, whether training had it)."""
    return {(emotion, seen) for emotion, seen, said in TOLD if said.search(text)}


def words(texts):
    every = {word for of in WORDS.values() for word in of}
    return [token for text in texts for token in re.findall(r"\w+", text.lower()) if token in every]


@pytest.mark.parametrize("split", SPLITS)
def test_another_event_is_exchanged_for_what_happened_and_nothing_else(data, truth, split):
    told = set()
    for row in data.splits[split]:
        changed, target = truth.swap_event(split, row)
        old, new = ([t["text"] for t in each["utterances"]] for each in (row, changed))
        differ = [place for place in range(len(old)) if old[place] != new[place]]
        assert len(differ) == 1
        before, after = ([each[differ[0]]] for each in (old, new))
        assert words(before) == words(after)
        ((was, seen),) = events(before[0])
        ((now, still_seen),) = events(after[0])
        assert EMOTIONS.index(now) == target and now != was and still_seen == seen
        if row["emotion"] >= 0:
            assert EMOTIONS.index(was) == row["emotion"]
        assert changed | {"utterances": None} == row | {"utterances": None}
        assert after[0][0].isupper() and after[0][-1] in ".?!"
        told.add("told" if "your" in after[0] or " you " in after[0] else "own")
    assert "own" in told


def test_the_new_event_does_not_speak_for_the_words_emotion_and_depends_on_the_seed(data, truth):
    rows = list(data.splits["test_easy"])
    of = {word: EMOTIONS.index(emotion) for emotion, all_of in WORDS.items() for word in all_of}
    found = [truth.swap_event("test_easy", row) for row in rows]
    for row in rows:
        # In an episode's turns only one word is said.
        last = of[words(turn["text"] for turn in row["utterances"])[-1]]
        targets = {truth.swap_event("test_easy", row, seed)[1] for seed in range(40)}
        assert len(targets) > 2 and not targets & {last, row["emotion"]}
    assert found == [truth.swap_event("test_easy", row) for row in rows]
    assert found != [truth.swap_event("test_easy", row, seed=1) for row in rows]
    assert len({target for _, target in found}) > 4


def test_drawn_in_its_own_style_a_sticker_is_the_one_of_the_data(data, truth):
    for sticker, image in zip(data.stickers["id"], data.stickers["image"], strict=True):
        own = truth.drawn(sticker, truth.stickers[sticker]["style"])
        assert np.array_equal(np.asarray(own), np.asarray(image)), truth.stickers[sticker]["name"]


def test_restyled_a_sticker_has_its_face_and_words_in_another_style(truth):
    styles = {}
    for sticker, one in list(truth.stickers.items())[::3]:
        image = np.asarray(truth.restyled(sticker))
        fitting = [
            style
            for style in ("flat", "ink", "candy", "neon")
            if np.array_equal(image, np.asarray(truth.drawn(sticker, style)))
        ]
        assert len(fitting) == 1
        assert styles.setdefault(one["style"], fitting[0]) == fitting[0]
    # Each style took another's place.
    assert styles.keys() == set(styles.values()) and all(a != b for a, b in styles.items())
    with pytest.raises(ValueError, match="has no sticker '999'"):
        truth.restyled("999")


def test_emotions_are_those_of_the_faces(truth):
    emotions = truth.sticker_emotions()
    assert len(emotions) == 84 and np.bincount(list(emotions.values())).tolist() == [12] * 7


def test_rows_and_files_of_something_else_are_named(data, truth, tmp_path):
    row = data.splits["test_easy"][0]
    with pytest.raises(ValueError, match="not the truth of validation, dialogue record 99, turn 1"):
        truth.swap_event("validation", {**row, "dialogue_id": "record 99", "turn": 1})
    turns = [{**turn, "text": "hello"} for turn in row["utterances"]]
    with pytest.raises(ValueError, match="not the truth of test_easy"):
        truth.swap_event("test_easy", {**row, "utterances": turns})
    with pytest.raises(ValueError, match="gone.json: no such file"):
        MiniTruth(tmp_path / "gone.json")
    for content in ("{", "[]", json.dumps({"generator": "another"})):
        (tmp_path / "t.json").write_text(content)
        with pytest.raises(ValueError, match=r"t\.json: not the truth of a MOD-mini"):
            MiniTruth(tmp_path / "t.json")
