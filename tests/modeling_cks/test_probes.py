# SPDX-License-Identifier: Apache-2.0
"""Probes on rankers of which it is known what they read, and against plain loops."""

import math
import re
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image
from small_world import stickers
from word_world import WORD_TABLE, WordRanker, inventory, world_rows

from dataset_mod.synthetic_text import EMOTIONS, WORDS
from modeling_cks.evaluation import RankerOutput
from modeling_cks.evaluation.probes import (
    REPAINTS,
    Counterfactual,
    ask,
    delete_words,
    exchange,
    movements,
    ratio,
    restyle,
    reword,
    summarise,
    swap_last_utterance,
    swap_words,
)

FACES = {one.id: EMOTIONS.index(one.emotion) for one in inventory()}


@pytest.fixture(scope="module")
def rows():
    return world_rows("test_easy", 60, rho=0.5)


def moved(ranker, rows, changed):
    after = ask(ranker, [one.row for one in changed])
    return movements(ask(ranker, rows), after, rows, changed, FACES)


# ---- a ranker that reads nothing but the word --------------------------------------------------


def test_who_reads_only_the_word_moves_as_computed_by_hand(rows):
    ranker = WordRanker(inventory())
    records = moved(ranker, rows, swap_words(rows, WORD_TABLE))
    assert len(records) == len(rows) > 100
    # One of seven scores is 1, the others 0, before and after: two candidates trade places.
    first = math.exp(7 / math.sqrt(6))
    found = summarise(records)
    assert [r["distance"] for r in records] == pytest.approx(
        [(first - 1) / (first + 6)] * len(rows)
    )
    for measure in ("top_changes", "top_to_target", "named_to_target", "target_probability"):
        assert found[measure]["mean"] == found[measure]["low"] == 1
    aligned = [WORD_TABLE.group(row) == "aligned" for row in rows]
    assert 0.3 < np.mean(aligned) < 0.7
    # The label was certain where the word spoke for it, and no word speaks for it now.
    assert [r["label"] for r in records] == [-float(each) for each in aligned]
    for row, record, was_first in zip(rows, records, aligned, strict=True):
        place = row["candidates"].index(row["sticker_id"])
        target = next(n for n, c in enumerate(row["candidates"]) if FACES[c] == record["target"])
        now = place + 1 + (target > place)
        if was_first:
            assert record["rank"] == now - 1
            assert record["probability"] == pytest.approx((1 - first) / (first + 6))


def test_without_words_nothing_is_left_of_it(rows):
    ranker = WordRanker(inventory())
    records = moved(ranker, rows, delete_words(rows, WORD_TABLE))
    first = math.exp(7 / math.sqrt(6))
    # From one that stands out to all alike.
    assert [r["distance"] for r in records] == pytest.approx(
        [first / (first + 6) - 1 / 7] * len(rows)
    )
    assert {(r["target"], r["top_to_target"], r["named_to_target"]) for r in records} == {
        (-1, None, None)
    }
    found = summarise(records)
    assert "top_to_target" not in found and "target_probability" not in found


def test_other_words_of_the_same_emotion_change_nothing_for_it(rows):
    ranker = WordRanker(inventory())
    changed = reword(rows, WORD_TABLE)
    assert len(changed) == len(rows)
    found = summarise(moved(ranker, rows, changed))
    assert found["distance"]["mean"] == found["top_changes"]["mean"] == found["rank"]["mean"] == 0
    assert ratio(found, found) is None
    swapped = summarise(moved(ranker, rows, swap_words(rows, WORD_TABLE)))
    assert ratio(swapped, swapped) == 1 and ratio({}, swapped) is None
    assert ratio(found, swapped) == 0


# ---- what is changed, and what is not ----------------------------------------------------------


def said(row):
    return [turn["text"] for turn in row["utterances"]]


def test_only_the_words_of_the_present_episode_change(rows):
    before = deepcopy(rows)
    lists = [list(of) for of in WORDS.values()]
    kinds = {"swap": swap_words(rows, WORD_TABLE), "delete": delete_words(rows, WORD_TABLE),
             "reword": reword(rows, WORD_TABLE)}  # fmt: skip
    assert rows == before
    for kind, changed in kinds.items():
        for one in changed:
            row, now = rows[one.place], one.row
            newest = len(WORD_TABLE.utterances_of(row))
            assert said(now)[:-newest] == said(row)[:-newest]
            old, new = (WORD_TABLE.find_in(each) for each in (row, now))
            assert {k: v for k, v in now.items() if k != "utterances"} == {
                k: v for k, v in row.items() if k != "utterances"
            }
            if kind == "delete":
                assert new == [] and one.target == -1
                continue
            assert len(new) == len(old) and all(
                a.word != b.word for a, b in zip(old, new, strict=True)
            )
            if kind == "swap":
                assert {each.emotion for each in new} == {one.target}
                assert one.target not in {row["emotion"], *(each.emotion for each in old)}
                assert new[0].word in lists[one.target]
            else:
                assert [each.emotion for each in new] == [each.emotion for each in old]
            # All else is as it was, word for word.
            tokens = [re.findall(r"\w+", " ".join(said(each)).lower()) for each in (row, now)]
            differ = [pair for pair in zip(*tokens, strict=True) if pair[0] != pair[1]]
            assert differ == [(a.word, b.word) for a, b in zip(old, new, strict=True)]
    assert len({one.target for one in kinds["swap"]}) == len(EMOTIONS)


def test_a_rows_change_depends_on_its_name_and_the_seed_alone(rows):
    for change in (swap_words, reword):
        whole = {one.place: one.row for one in change(rows, WORD_TABLE)}
        part = change(rows[5:15], WORD_TABLE)
        assert [one.row for one in part] == [whole[5 + one.place] for one in part]
        other = {one.place: one.row for one in change(rows, WORD_TABLE, seed=1)}
        assert other.keys() == whole.keys() and other != whole


def test_rows_without_a_word_are_left_out_and_capitals_kept():
    turn = {"speaker": 0, "sticker_id": None}
    row = {"dialogue_id": "d", "turn": 0, "emotion": 1, "utterances": [{**turn, "text": "hello"}]}
    happy = {**row, "turn": 1, "utterances": [{**turn, "text": "Happy! so happy"}]}
    rows = [row, happy]
    for changed in (swap_words(rows, WORD_TABLE), delete_words(rows, WORD_TABLE),
                    reword(rows, WORD_TABLE)):  # fmt: skip
        assert [one.place for one in changed] == [1]
    text = reword(rows, WORD_TABLE)[0].row["utterances"][0]["text"]
    assert text[0].isupper() and "happy" not in text.lower()
    assert text.split()[0].rstrip("!").lower() in WORDS["joy"]


def test_the_newest_utterance_comes_from_another_label(rows):
    unlabelled = {**rows[0], "dialogue_id": "none", "emotion": -1}
    changed = swap_last_utterance([unlabelled, *rows])
    assert [one.place for one in changed] == list(range(1, len(rows) + 1))
    labels = {}
    for row in rows:
        labels.setdefault(said(row)[-1], set()).add(row["emotion"])
    for one in changed:
        row = rows[one.place - 1]
        assert said(one.row)[:-1] == said(row)[:-1]
        assert one.target in labels[said(one.row)[-1]] and one.target != row["emotion"]
    assert swap_last_utterance([row for row in rows if row["emotion"] == 1]) == []


# ---- how far scores move -----------------------------------------------------------------------


class Fixed:
    """Scores that are known beforehand, by row."""

    name = "fixed"

    def __init__(self, scores, emotions=None):
        self.scores, self.emotions = scores, emotions

    def rank(self, rows):
        places = [row["turn"] for row in rows]
        emotions = None if self.emotions is None else self.emotions[places]
        return RankerOutput([self.scores[place] for place in places], emotions)


def random_rows(count):
    draw = np.random.default_rng(3)
    rows = []
    for number in range(count):
        candidates = [f"{n:03}" for n in draw.choice(30, int(draw.integers(3, 12)), replace=False)]
        answer = candidates[int(draw.integers(len(candidates)))]
        rows.append({"dialogue_id": f"d{number // 2}", "turn": number, "candidates": candidates,
                     "sticker_id": answer, "emotion": number % 4 - 1})  # fmt: skip
    return rows


def test_movements_are_what_a_plain_loop_gives():
    rows = random_rows(25)
    draw = np.random.default_rng(4)
    old, new = ([draw.normal(2, 3, len(r["candidates"])) for r in rows] for _ in range(2))
    feelings = [draw.dirichlet(np.ones(3), 25) for _ in range(2)]
    emotions = {f"{n:03}": n % 4 - 1 for n in range(30)}
    changed = [Counterfactual(p, rows[p], p % 3) for p in range(0, 25, 2)]
    before = ask(Fixed(old, feelings[0]), rows, batch_size=7)
    after = ask(Fixed(new, feelings[1]), [one.row for one in changed], batch_size=4)
    records = movements(before, after, rows, changed, emotions)
    unit = sum(float(np.std(each)) for each in old) / len(old)
    for one, record in zip(changed, records, strict=True):
        row, p = rows[one.place], one.place
        shares = []
        for scores in (old[p], new[p]):
            powers = [math.exp(score / unit) for score in scores]
            shares.append([power / sum(powers) for power in powers])
        right = row["candidates"].index(row["sticker_id"])
        places = [sum(s > scores[right] for s in scores) for scores in (old[p], new[p])]
        tops = [row["candidates"][list(scores).index(max(scores))] for scores in (old[p], new[p])]
        known = all(emotions[top] != -1 for top in tops)
        assert record["distance"] == pytest.approx(
            sum(max(b - a, 0) for a, b in zip(*shares, strict=True))
        )
        assert record["rank"] == places[1] - places[0]
        assert record["probability"] == pytest.approx(shares[1][right] - shares[0][right])
        assert record["top_changes"] is (tops[0] != tops[1])
        turned = emotions[tops[1]] == one.target and emotions[tops[0]] != one.target
        assert record["top_to_target"] == (turned if known else None)
        label = row["emotion"]
        assert record["label"] == (
            None if label == -1 else pytest.approx(feelings[1][p][label] - feelings[0][p][label])
        )
        assert record["target_probability"] == pytest.approx(
            feelings[1][p][one.target] - feelings[0][p][one.target]
        )
    assert {record["top_to_target"] for record in records} >= {True, False, None}
    found = summarise(records)
    assert found["distance"]["mean"] == pytest.approx(np.mean([r["distance"] for r in records]))
    assert found["label"]["samples"] == sum(r["label"] is not None for r in records) < len(records)
    assert found["rank"]["low"] <= found["rank"]["mean"] <= found["rank"]["high"]


def test_units_and_shifts_of_scores_do_not_matter():
    rows = random_rows(12)
    draw = np.random.default_rng(5)
    old, new = ([draw.normal(0, 1, len(r["candidates"])) for r in rows] for _ in range(2))
    changed = [Counterfactual(place, row) for place, row in enumerate(rows)]

    def distances(factor, shift):
        before, after = (
            ask(Fixed([factor * s + shift for s in each]), rows) for each in (old, new)
        )
        return [r["distance"] for r in movements(before, after, rows, changed, {})]

    plain = distances(1, 0)
    assert min(plain) > 0.01
    assert distances(1e-3, 7) == pytest.approx(plain)
    assert distances(500, 0) == pytest.approx(plain)


def test_who_prefers_nothing_moves_nowhere_and_logits_are_emotions_too():
    rows = random_rows(4)
    changed = [Counterfactual(place, row, 1) for place, row in enumerate(rows)]
    flat = [np.zeros(len(row["candidates"])) for row in rows]
    logits = np.array([[0.0, -1.0, 2.0]] * 4)
    before = ask(Fixed(flat, logits), rows)
    after = ask(Fixed(flat, logits + [0, 5, 0]), rows)
    records = movements(before, after, rows, changed, {})
    assert {record["distance"] for record in records} == {0}
    old, new = (np.exp(each) / np.exp(each).sum() for each in (logits[0], logits[0] + [0, 5, 0]))
    assert records[0]["target_probability"] == pytest.approx(new[1] - old[1])
    assert all(record["named_to_target"] for record in records)


# ---- changed stickers --------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPAINTS)
def test_a_repaint_changes_colours_or_strokes_and_leaves_white(name):
    ramp = np.full((20, 20, 3), 255, np.uint8)
    ramp[5:15, 5:15] = (230, 40, 90)
    image = Image.fromarray(ramp)
    repainted = REPAINTS[name](image)
    assert (repainted.mode, repainted.size) == ("RGB", image.size)
    after = np.asarray(repainted).astype(int)
    assert (after[0:4, 0:4] == 255).all()
    assert np.abs(after - ramp).max() > 60
    if name == "hue":
        again = np.asarray(REPAINTS[name](repainted)).astype(int)
        assert np.abs(again - ramp).max() <= 12
    else:
        assert (after == after[..., :1]).all()


def test_a_restyled_table_keeps_all_but_the_images():
    table = stickers()
    read = ["a", "b", "c", "d", "e", "f"]
    found = restyle(table, lambda _, image: REPAINTS["grey"](image), read)
    assert found.features == table.features
    assert (found["id"], found["emotion"]) == (table["id"], table["emotion"])
    assert list(found["caption"]) == read
    for old, new in zip(table["image"], found["image"], strict=True):
        assert np.array_equal(np.asarray(new), np.asarray(old.convert("L").convert("RGB")))


def test_exchanged_stickers_carry_another_ones_image_and_words():
    table = stickers()
    read = [f"words of {sticker}" for sticker in table["id"]]
    found = exchange(table, read, seed=1)
    pixels = {np.asarray(image).tobytes(): n for n, image in enumerate(table["image"])}
    came = [pixels[np.asarray(image).tobytes()] for image in found["image"]]
    assert sorted(came) == list(range(6)) and all(n != place for place, n in enumerate(came))
    assert list(found["caption"]) == [read[n] for n in came]
    assert list(found["id"]) == list(table["id"])
