# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A bag through the pipeline without ROS: messages in log order -> one Cycle a frame set.

The bag's log time is both clocks: arrivals are log times, and "now" is when a set became ready.
Nothing depends on how fast this computer is, so the same bag gives the same plans everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastdrive_ros.assemble import Assembly
from fastdrive_ros.bags import IMAGE_TYPES
from fastdrive_ros.bags import ODOMETRY_TYPE
from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import BagError
from fastdrive_ros.bags import BagMessage
from fastdrive_ros.config import camera_topics
from fastdrive_ros.core.types import EgoError
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.core.types import PlanResult
from fastdrive_ros.ros.convert import to_frame
from fastdrive_ros.ros.convert import to_odometry_sample


@dataclass(frozen=True)
class Cycle:
    """One frame set and what was planned from it."""

    log_ns: int
    """Bag time at which it was planned."""
    frame_set: FrameSet
    result: PlanResult
    stage_ms: Mapping[str, float]
    """The result's stages, and before them 'convert' and 'sync' (the wait, in bag time)."""


class OfflineDrive:
    """One pass over a bag; ``cycles()`` may be called once."""

    def __init__(self, bag: Bag, assembly: Assembly, settings: Mapping[str, Any]) -> None:
        """Find the cameras; raises BagError when the bag has none of them in the right type."""
        self._bag = bag
        self._assembly = assembly
        image_type = IMAGE_TYPES[settings['image_transport']]
        topics = camera_topics(settings, assembly.bundle.cameras)
        self._camera_of = {topic: camera for camera, topic in topics.items()
                           if topic in bag.topics and bag.topics[topic].type == image_type}
        self._odometry_topic = settings['odometry_topic']
        self._drops: Counter[tuple[str, str]] = Counter()
        self._ready: list[FrameSet] = []
        if not self._camera_of:
            found = [f'{topic} is {bag.topics[topic].type}' for topic in topics.values()
                     if topic in bag.topics]
            raise BagError(f'{bag.path} has none of the camera topics '
                           f'{", ".join(topics.values())} of type {image_type} '
                           f'({"; ".join(found) or "absent"}): which preset fits, says '
                           f'`fastdrive inspect {bag.path}`')
        odometry = bag.topics.get(self._odometry_topic)
        if odometry is not None and odometry.type != ODOMETRY_TYPE:
            raise BagError(f'{self._odometry_topic} is {odometry.type}, expected {ODOMETRY_TYPE}: '
                           'set odometry_topic')

    @property
    def frame_drops(self) -> dict[str, dict[str, int]]:
        """Return {camera or 'odometry': {reason: count}} of everything that was not used."""
        drops: dict[str, dict[str, int]] = {}
        ignored = Counter({('odometry', reason): count
                           for reason, count in self._assembly.ego.ignored.items()})
        for (source, reason), count in sorted(
                (self._drops + self._assembly.synchronizer.drops + ignored).items()):
            drops.setdefault(source, {})[reason] = count
        return drops

    def cycles(self) -> Iterator[Cycle]:
        """Plan on every frame set of the bag, in order."""
        for message in self._bag.messages([*self._camera_of, self._odometry_topic]):
            yield from self._until(message.log_ns)
            if message.topic in self._camera_of:
                self._take_frame(message)
            else:
                self._take_odometry(message)
            yield from self._planned(message.log_ns)
        yield from self._until(None)

    def _until(self, log_ns: int | None) -> Iterator[Cycle]:
        """Let the deadlines pass that lie before ``log_ns`` (None: all), each at its own time."""
        while (deadline_ns := self._next_deadline_ns()) is not None and (
                log_ns is None or deadline_ns < log_ns):
            self._ready += self._assembly.synchronizer.poll(deadline_ns)
            yield from self._planned(deadline_ns)

    def _next_deadline_ns(self) -> int | None:
        pending_ns = self._assembly.synchronizer.next_deadline_ns
        return min((*map(self._odometry_deadline_ns, self._ready),
                    *([] if pending_ns is None else [pending_ns])), default=None)

    def _odometry_deadline_ns(self, frame_set: FrameSet) -> int:
        """Return until when a set waits for the first odometry, as intake.py does."""
        return self._assembly.synchronizer.deadline_ns(frame_set.first_arrival_ns)

    def _planned(self, log_ns: int) -> Iterator[Cycle]:
        """Plan on the ready sets, unless there is odometry to wait for."""
        waiting, self._ready = self._ready, []
        for frame_set in waiting:
            if self._assembly.ego.empty and log_ns < self._odometry_deadline_ns(frame_set):
                self._ready.append(frame_set)
            else:
                yield self._plan(frame_set, log_ns)

    def _take_frame(self, message: BagMessage) -> None:
        camera = self._camera_of[message.topic]
        try:
            frame = to_frame(self._bag.decode(message), camera, message.log_ns)
        except FrameError as error:
            self._drops[camera, error.reason] += 1
            return
        self._ready += self._assembly.synchronizer.push(frame)

    def _take_odometry(self, message: BagMessage) -> None:
        try:
            self._assembly.ego.push(to_odometry_sample(self._bag.decode(message)))
        except EgoError as error:
            self._drops['odometry', error.reason] += 1

    def _plan(self, frame_set: FrameSet, log_ns: int) -> Cycle:
        result = self._assembly.pipeline.run(frame_set, self._assembly.ego.at, lambda: log_ns)
        self._drops.update((camera, error.reason) for camera, error in result.frame_errors.items())
        return Cycle(log_ns, frame_set, result, {
            'convert': sum(frame.convert_ms for frame in frame_set.frames.values()),
            'sync': (frame_set.ready_ns - frame_set.first_arrival_ns) / 1e6,
            **result.stage_ms})
