# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a bundle's precision costs: a module in bf16 or fp16 against itself in fp32.

A module of any type runs in fp32 here with the weights of one layer at a time turned into fp32,
so that a reference of a model needs no second copy of it in memory. While it runs, the largest
values that its layers take and give are noted: those are what overflows in fp16.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field

import numpy as np
import torch
from torch import nn

from fastdrive_ros.learn.graphs import ExportError

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
# Other pictures reach further than the golden one.
_HEADROOM = 2.0
# Beyond this a plan would be made from other tokens than the ones that were trained with.
MAX_ROUNDING = 0.1
# A device rounds elsewhere than torch does on the CPU, with errors of the same size.
_SLACK = 3.0
_LEAST_TOLERANCE = {'relative_l2': 1e-3, 'kept_overlap': 0.99}
# Of an early-pruned encoder: with fewer tokens in common its golden check would say little.
_LEAST_ENCODED_OVERLAP = 0.5


@dataclass
class Reach:
    """The largest finite value at the entrance or exit of each layer, by the layer's name."""

    largest: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, *values: object) -> None:
        """Take tensors among ``values`` into account."""
        for value in values:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                found = value.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
                self.largest[name] = max(self.largest.get(name, 0.0), found)


@dataclass(frozen=True)
class Rounding:
    """How far a module in the bundle's precision is from itself in fp32, both by torch."""

    relative_l2: float
    kept_overlap: float = 1.0
    """Of a pruner: share of the tokens kept in fp32 that it keeps, too."""
    encoded_overlap: float = 1.0
    """Of an early-pruned encoder: share of its tokens that rounding cannot displace."""


@contextmanager
def in_float32(module: nn.Module) -> Iterator[Reach]:
    """Run ``module`` in fp32, whatever type its weights have; yields what its layers reach."""
    reach = Reach()
    removers = []
    parts = [part for part in module.modules() if hasattr(part, 'compute_dtype')]
    own = [(part, part.compute_dtype) for part in parts]
    for part in parts:
        part.compute_dtype = torch.float32
    for name, layer in module.named_modules():
        if any(True for _ in layer.children()) or not any(True for _ in layer.parameters()):
            continue
        removers.append(layer.register_forward_pre_hook(_widen))
        removers.append(layer.register_forward_hook(_narrower(name, reach), always_call=True))
    try:
        yield reach
    finally:
        for remover in removers:
            remover.remove()
        for part, dtype in own:
            part.compute_dtype = dtype


def _widen(layer: nn.Module, _: tuple) -> None:
    layer.own_weights = {name: weight.data for name, weight in layer.named_parameters()}
    for weight in layer.parameters():
        weight.data = weight.data.float()


def _narrower(name: str, reach: Reach):  # noqa: ANN202 - a torch hook
    def narrow(layer: nn.Module, inputs: tuple, output: object) -> None:
        for own_name, weight in layer.named_parameters():
            weight.data = layer.own_weights[own_name]
        del layer.own_weights
        reach.note(name, *inputs, output)

    return narrow


def require_range(graph: str, precision: str, reach: Reach) -> None:
    """Raise ExportError where the layers of a graph come near what fp16 can hold."""
    limit = torch.finfo(DTYPES[precision]).max / _HEADROOM
    name, found = max(reach.largest.items(), key=lambda entry: entry[1])
    if found > limit:
        raise ExportError(
            f'{graph} overflows in {precision}: expected values of at most {limit:.3g} (half of '
            f'what the type holds, other pictures reach further), found {found:.3g} in layer '
            f'{name}. Nothing was written. Export with --precision bf16.'
        )


def rounding(
    graph: str,
    precision: str,
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
) -> Rounding:
    """
    Compare outputs in fp32 with those in ``precision``; ExportError where they are not usable.

    'kept_indices' are compared as sets; what -inf says (an absent camera) must be said by both.
    """
    worst, overlap = 0.0, 1.0
    for name, value in expected.items():
        if name == 'kept_indices':
            overlap = np.isin(value, found[name]).mean().item()
            continue
        finite = np.isfinite(value)
        if not np.array_equal(finite, np.isfinite(found[name])):
            raise ExportError(
                f'{graph} overflows in {precision}: {name} has values that are not finite. '
                'Nothing was written. Export with --precision bf16 (or fp32).'
            )
        error = np.linalg.norm((found[name][finite] - value[finite]).astype(np.float64))
        # Never relative to less than a metre (or one): untrained residuals are all zero.
        size = np.linalg.norm(value[finite].astype(np.float64))
        worst = max(worst, float(error / max(size, 1.0)))
    if worst > MAX_ROUNDING:
        raise ExportError(
            f'{graph} is too inexact in {precision}: expected a relative error of at most '
            f'{MAX_ROUNDING:g} against fp32, found {worst:.3g}. Nothing was written. Export in '
            'fp32.'
        )
    return Rounding(worst, overlap)


def golden_tolerance(roundings: Mapping[str, Rounding]) -> dict[str, float]:
    """Return what an engine may differ from the fp32 outputs: three times torch's rounding."""
    worst = max((found.relative_l2 for found in roundings.values()), default=0.0)
    lost = 1.0 - min((found.kept_overlap for found in roundings.values()), default=1.0)
    displaced = 1.0 - min((found.encoded_overlap for found in roundings.values()), default=1.0)
    return {
        'relative_l2': max(_LEAST_TOLERANCE['relative_l2'], _SLACK * worst),
        'kept_overlap': min(_LEAST_TOLERANCE['kept_overlap'], 1.0 - _SLACK * lost),
        'encoded_overlap': min(_LEAST_TOLERANCE['kept_overlap'], 1.0 - _SLACK * displaced),
    }


def require_sure_windows(precision: str, at_stake: float) -> None:
    """Raise ExportError when rounding may displace so many tokens that no check would tell."""
    if 1.0 - _SLACK * at_stake < _LEAST_ENCODED_OVERLAP:
        raise ExportError(
            f'in {precision} rounding may displace {at_stake:.0%} of the tokens that early '
            'pruning leaves, with three times as many allowed no check would notice other '
            'windows. Nothing was written. Take another block or share, or export in fp32.'
        )
