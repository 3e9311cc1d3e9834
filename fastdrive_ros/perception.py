# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Pictures to kept tokens by any pruning method: images --encode--> Sight --prune--> KeptTokens.

Which graphs run follows from what the method wants to look at. Methods that prune inside the
language model get every token of the cameras present; there the planner prunes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.core.types import CameraBatch
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.pruners import INSIDE
from fastdrive_ros.pruners import make_pruner
from fastdrive_ros.pruners.budget import select
from fastdrive_ros.pruners.sight import Sight
from fastdrive_ros.runtime.engine import Engine

JOINED = 'perception'
"""The graph that is encoder and ReconPruner in one."""
_NOTHING: frozenset[str] = frozenset()
# What a method looks at -> the graph that scores every token.
_SCORERS = {'scores': 'recon_pruner', 'plan_scores': 'plan_pruner'}


def perception_graphs(method: str) -> tuple[str, ...]:
    """Return the graphs that a method needs before the planner."""
    needs = _NOTHING if method in INSIDE else make_pruner(method).needs
    return (_encoder(needs), *_scorers(needs))


def _scorers(needs: frozenset[str]) -> list[str]:
    return [graph for need, graph in _SCORERS.items() if need in needs]


def _encoder(needs: frozenset[str]) -> str:
    return 'vision_attention' if needs & {'attention', 'features'} else 'vision_encoder'


class Perception:
    """One method on loaded engines. Owned by one thread."""

    def __init__(self, engines: Mapping[str, Engine], method: str, grid_height: int,
                 grid_width: int, camera_floor: float = 0.0) -> None:
        """Take the engines of ``perception_graphs``, or (recon only) the joined one."""
        self.method = method
        self.camera_floor = camera_floor
        self._engines = engines
        self._grid = grid_height, grid_width
        self._pruner = None if method in INSIDE else make_pruner(method)

    @property
    def needs(self) -> frozenset[str]:
        """What the method looks at besides tokens; who needs the same can share a Sight."""
        return self._pruner.needs if self._pruner else _NOTHING

    def perceive(self, batch: CameraBatch, stamp_ns: int, num_kept: int,
                 timer: StageTimer) -> KeptTokens:
        """Encode and prune one set, each under its stage's name; the joined graph is 'encode'."""
        if JOINED in self._engines:
            engine = self._engines[JOINED]
            # On a device the kept tokens stay there, for the planner.
            memory = engine.memory('kept_tokens')
            with timer('encode'):
                out = engine.run({
                    'images': batch.images,                                 # (V, H, W, 3)
                    'camera_present': batch.present,                        # (V,)
                    'num_kept_tokens': np.asarray(num_kept, np.int64),
                }, into=None if memory is None else {'kept_tokens': memory[:num_kept]})
            return KeptTokens(out['kept_tokens'], out['kept_indices'], out['scores'], self.method,
                              len(out['scores']))
        with timer('encode'):
            sight = self._see(batch.images, batch.present, stamp_ns)
        with timer('prune'):
            return self.prune(self._score(sight), num_kept)

    def encode(self, images: np.ndarray, present: np.ndarray, stamp_ns: int) -> Sight:
        """
        Return what the method may look at.

        Args:
            images: uint8 (V, H, W, 3), RGB, as Preprocessor makes them.
            present: bool (V,).
            stamp_ns: the set's stamp.

        """
        return self._score(self._see(images, present, stamp_ns))

    def prune(self, sight: Sight, num_kept: int) -> KeptTokens:
        """Return the method's K tokens in order; all that are there where it prunes later."""
        indices = (select(self._pruner, sight, num_kept, self.camera_floor) if self._pruner
                   else np.flatnonzero(sight.present_tokens))
        return KeptTokens(sight.tokens[indices], indices, sight.scores, self.method,
                          len(sight.tokens))

    def _see(self, images: np.ndarray, present: np.ndarray, stamp_ns: int) -> Sight:
        out = self._engines[_encoder(self.needs)].run({'images': images})
        return Sight(out['visual_tokens'], present, *self._grid, stamp_ns=stamp_ns,
                     attention=out.get('attention'), features=out.get('features'),
                     encoded=out.get('token_present'))

    def _score(self, sight: Sight) -> Sight:
        """Add the learned scores where the method looks at them."""
        for graph in _scorers(self.needs):
            out = self._engines[graph].run({
                'visual_tokens': sight.tokens,                                        # (N, D)
                'camera_present': sight.present,                                      # (V,)
                # The graph's own choice goes unused: the budget's rules are the same for all.
                'num_kept_tokens': np.asarray(1, np.int64),
                **({} if sight.encoded is None else {'token_present': sight.encoded})})  # (N,)
            sight = dataclasses.replace(sight, scores=out['scores'])                  # (N,)
        return sight
