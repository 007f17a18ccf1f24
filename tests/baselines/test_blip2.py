# SPDX-License-Identifier: Apache-2.0
"""BLIP-2 as a baseline against BLIP-2 itself, and what it takes over from a BERT and CLIP."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import rows, stickers
from tiny_baselines import checkpoints, plain_tokenizer, samples, tiny_baseline
from tiny_model import TINY_TEXT
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipImageProcessor,
    CLIPVisionModel,
    RobertaConfig,
    RobertaModel,
)

from modeling_cks.backbones import load_text, load_vision
from modeling_cks.baselines import baseline_class, load_baseline
from modeling_cks.baselines.blip2 import _from_bert
from modeling_cks.baselines.pairs import square_images


@pytest.fixture
def blip2(tmp_path):
    return tiny_baseline("blip2", tmp_path)


def real_blip2(folder):
    """Write a BLIP-2 with its heads, of another normalisation than CLIP's; return its folder."""
    tokenizer = plain_tokenizer(folder)
    layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 64, "initializer_range": 0.2}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Blip2ForImageTextRetrieval(
            Blip2Config(
                vision_config={**layers, "hidden_size": 24, "image_size": 32, "patch_size": 8},
                qformer_config={**layers, "vocab_size": len(tokenizer),
                                "max_position_embeddings": 20, "use_qformer_text_input": True},
                num_query_tokens=3, image_text_hidden_size=16,
            )
        )  # fmt: skip
        with torch.no_grad():
            # As trained ones have them: those that are drawn are all zero.
            model.query_tokens.normal_(std=0.5)
            for head in (model.itm_head, model.vision_projection, model.text_projection):
                head.weight.normal_(std=0.3)
    model.save_pretrained(folder / "blip2")
    tokenizer.save_pretrained(folder / "blip2")
    BlipImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    ).save_pretrained(folder / "blip2")
    return folder / "blip2"


def texts(baseline, row, sticker=None):
    """Put the text of a pair together by hand; without a sticker that of the dialogue alone."""
    tokenizer, settings = baseline.tokenizer, baseline.settings
    said = " ".join(f"[speaker{u['speaker'] + 1}] {u['text']}" for u in row["utterances"])
    said = tokenizer(said, add_special_tokens=False)["input_ids"]
    ids = [tokenizer.cls_token_id, *said[-settings["max_dialogue_tokens"] :]]
    ids.append(tokenizer.sep_token_id)
    caption = stickers()[int(sticker)]["caption"] if sticker else ""
    if caption:
        written = tokenizer(caption, add_special_tokens=False)["input_ids"]
        ids += [*written[: settings["max_ocr_tokens"]], tokenizer.sep_token_id]
    return torch.tensor([ids])


def check_against(baseline, itself, pixels):
    """Hold both scores against direct calls of transformers' class, one pair at a time."""
    given = rows(6)
    for row, scores in zip(given, baseline.rank(given).scores, strict=True):
        for score, sticker in zip(scores, row["candidates"], strict=True):
            ids = texts(baseline, row, sticker)
            with torch.no_grad():
                found = itself(
                    pixel_values=pixels[int(sticker)][None], input_ids=ids,
                    attention_mask=torch.ones_like(ids), use_image_text_matching_head=True,
                ).logits_per_image.softmax(-1)[0, 1]  # fmt: skip
            assert score == pytest.approx(found.item(), abs=1e-5)
    with torch.no_grad():
        batch = baseline.collate([{**row, "negative": "000"} for row in given])
        cosines = baseline.similarity(
            batch["dialogue_ids"], batch["dialogue_mask"], batch["stickers"][:6]
        )
        for number, row in enumerate(given):
            ids = texts(baseline, row)
            places = [int(other["sticker_id"]) for other in given]
            found = itself(
                pixel_values=pixels[places], input_ids=ids, attention_mask=torch.ones_like(ids)
            ).logits_per_image[:, 0]
            torch.testing.assert_close(cosines[number], found, atol=1e-5, rtol=1e-5)


def test_scores_of_a_checkpoint_are_those_of_blip2_itself(tmp_path):
    folder = real_blip2(tmp_path)
    blip2 = baseline_class("blip2").build(
        emotions=["joy"], checkpoint=str(folder), max_ocr_tokens=5, ocr="none"
    )
    assert blip2.settings["max_dialogue_tokens"] == 12
    blip2.use_stickers(stickers())
    itself = Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
    known = len(itself.get_input_embeddings().weight)
    assert len(blip2.tokenizer) == known + 2
    words = blip2.blip.get_input_embeddings().weight.detach()
    torch.testing.assert_close(words[:known], itself.get_input_embeddings().weight)
    itself.resize_token_embeddings(known + 2, mean_resizing=False)
    itself.get_input_embeddings().weight.data = words.clone()
    pixels = BlipImageProcessor.from_pretrained(folder)(
        list(stickers()["image"]), return_tensors="pt"
    )["pixel_values"]
    check_against(blip2, itself, pixels)
    blip2.save_pretrained(tmp_path / "saved")
    again = load_baseline(tmp_path / "saved")
    again.use_stickers(stickers())
    np.testing.assert_array_equal(
        np.stack(blip2.rank(rows(4)).scores), np.stack(again.rank(rows(4)).scores)
    )


def test_with_clip_for_an_eye_scores_are_those_of_the_class_around_it(blip2):
    check_against(blip2, blip2.blip, blip2.inventory.pixel_values(range(6)))


def test_a_whole_sticker_is_squeezed_as_the_checkpoint_has_it(tmp_path):
    folder = real_blip2(tmp_path)
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 255, (40, 64, 3), dtype=np.uint8))
    processors = square_images(str(folder), 32), BlipImageProcessor.from_pretrained(folder)
    ours, theirs = (each(images=[image], return_tensors="pt").pixel_values for each in processors)
    torch.testing.assert_close(ours, theirs)


def test_the_eye_gives_clips_states_under_its_final_norm(blip2, tmp_path):
    clip = CLIPVisionModel.from_pretrained(checkpoints(tmp_path)[1]).eval()
    pixels = blip2.inventory.pixel_values(range(6))
    with torch.no_grad():
        seen, wanted = blip2._look(pixels), clip(pixel_values=pixels)
        states = clip.post_layernorm(wanted.last_hidden_state)
    torch.testing.assert_close(seen, states)
    torch.testing.assert_close(seen[:, 0], wanted.pooler_output)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_q_former_reads_a_text_alone_as_the_bert_does(kind, tmp_path):
    text, vision = checkpoints(tmp_path)
    if kind == "roberta":
        tokenizer = AutoTokenizer.from_pretrained(text)
        fields = {k: v for k, v in TINY_TEXT.items() if k not in ("model_type", "vocab_size")}
        roberta = RobertaModel(RobertaConfig(**fields, vocab_size=len(tokenizer), pad_token_id=0))
        roberta.save_pretrained(tmp_path / "roberta")
        tokenizer.save_pretrained(tmp_path / "roberta")
        text = tmp_path / "roberta"
    bert, tokenizer = load_text(text)
    blip = _from_bert(bert, load_vision(vision)[0], {}).eval()
    ids = tokenizer(["i am so happy", "oh no"], padding=True, return_tensors="pt")
    ids.pop("token_type_ids", None)
    with torch.no_grad():
        wanted = bert(**ids).last_hidden_state
        found = blip.qformer(
            query_embeds=blip.embeddings(input_ids=ids["input_ids"]), query_length=0,
            attention_mask=ids["attention_mask"],
        ).last_hidden_state  # fmt: skip
    real = ids["attention_mask"].bool()
    assert wanted[real].std(0).max() > 0.1
    torch.testing.assert_close(found[real], wanted[real], atol=1e-5, rtol=1e-5)
    for layer in blip.qformer.encoder.layer:
        for own, shared in (("intermediate_query", "intermediate"), ("output_query", "output")):
            torch.testing.assert_close(
                getattr(layer, own).state_dict(), getattr(layer, shared).state_dict()
            )
    first = _from_bert(bert, load_vision(vision)[0], {"qformer_config": {"num_hidden_layers": 1}})
    assert len(first.qformer.encoder.layer) == 1
    # Queries that start alike would stay alike.
    assert torch.cdist(blip.query_tokens[0], blip.query_tokens[0]).fill_diagonal_(1).min() > 0.01


def test_the_losses_are_match_and_contrast(blip2):
    given = [samples(blip2)[n] for n in range(7)]
    pairs = [{**row, "candidates": [row["sticker_id"], row["negative"]]} for row in given]
    right, wrong = np.stack(blip2.rank(pairs).scores).T
    with torch.no_grad():
        batch = blip2.collate(given)
        found = blip2(**batch)
        cosines = blip2.similarity(
            batch["dialogue_ids"], batch["dialogue_mask"], batch["stickers"][:7]
        )
    wanted = -np.mean(np.log(np.concatenate([right, 1 - wrong])))
    assert found["match_loss"].item() == pytest.approx(wanted, abs=1e-5)
    logits = (cosines / 0.07).numpy().astype(float)
    total = 0.0
    for n, row in enumerate(given):
        others = [m for m in range(7) if m == n or given[m]["sticker_id"] != row["sticker_id"]]
        for line in (logits[n, others], logits[others, n]):
            total += np.log(np.exp(line).sum()) - logits[n, n]
    assert len({row["sticker_id"] for row in given}) < 7
    assert found["contrastive_loss"].item() == pytest.approx(total / 14, abs=1e-4)
    torch.testing.assert_close(found["loss"], found["match_loss"] + found["contrastive_loss"])


def test_words_on_the_sticker_are_read_in_matching_and_not_told_in_contrast(blip2):
    given = [samples(blip2)[n] for n in range(7)]
    with torch.no_grad():
        before = blip2(**blip2.collate(given))
        blip2.use_stickers(stickers().map(lambda _: {"caption": "thank you"}))
        after = blip2(**blip2.collate(given))
    torch.testing.assert_close(before["contrastive_loss"], after["contrastive_loss"])
    assert abs(before["match_loss"] - after["match_loss"]) > 1e-4


def test_each_sticker_is_looked_at_once_and_the_eye_never_learns(blip2):
    calls = []
    blip2.blip.vision_model.register_forward_hook(lambda *_: calls.append(1))
    blip2.train()
    assert not blip2.blip.vision_model.training and blip2.blip.qformer.training
    for _ in range(2):
        blip2(**blip2.collate([samples(blip2)[n] for n in range(12)]))["loss"].backward()
        blip2.rank(rows(3))
    assert len(calls) == 1
    eye = blip2.blip.vision_model.parameters()
    assert all(p.grad is None and not p.requires_grad for p in eye)
    for name, parameter in blip2.named_parameters():
        if "vision_model" not in name:
            assert parameter.grad.abs().sum() > 0, name
    blip2.use_stickers(stickers())
    blip2.rank(rows(3))
    assert len(calls) == 2


def test_what_starts_anew_is_not_called_pretrained(blip2, tmp_path):
    anew = {
        name for name, p in blip2.named_parameters()
        if p.requires_grad and not name.startswith(blip2.pretrained)
    }  # fmt: skip
    parts = ("crossattention", "query_tokens", "itm_head", "_projection", "logit_scale")
    assert all(any(part in name for name in anew) for part in parts)
    assert all(any(part in name for part in parts) for name in anew)
    checkpoint = str(real_blip2(tmp_path))
    loaded = baseline_class("blip2").build(emotions=["joy"], checkpoint=checkpoint, ocr="none",
                                           max_ocr_tokens=5)  # fmt: skip
    assert [n for n, _ in loaded.named_parameters() if not n.startswith(loaded.pretrained)] == [
        "logit_scale"
    ]


def test_zero_shot_nothing_learns(tmp_path):
    blip2 = tiny_baseline("blip2", tmp_path, zero_shot=True)
    assert not blip2.trains and blip2.name == "BLIP-2 (zero-shot)"
    assert tiny_baseline("blip2", tmp_path).trains


def test_what_cannot_be_is_refused_in_one_line(tmp_path):
    text, vision = checkpoints(tmp_path)
    both = {"text": text, "vision": vision}
    for given, message in (
        ({}, "starts from a BLIP-2"),
        ({"vision": vision}, "starts from a BLIP-2"),
        ({"checkpoint": str(tmp_path / "nowhere")}, "nowhere"),
        ({"checkpoint": text}, "with its matching head"),
        ({**both, "colour": 1}, "no setting 'colour', only"),
        ({**both, "scratch": {"vision_config": {}}}, "settle vision_config"),
        ({**both, "scratch": {"qformer_config": {"vocab_size": 8}}}, "settle vocab_size"),
        ({**both, "max_ocr_tokens": 61}, "64 positions leave no room"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            baseline_class("blip2").build(emotions=["joy"], **given)
        assert "\n" not in str(caught.value)
