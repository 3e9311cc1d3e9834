# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Command-line options that several verbs share, and the settings they add up to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import read_params_file
from fastdrive_ros.config import read_preset


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide the node's parameters."""
    group = add_topic_options(parser)
    group.add_argument('--bundle', help='model bundle folder (default: the sample, engines/nano)')
    group.add_argument('--backend', help='auto, onnxruntime, tensorrt or tensorrt_rtx')
    group.add_argument('--keep-ratio', type=float, metavar='R', help='share of visual tokens kept')


def add_topic_options(parser: argparse.ArgumentParser) -> Any:
    """Add the options that decide what of a bag is which sensor; return their group."""
    group = parser.add_argument_group(
        'settings', 'the later overrides the earlier: preset, parameter file, these options')
    group.add_argument('--preset', help='topic convention of the bag (default: the best fit)')
    group.add_argument('--params-file', type=Path, metavar='YAML', help='ROS 2 parameter file')
    group.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                       help='any other parameter, for example sync.deadline_ms=100; may repeat')
    return group


def given_settings(args: argparse.Namespace, bag: Bag) -> dict[str, Any]:
    """
    Return what the options ask for, {parameter: value}, checked but without the defaults.

    Raises ConfigError on a parameter that is wrong, BagError when no preset fits the bag.
    """
    given: dict[str, Any] = {}
    if args.preset:
        given |= read_preset(args.preset)
    elif not (args.params_file and _names_topics(read_params_file(args.params_file))):
        given |= read_preset(choose_preset(bag).preset)
    if args.params_file:
        given |= read_params_file(args.params_file)
    for name in ('bundle', 'backend', 'keep_ratio'):
        if getattr(args, name, None) is not None:
            given[name] = getattr(args, name)
    for assignment in args.set:
        name, equals, value = assignment.partition('=')
        if not equals:
            raise ConfigError(f"--set wants NAME=VALUE, found '{assignment}'")
        given[name] = yaml.safe_load(value)
    checked = check_settings(given)
    return {name: checked[name] for name in given}


def _names_topics(params: dict[str, Any]) -> bool:
    return any(name.startswith('camera_topics.') for name in params)
