# SPDX-License-Identifier: Apache-2.0
import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_cks
from transformers import pipeline

import modeling_cks  # noqa: F401 (registers the pipeline)
from modeling_cks.knowledge import RELATIONS, MissingKnowledgeError

DIALOGUE = ["i am so happy today !", "oh no , that is sad", "you make me angry"]


def sticker(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_cks(tmp_path_factory.mktemp("made"))


@pytest.fixture
def select(made):
    model, processor = made
    model.train()  # what the pipeline is handed need not be in evaluation mode
    return pipeline("sticker-selection", model=model, processor=processor)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "stickers").mkdir()
    for number in range(5):
        sticker(number).save(tmp_path / "stickers" / f"{number}.png")
    return tmp_path / "stickers"


def test_equals_the_model_called_directly(select, made):
    model, processor = made
    stickers = {f"s{n}": sticker(n) for n in range(5)}
    captions = {"s0": "happy", "s3": "oh no you"}
    answer = select(DIALOGUE, stickers=stickers, captions=captions)
    assert not model.training
    inputs = processor(
        DIALOGUE, list(stickers.values()), [captions.get(name, "") for name in stickers]
    )
    with torch.no_grad():
        output = model(**inputs)
    scores = output.scores[0]
    order = scores.argsort(descending=True, stable=True).tolist()
    assert [each["position"] for each in answer["stickers"]] == order
    assert [each["name"] for each in answer["stickers"]] == [f"s{n}" for n in order]
    assert [each["rank"] for each in answer["stickers"]] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(
        [each["score"] for each in answer["stickers"]], scores[order], atol=1e-5
    )
    assert {each["name"]: each["caption"] for each in answer["stickers"]}["s3"] == "oh no you"
    shares = output.candidate_emotion_logits[0, order[0]].softmax(-1)
    assert answer["emotion"]["label"] == model.config.id2label[int(shares.argmax())]
    assert answer["emotion"] == answer["emotions"][0]
    assert sum(each["score"] for each in answer["emotions"]) == pytest.approx(1)
    for each in answer["emotions"]:
        place = model.config.label2id[each["label"]]
        assert each["score"] == pytest.approx(shares[place].item(), abs=1e-5)
    weights = [turn["weight"] for turn in answer["utterances"]]
    np.testing.assert_allclose(weights, output.utterance_weights[0], atol=1e-5)
    assert [turn["text"] for turn in answer["utterances"]] == DIALOGUE
    assert all(turn["inferences"] is None for turn in answer["utterances"])


def test_all_forms_of_stickers_give_one_answer(select, folder):
    files = sorted(folder.iterdir())
    table = datasets.Dataset.from_dict(
        {"id": list("01234"), "image": [str(file) for file in files], "caption": [""] * 5}
    ).cast_column("image", datasets.Image())
    forms = {
        "folder": folder,
        "name of a folder": str(folder),
        "files": files,
        "names of files": [str(file) for file in files],
        "images": [sticker(n) for n in range(5)],
        "mapping": {file.name: file for file in files},
        "table": table,
        "pack": select.load_stickers(folder),
    }
    wanted = None
    for name, form in forms.items():
        answer = select(DIALOGUE, stickers=form)
        found = [(each["position"], round(each["score"], 5)) for each in answer["stickers"]]
        wanted = wanted or found
        assert found == wanted, name
    names = {each["name"] for each in select(DIALOGUE, stickers=folder)["stickers"]}
    assert names == {file.name for file in files}


def test_a_tables_captions_are_read(select):
    table = datasets.Dataset.from_dict(
        {"name": ["a", "b"], "image": [sticker(0), sticker(1)], "caption": ["happy", None]}
    )
    answer = select(DIALOGUE, stickers=table)
    assert {each["name"]: each["caption"] for each in answer["stickers"]} == {"a": "happy", "b": ""}


def test_top_k_and_several_dialogues(select, folder):
    whole = select(DIALOGUE, stickers=folder)
    assert select(DIALOGUE, stickers=folder, top_k=2)["stickers"] == whole["stickers"][:2]
    answers = select([DIALOGUE, ["hello"]], stickers=folder, top_k=1)
    assert [len(answer["stickers"]) for answer in answers] == [1, 1]
    assert answers[0]["stickers"] == whole["stickers"][:1]
    assert [len(answer["utterances"]) for answer in answers] == [3, 1]
    for bad in (0, -1, "3"):
        with pytest.raises(ValueError, match="top_k"):
            select(DIALOGUE, stickers=folder, top_k=bad)


def test_explains_the_three_most_emotional_utterances(select, folder):
    dialogue = [*DIALOGUE, "thank you", ""]
    answer = select(dialogue, stickers=folder, explain=True)
    told = [turn for turn in answer["utterances"] if turn["inferences"] is not None]
    assert len(told) == 3
    assert all(set(turn["inferences"]) == set(RELATIONS) for turn in told)
    spoken = [turn for turn in answer["utterances"] if turn["text"]]
    least = min(spoken, key=lambda turn: turn["weight"])
    assert least["inferences"] is None and answer["utterances"][-1]["inferences"] is None


def test_repeated_calls_use_what_was_encoded_and_are_equal(select, folder, made):
    encoded = []
    hook = made[0].visual_extractor.clip.register_forward_pre_hook(
        lambda _, a, k: encoded.append(len(k["pixel_values"])), with_kwargs=True
    )
    try:
        first = select(DIALOGUE, stickers=folder)
        assert encoded == [5]
        assert select(DIALOGUE, stickers=folder) == first
        select(DIALOGUE, stickers=[sticker(3), sticker(3), sticker(9)])
        assert encoded == [5, 1]
    finally:
        hook.remove()


def test_earlier_stickers_count(select, folder, made):
    plain = select(DIALOGUE, stickers=folder)
    turns = [{"text": text} for text in DIALOGUE]
    turns[1]["sticker"] = folder / "2.png"
    shown = select(turns, stickers=folder)
    score = {each["name"]: each["score"] for each in plain["stickers"]}
    moved = [abs(each["score"] - score[each["name"]]) for each in shown["stickers"]]
    assert max(moved) > 1e-4 and len(moved) == 5
    model, processor = made
    with torch.no_grad():
        scores = model(**processor(turns, sorted(folder.iterdir()), [""] * 5)).scores[0]
    for each in shown["stickers"]:
        assert each["score"] == pytest.approx(scores[each["position"]].item(), abs=1e-5)


def test_broken_input_is_named(select, folder):
    (folder / "notes.txt").write_text("not a sticker, and left out")
    assert len(select(DIALOGUE, stickers=folder)["stickers"]) == 5
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="3.png"):
        select(DIALOGUE, stickers=folder)
    (folder / "empty").mkdir()
    for stickers, says in (
        (folder / "empty", "no sticker"),
        (folder / "gone", "gone"),
        ([], "no sticker"),
        (None, "give `stickers`"),
        (5, "folder, files, images or a table"),
        (datasets.Dataset.from_dict({"name": ["a"]}), "no column `image`"),
    ):
        with pytest.raises(ValueError, match=says):
            select(DIALOGUE, stickers=stickers)
    with pytest.raises(ValueError, match="captions name stickers that are not there: x"):
        select(DIALOGUE, stickers=[sticker(0)], captions={"x": "y"})
    with pytest.raises(ValueError, match="no turn"):
        select([], stickers=[sticker(0)])
    with pytest.raises(TypeError, match="top_n"):
        select(DIALOGUE, stickers=[sticker(0)], top_n=3)


def test_without_comet_only_when_asked(made, tmp_path, folder):
    model, processor = made
    processor.save_pretrained(tmp_path / "p")
    lone = type(processor).from_pretrained(tmp_path / "p")
    lone.comet = None
    select = pipeline("sticker-selection", model=model, processor=lone)
    with pytest.raises(MissingKnowledgeError, match="knowledge=False"):
        select(DIALOGUE, stickers=folder)
    answer = select(DIALOGUE, stickers=folder, knowledge=False)
    with torch.no_grad():
        inputs = processor(DIALOGUE, sorted(folder.iterdir()), [""] * 5, knowledge=False)
        best = int(model(**inputs).scores[0].argmax())
    assert answer["stickers"][0]["position"] == best


def test_captions_for_all_need_no_ocr(made, folder):
    model, processor = made
    select = pipeline("sticker-selection", model=model, processor=processor)

    class Refuses:
        def read(self, images):
            assert not images

    before, processor._reader = processor._reader, Refuses()
    try:
        captions = {file.name: "happy" for file in folder.iterdir()}
        select(DIALOGUE, stickers=folder, captions=captions)
    finally:
        processor._reader = before


def test_lean_models_answer_too(tmp_path, folder):
    model, processor = tiny_cks(
        tmp_path, use_keue=False, use_emotion=False, use_ocr=False, use_knowledge=False
    )
    answer = pipeline("sticker-selection", model=model, processor=processor)(
        DIALOGUE, stickers=folder
    )
    assert answer["emotion"] is None and answer["emotions"] == []
    assert all(turn["weight"] is None for turn in answer["utterances"])
    assert all(each["caption"] is None for each in answer["stickers"])


def test_in_bfloat16(tmp_path, folder):
    model, processor = tiny_cks(tmp_path)
    exact = pipeline("sticker-selection", model=model, processor=processor)
    wanted = {each["name"]: each["score"] for each in exact(DIALOGUE, stickers=folder)["stickers"]}
    rough = pipeline("sticker-selection", model=model.to(torch.bfloat16), processor=processor)
    for each in rough(DIALOGUE, stickers=folder)["stickers"]:
        assert each["score"] == pytest.approx(wanted[each["name"]], abs=0.1)
