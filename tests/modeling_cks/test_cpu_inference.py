# SPDX-License-Identifier: Apache-2.0
"""Packed linear maps: exact in float32, near in less, and never saved or mistaken for the whole."""

import copy

import pytest
import torch
from tiny_model import tiny_cks

from modeling_cks.cpu_inference import (
    PRECISIONS,
    PackedLinear,
    pack_linear_maps,
    supported_precisions,
)
from modeling_cks.onnx_export import random_batch
from modeling_cks.sticker_index import StickerIndex

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture
def made(tmp_path):
    model, processor = tiny_cks(tmp_path)
    return model.eval(), processor


def wanted_of(linear, inputs, precision):
    """The obvious twin of each precision."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    if precision == "float32":
        return inputs @ weight.T + bias
    if precision == "bfloat16":
        return inputs.bfloat16().float() @ weight.bfloat16().float().T + bias
    scale = weight.abs().amax(1, keepdim=True) / 127
    return inputs @ ((weight / scale).round() * scale).T + bias


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 16), (1, 1, 1, 16)])
def test_a_packed_map_is_the_map(precision, shape):
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 24)
    inputs = torch.randn(shape)
    found = PackedLinear(linear, precision)(inputs)
    wanted = wanted_of(linear, inputs, precision)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    # bfloat16 rounds what comes out to 8 bits, int8 what goes in to as many.
    error = {"float32": 1e-6, "bfloat16": 0.01, "int8": 0.03}[precision]
    torch.testing.assert_close(found, wanted, atol=error, rtol=error)
    no_bias = torch.nn.Linear(16, 4, bias=False)
    torch.testing.assert_close(
        PackedLinear(no_bias, precision)(inputs), no_bias(inputs), atol=0.05, rtol=0.05
    )


@pytest.mark.parametrize("precision", supported_precisions())
def test_scores_of_a_packed_model(made, precision):
    model, processor = made
    batch = random_batch(model.config, (3, 1), 4, 3)
    whole = copy.deepcopy(model)
    count = pack_linear_maps(model, None, precision)
    assert count == sum(isinstance(each, torch.nn.Linear) for each in whole.modules())
    assert not any(isinstance(each, torch.nn.Linear) for each in model.modules())
    with torch.no_grad():
        found, wanted = model(**batch), whole(**batch)
    exact = precision == "float32"
    tolerance = 1e-5 if exact else 0.2
    for name in ("scores", "contrastive_logits", "candidate_emotion_logits"):
        real = wanted[name].isfinite()
        difference = (found[name][real] - wanted[name][real]).abs().max()
        assert difference <= tolerance and (exact or difference > 0), name


@pytest.mark.parametrize("precision", supported_precisions())
def test_comet_is_packed_and_its_knowledge_kept_apart_where_it_differs(made, precision, tmp_path):
    _, processor = made
    processor.knowledge_store = str(tmp_path / "store")
    exact = processor.knowledge_features(["so happy today", "oh no"])
    comet = processor.knowledge_extractor
    key, store = comet.key, comet._open_store()
    pack_linear_maps(torch.nn.Linear(2, 2).eval(), processor, precision)
    assert any(isinstance(each, PackedLinear) for each in comet.model.modules())
    found = processor.knowledge_features(["so happy today", "oh no", "thank you"])
    torch.testing.assert_close(found[:2], exact, atol=1.0, rtol=0)  # of sums up to 6
    if precision == "float32":
        assert comet.key == key and len(store.missing(["thank you"])) == 0
        assert torch.equal(found[:2], exact)
    else:
        assert comet.key != key and not torch.equal(found[:2], exact)
        assert store.missing(["thank you"]) == ["thank you"]
    # What COMET writes for people still comes out.
    assert comet.infer(["so happy today"], num_beams=2)[0]["xReact"]


def test_an_index_knows_a_packed_model(made, tmp_path):
    model, _ = made
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.visual_extractor.parameters()).add_(1)
    index = StickerIndex.create(tmp_path / "index", model.config.embed_size, model)
    for each in (model, other):
        pack_linear_maps(each)
    index.check_model(model)
    with pytest.raises(ValueError, match="another model"):
        index.check_model(other)


def test_what_is_packed_is_neither_saved_nor_packed_again(made, tmp_path):
    model, _ = made
    pack_linear_maps(model)
    with pytest.raises(ValueError, match="cannot be saved"):
        model.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="packed already"):
        pack_linear_maps(model)


def test_what_cannot_be_packed_is_said_and_left_whole(made):
    model, _ = made
    with pytest.raises(ValueError, match="precision must be one of"):
        pack_linear_maps(model, precision="int4")
    with pytest.raises(ValueError, match="training mode"):
        pack_linear_maps(model.train())
    with pytest.raises(ValueError, match="float32"):
        pack_linear_maps(model.eval().bfloat16())
    assert not any(isinstance(each, PackedLinear) for each in model.modules())
