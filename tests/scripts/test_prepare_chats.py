# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
from pathlib import Path

import pytest
from chat_files import turns, write_csv, write_stickers
from tiny_model import EMOTIONS, tiny_cks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def main(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    path = ROOT / "scripts" / "prepare_chats.py"
    spec = importlib.util.spec_from_file_location("prepare_chats_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(each) for each in arguments])


def test_it_says_what_came_of_the_chats_and_what_did_not(tmp_path, main, capsys):
    stickers = write_stickers(tmp_path / "stickers")
    records = turns(8)
    records[0] |= {"speaker": "cem"}
    records[3] |= {"sticker": "gone.png"}
    path = write_csv(tmp_path / "chats.csv", [{**each, "time": "12:00"} for each in records])
    arguments = (path, "--stickers", stickers, "--output", tmp_path / "data")
    with pytest.raises(ValueError, match="line 5, dialogue 'chat 0'.*gone"):
        main(*arguments)
    assert not (tmp_path / "data").exists()
    assert main(*arguments, "--skip-bad") == 0
    told = capsys.readouterr().out
    for line in (
        "train: 10 samples, 10 with an emotion",
        "validation: 2 samples",
        "stickers: 5; emotions: furious, glad, low",
        "candidates: all 5 stickers, fewer than 11",
        "columns left alone: time",
        "broken lines, left out with their dialogues: 1",
    ):
        assert line in told
    skipped = json.loads((tmp_path / "data" / "skipped.json").read_text())
    assert [each["record"] for each in skipped] == ["line 5, dialogue 'chat 0'"]


def test_emotions_can_be_a_checkpoints(tmp_path, main):
    stickers = write_stickers(tmp_path / "stickers")
    model, _ = tiny_cks(tmp_path, use_knowledge=False)
    model.save_pretrained(tmp_path / "model")
    named = [{**each, "emotion": each["emotion"] and "anger"} for each in turns(5)]
    path = write_csv(tmp_path / "chats.csv", named)
    arguments = ("--stickers", stickers, "--output", tmp_path / "data", "--emotions-of")
    main(path, *arguments, tmp_path / "model")
    statistics = json.loads((tmp_path / "data" / "statistics.json").read_text())
    assert statistics["emotions"] == list(EMOTIONS)
    with pytest.raises(ValueError, match="emotion 'glad' is none of joy"):
        main(write_csv(tmp_path / "c.csv", turns(5)), *arguments, tmp_path / "model")
