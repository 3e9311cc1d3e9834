# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Weight-only quantisation: linear layers -> integers and scales, the same in torch and in ONNX.

    W [in, out] = integers [in, out] * scales,  integers = round(W / scales), symmetric
    int8: one scale an output channel, its largest weight / 127
    int4: one scale an output channel and block of 128 inputs, its largest weight / 7

The file has DequantizeLinear -> MatMul; everything computes in the type of the scales, so file,
torch and engines must agree as for any other graph. What the integers themselves cost is measured
apart (``Cost``).

Why no maintained tool: ONNX Runtime 1.31's matmul_nbits_quantizer skips Gemm, writes int4 only and
takes the waypoint head's MatMuls, too (the exporter leaves them no names to tell them by); NVIDIA
ModelOpt 0.47's graph does not build (docs/full_size.md). In torch the layers are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from onnxscript import ir
from torch import nn

OPSET = 21
"""The first with int4 and with scales in blocks; only graphs with integer weights need it."""
BLOCK = 128
# For inputs that are no multiple of it (none of Qwen2.5-VL's): a smaller block, at last int8.
_BLOCKS = BLOCK, 64, 32, 16
_LARGEST = {'int8': 127, 'int4': 7}
_BITS = {'int8': 8, 'int4': 4}


class IntegerLinear(nn.Module):
    """y = x @ (integers * scales) + bias, in the type of the scales."""

    def __init__(self, linear: nn.Linear, kind: str) -> None:
        """Round the weights of a layer; its bias is shared."""
        super().__init__()
        size, type_ = linear.in_features, linear.weight.dtype
        fits = [block for block in _BLOCKS if size % block == 0]
        self.kind = 'int4' if kind == 'int4' and fits else 'int8'
        self.block = fits[0] if self.kind == 'int4' else size
        blocks = linear.weight.detach().T.float().unflatten(0, (-1, self.block))
        largest = _LARGEST[self.kind]
        scales = (blocks.abs().amax(dim=1) / largest).to(type_)         # (blocks, out)
        scales[scales == 0.0] = 1.0     # all of them zero, or next to it
        # Scales are rounded to their type before, so the integers make up for it.
        rounded = (blocks / scales.float()[:, None]).round_().clamp_(-largest, largest)
        self.register_buffer('integers', rounded.flatten(0, 1).to(torch.int8))
        self.scales = nn.Parameter(scales if self.kind == 'int4' else scales[0],
                                   requires_grad=False)
        self.bias = linear.bias

    def weight(self) -> torch.Tensor:
        """Return [in, out], or in an export the node that makes it."""
        if torch.onnx.is_in_onnx_export():
            along = {'axis': 0, 'block_size': self.block} if self.kind == 'int4' else {'axis': 1}
            return torch.onnx.ops.symbolic(
                'DequantizeLinear', (self.integers, self.scales), along,
                dtype=self.scales.dtype, shape=self.integers.shape, version=OPSET)
        blocks = self.integers.to(self.scales.dtype).unflatten(0, (-1, self.block))
        return (blocks * self.scales.view(-1, 1, blocks.shape[-1])).flatten(0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., in] to [..., out]."""
        product = x @ self.weight()
        return product if self.bias is None else product + self.bias


@dataclass(frozen=True)
class Cost:
    """What integer weights change: the golden outputs against those of the checkpoint's own."""

    kind: str
    """'int8' or 'int4'."""
    matrices: Mapping[str, int]
    """How many are stored how, for example {'int4 in blocks of 128': 252}."""
    relative_l2: float
    """Of the residuals, or of all logits; never relative to a norm below one."""
    largest_m: float | None = None
    """Of waypoint residuals: how far a waypoint moves at most."""
    same_choices: int | None = None
    """Of logits: rows whose greatest is that of the same candidate, out of ``num_choices``."""
    num_choices: int | None = None

    def __str__(self) -> str:
        """Say it in one line."""
        stored = ', '.join(f'{count} {how}' for how, count in self.matrices.items())
        moved = (f'waypoints move by at most {self.largest_m:.3g} m'
                 if self.largest_m is not None else
                 f'{self.same_choices} of {self.num_choices} greedy choices are the same')
        return (f'{stored}; against the weights before: {self.relative_l2:.2%} of the outputs, '
                f'{moved}')


def quantise(module: nn.Module, kind: str) -> None:
    """Replace every linear layer in ``module.layers``, one after another, 'int8' or 'int4'."""
    for parent in list(module.layers.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, IntegerLinear(child, kind))


def cost(
    module: nn.Module, kind: str, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> Cost:
    """Compare outputs [..., 3] 'waypoint_residuals', or logits [..., C]; both are from fp32."""
    stored = Counter(
        f'int4 in blocks of {layer.block}' if layer.kind == 'int4' else 'int8 per channel'
        for layer in integer_layers(module))
    pairs = [(before[name].astype(np.float64), after[name]) for name in before]
    size = sum(np.sum(old**2) for old, _ in pairs) ** 0.5
    moved = sum(np.sum((new - old)**2) for old, new in pairs) ** 0.5
    relative = float(moved / max(size, 1.0))
    if 'waypoint_residuals' in before:
        ((old, new),) = pairs
        return Cost(kind, dict(stored), relative,
                    largest_m=float(np.linalg.norm((new - old)[:, :2], axis=1).max()))
    same = np.concatenate([np.ravel(old.argmax(-1) == new.argmax(-1)) for old, new in pairs])
    return Cost(kind, dict(stored), relative, same_choices=int(same.sum()), num_choices=len(same))


def integer_layers(module: nn.Module) -> list[IntegerLinear]:
    """Return the layers that ``quantise`` made."""
    return [layer for layer in module.modules() if isinstance(layer, IntegerLinear)]


def bytes_saved(kind: str, itemsize: int, num_weights: int) -> float:
    """Return how many bytes matrices of so many weights of ``itemsize`` lose in the file."""
    scales = itemsize / BLOCK if kind == 'int4' else 0.0
    return (itemsize - _BITS[kind] / 8 - scales) * num_weights


def pack_int4(model: ir.Model) -> None:
    """
    Turn the int8 that torch has for int4 into int4, two in a byte, when the file is written.

    torch has no int4 that an exporter takes; in the graph its matrices are those with blocks.
    """
    for node in model.graph:
        if node.op_type == 'DequantizeLinear' and 'block_size' in node.attributes:
            value = node.inputs[0]
            value.const_value = ir.LazyTensor(
                partial(_packed, value.const_value), ir.DataType.INT4, value.const_value.shape,
                name=value.name)
            value.dtype = ir.DataType.INT4


def _packed(integers: ir.TensorProtocol) -> ir.PackedTensor:
    """Pack as ONNX wants: the first of two in the low half of a byte."""
    halves = integers.numpy().astype(np.uint8).ravel() & 0x0F
    return ir.PackedTensor(halves[::2] | halves[1::2] << 4, ir.DataType.INT4,
                           shape=integers.shape, name=integers.name)
