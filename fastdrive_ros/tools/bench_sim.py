# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bench sim`: simulated steps a second, with six pictures and masks at every step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastdrive_ros.tools.tables import print_table

_SEEDS = (4, 7, 12, 21, 27)
_WARM_UP_STEPS, _STEPS = 30, 60


def bench() -> dict[str, Any]:
    """Drive a few seeds; return milliseconds a step of each part, and rates."""
    from fastdrive_ros.sim.drive import encode
    from fastdrive_ros.sim.world import World

    world = World()
    spent_s = dict.fromkeys(('reset', 'step', 'pictures', 'encode'), 0.0)
    steps = vehicles = 0
    for seed in _SEEDS:
        start_s = time.perf_counter()
        world.reset(seed)
        spent_s['reset'] += time.perf_counter() - start_s
        for number in range(_WARM_UP_STEPS + _STEPS):
            start_s = time.perf_counter()
            world.step()
            stepped_s = time.perf_counter()
            if number < _WARM_UP_STEPS or world.outcome:
                continue
            shots = world.pictures()
            seen_s = time.perf_counter()
            for shot in shots.values():
                encode(shot)
            spent_s['step'] += stepped_s - start_s
            spent_s['pictures'] += seen_s - stepped_s
            spent_s['encode'] += time.perf_counter() - seen_s
            steps += 1
            vehicles += sum(agent.id.startswith('vehicle') for agent in world.agents)
    width, height = world.cameras[0].width, world.cameras[0].height
    world.close()
    step_ms, picture_ms, encode_ms = (
        1e3 * spent_s[part] / steps for part in ('step', 'pictures', 'encode'))
    return {'size': [width, height], 'steps': steps, 'seeds': list(_SEEDS),
            'vehicles': round(vehicles / steps, 1), 'reset_s': round(
                spent_s['reset'] / len(_SEEDS), 2),
            'step_ms': round(step_ms, 2), 'pictures_ms': round(picture_ms, 2),
            'encode_ms': round(encode_ms, 2),
            'steps_per_s': round(1e3 / (step_ms + picture_ms), 1),
            'steps_per_s_encoded': round(1e3 / (step_ms + picture_ms + encode_ms), 1)}


def print_report(result: Mapping[str, Any]) -> None:
    """Print the table."""
    width, height = result['size']
    print_table(
        f"simulator: six cameras of {width}x{height} with masks at every 0.1 s, "
        f"{result['vehicles']:g} vehicles on average, {result['steps']} steps",
        ('part', 'ms a step'),
        [('physics, drivers, rules', f"{result['step_ms']:.1f}"),
         ('pictures and masks', f"{result['pictures_ms']:.1f}"),
         ('JPEG and PNG', f"{result['encode_ms']:.1f}")])
    print(f"{result['steps_per_s']} steps/s with RGB and masks, {result['steps_per_s_encoded']} "
          f"encoded; a new world takes {result['reset_s']} s\n")
