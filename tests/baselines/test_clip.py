# SPDX-License-Identifier: Apache-2.0
"""CLIP as a baseline against CLIP itself."""

import numpy as np
import pytest
import torch
from small_world import rows, stickers
from tiny_baselines import checkpoints, samples, tiny_baseline
from tiny_model import TINY_VISION
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from modeling_cks.baselines import baseline_class


@pytest.fixture
def real_clip(tmp_path):
    """A folder with a whole CLIP, made here."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoints(tmp_path)[0])
    torch.manual_seed(0)
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 30,
            "eos_token_id": tokenizer.sep_token_id, "bos_token_id": tokenizer.cls_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=TINY_VISION, projection_dim=20))
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path / "clip"
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor.from_pretrained(checkpoints(tmp_path)[1]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("context", ["utterance", "dialogue"])
def test_scores_are_those_of_clip_itself(real_clip, context):
    baseline = baseline_class("clip").build(
        emotions=["joy"], checkpoint=str(real_clip), context=context
    )
    baseline.use_stickers(stickers())
    clip = CLIPModel.from_pretrained(real_clip).eval()
    clip.text_model.resize_token_embeddings(len(baseline.tokenizer), mean_resizing=False)
    clip.text_model.get_input_embeddings().weight.data = (
        baseline.text.get_input_embeddings().weight.data[: len(baseline.tokenizer)]
    )
    clip.eval()
    tokenizer = baseline.tokenizer
    for row, scores in zip(rows(8), baseline.rank(rows(8)).scores, strict=True):
        said = row["utterances"][-1:] if context == "utterance" else row["utterances"]
        text = " ".join(f"[speaker{turn['speaker'] + 1}] {turn['text']}" for turn in said)
        words = tokenizer(text, add_special_tokens=False)["input_ids"][-28:]
        ids = torch.tensor([[tokenizer.cls_token_id, *words, tokenizer.sep_token_id]])
        places = [baseline.inventory.place(sticker) for sticker in row["candidates"]]
        with torch.no_grad():
            logits = clip(
                input_ids=ids, attention_mask=torch.ones_like(ids),
                pixel_values=baseline.inventory.pixel_values(places),
            ).logits_per_text[0]  # fmt: skip
        np.testing.assert_allclose(scores, logits.numpy(), atol=1e-4)


def test_the_context_is_a_setting_with_a_name(tmp_path):
    narrow = tiny_baseline("clip", tmp_path, context="utterance")
    wide = tiny_baseline("clip", tmp_path)
    assert (narrow.name, wide.name) == ("CLIP", "CLIP (dialogue)")
    row = rows(1)[0]
    other = {
        **row,
        "utterances": [{**row["utterances"][0], "text": "tomorrow"}, *row["utterances"][1:]],
    }
    assert np.array_equal(*narrow.rank([row, other]).scores)
    assert not np.array_equal(*wide.rank([row, other]).scores)
    with pytest.raises(ValueError, match="context is one of"):
        tiny_baseline("clip", tmp_path, context="none")


def test_samples_with_the_same_sticker_do_not_push_each_other_away(tmp_path):
    baseline = tiny_baseline("clip", tmp_path)
    same = [{**samples(baseline)[n], "sticker_id": "002"} for n in range(5)]
    assert baseline(**baseline.collate(same))["loss"].item() == pytest.approx(0, abs=1e-6)
    different = [samples(baseline)[n] for n in range(12)]
    assert baseline(**baseline.collate(different))["loss"].item() > 0.5
