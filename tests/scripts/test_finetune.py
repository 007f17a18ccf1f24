# SPDX-License-Identifier: Apache-2.0
"""scripts/finetune.py: the library's own Trainer on somebody's own chats."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from chat_files import TEXTS, turns, write_csv, write_stickers
from tiny_model import EMOTIONS, tiny_cks
from transformers import AutoModel, AutoProcessor, pipeline

from dataset_mod import Chats, write_prepared

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--epochs", 24, "--learning-rate", 1e-2, "--batch-size", 24)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny_cks(folder, use_knowledge=False)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def stickers(tmp_path_factory):
    return write_stickers(tmp_path_factory.mktemp("pack") / "stickers")


@pytest.fixture
def finetune(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = ROOT / "scripts" / "finetune.py"
    spec = importlib.util.spec_from_file_location("finetune_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(each) for each in arguments])


def losses(output, name):
    state = json.loads((output / "trainer_state.json").read_text())
    return [log[name] for log in state["log_history"] if name in log]


def test_new_emotions_get_a_new_head_and_the_pipeline_loads_what_was_learned(
    checkpoint, stickers, finetune, tmp_path
):
    chats = Chats(write_csv(tmp_path / "chats.csv", turns()), stickers)
    write_prepared([chats], tmp_path / "data")
    output = tmp_path / "out"
    assert finetune(checkpoint, "--data", tmp_path / "data", "--output", output, *FAST) == 0
    first, last = losses(output, "loss")
    assert last < 0.9 * first
    assert len(losses(output, "eval_loss")) == 24
    select = pipeline("sticker-selection", model=str(output))
    assert set(select.model.config.label2id) == {"furious", "glad", "low"}
    named = [
        select([text, {"speaker": 1, "text": ""}], stickers=str(stickers))["emotion"]["label"]
        for text in TEXTS
    ]
    assert named == ["glad", "low", "furious", "glad"]


def test_without_emotions_the_head_stays_and_lora_merges_to_what_it_trained(
    checkpoint, stickers, finetune, tmp_path
):
    from peft import PeftModel

    chats = Chats(write_csv(tmp_path / "chats.csv", turns(emotions=False)), stickers)
    write_prepared([chats], tmp_path / "data")
    output = tmp_path / "out"
    finetune(checkpoint, "--data", tmp_path / "data", "--output", output, "--lora", *FAST)
    first, last = losses(output, "loss")
    assert last < 0.97 * first

    base = AutoModel.from_pretrained(checkpoint).eval()
    merged = AutoModel.from_pretrained(output).eval()
    assert list(merged.config.id2label.values()) == list(EMOTIONS)
    before, after = base.state_dict(), merged.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    reached = {name.split(".")[0] for name in changed}
    assert reached >= {"text_encoder", "visual_extractor", "multimodal_encoder"}
    assert all(
        name.endswith((".query.weight", ".value.weight", "q_proj.weight", "v_proj.weight",
                       "query_key_value.weight"))
        for name in changed
    )  # fmt: skip

    inputs = AutoProcessor.from_pretrained(output)(
        ["oh no", "why", "so sad"], sorted(stickers.iterdir())
    )
    with torch.no_grad():
        plain = base(**inputs).scores
        wanted = merged(**inputs).scores
        adapted = PeftModel.from_pretrained(base, output / "adapter").eval()(**inputs).scores
    torch.testing.assert_close(adapted, wanted, atol=1e-5, rtol=1e-5)
    assert (plain - wanted).abs().max() > 1e-3
