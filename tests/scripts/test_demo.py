# SPDX-License-Identifier: Apache-2.0
import base64
import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import torch
from PIL import Image
from tiny_model import tiny_cks

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def demo():
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("demo_script", SCRIPTS / "demo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_script"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))
    del sys.modules["demo_script"]


def drawing(colour):
    return Image.new("RGB", (8, 8), colour)


@pytest.fixture
def selection(demo):
    said = [
        {"speaker": 0, "text": "Where <were> you?", "sticker": "red.png"},
        {"speaker": 1, "text": "At home & asleep."},
    ]
    inferences = dict.fromkeys(demo.RELATION_WORDS, "none") | {"xWant": "to go on sleeping"}
    seen = [
        {**said[0], "weight": 0.5, "inferences": inferences},
        {**said[1], "weight": 1.25, "inferences": None},
    ]
    ranked = [
        {"rank": 1, "position": 4, "name": "blue.png", "score": 1.5, "caption": "ZZZ"},
        {"rank": 2, "position": 0, "name": "red.png", "score": 0.75, "caption": ""},
    ]
    emotions = [{"label": "calm", "score": 0.9}, {"label": "cross", "score": 0.1}]
    answer = {
        "stickers": ranked,
        "emotion": emotions[0],
        "emotions": emotions,
        "utterances": [{k: v for k, v in one.items() if k != "sticker"} for one in seen],
    }
    images = {name: demo.data_uri(drawing(name[:-4])) for name in ("red.png", "blue.png")}
    plate = {"original": images["red.png"], "content": images["blue.png"]}
    plate["styles"] = [demo.data_uri(drawing((9 * n, 0, 0))) for n in range(4)]
    return {
        "conversations": [{"title": "A night", "note": "Short.", "turns": said}],
        "answers": [answer],
        "inventory": 5,
        "parameters": 1234567,
        "images": images,
        "plates": [{"name": "red.png", "pictures": plate}],
    }


@pytest.fixture
def results():
    metrics = {"R@1": 61.25, "R@3": 80.0, "R@5": 90.0, "MRR": 70.0, "Acc": 88.8, "samples": 40}
    chance = {"R@1": 9.09, "R@3": 27.27, "R@5": 45.45, "MRR": 26.63}
    of = {"metrics": metrics, "yardsticks": {"chance": chance}}
    return {
        "splits": {"test_easy": of, "test_hard": of},
        "versions": {"torch": "2", "transformers": "5"},
        "machine": {"cpu": "a processor", "cores": 2},
        "data": {"fingerprint": "abcdef0123456789abcdef"},
    }


DONE = [{"label": "train CKS", "seconds": 12.34}, {"label": "evaluate it", "seconds": 1.0}]


def pictures(html):
    sources = re.findall(r'<img[^>]* src="([^"]*)"', html)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    return [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources
    ]


def test_page_holds_every_picture_and_needs_no_network(demo, selection, results):
    html = demo.render(selection, results, DONE)
    # The sticker of the first turn, the choice, two ranked, the plate's six.
    assert len(pictures(html)) == 10
    assert {image.size for image in pictures(html)} == {(8, 8)}
    assert "http" not in html and "url(" not in html and "<script" not in html


def test_page_shows_dialogue_ranking_emotions_and_figures(demo, selection, results):
    html = demo.render(selection, results, DONE)
    assert "Where &lt;were&gt; you?" in html and "At home &amp; asleep." in html
    assert "<were>" not in html
    assert "to go on sleeping" in html
    assert html.index("blue.png") < html.index('<span class="name">red.png')
    assert "reads “ZZZ”" in html and "no words on it" in html
    assert "90.0 %" in html
    assert html.count("<td>61.2</td>") + html.count("<td>61.3</td>") == 2
    assert html.count("<td>–</td>") == 2  # chance names no emotion
    assert "13 seconds in all" in html
    # The weightier turn is lit fully, the other by its share of that weight.
    assert re.findall(r"--glow\), ([0-9.]+)\)", html) == ["0.34", "0.85"]


def test_missing_value_fails_the_page(demo, selection, results):
    del selection["answers"][0]["stickers"][0]["caption"]
    with pytest.raises(jinja2.UndefinedError, match="caption"):
        demo.render(selection, results, DONE)


def test_plate_shows_content_and_draws_of_style(demo, tmp_path):
    model, processor = tiny_cks(tmp_path, use_knowledge=False)
    image = Image.radial_gradient("L").convert("RGB").resize((32, 32))
    plate = demo.style_plate(model.eval(), processor, image)
    shown = [plate["original"], plate["content"], *plate["styles"]]
    assert len(plate["styles"]) == demo.STYLE_DRAWS
    assert len(set(shown)) == len(shown)
    assert plate == demo.style_plate(model, processor, image)
    original = pictures(f'<img src="{plate["original"]}">')[0]
    assert original.size == (96, 96)
    small = torch.tensor(list(original.resize((32, 32)).convert("L").getdata())).float()
    wanted = torch.tensor(list(image.convert("L").getdata())).float()
    assert (small - wanted).abs().mean() < 6


def make_steps(demo, folder, runs, wanted="a"):
    def run(name):
        def work():
            runs.append(name)
            (folder / name).write_text(name)
            return "made"

        return work

    return [
        demo.Step("one", "make one", {"wanted": wanted}, (folder / "one",), run("one")),
        demo.Step("two", "make two", {}, (folder / "two",), run("two")),
        demo.Step("three", "make three", {}, (folder / "three",), run("three")),
    ]


def test_done_steps_are_skipped_and_what_depends_on_a_change_is_made_anew(demo, tmp_path, capsys):
    runs = []
    demo.run_steps(make_steps(demo, tmp_path, runs), tmp_path)
    assert runs == ["one", "two", "three"]
    demo.run_steps(make_steps(demo, tmp_path, runs), tmp_path)
    assert runs == ["one", "two", "three"]
    assert capsys.readouterr().out.count("there already") == 3

    (tmp_path / "two").unlink()
    demo.run_steps(make_steps(demo, tmp_path, runs), tmp_path)
    assert runs[3:] == ["two", "three"]
    demo.run_steps(make_steps(demo, tmp_path, runs, wanted="b"), tmp_path)
    assert runs[5:] == ["one", "two", "three"]


def test_a_step_that_failed_is_tried_again_with_what_it_left(demo, tmp_path):
    runs = []
    steps = make_steps(demo, tmp_path, runs)

    def fail():
        (tmp_path / "two").write_text("half")
        raise ValueError("stopped")

    broken = demo.Step("two", "make two", {}, (tmp_path / "two",), fail)
    with pytest.raises(ValueError, match="stopped"):
        demo.run_steps([steps[0], broken, steps[2]], tmp_path)
    # The half result stays, for a step that can go on from it.
    assert (tmp_path / "two").read_text() == "half"
    demo.run_steps(steps, tmp_path)
    assert runs == ["one", "two", "three"]


def test_foreign_folders_are_left_alone(demo, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="something else than a demo"):
        demo.main(["--output", str(tmp_path), "--fresh"])
    assert (tmp_path / "letter.txt").read_text() == "dear"
    with pytest.raises(ValueError, match="is a file"):
        demo.main(["--output", str(tmp_path / "letter.txt")])


def test_what_people_say_there_names_drawings_of_mod_mini(demo):
    from dataset_mod.synthetic_world import SEEN_STYLES, UNSEEN_STYLES, sticker_inventory

    names = {sticker.name for sticker in sticker_inventory(0, SEEN_STYLES, UNSEEN_STYLES)}
    used = {turn["sticker"] for one in demo.CONVERSATIONS for turn in one["turns"]
            if "sticker" in turn}  # fmt: skip
    assert used and used <= names
    assert len(demo.CONVERSATIONS) == 3


def test_the_page_is_served_to_this_machine_alone_and_asks_no_network(demo, monkeypatch, tmp_path):
    became = []
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setattr(demo.os, "execve", lambda *what: became.append(what))
    demo.serve(tmp_path)
    ((program, command, environment),) = became
    assert program == command[0] == sys.executable and Path(command[1]).is_file()
    assert command[2:] == ["--model", str(tmp_path)]
    assert environment["GRADIO_SERVER_NAME"] == "127.0.0.1"
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_without_gradio_the_page_is_refused_before_any_work(demo, monkeypatch, tmp_path):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs gradio"):
        demo.main(["--output", str(tmp_path / "out"), "--serve"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_whole_demo_at_its_smallest(tmp_path):
    pytest.importorskip("rapidocr")
    out = tmp_path / "out"
    command = [sys.executable, SCRIPTS / "demo.py", "--output", out, "--epochs", "1"]
    command += ["--dialogues", "8", "3", "3", "3", "--comet-epochs", "0.05"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(out / "index.html") in done.stdout.splitlines()[-1]
    state = json.loads((out / "demo.json").read_text())
    assert all(step["done"] for step in state["steps"]) and len(state["steps"]) == 9
    assert state["total_seconds"] > 0
    assert {"test_easy", "test_hard"} == set(state["results"]["splits"])
    html = (out / "index.html").read_text()
    assert len(pictures(html)) > 20
    again = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert again.stdout.count("there already") == 9
