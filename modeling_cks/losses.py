# SPDX-License-Identifier: Apache-2.0
"""The four losses of CKS as pure functions: tensors in, a scalar out (section 4.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    dialogue_embeds: Tensor,
    sticker_embeds: Tensor,
    logit_scale: Tensor,
    sticker_ids: Tensor,
    log_shares: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE between dialogues and their stickers, L_co of section 4.2.3.

    Two samples of the batch with the same sticker are not each other's negatives: a batch of 64
    from MOD's 307 stickers is full of such pairs.

    Args:
        dialogue_embeds: (B, D), h~_T of each sample; need not be normalised.
        sticker_embeds: (B, D), the unbiased feature v of each sample's right sticker.
        logit_scale: scalar, the logarithm of the inverse temperature.
        sticker_ids: (B,) integers, equal where two samples carry the same sticker.
        log_shares: (B,), the logarithm of each sticker's share of the training samples, which is
            how likely it is to be in a batch. Taken off where a dialogue chooses among stickers
            (the logQ correction of sampled softmax): without it the similarity learns
            log P(sticker | dialogue) - log P(sticker). A dialogue is in a batch as often as any
            other, so nothing is taken off in the other direction.

    Returns:
        A scalar, the mean of both directions; log B where all similarities are equal and all
        stickers differ.
    """
    similarity = F.normalize(dialogue_embeds, dim=-1) @ F.normalize(sticker_embeds, dim=-1).T
    return contrast(logit_scale.exp() * similarity, sticker_ids, log_shares)


def contrast(logits: Tensor, sticker_ids: Tensor, log_shares: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE over the logits (B, B) of dialogues, a row each, and their stickers.

    See [`contrastive_loss`] for `sticker_ids`, `log_shares` and what is returned.
    """
    same = sticker_ids[:, None] == sticker_ids[None, :]
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, float("-inf"))
    targets = torch.arange(len(logits), device=logits.device)
    choosing = logits if log_shares is None else logits - log_shares
    return (F.cross_entropy(choosing, targets) + F.cross_entropy(logits.T, targets)) / 2


def match_loss(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Two-way match loss over right and negative stickers, L_itm of equation 13.

    Args:
        positive_logits: (B, 2), logits of (no match, match) with the right sticker.
        negative_logits: (B, 2), the same with the negative one.

    Returns:
        A scalar, the mean cross-entropy of the 2B decisions.
    """
    logits = torch.cat([positive_logits, negative_logits])
    targets = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    targets[: len(positive_logits)] = 1
    return F.cross_entropy(logits, targets)


def emotion_loss(emotion_logits: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
    """Cross-entropy of the emotion over the labelled samples, L_em of section 4.3.

    Args:
        emotion_logits: (B, C).
        labels: (B,), -100 where a sample has no emotion label.
        count: scalar, what the sum is divided by; the number of labelled samples unless given.
            Several processes give the mean number, so that their averaged gradient is that of
            one process with the whole batch.

    Returns:
        A scalar; zero (with a gradient of zero) where no sample is labelled.
    """
    total = F.cross_entropy(emotion_logits, labels, ignore_index=-100, reduction="sum")
    if count is None:
        count = (labels != -100).sum()
    return total / count.clamp(min=1e-6)


def triplet_loss(positive: Tensor, augmented: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Keep a sticker near its restyled self and away from another one, L_tri of equation 11.

    Args:
        positive: (B, D), CLIP's feature v_p of the right sticker.
        augmented: (B, D), CLIP's feature v^ of the same sticker with its style randomised.
        negative: (B, D), CLIP's feature v_n of the negative sticker.
        margin: the margin mu.

    Returns:
        A scalar, the mean of max(0, mu + Dis(v_p, v^) - Dis(v_p, v_n)) with Dis = 1 - cosine.
    """
    near = 1 - F.cosine_similarity(positive, augmented, dim=-1)
    far = 1 - F.cosine_similarity(positive, negative, dim=-1)
    return F.relu(margin + near - far).mean()
