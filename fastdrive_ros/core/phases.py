# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
When in a sweep each camera takes its picture, learned from whole sweeps.

On nuScenes the first camera's *next* picture (50 ms on) is nearer in time to a sweep's other
pictures than the window is wide; only the camera's own phase tells that it belongs to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

# Whole sweeps that must agree before a phase is used, rejected frames in a row that end it.
_VOTES = 3
_REJECTIONS = 3
_LEARNING_RATE = 0.1


@dataclass
class _Phase:
    """One camera's offset to the sweep's reference time."""

    offset_ns: float
    votes: int = 1
    rejections: int = 0


class SweepPhases:
    """Learned offsets, and how well a stamp fits to the others of a sweep."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._phases: dict[str, _Phase] = {}

    def misfit_ns(self, stamps: Mapping[str, int], camera: str, stamp_ns: int,
                  tolerance_ns: float) -> float:
        """
        Return how far the stamp lies from the camera's place among ``stamps``.

        0 as long as that place is unknown, infinity beyond the tolerance.
        """
        phase = self._phases.get(camera)
        known = {name: stamp for name, stamp in stamps.items() if self._trusted(name)}
        if phase is None or not self._trusted(camera) or not known:
            return 0.0
        misfit_ns = abs(stamp_ns - phase.offset_ns - self._reference_ns(known))
        return misfit_ns if misfit_ns <= tolerance_ns else math.inf

    def learn(self, stamps: Mapping[str, int], tolerance_ns: float) -> None:
        """Take in the stamps of a sweep in which every live camera is."""
        reference_ns = self._reference_ns(stamps)
        for camera, stamp_ns in stamps.items():
            offset_ns = stamp_ns - reference_ns
            phase = self._phases.get(camera)
            if phase is None or abs(offset_ns - phase.offset_ns) > tolerance_ns:
                self._phases[camera] = _Phase(offset_ns)
                continue
            phase.offset_ns += _LEARNING_RATE * (offset_ns - phase.offset_ns)
            phase.votes += 1
            phase.rejections = 0

    def reject(self, camera: str) -> None:
        """Count a frame kept out by its phase alone; forget a phase that keeps doing so."""
        phase = self._phases[camera]
        phase.rejections += 1
        if phase.rejections >= _REJECTIONS:
            del self._phases[camera]

    def _trusted(self, camera: str) -> bool:
        phase = self._phases.get(camera)
        return phase is not None and phase.votes >= _VOTES

    def _reference_ns(self, stamps: Mapping[str, int]) -> float:
        """Return the sweep's own time: what most of its stamps say when phases are taken off."""
        known = [stamp - self._phases[name].offset_ns for name, stamp in stamps.items()
                 if name in self._phases]
        return median(known or stamps.values())
