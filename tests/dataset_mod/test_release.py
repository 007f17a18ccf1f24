# SPDX-License-Identifier: Apache-2.0
import json
import random
import re

import pytest
from release_files import EN, ZH, ReleaseFiles, picture, task2, task3, turn

from dataset_mod import json_records
from dataset_mod.json_records import JSONRecords
from dataset_mod.release import Release, ReleaseError, read_captions
from dataset_mod.schema import SPLITS, normalise_sticker_id


def rows_of(release, split, shards=None):
    return [row for table in release.tables(split, shards) for row in table.to_pylist()]


def naive_rows(dialogues):
    """The rows of a dialogue file, told slowly."""
    rows = []
    for name, turns in dialogues.items():
        for i in range(1, len(turns)):
            if "img_id" not in turns[i]:
                continue
            utterances = []
            for j in range(i + 1):
                utterances.append(
                    {
                        "speaker": int(turns[j]["speaker_id"] == "[speaker2]"),
                        "text": turns[j].get("txt", ""),
                        "sticker_id": turns[j].get("img_id") if j < i else None,
                        "emotion": turns[j].get("emotion_id") if j < i else None,
                    }
                )
            rows.append(
                {
                    "dialogue_id": name,
                    "turn": i,
                    "utterances": utterances,
                    "sticker_id": turns[i]["img_id"],
                    "emotion": turns[i].get("emotion_id", -1),
                    "candidates": [],
                }
            )
    return rows


def random_dialogues(count, seed=0):
    draw = random.Random(seed)
    dialogues = {}
    for n in range(count):
        turns = []
        for i in range(draw.randrange(1, 7)):
            sticker = f"{draw.randrange(14):03d}" if draw.random() < 0.5 else None
            emotion = draw.randrange(3) if draw.random() < 0.5 else None
            text = f"{draw.choice(EN + ZH)} {n} {i}" if draw.random() < 0.9 else None
            turns.append(turn(draw.randrange(2), text, sticker, emotion))
        dialogues[f"dialogue {n}"] = turns
    return dialogues


@pytest.mark.parametrize("language", ["en", "zh"])
def test_training_rows_are_the_prefixes_of_every_later_sticker_turn(tmp_path, language):
    files = ReleaseFiles(language)
    release = Release(files.write(tmp_path), language)
    rows = rows_of(release, "train")
    assert rows == naive_rows(files.json[files.train])
    assert [(row["dialogue_id"], row["turn"], row["sticker_id"]) for row in rows] == [
        ("dialogue 7", 1, "000"),
        ("dialogue 7", 3, "002"),
        ("dialogue 8", 1, "000"),
        ("dialogue 10", 1, "000"),
    ]
    assert release.language == language
    assert release.emotions == ["calm", "glad", "sad"]
    assert release.unlisted_images == ["stray.png"]
    assert list(release.stickers) == [f"{i:03d}" for i in range(14)]


def test_many_dialogues_over_many_tables_equal_the_slow_way(tmp_path):
    files = ReleaseFiles()
    files.json[files.train] = random_dialogues(3000)
    release = Release(files.write(tmp_path))
    tables = list(release.tables("train"))
    assert len(tables) > 1
    assert all(table.schema == release.features.arrow_schema for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert rows == naive_rows(files.json[files.train])


def test_shards_in_order_are_the_whole(tmp_path):
    files = ReleaseFiles()
    files.json[files.train] = random_dialogues(3000)
    release = Release(files.write(tmp_path))
    shards = release.shards("train")
    assert len(shards) > 2
    apart = [row for shard in shards for row in rows_of(release, "train", [shard])]
    assert apart == rows_of(release, "train", shards) == rows_of(release, "train")


def test_no_row_shows_its_own_answer(tmp_path):
    files = ReleaseFiles()
    # A careless file repeats the answer in the history's last turn.
    record = files.json[files.task2["validation"]][0]
    record["history"][-1] |= {"img_id": "000", "emotion_id": 2}
    release = Release(files.write(tmp_path))
    for split in SPLITS:
        rows = rows_of(release, split)
        assert rows
        for row in rows:
            assert row["utterances"][-1]["sticker_id"] is None
            assert row["utterances"][-1]["emotion"] is None
            assert len(row["utterances"]) == row["turn"] + 1
    assert any(u["sticker_id"] for r in rows_of(release, "train") for u in r["utterances"])


def test_evaluation_rows_take_candidates_from_task_2_and_emotions_by_history(tmp_path):
    files = ReleaseFiles()
    rows = rows_of(Release(files.write(tmp_path)), "test_easy")
    assert [row["sticker_id"] for row in rows] == ["000", "003", "004"]
    assert [row["emotion"] for row in rows] == [2, -1, 0]
    assert [row["dialogue_id"] for row in rows] == ["record 0", "record 1", "record 2"]
    assert all(row["candidates"] == [f"{i:03d}" for i in range(11)] for row in rows)
    assert rows[0]["utterances"][0] == {
        "speaker": 0, "text": EN[0], "sticker_id": "001", "emotion": 1
    }  # fmt: skip


def test_validation_emotions_come_from_the_dialogues_where_task_3_is_missing(tmp_path):
    files = ReleaseFiles()
    del files.json[files.task3["validation"]], files.json[files.task3["test_easy"]]
    release = Release(files.write(tmp_path))
    assert [row["emotion"] for row in rows_of(release, "validation")] == [2, -1, 0]
    assert [row["emotion"] for row in rows_of(release, "test_easy")] == [-1, -1, -1]


def test_an_emotion_is_joined_only_where_the_answer_sticker_agrees(tmp_path):
    files = ReleaseFiles()
    files.json[files.task3["test_easy"]][-1]["history"][-1]["img_id"] = "007"
    rows = rows_of(Release(files.write(tmp_path)), "test_easy")
    assert [row["emotion"] for row in rows] == [-1, -1, 0]


def test_equal_samples_take_their_labels_one_after_the_other(tmp_path):
    files = ReleaseFiles()
    turns = [[turn(0, "a"), turn(1, "b", "003", label)] for label in (2, 0)]
    eleven = [f"{i:03d}" for i in range(11)]
    files.json[files.task2["test_hard"]] = [task2(one, eleven) for one in turns]
    files.json[files.task3["test_hard"]] = [task3(one) for one in turns]
    rows = rows_of(Release(files.write(tmp_path)), "test_hard")
    assert [row["emotion"] for row in rows] == [2, 0]


def test_an_annotated_answer_brings_its_emotion(tmp_path):
    files = ReleaseFiles()
    files.json[files.task2["test_easy"]][1]["answer"]["emotion_id"] = 1
    rows = rows_of(Release(files.write(tmp_path)), "test_easy")
    assert [row["emotion"] for row in rows] == [2, 1, 0]


@pytest.mark.parametrize("blank", ["", None, {"speaker_id": "[speaker2]", "img_id": ""}])
def test_blank_answers_load_as_unlabelled(tmp_path, blank):
    files = ReleaseFiles()
    files.json[files.task2["test_easy"]][0]["answer"] = blank
    files.json[files.task3["test_easy"]][0]["answer"]["emotion_id"] = ""
    rows = rows_of(Release(files.write(tmp_path)), "test_easy")
    assert [row["sticker_id"] for row in rows] == [None, "003", "004"]
    assert [row["emotion"] for row in rows] == [-1, -1, -1]
    assert len(rows[0]["candidates"]) == 11


@pytest.mark.parametrize("spelling", [0, "0", "00", "000", "0000"])
@pytest.mark.parametrize("key", ["img_id", "image_id"])
def test_sticker_000_is_a_sticker_however_it_is_written(tmp_path, spelling, key):
    files = ReleaseFiles()
    files.json[files.train] = {"dialogue 1": [turn(0, "a"), turn(1, "b", spelling, 1, key=key)]}
    files.json["supplementary/img2id.json"]["s000.png"] = spelling
    files.json[files.task2["test_easy"]][0]["candidate"]["set"][0] = spelling
    release = Release(files.write(tmp_path))
    assert [row["sticker_id"] for row in rows_of(release, "train")] == ["000"]
    assert rows_of(release, "test_easy")[0]["candidates"][0] == "000"
    assert "000" in release.stickers


@pytest.mark.parametrize("bad", [True, 1.0, -1, "x1", "", "٣", None, [1], "1" * 5000])
def test_what_is_no_sticker_id(bad):
    with pytest.raises(ValueError, match="is not a sticker id"):
        normalise_sticker_id(bad)


TRAIN, TASK2, TASK3 = "train", "task2", "task3"


def at_train(change):
    def spoil(files):
        change(files.json[files.train]["dialogue 7"])

    return spoil


def at_record(change, where="task2"):
    def spoil(files):
        change(files.json[getattr(files, where)["test_easy"]][1])

    return spoil


BROKEN = {
    "speaker": (
        at_train(lambda d: d[2].update(speaker_id="[speaker3]")),
        "train/e_train.json, dialogue 7, turn 2: speaker_id '[speaker3]'",
    ),
    "speaker of another type": (
        at_train(lambda d: d[0].update(speaker_id=["[speaker1]"])),
        "train/e_train.json, dialogue 7, turn 0: speaker_id ['[speaker1]']",
    ),
    "no speaker": (at_train(lambda d: d[3].pop("speaker_id")), "dialogue 7, turn 3: speaker_id"),
    "unknown sticker": (
        at_train(lambda d: d[0].update(img_id="014")),
        "train/e_train.json, dialogue 7, turn 0: sticker '014' is not in img2id",
    ),
    "sticker of another type": (
        at_train(lambda d: d[1].update(img_id=True)),
        "dialogue 7, turn 1: True is not a sticker id",
    ),
    "two stickers": (
        at_train(lambda d: d[1].update(image_id="001")),
        "dialogue 7, turn 1: img_id and image_id name different stickers",
    ),
    "unknown emotion": (
        at_train(lambda d: d[0].update(emotion_id=3)),
        "dialogue 7, turn 0: emotion_id 3 is not one of the 3",
    ),
    "negative emotion": (
        at_train(lambda d: d[0].update(emotion_id=-1)),
        "dialogue 7, turn 0: emotion_id -1",
    ),
    "emotion of another type": (
        at_train(lambda d: d[0].update(emotion_id=True)),
        "dialogue 7, turn 0: emotion_id True",
    ),
    "text of another type": (
        at_train(lambda d: d[2].update(txt=5)),
        "dialogue 7, turn 2: txt is a number, wanted text",
    ),
    "half a character": (
        at_train(lambda d: d[2].update(txt="\ud83d")),
        "dialogue 7, turn 2: txt holds half a character",
    ),
    "turn of another type": (
        at_train(lambda d: d.__setitem__(1, "hello")),
        "dialogue 7, turn 1: is text, wanted an object",
    ),
    "empty dialogue": (at_train(lambda d: d.clear()), "dialogue 7: has no turns"),
    "dialogue of another type": (
        lambda files: files.json[files.train].update({"dialogue 7": {}}),
        "dialogue 7: wanted a list of turns, found an object",
    ),
    "validation dialogue": (
        lambda files: files.json[files.val]["dialogue 1"][1].update(img_id="77"),
        "validation/e_val.json, dialogue 1, turn 1: sticker '077' is not in img2id",
    ),
    "ten candidates": (
        at_record(lambda r: r["candidate"]["set"].pop()),
        "e_test_easy_task2.json, record 1: 10 distinct of 10 candidates, wanted 11",
    ),
    "twice the same candidate": (
        at_record(lambda r: r["candidate"]["set"].__setitem__(10, "9")),
        "record 1: 10 distinct of 11 candidates",
    ),
    "unknown candidate": (
        at_record(lambda r: r["candidate"]["set"].__setitem__(10, "999")),
        "record 1: sticker '999' is not in img2id",
    ),
    "answer not among them": (
        at_record(lambda r: r["answer"].update(img_id="013")),
        "record 1: the answer '013' is not among the candidates",
    ),
    "no candidates": (at_record(lambda r: r.pop("candidate")), 'record 1: no "candidate"'),
    "another speaker": (
        at_record(lambda r: r["answer"].update(speaker_id="[speaker1]")),
        "record 1: the answer is not by the speaker of the last turn",
    ),
    "no history": (
        at_record(lambda r: r.pop("history")),
        "record 1: wanted a list of turns, found nothing",
    ),
    "answer of another type": (
        at_record(lambda r: r.update(answer=["003"])),
        "record 1: the answer is a list, wanted an object",
    ),
    "history": (
        at_record(lambda r: r["history"][0].update(img_id="x")),
        "task2.json, record 1, turn 0: 'x' is not a sticker id",
    ),
    "task 3": (
        at_record(lambda r: r["answer"].update(emotion_id="sad"), where="task3"),
        "e_test_easy_task3.json, record 1: emotion_id 'sad'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_named_or_left_out(tmp_path, name):
    spoil, message = BROKEN[name]
    whole = Release(ReleaseFiles().write(tmp_path / "whole"))
    expected = {split: len(rows_of(whole, split)) for split in SPLITS}
    files = ReleaseFiles()
    spoil(files)
    root = files.write(tmp_path / "broken")
    with pytest.raises(ReleaseError, match=re.escape(message)) as caught:
        for split in SPLITS:
            rows_of(Release(root), split)
    assert "\n" not in str(caught.value)

    release = Release(root, skip_bad=True)
    found = {split: len(rows_of(release, split)) for split in SPLITS}
    assert len(release.skipped) == 1
    assert message in str(release.skipped[0])
    if "dialogue 7" in message:
        expected["train"] -= 2
    elif "task3" not in message and "e_val.json" not in message:
        expected["test_easy"] -= 1
    assert found == expected


def test_many_broken_records_are_all_noted_and_few_are_logged(tmp_path, caplog):
    files = ReleaseFiles()
    files.json[files.train] |= {f"dialogue x{i}": [] for i in range(100)}
    release = Release(files.write(tmp_path), skip_bad=True)
    assert len(rows_of(release, "train")) == 4
    assert [one.record for one in release.skipped] == [f"dialogue x{i}" for i in range(100)]
    assert 1 < len(caplog.records) < 30


def test_a_dialogue_told_twice_is_broken(tmp_path):
    files = ReleaseFiles()
    one = json.dumps([turn(0, "a"), turn(1, "b", "001")])
    files.json[files.train] = f'{{"dialogue 1": {one}, "dialogue 1": {one}}}'.encode()
    root = files.write(tmp_path)
    with pytest.raises(ReleaseError, match="e_train.json, dialogue 1: a second dialogue"):
        rows_of(Release(root), "train")
    assert len(rows_of(Release(root, skip_bad=True), "train")) == 1


# Finding the parts


def mirror(files):
    """The names of a Chinese mirror, an unannotated copy of its tests lying beside."""
    for old, new in {
        files.train: "MOD-Dataset/train/train.json",
        files.val: "MOD-Dataset/validation/validation.json",
        files.task2["validation"]: "MOD-Dataset/validation/val_task2.json",
        files.task3["validation"]: "MOD-Dataset/validation/val_task3.json",
    }.items():
        files.rename(old, new)
    for name in ("easy", "hard"):
        task_2, task_3 = files.task2[f"test_{name}"], files.task3[f"test_{name}"]
        blank = json.loads(json.dumps(files.json[task_2]))
        for record in blank:
            record["answer"]["img_id"] = ""
        files.json[f"MOD-test/c_test_{name}_task2.json"] = blank
        files.rename(
            task_2, f"MOD-test-fixed/c_test_{name}/annotated_c_test_{name}_task2_fixed.json"
        )
        files.rename(task_3, f"MOD-test-fixed/c_test_{name}/test_task3.json")
    files.json["MOD-Dataset/train/train_statistics.json"] = {"not": "a part"}
    files.json["MOD-Dataset/validation/val_task1.json"] = [{"history": [], "answer": {"txt": ""}}]
    files.json["__MACOSX/MOD-Dataset/train/train.json"] = b"\0"
    files.json["MOD-Dataset/train/._train.json"] = b"\0"


def test_the_names_of_the_mirrors_are_found_and_annotated_files_win(tmp_path):
    files = ReleaseFiles("zh")
    plain = Release(files.write(tmp_path / "plain"), "zh")
    mirror(files)
    release = Release(files.write(tmp_path / "mirror"))
    assert release.language == "zh"
    for split in SPLITS:
        assert rows_of(release, split) == rows_of(plain, split)
    assert {row["sticker_id"] for row in rows_of(release, "test_easy")} == {"000", "003", "004"}
    with pytest.raises(ReleaseError, match="no MOD release in language 'en': missing e_train.json"):
        Release(tmp_path / "mirror", "en")


def test_both_languages_in_one_folder(tmp_path):
    english, chinese = ReleaseFiles("en"), ReleaseFiles("zh")
    english.json |= chinese.json
    # Without a prefix, only what is written in it tells the language.
    english.rename(english.train, "one/train.json")
    english.rename(chinese.train, "two/train.json")
    root = english.write(tmp_path)
    texts = {lang: rows_of(Release(root, lang), "train")[0]["utterances"][0]["text"]
             for lang in ("en", "zh")}  # fmt: skip
    assert texts == {"en": EN[0], "zh": ZH[0]}
    assert Release(root).language == "en"


def test_a_task_file_that_names_no_task_is_known_by_its_records(tmp_path):
    files = ReleaseFiles()
    plain = rows_of(Release(files.write(tmp_path / "plain")), "test_easy")
    files.rename(files.task2["test_easy"], "a/e_test_easy.json")
    files.rename(files.task3["test_easy"], "b/e_test_easy.json")
    assert rows_of(Release(files.write(tmp_path / "new")), "test_easy") == plain


@pytest.mark.parametrize(
    ("path", "copy"),
    [
        ("train/e_train.json", "copy/e_train.json"),
        ("train/e_train.json", "copy/train.json"),
        ("supplementary/img2id.json", "copy/img2id.json"),
        ("supplementary/emotion_dict.json", "copy/emotion_dict.json"),
        ("validation/e_val_task2.json", "validation/e_valid_task2.json"),
    ],
)
def test_two_candidates_for_one_part_are_both_named(tmp_path, path, copy):
    files = ReleaseFiles()
    files.json[copy] = files.json[path]
    with pytest.raises(ReleaseError, match="two candidates for") as caught:
        Release(files.write(tmp_path))
    assert path in str(caught.value)
    assert copy in str(caught.value)


def test_a_file_without_a_word_serves_any_language_but_not_beside_another(tmp_path):
    files = ReleaseFiles()
    mute = {"dialogue 1": [turn(0, None, "001"), turn(1, None, "002")]}
    root = files.write(tmp_path)
    (root / files.train).rename(root / "away")
    (root / "train.json").write_text(json.dumps(mute))
    assert [row["sticker_id"] for row in rows_of(Release(root, "en"), "train")] == ["002"]
    (root / "away").rename(root / files.train)
    with pytest.raises(ReleaseError, match="train/e_train.json and train.json"):
        Release(root, "en")


def test_two_meme_sets_are_both_named(tmp_path):
    root = ReleaseFiles().write(tmp_path)
    (root / "old" / "meme_set").mkdir(parents=True)
    (root / "old" / "meme_set" / "a.png").write_bytes(picture("red"))
    with pytest.raises(ReleaseError, match="old/meme_set and supplementary/meme_set"):
        Release(root)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("train/e_train.json", "e_train.json"),
        ("validation/e_val_task2.json", "e_val_task2.json"),
        ("test/e_test_hard/e_test_hard_task2.json", "e_test_hard_task2.json"),
        ("supplementary/img2id.json", "img2id.json"),
        ("supplementary/emotion_dict.json", "emotion_dict.json"),
    ],
)
def test_a_missing_file_is_named(tmp_path, path, name):
    files = ReleaseFiles()
    del files.json[path]
    with pytest.raises(ReleaseError, match=rf"missing {name} \(or") as caught:
        Release(files.write(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_missing_images_are_named(tmp_path):
    files = ReleaseFiles()
    del files.images["s003.png"], files.images["s005.png"]
    with pytest.raises(ReleaseError, match=r"img2id.json: 's003.png' and 1 more not found"):
        Release(files.write(tmp_path / "one"))
    files.images = {}
    with pytest.raises(ReleaseError, match="missing meme_set with images in it"):
        Release(files.write(tmp_path / "none"))
    with pytest.raises(ReleaseError, match="nowhere: no such folder"):
        Release(tmp_path / "nowhere")
    with pytest.raises(ReleaseError, match="no language 'fr': choose from en, zh"):
        Release(tmp_path / "one", "fr")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"a.png": "1", "b.png": 1}, "'a.png' and 'b.png' both have the id 001"),
        (b'{"s000.png": 1, "s000.png": 2}', "'s000.png' has two ids"),
        ({"s000.png": "x"}, "'s000.png': 'x' is not a sticker id"),
        ({}, "holds no sticker"),
        ([], "is a list, wanted an object"),
    ],
)
def test_a_broken_img2id(tmp_path, content, problem):
    files = ReleaseFiles()
    files.json["supplementary/img2id.json"] = content
    with pytest.raises(ReleaseError, match=re.escape(f"img2id.json: {problem}")):
        Release(files.write(tmp_path))


@pytest.mark.parametrize("content", [{"a": 0, "b": 0}, {"a": "0"}, {"a": -1}, {"a": 10**9}, {}])
def test_a_broken_emotion_dict(tmp_path, content):
    files = ReleaseFiles()
    files.json["supplementary/emotion_dict.json"] = content
    with pytest.raises(ReleaseError, match="supplementary/emotion_dict.json: "):
        Release(files.write(tmp_path))


def test_a_gap_in_the_emotions_keeps_the_ids(tmp_path):
    files = ReleaseFiles()
    files.json["supplementary/emotion_dict.json"] = {"glad": 1, "sad": 3}
    release = Release(files.write(tmp_path))
    assert release.emotions == ["emotion 0", "glad", "emotion 2", "sad"]


DIALOGUE = b'{"dialogue 1": ' + json.dumps([turn(0, "a"), turn(1, "b", 0)]).encode()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"dialogue 1": [\n{"speaker_id": ]}', "not valid JSON: expecting value at line 2"),
        (DIALOGUE, "not valid JSON: expected ',' or '}' at line 1"),
        (b'{"dialogue 1": [}', "not valid JSON"),
        (DIALOGUE + b"} []", "not valid JSON: text after the end"),
        (b'{"dialogue 1"; []}', "not valid JSON: expected ':'"),
        (b"{dialogue: []}", "not valid JSON: expected a key in double quotes"),
        (b"", "not valid JSON: expected an object or a list"),
        (b"7", "not valid JSON: expected an object or a list"),
        (b"\xff\xfe{}", "not UTF-8 text"),
        (b'{"dialogue 1": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"dialogue 1": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b"[]", "is a list, wanted an object"),
        (b"{}", "holds no sample"),
    ],
)
def test_broken_json_is_one_line_that_names_the_file(tmp_path, content, problem):
    files = ReleaseFiles()
    files.json[files.train] = content
    root = files.write(tmp_path)
    with pytest.raises(ReleaseError, match=re.escape(f"train/e_train.json: {problem}")) as caught:
        rows_of(Release(root, "en"), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_json_is_read_the_same_through_any_window(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_records, "_CHUNK", chunk)
    values = {"é": [1, {"a": '}"]\\'}], "b": 12345, "c": -1.5e10, "d": "🎉", "e": None, "": {}}
    for number, value in enumerate((values, list(values.values()), {}, [])):
        path = tmp_path / f"{number}.json"
        for indent in (None, 2):
            path.write_text("\ufeff " + json.dumps(value, indent=indent) + "\n", encoding="utf-8")
            records = list(JSONRecords(path, "x"))
            keys = value if isinstance(value, dict) else range(len(value))
            expected = value.values() if isinstance(value, dict) else value
            assert [key for _, key, _ in records] == list(keys)
            assert [found for _, _, found in records] == list(expected)
            text = path.read_text(encoding="utf-8-sig")
            starts = [text[offset] for offset, _, _ in records]
            if isinstance(value, dict):
                assert starts == ['"'] * len(records)


def test_the_fingerprint_sees_contents_and_nothing_else(tmp_path):
    files = ReleaseFiles()
    first = Release(files.write(tmp_path / "a")).fingerprint
    assert Release(files.write(tmp_path / "elsewhere")).fingerprint == first
    seen = {first}
    files.images["s000.png"] = picture("white")
    seen.add(Release(files.write(tmp_path / "a")).fingerprint)
    files.json[files.task3["test_hard"]][0]["answer"]["emotion_id"] = 0
    seen.add(Release(files.write(tmp_path / "a")).fingerprint)
    assert len(seen) == 3


def test_captions(tmp_path):
    path = tmp_path / "captions.json"
    stickers = ["000", "001"]
    path.write_text('{"0": "hello", "001": ""}', encoding="utf-8")
    assert read_captions(path, stickers) == {"000": "hello", "001": ""}
    for text, problem in {
        '{"2": "a"}': "sticker '002' is not in the release",
        '{"0": "a", "000": "b"}': "two captions for sticker '000'",
        '{"0": 5}': "the caption of sticker '000' is not text",
        '{"x": "a"}': "'x' is not a sticker id",
        "[]": "is not an object",
        "{": "not valid JSON",
    }.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ReleaseError, match=re.escape(problem)):
            read_captions(path, stickers)


def test_the_exact_counts_of_real_dialogues(shared_dir):
    release = Release(shared_dir / "data" / "moji", "en")
    counts = {}
    for split in SPLITS:
        rows = rows_of(release, split)
        counts[split] = (len(rows), sum(row["emotion"] >= 0 for row in rows))
    assert counts == {
        "train": (4605, 4424),
        "validation": (528, 513),
        "test_easy": (1263, 1209),
        "test_hard": (1203, 1159),
    }
    assert len(release.stickers) == 330
    assert release.unlisted_images == ["not-in-the-dictionary.jpg"]
