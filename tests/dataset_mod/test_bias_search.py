# SPDX-License-Identifier: Apache-2.0
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from dataset_mod import bias_search
from dataset_mod.bias import associate, find_emotional_words, read_lexicon

EMOTIONS = ["calm", "joy", "sadness"]


def sample(text, emotion, dialogue, *earlier):
    turns = [*earlier, text]
    return {
        "dialogue_id": str(dialogue),
        "utterances": [
            {"speaker": n % 2, "text": text, "sticker_id": None} for n, text in enumerate(turns)
        ],
        "emotion": emotion,
    }  # fmt: skip


def corpus(seed=0, count=600, signal=0.9):
    """Samples of random filler; "sunny" goes with joy, "rainy" with sadness, as far as `signal`."""
    draw = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        emotion = int(draw.integers(3))
        said = list(draw.choice([f"filler{i}" for i in range(60)], 6))
        if draw.random() < 0.5:
            hint = emotion if draw.random() < signal else int(draw.integers(3))
            said.append(("the", "Sunny", "rainy")[hint])
        rows.append(sample(" ".join(said), emotion, n))
    return rows


# ---- the measure ---------------------------------------------------------------------------


def slow_association(counts, totals, prior):
    """The same by the book: one pair after the other, and the step-up rule as it is defined."""
    every = sum(totals)
    strength, p = {}, {}
    for w, line in enumerate(counts):
        for c, k in enumerate(line):
            share, n = totals[c] / every, sum(line)
            inside, outside = k + prior * share, n - k + prior * (1 - share)
            strength[w, c] = math.log(inside / outside) - math.log(share / (1 - share))
            table = [[k, n - k], [totals[c] - k, every - n - totals[c] + k]]
            p[w, c] = stats.fisher_exact(table, alternative="greater").pvalue
            if k * every <= n * totals[c]:
                p[w, c] = 1.0
    order, adjusted, least = sorted(p, key=p.get), {}, 1.0
    for rank in range(len(order), 0, -1):
        pair = order[rank - 1]
        least = min(least, p[pair] * len(order) / rank)
        adjusted[pair] = least
    return strength, adjusted


def test_association_is_what_the_book_says():
    draw = np.random.default_rng(1)
    totals = np.array([40, 90, 20])
    counts = np.stack([draw.binomial(totals, draw.uniform(0, 0.4, 3)) for _ in range(12)])
    strength, p_values = associate(counts, totals)
    slow_strength, slow_p = slow_association(counts.tolist(), totals.tolist(), bias_search.PRIOR)
    for pair in slow_p:
        assert strength[pair] == pytest.approx(slow_strength[pair], abs=1e-12)
        assert p_values[pair] == pytest.approx(slow_p[pair], rel=1e-9)
    assert (p_values < 0.05).any() and (p_values == 1).any()


def test_a_word_dealt_out_evenly_has_no_strength_and_a_rare_one_little():
    totals = np.array([100, 300])
    strength, p_values = associate(np.array([[10, 30], [1, 0], [40, 0]]), totals)
    assert strength[0] == pytest.approx([0, 0], abs=1e-12) and p_values[0] == pytest.approx(1)
    # Always with the first class, both; but one of them was seen once.
    assert 0 < strength[1, 0] < 0.6 < 2 < strength[2, 0]
    assert p_values[1, 0] > 0.2 and p_values[2, 0] < 1e-10


def test_what_cannot_vary_is_left_alone():
    strength, p_values = associate(np.array([[0, 5], [0, 0]]), np.array([0, 9]))
    assert (strength == 0).all() and (p_values == 1).all()
    strength, p_values = associate(np.array([[0, 0]]), np.array([0, 0]))
    assert (strength == 0).all() and (p_values == 1).all()
    with np.errstate(all="raise"):
        associate(np.array([[3, 0, 0]]), np.array([3, 4, 0]))


# ---- the search ----------------------------------------------------------------------------


def test_words_that_go_with_an_emotion_are_found_and_no_others():
    found = find_emotional_words(corpus(), EMOTIONS)
    assert {word: one.emotion for word, one in found.words.items()} == {
        "the": 0, "sunny": 1, "rainy": 2
    }  # fmt: skip
    for one in found.words.values():
        assert one.strength > bias_search.MIN_STRENGTH and one.p_value < 1e-6
        assert not one.from_lexicon


def test_counts_and_figures_are_those_of_the_samples():
    rows = corpus()
    found = find_emotional_words(rows, EMOTIONS).words["sunny"]
    has = ["Sunny" in row["utterances"][-1]["text"].split() for row in rows]
    labels = np.array([row["emotion"] for row in rows])
    assert found.count == sum(has)
    counts = [np.bincount(labels[np.array(has)], minlength=3)]
    assert found.strength == associate(counts, np.bincount(labels))[0][0, 1]


def test_hardly_ever_is_a_word_found_where_there_is_nothing():
    """Of the searches at the 5 % level, about 5 % may find something; thousands of words tempt."""
    hits = [
        bool(find_emotional_words(corpus(seed, 120, 0.0), EMOTIONS, min_strength=0.0).words)
        for seed in range(25)
    ]
    assert sum(hits) <= stats.binom.ppf(0.999, len(hits), bias_search.LEVEL)


def test_a_word_must_stand_in_several_dialogues():
    rows = corpus()
    one_dialogue = [row | {"dialogue_id": "the same"} for row in rows]
    assert not find_emotional_words(one_dialogue, EMOTIONS).words
    rare = [row | {"dialogue_id": str(n % 4)} for n, row in enumerate(rows)]
    assert not find_emotional_words(rare, EMOTIONS).words
    assert find_emotional_words(rare, EMOTIONS, min_count=4).words


def test_a_word_counts_once_a_sample_and_only_in_its_scope():
    rows = [
        sample("ok", n % 2, n, "glad glad glad" if n % 2 else "hm") for n in range(40)
    ]  # fmt: skip
    assert find_emotional_words(rows, EMOTIONS).words["glad"].count == 20
    assert not find_emotional_words(rows, EMOTIONS, scope="turn").words
    for row in rows:  # now the word belongs to an earlier sticker
        row["utterances"][0]["sticker_id"] = "000"
    assert not find_emotional_words(rows, EMOTIONS).words


def test_samples_without_a_label_or_text_tell_nothing():
    rows = corpus()
    more = [sample("sunny sunny", -1, 1000 + n) for n in range(50)]
    assert find_emotional_words([*more, *rows], EMOTIONS) == find_emotional_words(rows, EMOTIONS)
    blank = [sample(None, n % 3, n) for n in range(9)]
    assert not find_emotional_words(blank, EMOTIONS).words
    with pytest.raises(ValueError, match="no training sample has an emotion label"):
        find_emotional_words(more, EMOTIONS)


def test_chinese_words_of_one_and_two_characters_are_found():
    draw = np.random.default_rng(0)
    rows = []
    for n in range(200):
        said = "".join(draw.choice(list("我你他们今天去吃饭了"), 6))
        rows.append(sample(said + ("难过" if n % 2 else ""), 2 if n % 2 else 0, n))
    found = find_emotional_words(rows, EMOTIONS)
    assert found.words["难过"].emotion == 2 and found.words["难过"].count == 100
    # What a character owes to its neighbour is not its own.
    assert set(found.words) == {"难过", "难", "过"}
    assert [entry.word for *_, entry in found.find("我难过")] == ["难过"]


# ---- lexicons ------------------------------------------------------------------------------


def test_a_lexicon_joins_what_is_found_or_stands_alone():
    rows = corpus()
    lexicon = {"Rainy": 1, "grim": 2, "filler1 filler2": 0}
    both = find_emotional_words(rows, EMOTIONS, lexicon=lexicon)
    assert {word: one.emotion for word, one in both.words.items()} == {
        "the": 0, "sunny": 1, "rainy": 1, "grim": 2, "filler1 filler2": 0
    }  # fmt: skip
    alone = find_emotional_words(rows, EMOTIONS, lexicon=lexicon, found=False)
    assert set(alone.words) == {"rainy", "grim", "filler1 filler2"}
    assert all(one.from_lexicon for one in alone.words.values())
    # Its words are measured as well, for the emotion that the lexicon says.
    assert alone.words["rainy"].strength < 0 and alone.words["rainy"].p_value == 1
    assert alone.words["grim"].count == 0 and abs(alone.words["grim"].strength) < 1e-12
    more = [*rows, sample("Filler1 filler2!", 0, 0), sample("filler1, filler2", 0, 1)]
    alone = find_emotional_words(more, EMOTIONS, lexicon=lexicon, found=False)
    texts = [row["utterances"][0]["text"].lower() for row in more]
    phrase = sum(bool(re.search(r"\bfiller1 filler2\b", text)) for text in texts)
    assert alone.words["filler1 filler2"].count == phrase > 0
    with pytest.raises(ValueError, match="without a lexicon"):
        find_emotional_words(rows, EMOTIONS, found=False)
    # Data without a label can be marked by a lexicon.
    unlabelled = [sample("sunny", -1, n) for n in range(9)]
    assert find_emotional_words(unlabelled, EMOTIONS, lexicon={"sunny": 1}, found=False).words


def test_a_lexicon_is_read_from_tables_and_json(tmp_path):
    want = {"happy": 1, "fed up": 2, "难过": 2}
    texts = {
        "a.tsv": "word\temotion\tsource\nHappy\tJoy\tme\nfed  up\tsadness\t\n难过\tsadness\t\n",
        "a.csv": '\ufeffemotion,word\njoy,happy\nsadness,"Fed up"\nsadness,难过\njoy,happy\n',
        "a.json": json.dumps({"happy": "joy", "fed up": "sadness", "难过": "sadness"}),
        "b.json": json.dumps({"joy": ["happy"], "sadness": ["fed up", "难过"]}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_lexicon(tmp_path / name, EMOTIONS) == want, name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "word,emotion\nhappy,joy\n", "line 1: needs the columns word and emotion"),
        ("a.tsv", "", "line 1: needs the columns"),
        ("a.tsv", "word\temotion\nhappy\tbliss\n", "line 2: the data have no emotion 'bliss'"),
        ("a.tsv", "word\temotion\nhappy\n", "line 2: the data have no emotion ''"),
        ("a.csv", "word,emotion\nhappy,joy\nHappy,calm\n", "line 3: 'happy' had 'joy' before"),
        ("a.csv", "word,emotion\n?!,joy\n", r"line 2: '\?!' has no letter to look up"),
        ("a.csv", "word,emotion\n", "holds no word"),
        ("a.json", "{", "Expecting property name"),
        ("a.json", "[]", "needs an object"),
        ("a.json", '{"joy": [3]}', "'joy': 3 has no letter"),
        ("a.json", '{"happy": 3}', "'happy': the data have no emotion 3"),
        ("a.txt", "happy joy", "a lexicon is a .tsv, .csv or .json file"),
        ("a.csv", None, "no such file"),
    ],
)
def test_a_broken_lexicon_is_refused_in_a_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_lexicon(tmp_path / name, EMOTIONS)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)
