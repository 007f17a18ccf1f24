# SPDX-License-Identifier: Apache-2.0
"""MOD-GPT against GPT-2 itself."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_world import rows
from tiny_baselines import checkpoints, samples, tiny_baseline
from transformers import GPT2Config, GPT2Model

from modeling_cks.baselines import baseline_class


@pytest.fixture
def gpt(tmp_path):
    return tiny_baseline("mod_gpt", tmp_path)


def foretold(gpt, row):
    """Run GPT-2 on a sequence put together here; the state of the last slot."""
    words, slot = gpt.gpt.wte, gpt.tokenizer.convert_tokens_to_ids("[IMG]")
    parts = []
    for turn in row["utterances"]:
        text = f"[speaker{turn['speaker'] + 1}] {turn['text']}"
        parts.append(
            words(torch.tensor(gpt.tokenizer(text, add_special_tokens=False)["input_ids"]))
        )
        if turn["sticker_id"] is not None:
            pixels = gpt.inventory.pixel_values([gpt.inventory.place(turn["sticker_id"])])
            parts.append(gpt.image_map(gpt.vision.clip(pixel_values=pixels).pooler_output))
    parts.append(words(torch.tensor([slot])))
    embeds = torch.cat(parts)[-25:]
    return gpt.gpt(inputs_embeds=embeds[None]).last_hidden_state[0, -1]


def test_scores_are_distances_from_what_gpt_itself_foretells(gpt):
    given = rows(8)
    assert any(turn["sticker_id"] for row in given for turn in row["utterances"])
    found = gpt.rank(given)
    with torch.no_grad():
        for number, row in enumerate(given):
            state = foretold(gpt, row)
            aim = F.normalize(gpt.feature_head(state), dim=-1)
            for place, sticker in enumerate(row["candidates"]):
                pixels = gpt.inventory.pixel_values([gpt.inventory.place(sticker)])
                seen = gpt.vision.clip(pixel_values=pixels).pooler_output[0]
                distance = (F.normalize(seen, dim=-1) - aim).norm()
                assert found.scores[number][place] == pytest.approx(-float(distance), abs=1e-5)
            emotions = gpt.emotion(state).softmax(-1).numpy()
            np.testing.assert_allclose(found.emotion_given_answer[number], emotions, atol=1e-5)


def test_the_loss_is_the_squared_distance_and_the_emotion(gpt):
    given = [samples(gpt)[n] for n in range(7)]
    with torch.no_grad():
        found = gpt(**gpt.collate(given))
        distances = []
        for row in given:
            scores = gpt.rank([{**row, "candidates": [row["sticker_id"]]}]).scores[0]
            distances.append(float(scores[0]) ** 2)
    assert float(found["feature_loss"]) == pytest.approx(np.mean(distances), rel=1e-4)
    torch.testing.assert_close(found["loss"], found["feature_loss"] + found["emotion_loss"])


def test_an_earlier_sticker_is_seen(gpt):
    row = next(r for r in rows() if r["utterances"][0]["sticker_id"] is not None)
    other = copy.deepcopy(row)
    other["utterances"][0]["sticker_id"] = "005" if row["utterances"][0]["sticker_id"] != "005" else "000"  # fmt: skip  # noqa: E501
    first, second = gpt.rank([row, other]).scores
    assert np.abs(first - second).max() > 1e-4


def test_clip_is_never_trained(gpt):
    gpt.train()
    gpt(**gpt.collate([samples(gpt)[n] for n in range(12)]))["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in gpt.vision.parameters())
    assert gpt.gpt.wte.weight.grad.abs().sum() > 0 and gpt.image_map.weight.grad.abs().sum() > 0
    assert not gpt.vision.clip.training


def test_a_pretrained_gpt_keeps_its_weights_and_learns_the_new_tokens(tmp_path):
    from transformers import AutoTokenizer

    text, vision = checkpoints(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(text)
    real = GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2,
                                n_positions=40))  # fmt: skip
    real.save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    built = baseline_class("mod_gpt").build(
        emotions=["joy"], vision=vision, checkpoint=str(tmp_path / "gpt"), max_dialogue_tokens=24
    )
    torch.testing.assert_close(built.gpt.h.state_dict(), real.h.state_dict())
    known = len(tokenizer)
    torch.testing.assert_close(built.gpt.wte.weight[:known], real.wte.weight)
    assert built.tokenizer.convert_tokens_to_ids("[IMG]") < len(built.gpt.wte.weight)


def test_words_of_the_text_model_are_taken_over(gpt, tmp_path):
    from modeling_cks.backbones import load_text

    bert, tokenizer = load_text(checkpoints(tmp_path)[0])
    known = len(tokenizer)
    torch.testing.assert_close(
        gpt.gpt.wte.weight[:known], bert.embeddings.word_embeddings.weight[:known]
    )


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="61 tokens asked for, and there is room for 40"):
        tiny_baseline("mod_gpt", tmp_path, max_dialogue_tokens=60)
    with pytest.raises(ValueError, match="name both"):
        baseline_class("mod_gpt").build(emotions=["joy"])
