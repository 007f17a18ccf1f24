# SPDX-License-Identifier: Apache-2.0
import re
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml

from modeling_cks.evaluation.metrics import ranking_metrics, ranks

FOLDER = Path(__file__).resolve().parents[2] / "hub_cards" / "sticker_ranking"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` that leaves nothing outside the test's own folder."""
    cache = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", cache / "modules")
        patch.setattr(sys, "path", list(sys.path))
        real = evaluate.load
        yield lambda path: real(str(path), cache_dir=str(cache / "data"))


@pytest.fixture(scope="module")
def metric(load):
    return load(FOLDER)


def slow_metrics(predictions, references, at):
    places = []
    for scores, right in zip(predictions, references, strict=True):
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        places.append(order.index(right) + 1)
    count = len(places)
    figures = {f"R@{k}": 100 * sum(place <= k for place in places) / count for k in at}
    figures["MRR"] = 100 * sum(1 / place for place in places if place <= 10) / count
    for k in at:
        figures[f"MAP@{k}"] = 100 * sum(1 / place for place in places if place <= k) / count
    return figures


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_it_gives_what_the_package_and_a_plain_sort_give(metric, levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (60, 13)) / levels
    right = rng.integers(0, 13, 60)
    found = metric.compute(predictions=scores, references=right)
    assert 0 < found["R@1"] < found["R@5"] < 100
    assert found == pytest.approx(ranking_metrics(ranks(scores, right)), abs=1e-9)
    assert found == pytest.approx(slow_metrics(scores.tolist(), right, (1, 3, 5)), abs=1e-9)


def test_lists_of_different_lengths_and_other_cuts(metric):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, 50)
    scores = [rng.integers(0, 4, size).astype(float).tolist() for size in sizes]
    right = [int(rng.integers(size)) for size in sizes]
    found = metric.compute(predictions=scores, references=right, at=[1, 10, 20])
    assert list(found) == ["R@1", "R@10", "R@20", "MRR", "MAP@1", "MAP@10", "MAP@20"]
    assert found == pytest.approx(slow_metrics(scores, right, (1, 10, 20)))
    mask = np.arange(30) < sizes[:, None]
    padded = np.full(mask.shape, np.inf)
    padded[mask] = np.concatenate(scores)
    assert found == pytest.approx(ranking_metrics(ranks(padded, right, mask), (1, 10, 20)))


def test_of_equals_the_lower_position_wins_and_infinities_are_scores(metric):
    def rank(scores, right):
        return 100 / metric.compute(predictions=[scores], references=[right])["MRR"]

    assert [rank([0.5, 0.5, 0.5], place) for place in range(3)] == pytest.approx([1, 2, 3])
    assert rank([-np.inf, -np.inf, np.inf], 1) == pytest.approx(3)
    # The cut: the tenth counts, the eleventh no more.
    assert rank([1.0] * 11, 9) == pytest.approx(10)
    assert metric.compute(predictions=[[1.0] * 11], references=[10])["MRR"] == 0.0


def test_samples_may_come_one_by_one_and_in_batches(metric):
    rng = np.random.default_rng(1)
    scores, right = rng.random((9, 5)), rng.integers(0, 5, 9)
    metric.add(prediction=scores[0], reference=right[0])
    metric.add_batch(predictions=scores[1:4], references=right[1:4])
    metric.add_batch(predictions=scores[4:], references=right[4:])
    assert metric.compute() == metric.compute(predictions=scores, references=right)


@pytest.mark.parametrize(
    ("predictions", "references", "says"),
    [
        ([[0.1, float("nan")]], [0], "sample 0: a score is missing or NaN"),
        ([[0.1], [0.1, None]], [0, 0], "sample 1: a score is missing or NaN"),
        ([None], [0], "sample 0: the scores of a sample are a list"),
        ([[0.1, 0.2], [0.1, 0.2]], [0, 2], "sample 1: the reference 2 is none of 2"),
        ([[0.1, 0.2]], [-1], "the reference -1 is none of 2"),
        ([[]], [0], "is none of 0"),
        ([[0.1, 0.2]], [0.5], "sample 0: the reference 0.5 is not a whole number"),
        ([[0.1, 0.2]], [True], "not a whole number"),
        ([[0.1, 0.2]], [None], "not a whole number"),
        ([[0.1, 0.2]], [0, 1], "1 predictions for 2 references"),
        ([], [], "no sample"),
        ([[0.1]], None, "give both"),
        ([0.1, 0.2], [0, 1], "sample 0: the scores of a sample are a list"),
        ([[0.1], ["a"]], [0, 0], "sample 1: could not convert"),
    ],
)
def test_bad_input_is_named_and_spoils_no_later_figure(metric, predictions, references, says):
    with pytest.raises(ValueError, match=says):
        metric.compute(predictions=predictions, references=references)
    assert metric.compute(predictions=[[0.3, 0.1]], references=[0])["R@1"] == 100.0


def test_one_bad_sample_or_cut_is_named_too(metric):
    with pytest.raises(ValueError, match="not a whole number"):
        metric.add(prediction=[0.1, 0.2], reference=0.5)
    for at in ([0], [1.5], "13"):
        with pytest.raises(ValueError, match="whole numbers from 1 up"):
            metric.compute(predictions=[[0.1]], references=[0], at=at)


def test_the_module_stands_alone(load, tmp_path):
    """Copied somewhere else it works, and knows nothing of the packages around it."""
    alone = tmp_path / "sticker_ranking"
    alone.mkdir()
    source = (FOLDER / "sticker_ranking.py").read_text(encoding="utf-8")
    (alone / "sticker_ranking.py").write_text(source, encoding="utf-8")
    assert load(alone).compute(predictions=[[0.1, 0.2]], references=[0])["R@1"] == 0.0
    imports = set(re.findall(r"^(?:import|from)\s+(\w+)", source, re.M))
    wanted = (FOLDER / "requirements.txt").read_text().splitlines()
    assert imports == {re.match(r"\w+", line).group() for line in wanted}


def test_the_page_of_the_space_and_its_readme(load, monkeypatch):
    pytest.importorskip("gradio")
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    front, body = text.split("---", 2)[1:]
    front = yaml.safe_load(front)
    assert front["title"] == FOLDER.name and {"evaluate", "metric"} <= set(front["tags"])
    monkeypatch.setattr(evaluate, "load", load)
    page = {"__file__": str(FOLDER / front["app_file"]), "__name__": "app"}
    exec((FOLDER / front["app_file"]).read_text(encoding="utf-8"), page)
    assert page["compute"]("[[0.9, 0.1]]", "[0]")["R@1"] == 100.0
    for predictions in ("[[0.9, 0.1]", "[[0.9, 0.1]]", "3"):
        with pytest.raises(page["gr"].Error):
            page["compute"](predictions, "[5]")
    (code,) = re.findall(r"```python\n(.*?)```", body, re.S)
    names = {}
    exec(code.replace('"org/sticker_ranking"', repr(str(FOLDER))), names)
    assert names["metric"].compute(predictions=names["scores"], references=names["right"])
