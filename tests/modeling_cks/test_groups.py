# SPDX-License-Identifier: Apache-2.0
"""Figures of groups against plain loops, and on worlds where it is known how groups differ."""

import random
from collections import defaultdict

import numpy as np
import pytest
from word_world import WORD_TABLE, WordRanker, inventory, world_rows

from dataset_mod.synthetic_text import EMOTIONS
from dataset_mod.synthetic_world import CHANCE
from modeling_cks.evaluation import (
    CONTRASTS,
    BagOfWordsRanker,
    evaluate_ranker,
    group_figures,
    paired_bootstrap,
    sample_figures,
    sample_groups,
    sample_key,
    training_stickers,
)


def record(number, rank, emotion=-1, named=None, dialogue=None):
    return {
        "dialogue_id": f"d{number if dialogue is None else dialogue}", "turn": number,
        "rank": rank, "emotion": emotion, "emotion_given_answer": named,
    }  # fmt: skip


def many(seed, count=80):
    """Records of random ranks, some of them blank, unlabelled, or of shared dialogues."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        rank = None if number % 11 == 0 else draw.randint(1, 12)
        label = -1 if number % 7 == 0 else number % 3
        named = None if rank is None else draw.randrange(3)
        made.append(record(number, rank, label, named, number // 2))
    return made


def by_loop(records, groups, group, figure):
    """Average a figure over the records of a group, one by one."""
    values = []
    for one in records:
        if groups.get((one["dialogue_id"], one["turn"])) != group or one["rank"] is None:
            continue
        if figure == "MRR":
            values.append(1 / one["rank"] if one["rank"] <= 10 else 0)
        elif figure == "Acc":
            if one["emotion"] != -1:
                values.append(one["emotion"] == one["emotion_given_answer"])
        else:
            values.append(one["rank"] <= int(figure[2:]))
    return 100 * sum(values) / len(values), len(values)


def test_figures_are_those_of_a_plain_loop():
    seeds = [many(1), many(2), many(3)]
    groups = {sample_key(r): ("a", "b", "c")[r["turn"] % 3] for r in seeds[0] if r["turn"] < 70}
    found = group_figures(seeds, groups, least=5)
    assert set(found["groups"]) == {"a", "b", "c"}
    means = defaultdict(dict)
    for name, of in found["groups"].items():
        for figure in ("R@1", "R@3", "R@5", "MRR", "Acc"):
            each = [by_loop(records, groups, name, figure) for records in seeds]
            assert of[figure]["seeds"] == pytest.approx([mean for mean, _ in each])
            assert of[figure]["samples"] == each[0][1]
            means[figure][name] = np.mean([mean for mean, _ in each])
            assert of[figure]["mean"] == pytest.approx(means[figure][name])
            assert of[figure]["spread"] == pytest.approx(np.std([m for m, _ in each], ddof=1))
            assert of[figure]["low"] < of[figure]["mean"] < of[figure]["high"]
        assert of["samples"] == of["R@1"]["samples"] > of["Acc"]["samples"]
    for figure, of in means.items():
        low, high = min(of.values()), max(of.values())
        if low == high:
            assert figure not in found["worst"]
            continue
        worst = found["worst"][figure]
        assert (of[worst["group"]], of[worst["best"]]) == (low, high)
        assert worst["gap"] == pytest.approx(high - low)
    assert len(found["worst"]) == 4 and all(one["gap"] > 0 for one in found["worst"].values())
    blank = sum(one["rank"] is None for one in seeds[0] if one["turn"] >= 70)
    assert found["ungrouped"] == 10 - blank


def test_a_group_of_all_is_the_split_with_the_interval_of_the_paired_bootstrap():
    records = many(4)
    found = group_figures([records], {sample_key(one): "all" for one in records})
    figures = sample_figures(records)
    for name, of in found["groups"]["all"].items():
        if name == "samples":
            continue
        plain = paired_bootstrap(
            figures[name], np.zeros(len(records)), [one["dialogue_id"] for one in records]
        )
        assert (of["mean"], of["spread"]) == (pytest.approx(plain.mean), None)
        # All dialogues are drawn there that have a counted sample, and here all there are.
        assert of["low"] == pytest.approx(plain.low, abs=2)
        assert of["high"] == pytest.approx(plain.high, abs=2)
    assert found["worst"] == found["contrast"] == {}


def test_the_contrast_is_what_a_plain_loop_over_resamples_gives():
    records = many(5)
    groups = {sample_key(one): "ab"[one["turn"] % 3 == 0] for one in records}
    found = group_figures([records], groups, contrast=("b", "a"))["contrast"]["R@1"]
    of = {"a": defaultdict(list), "b": defaultdict(list)}
    for one in records:
        if one["rank"] is not None:
            of[groups[sample_key(one)]][one["dialogue_id"]].append(100 * (one["rank"] == 1))
    draw, names = np.random.default_rng(7), sorted({one["dialogue_id"] for one in records})
    differences = []
    for _ in range(2000):
        chosen = draw.choice(names, len(names))
        first, second = ([v for name in chosen for v in of[g][name]] for g in "ba")
        differences.append(np.mean(first) - np.mean(second))
    assert found["of"] == ["b", "a"]
    assert found["mean"] == pytest.approx(
        by_loop(records, groups, "b", "R@1")[0] - by_loop(records, groups, "a", "R@1")[0]
    )
    assert found["low"] == pytest.approx(np.quantile(differences, 0.025), abs=1)
    assert found["high"] == pytest.approx(np.quantile(differences, 0.975), abs=1)
    signs = np.sign(differences)
    p = 2 * min(np.mean(signs <= 0), np.mean(signs >= 0))
    assert found["p"] == pytest.approx(p, abs=0.05)


def test_a_group_that_is_too_small_is_reported_and_not_compared():
    records = [record(n, 1) for n in range(30)] + [record(30 + n, 2) for n in range(25)]
    records += [record(55 + n, 9) for n in range(19)]
    names = ["good"] * 30 + ["fair"] * 25 + ["few"] * 19
    groups = {sample_key(one): name for one, name in zip(records, names, strict=True)}
    found = group_figures([records], groups, contrast=("good", "few"))
    assert found["groups"]["few"]["R@1"]["mean"] == 0 and found["groups"]["few"]["samples"] == 19
    assert found["worst"]["MRR"] == {"group": "fair", "best": "good", "gap": 50}
    assert found["contrast"] == {}
    found = group_figures([records], groups, contrast=("good", "few"), least=19)
    assert found["worst"]["MRR"]["group"] == "few"
    assert found["contrast"]["R@1"]["mean"] == 100
    assert "Acc" not in found["groups"]["good"]


def test_seeds_on_different_samples_are_refused():
    with pytest.raises(ValueError, match="different samples"):
        group_figures([[record(0, 1)], [record(1, 1)]], {})


def row(number, sticker, emotion, text="hello", before=None):
    turns = [{"speaker": 0, "text": "hm", "sticker_id": before}] if before else []
    return {
        "dialogue_id": "d", "turn": number, "sticker_id": sticker, "emotion": emotion,
        "utterances": [*turns, {"speaker": 0, "text": text, "sticker_id": None}],
        "candidates": [sticker],
    }  # fmt: skip


def test_samples_are_grouped_by_what_training_had():
    seen = training_stickers([row(1, "000", 0), row(2, None, 0, before="001")])
    assert seen == {"000", "001"}
    joy, anger = EMOTIONS.index("joy"), EMOTIONS.index("anger")
    rows = [
        row(1, "000", joy, "a happy day"), row(2, "001", anger, "a happy day"),
        row(3, "002", joy), row(4, "003", -1, "a happy day"), row(5, None, joy),
        row(6, "004", joy, "happy, angry"),
    ]  # fmt: skip
    styles = {"000": "ink", "001": "ink", "002": "ink", "003": "neon"}
    found = sample_groups(rows, words=WORD_TABLE, seen_stickers=seen, styles=styles)
    of = {name: {turn: group for (_, turn), group in each.items()} for name, each in found.items()}
    assert of == {
        "bias": {1: "aligned", 2: "conflicting", 3: "neutral", 6: "neutral"},
        "sticker": {1: "seen", 2: "seen", 3: "unseen", 4: "unseen", 6: "unseen"},
        "style": {1: "seen", 2: "seen", 3: "seen", 4: "unseen"},
    }
    assert set(sample_groups(rows, seen_stickers=seen)) == {"sticker"}
    with pytest.raises(ValueError, match="dialogue d, turn 1: is there twice"):
        sample_groups([rows[0], rows[0]])


# ---- worlds where the truth is known -----------------------------------------------------------


def test_who_reads_only_the_word_falls_as_far_as_can_be_computed_by_hand():
    rows = world_rows("test_easy", 150, rho=0.5)
    groups = sample_groups(rows, words=WORD_TABLE)["bias"]
    records = evaluate_ranker(WordRanker(inventory()), rows, progress=False).samples
    found = group_figures([records], groups, contrast=CONTRASTS["bias"])
    # Each sample has a word and a candidate of each emotion; the lexicon is the truth.
    assert set(found["groups"]) == {"aligned", "conflicting"}
    for name, right in (("aligned", 100), ("conflicting", 0)):
        assert found["groups"][name]["R@1"]["mean"] == right
        assert found["groups"][name]["Acc"]["mean"] == right
    # A word that misleads puts one wrong sticker first; the right one follows by its place.
    reciprocals = []
    for row, record in zip(rows, records, strict=True):
        if groups[sample_key(row)] == "conflicting":
            candidates = row["candidates"]
            wrong = candidates.index(record["predicted_sticker_id"])
            place = candidates.index(row["sticker_id"])
            reciprocals.append(1 / (place + 1 + (wrong > place)))
    assert found["groups"]["conflicting"]["MRR"]["mean"] == pytest.approx(
        100 * np.mean(reciprocals)
    )
    assert found["worst"]["R@1"] == {"group": "conflicting", "best": "aligned", "gap": 100}
    assert found["contrast"]["R@1"]["low"] == found["contrast"]["R@1"]["high"] == 100


@pytest.mark.parametrize(("rho", "differ"), [(0.9, True), (CHANCE, False)])
def test_groups_differ_only_where_training_had_a_word_to_lean_on(rho, differ):
    # The training's words tell the emotion with strength rho; those of the test tell nothing.
    train = world_rows("train", 180, rho)
    test = world_rows("test_easy", 180, 0.5)
    ranker = BagOfWordsRanker(train, len(EMOTIONS))
    records = evaluate_ranker(ranker, test, progress=False).samples
    groups = sample_groups(test, words=WORD_TABLE)["bias"]
    found = group_figures([records], groups, contrast=CONTRASTS["bias"])
    assert min(of["samples"] for of in found["groups"].values()) > 100
    contrast = found["contrast"]["Acc"]
    assert (contrast["low"] > 5) is differ
    assert (contrast["low"] < 0 < contrast["high"]) is not differ
