# SPDX-License-Identifier: Apache-2.0
import csv
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_baselines import SETTINGS, checkpoints
from tiny_model import tiny_cks

from dataset_mod import load_prepared
from dataset_mod.prepared import prepare
from dataset_mod.synthetic import write_mini_release
from modeling_cks.baselines import baseline_class

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
COUNT, RATERS = 6, 3
NAMES = ("CKS", "CLIP (dialogue)", "MMBERT")
# The names that would give a model away, and the folders of the models below.
TELLING = ("CKS", "CLIP", "MMBERT", "mmbert", "of_", "seed0", "baseline")


@pytest.fixture(scope="module")
def human_eval():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("human_eval_", SCRIPTS / "human_eval.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `data` of MOD-mini and three random models on it."""
    folder = tmp_path_factory.mktemp("human_eval")
    write_mini_release(folder / "release", dialogues=(8, 2, 10, 4), size=32)
    prepare(folder / "release", folder / "data")
    data = load_prepared(folder / "data")
    model, processor = tiny_cks(folder, emotions=data.emotions, use_knowledge=False)
    for part in (model, processor):
        part.save_pretrained(folder / "of_cks" / "seed0")
    text, vision = checkpoints(folder)
    for kind in ("clip", "mmbert"):
        baseline = baseline_class(kind).build(
            emotions=data.emotions, text=text, vision=vision, **SETTINGS[kind]["settings"]
        )
        baseline.save_pretrained(folder / f"of_{kind}" / "seed0")
    (folder / "data" / "ocr.json").unlink(missing_ok=True)
    return folder


def models(place):
    return [str(place / f"of_{kind}" / "seed0") for kind in ("cks", "clip", "mmbert")]


def sampled(human_eval, place, output, *more):
    return human_eval.main(
        ["sample", *models(place), "--data", str(place / "data"), "--split", "test_easy"]
        + ["--count", str(COUNT), "--raters", str(RATERS), "--output", str(output), *more]
    )


@pytest.fixture(scope="module")
def studies(place, human_eval):
    """The same study as pages and as CSV."""
    for form in ("html", "csv"):
        assert sampled(human_eval, place, place / form, "--form", form) == 0
    return place / "html", place / "csv"


def key_of(folder):
    return json.loads((folder / "key.json").read_text())


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def opinion(study, rater, row):
    """What a simulated rater thinks, from the answer alone and in a way of their own."""
    shown = study["items"][int(row["item"]) - 1]["answers"][row["answer"]]["shown"]
    if row["criterion"] == "Pe@3":
        return int(study["emotion"] in shown)
    first = int(shown[0])
    three = (first + rater) % 3 == 0
    return {"Ps@3": three, "Ps@5": three or first % 2, "Rel-d": (first + rater) % 3,
            "Rel-c": first % 3}[row["criterion"]]  # fmt: skip


@pytest.fixture(scope="module")
def came_back(studies, tmp_path_factory):
    """The CSV sheets of two of three raters, filled in."""
    folder = tmp_path_factory.mktemp("ratings")
    study = key_of(studies[1]) | {"emotion": emotion_in(key_of(studies[1]))}
    for rater in (1, 3):
        rows = read(studies[1] / "hand_out" / f"rater{rater}.csv")
        with (folder / f"r{rater}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                writer.writerow({**row, "rating": int(opinion(study, rater, row))})
    return folder, study


def emotion_in(study):
    shown = [a["shown"] for i in study["items"] for a in i["answers"].values()]
    return next(each[0] for each in shown if not each[0].isdigit())


def test_the_key_holds_what_the_models_really_answer(place, human_eval, studies):
    study, data = key_of(studies[0]), load_prepared(place / "data")
    rows = {(r["dialogue_id"], r["turn"]): r for r in data.splits["test_easy"]}
    chosen = [rows[item["dialogue_id"], item["turn"]] for item in study["items"]]
    assert len({(r["dialogue_id"], r["turn"]) for r in chosen}) == COUNT
    openings = {tuple(t["text"] for t in row["utterances"][:2]) for row in chosen}
    assert len(openings) == COUNT
    assert [model["name"] for model in study["models"]] == list(NAMES)
    assert study["marked_by"] == "CKS"
    for name, folder in zip(NAMES, models(place), strict=True):
        output = human_eval.load_ranker(Path(folder), data, place / "data")[0].rank(chosen)
        for number, (row, item) in enumerate(zip(chosen, study["items"], strict=True)):
            mine = [a for a in item["answers"].values() if name in a["models"]]
            (stickers,) = (a["shown"] for a in mine if a["of"] == "stickers")
            order = np.argsort(-output.scores[number], kind="stable")[:5]
            assert stickers == [row["candidates"][n] for n in order]
            emotions = [a["shown"] for a in mine if a["of"] == "emotions"]
            assert len(emotions) == (name != NAMES[1])
            if emotions:
                best = np.argsort(-output.emotion_given_top[number])[:3]
                assert set(emotions[0]) == {data.emotions[n] for n in best}
            if name == "CKS":
                weights = output.utterance_weights[number]
                heavy = sorted(weights[weights > 0])[-3:]
                assert sorted(weights[item["marked"]]) == pytest.approx(heavy)
                assert item["marked"] == sorted(item["marked"]) and item["marked"]


def test_both_forms_ask_the_same(studies):
    html, plain = map(key_of, studies)
    assert html["items"] == plain["items"] and html["sheets"] == plain["sheets"]
    names = {path.name for path in (studies[0] / "hand_out").iterdir()}
    assert names == {f"rater{n}.html" for n in (1, 2, 3)}
    names = {path.name for path in (studies[1] / "hand_out").iterdir()}
    assert names == {"stickers", *(f"rater{n}.csv" for n in (1, 2, 3))}
    shown = " ".join(row["shown"] + row["dialogue"] for n in (1, 2, 3)
                     for row in read(studies[1] / "hand_out" / f"rater{n}.csv"))  # fmt: skip
    images = {path.name for path in (studies[1] / "hand_out" / "stickers").iterdir()}
    assert images == set(re.findall(r"\d{3}\.png", shown))
    for path in (studies[1] / "hand_out" / "stickers").iterdir():
        assert Image.open(path).size == (32, 32)


class Page(HTMLParser):
    """What is in a page's JSON, and the addresses of everything that it would load."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.data, self._inside = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loaded += [given[name] for name in ("src", "href") if name in given]
        self._inside = tag == "script" and given.get("type") == "application/json"

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        self.data += data if self._inside else ""


def test_what_is_handed_out_is_blind(place, studies):
    data = load_prepared(place / "data")
    for folder in studies:
        for path in (folder / "hand_out").glob("rater*"):
            text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", path.read_text())
            assert not [word for word in TELLING if word in text]
            # A file's name would tell the drawing's emotion.
            assert not [name for name in data.stickers["name"] if name in text]
            assert str(place) not in text
    assert "CKS" in (studies[0] / "key.json").read_text()


def test_a_page_holds_every_picture_once_and_needs_no_network(studies):
    for path in (studies[0] / "hand_out").iterdir():
        text = path.read_text()
        page = Page(text)
        assert page.loaded == [] and "http" not in text and "url(" not in text
        held = json.loads(page.data)
        uris = re.findall(r"data:image/png;base64,[A-Za-z0-9+/=]+", text)
        assert len(uris) == len(set(held["images"])) > 5
        shown = {one for item in held["items"] for answer in item["answers"]
                 for one in answer["shown"] if answer["of"] == "stickers"}  # fmt: skip
        sent = {turn["sticker_id"] for item in held["items"] for turn in item["turns"]}
        assert set(held["images"]) == shown | sent - {None}


def test_dialogues_cannot_break_out_of_a_page(human_eval, studies):
    study = key_of(studies[0])
    said = "</script><script>alert(1)</script> & <b>"
    study["items"][0]["utterances"][0]["text"] = said
    images = dict.fromkeys((f"{n:03}" for n in range(400)), b"")
    text = human_eval.page_of_sheet(study, study["sheets"][0], images)
    assert text.count("</script>") == 2 and "<b>" not in text
    turns = [t["text"] for item in json.loads(Page(text).data)["items"] for t in item["turns"]]
    assert said in turns


def test_the_report_is_what_the_raters_meant(human_eval, studies, came_back, tmp_path, capsys):
    folder, study = came_back
    files = [str(folder / "r1.csv"), str(folder / "r3.csv")]
    code = human_eval.main(
        ["report", str(studies[1]), *files, "--output", str(tmp_path / "r.json")]
        + ["--page", str(tmp_path / "r.md")]
    )
    assert code == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["raters"] == {"asked": 3, "came": [1, 3]} and found["samples"] == COUNT
    wanted = {}
    for item in study["items"]:
        for code, answer in item["answers"].items():
            for name in ("Ps@3", "Ps@5", "Rel-d", "Rel-c", "Pe@3"):
                if (name == "Pe@3") == (answer["of"] == "emotions"):
                    row = {"item": item["item"], "answer": code, "criterion": name}
                    for model in answer["models"]:
                        values = [opinion(study, rater, row) for rater in (1, 3)]
                        wanted.setdefault((model, name), []).append(np.mean(values))
    shown = {
        (model, name): one["mean"]
        for model, figures in found["figures"].items()
        for name, one in figures.items()
    }
    assert shown == pytest.approx({key: np.mean(values) for key, values in wanted.items()})
    assert (NAMES[1], "Pe@3") not in shown and ("MMBERT", "Pe@3") in shown
    for model in NAMES[1:]:
        for name, one in found["ahead"][model].items():
            assert one["mean"] == pytest.approx(shown["CKS", name] - shown[model, name])
    # They agree wholly where both look at the answer alone.
    assert found["agreement"]["Rel-c"]["alpha"] == pytest.approx(1)
    assert found["agreement"]["Rel-d"]["alpha"] < 0.5
    page = (tmp_path / "r.md").read_text()
    assert page in capsys.readouterr().out
    assert f"| CKS | {shown['CKS', 'Ps@3']:.2f} [" in page
    assert "ratings of 2 of 3 raters" in page
    assert "| CKS, published | 0.77 | 0.91 | - | 1.69 | 0.74 |" in page
    assert "| CLIP, published | 0.49 | 0.71 | - | 1.18 | - |" in page
    cell = r"[+-]\d\.\d\d \[[^|]*\], p [=<] [01]\.\d+ \|"
    assert re.search(rf"\| of CLIP \(dialogue\) \|( {cell}){{4}} - \|", page)


def test_sheets_of_one_rater_twice_or_changed_are_refused(human_eval, studies, came_back, tmp_path):
    folder, _ = came_back
    one, output = folder / "r1.csv", tmp_path / "r.json"
    shutil.copy(one, tmp_path / "again.csv")
    with pytest.raises(ValueError, match=r"again\.csv: is of rater 1, and so is .*r1\.csv"):
        human_eval.main(["report", str(studies[1]), str(one), str(tmp_path / "again.csv"),
                         "--output", str(output)])  # fmt: skip
    unfilled = studies[1] / "hand_out" / "rater2.csv"
    with pytest.raises(ValueError, match=r"rater2\.csv: item \d+, .*: the rating is missing"):
        human_eval.main(["report", str(studies[1]), str(unfilled), "--output", str(output)])
    assert not output.exists()


def test_a_refusal_is_one_line_and_code_2(studies, came_back, tmp_path):
    """Through the shell once."""
    bad = tmp_path / "bad.csv"
    bad.write_text((came_back[0] / "r1.csv").read_text().replace("Would any", "Could any", 1))
    done = subprocess.run(
        [sys.executable, SCRIPTS / "human_eval.py", "report", studies[1], bad]
        + ["--output", tmp_path / "r.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.search(r"bad\.csv: item \d+, answer \w\w, Ps@3: the text of 'question'", done.stderr)


def test_bad_requests_are_named_before_any_model_is_loaded(human_eval, place, studies, tmp_path):
    out = tmp_path / "new"
    with pytest.raises(ValueError, match="test_easy has 10 dialogues .* fewer than the 99"):
        sampled(human_eval, place, out, "--count", "99")
    with pytest.raises(ValueError, match="no split 'train' to rank, only validation"):
        sampled(human_eval, place, out, "--split", "train")
    with pytest.raises(ValueError, match="html: is there already"):
        sampled(human_eval, place, studies[0])
    twice = models(place)[:1] * 2
    with pytest.raises(ValueError, match="seed0: is given twice"):
        human_eval.main(["sample", *twice, "--data", str(place / "data"), "--output", str(out)])
    for arguments in (["--count", "0"], ["--raters", "0"]):
        with pytest.raises(SystemExit):
            sampled(human_eval, place, out, *arguments)
    assert not out.exists()


def test_one_sample_a_dialogue_is_drawn_and_only_with_an_answer(human_eval):
    def row(dialogue, turn, answer="003"):
        said = [{"speaker": n % 2, "text": f"{dialogue} {n}"} for n in range(turn + 1)]
        return {"utterances": said, "sticker_id": answer, "turn": turn, "dialogue": dialogue}

    rows = [row(d, t) for d in range(5) for t in (1, 2, 5)] + [row(9, 2, None), row(8, 1, "000")]
    drawn = [human_eval.draw(rows, 6, seed, "x") for seed in range(40)]
    for each in drawn:
        assert sorted(r["dialogue"] for r in each) == [0, 1, 2, 3, 4, 8]
    assert {r["turn"] for each in drawn for r in each} == {1, 2, 5}
    assert len({tuple(r["dialogue"] for r in each) for each in drawn}) > 20
    assert human_eval.draw(rows, 4, 3, "x") == human_eval.draw(rows, 4, 3, "x")
    with pytest.raises(ValueError, match="x has 6 dialogues with an answer, fewer than the 7"):
        human_eval.draw(rows, 7, 0, "x")


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Presses keys as a rater would, and puts what the page saves, and what was seen, on the page.
RATER = """
<pre id="saved"></pre>
<script>
{
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const seen = {};
URL.createObjectURL = (blob) => { blob.text().then((text) => {
  document.getElementById("saved").textContent = JSON.stringify({ ...seen, text, stored:
    localStorage.getItem(page.sheet), button: document.getElementById("save").textContent }); });
  return "#"; };
HTMLAnchorElement.prototype.click = function () { seen.download = this.download; };
WORK
document.getElementById("save").click();
}
</script>
"""
ALL = """
for (let turn = 0; turn < page.items.length; turn += 1) {
  for (let guard = 0; document.querySelector("fieldset.open") && guard < 99; guard += 1) {
    const lit = document.activeElement.closest("fieldset")
      || document.querySelector("fieldset.open");
    press({ "Ps@3": "0", "Ps@5": "1", "Pe@3": "1" }[lit.dataset.criterion] ?? "2");
  }
  press("n");
}
seen.left = document.getElementById("counts").textContent;
"""
APT_THREE = """
press("1");
const [three, five] = document.querySelectorAll("fieldset");
seen.five = five.querySelector("input:checked").value;
seen.no = five.querySelector("input[value='0']").disabled;
seen.lit = document.activeElement.closest("fieldset").dataset.criterion;
three.querySelector("input[value='0']").click();
seen.open = five.classList.contains("open");
press("x"); press("n"); seen.next = document.getElementById("where").textContent;
press("p"); seen.previous = document.getElementById("where").textContent;
"""


def drive(path, work, tmp_path):
    """Let a headless browser work on a page; return what the page saved."""
    page = tmp_path / "page.html"
    html = path.read_text()
    page.write_text(html.replace("</body>", RATER.replace("WORK", work) + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
               "--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}",
               page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r'<pre id="saved">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    unescape = {"&lt;": "<", "&gt;": ">", "&nbsp;": "\u00a0", "&amp;": "&"}
    return json.loads(re.sub("&(lt|gt|nbsp|amp);", lambda m: unescape[m.group()], found[1]))


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs a Chromium to drive")
def test_a_page_filled_in_by_keyboard_gives_a_whole_sheet(human_eval, studies, tmp_path):
    saved = drive(studies[0] / "hand_out" / "rater2.html", ALL, tmp_path)
    assert (saved["download"], saved["button"]) == ("ratings-rater2.csv", "Save the ratings")
    assert saved["left"] == f"{COUNT} dialogues done, 0 questions open"
    path = tmp_path / "ratings-rater2.csv"
    path.write_bytes(saved["text"].encode())
    ratings = human_eval.read_ratings(path, human_eval.read_key(studies[0] / "key.json"))
    values = {"Ps@3": 0, "Ps@5": 1, "Rel-d": 2, "Rel-c": 2, "Pe@3": 1}
    assert {(one.criterion, one.value) for one in ratings} == set(values.items())
    assert len(json.loads(saved["stored"])["ratings"]) == len(ratings)
    # But for the ratings it is the CSV form's sheet.
    (tmp_path / "own.csv").write_bytes(saved["text"].encode())
    blank = [{**row, "rating": ""} for row in read(tmp_path / "own.csv")]
    assert blank == read(studies[1] / "hand_out" / "rater2.csv")


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs a Chromium to drive")
def test_an_apt_one_of_three_is_one_of_five_and_a_copy_is_marked(studies, tmp_path):
    saved = drive(studies[0] / "hand_out" / "rater1.html", APT_THREE, tmp_path)
    assert (saved["five"], saved["no"], saved["lit"]) == ("1", True, "Rel-d")
    assert saved["open"] is True
    assert saved["next"].startswith("Dialogue 2 of") and saved["previous"].startswith("Dialogue 1")
    assert (saved["download"], saved["button"]) == ("ratings-rater1-incomplete.csv", "Save a copy")
    assert list(json.loads(saved["stored"])["ratings"].values()) == ["0"]
