# SPDX-License-Identifier: Apache-2.0
"""From scores to an order: the one place where ties are broken."""

from __future__ import annotations

import torch


def rank(scores: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Order candidates from the best to the worst; of equal scores the lower position wins.

    Args:
        scores: (..., N), higher is better; infinities are allowed.
        mask: (..., N), true at real candidates. Padding comes last, in its own order,
            whatever its scores are.

    Returns:
        (..., N) int64: the positions of the candidates, best first.

    Raises:
        ValueError: scores have no candidate dimension or a NaN at a real candidate, or the mask
            does not fit the scores.
    """
    if scores.dim() == 0:
        raise ValueError("scores must have a candidate dimension, got a single number")
    if mask is None:
        if scores.isnan().any():
            raise ValueError("scores hold NaN: candidates cannot be ordered")
        return scores.sort(dim=-1, descending=True, stable=True).indices
    if mask.shape != scores.shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, scores have shape {tuple(scores.shape)}"
        )
    mask = mask.bool()
    if (scores.isnan() & mask).any():
        raise ValueError("scores hold NaN: candidates cannot be ordered")
    # A constant, so that padding keeps its own order; it is moved last by the second sort, since
    # a real candidate may score as low as any constant.
    order = scores.masked_fill(~mask, 0).sort(dim=-1, descending=True, stable=True).indices
    real = mask.gather(-1, order).to(torch.uint8)
    return order.gather(-1, real.sort(dim=-1, descending=True, stable=True).indices)
