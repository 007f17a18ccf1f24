# SPDX-License-Identifier: Apache-2.0
import csv
import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dataset_mod import synthetic_text as text
from dataset_mod.prepared import load_prepared, prepare
from dataset_mod.release import read_captions
from dataset_mod.synthetic import main, write_mini_release
from dataset_mod.synthetic_drawing import STYLES
from dataset_mod.synthetic_faces import FACES, draw_sticker
from dataset_mod.synthetic_text import EMOTIONS
from dataset_mod.synthetic_world import (
    CHANCE,
    SEEN_STYLES,
    SHAPES,
    SPLITS,
    UNSEEN_STYLES,
    CausalModel,
    World,
    sticker_inventory,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"dialogues": (24, 8, 8, 8), "size": 32}
COUNT = len(EMOTIONS)


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def draw_turns(rho, lean, split="train", dialogues=700, seed=5):
    """The truth about many sticker turns, without writing a file."""
    stickers = sticker_inventory(seed, SEEN_STYLES, UNSEEN_STYLES)
    models = dict.fromkeys(SPLITS, CausalModel(rho, lean))
    world = World(stickers, models, seed, SEEN_STYLES, UNSEEN_STYLES, new_events=0.5)
    return [truth for i in range(dialogues) for truth in world.dialogue(split, i)[1]]


def table(turns, *names):
    counts = Counter(tuple(turn[name] for name in names) for turn in turns)
    levels = [sorted({key[axis] for key in counts}) for axis in range(len(names))]
    return np.array([counts[key] for key in itertools.product(*levels)]).reshape(
        [len(level) for level in levels]
    )


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini") / "release"
    write_mini_release(folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def truth(release):
    return read(release / "truth.json")


# ---- the causal model ----------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.9, 0.5, CHANCE, 0.1])
def test_words_agree_with_the_emotion_as_often_as_rho_says(rho):
    turns = draw_turns(rho, 0.25)
    agreeing = sum(turn["agrees"] for turn in turns)
    assert stats.binomtest(agreeing, len(turns), rho).pvalue > 1e-3
    for turn in turns:
        assert turn["agrees"] == (turn["word_emotion"] == turn["emotion"])
        assert turn["word"] in text.WORDS[turn["word_emotion"]]


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_words_never_or_always_agree_at_the_ends(rho):
    assert {turn["agrees"] for turn in draw_turns(rho, 0, dialogues=100)} == {bool(rho)}


def test_at_chance_word_and_emotion_are_independent_and_otherwise_not():
    counts = table(draw_turns(CHANCE, 0.25), "word_emotion", "emotion")
    assert counts.shape == (COUNT, COUNT)
    assert stats.chi2_contingency(counts).pvalue > 1e-3
    counts = table(draw_turns(0.3, 0.25), "word_emotion", "emotion")
    assert stats.chi2_contingency(counts).pvalue < 1e-6


@pytest.mark.parametrize(("rho", "lean"), [(0.9, 0.25), (0.4, 0.6), (CHANCE, 0.0)])
def test_turns_are_distributed_as_the_exact_tables_say(rho, lean):
    turns = draw_turns(rho, lean)
    joint = CausalModel(rho, lean).joint()
    assert joint.sum() == pytest.approx(1)
    names = {name: number for number, name in enumerate(EMOTIONS)}
    counts = np.zeros((COUNT,) * 3)
    for turn in turns:
        counts[tuple(names[turn[name]] for name in ("word_emotion", "emotion", "theme"))] += 1
    assert counts[joint == 0].sum() == 0
    # Cells expected to hold fewer than five are pooled, as the test wants.
    expected = joint * len(turns)
    rare = (expected < 5) & (joint > 0)
    common = expected >= 5
    observed = [*counts[common], counts[rare].sum()] if rare.any() else counts[common]
    wanted = [*expected[common], expected[rare].sum()] if rare.any() else expected[common]
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


@pytest.mark.parametrize("name", ["emotion", "word_emotion", "theme"])
@pytest.mark.parametrize("split", ["train", "test_hard"])
def test_style_is_independent_of_everything_said(name, split):
    # One turn of each dialogue: a speaker's turns share a style and are no independent draws.
    turns = draw_turns(0.9, 0.25, split, dialogues=1500)
    turns = [turn for turn, after in itertools.pairwise(turns) if after["turn"] <= turn["turn"]]
    assert len(turns) > 1000
    assert stats.chi2_contingency(table(turns, "style", name)).pvalue > 1e-3


def test_shape_is_independent_of_emotion_and_word():
    turns = draw_turns(0.9, 0.25)
    for name in ("emotion", "word_emotion"):
        assert stats.chi2_contingency(table(turns, "shape", name)).pvalue > 1e-3


def test_tables_have_their_closed_forms():
    rho, lean = 0.8, 0.3
    model = CausalModel(rho, lean)
    same = np.eye(COUNT, dtype=bool)
    by_word = model.emotion_given_word()
    assert by_word[same] == pytest.approx(rho)
    assert by_word[~same] == pytest.approx((1 - rho) / (COUNT - 1))
    assert model.emotion_given_theme()[same] == pytest.approx(1 - (1 - rho) * lean)
    # Where the word is the theme's, the feeling is rho : (1 - rho) lean; else it is the theme's.
    adjusted = (rho / (rho + (1 - rho) * lean) + COUNT - 1) / COUNT
    assert model.emotion_given_theme_adjusted()[same] == pytest.approx(adjusted)
    assert CausalModel(rho, 0).emotion_given_theme_adjusted() == pytest.approx(np.eye(COUNT))


def test_adjustment_equals_the_sum_over_words_by_loops():
    model = CausalModel(0.6, 0.45)
    joint = model.joint()
    wanted = np.zeros((COUNT, COUNT))
    for theme, emotion, word in itertools.product(range(COUNT), repeat=3):
        prior = joint[word].sum()
        wanted[theme, emotion] += prior * joint[word, emotion, theme] / joint[word, :, theme].sum()
    assert model.emotion_given_theme_adjusted() == pytest.approx(wanted)
    assert model.emotion_given_theme() != pytest.approx(wanted)


def test_adjustment_is_refused_where_it_is_not_defined():
    with pytest.raises(ValueError, match="never meet a theme"):
        CausalModel(1.0, 0.3).emotion_given_theme_adjusted()


def test_the_sticker_without_the_word_shows_the_true_emotion():
    turns = draw_turns(0.3, 0.5, dialogues=200)
    emotion_of = {s.id: s.emotion for s in sticker_inventory(5, SEEN_STYLES, UNSEEN_STYLES)}
    leaned = [turn for turn in turns if turn["theme"] != turn["emotion"]]
    assert len(leaned) > 50
    for turn in turns:
        assert emotion_of[turn["sticker"]] == turn["theme"]
        assert emotion_of[turn["sticker_without_word"]] == turn["emotion"]
        assert (turn["sticker"] == turn["sticker_without_word"]) == (
            turn["theme"] == turn["emotion"]
        )
    for turn in leaned:
        assert turn["theme"] == turn["word_emotion"]
    # It is what is sent where the arrow is cut.
    without = draw_turns(0.3, 0.0, dialogues=200)
    assert [t["sticker"] for t in without] == [t["sticker_without_word"] for t in turns]


def test_a_speaker_keeps_a_style_and_the_hard_test_is_unseen(truth):
    sticker = {one["id"]: one for one in truth["stickers"]}
    for split in SPLITS:
        styles = {}
        for turn in truth["turns"][split]:
            who = turn["dialogue"], turn["speaker"]
            assert styles.setdefault(who, turn["style"]) == turn["style"]
            shown = sticker[turn["sticker"]]
            assert (shown["style"], shown["face"]) == (turn["style"], turn["face"])
            assert shown["seen"] == (split != "test_hard")
            if split == "test_hard":
                assert FACES[turn["face"]].held_out or turn["style"] in UNSEEN_STYLES
        pairs = [(styles[d, 0], styles[d, 1]) for d, who in styles if who == 0 and (d, 1) in styles]
        assert len(set(pairs)) > len({one for one, _ in pairs})  # and each speaker an own one
    hard = {turn["style"] in UNSEEN_STYLES for turn in truth["turns"]["test_hard"]}
    assert hard == {True, False}


def test_tests_have_events_of_kinds_unknown_to_training():
    for split in SPLITS:
        turns = draw_turns(0.9, 0.25, split, dialogues=200)
        new = sum(not turn["event_seen"] for turn in turns)
        if split in ("train", "validation"):
            assert new == 0
        else:
            assert stats.binomtest(new, len(turns), 0.5).pvalue > 1e-3
        known = {text.render_event(e, "own") for group in text.EVENTS.values() for e in group}
        assert all((turn["event"] in known) == turn["event_seen"] for turn in turns)


def test_causes_and_words_stand_in_the_last_and_in_earlier_utterances():
    turns = draw_turns(0.9, 0.25)
    assert {turn["shape"] for turn in turns} == set(SHAPES)
    for name in ("event_turn", "word_turn"):
        earlier = np.mean([turn[name] < turn["turn"] for turn in turns])
        assert 0.2 < earlier < 0.7


# ---- changing a strength changes nothing else ----------------------------------------------


def test_test_strengths_leave_training_and_stickers_alone(release, tmp_path):
    write_mini_release(tmp_path, **SMALL, test_rho=0.1, test_lean=0.0)
    one, other = digests(release), digests(tmp_path)
    changed = {name for name in one if one[name] != other[name]}
    assert {name.split("/")[0] for name in changed} == {"test", "truth.json"}
    before, after = read(release / "truth.json")["turns"], read(tmp_path / "truth.json")["turns"]
    assert before["train"] == after["train"]
    kept = ("dialogue", "turn", "sample", "emotion", "event", "style", "shape", "labelled")
    for split in ("test_easy", "test_hard"):
        for a, b in zip(before[split], after[split], strict=True):
            assert [a[name] for name in kept] == [b[name] for name in kept]
            assert a["sticker_without_word"] == b["sticker_without_word"] == b["sticker"]
    assert before["test_easy"] != after["test_easy"]


def test_the_same_arguments_write_the_same_bytes(release, tmp_path):
    write_mini_release(tmp_path / "again", **SMALL)
    assert digests(tmp_path / "again") == digests(release)
    write_mini_release(tmp_path / "other", **SMALL, seed=1)
    one, other = digests(release), digests(tmp_path / "other")
    assert one["train/e_train.json"] != other["train/e_train.json"]
    assert one["supplementary/img2id.json"] != other["supplementary/img2id.json"]


# ---- the files -----------------------------------------------------------------------------


def test_the_layout_is_mods(release):
    files = {name for name in digests(release) if "meme_set" not in name}
    assert files == {
        "train/e_train.json",
        "validation/e_val.json",
        "validation/e_val_task2.json",
        "validation/e_val_task3.json",
        "test/e_test_easy/e_test_easy_task2.json",
        "test/e_test_easy/e_test_easy_task3.json",
        "test/e_test_hard/e_test_hard_task2.json",
        "test/e_test_hard/e_test_hard_task3.json",
        "supplementary/img2id.json",
        "supplementary/emotion_dict.json",
        "atomic/v4_atomic_mini.csv",
        "captions.json",
        "lexicon.tsv",
        "styles.json",
        "truth.json",
    }
    ids = read(release / "supplementary/img2id.json")
    assert sorted(ids.values()) == [f"{i:03d}" for i in range(len(ids))]
    drawn = {path.name for path in (release / "supplementary/meme_set").iterdir()}
    assert drawn - set(ids) == {"not-in-the-dictionary.jpg"} and set(ids) <= drawn
    assert len(ids) == len(FACES) * (len(SEEN_STYLES) + len(UNSEEN_STYLES))
    assert read(release / "supplementary/emotion_dict.json") == {
        name: i for i, name in enumerate(EMOTIONS)
    }


def test_the_layout_is_that_of_real_data(release, shared_dir):
    """Same keys at every level as a release with MOD's quirks."""

    def shapes(value):
        if isinstance(value, dict):
            if any(key.startswith("dialogue ") for key in value):
                return {"dialogues": set().union(*map(repr_of, value.values()))}
            return {key: repr(shapes(inner)) for key, inner in value.items()}
        if isinstance(value, list):
            return {"list": sorted({repr(shapes(inner)) for inner in value})}
        return type(value).__name__

    def repr_of(turns):
        return {tuple(sorted(turn)) for turn in turns}

    real = shared_dir / "data" / "moji"
    mine, theirs = (read(d / "train/e_train.json") for d in (release, real))
    bare = {key for key in shapes(mine)["dialogues"] if "txt" not in key}
    assert shapes(mine)["dialogues"] - bare == shapes(theirs)["dialogues"]
    for name in ("validation/e_val_task2.json", "test/e_test_hard/e_test_hard_task2.json"):
        mine, theirs = read(release / name), read(real / name)
        assert {tuple(sorted(r)) for r in mine} == {tuple(sorted(r)) for r in theirs}
        for part in ("candidate", "answer"):
            assert {tuple(sorted(r[part])) for r in mine} == {
                tuple(sorted(r[part])) for r in theirs
            }
    name = "test/e_test_easy/e_test_easy_task3.json"
    mine, theirs = read(release / name), read(real / name)
    for look in (lambda r: tuple(sorted(r["answer"])), lambda r: tuple(sorted(r["history"][-1]))):
        assert {look(r) for r in mine} == {look(r) for r in theirs}


@pytest.mark.parametrize("split", ["validation", "test_easy", "test_hard"])
def test_task_files_ask_what_the_dialogues_hold(release, truth, split):
    stem = "validation/e_val" if split == "validation" else f"test/e_{split}/e_{split}"
    task2, task3 = read(release / f"{stem}_task2.json"), read(release / f"{stem}_task3.json")
    samples = [turn for turn in truth["turns"][split] if turn["sample"] is not None]
    assert [turn["sample"] for turn in samples] == list(range(len(task2)))
    assert len(task3) == sum(turn["labelled"] for turn in samples)
    sticker = {one["id"]: one for one in truth["stickers"]}
    left = iter(task3)
    for record, turn in zip(task2, samples, strict=True):
        *earlier, last = record["history"]
        assert len(earlier) == turn["turn"] > 0
        assert set(last) == {"speaker_id", "txt"} and last["txt"]
        assert last["speaker_id"] == f"[speaker{turn['speaker'] + 1}]"
        assert last["speaker_id"] == record["candidate"]["speaker_id"]
        assert record["answer"] == {"speaker_id": last["speaker_id"], "img_id": turn["sticker"]}
        offered = record["candidate"]["set"]
        assert offered == sorted(set(offered)) and len(offered) == 11
        assert turn["sticker"] in offered
        if split != "test_hard":
            assert all(sticker[one]["seen"] for one in offered)
        if turn["labelled"]:
            asked = next(left)
            assert asked["history"] == [*earlier, {**last, "img_id": turn["sticker"]}]
            assert asked["answer"] == {
                "speaker_id": last["speaker_id"],
                "emotion_id": EMOTIONS.index(turn["emotion"]),
            }
        for name, part in (("event_turn", turn["event"]), ("word_turn", turn["word"])):
            said = record["history"][turn[name]]["txt"]
            if name == "word_turn":
                assert re.search(rf"\b{part}\b", said)
            elif turn["shape"] not in ("told", "told_with_word"):
                assert part.lower() in said.lower()


@pytest.mark.parametrize(
    ("split", "name"), [("train", "train/e_train"), ("validation", "validation/e_val")]
)
def test_the_truth_is_about_the_dialogues(release, truth, split, name):
    dialogues = read(release / f"{name}.json")
    number = 0
    told = {(turn["dialogue"], turn["turn"]): turn for turn in truth["turns"][split]}
    for key, turns in dialogues.items():
        assert 2 <= len(turns) <= 10
        assert {turn["speaker_id"] for turn in turns} == {"[speaker1]", "[speaker2]"}
        for position, turn in enumerate(turns):
            known = told.pop((key, position), None)
            assert (known is not None) == ("img_id" in turn)
            if known is None:
                assert set(turn) == {"speaker_id", "txt"}
                continue
            assert turn["img_id"] == known["sticker"]
            assert turn.get("emotion_id") == (
                EMOTIONS.index(known["emotion"]) if known["labelled"] else None
            )
            assert known["sample"] == (number if position else None)
            number += bool(position)
    assert not told


def test_mods_quirks_are_there(tmp_path):
    write_mini_release(tmp_path, dialogues=(200, 1, 1, 1), size=32)
    dialogues = read(tmp_path / "train/e_train.json").values()
    turns = [turn for turns in dialogues for turn in turns]
    assert any("img_id" in turns[0] for turns in dialogues)
    assert any("img_id" in turn and "emotion_id" not in turn for turn in turns)
    assert any("txt" not in turn for turn in turns)
    assert all("txt" in turn or "img_id" in turn for turn in turns)
    assert "000" in read(tmp_path / "captions.json")


def test_stickers_come_in_four_formats(release, truth):
    folder = release / "supplementary/meme_set"
    formats, modes = Counter(), {}
    for sticker in truth["stickers"]:
        with Image.open(folder / sticker["name"]) as image:
            assert image.size == (32, 32)
            formats[image.format] += 1
            modes.setdefault(image.format, set()).add(image.mode)
            if image.format == "GIF":
                assert image.n_frames == 2
            if image.format in ("PNG", "GIF") and sticker["style"] != "neon":
                assert image.convert("RGBA").getpixel((0, 0))[3] == 0
    assert set(formats) == {"PNG", "GIF", "JPEG", "WEBP"} and min(formats.values()) >= 20
    assert modes["PNG"] == {"RGBA"} and modes["JPEG"] == {"RGB"}
    for key in ("style", "emotion"):  # a format tells neither
        kinds = table([{**s, "format": s["name"][-3:]} for s in truth["stickers"]], "format", key)
        assert stats.chi2_contingency(kinds).pvalue > 0.5


def test_the_package_reads_it(release, truth, tmp_path):
    prepare(release, tmp_path / "data", captions=release / "captions.json")
    prepared = load_prepared(tmp_path / "data")
    assert prepared.emotions == list(EMOTIONS)
    for split in SPLITS:
        samples = [turn for turn in truth["turns"][split] if turn["sample"] is not None]
        rows = prepared.splits[split]
        assert rows["sticker_id"] == [turn["sticker"] for turn in samples]
        assert rows["turn"] == [turn["turn"] for turn in samples]
        assert rows["emotion"] == [
            EMOTIONS.index(turn["emotion"]) if turn["labelled"] else -1 for turn in samples
        ]
    styles = {one["id"]: one["style"] for one in truth["stickers"]}
    assert read(release / "styles.json") == styles
    captions = {one["id"]: one["caption"] for one in truth["stickers"]}
    assert read(release / "captions.json") == captions
    assert read_captions(release / "captions.json", list(captions)) == captions


def test_atomic_events_are_in_v4s_columns(release, truth):
    with open(release / "atomic/v4_atomic_mini.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == text.ATOMIC_COLUMNS
    for row in rows:
        assert set(row) == set(rows[0]) and row["event"] and "{" not in row["event"]
        for name in list(rows[0])[1:-1]:
            assert all(isinstance(part, str) for part in json.loads(row[name]))
        for relation in ("React", "Want", "Effect"):
            assert json.loads(row["x" + relation]) and json.loads(row["o" + relation])
    splits = Counter(row["split"] for row in rows)
    assert set(splits) == {"trn", "dev", "tst"} and splits["trn"] > 0.7 * len(rows)
    reacts = {row["event"]: json.loads(row["xReact"]) for row in rows}
    assert reacts["PersonX passed PersonX's law exam"] == ["happy", "proud"]
    assert reacts["I passed my law exam."] == ["happy", "proud"]
    felt = {row["event"]: json.loads(row["oReact"]) for row in rows}
    assert any(
        event.endswith("you passed your law exam.") and react == ["happy", "proud"]
        for event, react in felt.items()
    )
    for turn in truth["turns"]["train"] + truth["turns"]["test_easy"]:
        assert text.sentence(turn["event"]) in reacts
    # Words and feelings are independent there: what is said beside a carrier tells nothing.
    happy = [
        row for row in rows if re.search(r"\b(happy|joyful|merry|cheerful|funny)\b", row["event"])
    ]
    assert len({row["xReact"] for row in happy}) == COUNT + 1


def test_atomic_columns_are_those_of_the_real_file(release, shared_dir):
    import gzip

    with gzip.open(shared_dir / "data/atomic/v4_atomic_dev.csv.gz", "rt") as file:
        real = next(csv.reader(file))
    with open(release / "atomic/v4_atomic_mini.csv", newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == real


# ---- what is said and drawn ----------------------------------------------------------------


def test_emotional_words_stand_in_carriers_alone():
    words = [word for group in text.WORDS.values() for word in group]
    assert len(words) == len(set(words))
    names = {*words, *EMOTIONS}
    groups = [*text.EVENTS.values(), *text.NEW_EVENTS.values()]
    events = [text.render_event(event, "own") for group in groups for event in group]
    assert len(set(events)) == len(events) >= 300
    said = [*events, *text.OWN_FRAMES, *text.TOLD_FRAMES, *text.CARRIERS]
    said += [*text.ASKS, *text.REPLIES, *text.CONFIRMATIONS, *text.PROMPTS]
    said += [caption for face in FACES.values() for caption in face.captions]
    for line in said:
        assert not names & set(re.findall(r"\w+", line.lower().replace("{word}", ""))), line


def test_events_are_said_of_the_right_person():
    event = "{my} {me} {I}"
    assert text.render_event(event, "own") == "my me I"
    assert text.render_event(event, "told") == "your you you"
    assert text.render_event(event, "atomic") == "PersonX's PersonX PersonX"
    assert text.sentence("is it so?", "my") == "Is it so? My."


def test_each_emotion_has_three_faces_the_third_held_out():
    for emotion in EMOTIONS:
        faces = [face for face in FACES.values() if face.emotion == emotion]
        assert [face.held_out for face in faces] == [False, False, True]


@pytest.mark.parametrize("style", list(STYLES))
def test_faces_of_a_style_differ_in_content_and_share_a_look(style):
    def pixels(image):
        return np.asarray(image.convert("RGBA").convert("RGB"), float) / 255

    faces = {name: pixels(draw_sticker(name, style, size=48)) for name in FACES}
    for one, other in itertools.combinations(faces.values(), 2):
        assert np.abs(one - other).mean() > 0.004
    elsewhere = next(name for name in STYLES if name != style)
    for name, drawn in faces.items():
        assert np.abs(drawn - pixels(draw_sticker(name, elsewhere, size=48))).mean() > 0.05


def test_a_caption_stands_under_the_face():
    plain = draw_sticker("laugh", "flat")
    with_text = draw_sticker("laugh", "flat", "HA HA HA")
    assert plain.size == with_text.size == (96, 96)
    below = np.asarray(with_text)[76:, :, 3]
    assert (below > 128).mean() > 0.2
    assert (np.asarray(with_text)[:, [0, -1], 3] < 128).all()  # nothing is cut off


# ---- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": 1.5}, "rho is 1.5"),
        ({"test_rho": -0.1}, "rho is -0.1"),
        ({"lean": float("nan")}, "lean is nan"),
        ({"test_lean": 2}, "lean is 2"),
        ({"dialogues": (1, 2, 3)}, "4 positive numbers"),
        ({"dialogues": (1, 0, 1, 1)}, "4 positive numbers"),
        ({"new_events": 2}, "new_events is 2"),
        ({"size": 8}, "size is 8"),
        ({"seed": -1}, "seed is -1"),
        ({"unseen_styles": ("oil",)}, "no style 'oil'"),
        ({"unseen_styles": ("flat",)}, "named twice"),
        ({"unseen_styles": ()}, "at least one"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_mini_release(tmp_path / "out", **{**SMALL, **arguments})
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(ValueError, match="not empty"):
        write_mini_release(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_earlier_mini_is_replaced(tmp_path):
    write_mini_release(tmp_path, **SMALL, unseen_styles=("cat", "pixel"))
    assert list((tmp_path / "supplementary/meme_set").glob("*-pixel.*"))
    (tmp_path / "notes.txt").write_text("mine")
    write_mini_release(tmp_path, **SMALL)
    assert not list((tmp_path / "supplementary/meme_set").glob("*-pixel.*"))
    assert (tmp_path / "notes.txt").exists()


def test_the_command_line(tmp_path, capsys):
    arguments = [str(tmp_path / "out"), "--dialogues", "3", "1", "1", "1", "--size", "32"]
    assert main([*arguments, "--rho", "0.5", "--seed", "2"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["dialogues"] == {"train": 3, "validation": 1, "test_easy": 1, "test_hard": 1}
    parameters = read(tmp_path / "out/truth.json")["parameters"]
    assert parameters["seed"] == 2 and parameters["mechanisms"]["train"]["rho"] == 0.5
    ended = subprocess.run(
        [sys.executable, "-m", "dataset_mod.synthetic", str(tmp_path / "bad"), "--rho", "7"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines() == [
        "python -m dataset_mod.synthetic: rho is 7.0, not a probability between 0 and 1"
    ]
