# SPDX-License-Identifier: Apache-2.0
"""A chat turn by turn: it answers as the pipeline does, and reads nothing twice."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import TEXTS, tiny_cks
from transformers import pipeline

import modeling_cks  # noqa: F401 (registers the pipeline)
from modeling_cks.sticker_pack import StickerPack, join_words

CONFIGURATIONS = {
    "full": {},
    "joint": {"joint_attention": True},
    "no keue": {"use_keue": False},
    "no knowledge": {"use_knowledge": False},
    "no history": {"sticker_history": False},
    "no ocr": {"use_ocr": False},
    "no contrast": {"use_itc": False},
    "no encoder": {"use_itm": False, "use_emotion": False},
}
WORDS = [word for text in TEXTS for word in text.split()]


def sticker(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def build(folder, **changes):
    model, processor = tiny_cks(folder, **changes)
    return pipeline("sticker-selection", model=model, processor=processor)


@pytest.fixture(scope="module")
def select(tmp_path_factory):
    return build(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def pack(select):
    stickers = {f"s{number}": sticker(number) for number in range(5)}
    return select.load_stickers(stickers, captions={"s0": "happy", "s3": "oh no you are sad"})


def utterance(number):
    return " ".join(WORDS[(7 * number + place) % len(WORDS)] for place in range(4))


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
    assert [(each["speaker"], each["text"]) for each in found["utterances"]] == [
        (each["speaker"], each["text"]) for each in wanted["utterances"]
    ]
    weights = [[each["weight"] for each in answer["utterances"]] for answer in (found, wanted)]
    if weights[1][0] is None:
        assert weights[0] == weights[1]
    else:
        np.testing.assert_allclose(*weights, atol=1e-5)


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_every_turn_is_answered_as_without_memory(changes, tmp_path):
    select = build(tmp_path, **changes)
    pack = select.load_stickers([sticker(number) for number in range(4)], captions=None)
    chat, turns = select.conversation(pack), []
    # More turns than the model reads (8), of a speaker who speaks twice in a row, with stickers of
    # the pack, by name, and of neither; some texts are said again.
    for number in range(12):
        turn = {
            "speaker": (number // 2 + number % 3) % 2,
            "text": utterance(number % 9),
            "sticker": {2: "sticker 1", 5: sticker(77), 6: "sticker 3"}.get(number),
        }
        turns.append(turn)
        chat.say(**turn)
        if number % 2 == 0:
            chat.prepare()
        select._known.clear()
        same(chat.select(), select(turns, pack))
    assert [turn["text"] for turn in chat.turns] == [turn["text"] for turn in turns[-8:]]


def test_the_options_of_a_call_are_those_of_a_chat(select, pack):
    chat = select.conversation(pack, match_best=2, knowledge=False)
    for number in range(3):
        chat.say(utterance(number))
    turns = [utterance(number) for number in range(3)]
    found = chat.select(top_k=3)
    same(found, select(turns, pack, match_best=2, knowledge=False, top_k=3))
    assert found["stickers"][1]["score"] > 0 > found["stickers"][2]["score"]
    explained = chat.select(explain=True)["utterances"]
    assert explained[0]["inferences"] and all(each["inferences"] for each in explained)


def test_what_is_known_is_not_computed_again(select, pack, monkeypatch):
    encoded, asked, seen = [], [], []
    model, processor = select.model, select.processor
    spy(monkeypatch, model, "encode_utterances", lambda ids, mask: encoded.append(len(ids)))
    spy(monkeypatch, processor, "knowledge_features", lambda texts: asked.append(len(texts)))
    spy(monkeypatch, model, "encode_stickers", lambda pixels: seen.append(len(pixels)))
    spy(monkeypatch, processor, "encode_captions", lambda texts: seen.append("words"))
    chat = select.conversation(StickerPack(pack.names, pack.captions, pack.embeds))
    chat.say("so happy today")
    chat.say("oh no", sticker=sticker(50))
    chat.select()
    before = list(seen)
    chat.select()
    chat.say("thank you so much")
    chat.prepare()
    chat.select()
    chat.say("so happy today", speaker=0)  # as the first turn: what was said is known
    chat.select()
    assert encoded == asked == [2, 1]
    # The sticker was encoded when it was sent, and the words of the pack tokenized once.
    assert seen.count(1) == 1 and before[0] == 1
    assert seen.count("words") == 1 + 4  # the pack's; one sticker's own at each select


def spy(monkeypatch, owner, name, note):
    whole = getattr(owner, name)

    def noted(*arguments):
        note(*arguments)
        return whole(*arguments)

    monkeypatch.setattr(owner, name, noted)


def test_a_long_chat_stays_small(select, pack):
    chat = select.conversation(pack)
    for number in range(1000):
        chat.say(f"{utterance(number)} {number}", sticker="s1" if number % 3 == 0 else None)
        if number % 100 == 99:
            chat.select(top_k=1)
    assert len(chat.turns) == len(chat._shown) == 8
    assert len(chat._features._known) == len(chat._knowledge._known) == 8


def test_several_dialogues_are_chosen_for_in_one_pass_and_not_mixed_up(select, pack, monkeypatch):
    dialogues = [
        [{"speaker": 0, "text": utterance(1), "sticker": None}],
        [
            {"speaker": number % 2, "text": utterance(number), "sticker": shown}
            for number, shown in enumerate(["s2", None, sticker(60), None])
        ],
        [{"speaker": 1, "text": utterance(n), "sticker": None} for n in range(2)],
    ]
    calls = []
    hook = select.model.register_forward_hook(lambda *_: calls.append(1))
    together = select.choose(dialogues, pack)
    hook.remove()
    assert len(calls) == 1
    for turns, found in zip(dialogues, together, strict=True):
        same(found, select(turns, pack))


class Nearest:
    """An index by comparison with everything."""

    def __init__(self, pack):
        self.pack, self.asked, self.checked = pack, [], []

    def check_model(self, model):
        self.checked.append(model)

    def missing(self, names):
        return [name for name in names if self.pack.place(name) is None]

    def get(self, names):
        places = [self.pack.place(name) for name in names]
        return StickerPack(
            names, [self.pack.captions[place] for place in places], self.pack.embeds[places]
        )

    def nearest(self, embeds, count, packs=None):
        self.asked.append((embeds, count, packs))
        similar = torch.nn.functional.cosine_similarity(
            embeds[:, None], self.pack.embeds[None], dim=-1
        )
        return [
            StickerPack(
                [self.pack.names[place] for place in order],
                [self.pack.captions[place] for place in order],
                self.pack.embeds[order],
            )
            for order in similar.argsort(descending=True, stable=True)[:, :count].tolist()
        ]


def test_an_index_gives_the_nearest_and_they_are_ranked(select, pack):
    index = Nearest(pack)
    dialogue = [
        {"speaker": 0, "text": utterance(1), "sticker": sticker(50)},
        {"speaker": 1, "text": utterance(2)},
    ]
    found = select(dialogue, index, candidates=3, packs=["a"])
    ((embeds, count, packs),) = index.asked
    assert (count, packs, index.checked) == (3, ["a"], [select.model])
    whole = select(dialogue, pack)
    # h~_T is the model's own.
    tensors = select.preprocess({"dialogue": dialogue}, pack)["tensors"]
    with torch.no_grad():
        output = select.model(**tensors)
    torch.testing.assert_close(embeds, output.dialogue_embeds, atol=1e-5, rtol=0)
    best = output.contrastive_logits[0].argsort(descending=True)[:3].tolist()
    assert {each["name"] for each in found["stickers"]} == {pack.names[place] for place in best}
    # Ranked as if only these had been there.
    chosen = Nearest(pack).nearest(embeds, 3)[0]
    same(found, select(dialogue, chosen))
    assert len(whole["stickers"]) == 5
    chat = select.conversation(index, candidates=3, packs=["a"])
    for turn in dialogue:
        chat.say(**turn)
    same(chat.select(), found)
    together = select.choose([chat.turns, chat.turns[1:]], index, candidates=3)
    same(together[0], found)
    same(together[1], select(dialogue[1:], index, candidates=3))
    named = [{**dialogue[0], "sticker": "s3"}, dialogue[1]]
    same(select(named, index, candidates=5), select(named, Nearest(pack).nearest(embeds, 5)[0]))


def test_bad_turns_and_options_are_named(select, pack):
    chat = select.conversation(pack)
    with pytest.raises(ValueError, match="nothing was said"):
        chat.select()
    with pytest.raises(ValueError, match="speaker"):
        chat.say("hello", speaker=3)
    with pytest.raises(ValueError, match="none.png"):
        chat.say("hello", sticker="none.png")
    assert chat.turns == []
    with pytest.raises(ValueError, match="match_best"):
        select.conversation(pack, match_best=0)
    with pytest.raises(ValueError, match="captions of an index"):
        select(["hello"], Nearest(pack), captions={"a": "b"})


def test_a_pack_finds_its_stickers_and_tokenizes_once(select):
    pack = StickerPack(["a", "b", "a"], ["happy", None, "sad"], torch.zeros(3, 2))
    assert (pack.place("a"), pack.place("b"), pack.place("c")) == (0, 1, None)
    words = pack.words(select.processor)
    assert pack.words(select.processor) is words
    assert words["ocr_attention_mask"].sum(1).tolist()[1] == 0
    wider = {name: torch.ones(1, 9, dtype=torch.long) for name in words}
    joined = join_words([words, wider])
    width = words["ocr_input_ids"].shape[1]
    assert joined["ocr_input_ids"].shape == (4, 9)
    assert torch.equal(joined["ocr_input_ids"][:3, :width], words["ocr_input_ids"])
    assert not joined["ocr_attention_mask"][:3, width:].any()
    with pytest.raises(ValueError, match="3 features"):
        StickerPack(["a"], [None], torch.zeros(3, 2))
