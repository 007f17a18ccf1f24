# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from modeling_cks.losses import contrastive_loss, emotion_loss, match_loss, triplet_loss


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def log_sum(values):
    return math.log(sum(math.exp(value) for value in values))


def test_contrast_equals_the_loop():
    torch.manual_seed(0)
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    ids = [3, 1, 3, 2, 1]
    scale = 1.3
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j == i or ids[j] != ids[i]]
        right = math.exp(scale) * cosine(a[i], b[i])
        total += log_sum(math.exp(scale) * cosine(a[i], b[j]) for j in others) - right
        total += log_sum(math.exp(scale) * cosine(a[j], b[i]) for j in others) - right
    got = contrastive_loss(a, b, torch.tensor(scale), torch.tensor(ids))
    assert got.item() == pytest.approx(total / 10, rel=1e-5)


def test_the_logq_correction_equals_the_loop():
    torch.manual_seed(0)
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    shares, scale = [0.5, 0.1, 0.25, 0.15], 0.7
    total = 0.0
    for i in range(4):
        row = [math.exp(scale) * cosine(a[i], b[j]) - math.log(shares[j]) for j in range(4)]
        column = [math.exp(scale) * cosine(a[j], b[i]) for j in range(4)]
        total += log_sum(row) - row[i] + log_sum(column) - column[i]
    got = contrastive_loss(
        a, b, torch.tensor(scale), torch.arange(4), torch.tensor(shares).log()
    )
    assert got.item() == pytest.approx(total / 8, rel=1e-5)


def test_contrast_closed_forms():
    same = torch.ones(6, 3)
    scale = torch.tensor(2.0)
    assert contrastive_loss(same, same, scale, torch.arange(6)).item() == pytest.approx(math.log(6))
    # Two of the six carry the same sticker: each of them has only five left.
    ids = torch.tensor([0, 0, 1, 2, 3, 4])
    wanted = (2 * math.log(5) + 4 * math.log(6)) / 6
    assert contrastive_loss(same, same, scale, ids).item() == pytest.approx(wanted)
    # All the same sticker: nothing to tell apart.
    assert contrastive_loss(same, same, scale, torch.zeros(6)).item() == pytest.approx(0)


def test_contrast_is_symmetric_and_blind_to_length():
    torch.manual_seed(1)
    a, b = torch.randn(7, 4), torch.randn(7, 4)
    ids, scale = torch.tensor([0, 1, 2, 3, 4, 0, 5]), torch.tensor(1.0)
    loss = contrastive_loss(a, b, scale, ids)
    torch.testing.assert_close(loss, contrastive_loss(b, a, scale, ids))
    torch.testing.assert_close(loss, contrastive_loss(3 * a, b / 7, scale, ids))
    order = torch.randperm(7)
    torch.testing.assert_close(loss, contrastive_loss(a[order], b[order], scale, ids[order]))


def test_contrast_gradients_are_finite_with_masked_pairs():
    torch.manual_seed(2)
    a, b = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    scale = torch.tensor(2.0, requires_grad=True)
    contrastive_loss(a, b, scale, torch.tensor([0, 0, 0, 1])).backward()
    for each in (a, b, scale):
        assert torch.isfinite(each.grad).all() and each.grad.abs().max() > 0
    # Rows 0 and 1 hold the same sticker: pulling them together costs nothing.
    assert a.grad.abs().max() > 1e-4


def test_match_equals_the_loop():
    torch.manual_seed(0)
    right, wrong = torch.randn(3, 2), torch.randn(3, 2)
    total = sum(log_sum(row.tolist()) - row[1].item() for row in right)
    total += sum(log_sum(row.tolist()) - row[0].item() for row in wrong)
    assert match_loss(right, wrong).item() == pytest.approx(total / 6, rel=1e-5)
    assert match_loss(torch.zeros(3, 2), torch.zeros(3, 2)).item() == pytest.approx(math.log(2))
    sure = torch.tensor([[-50.0, 50.0]])
    assert match_loss(sure, -sure).item() == pytest.approx(0)


def test_emotion_equals_the_loop_over_labelled_samples():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5), torch.tensor([2, -100, 0, -100])
    wanted = sum(log_sum(logits[i].tolist()) - logits[i, labels[i]].item() for i in (0, 2)) / 2
    assert emotion_loss(logits, labels).item() == pytest.approx(wanted, rel=1e-5)
    halved = emotion_loss(logits, labels, torch.tensor(4.0))
    assert halved.item() == pytest.approx(wanted / 2, rel=1e-5)
    flat = emotion_loss(torch.zeros(3, 5), torch.tensor([0, 4, -100]))
    assert flat.item() == pytest.approx(math.log(5))


@pytest.mark.parametrize("count", [None, torch.tensor(0.0)])
def test_no_label_gives_zero_and_a_gradient_of_zero(count):
    logits = torch.randn(3, 5, requires_grad=True)
    loss = emotion_loss(logits, torch.full((3,), -100), count)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and logits.grad.eq(0).all()


def test_triplet_equals_the_loop_and_its_margins():
    torch.manual_seed(0)
    p, q, n = (torch.randn(6, 4) for _ in range(3))
    wanted = [max(0.0, 0.2 + (1 - cosine(p[i], q[i])) - (1 - cosine(p[i], n[i]))) for i in range(6)]
    assert 0 in wanted and max(wanted) > 0.2  # both sides of the hinge are seen
    assert triplet_loss(p, q, n, 0.2).item() == pytest.approx(sum(wanted) / 6, rel=1e-5)
    # All alike: the margin itself. The negative opposite: nothing.
    assert triplet_loss(p, p, p, 0.2).item() == pytest.approx(0.2, abs=1e-6)
    assert triplet_loss(p, p, -p, 0.2).item() == 0
    # Far from the restyled self, near the negative: distance 2 and the margin.
    assert triplet_loss(p, -p, p, 0.2).item() == pytest.approx(2.2)
