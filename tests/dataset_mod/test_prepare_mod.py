# SPDX-License-Identifier: Apache-2.0
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from release_files import ReleaseFiles, picture

from dataset_mod.prepared import load_prepared, prepare
from dataset_mod.release import Release, ReleaseError
from dataset_mod.schema import SPLITS, sample_features, sticker_features

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "prepare_mod.py"


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def test_what_is_written_is_what_the_release_holds(tmp_path):
    root = ReleaseFiles().write(tmp_path / "release")
    output = tmp_path / "deep" / "data"
    statistics = prepare(root, output)
    assert files_below(output) == [
        "README.md",
        *(f"data/en/{split}-00000-of-00001.parquet" for split in sorted(SPLITS)),
        "data/stickers/train-00000-of-00001.parquet",
        "statistics.json",
    ]
    prepared = load_prepared(output)
    release = Release(root)
    for split in SPLITS:
        expected = [row for table in release.tables(split) for row in table.to_pylist()]
        assert prepared.splits[split].to_list() == expected
        assert prepared.splits[split].features == sample_features(["calm", "glad", "sad"])
    assert prepared.stickers.features == sticker_features(["calm", "glad", "sad"])
    assert prepared.stickers["id"] == list(release.stickers)
    assert prepared.stickers[5]["image"].getpixel((0, 0)) == (5, 0, 0)
    assert prepared.emotions == ["calm", "glad", "sad"]
    assert prepared.statistics == statistics
    assert re.fullmatch("[0-9a-f]{64}", prepared.fingerprint)
    assert os.listdir(output.parent) == ["data"]


def test_statistics_count_what_is_there(tmp_path):
    files = ReleaseFiles()
    statistics = prepare(files.write(tmp_path / "release"), tmp_path / "data")
    train = statistics["splits"]["en"]["train"]
    assert train == {
        "rows": 4,
        "rows_with_emotion": 3,
        "rows_without_answer": 0,
        "utterances_per_row": 2.5,
        "answer_stickers": 2,
    }
    # 005 occurs in train only before an answer: it is seen. 006 stands alone in its dialogue.
    hard = statistics["splits"]["en"]["test_hard"]
    assert hard["answer_stickers_unseen_in_train"] == ["009"]
    assert hard["rows_with_answer_unseen_in_train"] == 1
    easy = statistics["splits"]["en"]["test_easy"]
    assert easy["answer_stickers_unseen_in_train"] == ["003", "004"]
    assert (easy["rows"], easy["rows_with_emotion"]) == (3, 2)
    assert statistics["unlisted_images"] == ["stray.png"]
    assert (statistics["stickers"], statistics["stickers_with_emotion"]) == (14, 1)


def test_a_sticker_in_the_history_counts_as_seen(tmp_path):
    files = ReleaseFiles()
    for record in files.json[files.task2["test_hard"]]:
        record["answer"]["img_id"] = "005"
    statistics = prepare(files.write(tmp_path / "release"), tmp_path / "data")
    assert statistics["splits"]["en"]["test_hard"]["answer_stickers_unseen_in_train"] == []


def test_both_languages_lie_in_one_folder(tmp_path):
    files = ReleaseFiles("en")
    files.json |= ReleaseFiles("zh").json
    root = files.write(tmp_path / "release")
    prepare(root, tmp_path / "data", languages=["zh", "en"])
    assert (
        load_prepared(tmp_path / "data").splits["train"][0]["utterances"][0]["text"] == "我中奖了"
    )
    english = load_prepared(tmp_path / "data", "en")
    assert english.splits["train"][0]["utterances"][0]["text"] == "I won the prize"


def test_plain_datasets_reads_it_without_this_package(tmp_path):
    files = ReleaseFiles()
    # A split in which every optional field is null must still come with the same features.
    files.json[files.task2["test_hard"]][0]["answer"] = ""
    del files.json[files.task3["test_hard"]]
    output = tmp_path / "mod"
    prepare(files.write(tmp_path / "release"), output)
    code = f"""
import json, sys
for package in ("dataset_mod", "modeling_cks", "hub_cards"):
    sys.modules[package] = None  # as if not installed: to import it is an error
from datasets import load_dataset
found = {{}}
for path in ({str(output)!r}, "mod"):
    for streaming in (False, True):
        for config in ("en", "stickers"):
            loaded = load_dataset(path, config, streaming=streaming)
            for split, table in loaded.items():
                rows = [{{k: v for k, v in row.items() if k != "image"}} for row in table]
                one = [repr(table.features), rows]
                assert found.setdefault(config + " " + split, one) == one
    assert set(load_dataset(path)) == {{"train", "validation", "test_easy", "test_hard"}}
image = load_dataset({str(output)!r}, "stickers", split="train")[3]["image"]
assert (image.mode, image.getpixel((0, 0))) == ("RGB", (3, 0, 0))
print(json.dumps(found))
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["HF_HOME"] = str(tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    prepared = load_prepared(output)
    expected = {f"en {split}": table for split, table in prepared.splits.items()}
    expected["stickers train"] = prepared.stickers.remove_columns("image")
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == list(expected)
    for name, table in expected.items():
        features, rows = found[name]
        assert rows == table.to_list()
        if name.startswith("en"):
            assert features == repr(table.features)
    assert found["stickers train"][0] == repr(prepared.stickers.features)


def test_a_second_run_writes_the_same_bytes_and_replaces_the_first(tmp_path):
    files = ReleaseFiles()
    root, output = files.write(tmp_path / "release"), tmp_path / "data"
    prepare(root, output)
    first = contents(output)
    prepare(root, tmp_path / "again")
    assert contents(tmp_path / "again") == first
    (output / "data" / "leftover").touch()
    (output / "knowledge").mkdir()
    (output / "knowledge" / "features.f32").write_bytes(b"took hours")
    files.json[files.train].popitem()
    prepare(files.write(root), output)
    assert "data/leftover" not in contents(output)
    assert (output / "knowledge" / "features.f32").read_bytes() == b"took hours"
    assert load_prepared(output).statistics["splits"]["en"]["train"]["rows"] == 3
    assert contents(output) != first
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_folder_prepared_anew_is_not_read_from_the_old_cache(tmp_path):
    files = ReleaseFiles()
    output = tmp_path / "data"
    texts = []
    for text in ("I won the prize", "I won the PRIZE"):
        files.json[files.train]["dialogue 7"][0]["txt"] = text
        prepare(files.write(tmp_path / "release"), output)
        plain = load_dataset(str(output), "en", split="train")
        prepared = load_prepared(output).splits["train"]
        texts.append([table[0]["utterances"][0]["text"] for table in (plain, prepared)])
    assert texts == [["I won the prize"] * 2, ["I won the PRIZE"] * 2]


def test_folders_of_one_name_and_size_are_told_apart(tmp_path):
    files = ReleaseFiles()
    for name in ("one", "two"):
        files.json[files.train]["dialogue 7"][0]["txt"] = name
        prepare(files.write(tmp_path / "release"), tmp_path / name / "data")
    for name in ("one", "two"):
        rows = load_prepared(tmp_path / name / "data").splits["train"]
        assert rows[0]["utterances"][0]["text"] == name


def test_the_fingerprint_follows_what_went_in(tmp_path):
    files = ReleaseFiles()
    captions = tmp_path / "captions.json"
    captions.write_text('{"0": "hello"}')
    seen = [
        prepare(files.write(tmp_path / "a"), tmp_path / "data")["fingerprint"],
        prepare(tmp_path / "a", tmp_path / "data", captions=captions)["fingerprint"],
    ]
    same = prepare(tmp_path / "a", tmp_path / "data", skip_bad=True)["fingerprint"]
    assert same == seen[0]
    files.images["s013.png"] = picture("white")
    seen.append(prepare(files.write(tmp_path / "a"), tmp_path / "data")["fingerprint"])
    assert len(set(seen)) == 3


def test_nothing_is_left_and_nothing_lost_when_it_fails(tmp_path):
    files = ReleaseFiles()
    root, output = files.write(tmp_path / "release"), tmp_path / "data"
    prepare(root, output)
    before = contents(output)
    files.images["s004.png"] = files.images["s004.png"][:-30]
    files.write(root)
    with pytest.raises(ValueError, match="supplementary/meme_set/s004.png: broken or truncated"):
        prepare(root, output)
    assert contents(output) == before
    assert {p.name for p in tmp_path.iterdir()} - {"cache", "home"} == {"data", "release"}


def test_foreign_folders_are_not_touched(tmp_path):
    root = ReleaseFiles().write(tmp_path / "release")
    other = tmp_path / "thesis"
    other.mkdir()
    prepare(root, other)  # an empty folder is fine
    for name, content in {"chapter.tex": "x", "statistics.json": '{"kind": "mine"}'}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match="holds something else than a prepared folder"):
            prepare(root, folder)
        assert contents(folder) == {name: content.encode()}
    with pytest.raises(ValueError, match="holds something else"):
        prepare(root, root)
    with pytest.raises(ValueError, match="is a file, not a folder"):
        prepare(root, tmp_path / "chapter.tex" / "chapter.tex")


def test_the_script_reports_and_lists_what_it_left_out(tmp_path):
    files = ReleaseFiles()
    files.json[files.train]["dialogue 8"][1]["img_id"] = "999"
    files.json[files.task2["test_easy"]][0]["candidate"]["set"].pop()
    root = files.write(tmp_path / "release")
    captions = tmp_path / "captions.json"
    captions.write_text('{"0": "你好", "13": "bye"}', encoding="utf-8")

    done = run(root, "--language", "en", "--output", tmp_path / "data")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "prepare_mod.py: train/e_train.json, dialogue 8, turn 1: sticker '999' is not in img2id"
    )
    assert not (tmp_path / "data").exists()

    done = run(root, "--output", tmp_path / "data", "--skip-bad", "--captions", captions)
    assert done.returncode == 0, done.stderr
    for line in (
        "en train: 3 samples, 2 with an emotion",
        "en test_easy: 2 samples, 1 with an emotion; 2 of 2 stickers unseen in train (2 samples)",
        "en test_hard: 1 samples, 1 with an emotion; 1 of 1 stickers unseen in train (1 samples)",
        "stickers: 14, 1 with an emotion, 2 with a caption",
        "images that img2id does not list: 1 (stray.png)",
        f"broken records left out: 2, listed in {tmp_path / 'data' / 'skipped.json'}",
    ):
        assert line in done.stdout.splitlines()
    assert json.loads((tmp_path / "data" / "skipped.json").read_text()) == [
        {
            "file": "train/e_train.json",
            "record": "dialogue 8",
            "turn": 1,
            "problem": "sticker '999' is not in img2id",
        },
        {
            "file": "test/e_test_easy/e_test_easy_task2.json",
            "record": "record 0",
            "turn": None,
            "problem": "10 distinct of 10 candidates, wanted 11 distinct ones",
        },
    ]
    table = load_prepared(tmp_path / "data").stickers
    assert table["caption"] == ["你好", *[None] * 12, "bye"]
    assert load_dataset(str(tmp_path / "data"), "en", split="train").num_rows == 3


def test_the_script_names_what_it_cannot_use(tmp_path):
    root = ReleaseFiles().write(tmp_path / "release")
    (tmp_path / "captions.json").write_text("{")
    for arguments, problem in {
        (tmp_path / "nowhere",): "nowhere: no such folder",
        (root, "--language", "zh"): "no MOD release in language 'zh': missing c_train.json",
        (root, "--captions", tmp_path / "captions.json"): "captions.json: not valid JSON",
        (root, "--captions", tmp_path / "none.json"): "none.json",
    }.items():
        done = run(*arguments, "--output", tmp_path / "data")
        assert done.returncode == 2
        assert problem in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "data").exists()
    assert "--skip-bad" in run("--help").stdout


def test_the_script_takes_its_options_in_any_order_and_both_languages(tmp_path):
    files = ReleaseFiles("en")
    files.json |= ReleaseFiles("zh").json
    root = files.write(tmp_path / "release")
    done = run("--language", "zh", "--output", tmp_path / "data", "--language", "en", root)
    assert done.returncode == 0, done.stderr
    assert load_prepared(tmp_path / "data").statistics["languages"] == ["zh", "en"]


def test_a_wrong_folder_is_named(tmp_path):
    root = ReleaseFiles().write(tmp_path / "release")
    output = tmp_path / "data"
    prepare(root, output)
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        load_prepared(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"release: not a prepared folder \(no statistics.json\)"):
        load_prepared(root)
    with pytest.raises(ValueError, match="has no language 'zh', only en"):
        load_prepared(output, "zh")
    statistics = json.loads((output / "statistics.json").read_text())

    def with_statistics(**changes):
        (output / "statistics.json").write_text(json.dumps({**statistics, **changes}))

    with_statistics(emotions=["calm", "sad", "glad"])
    with pytest.raises(ValueError, match="statistics.json and the tables disagree"):
        load_prepared(output)
    with_statistics(schema_version="0.1.0")
    with pytest.raises(ValueError, match="prepared with schema 0.1.0, this is 1.0.0"):
        load_prepared(output)
    with_statistics(kind="else")
    with pytest.raises(ValueError, match="not a prepared folder"):
        load_prepared(output)
    (output / "statistics.json").write_text("{")
    with pytest.raises(ValueError, match="statistics.json: not valid JSON"):
        load_prepared(output)
    with_statistics()
    (output / "data" / "en" / "test_hard-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="test_hard-00000-of-00001.parquet: missing or damaged"):
        load_prepared(output)
    (output / "data" / "en" / "test_hard-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="test_hard-00000-of-00001.parquet: missing or damaged"):
        load_prepared(output)


def test_rows_stream_into_the_file_in_groups(tmp_path):
    files = ReleaseFiles()
    one = files.json[files.train]["dialogue 8"]
    files.json[files.train] = {f"dialogue {i}": one for i in range(5000)}
    prepare(files.write(tmp_path / "release"), tmp_path / "data")
    found = pq.ParquetFile(tmp_path / "data" / "data" / "en" / "train-00000-of-00001.parquet")
    assert found.metadata.num_rows == 5000
    assert found.num_row_groups == 3


def test_a_broken_release_is_a_value_error():
    assert issubclass(ReleaseError, ValueError)


def test_the_real_release_is_reported_exactly(tmp_path, shared_dir):
    done = run(shared_dir / "data" / "moji", "--output", tmp_path / "data")
    assert done.returncode == 0, done.stderr
    for line in (
        "en train: 4605 samples, 4424 with an emotion",
        "en validation: 528 samples, 513 with an emotion; 1 of 129 stickers unseen in train"
        " (1 samples)",
        "en test_hard: 1203 samples, 1159 with an emotion; 75 of 75 stickers unseen in train"
        " (1203 samples)",
        "stickers: 330, 209 with an emotion, 0 with a caption",
        "images that img2id does not list: 1 (not-in-the-dictionary.jpg)",
    ):
        assert line in done.stdout.splitlines()
