# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The score of early pruning: a window's mean state after a block -> its share of foreground.

    w = (X^T X / n + lambda I)^-1 X^T y / n,  X: window means [n, C] less their mean, y: shares

Ridge regression in closed form: one pass over some frames gives the weights for every block at
once. Only the order within a camera matters, so the constant term is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import safe_open
from safetensors.torch import save_file

from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.vision import Windows

_METADATA_KEY = 'fastdrive_early_score'
RIDGE = 1e-3
"""lambda, as a part of the channels' mean variance."""


@dataclass(frozen=True)
class EarlyScore:
    """Weights for the states after one block."""

    block: int
    weight: torch.Tensor
    """float32 [C]."""
    training: str
    """Sentence for people: on what it was fitted."""


class RidgeFit:
    """Sums of a least-squares problem that grow batch by batch, in float64."""

    def __init__(self, channels: int) -> None:
        """Begin with no window."""
        self._count = 0
        self._sum = torch.zeros(channels + 1, dtype=torch.float64)
        self._products = torch.zeros(channels + 1, channels + 1, dtype=torch.float64)

    def add(self, features: torch.Tensor, shares: torch.Tensor) -> None:
        """Add features [n, C] and what is to be told from them, [n]."""
        rows = torch.cat([features, shares[:, None]], dim=1).double()
        self._count += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    def weight(self) -> torch.Tensor:
        """Return float32 [C]."""
        mean = self._sum / self._count
        covariance = self._products / self._count - mean[:, None] * mean
        inner, target = covariance[:-1, :-1], covariance[:-1, -1]
        inner = inner + RIDGE * inner.diagonal().mean() * torch.eye(len(inner), dtype=inner.dtype)
        return torch.linalg.solve(inner, target).float()


def window_means(states: torch.Tensor, windows: Sequence[Windows]) -> torch.Tensor:
    """Average [V, P, X] over each window's patches: [V, windows, X], in window order."""
    return torch.cat([
        states[:, group.start:group.end].unflatten(1, (group.count, group.length)).mean(2)
        for group in windows
    ], dim=1)


def save_early_score(weights: Mapping[int, torch.Tensor], training: str, path: Path) -> None:
    """Write block -> weight [C] and the sentence to one safetensors file."""
    save_file({f'block_{block}': weight.contiguous() for block, weight in weights.items()}, path,
              metadata={_METADATA_KEY: json.dumps({'training': training})})


def load_early_score(path: Path, block: int) -> EarlyScore:
    """Read the weights for one block; ExportError where there are none."""
    if not path.is_file():
        raise ExportError(f'expected an early score at {path}, found no such file: make one with '
                          '`fastdrive train early`, name it with --early-score')
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f'expected an early score in {path}, cannot read it: {error}') from error
    if _METADATA_KEY not in metadata:
        raise ExportError(f'expected an early score in {path} (metadata {_METADATA_KEY!r}), found '
                          f'metadata {sorted(metadata)}: make one with `fastdrive train early`')
    if f'block_{block}' not in weights:
        raise ExportError(f'expected weights for block {block} in {path}, found '
                          f'{", ".join(sorted(weights))}: `fastdrive train early --blocks '
                          f'{block}` makes them')
    training = json.loads(metadata[_METADATA_KEY])['training']
    return EarlyScore(block, weights[f'block_{block}'].float(), training)
