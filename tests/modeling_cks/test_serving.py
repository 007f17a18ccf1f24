# SPDX-License-Identifier: Apache-2.0
"""Simultaneous chats are ranked together, answered as if alone, and never mixed up."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tiny_model import TEXTS, tiny_cks
from transformers import pipeline

import modeling_cks  # noqa: F401 (registers the pipeline)
from modeling_cks.serving import Batcher, FullError, create_app
from modeling_cks.sticker_index import StickerIndex

WORDS = [word for text in TEXTS for word in text.split()]


@pytest.fixture(scope="module")
def select(tmp_path_factory):
    model, processor = tiny_cks(tmp_path_factory.mktemp("made"))
    return pipeline("sticker-selection", model=model, processor=processor)


@pytest.fixture(scope="module")
def pack(select):
    draw = np.random.default_rng(0)
    images = {
        f"s{number}": Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8))
        for number in range(5)
    }
    return select.load_stickers(images, captions={"s1": "oh no"})


@pytest.fixture
def batcher(select, pack):
    made = Batcher(select, pack, max_batch=8, max_waiting=40)
    yield made
    made.close()


def dialogue(number):
    return [
        {"speaker": turn % 2, "text": " ".join(WORDS[(number * 5 + turn * 3) % 50 :][:4]),
         "sticker": f"s{number % 5}" if turn == 1 and number % 2 else None}
        for turn in range(1 + number % 4)
    ]  # fmt: skip


def same(found, wanted):
    assert [each["name"] for each in found["stickers"]] == [
        each["name"] for each in wanted["stickers"]
    ]
    for name in ("stickers", "emotions"):
        np.testing.assert_allclose(
            [each["score"] for each in found[name]],
            [each["score"] for each in wanted[name]],
            atol=1e-5,
        )
    assert [each["text"] for each in found["utterances"]] == [
        each["text"] for each in wanted["utterances"]
    ]


class Gate:
    """Holds the batcher's first choice until it is told to go on."""

    def __init__(self, select, monkeypatch):
        self.entered, self.go, self.sizes = threading.Event(), threading.Event(), []
        choose = select.choose

        def held(dialogues, *arguments, **options):
            self.sizes.append(len(dialogues))
            self.entered.set()
            assert self.go.wait(30)
            return choose(dialogues, *arguments, **options)

        monkeypatch.setattr(select, "choose", held)


def test_what_waits_is_ranked_together_and_as_alone(select, pack, batcher, monkeypatch):
    wanted = [select(dialogue(number), pack, top_k=1 + number % 5) for number in range(20)]
    gate = Gate(select, monkeypatch)
    futures = [batcher.submit(dialogue(0), top_k=1)]
    assert gate.entered.wait(30)
    futures += [batcher.submit(dialogue(n), top_k=1 + n % 5) for n in range(1, 20)]
    assert batcher.waiting == 19
    gate.go.set()
    for future, each in zip(futures, wanted, strict=True):
        same(future.result(60), each)
    assert gate.sizes == [1, 8, 8, 3] and batcher.batches == 4


def test_only_what_is_asked_alike_is_ranked_together(select, pack, batcher, monkeypatch):
    gate = Gate(select, monkeypatch)
    futures = [batcher.submit(dialogue(0))]
    assert gate.entered.wait(30)
    futures += [batcher.submit(dialogue(n), explain=n == 2) for n in range(1, 5)]
    gate.go.set()
    answers = [future.result(60) for future in futures]
    assert gate.sizes == [1, 1, 1, 2]
    explained = [any(each["inferences"] for each in one["utterances"]) for one in answers]
    assert explained == [False, False, True, False, False]


def test_one_that_fails_does_not_take_the_others_along(select, pack, batcher, monkeypatch):
    gate = Gate(select, monkeypatch)
    first = batcher.submit(dialogue(0))
    assert gate.entered.wait(30)
    broken = dialogue(1)
    broken[0]["sticker"] = "none.png"
    futures = [batcher.submit(dialogue(2)), batcher.submit(broken), batcher.submit(dialogue(3))]
    futures[2].cancel()
    gate.go.set()
    first.result(60)
    same(futures[0].result(60), select(dialogue(2), pack))
    with pytest.raises(ValueError, match="none.png"):
        futures[1].result(60)
    assert futures[2].cancelled()


def test_more_than_may_wait_are_refused_and_closing_answers_the_rest(select, pack, monkeypatch):
    gate = Gate(select, monkeypatch)
    batcher = Batcher(select, pack, max_batch=4, max_waiting=3)
    futures = [batcher.submit(dialogue(0))]
    assert gate.entered.wait(30)
    futures += [batcher.submit(dialogue(n)) for n in range(3)]
    with pytest.raises(FullError):
        batcher.submit(dialogue(4))
    with TestClient(create_app(batcher)) as client:
        refused = client.post("/select", json={"dialogue": ["oh no"]})
        assert refused.status_code == 503 and refused.headers["Retry-After"]
        gate.go.set()
    # Leaving the application has closed the batcher.
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(dialogue(5))
    batcher.close()
    with pytest.raises(ValueError, match="at least 1"):
        Batcher(select, pack, max_batch=0)


def test_over_http_as_the_pipeline_answers(select, pack, batcher):
    with TestClient(create_app(batcher)) as client:
        assert client.get("/health").json() == {"status": "ok", "stickers": 5, "waiting": 0}
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(
                    lambda n: client.post("/select", json={"dialogue": dialogue(n), "top_k": 3}),
                    range(24),
                )
            )
        for number, answer in enumerate(answers):
            assert answer.status_code == 200
            same(answer.json(), select(dialogue(number), pack, top_k=3))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"no json", "no JSON"),
        (b"[" * 200_000, "no JSON"),
        (b"[]", 'no object with a "dialogue"'),
        (b"{}", 'no object with a "dialogue"'),
        (b'{"dialogue": []}', "'dialogue' cannot be []"),
        (b'{"dialogue": "oh no"}', "'dialogue' cannot be"),
        (b'{"dialogue": [3]}', "turn 0"),
        (b'{"dialogue": [{"text": "a", "speaker": 7}]}', "speaker"),
        (b'{"dialogue": [{"text": "a", "speaker": true}]}', "turn 0"),
        (b'{"dialogue": ["a", {"text": 0}]}', "turn 1"),
        (b'{"dialogue": ["\\ud83d"]}', "turn 0: '\\ud83d' holds half of a character"),
        (b'{"dialogue": ["a"], "top_k": 0}', "'top_k' cannot be 0"),
        (b'{"dialogue": ["a"], "top_k": true}', "'top_k' cannot be true"),
        (b'{"dialogue": ["a"], "k": 3}', "no field 'k'"),
        (b'{"dialogue": ["a"], "packs": ["p"]}', "those of an index"),
        (b'{"dialogue": [{"text": "a", "sticker": "/etc/passwd"}]}', "no sticker"),
        (b'{"dialogue": [{"text": "a", "sticker": {"bytes": ""}}]}', "no sticker"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(batcher, body, says):
    with TestClient(create_app(batcher)) as client:
        answer = client.post("/select", content=body)
    assert answer.status_code == 400 and says in answer.json()["error"]


def test_other_requests_and_long_ones(batcher):
    with TestClient(create_app(batcher)) as client:
        assert client.get("/select").status_code == 405
        assert client.get("/nothing").json() == {"error": "Not Found"}
        assert client.post("/select", content=b" " * (1 << 20) + b"{}").status_code == 413


def test_what_goes_wrong_inside_is_told_in_json_and_not_in_full(select, pack, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("secret")

    batcher = Batcher(select, pack)
    monkeypatch.setattr(batcher.select, "choose", broken)
    with TestClient(create_app(batcher), raise_server_exceptions=False) as client:
        answer = client.post("/select", json={"dialogue": ["oh no"]})
    assert answer.status_code == 500 and "log says why" in answer.json()["error"]
    assert "secret" not in answer.text


def test_an_index_is_followed_as_it_changes(select, pack, tmp_path):
    index = StickerIndex.create(tmp_path / "index", 24, select.model)
    index.add(pack.names[:3], pack.embeds[:3], pack.captions[:3], "p")
    batcher = Batcher(select, StickerIndex.open(tmp_path / "index"), candidates=4)
    with TestClient(create_app(batcher)) as client:

        def ask(**more):
            turns = [{"text": "oh no", "sticker": "s1"}, {"text": "thank you"}]
            answer = client.post("/select", json={"dialogue": turns, **more})
            return answer.status_code, answer.json()

        status, answer = ask()
        assert status == 200 and {each["name"] for each in answer["stickers"]} == {"s0", "s1", "s2"}
        index.add(pack.names[3:], pack.embeds[3:], pack.captions[3:], "q")
        assert len(ask()[1]["stickers"]) == 4
        assert {each["name"] for each in ask(packs=["q"])[1]["stickers"]} == {"s3", "s4"}
        assert ask(packs=["r"])[0] == 400
        index.remove(["s3"])
        assert [each["name"] for each in ask(packs=["q"])[1]["stickers"]] == ["s4"]
