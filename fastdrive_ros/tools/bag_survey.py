# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A bag -> what it offers to the planner: rates, stamps, spreads, sizes, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np

from fastdrive_ros.bags import IMAGE_TYPES
from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import PresetFit
from fastdrive_ros.config import sync_config
from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.sync import FrameSynchronizer
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.data.bag_rig import info_topic
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.ros.convert import to_frame

_FULL_SIZE_PX = 1 << 16
# Header stamps this far from the log times are of another clock (a re-recorded or converted bag).
_OTHER_CLOCK_MS = 1000.0


@dataclass
class _Stamps:
    """Header stamps and log times of one topic."""

    stamp_ns: list[int] = field(default_factory=list)
    log_ns: list[int] = field(default_factory=list)
    num_bytes: int = 0

    def note(self, stamp_ns: int, log_ns: int, num_bytes: int) -> None:
        self.stamp_ns.append(stamp_ns)
        self.log_ns.append(log_ns)
        self.num_bytes += num_bytes

    def report(self) -> dict[str, Any]:
        stamps, logs = np.array(self.stamp_ns), np.array(self.log_ns)
        gaps_ms = np.diff(stamps) / 1e6
        delays_ms = (logs - stamps) / 1e6
        span_s = (stamps.max() - stamps.min()) / 1e9
        return {
            'messages': len(stamps),
            'rate_hz': round((len(stamps) - 1) / span_s, 3) if span_s > 0 else 0.0,
            'gap_ms': _percentiles(gaps_ms),
            'stamps_repeated': int((gaps_ms == 0).sum()),
            'stamps_back': int((gaps_ms < 0).sum()),
            'stamps_zero': int((stamps == 0).sum()),
            'log_after_stamp_ms': _percentiles(delays_ms),
            'mean_kB': round(self.num_bytes / len(stamps) / 1e3, 1),
        }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {'min': round(float(values.min()), 3), 'p50': round(float(np.median(values)), 3),
            'max': round(float(values.max()), 3)}


def survey(bag: Bag, fit: PresetFit, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the whole bag once; return everything `fastdrive inspect` prints, ready for JSON."""
    cameras = {**fit.cameras, **fit.missing}
    stamps: dict[str, _Stamps] = {}
    pictures: dict[str, dict[str, Any]] = {}
    infos: dict[str, tuple[int, int]] = {}
    frame_ids: dict[str, str] = {}
    sync = _Sweeps(tuple(cameras), settings)
    camera_of = {topic: camera for camera, topic in fit.cameras.items()}
    info_topics = {info_topic(topic): camera for topic, camera in camera_of.items()}
    odometry = [fit.odometry_topic] if fit.has_odometry else []
    for message in bag.messages([*camera_of, *info_topics, *odometry]):
        decoded = bag.decode(message)
        topic = message.topic
        if topic in info_topics:
            infos.setdefault(info_topics[topic], (decoded.width, decoded.height))
            continue
        stamps.setdefault(topic, _Stamps()).note(
            stamp_to_ns(decoded.header.stamp), message.log_ns, len(message.data))
        if topic in camera_of:
            camera = camera_of[topic]
            if camera not in pictures:
                pictures[camera] = _picture(decoded, camera)
            sync.push(decoded, camera, message.log_ns)
        else:
            frame_ids.setdefault('pose', decoded.header.frame_id)
            frame_ids.setdefault('vehicle', decoded.child_frame_id)
    report = {
        'bag': str(bag.path), 'duration_s': round(bag.duration_s, 3), 'preset': fit.preset,
        'cameras': {camera: {'topic': topic, 'type': bag.topics[topic].type,
                             **stamps[topic].report(), **pictures[camera],
                             'camera_info': infos.get(camera)}
                    for camera, topic in fit.cameras.items()},
        'cameras_missing': dict(fit.missing),
        'sync': sync.report(),
        'odometry': _odometry(stamps.get(fit.odometry_topic), fit, frame_ids),
        'tf': [name for name in ('/tf', '/tf_static') if name in bag.topics],
    }
    return {**report, 'troubles': _troubles(report, bag)}


def _picture(message: Any, camera: str) -> dict[str, Any]:
    try:
        image = to_frame(message, camera, 0).image
        height, width = decode(image, _FULL_SIZE_PX, _FULL_SIZE_PX).shape[:2]
    except FrameError as error:
        return {'size': None, 'format': f'{error.reason}: {error}'}
    encoding = image.format if isinstance(image, EncodedImage) else image.encoding
    return {'size': (width, height), 'format': encoding}


class _Sweeps:
    """The real synchroniser over the bag's stamps, with log times as arrivals."""

    def __init__(self, cameras: tuple[str, ...], settings: Mapping[str, Any]) -> None:
        self._synchronizer = FrameSynchronizer(cameras, sync_config(settings))
        self._window_ms = settings['sync.window_ms']
        self._spread_ms: list[float] = []
        self._missing: Counter[str] = Counter()

    def push(self, message: Any, camera: str, log_ns: int) -> None:
        """Take one frame."""
        frame = Frame(camera, stamp_to_ns(message.header.stamp), log_ns,
                      EncodedImage('', np.empty(0, np.uint8)))
        self._note(self._synchronizer.push(frame))

    def report(self) -> dict[str, Any]:
        """Let the last sweep leave, too; return the counts."""
        deadline_ns = self._synchronizer.next_deadline_ns
        if deadline_ns is not None:
            self._note(self._synchronizer.poll(deadline_ns))
        counts = self._synchronizer.set_counts
        return {
            'whole': counts['whole'], 'partial': counts['partial'], 'refused': counts['refused'],
            'window_ms': self._window_ms, 'spread_ms': _percentiles(np.array(self._spread_ms)),
            'missing': dict(self._missing),
            'frame_drops': {f'{camera}: {reason}': count for (camera, reason), count
                            in sorted(self._synchronizer.drops.items())},
        }

    def _note(self, sets: list[FrameSet]) -> None:
        for frame_set in sets:
            self._spread_ms.append(frame_set.spread_ms)
            self._missing.update(frame_set.missing)


def _odometry(stamps: _Stamps | None, fit: PresetFit, frame_ids: Mapping[str, str]
              ) -> dict[str, Any] | None:
    if stamps is None:
        return None
    burst = max(Counter(stamps.log_ns).values())
    return {'topic': fit.odometry_topic, **stamps.report(), 'largest_burst': burst,
            'frame_id': frame_ids['pose'], 'child_frame_id': frame_ids['vehicle']}


def _troubles(report: Mapping[str, Any], bag: Bag) -> list[str]:
    """Return what a user should know before planning on this bag, the worst first."""
    troubles = [f'{camera} is missing: no {topic} of a usable type; its tokens are masked out of '
                'every plan' for camera, topic in report['cameras_missing'].items()]
    if report['odometry'] is None:
        troubles.append('no odometry: every plan will be refused (odometry_absent)')
    for camera, facts in report['cameras'].items():
        troubles += _camera_troubles(camera, facts)
    sync = report['sync']
    if not sync['whole'] + sync['partial']:
        troubles.append(f"no sweep fits a window of {sync['window_ms']:g} ms: were these cameras "
                        'recorded together? (--set sync.window_ms=...)')
    elif sync['partial'] > 0.05 * sync['whole'] and not report['cameras_missing']:
        troubles.append(f"{sync['partial']} sweeps are partial: late or lost frames")
    if '/diagnostics' in bag.topics:
        troubles.append('the bag has its own /diagnostics: leave it out when you play it '
                        '(fastdrive replay does)')
    return troubles


def _camera_troubles(camera: str, facts: Mapping[str, Any]) -> list[str]:
    troubles = []
    if facts['size'] is None:
        troubles.append(f"{camera}: the first picture cannot be decoded ({facts['format']})")
    elif facts['camera_info'] and tuple(facts['camera_info']) != tuple(facts['size']):
        troubles.append(f"{camera}: camera_info says {_size(facts['camera_info'])}, the pictures "
                        f"are {_size(facts['size'])}")
    if abs(facts['log_after_stamp_ms']['p50']) > _OTHER_CLOCK_MS:
        seconds = facts['log_after_stamp_ms']['p50'] / 1e3
        troubles.append(f'{camera}: header stamps are {seconds:.1f} s before the log times: '
                        'another clock, and plans will be refused as old')
    for name, words in (('stamps_zero', 'zero stamps'), ('stamps_back', 'stamps that go back'),
                        ('stamps_repeated', 'repeated stamps')):
        if facts[name]:
            troubles.append(f'{camera}: {facts[name]} {words}')
    return troubles


def _size(size: Any) -> str:
    return f'{size[0]}x{size[1]}'


def image_topics(bag: Bag) -> dict[str, str]:
    """Return {topic: type} of everything that shows pictures, whatever its name."""
    return {topic.name: topic.type for topic in bag.topics.values()
            if topic.type in IMAGE_TYPES.values()}
