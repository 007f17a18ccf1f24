# SPDX-License-Identifier: Apache-2.0
"""ViLT as a baseline against ViLT itself, and what it takes over from CLIP and a BERT."""

import numpy as np
import pytest
import torch
from small_world import rows, stickers
from tiny_baselines import checkpoints, plain_tokenizer, samples, tiny_baseline
from transformers import (
    CLIPVisionModel,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForMaskedLM,
    ViltImageProcessor,
)

from modeling_cks.backbones import load_text
from modeling_cks.baselines import baseline_class, load_baseline
from modeling_cks.baselines.vilt import _take_words


@pytest.fixture
def vilt(tmp_path):
    return tiny_baseline("vilt", tmp_path)


def real_vilt(folder, kind=ViltForImageAndTextRetrieval):
    """Write a ViLT of another normalisation than CLIP's and 20 positions; return its folder."""
    tokenizer = plain_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(
            ViltConfig(
                vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2,
                num_attention_heads=2, intermediate_size=64, max_position_embeddings=20,
                image_size=32, patch_size=8, initializer_range=0.2,
            )
        )  # fmt: skip
        with torch.no_grad():
            # As trained ones have them: those that are drawn are all zero.
            model.vilt.embeddings.cls_token.normal_(std=0.3)
            model.vilt.embeddings.position_embeddings.normal_(std=0.3)
    model.save_pretrained(folder / "vilt")
    tokenizer.save_pretrained(folder / "vilt")
    ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8).save_pretrained(folder / "vilt")
    return folder / "vilt"


def test_scores_are_those_of_vilt_itself(tmp_path):
    folder = real_vilt(tmp_path)
    vilt = baseline_class("vilt").build(
        emotions=["joy"], checkpoint=str(folder), max_ocr_tokens=5, ocr="none"
    )
    table = stickers()
    vilt.use_stickers(table)
    tokenizer = vilt.tokenizer
    itself = ViltForImageAndTextRetrieval.from_pretrained(folder).eval()
    known = len(itself.get_input_embeddings().weight)
    assert len(tokenizer) == known + 2
    itself.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    words = vilt.vilt.get_input_embeddings().weight.detach()
    torch.testing.assert_close(words[:known], itself.get_input_embeddings().weight[:known])
    itself.get_input_embeddings().weight.data = words[: len(tokenizer)].clone()
    pixels = ViltImageProcessor.from_pretrained(folder)(list(table["image"]), return_tensors="pt")
    longest = 0
    for row, scores in zip(rows(8), vilt.rank(rows(8)).scores, strict=True):
        said = " ".join(f"[speaker{u['speaker'] + 1}] {u['text']}" for u in row["utterances"])
        said = tokenizer(said, add_special_tokens=False)["input_ids"]
        longest = max(longest, len(said))
        for score, sticker in zip(scores, row["candidates"], strict=True):
            place = vilt.inventory.place(sticker)
            written = tokenizer(table[place]["caption"], add_special_tokens=False)["input_ids"][:5]
            ids = [tokenizer.cls_token_id, *said[-12:], tokenizer.sep_token_id]
            ids += [*written, tokenizer.sep_token_id] if written else []
            ids = torch.tensor([ids])
            with torch.no_grad():
                logit = itself(
                    input_ids=ids, pixel_values=pixels["pixel_values"][place][None]
                ).logits.item()
            assert score == pytest.approx(logit, abs=1e-5)
    # Some did not fit, so that the newest words were chosen.
    assert longest > 12


def test_scoring_draws_nothing_from_the_generator(vilt):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = vilt.rank(rows(3)).scores
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.stack(first), np.stack(vilt.rank(rows(3)).scores))


def test_patches_alone_are_what_clip_sees(tmp_path):
    vision = checkpoints(tmp_path)[1]
    clip = CLIPVisionModel.from_pretrained(vision).eval()
    with torch.no_grad():
        # Norms that were trained are not as they are drawn.
        for parameter in clip.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    clip.save_pretrained(vision)
    vilt = tiny_baseline("vilt", tmp_path)
    pixels = vilt.inventory.pixel_values(range(6))
    with torch.no_grad():
        states = vilt.vilt.vilt.encoder(vilt._patches(pixels)).last_hidden_state
        seen = vilt.vilt.vilt.layernorm(states)[:, 0]
        wanted = clip(pixel_values=pixels).pooler_output
    assert wanted.std(0).max() > 0.1
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)


def test_words_of_the_bert_are_taken_over(vilt, tmp_path):
    bert, tokenizer = load_text(checkpoints(tmp_path)[0])
    torch.testing.assert_close(
        vilt.vilt.get_input_embeddings().weight, bert.get_input_embeddings().weight
    )
    assert vilt.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_wider_words_keep_as_much_as_there_is_room_for():
    torch.manual_seed(0)
    words = torch.randn(50, 12) * torch.linspace(0.1, 2, 12) + 3
    narrow = torch.nn.Embedding(50, 5)
    _take_words(narrow, words)
    u, s, v = torch.linalg.svd(words - words.mean(0), full_matrices=False)
    best = (u[:, :5] * s[:5]) @ v[:5]
    torch.testing.assert_close(narrow.weight @ narrow.weight.T, best @ best.T, atol=1e-3, rtol=1e-3)
    wide = torch.nn.Embedding(50, 20)
    drawn = wide.weight.detach().clone()
    _take_words(wide, words)
    assert torch.equal(wide.weight, drawn)


def test_the_loss_is_the_cross_entropy_over_right_and_wrong(vilt):
    given = [samples(vilt)[n] for n in range(7)]
    pairs = [{**row, "candidates": [row["sticker_id"], row["negative"]]} for row in given]
    scores = torch.tensor(np.stack(vilt.rank(pairs).scores))
    wanted = torch.nn.functional.cross_entropy(scores, torch.zeros(7, dtype=torch.long))
    vilt.train()
    found = vilt(**vilt.collate(given))["loss"]
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    found.backward()
    patches, words = vilt.vilt.vilt.embeddings.patch_embeddings, vilt.vilt.get_input_embeddings()
    for part in (patches.projection, vilt.patch_norm, words, vilt.vilt.rank_output):
        assert part.weight.grad.abs().sum() > 0


def test_patches_of_before_training_do_not_rank_after_it(vilt):
    before = np.stack(vilt.rank(rows(4)).scores)
    vilt.train()
    with torch.no_grad():
        vilt.vilt.vilt.embeddings.patch_embeddings.projection.weight.mul_(2)
    after = np.stack(vilt.rank(rows(4)).scores)
    assert vilt.training and np.abs(after - before).max() > 1e-3
    vilt.eval()
    np.testing.assert_array_equal(np.stack(vilt.rank(rows(4)).scores), after)


def test_words_on_a_sticker_are_read(vilt):
    given = rows(4)
    before = np.stack(vilt.rank(given).scores)
    vilt.use_stickers(stickers().map(lambda _: {"caption": ""}))
    changed = np.abs(np.stack(vilt.rank(given).scores) - before) > 1e-4
    written = [[bool(stickers()[int(c)]["caption"]) for c in row["candidates"]] for row in given]
    np.testing.assert_array_equal(changed, written)


def test_a_checkpoint_without_a_rank_head_starts_one(tmp_path):
    folder = real_vilt(tmp_path, ViltForMaskedLM)
    vilt = baseline_class("vilt").build(emotions=["joy"], checkpoint=str(folder), ocr="none")
    ours, theirs = vilt.vilt.vilt, ViltForMaskedLM.from_pretrained(folder).vilt
    torch.testing.assert_close(ours.encoder.state_dict(), theirs.encoder.state_dict())
    torch.testing.assert_close(ours.pooler.state_dict(), theirs.pooler.state_dict())
    assert vilt.vilt.rank_output.weight.std() > 0
    vilt.save_pretrained(tmp_path / "saved")
    again = load_baseline(tmp_path / "saved")
    for each in (vilt, again):
        each.use_stickers(stickers())
    np.testing.assert_array_equal(
        np.stack(vilt.rank(rows(4)).scores), np.stack(again.rank(rows(4)).scores)
    )


def test_what_cannot_be_is_refused_in_one_line(tmp_path):
    text, vision = checkpoints(tmp_path)
    for given, message in (
        ({}, "starts from a ViLT"),
        ({"text": text}, "starts from a ViLT"),
        ({"checkpoint": str(tmp_path / "nowhere")}, "nowhere"),
        ({"checkpoint": text}, "give a ViLT"),
        ({"text": text, "vision": vision, "colour": 1}, "no setting 'colour', only"),
        ({"text": text, "vision": vision, "scratch": {"hidden_size": 8}}, "settle hidden_size"),
        ({"text": text, "vision": vision, "max_ocr_tokens": 37}, "40 positions leave no room"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            baseline_class("vilt").build(emotions=["joy"], **given)
        assert "\n" not in str(caught.value)
