# SPDX-License-Identifier: Apache-2.0
"""scripts/export_onnx.py and what it writes: graphs that answer as the model does."""

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from release_files import EMOTIONS, ReleaseFiles
from tiny_model import TINY_TEXT, TINY_VISION, tiny_cks
from transformers import AutoModel, AutoProcessor

from dataset_mod import prepare
from modeling_cks import onnx_export
from modeling_cks.onnx_export import export_onnx, largest_difference, random_batch
from modeling_cks.onnx_runtime import GRAPHS, OnnxCKS

ROOT = Path(__file__).resolve().parents[2]
DIALOGUE = ["I won the prize", {"speaker": 1, "text": "So what"}, "Oh dear", "Look at this"]


def load_main(patch):
    patch.syspath_prepend(str(ROOT / "scripts"))
    path = ROOT / "scripts" / "export_onnx.py"
    spec = importlib.util.spec_from_file_location("export_onnx_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(each) for each in arguments])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny model, its data, and what the script wrote of them."""
    folder = tmp_path_factory.mktemp("onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        root = ReleaseFiles().write(folder / "release")
        prepare(root, folder / "data")
        one_layer = {"num_hidden_layers": 1}
        patch.setattr("tiny_model.TINY_TEXT", {**TINY_TEXT, **one_layer})
        patch.setattr("tiny_model.TINY_VISION", {**TINY_VISION, **one_layer})
        model, processor = tiny_cks(folder, emotions=list(EMOTIONS), fusion_num_layers=1)
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        main = load_main(patch)
        code = main(
            folder / "model", "--output", folder / "out", "--int8", "--data", folder / "data",
            "--report", folder / "report.json",
        )  # fmt: skip
    assert code == 0
    return folder


def test_the_report_holds_what_was_measured(exported):
    told = json.loads((exported / "report.json").read_text())
    assert told == json.loads((exported / "out" / "onnx.json").read_text())
    assert set(told["largest_difference"]) == {
        "sticker_embeds", "dialogue_embeds", "utterance_weights", "scores", "contrastive_logits",
        "match_logits", "candidate_emotion_logits",
    }  # fmt: skip
    assert 0 < max(told["largest_difference"].values()) < 1e-4
    assert told["metrics"]["torch"] == told["metrics"]["onnx"]
    assert set(told["metrics"]) == {"torch", "onnx", "onnx_int8"}
    assert told["metrics"]["onnx_int8"]["samples"] == 3
    for case in ("new_stickers", "known_stickers"):
        assert all(value > 0 for value in told["latency"]["median_ms"][case].values())
    assert {"onnx", "onnxscript", "onnxruntime", "torch"} <= set(told["versions"])
    assert sum(told["mib"]["onnx_int8"].values()) < sum(told["mib"]["onnx"].values())


def test_an_application_gets_the_models_answer(exported):
    model = AutoModel.from_pretrained(exported / "model").eval()
    processor = AutoProcessor.from_pretrained(exported / "out")
    images = sorted((exported / "release").rglob("s*.png"))
    shown = {"speaker": 0, "text": "Oh dear", "sticker": images[9]}
    inputs = processor([DIALOGUE, [DIALOGUE[0], shown, "no"], ["Oh dear"]], images[:5])
    cks = OnnxCKS(exported / "out")
    with torch.no_grad():
        wanted = model(**inputs)
    found = cks(**inputs)
    assert set(found) == {name for name, value in wanted.items() if value is not None}
    for name, value in found.items():
        assert largest_difference(wanted[name], value) < 1e-4, name
    assert cks.id2label == model.config.id2label
    # Known stickers take the place of pixels, for this dialogue and for the next.
    embeds = cks.encode_stickers(inputs["pixel_values"])
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    known = cks(**rest, sticker_embeds=embeds)
    np.testing.assert_array_equal(known["scores"], found["scores"])
    # Nothing to choose from: the dialogue alone.
    assert set(cks(**{**rest, "candidates": None}, sticker_embeds=embeds)) == {
        "sticker_embeds", "dialogue_embeds", "utterance_weights",
    }  # fmt: skip
    # Without COMET and without a history, as the model without them.
    bare = processor([DIALOGUE], images[:5], knowledge=False)
    del bare["history"]
    with torch.no_grad():
        assert largest_difference(model(**bare).scores, cks(**bare)["scores"]) < 1e-4
    assert not np.allclose(found["scores"][0], cks(**bare)["scores"][0], atol=1e-4)
    with pytest.raises(ValueError, match="`knowledge`"):
        cks(**{**bare, "knowledge": None})


def test_every_axis_that_may_vary_does(exported):
    for name in GRAPHS:
        graph = onnx.load(exported / "out" / f"{name}.onnx").graph
        for each in (*graph.input, *graph.output):
            dims = each.type.tensor_type.shape.dim
            assert dims[0].dim_param, each.name
            if each.name.endswith(("_ids", "mask", "utterances", "history", "scores", "weights")):
                assert dims[1].dim_param, each.name


def test_int8_answers_nearly_as_the_model_does(exported):
    model = AutoModel.from_pretrained(exported / "model").eval()
    batch = random_batch(model.config, (4, 2, 1), 6, 5)
    whole, small = (OnnxCKS(exported / "out", int8=int8)(**batch) for int8 in (False, True))
    spread = whole["match_logits"].std()
    differ = np.abs(whole["match_logits"] - small["match_logits"]).max()
    assert 0 < differ < spread
    operators = {
        node.op_type
        for name in GRAPHS
        for node in onnx.load(exported / "out" / f"{name}.int8.onnx").graph.node
    }
    assert {"MatMulInteger", "DynamicQuantizeLSTM"} <= operators


def test_a_graph_that_answers_otherwise_is_not_left(exported, tmp_path, monkeypatch, capsys):
    # The graphs that are there stand for the exporter's: they are another model's.
    def copied(graph, example, path):
        path.write_bytes((exported / "out" / path.name).read_bytes())

    monkeypatch.setattr(onnx_export, "_export", copied)
    model = AutoModel.from_pretrained(exported / "model").eval()
    assert max(export_onnx(model, tmp_path / "same").values()) < 1e-4
    with torch.no_grad():
        model.multimodal_encoder.match_head.bias[0] += 1e-2
    model.save_pretrained(tmp_path / "model")
    AutoProcessor.from_pretrained(exported / "model").save_pretrained(tmp_path / "model")
    main = load_main(monkeypatch)
    assert main(tmp_path / "model", "--output", tmp_path / "out") == 1
    assert "match_logits differs from the model's by 0.01" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "same"]


def test_what_cannot_be_exported_is_said(exported, tmp_path, monkeypatch):
    main = load_main(monkeypatch)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not touched"):
        main(exported / "model", "--output", tmp_path)
    with pytest.raises((ValueError, OSError), match="gone"):
        main(tmp_path / "gone", "--output", tmp_path / "out")
    with pytest.raises(ValueError, match="no split 'test'"):
        monkeypatch.setattr(onnx_export, "_export", lambda graph, example, path: path.write_bytes(
            (exported / "out" / path.name).read_bytes()))  # fmt: skip
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        main(exported / "model", "--output", tmp_path / "out", "--data", exported / "data",
             "--split", "test")  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "mine.txt"]
    with pytest.raises(ValueError, match="no exported CKS"):
        OnnxCKS(tmp_path)
    with pytest.raises(ValueError, match=r"stickers\.int8\.onnx"):
        folder = tmp_path / "plain"
        folder.mkdir()
        for name in ("config.json", *(f"{graph}.onnx" for graph in GRAPHS)):
            (folder / name).write_bytes((exported / "out" / name).read_bytes())
        OnnxCKS(folder, int8=True)
    model = AutoModel.from_pretrained(exported / "model")
    with pytest.raises(ValueError, match="evaluation mode"):
        export_onnx(copy.copy(model).train(), tmp_path / "training")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"use_keue": False}, {"use_knowledge": False, "joint_attention": True},
        {"use_vkd": False, "use_ocr": False}, {"vkd_form": "feature_softmax", "use_cim": False},
        {"use_itc": False}, {"use_itm": False}, {"use_itm": False, "use_emotion": False},
        {"sticker_history": False},
    ],
    ids=str,
)  # fmt: skip
def test_every_ablation_can_be_exported(tmp_path, changes):
    # At the end of a conversion each difference was looked at: none may be above the tolerance.
    model, _ = tiny_cks(tmp_path, fusion_num_layers=1, **changes)
    assert max(export_onnx(model, tmp_path / "out").values()) < 1e-4
