# SPDX-License-Identifier: Apache-2.0
import argparse
import base64
import importlib.util
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image
from tiny_baselines import tiny_baseline
from tiny_model import tiny_cks

from dataset_mod import load_prepared
from dataset_mod.prepared import prepare
from dataset_mod.synthetic import write_mini_release
from modeling_cks.evaluation import RankerOutput

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("case_study_script", SCRIPTS / "case_study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `data` and three models that were not trained: a CKS, a CLIP, a FROMAGe."""
    folder = tmp_path_factory.mktemp("case_study")
    write_mini_release(folder / "release", dialogues=(8, 3, 12, 4), size=32)
    prepare(folder / "release", folder / "data")
    emotions = load_prepared(folder / "data").emotions
    model, processor = tiny_cks(folder, emotions=emotions, use_knowledge=False)
    model.save_pretrained(folder / "cks")
    processor.save_pretrained(folder / "cks")
    for kind in ("clip", "fromage"):
        baseline = tiny_baseline(kind, folder)
        baseline.emotions = emotions
        baseline.save_pretrained(folder / kind)
    return folder


def run(study, place, *more, models=("cks", "clip"), split="test_easy"):
    output = place / "page.html"
    output.unlink(missing_ok=True)
    argv = [*(place / model for model in models), "--data", place / "data", "--split", split,
            "--output", output, *more]  # fmt: skip
    assert study.main([str(each) for each in argv]) == 0
    return output.read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a reader sees: text, and stickers by what they are called."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.stickers, self.classes = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if given.get("role") == "img":
            self.stickers.append((given["class"].split()[0], given["aria-label"]))
        self.classes.append((tag, given.get("class", "")))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def rules(html):
    """Return the picture of each class."""
    found = dict(re.findall(r"\.(s\d+) \{ background-image: url\(([^)]*)\)", html))
    assert all(uri.startswith("data:image/png;base64,") for uri in found.values())
    return {
        name: Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        for name, uri in found.items()
    }


def test_a_page_shows_what_the_models_put_first(study, place):
    data = load_prepared(place / "data")
    row = next(row for row in data.splits["test_easy"] if len(row["utterances"]) > 2)
    sample = f"{row['dialogue_id']}:{row['turn']}"
    html = run(study, place, "--samples", sample, "--top", "4")
    page = Page(html)
    # The models' own words, asked directly.
    picked = [label for kind, label in page.stickers if kind == "pick"]
    wanted = []
    for name in ("cks", "clip"):
        output = study.load_ranker(place / name, data, place / "data")[0].rank([row])
        order = np.argsort(-output.scores[0], kind="stable")
        wanted += [f"sticker {row['candidates'][n]}" for n in order[:4]]
        at = order.tolist().index(row["candidates"].index(row["sticker_id"])) + 1
        said = "✓ right sticker first" if at == 1 else f"✗ right sticker at {at} of 11"
        assert said in page.words
        for n in order[:4]:
            assert f"{output.scores[0][n]:.3f}" in page.words
        if output.emotion_given_top is not None:
            emotion = int(output.emotion_given_top[0].argmax())
            verdict = "✓ right" if emotion == row["emotion"] else "✗ wrong"
            assert f"Emotion {data.emotions[emotion]} {verdict}" in page.words
            weights = output.utterance_weights[0]
            heavy = np.argsort(-weights, kind="stable")[:3]
            listed = ", ".join(f"turn {n + 1} ({weights[n]:.2f})" for n in heavy if weights[n] > 0)
            assert f"Weighs most: {listed}" in page.words
            assert page.words.count("▲") == sum(weights[heavy] > 0) > 0
    assert [label.partition(", reads")[0] for label in picked] == wanted
    assert "CLIP (dialogue)" in page.words and "Names no emotion" in page.words
    sent = [label.partition(", reads")[0] for kind, label in page.stickers if kind == "sent"]
    earlier = [t["sticker_id"] for t in row["utterances"] if t["sticker_id"] is not None]
    assert sent == [f"sticker {one}" for one in (*earlier, row["sticker_id"])]
    for turn in row["utterances"]:
        assert " ".join(turn["text"].split()) in page.words
    assert f"{data.emotions[row['emotion']]}" in page.words


def test_each_sticker_is_there_once_and_nothing_is_fetched(study, place):
    data = load_prepared(place / "data")
    html = run(study, place, "--count", "9", "--seed", "1")
    pictures = rules(html)
    names = {label.partition(", reads")[0] for _, label in Page(html).stickers}
    assert html.count("data:image") == len(pictures) == len(names)
    used = re.findall(r'class="(?:sent|pick) sticker (s\d+)"[^>]*aria-label="sticker (\d+)', html)
    assert {name for name, _ in used} == set(pictures) and len(used) > len(pictures)
    images = dict(zip(data.stickers["id"], data.stickers["image"], strict=True))
    for name, sticker in used:
        np.testing.assert_array_equal(pictures[name], images[sticker].convert("RGB"))
    assert "http" not in html and "<script" not in html and "src=" not in html
    assert set(re.findall(r"url\((\w+):", html)) == {"data"}


def test_a_draw_is_that_of_its_seed(study, place):
    first, again, other = (
        run(study, place, "--count", "5", "--seed", seed, models=("clip",))
        for seed in ("1", "1", "2")
    )
    heads = [re.findall(r"<h2>.*</h2>", html) for html in (first, again, other)]
    assert heads[0] == heads[1] != heads[2] and len(set(heads[0])) == 5
    assert "drawn with seed 1" in Page(first).words


def first_choices(html, models):
    """Give the set of the models' first stickers for each sample, by their labels."""
    picks = [label for kind, label in Page(html).stickers if kind == "pick"]
    return [set(picks[n : n + models]) for n in range(0, len(picks), models)]


def test_only_samples_on_which_models_differ(study, place):
    asked = ("--count", "500", "--seed", "4", "--top", "1")
    everything = first_choices(run(study, place, *asked, models=("clip", "fromage")), 2)
    html = run(study, place, "--differing", *asked, models=("clip", "fromage"))
    assert first_choices(html, 2) == [firsts for firsts in everything if len(firsts) > 1]
    assert {len(firsts) for firsts in everything} == {1, 2}
    assert "not how good they are" in Page(html).words
    with pytest.raises(ValueError, match="put the same sticker first everywhere"):
        run(study, place, "--differing", models=("clip", "clip"))


def test_models_of_one_name_are_told_apart_by_their_folders(study, place):
    class Named:
        name = "CKS"

    class Other:
        name = "CLIP"

    folders = [
        Path("runs/cks/seed0"),
        Path("runs/cks_without_vkd/seed0"),
        Path("elsewhere/clip/seed0"),
    ]
    found = study.titles([Named(), Named(), Other()], folders)
    assert found == ["CKS (cks/seed0)", "CKS (cks_without_vkd/seed0)", "CLIP"]
    assert study.titles([Named()], folders[:1]) == ["CKS"]


def test_a_model_is_quoted_as_it_answers(study):
    class Ranker:
        name = "ranker"

        def rank(self, rows):
            scores = [np.array([1.0, 2.0, 2.0, 1.0]) for _ in rows]
            given_answer, given_top = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0, 1], [1, 0]])
            return RankerOutput(scores, given_answer, given_top, [np.array([0.5, 2]), np.ones(1)])

    row = {"candidates": ["003", "001", "007", "000"]}
    first, second = study.ask(Ranker(), [row, row])
    # Of equal scores the earlier candidate is first; emotions are those of the first sticker.
    assert first.stickers == ["001", "007", "003", "000"] and first.scores == [2, 2, 1, 1]
    assert (first.emotion, first.weights) == (1, [0.5, 2])
    assert (second.emotion, second.weights) == (0, [1])


def sample(texts, **fields):
    utterances = [
        {"speaker": n % 2, "text": text, "sticker_id": None, "emotion": None}
        for n, text in enumerate(texts)
    ]
    return {"dialogue_id": "a <b>", "turn": 7, "utterances": utterances, "sticker_id": "001",
            "emotion": 1, "candidates": ["000", "001"], **fields}  # fmt: skip


EMOTIONS = ("joy", "<fear>")


def page_of(study, place, *cases):
    args = argparse.Namespace(split="test_easy", language="en", samples=None, seed=3,
                              differing=False)  # fmt: skip
    evidence = {"git": None, "versions": {"torch": "2", "transformers": "5"}, "time": "now"}
    return study.render(cases, load_prepared(place / "data"), args, evidence)


def answer(study, weights=None, emotion=1, stickers=("001", "000")):
    return study.Answer(list(stickers), [0.5, 0.25], emotion, weights)


def test_foreign_words_are_text_and_not_markup(study, place):
    row = sample(["<script>alert(1)</script>", 'a "quoted" & <i>odd</i> turn'])
    case = study.scene(row, [answer(study)], ["<CKS>"], EMOTIONS, 2)
    html = page_of(study, place, case)
    assert "<script" not in html and "<i>" not in html and "<fear>" not in html
    words = Page(html).words
    assert "<script>alert(1)</script>" in words and 'a "quoted" & <i>odd</i> turn' in words
    assert "a <b>" in words and "<CKS>" in words and "Emotion <fear> ✓ right" in words


def test_the_three_weightiest_turns_are_marked_by_words_too(study, place):
    row = sample([f"words {n}" for n in range(16)])
    weights = [0.0] * 16
    weights[2], weights[15], weights[9], weights[11] = 0.5, 0.25, 1.25, 0.125
    answers = [answer(study, emotion=None), answer(study, weights)]
    case = study.scene(row, answers, ["CLIP", "CKS"], EMOTIONS, 1)
    assert case["marked_by"] == "CKS"
    marked = {t["number"]: t["place"] for t in case["earlier"] + case["turns"] if t["place"]}
    assert marked == {10: 1, 3: 2, 16: 3}
    html = page_of(study, place, case)
    words = Page(html).words
    assert "▲ most emotional, weight 1.25" in words
    assert "▲ third most emotional, weight 0.25" in words
    assert re.findall(r"--glow\), ([0-9.]+)\)", html) == ["0.49", "0.85", "0.37"]
    # Long dialogues fold their beginning, unless something is marked in it.
    assert '<details class="earlier" open>' in html and "4 earlier turns" in words
    weights[2] = 0.0
    case = study.scene(row, [answer(study, weights)], ["CKS"], EMOTIONS, 1)
    assert '<details class="earlier">' in page_of(study, place, case)


def test_a_model_that_weighs_nothing_marks_nothing(study, place):
    case = study.scene(sample(["one", "two"]), [answer(study, [0.0, 0.0])], ["CKS"], EMOTIONS, 2)
    html = page_of(study, place, case)
    assert case["marked_by"] is None and "▲" not in html and "Weighs most" not in html


def test_without_a_label_no_emotion_is_right_or_wrong(study, place):
    row = sample(["one", ""], emotion=-1)
    row["utterances"][0] |= {"sticker_id": "000", "emotion": -1}
    case = study.scene(row, [answer(study, stickers=("000", "001"))], ["CKS"], EMOTIONS, 2)
    words = Page(page_of(study, place, case)).words
    assert "no emotion given" in words and "Emotion <fear>" in words
    assert words.count("✗") == 1 and words.count("✓") == 1  # the sticker alone
    assert case["turns"][0]["emotion"] is None


def test_a_missing_value_fails_the_page(study, place):
    case = study.scene(sample(["one"]), [answer(study)], ["CKS"], EMOTIONS, 2)
    del case["models"][0]["rank"]
    with pytest.raises(jinja2.UndefinedError, match="rank"):
        page_of(study, place, case)


def test_bad_input_is_one_line(study, place, tmp_path, capsys):
    data = load_prepared(place / "data")
    row = data.splits["test_easy"][0]
    sample_name = f"{row['dialogue_id']}:{row['turn']}"
    record = json.loads((place / "clip" / "baseline.json").read_text())
    for name in ("model.safetensors", "tokenizer", "image_processor"):
        (tmp_path / name).symlink_to(place / "clip" / name)
    (tmp_path / "baseline.json").write_text(json.dumps({**record, "emotions": ["joy"]}))
    for message, more, given in (
        ("no split 'test' to rank, only validation, test_easy, test_hard", (), {"split": "test"}),
        ("no answered sample 'nowhere'; write it as dialogue:turn, such as 'record",
         ("--samples", sample_name, "nowhere"), {}),
        (rf"no answered sample '{row['dialogue_id']}:99'; '{row['dialogue_id']}' has one at turn",
         ("--samples", f"{row['dialogue_id']}:99"), {}),
        ("was trained on other emotions", (), {"models": (tmp_path,)}),
        ("none: no such folder", (), {"models": ("none",)}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as caught:
            run(study, place, *more, **given)
        assert "\n" not in str(caught.value)
        assert not (place / "page.html").exists()
    for more in (("--differing",), ("--count", "0"), ("--top", "0")):
        with pytest.raises(SystemExit):
            run(study, place, *more, models=("clip",))
    assert "needs two models" in capsys.readouterr().err
