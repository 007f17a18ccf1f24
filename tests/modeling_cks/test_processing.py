# SPDX-License-Identifier: Apache-2.0
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_comet import tiny_comet
from tiny_model import tiny_cks
from transformers import AutoProcessor

from modeling_cks import CKSProcessor
from modeling_cks.knowledge import KnowledgeExtractor, MissingKnowledgeError
from modeling_cks.ocr import StickerTextReader
from modeling_cks.processing_cks import read_dialogue


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_cks(tmp_path_factory.mktemp("made"))


@pytest.fixture
def processor(made):
    parts = made[1]
    return CKSProcessor(
        parts.image_processor, parts.tokenizer, parts.bert_tokenizer, comet=parts.comet,
        knowledge_size=32, ocr="none", max_utterances=3, max_utterance_tokens=8,
        max_dialogue_tokens=10, max_ocr_tokens=4,
    )  # fmt: skip


def sticker(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Engine:
    """Reads every image as its number, and remembers how many it was shown."""

    name, settings = "counting", {}

    def __init__(self):
        self.seen = 0

    def read(self, images):
        self.seen += len(images)
        return [f"happy {image.getpixel((0, 0))[0]}" for image in images]


def test_reads_every_form_of_dialogue():
    strings = read_dialogue(["a", "b", "c"])
    assert [turn["speaker"] for turn in strings] == [0, 1, 0]
    turns = read_dialogue(
        [
            {"text": "a", "speaker": 1},
            {"txt": "b"},
            {"txt": "c", "speaker_id": "[speaker2]", "sticker": "x.png"},
            {"speaker_id": "[speaker1]"},
        ]
    )
    assert [turn["speaker"] for turn in turns] == [1, 0, 1, 0]
    assert [turn["text"] for turn in turns] == ["a", "b", "c", ""]
    assert turns[2]["sticker"] == "x.png"


@pytest.mark.parametrize(
    "dialogue, says",
    [
        ([], "no turn"),
        ("hello", "list of turns"),
        ({"text": "a"}, "list of turns"),
        (["a", 3], "turn 1"),
        ([{"text": "a", "speaker": 2}], "turn 0"),
        ([{"text": 5}], "turn 0"),
        ([["a"], []], "dialogue 1: the dialogue has no turn"),
        ([["a"], [{"text": "b", "speaker": "me"}]], "dialogue 1: turn 0"),
    ],
)
def test_bad_dialogues_are_named(processor, dialogue, says):
    with pytest.raises(ValueError, match=says) as caught:
        processor(dialogue)
    assert "\n" not in str(caught.value)


def test_bad_stickers_are_named(processor, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for stickers, says in (
        ([sticker(), broken], "sticker 1: .*broken.png"),
        ([sticker(), tmp_path / "gone.png"], "sticker 1: .*gone.png"),
        ([3], "sticker 0"),
        (str(broken), "list of stickers"),
        (sticker(), "list of stickers"),
    ):
        with pytest.raises(ValueError, match=says):
            processor(["a"], stickers, knowledge=False)
    with pytest.raises(ValueError, match="turn 0: .*broken.png"):
        processor([{"text": "a", "sticker": broken}], knowledge=False)
    with pytest.raises(ValueError, match="2 captions were given for 1"):
        processor(["a"], [sticker()], captions=["x", "y"], knowledge=False)


def test_tensors_of_a_batch(processor):
    data = processor(
        [["i am happy", "oh no", "i am happy"], ["oh no"]], [sticker(0), sticker(1)], ["you", ""]
    )
    # The third turn says what the first says, by the same speaker; "oh no" has two speakers.
    assert data["utterances"].tolist() == [[0, 1, 0], [2, -1, -1]]
    assert data["speaker_ids"].tolist() == [[0, 1, 0], [0, 0, 0]]
    decoded = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(
            data["utterance_input_ids"], data["utterance_attention_mask"], strict=True
        )
    ]
    assert decoded == [
        "[CLS] [speaker1] i am happy [SEP]",
        "[CLS] [speaker2] oh no [SEP]",
        "[CLS] [speaker1] oh no [SEP]",
    ]
    words = processor.bert_tokenizer.decode(
        data["dialogue_input_ids"][0][data["dialogue_attention_mask"][0].bool()]
    )
    assert words == "i am happy [speaker2] oh no [speaker1] i am happy"  # the newest ten tokens
    assert int(data["dialogue_attention_mask"][0].sum()) == 10
    assert data["candidates"].tolist() == [[0, 1], [0, 1]]
    assert data["history"].eq(-1).all()
    assert data["pixel_values"].shape == (2, 3, 32, 32)
    assert data["ocr_attention_mask"].sum(1).tolist() == [1, 0]
    assert data["knowledge"].shape == (3, 2, 32)


def test_truncation_keeps_the_newest(processor):
    long = [f"oh {word}" for word in ("happy", "sad", "angry", "you", "me")]
    kept = processor(long, knowledge=False)
    newest = processor(
        [{"text": text, "speaker": who} for text, who in zip(long[2:], (0, 1, 0), strict=True)],
        knowledge=False,
    )
    for name in kept:
        assert torch.equal(kept[name], newest[name]), name
    tail = processor(["what a surprise party for me today"], knowledge=False)
    assert tail["utterance_input_ids"].shape[1] == 8
    assert tail["utterance_input_ids"][0, -1] == processor.tokenizer.sep_token_id
    many = processor(["a surprise party"] * 3, knowledge=False)["dialogue_input_ids"][0]
    whole = processor.bert_tokenizer(
        "".join(f"[speaker{n}] a surprise party" for n in (1, 2, 1)), add_special_tokens=False
    )["input_ids"]
    assert many.tolist() == whole[-10:]
    # A sticker of a turn that was dropped is dropped with it, and others keep their turn.
    turns = [{"text": "a", "sticker": sticker(n)} if n in (0, 3) else "b" for n in range(5)]
    data = processor(turns, knowledge=False)
    assert data["history"].tolist() == [[-1, 0, -1]] and len(data["pixel_values"]) == 1


def test_earlier_stickers_are_added_once(processor):
    turns = [{"text": "a", "sticker": sticker(1)}, {"text": "b", "sticker": sticker(7)},
             {"text": "c"}]  # fmt: skip
    data = processor([turns, turns], [sticker(0), sticker(1)], ["x", "y"], knowledge=False)
    assert data["history"].tolist() == [[1, 2, -1]] * 2
    assert len(data["pixel_values"]) == len(data["ocr_input_ids"]) == 3
    assert data["candidates"].tolist() == [[0, 1]] * 2


def test_captions_take_the_place_of_ocr_and_images_are_read_once(processor):
    engine = Engine()
    processor._reader = StickerTextReader(engine)
    images = [sticker(0), sticker(1), sticker(0), sticker(2)]
    read = processor(["a"], images, [None, "oh no", None, None], knowledge=False)
    assert engine.seen == 2
    texts = [f"happy {sticker(0).getpixel((0, 0))[0]}", "oh no"]
    wanted = processor.encode_captions(texts)
    width = wanted["ocr_input_ids"].shape[1]
    assert torch.equal(read["ocr_input_ids"][:2, :width], wanted["ocr_input_ids"])
    assert torch.equal(read["ocr_input_ids"][0], read["ocr_input_ids"][2])
    processor(["a"], images, knowledge=False)
    assert engine.seen == 3  # the one that had a caption
    processor(["a"], images, ["x"] * 4, knowledge=False)
    assert engine.seen == 3


def test_a_caption_that_is_too_long_is_cut_behind(processor):
    data = processor.encode_captions(["oh no oh no oh no", ""])
    assert data["ocr_attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert processor.encode_captions(["", ""])["ocr_input_ids"].shape == (2, 0)


def test_stickers_without_words_run_through_the_model(made):
    model, processor = made
    data = processor(["a", "b"], [sticker(0), sticker(1)])
    assert data["ocr_input_ids"].shape[1] == 0
    scores = model(**data).scores
    assert torch.isfinite(scores).all()
    data["ocr_input_ids"] = torch.full((2, 3), 5)
    data["ocr_attention_mask"] = torch.zeros(2, 3, dtype=torch.long)
    torch.testing.assert_close(model(**data).scores, scores)


def test_knowledge_is_comets_and_zero_when_not_wanted(processor, made):
    texts = ["i am happy", "oh no"]
    data = processor(texts)
    wanted = KnowledgeExtractor.from_pretrained(processor.comet).features(texts)
    np.testing.assert_allclose(data["knowledge"], wanted, atol=1e-6)
    without = processor(texts, knowledge=False)["knowledge"]
    assert without.shape == (2, 2, 32) and without.eq(0).all()


def test_missing_comet_says_what_to_do(processor, tmp_path, made):
    processor.comet = str(tmp_path / "nowhere")
    with pytest.raises(MissingKnowledgeError, match="nowhere"):
        processor(["a"])
    processor.comet = None
    with pytest.raises(MissingKnowledgeError, match="knowledge=False"):
        _ = processor.knowledge_extractor
    with pytest.raises(ValueError, match="COMET.*knowledge=False"):
        made[0](**processor(["a"], [sticker()]))


def test_comet_of_another_size_is_refused(processor, tmp_path):
    processor.comet = str(tiny_comet(tmp_path / "small", hidden_size=16))
    with pytest.raises(ValueError, match="size 16.*32"):
        processor(["a"])


def test_comets_folder_is_copied_and_moves_along(processor, tmp_path):
    wanted = processor(["i am happy"])["knowledge"]
    processor.save_pretrained(tmp_path / "first")
    assert processor.comet.endswith("comet") and Path(processor.comet).is_dir()
    shutil.move(tmp_path / "first", tmp_path / "moved")
    loaded = AutoProcessor.from_pretrained(tmp_path / "moved")
    assert type(loaded) is CKSProcessor
    torch.testing.assert_close(loaded(["i am happy"])["knowledge"], wanted)
    # Also from there, after use, and over itself.
    loaded.save_pretrained(tmp_path / "second")
    loaded.save_pretrained(tmp_path / "moved")
    for folder in ("second", "moved"):
        again = CKSProcessor.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(again(["i am happy"])["knowledge"], wanted)
    shutil.rmtree(tmp_path / "second" / "comet")
    with pytest.raises(MissingKnowledgeError, match="comet"):
        CKSProcessor.from_pretrained(tmp_path / "second")(["a"])


def test_a_name_stays_a_name(processor, tmp_path):
    processor.comet = "someone/comet"
    processor.save_pretrained(tmp_path)
    assert not (tmp_path / "comet").exists()
    assert CKSProcessor.from_pretrained(tmp_path).comet == "someone/comet"


def test_settings_survive_and_unknown_ones_are_refused(processor, tmp_path):
    processor(["a"], [sticker()])
    processor.ocr_cache_path = str(tmp_path / "cache.json")
    processor.save_pretrained(tmp_path / "saved")
    loaded = CKSProcessor.from_pretrained(tmp_path / "saved")
    for name in ("ocr", "comet_feature", "comet_gen_token", "knowledge_size", "max_utterances",
                 "max_utterance_tokens", "max_dialogue_tokens", "max_ocr_tokens"):  # fmt: skip
        assert getattr(loaded, name) == getattr(processor, name)
    assert loaded.ocr_cache_path is None
    one, other = processor(["a", "b"], [sticker()]), loaded(["a", "b"], [sticker()])
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)
    with pytest.raises(TypeError, match="max_utterance"):
        CKSProcessor(
            processor.image_processor, processor.tokenizer, processor.bert_tokenizer,
            max_utterance=3,
        )  # fmt: skip


def test_tokenizers_must_know_the_speakers(processor):
    from modeling_cks.backbones import train_tokenizer

    plain = train_tokenizer(["a b c"])
    bare = type(plain)(tokenizer_object=type(plain.backend_tokenizer).from_str(
        plain.backend_tokenizer.to_str().replace("[speaker2]", "[speakerX]")
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"bert_tokenizer does not know \[speaker2\]"):
        CKSProcessor(processor.image_processor, processor.tokenizer, bare)
