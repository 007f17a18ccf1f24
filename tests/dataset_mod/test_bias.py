# SPDX-License-Identifier: Apache-2.0
import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from dataset_mod.bias import (
    ALIGNED,
    CONFLICTING,
    NEUTRAL,
    EmotionalWord,
    EmotionalWords,
    episode,
    group_of,
)
from dataset_mod.bias_words import spelled, units

EMOTIONS = ["calm", "joy", "sadness"]
GLAD, SAD = 1, 2


def words(scope="episode", **emotion_of):
    """A list of words; `_` stands for a space."""
    entries = [EmotionalWord(one.replace("_", " "), e) for one, e in emotion_of.items()]
    return EmotionalWords({one.word: one for one in entries}, EMOTIONS, scope)


@pytest.fixture
def english():
    return words(happy=GLAD, merry=GLAD, sad=SAD, fed_up=SAD, fed=GLAD)


def turn(text, speaker=0, sticker=None):
    return {"speaker": speaker, "text": text, "sticker_id": sticker, "emotion": -1}


def row(*turns, emotion=GLAD):
    return {"utterances": list(turns), "emotion": emotion}


def found(of, text):
    return [(text[start:stop], entry.word) for start, stop, entry in of.find(text)]


# ---- cutting and finding -------------------------------------------------------------------


def test_a_text_is_cut_into_words_whatever_its_script():
    text = "Don’t, SHE's naïve_x 42!我很难过😂😂かな"
    cut = units(text)
    assert [unit for *_, unit in cut] == [
        *("don't", "she's", "naïve", "x", "42"), *("我", "很", "难", "过", "😂", "😂", "か", "な")
    ]  # fmt: skip
    assert all(text[a:b].lower().replace("’", "'") == unit for a, b, unit in cut)
    assert units(None) == units("") == units("?! _") == []


def test_units_are_spelled_as_they_are_written():
    assert spelled(["fed", "up"]) == "fed up"
    assert spelled(["难", "过"]) == "难过"
    assert spelled(["ok", "啦"]) == "ok 啦"


def test_whole_words_are_found_in_any_case_and_where_they_stand(english):
    text = "Sad? unhappy, HAPPY and a sadist; happy-go"
    assert found(english, text) == [("Sad", "sad"), ("HAPPY", "happy"), ("happy", "happy")]
    assert english.find(None) == english.find("") == english.find("so what") == []


def test_of_words_that_begin_together_the_longest_is_found(english):
    assert found(english, "I am fed  up") == [("fed  up", "fed up")]
    # Punctuation parts what a space joins.
    assert found(english, "well fed, up we go") == [("fed", "fed")]
    assert found(english, "fed") == [("fed", "fed")]


def test_of_words_that_overlap_the_lexicons_then_the_longer_then_the_stronger_is_found():
    def of(**strengths):
        entries = [EmotionalWord(one, SAD, strength=s) for one, s in strengths.items()]
        return EmotionalWords({one.word: one for one in entries}, EMOTIONS)

    assert found(of(很难=1.0, 难过=2.0), "很难过") == [("难过", "难过")]
    assert found(of(很难=2.0, 难过=1.0, 过=0.5), "很难过") == [("很难", "很难"), ("过", "过")]
    assert found(of(很难=1.0, 难过=1.0), "很难过") == [("很难", "很难")]
    assert found(of(难过=1.0, 过=3.0, 很=0.1), "很难过") == [("很", "很"), ("难过", "难过")]
    given = of(很难=-1.0, 难过=2.0).words
    given = {**given, "很难": replace(given["很难"], from_lexicon=True)}
    assert found(EmotionalWords(given, EMOTIONS), "很难过") == [("很难", "很难")]
    # Of a lexicon's the longer, whatever the data say of them.
    both = [EmotionalWord("fed", GLAD, 9, 3.0, 0.0, True), EmotionalWord("fed up", SAD, 9, 1.0,
            0.0, True)]  # fmt: skip
    both = EmotionalWords({one.word: one for one in both}, EMOTIONS)
    assert found(both, "he fed, fed up") == [("fed", "fed"), ("fed up", "fed up")]


def test_chinese_words_are_found_inside_sentences():
    of = words(难过=SAD, 过=GLAD, 开心=GLAD)
    assert found(of, "我很难过，过来开心") == [("难过", "难过"), ("过", "过"), ("开心", "开心")]
    assert found(of, "难，过") == [("过", "过")]


def test_words_that_no_text_could_match_are_refused():
    for word in ("Happy", "so-so", "", "fed  up", "难 过"):
        with pytest.raises(ValueError, match="not a word as a text is cut"):
            EmotionalWords({word: EmotionalWord(word, 0)}, EMOTIONS)
    with pytest.raises(ValueError, match="no emotion 3 of 3"):
        words(happy=3)
    with pytest.raises(ValueError, match="no scope 'page'"):
        words("page", happy=0)


# ---- which utterances count, and groups ----------------------------------------------------


def test_an_episode_begins_after_the_last_sticker():
    turns = [turn("a", sticker="003"), turn("b"), turn("c", sticker="000"), turn("d"), turn("e")]
    assert [one["text"] for one in episode(turns)] == ["d", "e"]
    # The present turn's own sticker is the answer, wherever it is written.
    assert [one["text"] for one in episode([*turns, turn("f", sticker="001")])] == ["d", "e", "f"]
    assert episode(turns[1:2]) == turns[1:2]
    assert [one["text"] for one in episode(turns[:3])] == ["b", "c"]


def test_only_the_words_of_the_scope_count(english):
    turns = (turn("sad sad sad", 0, "001"), turn("happy", 1), turn(None, 0), turn("merry sad", 1))
    assert english.emotions_of(row(*turns)) == Counter({GLAD: 2, SAD: 1})
    assert [one.word for one in english.find_in(row(*turns))] == ["happy", "merry", "sad"]
    last = replace(english, scope="turn")
    assert last.emotions_of(row(*turns)) == Counter({GLAD: 1, SAD: 1})
    assert [one["text"] for one in last.utterances_of(row(*turns))] == ["merry sad"]


@pytest.mark.parametrize(
    ("text", "label", "group"),
    [
        ("so happy", GLAD, ALIGNED),
        ("so happy", SAD, CONFLICTING),
        ("so happy", 0, CONFLICTING),
        ("so what", GLAD, NEUTRAL),
        ("sad, happy, merry", GLAD, ALIGNED),
        ("sad, happy, merry", SAD, CONFLICTING),
        ("sad and happy", GLAD, NEUTRAL),  # they pull both ways
        ("sad and happy", 0, CONFLICTING),  # but not to this
        ("so happy", -1, None),
        ("so what", -1, None),
    ],
)
def test_a_sample_belongs_to_the_group_that_its_words_say(english, text, label, group):
    sample = row(turn("hm"), turn(text, 1), emotion=label)
    assert english.group(sample) == group
    assert group_of(english.emotions_of(sample), label) == group


# ---- replacing -----------------------------------------------------------------------------


def test_words_become_words_of_another_emotion_with_their_capitals(english):
    offers = []

    def choose(of):
        offers.append(of)
        return of[0]

    text = "Happy or HAPPY, unhappy? A merry, sad man."
    assert english.replace(text, SAD, choose) == "Fed up or FED UP, unhappy? A fed up, sad man."
    assert offers == [["fed up", "sad"]] * 3  # the word that is sad already stays
    assert english.replace("so what", SAD, choose) == "so what"
    assert english.replace("", SAD, choose) == ""


def test_replacing_leaves_no_word_of_another_emotion(english):
    draw = random.Random(0)
    for _ in range(200):
        text = " ".join(draw.choices(["sad", "happy", "fed up", "Merry", "and", "he", "is,"], k=7))
        changed = english.replace(text, GLAD, draw.choice)
        assert {entry.emotion for *_, entry in english.find(changed)} <= {GLAD}
        assert len(english.find(changed)) == len(english.find(text))
        assert english.replace(changed, GLAD, draw.choice) == changed


def test_taking_words_out_leaves_single_spaces(english):
    for text, left in {
        "that happy song": "that song",
        "Happy days": "days",
        "a sad, merry man": "a, man",
        "I am happy.": "I am.",
        "happy": "",
        "a happy  merry song": "a  song",
        "so sad": "so",
    }.items():
        assert english.replace(text, None, random.Random(0).choice) == left
    assert words(难过=SAD).replace("我很难过吗", None, random.Random(0).choice) == "我很吗"


def test_an_emotion_without_a_word_has_nothing_to_offer(english):
    with pytest.raises(ValueError, match="no word of the emotion 'calm'"):
        english.replace("so what", 0, random.Random(0).choice)
    assert english.words_of(0) == [] and english.words_of(SAD) == ["fed up", "sad"]


# ---- files ---------------------------------------------------------------------------------


def test_words_come_back_from_their_file_as_they_were(tmp_path):
    entries = [
        EmotionalWord("难过", SAD, 7, 0.1 + 0.2, 1e-300, False),
        EmotionalWord("fed up", GLAD, 0, -1 / 3, 1.0, True),
    ]
    of = EmotionalWords({one.word: one for one in entries}, EMOTIONS, "turn")
    of.save(tmp_path / "words.json")
    assert EmotionalWords.load(tmp_path / "words.json") == of
    assert list(EmotionalWords.load(tmp_path / "words.json").words) == ["难过", "fed up"]
    assert [path.name for path in tmp_path.iterdir()] == ["words.json"]


def test_other_files_are_refused_by_name(tmp_path, english):
    path = tmp_path / "words.json"
    with pytest.raises(ValueError, match=r"words\.json: no such file"):
        EmotionalWords.load(path)
    english.save(path)
    good = json.loads(path.read_text())
    bad = [
        "{", "[]", "{}", json.dumps(good | {"kind": "shopping list"}),
        json.dumps(good | {"words": [{"word": "x"}]}), json.dumps(good | {"emotions": ["calm"]}),
        json.dumps(good | {"scope": "page"}),
    ]  # fmt: skip
    for text in bad:
        path.write_text(text)
        with pytest.raises(ValueError, match=r"words\.json: no list of emotional words") as caught:
            EmotionalWords.load(path)
        assert "\n" not in str(caught.value)
