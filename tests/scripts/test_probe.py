# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_baselines import tiny_baseline
from tiny_model import tiny_cks

from dataset_mod import load_prepared
from dataset_mod.prepared import prepare
from dataset_mod.synthetic import write_mini_release
from modeling_cks.evaluation.probes import REPAINTS, ask, exchange, restyle

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TEXT = {"reword", "swap word", "delete word", "swap utterance"}
IMAGES = {*(f"repaint, {name}" for name in REPAINTS), "exchange"}


@pytest.fixture(scope="module")
def probe():
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("probe_script", SCRIPTS / "probe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `release`, `data` and `model`: MOD-mini of a dozen dialogues, a random CKS."""
    folder = tmp_path_factory.mktemp("probe")
    write_mini_release(folder / "release", dialogues=(8, 2, 6, 5), size=32)
    prepare(folder / "release", folder / "data")
    data = load_prepared(folder / "data")
    model, processor = tiny_cks(folder, emotions=data.emotions)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder


def run(probe, place, output, *more, model="model"):
    arguments = [str(place / model), "--data", str(place / "data"), "--output", str(output)]
    lexicon = ["--lexicon", str(place / "release" / "lexicon.tsv")]
    assert probe.main([*arguments, *lexicon, *more]) == 0
    lines = output.with_suffix(".samples.jsonl").read_text().splitlines()
    return json.loads(output.read_text()), [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def found(probe, place):
    truth = ["--truth", str(place / "release" / "truth.json"), "--split", "test_easy"]
    return run(probe, place, place / "probe.json", *truth)


def test_every_probe_is_of_every_sample_and_averaged(place, found):
    results, samples = found
    assert set(results["probes"]) == TEXT | IMAGES | {"swap event", "redraw"}
    rows = load_prepared(place / "data").splits["test_easy"]
    for name, of in results["probes"].items():
        records = [one for one in samples if one["probe"] == name]
        assert of["samples"] == len(records) and of["samples"] + of["left_out"] == len(rows)
        assert of["distance"]["mean"] == pytest.approx(np.mean([r["distance"] for r in records]))
        assert of["distance"]["mean"] > 0
    labelled = sum(row["emotion"] >= 0 for row in rows)
    assert results["probes"]["swap utterance"]["samples"] == labelled < len(rows)
    assert results["probes"]["swap word"]["left_out"] == 0
    should = {name for name, of in results["probes"].items() if of["should_move"]}
    assert should == {"swap utterance", "swap event", "exchange"}
    assert results["words"] == 35 and results["words_from"] == "lexicon.tsv"


def test_ratios_hold_leaks_against_what_should_move(found):
    results, _ = found
    far = {name: of["distance"]["mean"] for name, of in results["probes"].items()}
    text = {"reword", "swap word", "delete word"}
    assert set(results["ratios"]) == text | IMAGES - {"exchange"} | {"redraw"}
    for name, of in results["ratios"].items():
        against = far["swap event" if name in text else "exchange"]
        assert of == pytest.approx(against / far[name])


def test_data_without_a_truth_is_probed_as_far_as_it_can_be(probe, place, tmp_path, capsys):
    results, samples = run(probe, place, tmp_path / "p.json", "--samples", "4")
    assert set(results["probes"]) == TEXT | IMAGES
    assert results["samples"] == 4 and results["split"] == "test_hard"
    assert len({(one["dialogue_id"], one["turn"]) for one in samples}) == 4
    far = {name: of["distance"]["mean"] for name, of in results["probes"].items()}
    assert results["ratios"]["swap word"] == pytest.approx(far["swap utterance"] / far["swap word"])
    shown = capsys.readouterr().out
    assert "CKS on test_hard" in shown and "repaint, sketch     stay        4" in shown
    again, _ = run(probe, place, tmp_path / "q.json", "--samples", "4")
    assert again["probes"] == results["probes"]


def test_exchanged_stickers_are_scored_as_the_ones_that_they_look_like(probe, place):
    from _rankers import load_ranker, with_stickers

    data = load_prepared(place / "data")
    ranker, inventory, _ = load_ranker(place / "model", data, place / "data")
    ids = list(data.stickers["id"])
    rows = []
    for row in list(data.splits["test_easy"])[:4]:
        turns = [{**turn, "sticker_id": None} for turn in row["utterances"]]
        rows.append({**row, "utterances": turns, "candidates": ids})
    before = ask(ranker, rows).scores
    table = exchange(data.stickers, inventory.captions)
    after = ask(with_stickers(ranker, table), rows).scores
    images = [np.asarray(image).tobytes() for image in data.stickers["image"]]
    came = [images.index(np.asarray(image).tobytes()) for image in table["image"]]
    for old, new in zip(before, after, strict=True):
        assert np.ptp(old) > 1e-3
        np.testing.assert_allclose(new, old[came], rtol=1e-4, atol=1e-5)
    same = restyle(data.stickers, lambda _, image: image, inventory.captions)
    for old, new in zip(before, ask(with_stickers(ranker, same), rows).scores, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)


def test_a_baseline_is_probed_too(probe, place):
    data = load_prepared(place / "data")
    baseline = tiny_baseline("mmbert", place)
    baseline.emotions = list(data.emotions)
    baseline.emotion = type(baseline.emotion)(baseline.emotion.in_features, len(data.emotions))
    baseline.save_pretrained(place / "mmbert")
    results, _ = run(probe, place, place / "mmbert.json", "--samples", "6", model="mmbert")
    assert set(results["probes"]) == TEXT | IMAGES
    assert min(of["distance"]["mean"] for of in results["probes"].values()) > 0
    assert "label" in results["probes"]["swap word"]


def test_bad_input_is_one_line_and_code_2(place, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPTS / "probe.py", place / "model", "--data", place / "data"]
        + ["--output", tmp_path / "r.json", "--truth", place / "model" / "config.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "config.json: not the truth of a MOD-mini" in done.stderr
    assert not (tmp_path / "r.json").exists()


def test_a_split_that_cannot_be_ranked_is_named(probe, place, tmp_path):
    with pytest.raises(ValueError, match="no split 'train' to rank"):
        run(probe, place, tmp_path / "r.json", "--split", "train")
