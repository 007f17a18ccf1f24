# SPDX-License-Identifier: Apache-2.0
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset, packaged_modules
from datasets.exceptions import DatasetGenerationError
from PIL import Image
from release_files import ReleaseFiles, picture, turn

import dataset_mod
from dataset_mod.release import Release, ReleaseError
from dataset_mod.schema import SPLITS, sample_features, sticker_features

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", path)
    return path


def rows_of(release, split):
    return [row for table in release.tables(split) for row in table.to_pylist()]


def many(count):
    return {
        f"dialogue {n}": [turn(0, f"a long story {n} " * 20), turn(1, "well", n % 14, n % 3)]
        for n in range(count)
    }


def test_the_place_where_builders_are_registered_still_exists():
    """A canary: the table is private to `datasets`, and a newer version may move it."""
    name, digest = packaged_modules._PACKAGED_DATASETS_MODULES["mod"]
    assert name == "dataset_mod.mod"
    assert len(digest) == 64
    assert packaged_modules._PACKAGED_DATASETS_MODULES["csv"][0].startswith("datasets.")


def test_public_names_all_exist():
    for name in dataset_mod.__all__:
        module = dataset_mod._NAMES[name]
        assert getattr(dataset_mod, name) is getattr(
            importlib.import_module(f"dataset_mod.{module}"), name
        )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dataset_mod.nothing  # noqa: B018


@pytest.mark.parametrize("language", ["en", "zh"])
def test_rows_and_features_are_the_release_s(tmp_path, language):
    root = ReleaseFiles(language).write(tmp_path / "release")
    release = Release(root, language)
    loaded = load_dataset("mod", language, data_dir=str(root))
    assert tuple(loaded) == SPLITS
    for split in SPLITS:
        assert loaded[split].features == sample_features(["calm", "glad", "sad"])
        assert loaded[split].to_list() == rows_of(release, split)


def test_streaming_gives_the_same_rows(tmp_path):
    files = ReleaseFiles()
    files.json[files.train] = many(3000)
    root = files.write(tmp_path / "release")
    loaded = load_dataset("mod", "en", data_dir=str(root))
    streamed = load_dataset("mod", "en", data_dir=str(root), streaming=True)
    assert streamed["train"].num_shards > 2
    for split in SPLITS:
        assert list(streamed[split]) == loaded[split].to_list()
    stickers = load_dataset("mod", "stickers", data_dir=str(root), streaming=True)["train"]
    assert [row["image"].getpixel((0, 0))[0] for row in stickers] == list(range(14))


def test_several_processes_give_the_same_rows(tmp_path):
    files = ReleaseFiles()
    files.json[files.train] = many(3000)
    root = files.write(tmp_path / "release")
    expected = load_dataset("mod", "en", data_dir=str(root))
    found = load_dataset("mod", "en", data_dir=str(root), num_proc=2, cache_dir=tmp_path / "two")
    assert found["train"].cache_files[0] != expected["train"].cache_files[0]
    for split in SPLITS:
        assert found[split].to_list() == expected[split].to_list()


def test_stickers_come_with_image_name_and_majority_emotion(tmp_path):
    files = ReleaseFiles()
    # Sticker 1: 2 twice, 0 once. Sticker 2: 1 and 2 once each, so the lower. Sticker 3: none.
    labels = [("001", 2), ("001", 0), ("001", 2), ("002", 2), ("002", 1), ("003", None)]
    files.json[files.train] = {
        f"dialogue {i}": [turn(0, "a", "004", 1), turn(1, "b", sticker, label)]
        for i, (sticker, label) in enumerate(labels)
    }
    root = files.write(tmp_path / "release")
    table = load_dataset("mod", "stickers", data_dir=str(root), split="train")
    assert table.features == sticker_features(["calm", "glad", "sad"])
    assert table["id"] == [f"{i:03d}" for i in range(14)]
    assert table["name"][3] == "s003.png"
    # A sticker on a first turn (004) gives no sample, and so no label.
    assert table["emotion"][:5] == [-1, 2, 1, -1, -1]
    assert set(table["caption"]) == {None}
    image = table[9]["image"]
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (6, 4))
    assert image.getpixel((0, 0)) == (9, 0, 0)


def test_the_cache_sees_changed_files_of_the_same_size_and_date(tmp_path):
    files = ReleaseFiles()
    files.images["s000.png"] = picture((0, 0, 0), compress_level=0)
    root = files.write(tmp_path / "release")
    meme = root / "supplementary" / "meme_set" / "s000.png"
    train = root / files.train
    dates = {path: os.stat(path) for path in (meme, train)}

    def load(name):
        return load_dataset("mod", name, data_dir=str(root), split="train")

    before = load("stickers")[0]["image"].getpixel((0, 0)), load("en")[0]["emotion"]
    assert before == ((0, 0, 0), 1)
    assert load("en").cache_files == load("en").cache_files
    meme.write_bytes(picture((7, 0, 0), compress_level=0))
    train.write_text(train.read_text().replace('"emotion_id": 1', '"emotion_id": 2'))
    for path, date in dates.items():
        assert path.stat().st_size == date.st_size
        os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
    after = load("stickers")[0]["image"].getpixel((0, 0)), load("en")[0]["emotion"]
    assert after == ((7, 0, 0), 2)


def test_without_a_folder_or_with_a_wrong_one_it_raises(tmp_path, monkeypatch):
    root = ReleaseFiles("en").write(tmp_path / "release")
    # Without data_dir datasets looks through the working directory first, however large it is.
    monkeypatch.chdir(root)
    with pytest.raises(ValueError, match="needs data_dir, the folder of the release"):
        load_dataset("mod", "en")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_dataset("mod", "en", data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(ReleaseError, match="no MOD release in language 'zh'"):
        load_dataset("mod", "zh", data_dir=str(root))
    with pytest.raises(ReleaseError, match="no language 'default': choose from en, zh"):
        load_dataset("mod", data_dir=str(root))


def test_a_broken_record_stops_it_or_is_left_out(tmp_path):
    files = ReleaseFiles()
    files.json[files.train]["dialogue 8"][1]["img_id"] = "999"
    root = files.write(tmp_path / "release")
    with pytest.raises(DatasetGenerationError) as caught:
        load_dataset("mod", "en", data_dir=str(root))
    assert "e_train.json, dialogue 8, turn 1: sticker '999'" in str(caught.value.__cause__)
    rows = load_dataset("mod", "en", data_dir=str(root), skip_bad=True, split="train")
    assert "dialogue 8" not in rows["dialogue_id"]
    assert len(rows) == 3


def test_importing_the_package_is_enough_and_brings_no_model(tmp_path):
    root = ReleaseFiles().write(tmp_path / "release")
    code = (
        "import sys, dataset_mod, datasets; "
        f"d = datasets.load_dataset('mod', 'en', data_dir={str(root)!r}, split='train'); "
        "assert len(d) == 4; "
        "from dataset_mod import load_prepared, load_sticker_image; "
        "assert not [m for m in sys.modules if m.startswith(('modeling_cks', 'transformers'))]"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_real_stickers(shared_dir):
    root = shared_dir / "data" / "moji"
    table = load_dataset("mod", "stickers", data_dir=str(root), split="train")
    assert len(table) == 330
    assert {image.mode for image in table["image"]} == {"RGB"}
    assert all(Image.open(io.BytesIO(png_of(table, i))).format == "PNG" for i in (0, 329))


def png_of(table, i):
    return table.with_format("arrow")[i]["image"][0].as_py()["bytes"]
