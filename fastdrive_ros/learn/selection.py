# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Scores -> which tokens are kept, with a gradient, and how much of the foreground that is.

    M = 1[S > threshold], and its gradient is that of S      FastDriveVLA eq. 3 and 4
"""

from __future__ import annotations

import torch
from torch.nn import functional

_SHARES = 0.1, 0.9
"""Smallest and largest share of tokens that a random threshold keeps."""


def straight_through(scores: torch.Tensor) -> torch.Tensor:
    """Return M = 1[S > 0] whose gradient is that of S (FastDriveVLA eq. 3 and 4)."""
    mask = (scores > 0).to(scores.dtype)
    return scores + (mask - scores).detach()


def above_random_share(scores: torch.Tensor, present: torch.Tensor,
                       generator: torch.Generator | None) -> torch.Tensor:
    """
    Return scores [B, V, n] less what a token must beat, so that those above zero are kept.

    Of every frame the best share stays, drawn anew for each frame; without a generator one half.
    """
    share = torch.full((len(scores),), 0.5)
    if generator is not None:
        lowest, highest = _SHARES
        share = lowest + (highest - lowest) * torch.rand(len(scores), generator=generator)
    kept = (share.to(scores.device) * present.sum(1) * scores.shape[2]).long()
    ordered = scores.detach().flatten(1).sort(dim=1, descending=True).values
    return scores - ordered.gather(1, kept[:, None])[..., None]


def selection_figures(scores: torch.Tensor, fore: torch.Tensor,
                      present: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    Return how scores [B, V, n] sort the foreground bool [B, V, H, W], as scalars.

    kept_share: tokens with S > 0; recall_half, recall_quarter: foreground pixels under the best
    half and quarter of the tokens, all cameras together.
    """
    batch, cameras, tokens = scores.shape
    share = foreground_share(fore, tokens)                              # (B, V, n)
    share = (share * present[..., None]).flatten(1)
    flat = scores.flatten(1)
    available = present.sum(1) * tokens                                 # (B,)
    rank = flat.argsort(1, descending=True).argsort(1)                  # (B, N)
    figures = {'kept_share': ((flat > 0).sum(1) / available).mean()}
    for name, part in (('recall_half', 0.5), ('recall_quarter', 0.25)):
        kept = rank < (available * part)[:, None]
        figures[name] = (share * kept).sum() / share.sum().clamp(min=1e-6)
    return figures


def foreground_share(fore: torch.Tensor, tokens: int) -> torch.Tensor:
    """Map bool [B, V, H, W] to float32 [B, V, n]: the foreground's share of each token."""
    height, width = fore.shape[2:]
    side = round((height * width / tokens)**0.5)                        # a token is square
    cells = functional.avg_pool2d(fore.flatten(0, 1)[:, None].float(), side)
    return cells.flatten(1).view(*fore.shape[:2], tokens)
