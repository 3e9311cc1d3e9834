# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A recorded bag -> one drive of a dataset: SceneRecord + FrameRecords.

    camera topics          -> sweeps, by the synchroniser that the vehicle runs, thinned to a rate
    CameraInfo, transforms -> cameras            nav_msgs/Odometry -> EgoTrack (bag_rig.py)
    the way it went on     -> commands

A bag that bag_out.py wrote says itself which pictures make up a frame and what was known of them:
it comes back as it was, frame by frame. What did not become data is counted in ``counts``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastdrive_ros.bags import IMAGE_TYPES
from fastdrive_ros.bags import Bag
from fastdrive_ros.config import CAMERA_TOPIC_PREFIX
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import sync_config
from fastdrive_ros.core.sync import FrameSynchronizer
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.data.bag_labels import DRIVABLE_TOPIC
from fastdrive_ros.data.bag_labels import LABELS_TOPIC
from fastdrive_ros.data.bag_labels import SceneLabels
from fastdrive_ros.data.bag_labels import mask_topic
from fastdrive_ros.data.bag_labels import read_frame_labels
from fastdrive_ros.data.bag_messages import IMAGE_TYPE
from fastdrive_ros.data.bag_messages import image_topic
from fastdrive_ros.data.bag_pictures import mask_fits
from fastdrive_ros.data.bag_pictures import to_jpeg
from fastdrive_ros.data.bag_rig import info_topic
from fastdrive_ros.data.bag_rig import read_motion
from fastdrive_ros.data.bag_rig import read_rig
from fastdrive_ros.data.command import command_from_future
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.thinning import thinned
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.ros.convert import to_frame

RATE_HZ = 2.0
LICENSE = 'Recorded drives: the licence is for those to give who recorded them.'
# Keys of ``counts`` that others ask for.
DAMAGED = 'pictures cannot be decoded: those cameras are absent'


class BagDrive:
    """A bag as a drive."""

    def __init__(self, bag: Bag, name: str, given: Mapping[str, Any],
                 labels: SceneLabels | None = None, rate_hz: float | None = None) -> None:
        """
        Read calibration and motion.

        Args:
            bag: open.
            name: of the drive.
            given: parameters of the node that say which topics are the cameras and odometry.
            labels: what the bag says of itself, where it is from a dataset.
            rate_hz: of the frames to keep; None: all of a dataset's, 2 Hz of a recorded bag.

        Raises DataError naming what the bag lacks.

        """
        self.counts: Counter[str] = Counter()
        """What did not become data, or not as it was: {sentence: how often}."""
        self._bag = bag
        self._settings = check_settings(given)
        self._labels = labels
        self._rate_hz = rate_hz
        self._tells_frames = labels is not None and LABELS_TOPIC in bag.topics
        self._wanted = labels.cameras if labels else tuple(
            name.removeprefix(CAMERA_TOPIC_PREFIX) for name in self._settings
            if name.startswith(CAMERA_TOPIC_PREFIX) and name in given)
        topics = {camera: self._settings.get(CAMERA_TOPIC_PREFIX + camera, image_topic(camera))
                  for camera in self._wanted}
        self._topics = topics if self._tells_frames else self._found(topics)
        motion = read_motion(bag, self._settings['odometry_topic'])
        rig = read_rig(bag, self._topics, motion.vehicle_frame)
        for reason, count in motion.dropped.items():
            self.counts[f'samples of odometry left out: {reason}'] = count
        if rig.distorted:
            self.counts['cameras with lens distortion, which a dataset cannot tell: record '
                        'rectified pictures'] = len(rig.distorted)
        self.scene = SceneRecord(name, 'bag', 'recorded', rig.cameras, motion.track,
                                 motion.frame_id)
        if labels:
            self.scene = replace(
                self.scene, source=labels.source, outcome=labels.outcome, seed=labels.seed,
                conditions=labels.conditions, lanes=labels.lanes)
        self._cameras = {camera.name: camera for camera in rig.cameras}

    @property
    def header(self) -> DatasetHeader:
        """Of a dataset that the drive can be part of."""
        if self._labels and self._tells_frames:
            header = self._labels.header
            return replace(header, rate_hz=self._rate_hz) if self._rate_hz else header
        name, source, license_ = ('recorded drives', 'bag', LICENSE) if not self._labels else (
            self._labels.header.name, self._labels.header.source, self._labels.header.license)
        first = self.scene.cameras[0]
        return DatasetHeader(
            name, source, self._wanted, first.width, first.height, self._rate_hz or RATE_HZ,
            license=license_, settings={key: value for key, value in self._settings.items()
                                        if key.startswith('sync.')})

    def frames(self, on_frame: Callable[[], None] = lambda: None) -> list[FrameRecord]:
        """Read the frames; ``on_frame`` is called after each; raises DataError for none."""
        frames = []
        for frame in self._labelled() if self._tells_frames else self._recorded():
            frames.append(replace(frame, index=len(frames)))
            on_frame()
        if not frames:
            why = '; '.join(f'{count} {what}' for what, count in self.counts.items())
            raise DataError(f"{self._bag.path}: not one sweep can be used ({why or 'no picture'})"
                            f': see `fastdrive inspect {self._bag.path}`')
        return self._with_masks(frames)

    def _found(self, topics: Mapping[str, str]) -> dict[str, str]:
        """Return those of {camera: topic} that the bag has."""
        kind = IMAGE_TYPES[self._settings['image_transport']]
        found = {camera: topic for camera, topic in topics.items() if topic in self._bag.topics
                 and self._bag.topics[topic].type == kind and self._bag.topics[topic].count}
        if not found:
            raise DataError(f"{self._bag.path} has none of the camera topics "
                            f"{', '.join(topics.values())} ({kind}): see `fastdrive inspect "
                            f'{self._bag.path}`, and name yours with --params-file')
        for camera in topics.keys() - found.keys():
            self.counts[f'camera that the bag has no {topics[camera]} of'] = 1
        return found

    def _recorded(self) -> Iterator[FrameRecord]:
        """Form sweeps as the vehicle does."""
        last_ns = 0
        for sweep in thinned(self._sweeps(), lambda sweep: sweep.stamp_ns,
                             self._rate_hz or RATE_HZ):
            stamp_ns = max(frame.stamp_ns for frame in sweep.frames.values())
            if stamp_ns <= last_ns:
                self.counts['sweeps that overlap the one before: left out'] += 1
                continue
            command = self._command(stamp_ns)
            if not command:
                self.counts['sweeps without odometry at their stamp: left out'] += 1
                continue
            last_ns = stamp_ns
            pictures = {name: picture for name, frame in sweep.frames.items()
                        if (picture := self._picture(frame))}
            missing = len(self._wanted) - len(pictures)
            if missing > self._settings['sync.max_missing_cameras']:
                self.counts['sweeps with too many damaged pictures: left out'] += 1
                continue
            if missing:
                self.counts['frames without some camera'] += 1
            yield FrameRecord(self.scene.name, 0, stamp_ns, pictures, command=command)

    def _command(self, stamp_ns: int) -> str:
        """Return the command at a stamp; '' where the vehicle would not know its state."""
        first_ns, end_ns = self.scene.ego.stamps_ns[[0, -1]].tolist()
        nearest_ns = min(max(stamp_ns, first_ns), end_ns)
        outside_ms = abs(stamp_ns - nearest_ns) / 1e6
        if outside_ms > self._settings['max_odometry_age_ms']:
            return ''
        if outside_ms:
            self.counts['frames just outside the odometry: a vehicle extrapolates there'] += 1
        try:
            return command_from_future(self.scene, nearest_ns)
        except DataError:  # a gap in the odometry
            return ''

    def _sweeps(self) -> Iterator[FrameSet]:
        synchronizer = FrameSynchronizer(self._wanted, sync_config(self._settings))
        for frame in self._images():
            yield from synchronizer.push(frame)
            if synchronizer.set_counts['resets']:
                raise DataError(f"{self._bag.path}: the cameras' clock goes back to "
                                f'{frame.stamp_ns} ns: these are two drives, split the bag there')
        while (deadline_ns := synchronizer.next_deadline_ns) is not None:
            yield from synchronizer.poll(deadline_ns)
        if synchronizer.set_counts['refused']:
            self.counts['sweeps that missed too many cameras: left out'] = (
                synchronizer.set_counts['refused'])
        for (camera, reason), count in sorted(synchronizer.drops.items()):
            self.counts[f'pictures of {camera} in no sweep: {reason}'] = count

    def _labelled(self) -> Iterator[FrameRecord]:
        """Take the frames that the bag itself tells of."""
        labels = read_frame_labels(self._bag)
        if self._rate_hz:
            labels = list(thinned(labels, lambda frame: frame.stamp_ns, self._rate_hz))
        place = {(camera, stamp_ns): i for i, frame in enumerate(labels)
                 for camera, stamp_ns in frame.picture_stamps_ns.items()}
        pictures: list[dict[str, Picture]] = [{} for _ in labels]
        found = 0
        for frame in self._images():
            i = place.get((frame.camera, frame.stamp_ns))
            if i is None:
                continue
            found += 1
            picture = self._picture(frame)
            if picture:
                pictures[i][frame.camera] = picture
        if found < len(place):
            self.counts['pictures that the bag tells of and does not hold'] = len(place) - found
        drivable = self._pngs({DRIVABLE_TOPIC: ''})
        for frame, seen in zip(labels, pictures):
            yield FrameRecord(self.scene.name, 0, frame.stamp_ns, seen, frame.agents,
                              frame.command, frame.traffic_light,
                              drivable.get(('', frame.stamp_ns)))

    def _images(self) -> Iterator[Frame]:
        camera_of = {topic: camera for camera, topic in self._topics.items()}
        for message in self._bag.messages(camera_of):
            camera = camera_of[message.topic]
            try:
                yield to_frame(self._bag.decode(message), camera, message.log_ns)
            except FrameError as error:
                self.counts[f'pictures of {camera} left out: {error}'] += 1

    def _picture(self, frame: Frame) -> Picture | None:
        """Return the picture, its JPEG bytes as they are; None when it cannot be decoded."""
        topic = self._topics[frame.camera]
        try:
            jpeg, encoded = to_jpeg(frame.image, self._cameras[frame.camera],
                                    f'{self._bag.path}: {topic}', info_topic(topic))
        except FrameError:
            self.counts[DAMAGED] += 1
            return None
        if encoded:
            self.counts['pictures that were no JPEG: encoded once'] += 1
        return Picture(frame.stamp_ns, jpeg)

    def _with_masks(self, frames: list[FrameRecord]) -> list[FrameRecord]:
        masks = self._pngs({mask_topic(camera): camera for camera in self._topics})
        return [replace(frame, pictures={
            camera: replace(picture, mask_png=self._mask(masks, camera, picture.stamp_ns))
            for camera, picture in frame.pictures.items()}) for frame in frames]

    def _mask(self, masks: Mapping[tuple[str, int], bytes], camera: str,
              stamp_ns: int) -> bytes | None:
        png = masks.get((camera, stamp_ns))
        if png is None or mask_fits(png, self._cameras[camera]):
            return png
        self.counts['masks damaged or of another size than their picture: left out'] += 1
        return None

    def _pngs(self, names: Mapping[str, str]) -> dict[tuple[str, int], bytes]:
        """Return {(name, stamp_ns): bytes} of {topic: name}."""
        there = [topic for topic in names if topic in self._bag.topics
                 and self._bag.topics[topic].type == IMAGE_TYPE]
        images = ((names[message.topic], self._bag.decode(message))
                  for message in self._bag.messages(there))
        return {(name, stamp_to_ns(image.header.stamp)): image.data.tobytes()
                for name, image in images}
