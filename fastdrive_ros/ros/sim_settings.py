# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the simulator node is asked for: ROS parameters -> SimSettings, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import Parameter
from fastdrive_ros.ros.parameters import is_ours
from fastdrive_ros.sim.world import STEP_S

PARAMETERS = (
    Parameter('seed', 0, 'Seed of the first drive; the next drives count up from it.', 0, 2**31),
    Parameter('speed', 1.0, 'Simulated seconds a second. 0: as fast as it renders.', 0.0, 100.0),
    Parameter('rate_hz', 10.0, 'Pictures a simulated second: 10 divided by a whole number.',
              0.1, 10.0),
    Parameter('seconds', 0.0, 'End after so many simulated seconds. 0: never.', 0.0, 1e6),
    Parameter('width', 448, 'Width of the pictures.', 64, 1600),
    Parameter('height', 252, 'Height of the pictures.', 36, 1200),
)


@dataclass(frozen=True)
class SimSettings:
    """PARAMETERS, checked."""

    seed: int
    speed: float
    rate_hz: float
    seconds: float
    width: int
    height: int

    @property
    def steps_a_picture(self) -> int:
        """How many steps of the world pass from picture to picture."""
        return round(1.0 / (STEP_S * self.rate_hz))


def check_sim_settings(given: Mapping[str, Any]) -> SimSettings:
    """Return the settings, defaults filled in; raises ConfigError naming what is wrong."""
    unknown = set(given) - {row.name for row in PARAMETERS}
    if unknown:
        raise ConfigError(f"the simulator has no parameter {', '.join(sorted(unknown))}; it has "
                          f"{', '.join(row.name for row in PARAMETERS)}")
    settings = SimSettings(**{row.name: row.check(given.get(row.name, row.default))
                              for row in PARAMETERS})
    if abs(settings.steps_a_picture * STEP_S * settings.rate_hz - 1.0) > 1e-6:
        raise ConfigError(f"parameter 'rate_hz' must be 10 divided by a whole number (10, 5, 2.5, "
                          f'2, 1 ...), found {settings.rate_hz:g}')
    return settings


def declare_sim_settings(node: Node) -> SimSettings:
    """Declare PARAMETERS with what was given for them; raises ConfigError."""
    given = {name: parameter.value for name, parameter
             in node.get_parameters_by_prefix('').items() if is_ours(name)}
    settings = check_sim_settings(given)
    for name in given:
        node.undeclare_parameter(name)
    for row in PARAMETERS:
        node.declare_parameter(
            row.name, getattr(settings, row.name),
            ParameterDescriptor(description=row.description, read_only=True), ignore_override=True)
    return settings
