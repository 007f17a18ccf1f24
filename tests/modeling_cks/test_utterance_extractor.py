# SPDX-License-Identifier: Apache-2.0
"""KEUE against equations 2 to 6 written out in plain Python."""

import math
from types import SimpleNamespace

import pytest
import torch

from modeling_cks.utterance_extractor import (
    UtteranceExtractor,
    allowed_utterances,
    masked_softmax,
)


def keue(seed=0, **changes):
    fields = {
        "utterance_state_size": 8,
        "lstm_hidden_size": 4,
        "text_config": SimpleNamespace(hidden_size=6),
        "knowledge_size": 5,
        "embed_size": 7,
        "joint_attention": False,
        "use_keue": True,
        "use_knowledge": True,
        **changes,
    }
    torch.manual_seed(seed)
    return UtteranceExtractor(SimpleNamespace(**fields)).double().eval()


def batch(seed=0, lengths=(5, 3, 1), speakers=None):
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return {
        "utterance_embeds": torch.randn(
            len(lengths), width, 6, generator=generator, dtype=torch.double
        ),
        "utterance_mask": mask,
        "speaker_ids": torch.randint(0, 2, mask.shape, generator=generator)
        if speakers is None
        else torch.tensor(speakers),
        "knowledge": 2
        * torch.randn(len(lengths), width, 2, 5, generator=generator, dtype=torch.double),
    }


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def sigmoid(values):
    return torch.stack([1 / (1 + torch.exp(-value)) for value in values])


def slow(model, embeds, speakers, knowledge, joint):
    """One unpadded dialogue, cell by cell; returns h~_T and all rows of s^a and s^e."""
    size = len(speakers)
    h = model.lstm(embeds[None])[0][0]
    f_q, f_k = [model.query(x) for x in h], [model.key(x) for x in h]
    keys = {"a": list(f_k), "e": list(f_k)}
    if knowledge is not None:
        for j in range(size):
            gate_a = sigmoid(knowledge[j, 0] @ model.intra_gate.weight.T + model.intra_gate.bias)
            gate_e = sigmoid(knowledge[j, 1] @ model.inter_gate.weight.T + model.inter_gate.bias)
            keys["a"][j] = f_k[j] + model.knowledge(gate_a)
            keys["e"][j] = f_k[j] + model.knowledge(gate_e)
    s = {"a": torch.zeros(size, size).double(), "e": torch.zeros(size, size).double()}
    for i in range(size):
        cells = {"a": [], "e": []}
        for j in range(size):
            if j <= i and speakers[j] == speakers[i]:
                cells["a"].append(j)
            if j < i and speakers[j] != speakers[i]:
                cells["e"].append(j)
        score = {
            (kind, j): (f_q[i] @ keys[kind][j]).item() / math.sqrt(len(f_q[i]))
            for kind in cells
            for j in cells[kind]
        }
        groups = [list(score)] if joint else [[c for c in score if c[0] == k] for k in "ae"]
        for group in groups:
            for (kind, j), weight in zip(group, softmax([score[c] for c in group]), strict=True):
                s[kind][i, j] = weight
    last = size - 1
    said, known = 0, 0
    for j in range(size):
        said = said + (s["a"][last, j] + s["e"][last, j]) * f_q[j]
        known = known + s["a"][last, j] * keys["a"][j] + s["e"][last, j] * keys["e"][j]
    return model.mlp(torch.cat([said, known])), s["a"], s["e"]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("knowledge", [False, True])
def test_equals_the_equations_written_out(joint, knowledge):
    model = keue(joint_attention=joint, use_knowledge=knowledge)
    inputs = batch(seed=3, lengths=(6, 4, 1))
    known = inputs["knowledge"] if knowledge else None
    got, weights = model(**{**inputs, "knowledge": known})
    for row, mask in enumerate(inputs["utterance_mask"]):
        length = int(mask.sum())
        wanted, intra, inter = slow(
            model,
            inputs["utterance_embeds"][row, :length],
            inputs["speaker_ids"][row, :length].tolist(),
            known[row, :length] if knowledge else None,
            joint,
        )
        torch.testing.assert_close(got[row], wanted)
        torch.testing.assert_close(weights[row, :length], (intra + inter)[-1])
        assert weights[row, length:].eq(0).all()


@pytest.mark.parametrize("joint", [False, True])
def test_both_maps_equal_the_loop_in_every_row(joint):
    model = keue(joint_attention=joint)
    inputs = batch(seed=5, lengths=(6,))
    seen = {}
    attend = model.attend
    model.attend = lambda *given: seen.setdefault("maps", attend(*given))
    model(**inputs)
    _, intra, inter = slow(
        model,
        inputs["utterance_embeds"][0],
        inputs["speaker_ids"][0].tolist(),
        inputs["knowledge"][0],
        joint,
    )
    torch.testing.assert_close(seen["maps"][0][0], intra)
    torch.testing.assert_close(seen["maps"][1][0], inter)
    # Nothing allowed from the other speaker for the first utterance: a row of zeros.
    assert seen["maps"][1][0, 0].eq(0).all()
    rows = (intra + inter).sum(-1)
    assert (rows[-1] - (1 if joint else 2)).abs() < 1e-9


def test_weights_sum_to_one_per_kind_or_over_the_union():
    inputs = batch(lengths=(4,), speakers=[[0, 1, 1, 0]])
    assert keue()(**inputs)[1].sum().item() == pytest.approx(2)
    assert keue(joint_attention=True)(**inputs)[1].sum().item() == pytest.approx(1)


def test_a_monologue_has_no_other_and_no_nan():
    for joint in (False, True):
        model = keue(joint_attention=joint)
        inputs = batch(lengths=(4, 1), speakers=[[1, 1, 1, 1], [0, 0, 0, 0]])
        inputs["utterance_embeds"].requires_grad_()
        embeds, weights = model(**inputs)
        embeds.square().sum().backward()
        assert torch.isfinite(embeds).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(2).double())
        assert torch.isfinite(inputs["utterance_embeds"].grad).all()
        for name, parameter in model.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name


def test_masked_softmax_of_nothing_is_zero_with_zero_gradient():
    scores = torch.tensor([[1.0, 2.0, 3.0], [5.0, -1.0, 9.0]], requires_grad=True)
    allowed = torch.tensor([[True, False, True], [False, False, False]])
    weights = masked_softmax(scores, allowed)
    first = math.exp(1) / (math.exp(1) + math.exp(3))
    torch.testing.assert_close(weights, torch.tensor([[first, 0, 1 - first], [0.0, 0, 0]]))
    (weights * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, [0, 2]].abs().min() > 1e-3
    assert scores.grad[0, 1] == 0 and scores.grad[1].eq(0).all()


def test_allowed_cells():
    same, other = allowed_utterances(
        torch.tensor([[0, 1, 0, 0]]), torch.tensor([[True, True, True, False]])
    )
    assert same[0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert other[0].int().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("use_keue", [False, True])
def test_padding_changes_nothing(use_keue):
    model = keue(use_keue=use_keue)
    inputs = batch(lengths=(5, 3))
    embeds, weights = model(**inputs)
    wide = {
        name: torch.cat([value, value.new_full((2, 3, *value.shape[2:]), fill)], 1)
        for (name, value), fill in zip(inputs.items(), (77.0, False, 1, -55.0), strict=True)
    }
    wide["utterance_embeds"][1, 3:] = -9.0  # what stands in row 1's empty places is nobody's
    wide["knowledge"][1, 3:] = 9.0
    wide_embeds, wide_weights = model(**wide)
    torch.testing.assert_close(wide_embeds, embeds)
    if use_keue:
        torch.testing.assert_close(wide_weights[:, :5], weights)
        assert wide_weights[:, 5:].eq(0).all()
    single, _ = model(**{name: value[1:, :3] for name, value in inputs.items()})
    torch.testing.assert_close(embeds[1:], single)


def test_the_future_has_no_weight_and_comes_in_by_the_lstm_alone():
    model = keue()
    inputs = batch(lengths=(5,))
    maps = []
    attend = model.attend
    model.attend = lambda *given: maps.append(attend(*given)) or maps[-1]
    states = torch.randn(1, 5, 8, dtype=torch.double)
    model.encode_states = lambda *_: states.clone()
    model(**inputs)
    states[0, 4] += 3
    inputs["knowledge"][0, 4] += 3
    model(**inputs)
    for before, after in zip(*maps, strict=True):
        assert before.triu(1).eq(0).all()
        torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert not torch.equal(maps[0][0][:, 4], maps[1][0][:, 4])


def test_each_speakers_knowledge_goes_its_own_way():
    model = keue()
    inputs = batch(lengths=(3,), speakers=[[0, 1, 1]])
    before = model(**inputs)[0]
    inputs["knowledge"][0, 0, 0] += 5  # x relations of the other speaker's utterance: unused
    torch.testing.assert_close(model(**inputs)[0], before, rtol=0, atol=0)
    inputs["knowledge"][0, 0, 1] += 5
    assert (model(**inputs)[0] - before).abs().max() > 1e-4


def test_without_keue_a_linear_map_of_the_last_state():
    model = keue(use_keue=False)
    inputs = batch(lengths=(5, 2))
    embeds, weights = model(**inputs)
    assert weights is None
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {
        "lstm",
        "state_projection",
    }
    for row, length in enumerate((5, 2)):
        state = model.lstm(inputs["utterance_embeds"][row : row + 1, :length])[0][0, -1]
        torch.testing.assert_close(embeds[row], model.state_projection(state))


def test_without_knowledge_no_gates():
    names = {name.split(".")[0] for name, _ in keue(use_knowledge=False).named_parameters()}
    assert names == {"lstm", "query", "key", "mlp"}
