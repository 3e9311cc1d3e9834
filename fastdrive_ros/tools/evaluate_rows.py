# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is compared: every way to plan, under a name that is also its key on the disk."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass

UNPRUNED = 'none'
# Plans that no model makes. The recorded way shows how low each figure can go.
EXTRAPOLATION, STANDSTILL, RECORDED = 'extrapolation', 'standstill', 'recorded'
BASELINES = {EXTRAPOLATION: 'constant speed and turn rate', STANDSTILL: 'stand still',
             RECORDED: 'the recorded way'}
# What an unpruned planner is shown instead of what there was.
SHUFFLED, GREY, NO_HISTORY = 'shuffled_images', 'grey_images', 'no_history'
CONTROLS = {SHUFFLED: 'pictures of another drive', GREY: 'grey pictures',
            NO_HISTORY: 'ego history zeroed'}


@dataclass(frozen=True)
class Row:
    """One way to plan."""

    method: str
    """A pruning method, or one of BASELINES."""
    planner: str = ''
    """Name of a bundle; empty for baselines."""
    keep_ratio: float = 1.0
    control: str = ''
    """One of CONTROLS, or empty."""

    @property
    def name(self) -> str:
        """Key in files: 'nano/recon@0.5', 'nano/none+grey_images', 'extrapolation'."""
        ratio = f'@{self.keep_ratio:g}' if self.keep_ratio < 1.0 else ''
        control = f'+{self.control}' if self.control else ''
        return f'{self.planner}/' * bool(self.planner) + self.method + ratio + control

    @property
    def label(self) -> str:
        """For people, beside the planner's name."""
        if self.method in BASELINES:
            return BASELINES[self.method]
        return CONTROLS[self.control] if self.control else self.method


def wanted_rows(planners: Iterable[str], methods: Sequence[str], keep_ratios: Sequence[float],
                controls: bool) -> tuple[Row, ...]:
    """
    Return the rows of a comparison: baselines, then planner after planner.

    The unpruned planner is always there, what the others are compared to.
    """
    ratios = sorted(set(keep_ratios) - {1.0}, reverse=True)
    pruned = [method for method in dict.fromkeys(methods) if method != UNPRUNED]
    rows = [Row(method) for method in BASELINES]
    for planner in planners:
        rows.append(Row(UNPRUNED, planner))
        rows += [Row(method, planner, ratio) for method in pruned for ratio in ratios]
        rows += [Row(UNPRUNED, planner, control=control) for control in CONTROLS if controls]
    return tuple(rows)
