# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
How one drive looks: a seed -> sun, sky, fog, ground colours, exposure.

The looks vary so that a model cannot lean on one of them: low and high sun, clear, overcast,
foggy and dusky skies, dry and wet-dark asphalt, green to brown verges, under- and overexposure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

WEATHERS = ('clear', 'overcast', 'fog', 'dusk')
_WEATHER_SHARE = (0.45, 0.25, 0.15, 0.15)
# weather -> (sky at the zenith, sky at the horizon, sun colour, ambient light), RGB 0..1
_SKIES = {
    'clear': ((0.30, 0.52, 0.86), (0.78, 0.87, 0.95), (0.95, 0.90, 0.80), (0.42, 0.46, 0.54)),
    'overcast': ((0.62, 0.66, 0.70), (0.82, 0.84, 0.86), (0.30, 0.30, 0.30), (0.66, 0.67, 0.70)),
    'fog': ((0.72, 0.74, 0.76), (0.78, 0.79, 0.80), (0.25, 0.25, 0.24), (0.66, 0.67, 0.68)),
    'dusk': ((0.20, 0.24, 0.45), (0.92, 0.62, 0.42), (0.70, 0.42, 0.25), (0.26, 0.27, 0.36)),
}


@dataclass(frozen=True)
class Look:
    """Everything the shader and the ground's colours need; RGB are 0..1."""

    weather: str
    sun_direction: tuple[float, float, float]
    """Unit vector towards the sun, in the map frame."""
    sun_rgb: tuple[float, float, float]
    ambient_rgb: tuple[float, float, float]
    zenith_rgb: tuple[float, float, float]
    horizon_rgb: tuple[float, float, float]
    visibility_m: float
    """Where 95 % of the light of a thing has been replaced by fog."""
    exposure: float
    tint_rgb: tuple[float, float, float]
    """White balance of the cameras."""
    noise: float
    """Standard deviation of the sensor's noise, 0..1."""
    asphalt_rgb: tuple[float, float, float]
    verge_rgb: tuple[float, float, float]


def draw_look(rng: np.random.Generator) -> Look:
    """Return a look drawn at random."""
    weather = str(rng.choice(WEATHERS, p=_WEATHER_SHARE))
    zenith, horizon, sun, ambient = (np.array(rgb) for rgb in _SKIES[weather])
    elevation = math.radians(rng.uniform(4.0, 12.0) if weather == 'dusk'
                             else rng.uniform(18.0, 70.0))
    azimuth = rng.uniform(-math.pi, math.pi)
    visibility_m = (rng.uniform(70.0, 220.0) if weather == 'fog' else rng.uniform(500.0, 2500.0))
    grey = rng.uniform(0.20, 0.42)
    dry = rng.uniform()
    verge = np.array((0.30, 0.42, 0.20)) * (1.0 - dry) + dry * np.array((0.52, 0.46, 0.32))
    return Look(
        weather=weather,
        sun_direction=(math.cos(elevation) * math.cos(azimuth),
                       math.cos(elevation) * math.sin(azimuth), math.sin(elevation)),
        sun_rgb=_rgb(sun * rng.uniform(0.85, 1.1)), ambient_rgb=_rgb(ambient),
        zenith_rgb=_rgb(zenith * rng.uniform(0.85, 1.1)), horizon_rgb=_rgb(horizon),
        visibility_m=float(visibility_m),
        exposure=float(np.exp(np.clip(rng.normal(0.0, 0.14), -0.3, 0.25))),
        tint_rgb=_rgb(1.0 + rng.uniform(-0.05, 0.05, 3)), noise=float(rng.uniform(0.004, 0.02)),
        asphalt_rgb=_rgb(grey + rng.uniform(-0.02, 0.02, 3)),
        verge_rgb=_rgb(verge * rng.uniform(0.8, 1.2)))


def _rgb(values: np.ndarray) -> tuple[float, float, float]:
    r, g, b = np.clip(values, 0.0, 1.5)
    return (float(r), float(g), float(b))
