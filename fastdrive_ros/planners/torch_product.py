# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A matrix that many inputs are multiplied with: [S, in] -> [S, out].

On a CPU in fp32 the matrix is packed once for oneDNN, as torch's own compiler does it: a plain
product packs it again in each call, which takes longer than the product of a few rows.
"""

from __future__ import annotations

import torch
from torch.nn import functional


class Product:
    """One matrix [out, in] with or without a bias [out]; only inside torch.inference_mode."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Keep the matrix, or on a CPU a packed copy of it."""
        self._bias = bias
        self.is_packed = (weight.device.type == 'cpu' and weight.dtype == torch.float32
                          and torch.backends.mkldnn.is_available()
                          and hasattr(torch.ops.mkldnn, '_linear_pointwise'))
        self._weight = (torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
                        if self.is_packed else weight)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map [S, in] to [S, out]."""
        if self.is_packed:
            return torch.ops.mkldnn._linear_pointwise(
                inputs, self._weight, self._bias, 'none', [], '')
        return functional.linear(inputs, self._weight, self._bias)

    def added_to(self, states: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Return states [S, out] plus the product of inputs [S, in]; without the bias."""
        if self.is_packed:
            return states + torch.ops.mkldnn._linear_pointwise(
                inputs, self._weight, None, 'none', [], '')
        return torch.addmm(states, inputs, self._weight.T)
