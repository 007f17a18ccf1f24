# SPDX-License-Identifier: Apache-2.0
import json
import re

import chat
import pytest
from PIL import Image
from space_folder import SPACE

CAT = chat.Sticker("cat", "a cat", Image.new("RGB", (4, 4)), "data:,")


def dialogue(*texts):
    return tuple(chat.Turn(number % 2, text) for number, text in enumerate(texts))


def test_saying_tidies_spaces_and_leaves_what_was_said_alone():
    first = chat.say((), 1, "  Hello \n there ")
    second = chat.say(first, 0, "Hi")
    assert first == (chat.Turn(1, "Hello there"),)
    assert second == (*first, chat.Turn(0, "Hi"))


def test_what_cannot_be_said_is_refused():
    with pytest.raises(ValueError, match="Write something"):
        chat.say((), 0, " \n ")
    with pytest.raises(ValueError, match="300 characters at most; this one has 301"):
        chat.say((), 0, "x" * 301)
    with pytest.raises(ValueError, match="32 turns at most"):
        chat.say(dialogue(*["a"] * 32), 0, "b")


def test_a_sticker_goes_with_the_last_turn_and_is_taken_back_first():
    said = dialogue("a", "b")
    sent = chat.send(said, CAT)
    assert sent[1].sticker is CAT and sent[0] == said[0]
    assert chat.undo(sent) == said
    assert chat.undo(said) == said[:1]
    assert chat.undo(()) == ()
    with pytest.raises(ValueError, match="no turn yet"):
        chat.send((), CAT)


@pytest.mark.parametrize("text", ["", "So sad, isn't it? SAD!", "nothing here", "happy"])
def test_pieces_join_to_the_text_and_mark_emotional_words(text):
    cut = chat.pieces(text)
    assert "".join(piece.text for piece in cut) == text
    marked = [piece.word for piece in cut if piece.word]
    assert marked == re.findall(r"sad|happy", text, re.IGNORECASE)


def test_words_come_once_with_emotional_ones_first():
    said = dialogue("That FUNNY film, that sad film.", "Isn't it funny?")
    assert chat.words(said) == ["funny", "sad", "that", "film", "isn't", "it"]


def test_the_tempting_word_is_of_the_weightiest_turn_that_has_one():
    said = dialogue("a happy day", "my dog died", "a funny film")
    assert chat.tempting_word(said, [0.1, 0.9, 0.2]) == "funny"
    assert chat.tempting_word(said, [0.3, 0.9, 0.2]) == "happy"
    assert chat.tempting_word(said, [None, None, None]) == "happy"
    assert chat.tempting_word(said[1:2], [1.0]) is None


def test_a_word_is_swapped_wherever_it_is_said_and_whole():
    said = dialogue("Funny, that funny film.", "unfunny", "no")
    changed = chat.swap(said, "funny", "sad")
    assert [turn.text for turn in changed] == ["sad, that sad film.", "unfunny", "no"]
    assert [turn.text for turn in chat.swap(said, "funny")][0] == ", that film."
    assert said[0].text == "Funny, that funny film."
    assert chat.swap(said, "funny", r"\1 g<0>")[0].text.startswith(r"\1 g<0>,")


def test_swapping_keeps_speakers_and_stickers_and_knows_scripts_without_spaces():
    said = chat.send(dialogue("我很开心啊"), CAT)
    changed = chat.swap(said, "开心", "难过")
    assert changed[0].text == "我很难过啊" and changed[0].sticker is CAT
    assert chat.swap(dialogue("what?! no"), "?!", ".")[0].text == "what. no"


@pytest.mark.parametrize(
    ("word", "other", "says"),
    [
        ("", "", "Choose the word"),
        ("cat", "", "Nobody says “cat”"),
        ("fun", "", "Nobody says “fun”"),
        ("no", "", "all that a turn says"),
        ("no", "x" * 301, "300 characters"),
    ],
)
def test_what_cannot_be_swapped_is_said(word, other, says):
    with pytest.raises(ValueError, match=says):
        chat.swap(dialogue("funny", "no"), word, other)


def test_examples_can_be_said_and_name_stickers_of_the_pack():
    index = json.loads((SPACE / "pack" / "pack.json").read_text())["stickers"]
    stickers = [
        chat.Sticker(one["file"].removesuffix(".png"), one["alt"], CAT.image, "") for one in index
    ]
    examples = chat.read_examples(SPACE / "examples.json", stickers)
    assert len(examples) >= 3
    for turns in examples.values():
        again = ()
        for turn in turns:
            again = chat.say(again, turn.speaker, turn.text)
            if turn.sticker:
                again = chat.send(again, turn.sticker)
        assert again == turns
    assert any(turn.sticker for turns in examples.values() for turn in turns)
    assert all(chat.tempting_word(turns, [1] * len(turns)) for turns in examples.values())
