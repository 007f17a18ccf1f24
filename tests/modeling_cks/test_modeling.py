# SPDX-License-Identifier: Apache-2.0
"""The whole model on random tensors: scores, losses, ablations, invariances, precision."""

import copy
import warnings

import pytest
import torch

from modeling_cks import CKSConfig, CKSModel

TEXT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 48,
        "initializer_range": 0.2}  # fmt: skip
VISION = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 32, "image_size": 16, "patch_size": 8}  # fmt: skip
ABLATIONS = {
    "full": {},
    "printed": {"negative_visual": "clip", "vkd_form": "feature_softmax"},
    "joint": {"joint_attention": True},
    "keue": {"use_keue": False},
    "knowledge": {"use_knowledge": False},
    "vkd": {"use_vkd": False},
    "cim": {"use_cim": False},
    "itc": {"use_itc": False},
    "itm": {"use_itm": False},
    "emotion": {"use_emotion": False},
    "ocr": {"use_ocr": False},
    "history": {"sticker_history": False},
    "itm and emotion": {"use_itm": False, "use_emotion": False},
    "cim and itm": {"use_cim": False, "use_itm": False},
}


def config(**changes):
    return CKSConfig(
        text_config=TEXT,
        bert_config=TEXT,
        vision_config=VISION,
        **{
            "embed_size": 24, "dictionary_size": 16, "lstm_hidden_size": 6, "knowledge_size": 10,
            "fusion_hidden_size": 16, "fusion_num_layers": 2, "fusion_num_heads": 2,
            "fusion_intermediate_size": 32, "num_labels": 4, "initializer_range": 0.2, **changes,
        },
    )  # fmt: skip


def model(seed=0, **changes):
    torch.manual_seed(seed)
    made = CKSModel(config(**changes)).eval()
    if made.config.use_vkd:
        made.visual_extractor.vkd.dictionary.normal_()
    return made


def tokens(generator, lengths, width):
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, 50, mask.shape, generator=generator)
    return ids * mask, mask


def batch(seed=0):
    """Three dialogues of 4, 2 and 1 turns over 5 utterances and 6 stickers, one seen before."""
    g = torch.Generator().manual_seed(seed)
    utterance_ids, utterance_mask = tokens(g, [7, 3, 5, 2, 4], 7)
    dialogue_ids, dialogue_mask = tokens(g, [12, 6, 4], 12)
    ocr_ids, ocr_mask = tokens(g, [3, 0, 5, 1, 0, 2], 5)
    return {
        "utterances": torch.tensor([[0, 1, 2, 3], [1, 4, -1, -1], [3, -1, -1, -1]]),
        "speaker_ids": torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]),
        "utterance_input_ids": utterance_ids,
        "utterance_attention_mask": utterance_mask,
        "knowledge": torch.randn(5, 2, 10, generator=g),
        "dialogue_input_ids": dialogue_ids,
        "dialogue_attention_mask": dialogue_mask,
        "history": torch.tensor([[-1, 5, 2, -1], [3, -1, -1, -1], [-1, -1, -1, -1]]),
        "pixel_values": torch.randn(6, 3, 16, 16, generator=g),
        "ocr_input_ids": ocr_ids,
        "ocr_attention_mask": ocr_mask,
        "sticker_ids": torch.tensor([10, 11, 12, 13, 14, 15]),
    }


def training(seed=0):
    return {
        **batch(seed),
        "positive": torch.tensor([0, 1, 0]),
        "negative": torch.tensor([2, 4, 3]),
        "positive_shares": torch.tensor([0.5, 0.1, 0.5]),
        "emotion_labels": torch.tensor([3, -100, 1]),
    }


def ranking(seed=0):
    candidates = torch.tensor([[0, 1, 2, 3], [4, 2, -1, -1], [5, 0, 1, -1]])
    return {**batch(seed), "candidates": candidates}


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_all_it_has_and_has_nothing_else(name):
    made = model(**ABLATIONS[name]).train()
    c = made.config
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    output = made(**training())
    output.loss.backward()
    assert torch.isfinite(output.loss)
    for parameter_name, parameter in made.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        # Zero by nature: a bias that moves all scores of a softmax alike, and, where the last
        # state alone is read, the recurrence of the direction that begins there.
        if parameter_name.endswith(("k_proj.bias", "attention.self.key.bias")):
            continue
        if not c.use_keue and parameter_name.endswith("lstm.weight_hh_l0_reverse"):
            continue
        assert parameter.grad.abs().max() > 0, parameter_name
    names = " ".join(n for n, _ in made.named_parameters())
    fusion = c.use_itm or c.use_emotion
    assert ("utterance_extractor.query" in names) == c.use_keue
    assert ("intra_gate" in names) == (c.use_keue and c.use_knowledge)
    assert ("visual_extractor.vkd" in names) == c.use_vkd
    assert ("match_head" in names) == c.use_itm
    assert ("emotion_head" in names) == c.use_emotion
    assert ("multimodal_encoder" in names) == fusion
    assert ("logit_scale" in names) == c.use_itc
    assert ("history_projection" in names) == c.sticker_history
    width = (c.use_vkd + c.use_cim) * c.embed_size
    assert made.visual_extractor.output.in_features == width
    assert (output.match_loss is not None) == c.use_itm
    assert (output.contrastive_loss is not None) == c.use_itc
    assert (output.emotion_loss is not None) == c.use_emotion
    assert (output.triplet_loss is not None) == c.use_cim
    total = 0
    for part, weight in (
        (output.match_loss, 1), (output.contrastive_loss, 1),
        (output.emotion_loss, 0.5), (output.triplet_loss, 0.3),
    ):  # fmt: skip
        total = total + (0 if part is None else weight * part)
    close(output.loss, total)
    made.eval()
    scores = made(**ranking()).scores
    real = ranking()["candidates"] >= 0
    assert torch.isfinite(scores[real]).all() and scores[~real].eq(float("-inf")).all()


def test_an_ablation_ignores_what_it_removed():
    inputs = ranking()
    other = copy.deepcopy(inputs)
    other["ocr_input_ids"] = (other["ocr_input_ids"] + 7) % 50
    other["knowledge"] = other["knowledge"] + 3
    other["history"] = torch.full_like(other["history"], -1)
    real = inputs["candidates"] >= 0
    assert (model()(**inputs).scores - model()(**other).scores)[real].abs().max() > 1e-4
    lean = model(use_ocr=False, use_knowledge=False, sticker_history=False)
    close(lean(**inputs).scores, lean(**other).scores)


def test_scores_are_the_two_softmaxes_summed():
    made = model(itc_weight=0.7)
    inputs = ranking()
    output = made(**inputs)
    stickers = made.encode_stickers(inputs["pixel_values"])
    close(output.sticker_embeds, stickers)
    for row, places in enumerate(inputs["candidates"].tolist()):
        places = [place for place in places if place >= 0]
        h = output.dialogue_embeds[row]
        logits = [
            made.logit_scale.exp() * (h @ stickers[p]) / (h.norm() * stickers[p].norm())
            for p in places
        ]
        shares = torch.stack(logits).softmax(0)
        for column in range(len(places)):
            close(output.contrastive_logits[row, column], logits[column])
            no, yes = output.match_logits[row, column].exp()
            close(output.scores[row, column], 0.7 * shares[column] + yes / (no + yes))
    assert made.config.itc_weight == 0.7


def test_without_match_or_contrast_the_other_ranks_alone():
    inputs = ranking()
    real = inputs["candidates"] >= 0
    output = model(use_itm=False)(**inputs)
    assert output.match_logits is None
    close(output.scores[real], output.contrastive_logits.softmax(-1)[real])
    output = model(use_itc=False)(**inputs)
    assert output.contrastive_logits is None
    close(output.scores[real], output.match_logits.softmax(-1)[..., 1][real])


def test_losses_are_those_of_the_pure_functions():
    from modeling_cks.losses import contrastive_loss, emotion_loss, match_loss

    made, inputs = model(), training()
    output = made(**inputs)
    positive, negative = inputs["positive"], inputs["negative"]
    ranked = made(**batch(), candidates=torch.stack([positive, negative], 1))
    close(output.match_loss, match_loss(ranked.match_logits[:, 0], ranked.match_logits[:, 1]))
    close(output.emotion_logits, ranked.candidate_emotion_logits[:, 0])
    close(output.emotion_loss, emotion_loss(output.emotion_logits, inputs["emotion_labels"]))
    close(
        output.contrastive_loss,
        contrastive_loss(
            output.dialogue_embeds,
            output.sticker_embeds[positive],
            made.logit_scale,
            torch.tensor([10, 11, 10]),
            torch.tensor([0.5, 0.1, 0.5]).log(),
        ),
    )


def test_the_logq_correction_can_be_left_out():
    plain = model(logq_correction=False)
    corrected = model(logq_correction=True)
    corrected.load_state_dict(plain.state_dict())
    inputs = training()
    assert (plain(**inputs).loss - corrected(**inputs).loss).abs() > 1e-3
    inputs["positive_shares"] = torch.full((3,), 0.2)
    close(plain(**inputs).loss, corrected(**inputs).loss)
    del inputs["positive_shares"]
    assert plain(**inputs).loss.isfinite()


def test_the_printed_negative_is_clips_feature():
    made = model(negative_visual="clip")
    unbiased = model(negative_visual="unbiased")
    unbiased.load_state_dict(made.state_dict())
    one, other = made(**training()), unbiased(**training())
    assert (one.match_loss - other.match_loss).abs() > 1e-4
    for name in ("contrastive_loss", "emotion_loss", "triplet_loss"):
        close(getattr(one, name), getattr(other, name))
    # The positive's pass is the same: it is the unbiased feature in both.
    close(one.emotion_logits, other.emotion_logits)


def test_sticker_numbers_tell_which_samples_share_a_sticker():
    made, inputs = model(), training()
    inputs["pixel_values"][5] = inputs["pixel_values"][0]
    shared = made(**inputs).contrastive_loss
    inputs["positive"] = torch.tensor([0, 1, 5])
    apart = made(**inputs).contrastive_loss
    assert (shared - apart).abs() > 1e-3
    inputs["sticker_ids"][5] = 10
    close(made(**inputs).contrastive_loss, shared)


def test_all_unlabelled_gives_no_emotion_loss():
    inputs = training()
    inputs["emotion_labels"][:] = -100
    made = model()
    output = made(**inputs)
    output.loss.backward()
    assert output.emotion_loss == 0
    assert made.multimodal_encoder.emotion_head.weight.grad.eq(0).all()
    assert made.multimodal_encoder.match_head.weight.grad.abs().max() > 0


def test_permuting_candidates_permutes_scores():
    made, inputs = model(), ranking()
    first = made(**inputs)
    order = torch.tensor([2, 0, 3, 1])
    inputs["candidates"] = inputs["candidates"][:, order]
    second = made(**inputs)
    close(second.scores, first.scores[:, order])
    close(second.match_logits, first.match_logits[:, order])
    close(second.candidate_emotion_logits, first.candidate_emotion_logits[:, order])
    # Nor does it matter how the stickers and utterances are numbered.
    inputs = ranking()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    place = order.argsort()
    for name in ("pixel_values", "ocr_input_ids", "ocr_attention_mask", "sticker_ids"):
        inputs[name] = inputs[name][order]
    for name in ("candidates", "history"):
        given = inputs[name]
        inputs[name] = torch.where(given >= 0, place[given.clamp(min=0)], -1)
    close(made(**inputs).scores, first.scores)


def test_a_batch_equals_its_singles():
    made, inputs = model(), ranking()
    together = made(**inputs)
    for row in range(3):
        alone = {
            name: value[row : row + 1]
            if name
            in ("utterances", "speaker_ids", "dialogue_input_ids", "dialogue_attention_mask",
                "history", "candidates")
            else value
            for name, value in inputs.items()
        }  # fmt: skip
        length = int((alone["utterances"] >= 0).sum())
        for name in ("utterances", "speaker_ids", "history"):
            alone[name] = alone[name][:, :length]
        words = int(alone["dialogue_attention_mask"].sum())
        for name in ("dialogue_input_ids", "dialogue_attention_mask"):
            alone[name] = alone[name][:, :words]
        count = int((alone["candidates"] >= 0).sum())
        alone["candidates"] = alone["candidates"][:, :count]
        single = made(**alone)
        close(single.scores[0], together.scores[row, :count])
        close(single.dialogue_embeds[0], together.dialogue_embeds[row])
        close(single.utterance_weights[0], together.utterance_weights[row, :length])


def test_padding_changes_nothing():
    made, inputs = model(), ranking()
    plain = made(**inputs)
    fills = {
        "utterances": -1, "speaker_ids": 1, "history": -1, "candidates": -1,
        "utterance_input_ids": 9, "utterance_attention_mask": 0, "dialogue_input_ids": 9,
        "dialogue_attention_mask": 0, "ocr_input_ids": 9, "ocr_attention_mask": 0,
    }  # fmt: skip
    for name, fill in fills.items():
        value = inputs[name]
        inputs[name] = torch.cat([value, value.new_full((len(value), 3), fill)], dim=1)
    wide = made(**inputs)
    close(wide.scores[:, :4], plain.scores)
    assert wide.scores[:, 4:].eq(float("-inf")).all()
    close(wide.dialogue_embeds, plain.dialogue_embeds)
    close(wide.utterance_weights[:, :4], plain.utterance_weights)
    assert wide.utterance_weights[:, 4:].eq(0).all()


def test_each_sticker_and_utterance_is_encoded_once():
    made = model()
    seen = {"images": [], "utterances": []}
    clip = made.visual_extractor.clip
    clip.register_forward_pre_hook(
        lambda _, a, k: seen["images"].append(len(k["pixel_values"])), with_kwargs=True
    )
    made.text_encoder.register_forward_pre_hook(
        lambda _, a, k: seen["utterances"].append(len(k["input_ids"])), with_kwargs=True
    )
    made(**ranking())
    assert seen == {"images": [6], "utterances": [5]}
    made.train()(**training())
    assert seen == {"images": [6, 6, 6], "utterances": [5, 5]}  # once restyled, too


def test_known_features_take_the_place_of_pixels_and_words():
    made, inputs = model(), ranking()
    plain = made(**inputs)
    inputs["sticker_embeds"] = made.encode_stickers(inputs.pop("pixel_values"))
    ids, mask = inputs.pop("utterance_input_ids"), inputs.pop("utterance_attention_mask")
    inputs["utterance_embeds"] = made.encode_utterances(ids, mask)
    close(made(**inputs).scores, plain.scores)
    close(
        inputs["utterance_embeds"],
        made.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0],
    )


def test_many_pairs_and_utterances_go_in_passes(monkeypatch):
    made, inputs = model(), ranking()
    plain = made(**inputs)
    monkeypatch.setattr("modeling_cks.modeling_cks._PAIRS_A_PASS", 2)
    monkeypatch.setattr("modeling_cks.modeling_cks._UTTERANCES_A_PASS", 2)
    parted = made(**inputs)
    close(parted.scores, plain.scores)
    close(parted.match_logits, plain.match_logits)


def test_a_pass_on_a_cpu_fits_into_its_cache(monkeypatch):
    made, inputs = model(), ranking()
    plain, sizes = made(**inputs), []
    hook = made.multimodal_encoder.register_forward_hook(
        lambda _, given, __: sizes.append(given[0][0][0].shape[0])
    )
    # [HEAD], 12 words, h~_T, 2 stickers sent before, 5 words on the sticker and the sticker, each
    # of 32 numbers of 4 bytes: room for two such pairs, and a byte too little for three.
    monkeypatch.setattr("modeling_cks.modeling_cks._CACHED_BYTES", 3 * 22 * 32 * 4 - 1)
    parted = made(**inputs)
    hook.remove()
    assert sizes == [2, 2, 2, 2, 1]
    close(parted.scores, plain.scores)


@pytest.mark.parametrize(
    "missing",
    ["utterance_input_ids", "utterance_attention_mask", "knowledge", "dialogue_input_ids",
     "dialogue_attention_mask", "pixel_values", "ocr_input_ids", "ocr_attention_mask", "negative",
     "emotion_labels", "positive_shares"],
)  # fmt: skip
def test_a_missing_input_is_one_clear_error(missing):
    inputs = training()
    del inputs[missing]
    with pytest.raises(ValueError, match=f"CKSModel needs `{missing}`") as caught:
        model()(**inputs)
    assert "\n" not in str(caught.value)


def test_losses_want_pixels_not_features():
    inputs = training()
    inputs["sticker_embeds"] = torch.randn(6, 24)
    with pytest.raises(ValueError, match="pixel_values"):
        model()(**inputs)
    # With nothing that looks at CLIP's own feature they do train.
    del inputs["pixel_values"]
    output = model(use_cim=False)(**inputs)
    assert torch.isfinite(output.loss)


def test_eager_and_sdpa_agree():
    sdpa = model(attn_implementation="sdpa")
    eager = model(attn_implementation="eager")
    assert eager.text_encoder.config._attn_implementation == "eager"
    assert eager.visual_extractor.clip.config._attn_implementation == "eager"
    eager.load_state_dict(sdpa.state_dict())
    close(eager(**ranking()).scores, sdpa(**ranking()).scores)
    sdpa.set_attn_implementation({"text_config": "eager"})
    assert sdpa.text_encoder.config._attn_implementation == "eager"
    close(eager(**ranking()).scores, sdpa(**ranking()).scores)


def test_gradient_checkpointing_gives_the_same_gradients():
    plain = model(fusion_dropout=0.3).train()
    saving = copy.deepcopy(plain)
    saving.gradient_checkpointing_enable()
    seen = []
    layer = saving.multimodal_encoder.layers[0]
    layer.attention_norm.register_forward_hook(lambda *_: seen.append(1))
    losses = []
    for each in (plain, saving):
        torch.manual_seed(5)
        losses.append(each(**training()).loss)
        losses[-1].backward()
    assert len(seen) == 2  # once more on the way back
    close(losses[0], losses[1])
    for (name, one), (_, other) in zip(
        plain.named_parameters(), saving.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_bfloat16_is_near():
    exact = model()
    rough = copy.deepcopy(exact).to(torch.bfloat16)
    inputs = ranking()
    real = inputs["candidates"] >= 0
    scores = rough(**inputs).scores
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[real], exact(**inputs).scores[real], atol=0.1, rtol=0.1)
    rough.train()
    loss = rough(**training()).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in rough.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = exact(**training()).loss
    close(mixed, exact(**training()).loss, atol=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.gpu
def test_on_a_gpu():
    exact = model()
    wanted = exact(**ranking()).scores
    there = copy.deepcopy(exact).cuda()
    inputs = {name: value.cuda() for name, value in ranking().items()}
    close(there(**inputs).scores.cpu(), wanted, atol=1e-3)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = there.train()(**{n: v.cuda() for n, v in training().items()}).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_evaluation_repeats_exactly_and_training_does_not():
    made = model()
    assert torch.equal(made(**ranking()).scores, made(**ranking()).scores)
    made.train()
    torch.manual_seed(0)
    assert not torch.equal(made(**training()).loss, made(**training()).loss)


def test_compiled_forward_gives_the_same():
    made = model()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = made(**ranking()).scores
        compiled = torch.compile(made.forward, backend="aot_eager", dynamic=True)
        close(compiled(**ranking()).scores, wanted)


def test_parts_on_disk(tmp_path):
    pytest.importorskip("accelerate")
    made = model()
    wanted = made(**ranking()).scores
    made.save_pretrained(tmp_path / "model")
    device_map = {
        name: "disk" if name in ("text_encoder", "multimodal_encoder") else "cpu"
        for name, _ in [*made.named_children(), *made.named_parameters(recurse=False)]
    }
    loaded = CKSModel.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    assert loaded.multimodal_encoder.layers[0].query_key_value.weight.device.type == "meta"
    close(loaded(**ranking()).scores, wanted)
    on_cpu = CKSModel.from_pretrained(tmp_path / "model", device_map="cpu")
    close(on_cpu(**ranking()).scores, wanted)


def test_sharded_save(tmp_path):
    made = model()
    made.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = CKSModel.from_pretrained(tmp_path)
    assert not loaded.training
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    close(loaded(**ranking()).scores, made(**ranking()).scores, atol=1e-6)
    half = CKSModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.isfinite(half(**ranking()).scores[0]).all()


@pytest.mark.slow
def test_the_papers_size_trains_saves_and_loads(tmp_path):
    torch.manual_seed(0)
    made = CKSModel(CKSConfig(num_labels=48))
    parameters = sum(p.numel() for p in made.parameters())
    assert 260e6 < parameters < 300e6
    g = torch.Generator().manual_seed(0)
    inputs = training()
    for name in ("utterance_input_ids", "dialogue_input_ids", "ocr_input_ids"):
        inputs[name] = inputs[name] + 500 * inputs[name.replace("input_ids", "attention_mask")]
    inputs["pixel_values"] = torch.randn(6, 3, 224, 224, generator=g)
    inputs["knowledge"] = torch.randn(5, 2, 1024, generator=g)
    made.train()
    output = made(**inputs)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(p.grad is not None for p in made.parameters())
    made.zero_grad(set_to_none=True)
    made.eval()
    made.save_pretrained(tmp_path, max_shard_size="400MB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) >= 3
    inputs["candidates"] = torch.tensor([[0, 1, 2, 3, 4, 5]] * 3)
    for name in ("positive", "negative", "positive_shares", "emotion_labels"):
        del inputs[name]
    with torch.no_grad():
        wanted = made(**inputs).scores
        del made
        close(CKSModel.from_pretrained(tmp_path)(**inputs).scores, wanted, atol=1e-6)


def training_with_hidden_words(monkeypatch, hidden, **changes):
    """A model in training, where chance hides the words of the given dialogues."""
    made = model(**{"text_dropout": 0.5, "use_cim": False, "fusion_dropout": 0.0, **changes})
    made.train()
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    drawn = torch.tensor([0.1 if row in hidden else 0.9 for row in range(3)])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
    return made


def with_other(names):
    """The batch, and the batch with other values in what is named."""
    given, other = ranking(), batch(seed=1)
    for name in names:
        assert not torch.equal(given[name], other[name])
    return given, {**given, **{name: other[name] for name in names}}


WORDS = ("utterance_input_ids", "dialogue_input_ids")


def test_hidden_words_say_nothing_and_knowledge_still_does(monkeypatch):
    made = training_with_hidden_words(monkeypatch, hidden={0, 2})
    given, reworded = with_other(WORDS)
    first, second = made(**given), made(**reworded)
    for one, other in (
        (first.scores[:, :1], second.scores[:, :1]),
        (first.dialogue_embeds, second.dialogue_embeds),
    ):
        torch.testing.assert_close(one[[0, 2]], other[[0, 2]])
        assert (one[1] - other[1]).abs().max() > 1e-3
    _, otherwise_known = with_other(["knowledge"])
    changed = (made(**otherwise_known).dialogue_embeds - first.dialogue_embeds).abs().amax(1)
    assert (changed > 1e-4).all()


def test_what_is_not_hidden_is_as_without_dropout(monkeypatch):
    plain = training_with_hidden_words(monkeypatch, hidden={0}, text_dropout=0.0)(**ranking())
    some = training_with_hidden_words(monkeypatch, hidden={0})(**ranking())
    torch.testing.assert_close(some.scores[1:], plain.scores[1:])
    assert (some.scores[0] - plain.scores[0]).abs().max() > 1e-4


@pytest.mark.parametrize("changes", [{"use_knowledge": False}, {"use_keue": False}])
def test_without_knowledge_no_words_are_hidden(monkeypatch, changes):
    made = training_with_hidden_words(monkeypatch, hidden={0, 1, 2}, **changes)
    given, reworded = with_other(WORDS)
    changed = made(**given).scores[:, 0] - made(**reworded).scores[:, 0]
    assert changed.abs().min() > 1e-4


def test_no_words_are_hidden_in_evaluation(monkeypatch):
    plain = training_with_hidden_words(monkeypatch, hidden=(), text_dropout=0.0).eval()
    made = training_with_hidden_words(monkeypatch, hidden={0, 1, 2}).eval()
    torch.testing.assert_close(made(**ranking()).scores, plain(**ranking()).scores)


def test_padding_is_not_computed_and_changes_nothing(monkeypatch):
    seen = []
    made, given = model(), ranking()
    layer = made.multimodal_encoder.layers[0]
    hook = layer.query_key_value.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    packed = made(**given)
    monkeypatch.setattr("modeling_cks.multimodal_encoder._real_places", lambda mask: None)
    padded = made(**given)
    hook.remove()
    assert seen[0].dim() == 2 and seen[1].dim() == 3
    assert seen[0].shape[0] < seen[1].shape[0] * seen[1].shape[1]
    for name in ("scores", "match_logits", "candidate_emotion_logits"):
        torch.testing.assert_close(packed[name], padded[name], atol=1e-6, rtol=0)


def test_the_last_layer_computes_the_head_alone_and_gives_what_whole_rows_gave():
    made = model()
    encoder, parts = made.multimodal_encoder, []
    generator = torch.Generator().manual_seed(1)
    for lengths in ([3, 5, 1, 4], [2, 0, 2, 1]):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        parts.append((torch.randn(*mask.shape, 16, generator=generator), mask))
    changed = []
    hook = encoder.layers[-1].feed_forward.register_forward_hook(
        lambda _, given, __: changed.append(given[0].shape)
    )
    match, emotion = encoder(parts)
    hook.remove()
    assert changed == [(4, 16)]
    # The obvious twin: every layer over whole, padded rows, and [HEAD] taken at the end.
    hidden = torch.cat([encoder.head_token.expand(4, 1, -1), *(each for each, _ in parts)], dim=1)
    mask = torch.cat([torch.ones(4, 1, dtype=torch.bool), *(each for _, each in parts)], dim=1)
    for layer in encoder.layers:
        hidden = layer(hidden, mask[:, None, None, :])
    pooled = encoder.norm(hidden[:, 0])
    torch.testing.assert_close(match, encoder.match_head(pooled), atol=1e-6, rtol=0)
    torch.testing.assert_close(emotion, encoder.emotion_head(pooled), atol=1e-6, rtol=0)


@pytest.mark.parametrize("best", [1, 2, 3, 9])
def test_match_best_judges_the_best_by_contrast_and_puts_the_rest_behind(best):
    made, given = model(), ranking()
    judged = []
    hook = made.multimodal_encoder.register_forward_hook(
        lambda _, given, __: judged.append(given[0][0][0].shape[0])
    )
    whole, short = made(**given), made(**given, match_best=best)
    hook.remove()
    candidates = given["candidates"]
    for row, places in enumerate(candidates.tolist()):
        logits = whole.contrastive_logits[row].tolist()
        real = [column for column, place in enumerate(places) if place >= 0]
        order = sorted(real, key=lambda column: (-logits[column], column))
        shares = torch.tensor(logits).softmax(-1)
        for column in range(len(places)):
            if column in order[:best]:
                wanted = whole.scores[row, column]
                match, emotion = whole.match_logits[row], whole.candidate_emotion_logits[row]
                torch.testing.assert_close(
                    short.match_logits[row, column], match[column], atol=1e-6, rtol=0
                )
                torch.testing.assert_close(
                    short.candidate_emotion_logits[row, column], emotion[column], atol=1e-6, rtol=0
                )
            else:
                wanted = shares[column] - 1 if column in real else torch.tensor(float("-inf"))
                assert not short.match_logits[row, column].any()
                assert not short.candidate_emotion_logits[row, column].any()
            torch.testing.assert_close(short.scores[row, column], wanted, atol=1e-6, rtol=0)
    counts = (candidates >= 0).sum(1)
    assert judged == [int(counts.sum()), int(counts.clamp(max=best).sum())]


def test_match_best_embeds_the_words_of_the_judged_stickers_alone():
    made, given = model(), ranking()
    embedded = []
    hook = made.multimodal_encoder.embeddings.register_forward_hook(
        lambda _, given, __: embedded.append(given[0].shape[0])
    )
    made(**given, match_best=1)
    hook.remove()
    rows = len(given["candidates"])
    assert embedded[0] == rows and embedded[1] <= rows < len(given["ocr_input_ids"])


@pytest.mark.parametrize(("changes", "best"), [({}, 0), ({"use_itc": False}, 2)])
def test_match_best_that_cannot_be_is_an_error(changes, best):
    made, given = model(**changes), ranking()
    with pytest.raises(ValueError, match="match_best"):
        made(**given, match_best=best)
