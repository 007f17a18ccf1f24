# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_cks import CKSConfig
from modeling_cks.multimodal_encoder import PARTS, FusionLayer, MultimodalEncoder, TokenEmbeddings

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "vocab_size": 40, "max_position_embeddings": 40}  # fmt: skip


def config(**changes):
    return CKSConfig(
        bert_config=TEXT,
        **{"embed_size": 12, "fusion_hidden_size": 8, "fusion_num_layers": 2,
           "fusion_num_heads": 2, "fusion_intermediate_size": 16, "num_labels": 5, **changes},
    )  # fmt: skip


def parts(rows=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(rows, 4, 8, generator=g), torch.tensor([[1, 1, 1, 0]] * rows).bool()),
        (torch.randn(rows, 1, 8, generator=g), torch.ones(rows, 1).bool()),
        (torch.randn(rows, 2, 8, generator=g), torch.zeros(rows, 2).bool()),
    ]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_embeddings_are_the_encoders_own(kind):
    torch.manual_seed(0)
    fields = AutoConfig.for_model(kind, **TEXT)
    theirs = AutoModel.from_config(fields, add_pooling_layer=False).embeddings.eval()
    ours = TokenEmbeddings(fields).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    ids = torch.randint(5, 40, (3, 9))
    torch.testing.assert_close(ours(ids), theirs(input_ids=ids))


def test_layer_equals_attention_written_out():
    torch.manual_seed(0)
    layer = FusionLayer(config()).eval()
    hidden = torch.randn(1, 5, 8)
    mask = torch.tensor([True, True, False, True, True])
    got = layer(hidden, mask[None, None, None])[0]
    normed = layer.attention_norm(hidden[0])
    query, key, value = layer.query_key_value(normed).chunk(3, -1)
    for i in range(5):
        mixed = []
        for head in (slice(0, 4), slice(4, 8)):
            seen = [j for j in range(5) if mask[j]]
            top = [math.exp((query[i, head] @ key[j, head]).item() / 2) for j in seen]
            mixed.append(sum(t / sum(top) * value[j, head] for t, j in zip(top, seen, strict=True)))
        row = hidden[0, i] + layer.attention_output(torch.cat(mixed))
        row = row + layer.feed_forward(layer.feed_forward_norm(row))
        torch.testing.assert_close(got[i], row, atol=1e-5, rtol=1e-4)


def test_what_is_masked_influences_nothing_and_the_rest_does():
    torch.manual_seed(0)
    encoder = MultimodalEncoder(config()).eval()
    match, emotion = encoder(parts())
    assert match.shape == (3, 2) and emotion.shape == (3, 5)
    for number, place, counts in ((0, 3, False), (2, 0, False), (0, 1, True), (1, 0, True)):
        given = parts()
        given[number][0][:, place, ::2] += 5  # not all alike: layer norm is blind to that
        moved = (encoder(given)[0] - match).abs().max()
        assert (moved > 1e-4) == counts, (number, place)


def test_a_removed_head_answers_none():
    encoder = MultimodalEncoder(config(use_itm=False))
    match, emotion = encoder(parts())
    assert match is None and emotion is not None
    encoder = MultimodalEncoder(config(use_emotion=False))
    match, emotion = encoder(parts())
    assert match is not None and emotion is None


def test_each_part_is_told_by_its_type():
    torch.manual_seed(0)
    encoder = MultimodalEncoder(config()).eval()
    types = encoder.part_embeddings.weight
    ids = torch.tensor([[5, 6]])
    gap = encoder.embed_tokens(ids, "dialogue") - encoder.embed_tokens(ids, "ocr")
    wanted = types[PARTS.index("dialogue")] - types[PARTS.index("ocr")]
    torch.testing.assert_close(gap, wanted.expand(1, 2, 8), atol=1e-6, rtol=1e-5)
    visual = torch.randn(1, 2, 12)
    history = encoder.embed_history(visual, torch.tensor([[True, False]]))
    now = encoder.embed_stickers(visual)
    for place, part in enumerate(("own_history", "other_history")):
        torch.testing.assert_close(
            history[0, place] - now[0, place],
            types[PARTS.index(part)] - types[PARTS.index("sticker")],
        )
