# SPDX-License-Identifier: Apache-2.0
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from dataset_mod.bias import EmotionalWord, EmotionalWords, find_emotional_words
from dataset_mod.bias_figures import (
    agreement_by_place,
    association,
    cooccurrence,
    describe_split,
    read_samples,
    share,
    sticker_follows,
    strongest_pairs,
)
from dataset_mod.bias_search import LEVEL
from dataset_mod.synthetic_text import EMOTIONS, WORDS
from dataset_mod.synthetic_world import (
    CHANCE,
    SEEN_STYLES,
    SPLITS,
    UNSEEN_STYLES,
    CausalModel,
    World,
    sticker_inventory,
)

LEXICON = {word: EMOTIONS.index(name) for name, of in WORDS.items() for word in of}
GIVEN = EmotionalWords({w: EmotionalWord(w, e) for w, e in LEXICON.items()}, list(EMOTIONS))


def drawn_rows(rho, lean, dialogues=500, seed=11):
    """(rows of training dialogues as prepared ones are, sticker id -> emotion, truths)."""
    stickers = sticker_inventory(seed, SEEN_STYLES, UNSEEN_STYLES)
    models = dict.fromkeys(SPLITS, CausalModel(rho, lean))
    world = World(stickers, models, seed, SEEN_STYLES, UNSEEN_STYLES, new_events=0.5)
    rows, truths = [], []
    for number in range(dialogues):
        turns, found = world.dialogue("train", number)
        for truth in found:
            utterances = [
                {
                    "speaker": int(one["speaker_id"][-2]) - 1,
                    "text": one.get("txt"),
                    "sticker_id": one.get("img_id"),
                }
                for one in turns[: truth["turn"] + 1]
            ]
            utterances[-1]["sticker_id"] = None
            emotion = EMOTIONS.index(truth["emotion"]) if truth["labelled"] else -1
            rows.append(
                {
                    "dialogue_id": f"dialogue {number}", "turn": truth["turn"],
                    "utterances": utterances, "sticker_id": truth["sticker"], "emotion": emotion,
                }
            )  # fmt: skip
            truths.append(truth)
    return rows, {one.id: EMOTIONS.index(one.emotion) for one in stickers}, truths


def drawn(rho, lean, **more):
    rows, themes, truths = drawn_rows(rho, lean, **more)
    return read_samples(rows, GIVEN, themes), truths


def pooled(figures):
    """One share of all emotions' ones."""
    return share(sum(one["count"] for one in figures), sum(one["of"] for one in figures))


# ---- against the generator ------------------------------------------------------------------


@pytest.mark.parametrize(("rho", "lean"), [(0.9, 0.25), (0.9, 0.0), (0.5, 0.25), (CHANCE, 0.0)])
def test_the_measured_cooccurrence_is_rho_within_its_error(rho, lean):
    """Where word and label agree so does the sticker, whatever chooses it: P(Y=T=w | w) = rho."""
    samples, _ = drawn(rho, lean)
    found = describe_split(samples, EMOTIONS)["cooccurrence"]
    joint = CausalModel(rho, lean).joint()
    for number, name in enumerate(EMOTIONS):
        exact = joint[number, number, number] / joint[number].sum()
        assert exact == pytest.approx(rho)
        one = found[name]["sticker_and_label"]
        assert abs(one["share"] - rho) < 4 * math.sqrt(rho * (1 - rho) / one["of"])
        one = found[name]["expected"]
        exact = joint[:, number, number].sum()
        assert abs(one["share"] - exact) < 4 * math.sqrt(exact * (1 - exact) / one["of"])
    one = pooled([of["sticker_and_label"] for of in found.values()])
    assert one["of"] > 1000 and abs(one["share"] - rho) < 3 * math.sqrt(rho * (1 - rho) / one["of"])


@pytest.mark.parametrize("lean", [0.0, 0.25, 0.8])
def test_stickers_of_conflicting_samples_follow_the_words_as_often_as_they_lean(lean):
    samples, _ = drawn(0.4, lean)
    found = sticker_follows([one for one in samples if one.label >= 0])
    assert found["label"]["of"] > 500 and found["neither"]["count"] == 0
    error = math.sqrt(lean * (1 - lean) / found["words"]["of"])
    assert abs(found["words"]["share"] - lean) <= 3 * error
    assert found["words"]["count"] + found["label"]["count"] == found["label"]["of"]


def test_at_chance_words_say_nothing_and_groups_do_not_differ():
    samples, truths = drawn(CHANCE, 0.0)
    found = describe_split(samples, EMOTIONS)
    assert found["tables"]["word_label"]["p_value"] > 0.01
    assert found["tables"]["word_theme"]["p_value"] > 0.01
    # Exactly that share is aligned that chance would have so.
    low, high = (found["groups"]["aligned"][side] for side in ("low", "high"))
    assert low < CHANCE < high and found["groups"]["neutral"]["count"] == 0
    for one in found["cooccurrence"].values():
        assert one["sticker_and_label"]["low"] < one["expected"]["share"]
        assert one["sticker_and_label"]["high"] > one["expected"]["share"]
    # What a sample is like does not depend on its group.
    for what in ("emotion", "theme", "style", "shape"):
        table = Counter(
            (one.group, truth[what])
            for one, truth in zip(samples, truths, strict=True)
            if one.group
        )
        groups, kinds = (sorted({key[side] for key in table}) for side in (0, 1))
        assert len(groups) == 2 and len(kinds) > 2
        counts = [[table[group, kind] for kind in kinds] for group in groups]
        assert stats.chi2_contingency(counts).pvalue > 0.01, what


def test_at_a_strong_rho_the_same_tests_see_it():
    samples, _ = drawn(0.6, 0.25)
    found = describe_split(samples, EMOTIONS)
    assert found["tables"]["word_label"]["p_value"] < 1e-50
    assert found["groups"]["aligned"]["low"] > CHANCE


def test_the_search_finds_the_words_at_rho_and_marks_other_dialogues_by_them():
    rows, _, _ = drawn_rows(0.9, 0.0)
    found = find_emotional_words(rows, EMOTIONS)
    assert {w: found.words[w].emotion for w in LEXICON} == LEXICON
    assert {"died", "stolen"} & set(found.words)  # of events, and inherent: see dataset_mod.bias
    others, _, truths = drawn_rows(0.9, 0.0, dialogues=60, seed=12)
    same = [
        found.group(row) == ("aligned" if truth["agrees"] else "conflicting")
        for row, truth in zip(others, truths, strict=True)
        if truth["labelled"]
    ]
    assert len(same) > 100 and sum(same) / len(same) > 0.8


def test_at_chance_the_search_takes_no_more_of_the_words_than_its_level_allows():
    rows, _, _ = drawn_rows(CHANCE, 0.0)
    found = set(find_emotional_words(rows, EMOTIONS).words)
    assert len(found) > 50  # the events' words are there at any strength
    assert len(found & set(LEXICON)) <= LEVEL * len(found)


def test_words_tell_by_their_place_in_the_episode_and_not_before():
    samples, _ = drawn(0.9, 0.0)
    found = agreement_by_place([one for one in samples if one.label >= 0])
    *inside, before = found.values()
    for one in inside:
        assert one["of"] > 100 and one["low"] < 0.9 < one["high"]
        assert one["expected"] == pytest.approx(CHANCE, abs=0.02)
    assert before["of"] > 1000 and abs(before["share"] - before["expected"]) < 0.03


# ---- by hand -------------------------------------------------------------------------------


def row(text, emotion, sticker, *earlier):
    turns = [(1, None, one) for one in earlier] + [(0, None, text)]
    return {
        "utterances": [{"speaker": s, "sticker_id": i, "text": t} for s, i, t in turns],
        "emotion": emotion, "sticker_id": sticker,
    }  # fmt: skip


@pytest.fixture
def few():
    """Words of joy (1) and sadness (2); stickers a, b of joy, s of sadness, x of nothing known."""
    words = {"glad": 1, "sad": 2}
    words = EmotionalWords(
        {w: EmotionalWord(w, e) for w, e in words.items()}, ["calm", "joy", "sad"]
    )
    rows = [
        row("glad", 1, "a"), row("glad", 1, "s"), row("so glad", 2, "a"), row("hm", 1, "b"),
        row("sad", 2, "s"), row("sad and glad", 2, "s"), row("glad", -1, "a"), row("sad", 1, "x"),
        row("sad", 0, None), row("hm", 1, "a", "glad"),
    ]  # fmt: skip
    return read_samples(rows, words, {"a": 1, "b": 1, "s": 2, "x": -1})


def test_figures_are_those_that_one_counts_by_hand(few):
    found = describe_split(few, ["calm", "joy", "sad"])
    assert (found["rows"], found["without_label"], found["without_theme"]) == (10, 1, 2)
    counts = {group: (one["count"], one["of"]) for group, one in found["groups"].items()}
    assert counts == {"aligned": (4, 9), "conflicting": (3, 9), "neutral": (2, 9)}
    joy = {key: (one["count"], one["of"]) for key, one in found["cooccurrence"]["joy"].items()}
    assert joy == {
        "sticker_and_label": (2, 5), "label": (3, 5), "sticker": (3, 5), "expected": (3, 7)
    }  # fmt: skip
    sad = {key: (one["count"], one["of"]) for key, one in found["cooccurrence"]["sad"].items()}
    assert sad["sticker_and_label"] == (2, 2) and sad["expected"] == (2, 7)
    calm = found["cooccurrence"]["calm"]["sticker_and_label"]
    assert calm == {"count": 0, "of": 0, "share": None, "low": None, "high": None}
    follows = {key: one["count"] for key, one in found["conflicting_stickers"].items()}
    assert follows == {"label": 0, "words": 1, "neither": 0}
    assert found["tables"]["theme_label"]["counts"] == [[0, 0, 0], [0, 3, 1], [0, 1, 2]]
    # The sample whose words pull both ways leads nowhere.
    assert found["tables"]["word_label"]["counts"] == [[0, 0, 0], [0, 3, 1], [1, 1, 1]]
    assert found["tables"]["word_theme"]["counts"] == [[0, 0, 0], [0, 3, 1], [0, 0, 1]]
    places = {name: (one["count"], one["of"]) for name, one in found["places"].items()}
    assert places == {
        "last turn": (4, 8), "earlier, same speaker": (0, 0),
        "earlier, other speaker": (1, 1), "before the episode": (0, 0),
    }  # fmt: skip
    assert found["places"]["earlier, other speaker"]["expected"] == pytest.approx(5 / 9)


def test_a_split_without_labels_or_rows_is_described_too(few):
    for samples in ([], [one for one in few if one.label < 0]):
        found = describe_split(samples, ["calm", "joy", "sad"])
        assert found["groups"]["aligned"]["share"] is None
        assert found["tables"]["word_label"]["cramers_v"] is None
        assert found["places"]["last turn"]["expected"] is None
    assert cooccurrence([], 1)["expected"]["share"] is None


def test_a_share_has_wilsons_interval():
    one, z = share(3, 10), stats.norm.ppf(0.975)
    centre = (0.3 + z * z / 20) / (1 + z * z / 10)
    half = z * math.sqrt(0.3 * 0.7 / 10 + z * z / 400) / (1 + z * z / 10)
    assert (one["low"], one["high"]) == (pytest.approx(centre - half), pytest.approx(centre + half))


def test_association_is_zero_for_independent_and_one_for_equal_emotions():
    grid = [(a, b) for a in range(3) for b in range(3)] * 20
    assert association(grid, 4)["cramers_v"] == pytest.approx(0, abs=1e-9)
    assert association(grid, 4)["p_value"] == pytest.approx(1)
    same = association([(a, a) for a in range(3)] * 20, 4)
    assert same["cramers_v"] == pytest.approx(1) and same["p_value"] < 1e-10
    # By the definition: sqrt(chi2 / (n (k - 1))).
    pairs = [(0, 0)] * 7 + [(0, 1)] * 2 + [(1, 0)] * 3 + [(1, 1)] * 9 + [(1, 2)] * 4
    table = np.array([[7, 2, 0], [3, 9, 4]])
    expected = table.sum(1)[:, None] * table.sum(0) / 25
    chi2 = ((table - expected) ** 2 / expected).sum()
    found = association(pairs, 3)
    assert found["cramers_v"] == pytest.approx(math.sqrt(chi2 / 25))
    assert found["p_value"] == pytest.approx(stats.chi2.sf(chi2, 2))


def test_pairs_that_go_together_are_listed_with_the_strongest_first():
    draw = np.random.default_rng(3)
    kinds = [("x", "y", "z")[n % 3] for n in range(300)]
    things = [[f"noise{draw.integers(5)}"] + (["mark", "mark"] if k == "y" else []) for k in kinds]
    things = [t + (["hint"] if draw.random() < (0.8 if k == "z" else 0.1) else [])
              for t, k in zip(things, kinds, strict=True)]  # fmt: skip
    found = strongest_pairs(things, kinds, 10)
    assert found["tested"] == 7 * 3 and found["significant"] == 2
    assert [(one["first"], one["second"]) for one in found["pairs"]] == [
        ("mark", "y"),
        ("hint", "z"),
    ]
    assert (found["pairs"][0]["count"], found["pairs"][0]["of"]) == (100, 100)
    assert len(strongest_pairs(things, kinds, 1)["pairs"]) == 1
    assert strongest_pairs([], [], 3) == {"tested": 0, "significant": 0, "pairs": []}
