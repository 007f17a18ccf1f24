# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dataset_mod import load_marks, load_prepared, load_words, prepare, write_mini_release
from dataset_mod.bias import find_emotional_words

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SPLITS = ("train", "validation", "test_easy", "test_hard")


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("bias_report_script", SCRIPTS / "bias_report.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def place(tmp_path_factory, report):
    """A folder with `release`, `data`, and the report of its lexicon's words in `lexicon`."""
    folder = tmp_path_factory.mktemp("bias_report")
    write_mini_release(folder / "release", rho=0.8, dialogues=(60, 12, 12, 12), size=32)
    prepare(folder / "release", folder / "data")
    run(report, folder, "--lexicon", folder / "release" / "lexicon.tsv", "--lexicon-only")
    (folder / "data" / "bias" / "en").rename(folder / "lexicon")
    return folder


def run(report, place, *more):
    assert report.main([str(one) for one in (place / "data", *more)]) == 0
    return place / "data" / "bias" / "en"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """What a reader sees, by section."""

    VOID = ("meta", "img", "br", "link", "use", "path", "rect")

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.ids, self.images = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_startendtag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        if tag == "img":
            self.images.append(given["src"])

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def test_the_report_holds_what_is_counted_and_what_it_needs_to_be_believed(place, report):
    found = read(place / "lexicon" / "report.json")
    data = load_prepared(place / "data")
    assert found["data"] == {"fingerprint": data.fingerprint, "language": "en"}
    assert {"versions", "git", "machine", "time"} <= set(found)
    assert found["arguments"]["lexicon"] == "lexicon.tsv" and found["arguments"]["lexicon_only"]
    assert tuple(found["splits"]) == SPLITS
    turns = read(place / "release" / "truth.json")["turns"]
    for split, of in found["splits"].items():
        known = [one for one in turns[split] if one["sample"] is not None and one["labelled"]]
        agree = sum(one["agrees"] for one in known)
        assert of["groups"]["aligned"]["count"] == agree
        assert of["groups"]["conflicting"]["count"] == len(known) - agree
        assert of["rows"] - of["without_label"] == len(known)
    hard = found["splits"]["test_hard"]
    assert hard["without_theme"] == hard["rows"] - hard["without_label"]


def test_the_page_shows_the_figures_of_the_report(place):
    found = read(place / "lexicon" / "report.json")
    html = (place / "lexicon" / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    for split, of in found["splits"].items():
        assert split.replace("_", " ") in page.words
        for one in of["groups"].values():
            assert f"{100 * one['share']:.1f} % {100 * one['low']:.1f} to" in page.words
    for name in found["emotions"]:
        one = found["splits"]["train"]["cooccurrence"][name]["sticker_and_label"]
        shown = f"{100 * one['share']:.1f} % {100 * one['low']:.1f} to {100 * one['high']:.1f}"
        assert f"{shown}, n = {one['of']}" in page.words
    for table in found["splits"]["train"]["tables"].values():
        assert f"V = {table['cramers_v']:.3f}" in page.words
    for of in found["words"].values():
        for one in of["strongest"]:
            assert f"{one['word']} {one['count']}" in page.words
    hard = found["splits"]["test_hard"]["without_theme"]
    assert f"{hard} of test hard" in page.words
    # Nothing is fetched, no name is there twice, and every picture is in the page.
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert len(set(page.ids)) == len(page.ids)
    assert page.images and all(one.startswith("data:image/png;base64,") for one in page.images)
    for group in ("conflicting", "aligned"):
        assert f"3 {group} samples, drawn by chance" in page.words


def test_plots_are_whole_and_take_their_colours_from_the_page(place):
    html = (place / "lexicon" / "report.html").read_text(encoding="utf-8")
    drawn = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    assert len(drawn) == 6
    for figure in drawn:
        svg = figure[figure.index("<svg") : figure.index("</svg>") + 6]
        ElementTree.fromstring(svg)
        used = set(re.findall(r"url\(#([\w-]+)\)|href=\"#([\w-]+)\"", svg))
        for name in {one or other for one, other in used}:
            assert f'id="{name}"' in svg
        assert "var(--" in svg and not re.search(r"#0102|#000000|DejaVu", svg)


def test_marks_and_words_are_those_that_others_read(place, report):
    folder = run(report, place, "--scope", "turn")
    data = load_prepared(place / "data")
    words = load_words(place / "data")
    assert words == find_emotional_words(data.splits["train"], data.emotions, scope="turn")
    marks = load_marks(place / "data")
    for split, table in data.splits.items():
        assert [marks[split, r["dialogue_id"], r["turn"]] for r in table] == [
            words.group(row) for row in table
        ]
    assert {path.name for path in folder.iterdir()} == {
        "report.html", "report.json", "words.json", "marks.parquet"
    }  # fmt: skip
    assert read(folder / "report.json")["arguments"]["scope"] == "turn"
    assert "--lexicon-only" in Page((folder / "report.html").read_text()).words


def test_a_lexicon_joins_what_is_found(place, report, tmp_path):
    lexicon = tmp_path / "mine.csv"
    lexicon.write_text("word,emotion\nhead,joy\n")
    run(report, place, "--lexicon", lexicon, "--output", tmp_path / "report")
    words = read(tmp_path / "report" / "words.json")["words"]
    assert [one["word"] for one in words if one["from_lexicon"]] == ["head"]
    assert len(words) > 1
    assert 'class="word given"' in (tmp_path / "report" / "report.html").read_text()


def test_data_without_any_word_or_evaluation_make_a_page_too(place, report, tmp_path):
    """A strength that no word has; nothing is left to show but the groups."""
    run(report, place, "--min-strength", "50", "--output", tmp_path)
    found = read(tmp_path / "report.json")
    assert all(of["groups"]["neutral"]["share"] == 1 for of in found["splits"].values())
    page = Page((tmp_path / "report.html").read_text())
    assert "nothing to compare" in page.words and "drawn by chance" not in page.words


def test_data_without_a_label_are_marked_by_a_lexicon_or_refused(report, tmp_path):
    write_mini_release(tmp_path / "release", dialogues=(9, 3, 3, 3), size=32)
    for path in (tmp_path / "release").rglob("e_*.json"):
        path.write_text(re.sub(r',\s*"emotion_id": \d+', "", path.read_text()))
    for path in (tmp_path / "release").rglob("*task3.json"):
        path.write_text("[]")
    prepare(tmp_path / "release", tmp_path / "data")
    with pytest.raises(ValueError, match="no training sample has an emotion label"):
        report.main([str(tmp_path / "data")])
    lexicon = tmp_path / "release" / "lexicon.tsv"
    report.main([str(tmp_path / "data"), "--lexicon", str(lexicon), "--lexicon-only"])
    assert set(load_marks(tmp_path / "data").values()) == {None}
    html = (tmp_path / "data" / "bias" / "en" / "report.html").read_text(encoding="utf-8")
    assert "nothing to compare" in Page(html).words


def test_the_same_run_draws_the_same_page(place, report, tmp_path):
    pages = []
    for name in ("one", "other"):
        run(report, place, "--output", tmp_path / name)
        text = (tmp_path / name / "report.html").read_text()
        pages.append(re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "", text))
        assert (tmp_path / name / "marks.parquet").read_bytes() == (
            tmp_path / "one" / "marks.parquet"
        ).read_bytes()
    assert pages[0] == pages[1]


def test_texts_cannot_break_the_page(report):
    words = find_emotional_words(
        [], ["calm"], lexicon={"b": 0}, found=False
    )  # fmt: skip
    pieces = list(report._pieces("<b>bold</b> & b", words))
    assert "".join(text for text, _ in pieces) == "<b>bold</b> & b"
    assert [text for text, emotion in pieces if emotion] == ["b", "b", "b"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lexicon", "none.tsv"], "none.tsv: no such file"),
        (["--language", "zh"], "has no language 'zh', only en"),
        (["--lexicon-only"], "--lexicon-only needs --lexicon"),
    ],
)
def test_bad_input_ends_with_a_line_and_code_2(place, more, message):
    command = [sys.executable, str(SCRIPTS / "bias_report.py"), str(place / "data"), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
