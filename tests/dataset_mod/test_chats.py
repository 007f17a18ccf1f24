# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from chat_files import EMOTIONS, STICKERS, turns, write_csv, write_stickers

from dataset_mod.chats import ChatError, Chats
from dataset_mod.prepared import load_prepared, write_prepared
from dataset_mod.schema import sample_features


@pytest.fixture
def stickers(tmp_path):
    return write_stickers(tmp_path / "stickers")


def record(dialogue, speaker, text="", sticker="", **more):
    return {"dialogue": dialogue, "speaker": speaker, "text": text, "sticker": sticker, **more}


def padded(*records):
    """Add two plain dialogues, so that every split has one."""
    plain = [record(f"plain {n}", who, "hey", s) for n in (1, 2)
             for who, s in (("x", ""), ("y", "happy.png"))]  # fmt: skip
    more = {name: "" for each in records for name in each} if records else {}
    return [{**more, **each} for each in (*records, *plain)]


def rows(chats, dialogue=None):
    found = [row for split in chats.splits for table in chats.tables(split)
             for row in table.to_pylist()]  # fmt: skip
    return [row for row in found if dialogue in (None, row["dialogue_id"])]


def said(row):
    return [(turn["speaker"], turn["text"], turn["sticker_id"]) for turn in row["utterances"]]


def test_a_sticker_alone_belongs_to_the_text_before_it_by_the_same_person(tmp_path, stickers):
    path = write_csv(tmp_path / "c.csv", padded(
        record("d", "ann", "oh no"),
        record("d", "bob", "so sorry"),
        record("d", "bob", "", "sad.png"),
        record("d", "bob", "", "wow.webp"),
        record("d", "ann", "thanks", "happy.png"),
    ))  # fmt: skip
    chats = Chats(path, stickers)
    first, second, third = rows(chats, "d")
    ids = dict(zip(sorted(STICKERS), ("000", "001", "002", "003", "004"), strict=True))
    assert first["sticker_id"] == ids["sad.png"] and first["turn"] == 1
    assert said(first) == [(0, "oh no", None), (1, "so sorry", None)]
    # A second sticker in a row is a turn without text, and the first is its history.
    assert second["sticker_id"] == ids["wow.webp"]
    assert said(second) == [(0, "oh no", None), (1, "so sorry", ids["sad.png"]), (1, "", None)]
    assert third["turn"] == 3 and third["utterances"][-1]["text"] == "thanks"
    assert chats.left_out["stickers joined to the text before them"] == 1


def test_a_group_has_two_sides_the_sender_and_the_others(tmp_path, stickers):
    path = write_csv(tmp_path / "c.csv", padded(
        record("d", "ann", "hi"),
        record("d", "bob", "hello"),
        record("d", "cem", "hey", "happy.png"),
        record("d", "ann", "me too", "sad.png"),
    ))  # fmt: skip
    chats = Chats(path, stickers)
    by_cem, by_ann = rows(chats, "d")
    assert [turn["speaker"] for turn in by_cem["utterances"]] == [0, 0, 1]
    # Ann spoke first, so that her side is 0 where she is the one who sends.
    assert [turn["speaker"] for turn in by_ann["utterances"]] == [0, 1, 1, 0]
    assert chats.speakers == 3


def test_two_people_keep_their_numbers_through_a_dialogue(tmp_path, stickers):
    path = write_csv(tmp_path / "c.csv", padded(
        record("d", "bob", "hi"),
        record("d", "ann", "hello", "happy.png"),
        record("d", "bob", "oh", "sad.png"),
        record("d", "ann", "no", "wow.webp"),
    ))  # fmt: skip
    for row in rows(Chats(path, stickers), "d"):
        count = len(row["utterances"])
        assert [turn["speaker"] for turn in row["utterances"]] == [0, 1, 0, 1][:count]
    # Only the newest turns are kept; the numbers stay.
    short = rows(Chats(path, stickers, context=2), "d")
    assert [said(row)[0][:2] for row in short] == [(0, "hi"), (1, "hello"), (0, "oh")]
    assert [row["turn"] for row in short] == [1, 2, 3]


def test_what_gives_no_sample_is_counted(tmp_path, stickers):
    path = write_csv(tmp_path / "c.csv", padded(
        record("d", "ann", "", "happy.png", when="1"),
        record("d", "bob", "", "", when="2"),
        record("d", "bob", "thanks", "wow.webp", when="3"),
        record("quiet", "ann", "anybody?", "", when="4"),
    ))  # fmt: skip
    (stickers / "notes.txt").write_text("mine")
    chats = Chats(path, stickers)
    assert dict(chats.left_out) == {
        "turns with neither text nor sticker": 1,
        "stickers on a dialogue's first turn": 1,
        "dialogues without a sticker behind their first turn": 1,
    }
    assert chats.other_columns == ["when"] and chats.other_files == ["notes.txt"]
    assert len(rows(chats)) == 3


def test_whole_dialogues_are_dealt_by_the_seed_and_candidates_hold_the_answer(tmp_path, stickers):
    path = write_csv(tmp_path / "c.csv", turns(20))
    chats = Chats(path, stickers)
    dealt = {
        split: {row["dialogue_id"] for table in chats.tables(split) for row in table.to_pylist()}
        for split in chats.splits
    }
    assert [len(dealt[split]) for split in ("train", "validation", "test")] == [16, 2, 2]
    assert len(set.union(*dealt.values())) == 20
    for split in chats.splits:
        for row in (row for table in chats.tables(split) for row in table.to_pylist()):
            assert len(row["candidates"]) == (0 if split == "train" else len(STICKERS))
            assert split == "train" or row["sticker_id"] in row["candidates"]
    same, other = Chats(path, stickers), Chats(path, stickers, seed=1)
    assert rows(same) == rows(chats) and same.fingerprint == chats.fingerprint
    assert [row["dialogue_id"] for row in rows(other)] != [row["dialogue_id"] for row in rows(same)]
    assert other.fingerprint != chats.fingerprint


def test_candidates_are_drawn_for_each_sample_and_stay_when_the_export_grows(tmp_path, stickers):
    for number in range(10):
        (stickers / f"more {number}.png").write_bytes((stickers / "sad.png").read_bytes())

    def held_out(dialogues):
        chats = Chats(write_csv(tmp_path / "c.csv", turns(dialogues)), stickers, held_out=0.4)
        return {
            (row["dialogue_id"], row["turn"]): (row["sticker_id"], tuple(row["candidates"]))
            for row in rows(chats)
            if row["candidates"]
        }

    few, many = held_out(20), held_out(22)
    assert all(len(set(drawn)) == 11 and right in drawn for right, drawn in many.values())
    assert len(set(many.values())) == len(many) > 20
    both = few.keys() & many.keys()
    assert len(both) > 10 and all(few[each] == many[each] for each in both)


def test_emotions_are_the_files_or_those_of_a_checkpoint(tmp_path, stickers):
    path = write_csv(tmp_path / "c.csv", turns(8))
    chats = Chats(path, stickers)
    assert chats.emotions == ["furious", "glad", "low"]
    names = dict(zip(sorted(STICKERS), range(5), strict=True))
    wanted = {f"{names[s]:03}": e for s, e in zip(STICKERS, EMOTIONS, strict=False)}
    assert all(chats.emotions[row["emotion"]] == wanted[row["sticker_id"]] for row in rows(chats))
    given = Chats(path, stickers, emotions=["low", "calm", "glad", "furious"])
    assert {row["emotion"] for row in rows(given)} == {0, 2, 3}
    with pytest.raises(ChatError, match=r"c\.csv, line 3, dialogue 'chat 0': emotion 'glad'"):
        Chats(path, stickers, emotions=["low", "calm"])


@pytest.mark.parametrize("emotions", [True, False])
def test_what_is_written_is_loaded_as_any_prepared_folder(
    tmp_path, stickers, emotions, monkeypatch
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    chats = Chats(write_csv(tmp_path / "c.csv", turns(6, emotions)), stickers, language="de")
    statistics = write_prepared([chats], tmp_path / "data", more={"left_out": {"a": 1}})
    data = load_prepared(tmp_path / "data")
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.splits["train"].features == sample_features(chats.emotions)
    assert [row for split in data.splits.values() for row in split] == rows(chats)
    assert data.statistics == statistics and statistics["left_out"] == {"a": 1}
    assert data.stickers["name"] == sorted(STICKERS)
    assert data.stickers[0]["image"].size == (40, 40)
    assert any(emotion >= 0 for emotion in data.stickers["emotion"]) == emotions
    assert data.emotions == (["furious", "glad", "low"] if emotions else [])


def test_forms_that_spreadsheets_and_logs_write(tmp_path, stickers):
    plain = rows(Chats(write_csv(tmp_path / "c.csv", turns(4)), stickers))
    text = (tmp_path / "c.csv").read_text(encoding="utf-8")
    for name, content in {
        "bom.csv": text.encode("utf-8-sig"),
        "excel.csv": text.replace(",", ";").encode("utf-16"),
        "tabs.tsv": text.replace(",", "\t").replace("\n", "\r\n").encode(),
        "log.jsonl": "\n".join(
            json.dumps({k: v or None for k, v in each.items()}) for each in turns(4)
        ).encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert rows(Chats(tmp_path / name, stickers)) == plain, name
    numbers = [{**each, "dialogue": int(each["dialogue"][5:]), "speaker": len(each["sticker"])}
               for each in turns(4)]  # fmt: skip
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, numbers)))
    found = rows(Chats(tmp_path / "n.jsonl", stickers))
    assert {row["dialogue_id"] for row in found} == set("0123")


HEAD = "dialogue,speaker,text,sticker\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.csv", HEAD + "d,ann,hi,\nd,bob,,gone.png\n", r"c\.csv, line 3, dialogue 'd': .*gone"),
        ("c.csv", HEAD + 'd,ann,"two\nlines",\nd,,hi,\n', r"line 4, dialogue 'd': has no speaker"),
        ("c.csv", HEAD + ",ann,hi,\n", r"line 2: has no dialogue"),
        ("c.csv", HEAD + "d,ann,hi\n", r"line 2: has 3 fields, the header 4"),
        ("c.csv", HEAD + 'd,ann,"hi,\n', r"line 2: not readable as CSV"),
        ("c.csv", "dialogue,who,text\n", r"line 1: no column speaker, sticker .*who"),
        ("c.csv", "text,speaker,text,sticker,dialogue\n", r"line 1: a column twice"),
        ("c.csv", HEAD, r"holds no turn"),
        ("c.csv", HEAD + "d,ann,caf\xe9,\n", r"line 2: not utf-8 text"),
        ("c.xlsx", HEAD, r"neither a \.csv"),
        ("c.jsonl", '{"dialogue": "d"\n', r"line 1: not valid JSON"),
        ("c.jsonl", "\n[1]\n", r"line 2: is no object"),
        ("c.jsonl", '{"dialogue": "d", "speaker": "a", "text": 3}\n', r"line 1: text is 3"),
        ("c.jsonl", '{"dialogue": "d", "speaker": "a", "text": "\\ud83d"}\n', r"half a character"),
        ("c.csv", HEAD + "d,ann,hi,\nd,bob,,sad.png\n", r"1 dialogues carry .* at least 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_and_line(tmp_path, stickers, name, content, says):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ChatError, match=says):
        Chats(tmp_path / name, stickers)


def test_folders_and_settings_that_are_no_good(tmp_path, stickers):
    path = write_csv(tmp_path / "c.csv", turns(4))
    for sticker in list(stickers.iterdir())[1:]:
        sticker.unlink()
    for folder, says in ((stickers, "1 images"), (tmp_path / "gone", "gone: no such folder")):
        with pytest.raises(ChatError, match=says):
            Chats(path, folder)
    for setting in ({"held_out": 0.5}, {"context": 0}):
        with pytest.raises(ChatError, match=next(iter(setting))):
            Chats(path, stickers, **setting)


def test_a_dialogue_with_a_broken_line_can_be_left_out(tmp_path, stickers):
    records = turns(6)
    records[1]["sticker"] = "gone.png"
    chats = Chats(write_csv(tmp_path / "c.csv", records), stickers, skip_bad=True)
    assert [str(each) for each in chats.skipped] == [
        f"{tmp_path / 'c.csv'}, line 3, dialogue 'chat 0': sticker 'gone.png' is no image of "
        f"{stickers}"
    ]
    assert {row["dialogue_id"] for row in rows(chats)} == {f"chat {n}" for n in range(1, 6)}
