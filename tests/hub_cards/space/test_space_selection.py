# SPDX-License-Identifier: Apache-2.0
"""The model behind the page, and what the page shows of its answers."""

import importlib.util
import re
import shutil
from dataclasses import replace

import chat
import pytest
import selection
import view
from huggingface_hub import metadata_load
from PIL import Image, ImageChops
from space_folder import SPACE

ROOT = SPACE.parents[1]


@pytest.fixture(scope="module")
def selector(model_folder):
    return selection.Selector(str(model_folder))


@pytest.fixture(scope="module")
def pack(selector):
    return selector.bundled_pack()


@pytest.fixture(scope="module")
def dialogue():
    said = chat.say((), 0, "i am so happy today !")
    return chat.say(said, 1, "oh no , that is sad")


def places(answer):
    return [one["position"] for one in answer.ranked]


def stub(weights, ranks, dialogue, pack, emotions=()):
    """An answer by hand; `ranks` lists the positions, best first."""
    ranked = tuple(
        {"rank": number + 1, "position": place, "name": pack.stickers[place].name,
         "score": 2.0 - 0.5 * number, "caption": ""}
        for number, place in enumerate(ranks)
    )  # fmt: skip
    return selection.Answer(dialogue, pack, ranked, emotions, tuple(weights), 0.012)


def tiles(*names, uri="data:,"):
    image = Image.new("RGB", (4, 4))
    made = tuple(chat.Sticker(name, f"a {name}", image, uri) for name in names)
    return selection.Pack("Tiles", made, None)


def test_the_bundled_pack_is_what_the_script_draws(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("space_pack", ROOT / "scripts" / "space_pack.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(["--output", str(tmp_path)]) == 0
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in selection.PACK.iterdir()}
    assert (tmp_path / "pack.json").read_text() == (selection.PACK / "pack.json").read_text()
    for name in drawn - {"pack.json"}:
        images = [Image.open(at / name).convert("RGBA") for at in (tmp_path, selection.PACK)]
        # Another Pillow may round a pixel differently.
        assert max(high for _, high in ImageChops.difference(*images).getextrema()) <= 8
        assert (selection.PACK / name).stat().st_size < 30_000


def test_the_pack_is_ranked_whole_and_the_same_each_time(selector, pack, dialogue):
    answer = selector.rank(dialogue, pack)
    assert sorted(places(answer)) == list(range(24)) == list(range(len(pack.stickers)))
    scores = [one["score"] for one in answer.ranked]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    assert len(answer.weights) == 2 and all(weight is not None for weight in answer.weights)
    assert {one["label"] for one in answer.emotions} == {"joy", "sadness", "anger", "surprise"}
    again = selector.rank(dialogue, pack)
    assert again.ranked == answer.ranked
    # The captions of the pack take the place of OCR.
    assert {one["name"]: one["caption"] for one in answer.ranked}["calm-ink"] == "HMM"


def test_a_pack_of_pictures_by_name_is_ranked_like_the_same_in_the_bundle(selector, pack, dialogue):
    chosen = pack.stickers[3:7]
    captions = {one["name"]: one["caption"] for one in selector.rank(dialogue, pack).ranked}
    own = selector.make_pack(
        "Mine", {one.name: one.image for one in chosen},
        captions={one.name: captions[one.name] for one in chosen},
    )  # fmt: skip
    found = [one["name"] for one in selector.rank(dialogue, own).ranked]
    assert sorted(found) == sorted(one.name for one in chosen)
    assert [one.alt for one in own.stickers] == [one.name for one in chosen]


def test_the_sticker_of_the_last_turn_is_the_question_and_earlier_ones_are_read(
    selector, pack, dialogue
):
    plain = selector.rank(dialogue, pack)
    answered = selector.rank(chat.send(dialogue, pack.stickers[0]), pack)
    assert answered.ranked == plain.ranked
    first = replace(dialogue[0], sticker=pack.stickers[0])
    carried = selector.rank((first, dialogue[1]), pack)
    assert carried.ranked != plain.ranked


def test_turns_that_the_model_does_not_look_at_have_no_weight(selector, pack):
    said = tuple(chat.Turn(number % 2, f"oh no {number}") for number in range(11))
    answer = selector.rank(said, pack)
    assert [weight is None for weight in answer.weights] == [True] * 3 + [False] * 8


def test_comet_is_asked_once_for_each_text(selector):
    texts = ["oh no", "i am so happy", "oh no"]
    inferred = selector.infer(texts)
    assert list(inferred) == ["oh no", "i am so happy"]
    assert set(inferred["oh no"]) == set(view.RELATIONS)
    assert selector.infer([]) == {}
    assert selector.has_comet and selector.comet_note == ""


def test_a_model_whose_comet_is_gone_ranks_without_and_says_so(model_folder, tmp_path, dialogue):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    shutil.rmtree(folder / "comet")
    selector = selection.Selector(str(folder))
    assert not selector.has_comet and "cannot be loaded" in selector.comet_note
    answer = selector.rank(dialogue, selector.bundled_pack())
    assert len(answer.ranked) == 24
    assert selector.infer(["oh no"]) == {}
    assert selector.comet_note.split(":")[0] in view.chat(
        dialogue, answer, comet_note=selector.comet_note
    ).replace("&#39;", "'")


def test_moves_are_counted_from_before_to_after(dialogue):
    pack = tiles("a", "b", "c")
    before = stub([1, 1], [0, 1, 2], dialogue, pack)
    after = stub([1, 1], [2, 0, 1], dialogue, pack)
    made = selection.moves(before, after)
    assert [(one.sticker.name, one.before, one.after, one.up) for one in made] == [
        ("c", 3, 1, 2), ("a", 1, 2, -1), ("b", 2, 3, -1),
    ]  # fmt: skip
    assert (made[0].score_before, made[0].score_after) == (1.0, 2.0)
    assert view.summarize(before, after) == "c comes first, from place 3."
    assert view.summarize(before, before) == "a stays first. No sticker moves."
    swapped = stub([1, 1], [0, 2, 1], dialogue, pack)
    assert view.summarize(before, swapped) == "a stays first. c rises most, from 3 to 2."


def test_what_people_write_is_text_and_nothing_else():
    evil = "<script>alert(1)</script> & \"quotes\" 'sad' ${1+1} {{7*7}}"
    name = "<img src=x onerror=alert(1)>"
    said = (chat.Turn(0, evil), chat.Turn(1, "so sad"))
    pack = tiles(name, "b")
    answer = stub([0.5, 1.0], [0, 1], said, pack, ({"label": "<joy>", "score": 1.0},))
    after = stub([0.5, 1.0], [1, 0], said, pack, ({"label": "<joy>", "score": 1.0},))
    shown = [
        view.chat(said, answer, {evil: dict.fromkeys(view.RELATIONS, evil)}, evil),
        view.pack(pack, True, [evil], evil),
        view.ranking(answer),
        view.comparison(answer, after, "sad", evil),
        view.no_comparison(evil),
        view.notice(evil),
    ]
    for html in shown:
        assert "<script" not in html and "<img src=x" not in html and "<joy" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34;" in shown[0]


def test_the_dialogue_is_shaded_by_weight_with_the_number_beside():
    said = (chat.Turn(0, "so sad"), chat.Turn(1, "yes"))
    html = view.chat(said, stub([0.2, 0.8], [1, 0], said, tiles("a", "b")))
    assert re.findall(r"--share: ([\d.]+)", html) == ["0.25", "1.00"]
    assert re.findall(r"weight <b>([\d.]+)</b>", html) == ["0.20", "0.80"]
    assert 'data-word="sad"' in html and html.count("data-word") == 1
    assert re.findall(r'data-send="(\d+)" aria-label="Send (\w)"', html) == [("1", "b"), ("0", "a")]
    bare = view.chat(said)
    assert "weight" not in bare and "data-send" not in bare


def test_a_sent_sticker_is_marked_and_no_other_is_suggested():
    pack = tiles("a", "b")
    said = chat.send((chat.Turn(0, "so sad"),), pack.stickers[1])
    answer = stub([1.0], [1, 0], said, pack)
    assert "could send" not in view.chat(said, answer)
    html = view.ranking(answer)
    assert html.count(">sent<") == 1 and html.count("data-send") == 1


def test_the_ranking_shows_scores_captions_emotions_and_the_rest_folded():
    pack = tiles(*"abcdefgh")
    said = (chat.Turn(0, "so sad"),)
    emotions = ({"label": "sadness", "score": 0.75}, {"label": "joy", "score": 0.25})
    answer = stub([1.0], range(8), said, pack, emotions)
    answer.ranked[0]["caption"] = "BOO HOO"
    html = view.ranking(answer)
    shown, _, rest = html.partition("<details")
    assert re.findall(r'class="place">(\d)', shown) == list("123456")
    assert re.findall(r'class="place">(\d)', rest) == list("78")
    assert "All 8" in rest and "reads “BOO HOO”" in shown and "2.000" in shown
    assert "75.0 %" in html and html.index("75.0 %") < html.index("25.0 %")
    assert "12 ms" in html
    assert "Emotion" not in view.ranking(stub([1.0], range(8), said, pack))


def test_a_comparison_strikes_the_word_and_shows_both_sides():
    pack = tiles("a", "b")
    said = (chat.Turn(0, "so sad"), chat.Turn(1, "yes"))
    feelings = ({"label": "sadness", "score": 0.75},), ({"label": "joy", "score": 0.5},)
    before = stub([1, 1], [0, 1], said, pack, feelings[0])
    after = stub([1, 1], [1, 0], said, pack, feelings[1])
    html = view.comparison(before, after, "sad", "")
    assert "<del>sad</del>" in html and "<ins>" not in html and html.count("<li>so") == 1
    assert "With “sad”" in html and "Without “sad”" in html
    assert "sadness 75.0 %" in html and "joy 50.0 %" in html
    assert "▲ 1" in html and "▼ 1" in html and "b comes first, from place 2." in html
    assert re.findall(r'class="name">(\w)<', html) == ["a", "b", "b", "a"]
    assert "<ins>glad</ins>" in view.comparison(before, after, "sad", "glad")


def test_the_front_matter_fits_what_is_installed():
    card = metadata_load(SPACE / "README.md")
    pins = dict(
        line.partition(";")[0].strip().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    pins = {name.lower(): version for name, version in pins.items()}
    assert card["sdk"] == "gradio" and card["sdk_version"] == pins["gradio"]
    assert (SPACE / card["app_file"]).is_file()
    assert card["license"] == "apache-2.0" and len(card["short_description"]) <= 60
    for line in (SPACE / "requirements.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        assert pins[name] == version


def test_the_space_needs_no_package_of_ours():
    ours = re.compile(r"^\s*(?:from|import) (?:modeling_cks|dataset_mod|hub_cards)\b", re.MULTILINE)
    sources = list(SPACE.glob("*.py"))
    assert len(sources) >= 5
    assert [path.name for path in sources if ours.search(path.read_text())] == []


def test_requests_that_the_page_never_makes_are_refused():
    pytest.importorskip("starlette")
    import doors
    from starlette.testclient import TestClient

    async def inner(scope, receive, send):
        await doors.PlainTextResponse("inside")(scope, receive, send)

    client = TestClient(doors.Doors(inner))
    assert client.get("/gradio_api/queue/data").text == "inside"
    assert client.post("/gradio_api/queue/join", content=b"x").text == "inside"
    for way in ("upload", "file=/etc/passwd", "file/etc/passwd", "proxy=http://a.org", "stream/1"):
        assert client.get(f"/gradio_api/{way}").status_code == 403
        assert client.post(f"/gradio_api/{way}", content=b"x").status_code == 403
    huge = {"content-length": str(doors.MAX_REQUEST + 1)}
    assert client.post("/gradio_api/queue/join", headers=huge, content=b"x").status_code == 413
    endless = client.post("/gradio_api/queue/join", content=iter([b"a", b"b"]))
    assert endless.status_code == 411
