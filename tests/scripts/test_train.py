# SPDX-License-Identifier: Apache-2.0
"""scripts/train.py on a tiny MOD-mini, end to end."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_comet import tiny_comet

from dataset_mod.synthetic import write_mini_release

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 16}  # fmt: skip
RECIPE = {
    "scratch": {
        "text_config": {"model_type": "bert", "vocab_size": 300, "max_position_embeddings": 40,
                        **SMALL},
        "bert_config": {"model_type": "bert", "vocab_size": 300, "max_position_embeddings": 80,
                        **SMALL},
        "vision_config": {"image_size": 16, "patch_size": 8, **SMALL},
    },
    "model": {"embed_size": 16, "lstm_hidden_size": 8, "fusion_hidden_size": 16,
              "fusion_num_layers": 1, "fusion_num_heads": 2, "fusion_intermediate_size": 16},
    "processor": {"ocr": "none", "max_utterances": 6, "max_utterance_tokens": 16,
                  "max_dialogue_tokens": 32, "max_ocr_tokens": 4},
    "training": {"num_train_epochs": 2, "per_device_train_batch_size": 8, "use_cpu": True,
                 "learning_rate": 0.001, "logging_steps": 1, "disable_tqdm": True, "seed": 5},
    "data_prior": True,
}  # fmt: skip


def script(name, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_mini_release(folder / "release", dialogues=(12, 4, 4, 4), size=32)
    done = script(
        "prepare_mod.py", folder / "release", "--language", "en", "--output", folder / "prepared"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "prepared"


@pytest.fixture
def main(monkeypatch):
    """Give the script's `main`, as `run_main` calls it."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "scripts" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda arguments: module.main([str(each) for each in arguments])


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_trains_saves_and_goes_on(data, recipe, tmp_path):
    from transformers import AutoModel, AutoProcessor

    import modeling_cks  # noqa: F401 (registers)

    comet = tiny_comet(tmp_path / "comet", hidden_size=16)
    common = [recipe, "--data", data, "--comet", comet]
    done = script("train.py", *common, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert told["steps"] > 0 and not told["resumed"] and told["seed"] == 5
    assert {"R@1", "R@3", "R@5", "MRR", "Acc"} <= set(told["validation"])
    assert told["recipe"]["model"] == RECIPE["model"] and told["backbones"]["comet"] == "comet"
    assert str(tmp_path) not in json.dumps(told["backbones"])
    steps = [log for log in told["history"] if "match_loss" in log]
    assert len(steps) == told["steps"]
    assert all(log["triplet_loss"] >= 0 and log["contrastive_loss"] > 0 for log in steps)
    assert (data / "knowledge").is_dir()
    model = AutoModel.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert model.config.use_knowledge and model.config.knowledge_size == 16
    assert sum(model.config.dictionary_prior) == pytest.approx(1)
    assert len(set(model.config.dictionary_prior)) > 1
    assert model.visual_extractor.vkd.prior.tolist() == pytest.approx(model.config.dictionary_prior)
    images = sorted((data.parent / "release").rglob("*.gif"))[:3]
    scores = model(**processor(["hello", "oh no"], images)).scores
    assert scores.shape == (1, len(images)) and len(images) > 1
    assert torch.isfinite(scores).all()

    # After a lost checkpoint it goes on from the one before, to the same weights.
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    checkpoints = sorted(
        (tmp_path / "out" / "checkpoints").glob("checkpoint-*"),
        key=lambda path: int(path.name.split("-")[1]),
    )
    assert len(checkpoints) == 2
    for path in sorted(checkpoints[1].rglob("*"), reverse=True):
        path.unlink()
    checkpoints[1].rmdir()
    done = script("train.py", *common, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((tmp_path / "out" / "training.json").read_text())
    assert again["resumed"] and again["steps"] == told["steps"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    # With other settings it does not take those checkpoints for its own.
    done = script("train.py", *common, "--output", tmp_path / "out", "--seed", "6")
    assert done.returncode == 2 and "--restart" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_emotional_words_are_drawn_anew_once_they_are_known(data, recipe, tmp_path, main):
    one_epoch = ("--set", "training.num_train_epochs=1", "--set", "training.word_intervention=1")
    arguments = [recipe, "--data", data, "--output", tmp_path / "out", *one_epoch]
    with pytest.raises(ValueError, match=r"bias_report\.py"):
        main(arguments)
    lexicon = data.parent / "release" / "lexicon.tsv"
    done = script("bias_report.py", data, "--lexicon", lexicon, "--lexicon-only")
    assert done.returncode == 0, done.stderr[-2000:]
    assert main(arguments) == 0
    told = json.loads((tmp_path / "out" / "training.json").read_text())["word_intervention"]
    assert told["probability"] == 1 and ["funny", 1] in told["words"]
    # Other words are another training, which does not go on from this one.
    fewer = tmp_path / "fewer.tsv"
    fewer.write_text("word\temotion\nfunny\tjoy\nsad\tsadness\n")
    script("bias_report.py", data, "--lexicon", fewer, "--lexicon-only")
    with pytest.raises(ValueError, match="--restart"):
        main(arguments)


@pytest.mark.parametrize(
    "changes, says",
    [
        (["training.word_intervention=1.5"], "word_intervention|bias_report"),
        (["modle.embed_size=3"], "modle"),
        (["model.embed_sise=3"], "embed_sise"),
        (["model.use_vkd=3"], "use_vkd"),
        (["processor.max_utterance=3"], "max_utterance"),
        (["training.learning_rat=1"], "learning_rat"),
        (["training.freeze=[nothing]"], "nothing"),
        (["training.push_to_hub=true"], "hub_model_id"),
        (["backbones=null"], "backbones"),
        (["backbones.txt=a"], "txt"),
        (["training"], "section.field=value"),
    ],
)
def test_bad_recipes_are_named(data, recipe, tmp_path, changes, says, main):
    settings = [word for change in changes for word in ("--set", change)]
    with pytest.raises(ValueError, match=says):
        main([recipe, "--data", data, "--output", tmp_path / "out", *settings])


def test_missing_files_are_named(data, recipe, tmp_path, main):
    for arguments in (
        [tmp_path / "gone.yaml", "--data", data],
        [recipe, "--data", tmp_path / "gone"],
        [recipe, "--data", data, "--comet", tmp_path / "gone"],
    ):
        with pytest.raises((ValueError, OSError), match="gone"):
            main([*arguments, "--output", tmp_path / "out"])
    with pytest.raises(ValueError, match="fr"):
        main([recipe, "--data", data, "--language", "fr", "--output", tmp_path / "out"])


def test_bad_input_is_one_line_and_code_2(data, recipe, tmp_path):
    done = script(
        "train.py", recipe, "--data", data, "--output", tmp_path / "out",
        "--set", "modle.embed_size=3",
    )  # fmt: skip
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1 and "modle" in lines[0] and "Traceback" not in done.stderr
