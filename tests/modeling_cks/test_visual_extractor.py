# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import scipy.fft
import torch

from modeling_cks import CKSConfig, CKSModel
from modeling_cks.visual_extractor import (
    ContentInvariantModule,
    VisualKnowledgeDeconfounder,
    band_pass,
    dct_matrix,
)

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "vocab_size": 40, "max_position_embeddings": 40}  # fmt: skip
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 16, "image_size": 16, "patch_size": 8}  # fmt: skip


def config(**changes):
    return CKSConfig(
        text_config={"model_type": "bert", **TEXT},
        bert_config=TEXT,
        vision_config=VISION,
        **{
            "embed_size": 16, "dictionary_size": 16, "lstm_hidden_size": 4, "knowledge_size": 8,
            "fusion_hidden_size": 16, "fusion_num_layers": 1, "fusion_num_heads": 2,
            "fusion_intermediate_size": 16, "num_labels": 3, **changes,
        },
    )  # fmt: skip


def cim(**changes):
    module = ContentInvariantModule(config(**changes))
    module.fill_buffers()
    return module


def pixels(module, seed=0, count=2):
    """Draw CLIP-normalised images that lie well inside [0, 1]."""
    images = 0.4 + 0.2 * torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return (images - module.image_mean) / module.image_std


@pytest.mark.parametrize("size", [1, 5, 16, 224])
def test_dct_equals_scipy(size):
    image = np.random.default_rng(size).random((size, size))
    matrix = dct_matrix(size).double().numpy()
    wanted = scipy.fft.dctn(image, norm="ortho")
    np.testing.assert_allclose(matrix @ image @ matrix.T, wanted, atol=2e-4)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=2e-6)


def test_band_pass_equals_the_scalar_formula():
    low, high, size = 0.005, 0.7, 12
    got = band_pass(size, low, high)
    for i in range(size):
        for j in range(size):
            square = (i / size) ** 2 + (j / size) ** 2
            wanted = math.exp(-square / (2 * high**2)) - math.exp(-square / (2 * low**2))
            assert got[i, j].item() == pytest.approx(wanted, abs=1e-6)
    assert got[0, 0] == 0  # the mean colour is style
    assert got[1, 1] > 0.98 and got[-1, -1] < 0.2  # shapes are content, grain is style


def test_cim_equals_equation_10_written_out():
    module = cim()
    given = pixels(module)
    noise = 0.02 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    got = module(given, noise)
    mean, std = np.array(module.mean), np.array(module.std)
    h = band_pass(16, 0.005, 0.7).double().numpy()
    for s in range(2):
        for c in range(3):
            image = given[s, c].double().numpy() * std[c] + mean[c]
            f = scipy.fft.dctn(image, norm="ortho")
            mixed = h * f + (1 - h) * f * (1 + noise[s, c].double().numpy())
            wanted = np.clip(scipy.fft.idctn(mixed, norm="ortho"), 0, 1)
            np.testing.assert_allclose(got[s, c], (wanted - mean[c]) / std[c], atol=2e-4)


def test_no_noise_gives_the_image_back():
    module = cim()
    given = pixels(module)
    torch.testing.assert_close(module(given, torch.zeros_like(given)), given, atol=1e-5, rtol=0)


def test_noise_moves_style_and_keeps_content():
    module = cim(cim_noise_scale=0.05)  # so little that nothing is clamped
    given = pixels(module, count=1)
    torch.manual_seed(0)
    moved = torch.stack([module(given)[0] for _ in range(64)])
    spectrum = module.dct @ (moved * module.image_std + module.image_mean) @ module.dct.T
    relative = spectrum.std(0) / spectrum.mean(0).abs() / 0.05
    style = module.style > 0.9
    content = module.style < 0.05
    assert style.any() and content.any()
    assert relative[:, style].median() > 0.8
    assert relative[:, content].median() < 0.05
    loud = cim(cim_noise_scale=5.0)(given) * module.image_std + module.image_mean
    assert loud.min() == pytest.approx(0, abs=1e-6) and loud.max() == pytest.approx(1)


def test_noise_scale_zero_is_no_noise():
    module = cim(cim_noise_scale=0.0)
    given = pixels(module)
    torch.testing.assert_close(module(given), given, atol=1e-5, rtol=0)


def test_constants_survive_loading(tmp_path):
    model = CKSModel(config())
    model.save_pretrained(tmp_path)
    loaded = CKSModel.from_pretrained(tmp_path).visual_extractor
    torch.testing.assert_close(loaded.cim.dct, dct_matrix(16), rtol=0, atol=0)
    torch.testing.assert_close(loaded.cim.style, 1 - band_pass(16, 0.005, 0.7), rtol=0, atol=0)
    assert loaded.cim.image_mean.flatten().tolist() == pytest.approx(model.config.image_mean)
    assert loaded.cim.image_std.flatten().tolist() == pytest.approx(model.config.image_std)


def test_in_evaluation_nothing_is_randomised():
    torch.manual_seed(0)
    extractor = CKSModel(config()).visual_extractor.eval()
    given = torch.randn(3, 3, 16, 16)
    visual, augmented, unbiased = extractor(given)
    assert torch.equal(visual, augmented)
    assert torch.equal(unbiased, extractor(given)[2])
    extractor.train()
    visual, augmented, _ = extractor(given)
    assert (visual - augmented).abs().max() > 1e-3


def vkd(**changes):
    torch.manual_seed(4)
    module = VisualKnowledgeDeconfounder(config(**changes))
    module.dictionary.normal_()
    torch.nn.init.normal_(module.fc.weight, std=0.3)
    return module


def test_vkd_over_the_words_equals_the_loop():
    prior = [0.3, 0.1, 0.2, 0.05, 0.25, 0.1]
    module = vkd(vkd_form="dictionary_softmax", dictionary_prior=prior)
    visual = torch.randn(4, 16)
    got = module(visual)
    for s in range(4):
        scores = [float(visual[s] @ word) / math.sqrt(16) for word in module.dictionary]
        top = [math.exp(score) for score in scores]
        soft = [value / sum(top) for value in top]
        weighed = [soft[i] * prior[i] for i in range(6)]
        mixed = sum(weighed[i] / sum(weighed) * module.dictionary[i] for i in range(6))
        torch.testing.assert_close(got[s], module.fc(mixed), atol=1e-5, rtol=1e-5)
    uniform = vkd(vkd_form="dictionary_softmax")
    assert uniform.prior.tolist() == pytest.approx([1 / 6] * 6)
    assert (uniform(visual) - got).abs().max() > 1e-3


def test_vkd_over_the_features_equals_the_loop():
    module = vkd(vkd_form="feature_softmax")
    visual = torch.randn(3, 16)
    got = module(visual)
    for s in range(3):
        seen = [float(visual[s] @ word) for word in module.dictionary]
        mixed = sum(seen[i] * module.dictionary[i] for i in range(6))
        values = [math.exp(value) for value in module.fc(mixed).tolist()]
        wanted = torch.tensor([value / sum(values) for value in values])
        torch.testing.assert_close(got[s], wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got.sum(-1), torch.ones(3))


def test_vkd_stays_finite_where_only_improbable_words_have_a_prior():
    module = vkd(vkd_form="dictionary_softmax", dictionary_prior=[1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    visual = (1e4 * module.dictionary[3:4]).requires_grad_()
    got = module(visual)
    torch.testing.assert_close(got[0], module.fc(module.dictionary[0]))
    got.sum().backward()
    assert torch.isfinite(visual.grad).all()


def test_dictionary_of_another_size_is_projected():
    module = vkd(dictionary_size=10)
    assert module.dictionary.shape == (6, 10)
    assert module(torch.randn(2, 16)).shape == (2, 16)
    assert not list(vkd().dictionary_projection.parameters())
