# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What TensorRT cannot do whatever the GPU, said before anything is built."""

from __future__ import annotations

TOPK_LIMIT = 3840
"""Largest K of TensorRT's TopK layer; a free K beyond it builds with no more than a warning."""


def topk_mend(num_tokens: int) -> str:
    """Return what is wrong with selecting among so many tokens, and how to mend it."""
    return (
        f'TensorRT selects at most {TOPK_LIMIT} tokens (its TopK), the bundle has {num_tokens}. '
        'Export with a smaller --height and --width or fewer --cameras (a token is 28 x 28 '
        'pixels).'
    )
