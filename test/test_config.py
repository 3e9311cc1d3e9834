# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The parameter table, the YAML files read against it, and every file in config/."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastdrive_ros import config
from fastdrive_ros.config import NUSCENES_CAMERAS
from fastdrive_ros.config import PARAMETERS
from fastdrive_ros.config import TABLE
from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import camera_topics
from fastdrive_ros.config import check_required_cameras
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import find_parameter
from fastdrive_ros.config import gate_limits
from fastdrive_ros.config import preset_names
from fastdrive_ros.config import pruning_method
from fastdrive_ros.config import read_params_file
from fastdrive_ros.config import read_preset
from fastdrive_ros.config import share_dir
from fastdrive_ros.config import sync_config
from fastdrive_ros.core.latency import STAGES

CONFIG = Path(__file__).resolve().parent.parent / 'config'
PRESETS = ('autoware_carla', 'autoware_vehicle', 'nuscenes_bridge', 'nuscenes_image_raw',
           'nuscenes_mcap')
# What a preset is for, and what therefore must not be in fastdrive.param.yaml, which goes before.
TOPIC_PARAMETERS = {'image_transport', 'odometry_topic',
                    *(f'camera_topics.{camera}' for camera in NUSCENES_CAMERAS)}
# Chosen for each start, not for a vehicle.
START_PARAMETERS = {'bundle', 'backend', 'engine_cache_dir', 'autostart'}


@pytest.mark.parametrize('row', PARAMETERS, ids=lambda row: row.name)
def test_every_default_is_within_its_own_row(row: config.Parameter):
    assert row.check(row.default) == row.default
    assert row.description.endswith('.')
    assert (row.minimum is None) == (row.maximum is None)
    if isinstance(row.default, (int, float)) and not isinstance(row.default, bool):
        assert row.minimum < row.maximum


def test_names_are_unique():
    assert len(TABLE) == len(PARAMETERS)


@pytest.mark.parametrize('row', [row for row in PARAMETERS if row.minimum is not None],
                         ids=lambda row: row.name)
def test_bounds_are_allowed_and_beyond_is_refused(row: config.Parameter):
    kind = type(row.default)
    assert row.check(kind(row.minimum)) == row.minimum
    assert row.check(kind(row.maximum)) == row.maximum
    for value in (kind(row.minimum) - 1, kind(row.maximum) + 1):
        with pytest.raises(ConfigError, match=rf"'{row.name}' must be within .* found {value}"):
            row.check(value)


def test_a_whole_number_is_a_float_where_a_float_is_wanted():
    value = check_settings({'keep_ratio': 1})['keep_ratio']
    assert type(value) is float
    assert value == 1.0


@pytest.mark.parametrize(('name', 'value', 'message'), [
    ('keep_ratio', '0.5', r"'keep_ratio' must be a float, found '0.5' \(str\)"),
    ('keep_ratio', True, r"'keep_ratio' must be a float, found True \(bool\)"),
    ('keep_ratio', math.nan, r"'keep_ratio' must be within 0.01 .. 1, found nan"),
    ('keep_ratio', math.inf, r"'keep_ratio' must be within 0.01 .. 1, found inf"),
    ('num_threads', 2.0, r"'num_threads' must be a int, found 2.0 \(float\)"),
    ('num_threads', True, r"'num_threads' must be a int, found True \(bool\)"),
    ('fuse_perception', 1, r"'fuse_perception' must be a bool, found 1 \(int\)"),
    ('backend', 'cuda', r"'backend' must be one of auto, onnxruntime, .*, found 'cuda'"),
    ('pruner', 'fastvlm', r"'pruner' must be one of none, random, .*, found 'fastvlm'"),
    ('image_transport', 'theora', r"'image_transport' must be one of compressed, raw, found"),
    ('sync.required_cameras', 'CAM_FRONT', r"must be a list, found 'CAM_FRONT'"),
    ('odometry_topic', None, r"'odometry_topic' must be a str, found None"),
])
def test_a_wrong_value_is_refused_by_name(name: str, value: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        check_settings({name: value})


@pytest.mark.parametrize(('name', 'near'), [
    ('keep_ration', 'keep_ratio'),
    ('sync.window', 'sync.window_ms'),
    ('camera_topics.', 'camera_topics.CAM_'),
    ('limits.max_speed', 'limits.max_speed_mps'),
])
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, near: str):
    with pytest.raises(ConfigError, match=f"unknown parameter '{name}'; did you mean '{near}"):
        check_settings({name: 1})


def test_an_unknown_name_like_no_other_gets_no_hint():
    with pytest.raises(ConfigError, match=r"unknown parameter 'zzz' \(all of them: README"):
        find_parameter('zzz')


def test_a_camera_of_any_name_has_a_topic_parameter():
    settings = check_settings({'camera_topics.CAM_ROOF': '/roof'})
    assert camera_topics(settings, ('CAM_ROOF', 'CAM_FRONT')) == {
        'CAM_ROOF': '/roof', 'CAM_FRONT': '/CAM_FRONT/image_rect_compressed'}


def test_a_camera_of_the_bundle_without_topic_is_refused():
    with pytest.raises(ConfigError, match="wants camera CAM_ROOF: set parameter 'camera_topics."):
        camera_topics(check_settings({}), ('CAM_ROOF',))


def test_two_cameras_on_one_topic_are_refused():
    settings = check_settings({'camera_topics.CAM_BACK': '/CAM_FRONT/image_rect_compressed'})
    with pytest.raises(ConfigError, match='two cameras share the topic /CAM_FRONT/image_rect'):
        camera_topics(settings, NUSCENES_CAMERAS)


def test_a_required_camera_must_be_one_of_the_bundle():
    settings = check_settings({'sync.required_cameras': ['CAM_FRONT', 'CAM_FORNT']})
    with pytest.raises(ConfigError, match=r'names CAM_FORNT, the bundle has CAM_FRONT_LEFT'):
        check_required_cameras(settings, NUSCENES_CAMERAS)
    check_required_cameras(check_settings({}), NUSCENES_CAMERAS)


def test_settings_reach_the_synchroniser_and_the_gate():
    settings = check_settings({'sync.window_ms': 30, 'sync.required_cameras': ('CAM_FRONT',),
                               'limits.max_speed_mps': 12.5})
    assert sync_config(settings).window_ms == 30.0
    assert sync_config(settings).required_cameras == ('CAM_FRONT',)
    assert sync_config(check_settings({})).required_cameras == ()
    assert gate_limits(settings).max_speed_mps == 12.5


def test_a_parameter_file_is_read_flat(tmp_path: Path):
    path = tmp_path / 'p.yaml'
    path.write_text('/**:\n  ros__parameters:\n    keep_ratio: 0.25\n    sync:\n'
                    '      window_ms: 40.0\nfastdrive:\n  ros__parameters:\n'
                    '    limits.max_speed_mps: 20.0\nempty:\n  ros__parameters:\n')
    assert read_params_file(path) == {
        'keep_ratio': 0.25, 'sync.window_ms': 40.0, 'limits.max_speed_mps': 20.0}


@pytest.mark.parametrize(('text', 'message'), [
    ('keep_ratio: 0.5\n', 'is not a ROS 2 parameter file'),
    ('/**:\n  keep_ratio: 0.5\n', "expected '/\\*\\*:' and below it 'ros__parameters:'"),
    ('- 1\n', 'is not a ROS 2 parameter file'),
    ('', 'is not a ROS 2 parameter file'),
    ('/**: [\n', 'cannot read the parameter file'),
])
def test_a_file_that_is_no_parameter_file_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / 'p.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_params_file(path)


def test_a_missing_parameter_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r'cannot read .*none\.yaml: .*No such file'):
        read_params_file(tmp_path / 'none.yaml')


@pytest.mark.parametrize(('given', 'method'), [
    ({}, 'recon'), ({'pruner': 'fastv'}, 'fastv'),
    ({'fuse_perception': True}, 'recon'), ({'camera_floor': 0.5}, 'recon'),
    ({'pruner': 'divprune', 'camera_floor': 1.0}, 'divprune'),
])
def test_the_pruner_is_the_bundle_s_own_unless_set(given: dict[str, Any], method: str):
    assert pruning_method(check_settings(given), 'recon') == method


@pytest.mark.parametrize(('given', 'own', 'message'), [
    ({}, 'magic', "the bundle's own pruner is 'magic', this version has none, random, .*: set"),
    ({'pruner': 'random', 'fuse_perception': True}, 'recon',
     "'fuse_perception' joins .* but the pruner is 'random': set 'fuse_perception' to false"),
    ({'fuse_perception': True}, 'fastv', "the pruner is 'fastv'"),
    ({'fuse_perception': True, 'camera_floor': 0.5}, 'recon',
     "chosen with 'fuse_perception' .*'camera_floor' must be 0, found 0.5, or set 'fuse_perc"),
    ({'pruner': 'sparsevlm', 'camera_floor': 1}, 'recon',
     "chosen by 'sparsevlm', inside the language model, over .* must be 0, found 1$"),
])
def test_what_a_pruner_cannot_go_with_is_refused(given: dict[str, Any], own: str, message: str):
    with pytest.raises(ConfigError, match=message):
        pruning_method(check_settings(given), own)


def test_the_checkout_is_its_own_share_folder():
    assert share_dir() == CONFIG.parent


def test_an_installed_package_finds_its_share_folder(tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / 'lib' / 'python3.12' / 'site-packages' / 'fastdrive_ros'
    monkeypatch.setattr(config, '__file__', str(package / 'config.py'))
    monkeypatch.setattr(config.sys, 'prefix', str(tmp_path / 'elsewhere'))
    with pytest.raises(ConfigError, match='install it with colcon build or pip install'):
        share_dir()
    share = tmp_path / 'share' / 'fastdrive_ros'
    (share / 'config' / 'presets').mkdir(parents=True)
    assert share_dir() == share
    assert config.bundle_path({'bundle': ''}) == share / 'engines' / 'nano'


def test_the_presets_are_the_five_conventions():
    assert tuple(preset_names()) == PRESETS
    with pytest.raises(ConfigError, match="no topic preset 'kitti', there are: autoware_carla, "):
        read_preset('kitti')


@pytest.mark.parametrize('name', PRESETS)
def test_a_preset_sets_every_topic_and_nothing_else(name: str):
    preset = read_preset(name)
    assert set(preset) == TOPIC_PARAMETERS
    topics = camera_topics(check_settings(preset), NUSCENES_CAMERAS)
    suffix = {'compressed': 'compressed', 'raw': ('image', 'image_raw')}[preset['image_transport']]
    assert all(topic.startswith('/') and topic.endswith(suffix) for topic in topics.values())


def test_the_default_preset_is_the_table_s_defaults():
    assert check_settings(read_preset('nuscenes_mcap')) == check_settings({})


@pytest.mark.parametrize(('preset', 'camera', 'topic'), [
    ('nuscenes_mcap', 'CAM_BACK', '/CAM_BACK/image_rect_compressed'),
    ('nuscenes_image_raw', 'CAM_FRONT_LEFT', '/nuscenes/cam_front_left/image_raw'),
    ('nuscenes_bridge', 'CAM_FRONT', '/nuscenes/CAM_FRONT/image'),
    ('autoware_carla', 'CAM_BACK_RIGHT', '/sensing/camera/CAM_BACK_RIGHT/image_raw/compressed'),
    ('autoware_vehicle', 'CAM_FRONT', '/sensing/camera/camera4/image_raw/compressed'),
])
def test_presets_spell_their_convention(preset: str, camera: str, topic: str):
    assert read_preset(preset)[f'camera_topics.{camera}'] == topic


def test_the_parameter_file_holds_every_default_that_is_not_a_topic_or_a_start_choice():
    written = read_params_file(CONFIG / 'fastdrive.param.yaml')
    assert written == {row.name: row.default for row in PARAMETERS
                       if row.name not in TOPIC_PARAMETERS | START_PARAMETERS}
    assert all(type(value) is type(TABLE[name].default) for name, value in written.items())


def test_the_parameter_file_explains_every_parameter():
    text = ' '.join((CONFIG / 'fastdrive.param.yaml').read_text().replace('#', '').split())
    for name in read_params_file(CONFIG / 'fastdrive.param.yaml'):
        row = TABLE[name]
        limits = [f'{row.minimum:g} .. {row.maximum:g}'] if row.minimum is not None else []
        limits += [' or '.join(row.choices)] if row.choices else []
        limits += ['live'] if row.live else []
        note = f" [{', '.join(limits)}]" if limits else ''
        assert f"{row.description}{note} {name.rpartition('.')[2]}:" in text


def test_the_fast_dds_profile_holds_two_sets_of_raw_images():
    spaces = {'': 'http://www.eprosima.com'}
    root = ElementTree.parse(CONFIG / 'fastdds_raw_images.xml').getroot()
    image_bytes = 1600 * 900 * 3
    assert int(root.findtext('.//segment_size', namespaces=spaces)) > 2 * 6 * image_bytes
    assert int(root.findtext('.//maxMessageSize', namespaces=spaces)) > image_bytes
    descriptors = root.iterfind('.//transport_descriptor/transport_id', spaces)
    declared = {node.text for node in descriptors}
    used = {node.text for node in root.iterfind('.//userTransports/transport_id', spaces)}
    assert used == declared


def overlay_topics() -> set[str]:
    return {f'/fastdrive/debug/{camera.lower()}/kept_tokens/compressed'
            for camera in NUSCENES_CAMERAS}


def test_rviz_shows_the_node_s_topics():
    view = yaml.safe_load((CONFIG / 'fastdrive.rviz').read_text())['Visualization Manager']
    topics = {display['Topic']['Value'] for display in view['Displays'] if 'Topic' in display}
    assert topics == overlay_topics() | {
        '/odom', '/fastdrive/output/trajectory', '/fastdrive/output/markers'}
    assert view['Global Options']['Fixed Frame'] == 'map'


def test_foxglove_shows_the_node_s_topics():
    layout = json.loads((CONFIG / 'foxglove_layout.json').read_text())
    panels = layout['configById']
    images = {panel['imageMode']['imageTopic'] for name, panel in panels.items()
              if name.startswith('Image!')}
    assert images == overlay_topics()
    assert {path['value'] for path in panels['Plot!stages']['paths']} == {
        f'/fastdrive/debug/processing_time/{stage}_ms.data' for stage in STAGES}
    assert panels['DiagnosticSummary!health']['topicToRender'] == '/diagnostics'
    assert set(panels['3D!plan']['topics']) >= {
        '/fastdrive/output/trajectory', '/fastdrive/output/markers'}

    def leaves(node: dict[str, Any] | str) -> list[str]:
        if isinstance(node, str):
            return [node]
        return leaves(node['first']) + leaves(node['second'])

    assert sorted(leaves(layout['layout'])) == sorted(panels)
