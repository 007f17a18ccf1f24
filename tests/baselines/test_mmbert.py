# SPDX-License-Identifier: Apache-2.0
"""MMBERT against BERT itself, and what it must not learn from its masks."""

import numpy as np
import pytest
import torch
from small_world import rows
from tiny_baselines import samples, tiny_baseline

from modeling_cks.baselines.base import dialogue_tokens


@pytest.fixture
def mmbert(tmp_path):
    return tiny_baseline("mmbert", tmp_path)


def by_hand(mmbert, row, sticker):
    """Judge one pair by calling BERT on a sequence put together here."""
    tokenizer, bert = mmbert.tokenizer, mmbert.bert
    words = dialogue_tokens(tokenizer, row["utterances"], 24)
    place = mmbert.inventory.place(sticker)
    written = tokenizer(mmbert.inventory.captions[place], add_special_tokens=False)["input_ids"][:8]
    cls_id, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = torch.tensor([[cls_id, *words, sep, *written, sep]])
    seen = mmbert.vision.clip(pixel_values=mmbert.inventory.pixel_values([place])).pooler_output
    embeds = torch.cat([bert.embeddings.word_embeddings(ids), mmbert.image_map(seen)[None]], 1)
    types = torch.tensor([[0] * (len(words) + 2) + [1] * (len(written) + 2)])
    states = bert(inputs_embeds=embeds, token_type_ids=types).last_hidden_state
    return (
        mmbert.match(states[:, 0]).softmax(-1)[0, 1].item(),
        mmbert.emotion(states[:, -1]).softmax(-1)[0].detach().numpy(),
    )


def test_scores_and_emotions_are_those_of_bert_itself(mmbert):
    given = rows(6)
    found = mmbert.rank(given)
    for number, row in enumerate(given):
        pairs = [by_hand(mmbert, row, sticker) for sticker in row["candidates"]]
        scores = np.array([match for match, _ in pairs])
        np.testing.assert_allclose(found.scores[number], scores, atol=1e-5)
        right = row["candidates"].index(row["sticker_id"])
        np.testing.assert_allclose(found.emotion_given_answer[number], pairs[right][1], atol=1e-5)
        best = pairs[int(scores.argmax())][1]
        np.testing.assert_allclose(found.emotion_given_top[number], best, atol=1e-5)
    assert len({round(float(score), 6) for scores in found.scores for score in scores}) > 12


def test_masks_do_not_tell_right_pairs_from_wrong_ones(mmbert):
    given = samples(mmbert)
    torch.manual_seed(0)
    counts = np.zeros(2)
    for _ in range(60):
        ids = mmbert.collate([given[n] for n in range(12)])["input_ids"]
        masked = (ids == mmbert.tokenizer.mask_token_id).sum(1)
        counts += [masked[:12].sum(), masked[12:].sum()]
    assert counts.min() > 300
    assert abs(counts[0] / counts.sum() - 0.5) < 0.05


def test_words_are_masked_as_bert_does(mmbert):
    torch.manual_seed(0)
    tokenizer = mmbert.tokenizer
    word = tokenizer.convert_tokens_to_ids("happy")
    speaker = tokenizer.convert_tokens_to_ids("[speaker1]")
    ids = torch.full((400, 50), word)
    ids[:, 0], ids[:, 1], ids[:, -1] = tokenizer.cls_token_id, speaker, tokenizer.pad_token_id
    masked, labels = mmbert._mask(ids)
    chosen = labels != -100
    assert not chosen[:, [0, 1, -1]].any() and torch.equal(masked[~chosen], ids[~chosen])
    assert (labels[chosen] == word).all()
    assert abs(chosen[:, 2:-1].float().mean() - 0.15) < 0.01
    assert abs((masked[chosen] == tokenizer.mask_token_id).float().mean() - 0.8) < 0.03
    assert abs((masked[chosen] == word).float().mean() - 0.1) < 0.03


def test_word_losses_come_from_the_masked_words_alone(mmbert):
    batch = mmbert.collate([samples(mmbert)[n] for n in range(12)])
    labels = torch.full_like(batch["mask_labels"], -100)
    found = mmbert(**{**batch, "mask_labels": labels})
    assert set(found) == {"loss", "match_loss", "emotion_loss"}
    labels[3, 2] = 7
    with torch.no_grad():
        one = mmbert(**{**batch, "mask_labels": labels})
        features = mmbert.vision(mmbert.inventory, batch["stickers"].tolist())
        states = mmbert._states(
            batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], features
        )
        expected = -mmbert._words(states[3, 2]).log_softmax(-1)[7]
    torch.testing.assert_close(one["dialogue_mask_loss"], expected)
    torch.testing.assert_close(
        one["loss"], one["match_loss"] + one["emotion_loss"] + 0.5 * expected
    )


def test_unlabelled_samples_have_no_emotion_loss(mmbert):
    given = [{**samples(mmbert)[n], "emotion": -1} for n in range(4)]
    found = mmbert(**mmbert.collate(given))
    assert "emotion_loss" not in found and torch.isfinite(found["loss"])


def test_a_frozen_clip_sees_each_sticker_once(mmbert, monkeypatch):
    mmbert.vision.requires_grad_(False)
    calls, real = [], mmbert.vision.clip.forward
    monkeypatch.setattr(
        mmbert.vision.clip, "forward", lambda **k: calls.append(len(k["pixel_values"])) or real(**k)
    )
    mmbert.train()
    for _ in range(3):
        mmbert(**mmbert.collate([samples(mmbert)[n] for n in range(4)]))
    mmbert.rank(rows())
    assert calls == [6]


def test_more_tokens_than_there_is_room_for_are_refused(tmp_path):
    with pytest.raises(ValueError, match="72 tokens asked for, and .* has room for 64"):
        tiny_baseline("mmbert", tmp_path, max_dialogue_tokens=60)
