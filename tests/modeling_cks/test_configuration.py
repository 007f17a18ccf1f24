# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from modeling_cks import CKSConfig


def test_defaults_are_the_papers_sizes():
    config = CKSConfig(num_labels=48)
    assert config.text_config.model_type == "roberta"
    assert config.bert_config.model_type == "bert"
    vision = config.vision_config
    assert (vision.hidden_size, vision.patch_size, vision.image_size) == (768, 32, 224)
    assert (config.embed_size, config.utterance_state_size, config.knowledge_size) == (
        768,
        600,
        1024,
    )
    assert (config.fusion_hidden_size, config.fusion_num_layers, config.fusion_num_heads) == (
        512,
        12,
        8,
    )
    assert (config.cim_low_threshold, config.cim_high_threshold) == (0.005, 0.7)
    assert (config.emotion_loss_weight, config.triplet_loss_weight) == (0.5, 0.3)
    assert (config.triplet_margin, config.itc_weight) == (0.2, 1.0)
    assert config.dictionary_words == (
        "surprise", "happiness", "disgust", "fear", "sadness", "anger",
    )  # fmt: skip
    assert len(config.id2label) == 48


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"use_keu": False}, "use_keu"),
        ({"vkd_form": "softmax"}, "vkd_form"),
        ({"negative_visual": "raw"}, "negative_visual"),
        ({"use_vkd": False, "use_cim": False}, "no visual feature"),
        ({"use_itc": False, "use_itm": False}, "nothing is left to rank"),
        ({"fusion_num_heads": 7}, "fusion_num_heads"),
        ({"cim_low_threshold": 0.9}, "cim_low_threshold"),
        ({"cim_low_threshold": 0.0}, "cim_low_threshold"),
        ({"dictionary_prior": [0.5, 0.5]}, "dictionary_prior"),
        ({"dictionary_prior": [0.5] * 6}, "sum to 1"),
        ({"dictionary_prior": [1.5, -0.5, 0.0, 0.0, 0.0, 0.0]}, "non-negative"),
        ({"lstm_hidden_size": "300"}, "lstm_hidden_size"),
        ({"use_cim": "no"}, "use_cim"),
        ({"text_dropout": 1.0}, "text_dropout"),
    ],
)
def test_bad_fields_are_named(fields, says):
    with pytest.raises((ValueError, StrictDataclassError), match=says):
        CKSConfig(**fields)


def test_circle_keeps_every_field(tmp_path):
    config = CKSConfig(
        text_config={"model_type": "bert", "hidden_size": 32},
        vision_config={"hidden_size": 48},
        id2label={0: "joy", 1: "anger"},
        label2id={"joy": 0, "anger": 1},
        vkd_form="feature_softmax",
        dictionary_prior=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1],
        use_ocr=False,
        lstm_hidden_size=11,
    )
    config.save_pretrained(tmp_path / "first")
    for cls in (CKSConfig, AutoConfig):
        loaded = cls.from_pretrained(tmp_path / "first")
        assert type(loaded) is CKSConfig
        assert loaded.text_config.model_type == "bert" and loaded.text_config.hidden_size == 32
        assert loaded.vision_config.hidden_size == 48
        assert loaded.id2label == {0: "joy", 1: "anger"} and loaded.num_labels == 2
        assert not loaded.use_ocr and loaded.lstm_hidden_size == 11
        assert list(loaded.dictionary_prior) == config.dictionary_prior
        loaded.save_pretrained(tmp_path / cls.__name__)
        for name in ("config.json", "configuration_cks.py"):
            first = (tmp_path / "first" / name).read_bytes()
            assert (tmp_path / cls.__name__ / name).read_bytes() == first


def test_what_is_saved_names_its_code_and_what_lives_does_not(tmp_path):
    config = CKSConfig()
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert set(saved["auto_map"]) == {"AutoConfig", "AutoModel", "AutoProcessor"}
    assert saved["custom_pipelines"]["sticker-selection"]["impl"].startswith("pipeline_cks.")
    assert getattr(config, "auto_map", None) is None
    # With the package the registered pipeline serves; another would demand remote code.
    assert not hasattr(CKSConfig.from_pretrained(tmp_path), "custom_pipelines")


def test_copies_through_a_dict(tmp_path):
    config = CKSConfig(use_vkd=False, num_labels=7)
    again = CKSConfig(**config.to_dict())
    assert not again.use_vkd and again.num_labels == 7
    assert again.to_dict() == config.to_dict()


def test_attention_is_chosen_for_all_parts_or_each():
    config = CKSConfig(attn_implementation="eager")
    assert config.text_config._attn_implementation == "eager"
    config._attn_implementation = {"text_config": "sdpa", "vision_config": "eager"}
    assert config.text_config._attn_implementation == "sdpa"
    assert config.vision_config._attn_implementation == "eager"
