# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Which visual tokens the planner gets: one file a method, FastDriveVLA's beside its rivals.

A method before the language model ranks what the encoder saw (sight.py); a method inside cuts
between two of its layers (inside.py). Both keep exactly K tokens, in their original order, with
their original positions.
"""

from __future__ import annotations

from fastdrive_ros.pruners.divprune import DivPrune
from fastdrive_ros.pruners.efficientvla import EfficientVla
from fastdrive_ros.pruners.fastv import FastV
from fastdrive_ros.pruners.inside import InsidePruner
from fastdrive_ros.pruners.plain import KeepAll
from fastdrive_ros.pruners.plain import Random
from fastdrive_ros.pruners.plain import Uniform
from fastdrive_ros.pruners.prune2drive import Prune2Drive
from fastdrive_ros.pruners.recon import Plan
from fastdrive_ros.pruners.recon import Recon
from fastdrive_ros.pruners.sight import TokenPruner
from fastdrive_ros.pruners.sparsevlm import SparseVlm
from fastdrive_ros.pruners.vispruner import VisPruner
from fastdrive_ros.pruners.vla_pruner import VlaPruner

_BEFORE: dict[str, type[TokenPruner]] = {
    'none': KeepAll, 'random': Random, 'uniform': Uniform, 'recon': Recon, 'plan': Plan,
    'divprune': DivPrune, 'vispruner': VisPruner, 'prune2drive': Prune2Drive,
}
_INSIDE: dict[str, type[InsidePruner]] = {
    'fastv': FastV, 'sparsevlm': SparseVlm, 'vla_pruner': VlaPruner,
    'efficientvla': EfficientVla,
}
INSIDE = tuple(_INSIDE)
"""Methods that prune inside the language model."""
METHODS = {
    'none': 'every token',
    'random': 'tokens drawn by chance, the same for the same stamp',
    'uniform': 'tokens evenly spaced over all pictures',
    'recon': 'ReconPruner of FastDriveVLA: the highest scores',
    'plan': 'ours: the highest scores of a ReconPruner that the planner itself taught',
    'divprune': 'DivPrune: the tokens least like each other',
    'vispruner': "VisPruner: half by the encoder's attention, half unlike each other",
    'prune2drive': 'Prune2Drive: in each view the tokens least like each other',
    'fastv': 'FastV: attention of the last token after two layers',
    'sparsevlm': 'SparseVLM: attention of the telling words, in three steps, with recycling',
    'vla_pruner': 'VLA-Pruner: attention of all tokens and of the last actions',
    'efficientvla': 'EfficientVLA: a few key tokens, then task-relevant and diverse ones',
}


def make_pruner(name: str) -> TokenPruner | InsidePruner:
    """Return a new pruner, without memory; ValueError for a name that is not in METHODS."""
    kind = _BEFORE.get(name) or _INSIDE.get(name)
    if kind is None:
        raise ValueError(f"no pruner '{name}', there are {', '.join(METHODS)}")
    return kind()
