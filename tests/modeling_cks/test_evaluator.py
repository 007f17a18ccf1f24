# SPDX-License-Identifier: Apache-2.0
import gzip
import json
import logging

import numpy as np
import pytest

from modeling_cks.evaluation import (
    ChanceRanker,
    MostFrequentRanker,
    RankerOutput,
    evaluate_ranker,
    ranking_metrics,
    write_samples,
)


def row(i, answer, candidates, emotion=-1):
    return {
        "dialogue_id": f"dialogue {i}",
        "turn": 3,
        "utterances": [],
        "sticker_id": answer,
        "emotion": emotion,
        "candidates": candidates,
    }


class ByTable:
    """Scores stickers by a table; its emotions are the answer's and the top's by another table."""

    name = "table"

    def __init__(self, scores, emotions=None):
        self.scores, self.emotions, self.sizes = scores, emotions, []

    def rank(self, rows):
        self.sizes.append(len(rows))
        scores = [np.array([self.scores[c] for c in r["candidates"]]) for r in rows]
        if self.emotions is None:
            return RankerOutput(scores)
        tops = [r["candidates"][s.argmax()] for r, s in zip(rows, scores, strict=True)]
        one_hot = np.eye(4)
        return RankerOutput(
            scores,
            one_hot[[self.emotions[r["sticker_id"]] for r in rows]],
            one_hot[[self.emotions[top] for top in tops]],
        )


TABLE = {"000": 0.9, "001": 0.5, "002": 0.5, "003": 0.1}
EMOTIONS = {"000": 0, "001": 1, "002": 2, "003": 3}
ROWS = [
    row(0, "000", ["000", "001", "002"], emotion=0),
    row(1, "002", ["000", "001", "002"], emotion=2),
    row(2, None, ["000", "001", "002"], emotion=-1),
    row(3, "001", ["001", "002", "003"], emotion=0),
    row(4, "003", ["000", "003"], emotion=-1),
]


def test_figures_and_records_by_hand(caplog):
    ranker = ByTable(TABLE, EMOTIONS)
    with caplog.at_level(logging.WARNING):
        result = evaluate_ranker(ranker, ROWS, batch_size=2, progress=False)
    assert [s["rank"] for s in result.samples] == [1, 3, None, 1, 2]
    tops = [s["predicted_sticker_id"] for s in result.samples]
    assert tops == ["000", "000", None, "001", "000"]
    assert [s["emotion_given_answer"] for s in result.samples] == [0, 2, None, 1, 3]
    assert [s["emotion_given_top"] for s in result.samples] == [0, 0, None, 1, 0]
    expected = ranking_metrics([1, 3, 1, 2])
    expected |= {"Acc": 200 / 3, "Acc_top": 100 / 3}
    expected |= {"samples": 4, "emotion_samples": 3, "blank_samples": 1}
    assert result.metrics == pytest.approx(expected)
    assert "1 of 5 rows have no answer" in caplog.text
    assert result.samples[0] == {
        "dialogue_id": "dialogue 0",
        "turn": 3,
        "sticker_id": "000",
        "emotion": 0,
        "candidates": 3,
        "rank": 1,
        "predicted_sticker_id": "000",
        "emotion_given_answer": 0,
        "emotion_given_top": 0,
    }


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batching_changes_nothing(batch_size):
    ranker = ByTable(TABLE, EMOTIONS)
    result = evaluate_ranker(ranker, ROWS, batch_size=batch_size, progress=False)
    assert result == evaluate_ranker(ByTable(TABLE, EMOTIONS), ROWS, progress=False)
    assert sum(ranker.sizes) == 4 and max(ranker.sizes) <= batch_size


def test_a_ranker_without_emotions_has_no_accuracy():
    metrics = evaluate_ranker(ByTable(TABLE), ROWS, progress=False).metrics
    assert "Acc" not in metrics and "Acc_top" not in metrics
    unlabelled = [{**r, "emotion": -1} for r in ROWS]
    metrics = evaluate_ranker(ByTable(TABLE, EMOTIONS), unlabelled, progress=False).metrics
    assert "Acc" not in metrics and metrics["emotion_samples"] == 0


def test_reads_a_dataset_too():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    expected = evaluate_ranker(ByTable(TABLE, EMOTIONS), ROWS, progress=False)
    assert evaluate_ranker(ByTable(TABLE, EMOTIONS), table, progress=False) == expected


class Broken:
    name = "broken"

    def __init__(self, output):
        self.output = output

    def rank(self, rows):
        return self.output


GOOD = np.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (RankerOutput([]), "broken scored 0 rows of 1"),
        (RankerOutput([np.ones(3)]), "dialogue 0, turn 3: broken gave scores of shape"),
        (RankerOutput([np.array([1.0, np.nan])]), "dialogue 0, turn 3: .* NaN"),
        (RankerOutput([GOOD], np.ones(4)), "emotion_given_answer of shape"),
        (RankerOutput([GOOD], None, np.ones((2, 4))), "emotion_given_top of shape"),
        (RankerOutput([GOOD], np.full((1, 4), np.nan)), "emotion_given_answer with NaN"),
    ],
)
def test_a_broken_ranker_is_named(output, says):
    with pytest.raises(ValueError, match=says):
        evaluate_ranker(Broken(output), [row(0, "001", ["000", "001"])], progress=False)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(7, "009", ["000", "001"])], "dialogue 7, turn 3: the right sticker 009 .* 0 times"),
        ([row(7, "000", ["000", "000"])], "2 times"),
        ([row(7, "000", [])], "dialogue 7, turn 3: the row has no candidates"),
        ([row(7, None, ["000"]), row(8, "", ["000"])], "2 rows, none with an answer"),
        ([], "0 rows, none with an answer"),
    ],
)
def test_bad_rows(rows, says):
    with pytest.raises(ValueError, match=says):
        evaluate_ranker(ByTable(TABLE), rows, progress=False)


def test_write_samples(tmp_path):
    samples = evaluate_ranker(ByTable(TABLE, EMOTIONS), ROWS, progress=False).samples
    path = tmp_path / "new" / "samples.jsonl"
    write_samples(path, samples)
    assert [json.loads(line) for line in path.read_text().splitlines()] == samples
    # What cannot be written leaves the old file whole and nothing beside it.
    with pytest.raises(TypeError):
        write_samples(path, [{"dialogue_id": "x"}, {"bad": object()}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == samples
    assert [p.name for p in path.parent.iterdir()] == ["samples.jsonl"]


def test_written_samples_are_compressed_to_the_same_bytes_each_time(tmp_path, monkeypatch):
    samples = evaluate_ranker(ByTable(TABLE, EMOTIONS), ROWS, progress=False).samples
    written = []
    for second in (1e9, 2e9):
        monkeypatch.setattr("time.time", lambda second=second: second)
        write_samples(tmp_path / "samples.jsonl.gz", samples)
        written.append((tmp_path / "samples.jsonl.gz").read_bytes())
    assert written[0] == written[1]
    lines = gzip.decompress(written[0]).decode().splitlines()
    assert [json.loads(line) for line in lines] == samples


def many_rows(count=4000):
    rng = np.random.default_rng(0)
    stickers = [f"{i:03d}" for i in range(330)]
    rows = []
    for i in range(count):
        candidates = sorted(rng.choice(stickers, 11, replace=False).tolist())
        rows.append(row(i, candidates[rng.integers(11)], candidates))
    return rows


def test_chance_is_chance_and_repeats():
    rows = many_rows()
    metrics = evaluate_ranker(ChanceRanker(seed=1), rows, progress=False).metrics
    for key, expected in {"R@1": 9.09, "R@3": 27.27, "R@5": 45.45, "MRR": 26.63}.items():
        # Four standard errors of a proportion over 4,000 samples.
        assert metrics[key] == pytest.approx(expected, abs=4 * 50 / 4000**0.5)
    again = evaluate_ranker(ChanceRanker(seed=1), rows, batch_size=7, progress=False)
    assert again.metrics == metrics
    other = evaluate_ranker(ChanceRanker(seed=2), rows, progress=False)
    assert other.metrics != metrics


def test_most_frequent_by_hand():
    train = ["000", "000", "002", None, "001", "002", "000"]
    ranker = MostFrequentRanker(train, [1, 3, 3, -1, 1, -1, None])
    output = ranker.rank([row(0, "001", ["000", "001", "002", "009"])])
    assert output.scores[0].tolist() == [3, 1, 2, 0]
    # Emotions 1 and 3 are equally frequent: the lower one is named.
    assert output.emotion_given_answer.argmax(1).tolist() == [1]
    assert output.emotion_given_top.argmax(1).tolist() == [1]
    result = evaluate_ranker(ranker, [row(0, "002", ["000", "002"], 1)], progress=False)
    assert result.metrics["R@1"] == 0 and result.metrics["Acc"] == 100


def test_most_frequent_without_labels_names_no_emotion():
    output = MostFrequentRanker(["000"], [-1]).rank([row(0, "000", ["000"])])
    assert output.emotion_given_answer is None and output.emotion_given_top is None
