# SPDX-License-Identifier: Apache-2.0
"""Indices built from folders and tables by the script, stopped, gone on with, and searched."""

import importlib.util
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_cks
from transformers import pipeline

import modeling_cks  # noqa: F401 (registers the pipeline)
from dataset_mod.prepared import load_prepared, prepare
from dataset_mod.synthetic import write_mini_release
from modeling_cks.build_index import build_index
from modeling_cks.cks_ranker import CKSRanker
from modeling_cks.sticker_index import StickerIndex
from modeling_cks.training import StickerInventory

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("script", SCRIPTS / "build_index.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    made, processor = tiny_cks(folder, use_knowledge=False)
    made.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def select(model):
    return pipeline("sticker-selection", model=str(model))


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path):
    for number, place in enumerate(["cats/a.png", "cats/b.png", "dogs/wet/a.png", "z.png"]):
        path = tmp_path / "stickers" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    (tmp_path / "stickers" / "cats" / "readme.txt").write_text("of the cats")
    (tmp_path / "stickers" / ".hidden").mkdir()
    picture(9).save(tmp_path / "stickers" / ".hidden" / "h.png")
    return tmp_path / "stickers"


NAMES = ["z.png", "cats/a.png", "cats/b.png", "dogs/wet/a.png"]


def test_a_folder_with_packs(script, model, select, folder, tmp_path, capsys):
    captions = tmp_path / "captions.json"
    captions.write_text('{"cats/b.png": "oh no"}')
    output = tmp_path / "index"
    arguments = [str(model), "--stickers", str(folder), "--output", str(output)]
    assert script.main([*arguments, "--captions", str(captions), "--batch-size", "3"]) == 0
    said = capsys.readouterr().out
    assert "4 added, 0 already there" in said and "1 files are no images" in said
    assert "4 stickers in 3 packs" in said
    index = StickerIndex.open(output)
    assert index.names() == NAMES and index.packs == ["", "cats", "dogs/wet"]
    held = index.take(range(4))
    assert held.captions == ["", "", "oh no", ""]
    wanted = select.load_stickers([folder / name for name in NAMES], captions={})
    torch.testing.assert_close(held.embeds, wanted.embeds, atol=1e-5, rtol=0)
    # Ranked from the index as from the folder, and within a pack.
    dialogue = ["i am so happy today !", "oh no"]
    wanted = select(dialogue, held)["stickers"]
    found = select(dialogue, index)["stickers"]
    assert [each["name"] for each in found] == [each["name"] for each in wanted]
    np.testing.assert_allclose(
        [each["score"] for each in found], [each["score"] for each in wanted], atol=1e-5
    )
    assert {each["name"] for each in select(dialogue, index, packs=["cats"])["stickers"]} == {
        "cats/a.png", "cats/b.png",
    }  # fmt: skip
    # Again: nothing is done twice; then more, then less.
    assert script.main(arguments) == 0
    assert "0 added, 4 already there" in capsys.readouterr().out
    picture(50).save(folder / "new.png")
    assert script.main([*arguments, "--pack", "mine", "--remove", "z.png", "cats/a.png"]) == 0
    said = capsys.readouterr().out
    assert "1 added, 4 already there" in said and "2 removed" in said
    index.refresh()
    assert index.names() == ["cats/b.png", "dogs/wet/a.png", "new.png"]
    assert index.names(["mine"]) == ["new.png"]


def test_a_table_and_an_inverted_file(script, model, select, tmp_path):
    table = datasets.Dataset.from_dict(
        {"id": [f"{n:03}" for n in range(40)], "image": [picture(n) for n in range(40)],
         "caption": [None if n % 2 else f"c{n}" for n in range(40)]},
        features=datasets.Features({"id": datasets.Value("string"), "image": datasets.Image(),
                                    "caption": datasets.Value("string")}),
    )  # fmt: skip
    index = StickerIndex.create(tmp_path / "index", 24, select.model, exact_below=20)
    told = []
    built = build_index(select, table, index, batch_size=16, progress=lambda *n: told.append(n))
    assert (built.added, told) == (40, [(16, 40), (32, 40), (40, 40)])
    assert index.needs_optimizing
    assert script.main([str(model), "--output", str(tmp_path / "index"), "--optimize"]) == 0
    index.refresh()
    assert index._state.segments[0].faiss.ntotal == 40
    assert index.take([4]).captions == ["c4"]
    assert len(select(["oh no"], index, candidates=7)["stickers"]) == 7


def test_tuned_with_the_dialogues_of_prepared_data(script, tmp_path, monkeypatch, capsys):
    write_mini_release(tmp_path / "release", dialogues=(4, 3, 2, 2), size=32)
    prepare(tmp_path / "release", tmp_path / "data")
    tables = load_prepared(tmp_path / "data")
    model, processor = tiny_cks(tmp_path, emotions=tables.emotions, use_knowledge=False)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    given = []
    tune = StickerIndex.optimize

    def seen(self, queries=None, progress=None):
        given.append(queries)
        tune(self, queries, progress)

    monkeypatch.setattr(StickerIndex, "optimize", seen)
    arguments = [
        tmp_path / "model",
        "--stickers",
        tmp_path / "data",
        "--output",
        tmp_path / "index",
    ]
    arguments += ["--exact-below", 20, "--dialogues", tmp_path / "data", "--batch-size", 4]
    assert script.main([str(each) for each in arguments]) == 0
    # Each is h~_T of one row of the validation split, alone as in a batch.
    rows = list(tables.splits["validation"])
    processor.ocr_cache_path = str(tmp_path / "data" / "ocr.json")
    ranker = CKSRanker(model, processor, StickerInventory(tables.stickers, processor))
    wanted = torch.cat([ranker.dialogue_embeds([row]) for row in rows])
    torch.testing.assert_close(given[0], wanted, atol=1e-5, rtol=0)
    assert model.training is False
    index = StickerIndex.open(tmp_path / "index")
    assert index._state.manifest["segments"][0]["recall"] >= 0.99

    with pytest.raises(ValueError, match="nowhere: no data"):
        script.main(
            [str(tmp_path / "model"), "--output", "x", "--optimize", "--dialogues", "nowhere"]
        )


def test_stopped_in_the_middle_it_goes_on(select, folder, tmp_path, monkeypatch):
    index = StickerIndex.create(tmp_path / "index", 24, select.model)
    encode, calls = select.load_stickers, []

    def stopped(images, captions=None):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(list(images))
        return encode(images, captions=captions)

    monkeypatch.setattr(select, "load_stickers", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_index(select, folder, index, batch_size=1)
    assert StickerIndex.open(index.folder).names() == NAMES[:2]
    calls.clear()
    built = build_index(select, folder, index, batch_size=1)
    assert (built.added, built.known, calls) == (2, 2, [[NAMES[2]], [NAMES[3]]])
    assert index.names() == NAMES


def test_what_cannot_be_read_is_named_or_counted(script, model, folder, tmp_path, capsys):
    (folder / "cats" / "broken.png").write_bytes(b"no image")
    output = tmp_path / "index"
    arguments = [str(model), "--stickers", str(folder), "--output", str(output)]
    with pytest.raises(ValueError, match="'cats/broken.png'"):
        script.main(arguments)
    assert script.main([*arguments, "--skip-unreadable"]) == 0
    said = capsys.readouterr().out
    assert "1 could not be read and were left out:\n  cats/broken.png: " in said
    assert StickerIndex.open(output).names() == NAMES


def test_bad_arguments(script, model, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for number, (match, arguments) in enumerate(
        [
            ("nothing to do", []),
            ("no folder of stickers", ["--stickers", str(tmp_path / "none")]),
            ("no sticker in", ["--stickers", str(tmp_path / "empty")]),
            ("holds no index", ["--remove", "a"]),
            ("batch-size", ["--stickers", str(folder), "--batch-size", "0"]),
        ]
    ):
        with pytest.raises(ValueError, match=match):
            script.main([str(model), "--output", str(tmp_path / f"index {number}"), *arguments])
    with pytest.raises(ValueError, match="there is no model"):
        script.main(["none", "--output", str(tmp_path / "i"), "--stickers", str(folder)])
