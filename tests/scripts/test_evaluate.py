# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_cks

from dataset_mod import load_prepared
from dataset_mod.prepared import prepare
from dataset_mod.synthetic import write_mini_release
from modeling_cks.cks_ranker import CKSRanker

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CANDIDATES = 11


@pytest.fixture(scope="module")
def evaluate():
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPTS / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `data` and `model`: MOD-mini of a dozen dialogues, a random CKS."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_mini_release(folder / "release", dialogues=(8, 2, 6, 5), size=32)
    prepare(folder / "release", folder / "data")
    data = load_prepared(folder / "data")
    model, processor = tiny_cks(folder, emotions=data.emotions)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def results(place, evaluate):
    """What a run over both tests wrote: the results and the samples."""
    trained = {"recipe": {"training": {"seed": 7}}, "recipe_file": "mini.yaml", "seed": 7}
    (place / "model" / "training.json").write_text(json.dumps(trained))
    output = place / "both.json"
    code = evaluate.main(
        [str(place / "model"), "--data", str(place / "data"), "--output", str(output)]
        + ["--split", "test_easy,test_hard", "--batch-size", "3"]
    )
    assert code == 0
    return json.loads(output.read_text()), read_samples(output)


def read_samples(output):
    lines = output.with_suffix(".samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_sample_of_every_split_is_written(place, results):
    data = load_prepared(place / "data")
    wanted = [
        (split, row["dialogue_id"], row["turn"], row["sticker_id"], row["emotion"])
        for split in ("test_easy", "test_hard")
        for row in data.splits[split]
    ]
    keys = ("split", "dialogue_id", "turn", "sticker_id", "emotion")
    assert [tuple(one[key] for key in keys) for one in results[1]] == wanted
    assert all(1 <= one["rank"] <= CANDIDATES for one in results[1])


@pytest.mark.parametrize("split", ["test_easy", "test_hard"])
def test_figures_follow_from_the_samples(results, split):
    found, samples = results
    samples = [one for one in samples if one["split"] == split]
    metrics = found["splits"][split]["metrics"]
    ranks = np.array([one["rank"] for one in samples])
    assert len(set(ranks)) > 1
    for k in (1, 3, 5):
        assert metrics[f"R@{k}"] == pytest.approx(100 * np.mean(ranks <= k))
    reciprocal = [1 / rank if rank <= 10 else 0 for rank in ranks]
    assert metrics["MRR"] == pytest.approx(100 * np.mean(reciprocal))
    labelled = [one for one in samples if one["emotion"] != -1]
    right = [one["emotion_given_answer"] == one["emotion"] for one in labelled]
    assert metrics["Acc"] == pytest.approx(100 * np.mean(right))
    assert (metrics["samples"], metrics["emotion_samples"]) == (len(samples), len(labelled))


def test_results_say_what_they_are_of(place, results):
    found = results[0]
    assert found["metrics"] == found["splits"]["test_easy"]["metrics"]
    assert found["split"] == "test_easy"
    assert found["model"] == "model"
    assert found["data"]["fingerprint"] == load_prepared(place / "data").fingerprint
    assert (found["seed"], found["recipe_file"]) == (7, "mini.yaml")
    assert found["knowledge"] is True
    assert found["versions"]["torch"]
    assert found["peak_memory_mib"] > 0
    assert set(found["yardsticks"]) == {"chance", "most frequent sticker"}


def test_chance_is_what_many_random_orders_come_to(evaluate):
    rows = [{"sticker_id": "000", "candidates": ["000"] * n} for n in (3, 11, 40)]
    rows.append({"sticker_id": None, "candidates": ["000"]})
    rng = np.random.default_rng(0)
    ranks = np.concatenate([rng.integers(1, n + 1, 200_000) for n in (3, 11, 40)])
    chance = evaluate.chance(rows)
    for k in (1, 3, 5):
        assert chance[f"R@{k}"] == pytest.approx(100 * np.mean(ranks <= k), abs=0.3)
        assert chance[f"MAP@{k}"] == pytest.approx(
            100 * np.mean(np.where(ranks <= k, 1 / ranks, 0)), abs=0.3
        )
    reciprocal = np.where(ranks <= 10, 1 / ranks, 0)
    assert chance["MRR"] == pytest.approx(100 * reciprocal.mean(), abs=0.3)


def test_chance_among_eleven_is_the_papers(evaluate):
    chance = evaluate.chance([{"sticker_id": "000", "candidates": list(range(11))}])
    shown = [round(chance[key], 2) for key in ("R@1", "R@3", "R@5", "MRR")]
    assert shown == [9.09, 27.27, 45.45, 26.63]


def test_whole_set_ranks_every_sticker(place, evaluate):
    output = place / "whole.json"
    evaluate.main(
        [str(place / "model"), "--data", str(place / "data"), "--output", str(output)]
        + ["--split", "test_easy", "--whole-set", "--batch-size", "2"]
    )
    stickers = len(load_prepared(place / "data").stickers)
    samples = read_samples(output)
    ranks = np.array([one["rank"] for one in samples])
    assert stickers > CANDIDATES
    assert {one["candidates"] for one in samples} == {stickers}
    assert ranks.max() > CANDIDATES
    metrics = json.loads(output.read_text())["metrics"]
    for k in (1, 5, 10, 20, 50):
        assert metrics[f"R@{k}"] == pytest.approx(100 * np.mean(ranks <= k))
    assert "R@3" not in metrics


def test_knowledge_can_be_left_out_and_changes_the_scores(place, evaluate, monkeypatch):
    seen = []
    real = CKSRanker.rank

    def rank(self, rows):
        output = real(self, rows)
        seen.append(np.concatenate(output.scores))
        return output

    monkeypatch.setattr(CKSRanker, "rank", rank)
    for more in ([], ["--no-knowledge"]):
        output = place / "knowledge.json"
        evaluate.main(
            [str(place / "model"), "--data", str(place / "data"), "--output", str(output)]
            + ["--split", "test_easy", "--batch-size", "64", *more]
        )
        assert json.loads(output.read_text())["knowledge"] is (not more)
    assert not np.allclose(seen[0], seen[1])


def test_groups_are_figures_of_their_samples(place, evaluate, results, tmp_path, capsys):
    found, samples = results
    # Of a dozen dialogues no word is found, so that words are given; likewise styles.
    (tmp_path / "words.tsv").write_text("word\temotion\nsad\tsadness\nhappy\tjoy\nplain\tneutral\n")
    data = load_prepared(place / "data")
    styles = {sticker: ("odd", "even")[int(sticker) % 2] for sticker in data.stickers["id"]}
    (tmp_path / "styles.json").write_text(json.dumps(styles))
    output = tmp_path / "r.json"
    assert found["groups"] == found["splits"]["test_easy"]["groups"]
    assert set(found["groups"]) == {"bias", "sticker"}
    assert found["grouped_by"]["styles"] is None
    evaluate.main(
        [str(place / "model"), "--data", str(place / "data"), "--output", str(output)]
        + ["--split", "test_easy,test_hard", "--lexicon", str(tmp_path / "words.tsv")]
        + ["--styles", str(tmp_path / "styles.json")]
    )
    again = json.loads(output.read_text())
    assert again["grouped_by"] == {
        "words": 3, "words_from": "words.tsv", "styles": 2, "least": 20
    }  # fmt: skip
    seen = {row["sticker_id"] for row in data.splits["train"]}
    seen |= {turn["sticker_id"] for row in data.splits["train"] for turn in row["utterances"]}
    for split, of in again["splits"].items():
        of_split = [one for one in samples if one["split"] == split]
        groups = of["groups"]["sticker"]["groups"]
        assert sum(group["samples"] for group in groups.values()) == len(of_split)
        for name, group in groups.items():
            ranks = [s["rank"] for s in of_split if (s["sticker_id"] in seen) is (name == "seen")]
            assert group["R@1"]["mean"] == pytest.approx(100 * np.mean(np.array(ranks) == 1))
            assert group["samples"] == len(ranks)
        assert set(of["groups"]["style"]["groups"]) == {"seen"}
        assert set(of["yardstick_groups"]["most frequent sticker"]) == set(of["groups"])
        rows = {(row["dialogue_id"], row["turn"]): row for row in data.splits[split]}
        neutral = [s for s in of_split if s["emotion"] != -1 and not any(
            word in turn["text"].lower() for word in ("sad", "happy", "plain")
            for turn in rows[s["dialogue_id"], s["turn"]]["utterances"])]  # fmt: skip
        assert of["groups"]["bias"]["groups"]["neutral"]["samples"] >= len(neutral) > 0
    shown = capsys.readouterr().out
    assert "words from: words.tsv" in shown and "test_hard   sticker unseen" in shown


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not valid JSON"), ('["flat"]', "no JSON object"), ('{"999": "a"}', "no sticker '999'"),
     ('{"000": 3}', "sticker '000': 3 is not the name of a style")],
)  # fmt: skip
def test_styles_that_do_not_fit_are_named(place, evaluate, tmp_path, content, said):
    (tmp_path / "s.json").write_text(content)
    arguments = [str(place / "model"), "--data", str(place / "data"), "--styles"]
    with pytest.raises(ValueError, match=said):
        evaluate.main([*arguments, str(tmp_path / "s.json"), "--output", str(tmp_path / "r.json")])
    with pytest.raises(ValueError, match="gone.json: no such file"):
        evaluate.main([*arguments, "gone.json", "--output", str(tmp_path / "r.json")])


def test_bad_input_is_one_line_and_code_2(place, tmp_path):
    """Through the shell once; the other cases below call `main` itself."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "evaluate.py", tmp_path / "nowhere", "--data", place / "data"]
        + ["--output", tmp_path / "r.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / 'nowhere'}: no such folder" in done.stderr


@pytest.mark.parametrize(
    ("split", "said"),
    [("test_medium", "no split 'test_medium'"), ("train", "no split 'train' to rank")],
)
def test_a_split_that_cannot_be_ranked_is_named(place, evaluate, tmp_path, split, said):
    arguments = [str(place / "model"), "--data", str(place / "data"), "--split", split]
    with pytest.raises(ValueError, match=said):
        evaluate.main([*arguments, "--output", str(tmp_path / "r.json")])


def test_folders_that_are_no_model_or_no_data_are_named(place, evaluate, tmp_path):
    output = ["--output", str(tmp_path / "r.json")]
    with pytest.raises(ValueError, match="not a model's folder"):
        evaluate.main([str(place / "data"), "--data", str(place / "data"), *output])
    with pytest.raises(ValueError, match="not a prepared folder"):
        evaluate.main([str(place / "model"), "--data", str(place / "model"), *output])
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a bert model"):
        evaluate.main([str(other), "--data", str(place / "data"), *output])


def test_other_emotions_are_refused_by_name(place, evaluate, tmp_path):
    shutil.copytree(place / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    names = config["id2label"]
    names["1"], names["2"] = names["2"], names["1"]
    config["label2id"] = {name: int(number) for number, name in names.items()}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    arguments = [str(tmp_path / "model"), "--data", str(place / "data")]
    with pytest.raises(ValueError, match=f"number 1 is {names['1']} there and {names['2']} here"):
        evaluate.main([*arguments, "--output", str(tmp_path / "r.json")])
    assert not (tmp_path / "r.json").exists()
