# SPDX-License-Identifier: Apache-2.0
import json
import random
import shutil

import pyarrow.parquet as pq
import pytest

from dataset_mod import (
    EmotionalWords,
    find_emotional_words,
    load_marks,
    load_prepared,
    load_words,
    prepare,
    read_lexicon,
    with_bias,
    write_mini_release,
)
from dataset_mod.bias import GROUPS, write_marks
from dataset_mod.bias_marks import bias_folder
from dataset_mod.synthetic_text import EMOTIONS, WORDS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(release, prepared folder, its data, its emotional words: the lexicon's alone)."""
    folder = tmp_path_factory.mktemp("marks")
    write_mini_release(folder / "release", rho=0.6, dialogues=(40, 12, 12, 12), size=32)
    prepare(folder / "release", folder / "data")
    data = load_prepared(folder / "data")
    lexicon = read_lexicon(folder / "release" / "lexicon.tsv", data.emotions)
    words = find_emotional_words(data.splits["train"], data.emotions, lexicon=lexicon, found=False)
    write_marks(bias_folder(folder / "data"), data.splits, words, data.fingerprint)
    return folder / "release", folder / "data", data, words


def truths(release, split):
    """The truth of each sample, in the order of its table."""
    turns = json.loads((release / "truth.json").read_text())["turns"][split]
    return sorted((one for one in turns if one["sample"] is not None), key=lambda t: t["sample"])


def test_the_mini_releases_lexicon_is_its_words(world):
    release, _, _, words = world
    lexicon = read_lexicon(release / "lexicon.tsv", EMOTIONS)
    assert lexicon == {w: EMOTIONS.index(e) for e, of in WORDS.items() for w in of}
    assert {word: one.emotion for word, one in words.words.items()} == lexicon


@pytest.mark.parametrize("split", ["train", "validation", "test_easy", "test_hard"])
def test_with_its_lexicon_the_groups_are_the_generators_truth(world, split):
    """Each sample has the one word that the generator wrote, and the group that it knows."""
    release, _, data, words = world
    known = truths(release, split)
    assert len(known) == len(data.splits[split])
    for row, truth in zip(data.splits[split], known, strict=True):
        assert [one.word for one in words.find_in(row)] == [truth["word"]]
        group = "aligned" if truth["agrees"] else "conflicting"
        assert words.group(row) == (group if truth["labelled"] else None)
    assert {words.group(row) for row in data.splits[split]} >= {"aligned", "conflicting"}


def test_marks_are_read_back_for_every_sample(world):
    _, folder, data, words = world
    marks = load_marks(folder)
    assert len(marks) == sum(map(len, data.splits.values()))
    for split, table in data.splits.items():
        for row in table:
            assert marks[split, row["dialogue_id"], row["turn"]] == words.group(row)
    assert set(marks.values()) >= {"aligned", "conflicting", None}
    assert load_words(folder) == words
    table = pq.read_table(bias_folder(folder) / "marks.parquet").to_pylist()
    row = data.splits["train"][0]
    assert table[0] == {
        "split": "train", "dialogue_id": row["dialogue_id"], "turn": row["turn"],
        "bias": words.group(row), "words": [one.word for one in words.find_in(row)],
        "word_emotions": [one.emotion for one in words.find_in(row)],
    }  # fmt: skip


def test_the_prepared_tables_stay_as_they_are(world):
    _, folder, data, _ = world
    assert load_prepared(folder).fingerprint == data.fingerprint
    assert load_prepared(folder).splits["train"].column_names == data.splits["train"].column_names


def test_the_column_joins_a_table_at_hand(world):
    _, _, data, words = world
    table = data.splits["validation"]
    marked = with_bias(table, words)
    assert marked.column_names == [*table.column_names, "bias", "word_emotions"]
    assert marked["bias"][:] == [words.group(row) for row in table]
    assert marked["word_emotions"][:] == [[w.emotion for w in words.find_in(r)] for r in table]
    assert marked.features["word_emotions"].feature.names == data.emotions
    assert set(marked["bias"]) <= {*GROUPS, None}
    # Again, with other words: the columns are replaced, not doubled.
    silent = EmotionalWords({}, data.emotions)
    again = with_bias(marked, silent)
    assert again.column_names == marked.column_names
    assert set(again["bias"]) == {"neutral", None} and set(map(tuple, again["word_emotions"])) == {
        ()
    }


def test_marks_of_other_data_or_words_are_refused(world, tmp_path):
    release, folder, data, words = world
    shutil.copytree(folder, tmp_path / "data")
    marks = bias_folder(tmp_path / "data")
    EmotionalWords({}, data.emotions).save(marks / "words.json")
    for load in (load_marks, load_words):
        with pytest.raises(ValueError, match="made with other words than .*words.json"):
            load(tmp_path / "data")
    words.save(marks / "words.json")
    assert load_marks(tmp_path / "data")
    # The folder is prepared anew from another release; what lies beside the tables stays there.
    write_mini_release(tmp_path / "release", dialogues=(8, 2, 2, 2), size=32, seed=5)
    prepare(tmp_path / "release", tmp_path / "data")
    assert (marks / "marks.parquet").is_file()
    with pytest.raises(ValueError, match="made of other data than .*run bias_report.py again"):
        load_marks(tmp_path / "data")
    (marks / "marks.parquet").write_bytes(b"PAR1 or so")
    with pytest.raises(ValueError, match="not a Parquet file"):
        load_marks(tmp_path / "data")
    shutil.rmtree(marks)
    with pytest.raises(ValueError, match=r"no such file; scripts/bias_report\.py writes it"):
        load_marks(tmp_path / "data")


def test_replacing_the_word_makes_a_conflicting_sample_aligned(world):
    """The intervention that probes and training rest on, on real rows."""
    _, _, data, words = world
    draw = random.Random(0)
    done = 0
    for row in data.splits["test_easy"]:
        if words.group(row) != "conflicting":
            continue
        newest = len(row["utterances"]) - len(words.utterances_of(row))
        for place, one in enumerate(row["utterances"]):
            if place >= newest:
                one["text"] = words.replace(one["text"], row["emotion"], draw.choice)
        assert words.group(row) == "aligned"
        done += 1
    assert done > 3
