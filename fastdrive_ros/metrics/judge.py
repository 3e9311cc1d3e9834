# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One frame's truth and any number of plans -> what each plan does wrong, step by step.

Nothing is averaged or left out here: a Verdict is what happened, protocols.py counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastdrive_ros.metrics.collision import boxes_overlap
from fastdrive_ros.metrics.collision import raster_hits
from fastdrive_ros.metrics.footprint import central_headings
from fastdrive_ros.metrics.footprint import ego_boxes
from fastdrive_ros.metrics.footprint import step_headings

NUM_STEPS, STEP_S = 6, 0.5
"""Both protocols look at 3 s in steps of half a second."""


@dataclass(frozen=True)
class FrameTruth:
    """What became of one frame, in base_link at its stamp; T = NUM_STEPS."""

    waypoints: np.ndarray
    """float64 (T, 2): where the vehicle went."""
    known: np.ndarray
    """bool (T,): False where the recording had ended or has a gap."""
    boxes: np.ndarray
    """float64 (T, A, 5): other road users then, filled up with NaN."""
    boxes_known: np.ndarray
    """bool (T,): False where no frame was recorded at that time."""
    vehicles: np.ndarray
    """bool (T, C, C): cells that other vehicles cover then."""
    blocked: np.ndarray | None
    """bool (1, C, C): cells where no car may drive; None where nobody knows."""
    cell_m: float


@dataclass(frozen=True)
class Verdict:
    """What R plans do, step by step."""

    error_m: np.ndarray
    """float64 (R, T): distance to where the vehicle went."""
    box_hits: np.ndarray
    """bool (R, T): the box meets another road user's."""
    cell_hits: np.ndarray
    """bool (R, T): the box covers a cell of another vehicle's."""
    off_road: np.ndarray
    """bool (R, T): the box covers a cell that is not drivable."""


def judge(truth: FrameTruth, plans: np.ndarray) -> Verdict:
    """Judge plans, float (R, T, 2) in base_link."""
    boxes = ego_boxes(plans, central_headings(plans))                   # (R, T, 5)
    stepwise = ego_boxes(plans, step_headings(plans))
    return Verdict(
        error_m=np.linalg.norm(plans - truth.waypoints, axis=-1),
        box_hits=boxes_overlap(boxes[:, :, None], truth.boxes).any(axis=-1),
        cell_hits=raster_hits(stepwise, truth.vehicles, truth.cell_m),
        off_road=(np.zeros(plans.shape[:2], dtype=bool) if truth.blocked is None
                  else raster_hits(stepwise, truth.blocked, truth.cell_m)))


def starts_off_road(truth: FrameTruth) -> bool:
    """Tell whether the vehicle covers a cell that is not drivable where it is now."""
    if truth.blocked is None:
        return False
    here = ego_boxes(np.zeros((1, 2)), np.zeros(1))
    return bool(raster_hits(here, truth.blocked, truth.cell_m)[0])
