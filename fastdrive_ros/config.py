# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The one table of deployment parameters, and what reads and checks it.

The node declares ROS parameters from it, `fastdrive run` and `fastdrive replay` read the same YAML
files against it, the README's table is printed from it. What belongs to the model (grid, camera
order, horizon ...) is in the bundle's manifest and nowhere here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fastdrive_ros.core.sync import SyncConfig
from fastdrive_ros.core.trajectory import GateLimits
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.pruners import INSIDE
from fastdrive_ros.pruners import METHODS

Value = bool | int | float | str | list[str]

CAMERA_TOPIC_PREFIX = 'camera_topics.'


class ConfigError(ValueError):
    """A parameter is unknown, of the wrong type or out of range; the message says the mend."""


@dataclass(frozen=True)
class Parameter:
    """One row of the table."""

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    """May change while the node is active."""

    def check(self, value: Any) -> Value:
        """
        Return the value in the parameter's own type.

        An integer is accepted for a float, because `keep_ratio: 1` is what people write.
        Raises ConfigError naming the parameter, what was expected and what was found.
        """
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is list and isinstance(value, tuple):
            value = list(value)
        if type(value) is not kind:
            raise ConfigError(f"parameter '{self.name}' must be a {kind.__name__}, found "
                              f'{value!r} ({type(value).__name__})')
        if self.choices and value not in (*self.choices, self.default):
            raise ConfigError(f"parameter '{self.name}' must be one of {', '.join(self.choices)}, "
                              f'found {value!r}')
        if self.minimum is not None and not self.minimum <= value <= self.maximum:
            raise ConfigError(f"parameter '{self.name}' must be within "
                              f'{self.minimum:g} .. {self.maximum:g}, found {value!r}')
        return value


def _camera_topic(name: str) -> Parameter:
    return Parameter(f'{CAMERA_TOPIC_PREFIX}{name}', f'/{name}/image_rect_compressed',
                     f'Topic of {name}.')


PARAMETERS = (
    Parameter('bundle', '',
              'Model bundle folder (made by `fastdrive export`). Empty: engines/nano, a small one '
              'trained in a simulated world.'),
    Parameter('backend', 'auto',
              'What runs the graphs; auto takes the best that works and says why.',
              choices=('auto', 'onnxruntime', 'tensorrt', 'tensorrt_rtx')),
    Parameter('text_backend', 'engine',
              'What runs the language model of a text planner: engine, like the other graphs, or '
              'torch (pip install torch; on a GPU with every pass a recorded CUDA graph).',
              choices=('engine', 'torch')),
    Parameter('engine_cache_dir', '',
              'Where built engines are kept. Empty: ~/.cache/fastdrive_ros/engines.'),
    Parameter('num_threads', 0,
              'CPU threads of one graph (onnxruntime). 0: all cores.',
              0, 256),
    Parameter('decode_threads', 2,
              'Threads that decode and resize camera images.',
              1, 64),
    Parameter('fuse_perception', False,
              'Run encoder and pruner as one graph: less copying on a GPU, but encode and '
              'prune are then timed together.'),
    *(_camera_topic(name) for name in NUSCENES_CAMERAS),
    Parameter('image_transport', 'compressed',
              'Type of the camera topics: sensor_msgs/CompressedImage or sensor_msgs/Image.',
              choices=('compressed', 'raw')),
    Parameter('odometry_topic', '/odom',
              'nav_msgs/Odometry of the vehicle.'),
    Parameter('output_frame', 'map',
              "Frame of the trajectory: map (the odometry's own frame) or base_link (the "
              'vehicle at the stamp).',
              choices=('map', 'base_link')),
    Parameter('keep_ratio', 0.5,
              'Share of visual tokens the planner gets; with pruner none it gets all.',
              0.01, 1.0, live=True),
    Parameter('pruner', '',
              "How tokens are chosen (what each method does: docs/evaluation.md). Empty: the "
              "bundle's own method.",
              choices=tuple(METHODS)),
    Parameter('camera_floor', 0.0,
              'Part of an equal share of the kept tokens that every camera gets for sure. 0: '
              'only the scores decide, 1: all cameras get as many.',
              0.0, 1.0, live=True),
    Parameter('max_rate_hz', 0.0,
              'Most plans a second; sets beyond it are counted as rate_limited. 0: as fast as '
              'sets come.',
              0.0, 1000.0, live=True),
    Parameter('max_frame_age_ms', 500.0,
              'A plan from older pictures is not published.',
              1.0, 60000.0, live=True),
    Parameter('max_odometry_age_ms', 600.0,
              "Odometry older than this at the set's stamp is stale (recorded odometry comes "
              'in bursts of up to 0.5 s).',
              1.0, 60000.0, live=True),
    Parameter('sync.window_ms', 48.0,
              'Largest stamp spread inside one sweep (nuScenes: 42.6).',
              0.1, 1000.0, live=True),
    Parameter('sync.deadline_ms', 75.0,
              'Wait this long after the first frame of a sweep, then go on with the cameras '
              'that came.',
              0.1, 5000.0, live=True),
    Parameter('sync.max_missing_cameras', 2,
              'Sweeps missing more cameras are dropped.',
              0, 64, live=True),
    Parameter('sync.required_cameras', [''],
              'Cameras without which no plan is made.',
              live=True),
    Parameter('limits.max_speed_mps', 40.0,
              'Refuse plans faster than this.',
              0.1, 150.0, live=True),
    Parameter('limits.max_acceleration_mps2', 8.0,
              'Refuse plans that accelerate or brake harder.',
              0.1, 50.0, live=True),
    Parameter('limits.max_curvature_1pm', 0.35,
              'Refuse plans that turn tighter (1 / radius).',
              0.001, 10.0, live=True),
    Parameter('limits.max_start_error_m', 2.0,
              'Refuse plans whose first waypoint is further than this from where the vehicle '
              'is heading.',
              0.01, 100.0, live=True),
    Parameter('limits.max_reverse_m', 2.0,
              'Refuse plans that lead further backwards.',
              0.01, 100.0, live=True),
    Parameter('diagnostics.period_s', 1.0,
              'Time between two /diagnostics messages.',
              0.05, 60.0),
    Parameter('diagnostics.window_cycles', 100,
              'Cycles that the latency percentiles cover.',
              2, 100000),
    Parameter('diagnostics.max_allowed_processing_time_ms', 200.0,
              'A slower cycle is a deadline miss (WARN).',
              1.0, 60000.0, live=True),
    Parameter('diagnostics.max_acceptable_consecutive_delay_ms', 1000.0,
              'Slow for longer than this without a break is an ERROR.',
              1.0, 600000.0, live=True),
    Parameter('autostart', True,
              'Configure and activate by itself; false leaves that to a lifecycle manager.'),
)
TABLE = {parameter.name: parameter for parameter in PARAMETERS}


def find_parameter(name: str) -> Parameter:
    """
    Return the row of that name; any `camera_topics.<CAMERA>` is a row, whatever the camera.

    Raises ConfigError with the nearest known names.
    """
    if name in TABLE:
        return TABLE[name]
    if name.startswith(CAMERA_TOPIC_PREFIX) and len(name) > len(CAMERA_TOPIC_PREFIX):
        return _camera_topic(name[len(CAMERA_TOPIC_PREFIX):])
    import difflib
    near = difflib.get_close_matches(name, TABLE, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ''
    raise ConfigError(f"unknown parameter '{name}'{hint} (all of them: README, 'Parameters')")


def check_settings(given: Mapping[str, Any]) -> dict[str, Value]:
    """Return every parameter's value: the given ones checked, the defaults for the rest."""
    settings: dict[str, Value] = {name: row.default for name, row in TABLE.items()}
    for name, value in given.items():
        settings[name] = find_parameter(name).check(value)
    return settings


def read_params_file(path: Path) -> dict[str, Any]:
    """
    Read a ROS 2 parameter YAML into ``{dotted name: value}``, whatever node it is under.

    Raises ConfigError when it is missing, not YAML or not in ROS 2's form.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f'cannot read the parameter file {path}: {error}') from error
    if not isinstance(tree, dict) or not all(
            isinstance(node, dict) and set(node) == {'ros__parameters'} for node in tree.values()):
        raise ConfigError(f"{path} is not a ROS 2 parameter file: expected '/**:' and below it "
                          "'ros__parameters:'")
    flat: dict[str, Any] = {}

    def flatten(prefix: str, branch: Mapping[str, Any]) -> None:
        for key, value in branch.items():
            if isinstance(value, dict):
                flatten(f'{prefix}{key}.', value)
            else:
                flat[f'{prefix}{key}'] = value

    for node in tree.values():
        flatten('', node['ros__parameters'] or {})
    # rclpy's own, not of our table; here every clock is the bag's or the node's anyway.
    flat.pop('use_sim_time', None)
    return flat


def sync_config(settings: Mapping[str, Any]) -> SyncConfig:
    """Return the synchroniser's part of the settings."""
    return SyncConfig(
        window_ms=settings['sync.window_ms'],
        deadline_ms=settings['sync.deadline_ms'],
        max_missing_cameras=settings['sync.max_missing_cameras'],
        required_cameras=tuple(name for name in settings['sync.required_cameras'] if name))


def check_required_cameras(settings: Mapping[str, Any], cameras: tuple[str, ...]) -> None:
    """Raise ConfigError when a required camera is none of the bundle's."""
    unknown = set(sync_config(settings).required_cameras) - set(cameras)
    if unknown:
        raise ConfigError(f"parameter 'sync.required_cameras' names {', '.join(sorted(unknown))}, "
                          f"the bundle has {', '.join(cameras)}")


def pruning_method(settings: Mapping[str, Any], own_method: str) -> str:
    """
    Return the pruning method to use: the parameter's, else the bundle's own.

    Raises ConfigError where fuse_perception or camera_floor does not go with it.
    """
    method = settings['pruner'] or own_method
    if method not in METHODS:
        raise ConfigError(f"the bundle's own pruner is '{method}', this version has "
                          f"{', '.join(METHODS)}: set parameter 'pruner' to one of them")
    fused, camera_floor = settings['fuse_perception'], settings['camera_floor']
    if fused and method != 'recon':
        raise ConfigError("'fuse_perception' joins the encoder with ReconPruner, but the pruner "
                          f"is '{method}': set 'fuse_perception' to false, or 'pruner' to recon")
    if camera_floor > 0.0 and (fused or method in INSIDE):
        where = "with 'fuse_perception'" if fused else f"by '{method}', inside the language model,"
        raise ConfigError(f"tokens are chosen {where} over all cameras at once: 'camera_floor' "
                          f'must be 0, found {camera_floor:g}'
                          + (", or set 'fuse_perception' to false" if fused else ''))
    return method


def gate_limits(settings: Mapping[str, Any]) -> GateLimits:
    """Return the sanity gate's part of the settings."""
    return GateLimits(**{name.split('.', 1)[1]: value for name, value in settings.items()
                         if name.startswith('limits.')})


def camera_topics(settings: Mapping[str, Any], cameras: tuple[str, ...]) -> dict[str, str]:
    """
    Return ``{camera: topic}`` for the bundle's cameras.

    Raises ConfigError when a camera of the bundle has no topic or two share one.
    """
    topics = {}
    for camera in cameras:
        topic = settings.get(f'{CAMERA_TOPIC_PREFIX}{camera}', '')
        if not topic:
            raise ConfigError(f"the bundle wants camera {camera}: set parameter "
                              f"'{CAMERA_TOPIC_PREFIX}{camera}' to its topic")
        if topic in topics.values():
            raise ConfigError(f'two cameras share the topic {topic}: each needs its own')
        topics[camera] = topic
    return topics


def share_dir() -> Path:
    """
    Return the folder that holds config/, launch/ and engines/.

    A source checkout is its own share folder; an install has <prefix>/share/fastdrive_ros.
    Raises ConfigError when neither is there.
    """
    here = Path(__file__).resolve().parent
    candidates = [here.parent, Path(sys.prefix) / 'share' / 'fastdrive_ros']
    candidates += [parent / 'share' / 'fastdrive_ros' for parent in here.parents]
    for candidate in candidates:
        if (candidate / 'config' / 'presets').is_dir():
            return candidate
    raise ConfigError('the config/ folder of fastdrive_ros was not found beside the package nor '
                      f'in {candidates[1]}: install it with colcon build or pip install')


def bundle_path(settings: Mapping[str, Any]) -> Path:
    """Return the bundle folder to load: the parameter's, else the sample bundle's."""
    return Path(settings['bundle']).expanduser() if settings['bundle'] else (
        share_dir() / 'engines' / 'nano')


def preset_names() -> list[str]:
    """Return the topic presets that are installed."""
    return sorted(path.stem for path in (share_dir() / 'config' / 'presets').glob('*.yaml'))


def read_preset(name: str) -> dict[str, Any]:
    """Return the parameters of a topic preset; raises ConfigError naming the ones there are."""
    if name not in preset_names():
        raise ConfigError(f"no topic preset '{name}', there are: {', '.join(preset_names())}")
    return read_params_file(share_dir() / 'config' / 'presets' / f'{name}.yaml')
