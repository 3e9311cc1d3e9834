# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""config.PARAMETERS as ROS parameters: declared, described, ranged, checked on every change."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange
from rcl_interfaces.msg import IntegerRange
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import Parameter
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import find_parameter
from fastdrive_ros.config import gate_limits
from fastdrive_ros.config import sync_config

# Parameters that rclpy itself declares.
_ROS_OWN = ('use_sim_time', 'start_type_description_service')
_ROS_OWN_PREFIX = 'qos_overrides.'


def is_ours(name: str) -> bool:
    """Tell whether a parameter belongs to the table (else it is rclpy's)."""
    return name not in _ROS_OWN and not name.startswith(_ROS_OWN_PREFIX)


def declare_parameters(node: Node) -> dict[str, Any]:
    """
    Declare the whole table on a node and return the checked settings.

    The node must have been made with automatically_declare_parameters_from_overrides, which is the
    only public way to see names that nobody declared: rclpy drops them in silence.
    Raises ConfigError on an unknown name, a wrong type or a value out of range.
    """
    given = {name: value for name, value in node.get_parameters_by_prefix('').items()
             if is_ours(name)}
    settings = check_settings({name: parameter.value for name, parameter in given.items()})
    check_together(settings)
    for name in given:
        node.undeclare_parameter(name)
    for name, value in settings.items():
        node.declare_parameter(name, value, _descriptor(find_parameter(name)),
                               ignore_override=True)
    return settings


def check_together(settings: dict[str, Any]) -> None:
    """Check values that are fine alone but not with each other; raises ConfigError."""
    try:
        sync_config(settings)
        gate_limits(settings)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def changed_settings(settings: dict[str, Any], changes: list[RosParameter],
                     configured: bool) -> dict[str, Any]:
    """
    Return the settings with the changes in; all of them or, with ConfigError, none.

    Parameters that are not live are refused while a model is loaded.
    """
    updated = dict(settings)
    for change in changes:
        if not is_ours(change.name):
            continue
        row = find_parameter(change.name)
        if configured and not row.live and change.value != settings[change.name]:
            raise ConfigError(f"parameter '{change.name}' is read at configure: deactivate and "
                              'clean up the node first, then set it and configure again')
        updated[change.name] = row.check(change.value)
    check_together(updated)
    return updated


def _descriptor(row: Parameter) -> ParameterDescriptor:
    when = 'May change at any time.' if row.live else 'Read at configure.'
    descriptor = ParameterDescriptor(description=f'{row.description} {when}')
    if row.choices:
        descriptor.additional_constraints = f"one of: {', '.join(row.choices)}"
    if row.minimum is not None and isinstance(row.default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(row.minimum), to_value=float(row.maximum))]
    elif row.minimum is not None:
        descriptor.integer_range = [
            IntegerRange(from_value=int(row.minimum), to_value=int(row.maximum), step=1)]
    return descriptor
