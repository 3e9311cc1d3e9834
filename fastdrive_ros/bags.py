# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Bags without ROS: a path becomes messages in log order, messages become a bag.

rosbag2 as a folder or as a single file, sqlite3 or MCAP, compressed or not. What cannot be opened
is refused with a sentence (bag_trouble.py). Which topic preset fits a bag is decided here, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Qos
from rosbags.interfaces import QosDurability
from rosbags.interfaces import QosHistory
from rosbags.interfaces import QosLiveliness
from rosbags.interfaces import QosReliability
from rosbags.interfaces import QosTime
from rosbags.rosbag2 import Reader
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores
from rosbags.typesys import get_typestore

from fastdrive_ros.bag_trouble import explain
from fastdrive_ros.config import CAMERA_TOPIC_PREFIX
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import preset_names
from fastdrive_ros.config import read_preset

DEFAULT_PRESET = 'nuscenes_mcap'
IMAGE_TYPES = {'compressed': 'sensor_msgs/msg/CompressedImage', 'raw': 'sensor_msgs/msg/Image'}
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'

# Version 8 of the folder format is read by every rosbag2 from Humble on.
_BAG_VERSION = 8
_FOREVER = QosTime(9_223_372_036, 854_775_807)  # rmw's RMW_DURATION_INFINITE
# What a publisher of /tf_static offers: who subscribes late gets the last message, too.
_LATCHED = Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
               _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False)


class BagError(Exception):
    """A bag cannot be used as it is; the message says what was found and what mends it."""


@cache
def typestore() -> Any:
    """Return the message types of ROS 2 Jazzy, which need no ROS."""
    return get_typestore(Stores.ROS2_JAZZY)


@dataclass(frozen=True)
class Topic:
    """One topic of a bag."""

    name: str
    type: str
    count: int


@dataclass(frozen=True)
class BagMessage:
    """One message as it was recorded."""

    topic: str
    type: str
    log_ns: int
    """When the recorder got it; not the header's stamp."""
    data: bytes
    """CDR, with its encapsulation header."""


class Bag:
    """A bag that is open for reading; a context manager."""

    def __init__(self, path: str | Path) -> None:
        """Open; raises BagError saying why it cannot be."""
        self.path = Path(path)
        try:
            self._reader = Reader(self.path)
            self._reader.open()
        except Exception as error:  # a foreign file raises anything in the reading library
            raise BagError(explain(self.path, str(error))) from error
        counts: dict[str, Topic] = {}
        for connection in self._reader.connections:
            known = counts.get(connection.topic)
            counts[connection.topic] = Topic(
                connection.topic, connection.msgtype,
                connection.msgcount + (known.count if known else 0))
        self.topics: Mapping[str, Topic] = counts
        if not self._reader.message_count:
            self._reader.close()
            raise BagError(f'{self.path} holds no message: was anything published meanwhile?')

    @property
    def start_ns(self) -> int:
        """Log time of the first message."""
        return self._reader.start_time

    @property
    def end_ns(self) -> int:
        """Log time of the last message."""
        return self._reader.end_time - 1

    @property
    def duration_s(self) -> float:
        """From the first to the last message."""
        return (self.end_ns - self.start_ns) / 1e9

    def messages(self, topics: Iterable[str] | None = None) -> Iterator[BagMessage]:
        """
        Yield the messages of ``topics`` (None: all) in log order.

        Raises BagError where the file is broken, saying how far it was readable.
        """
        wanted = None if topics is None else set(topics)
        connections = [connection for connection in self._reader.connections
                       if wanted is None or connection.topic in wanted]
        if not connections:
            return
        reached_ns = self.start_ns
        source = self._reader.messages(connections)
        while True:
            try:
                connection, log_ns, data = next(source)
            except StopIteration:
                return
            except Exception as error:  # see __init__
                raise BagError(
                    f'{self.path} is damaged {(reached_ns - self.start_ns) / 1e9:.1f} s after its '
                    f'start, of {self.duration_s:.1f} s: {error}. {explain(self.path, "")}'
                ) from error
            reached_ns = log_ns
            yield BagMessage(connection.topic, connection.msgtype, log_ns, data)

    def decode(self, message: BagMessage) -> Any:
        """Return the message as an object with ROS's field names; raises BagError."""
        try:
            return typestore().deserialize_cdr(message.data, message.type)
        except Exception as error:  # see __init__
            raise BagError(f'{self.path}: a message of {message.topic} is not a whole '
                           f'{message.type}: {type(error).__name__} {error}') from error

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> Bag:
        """Return the open bag."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close the files."""
        self.close()


class BagWriter:
    """Writes a rosbag2 folder (MCAP). Left by an exception it has no metadata.yaml."""

    def __init__(self, path: Path) -> None:
        """Write to a folder that does not exist yet."""
        self._writer = Writer(path, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, type_name: str, log_ns: int, message: Any,
              latched: bool = False) -> None:
        """
        Add one message: an object of `rosbags` classes, or CDR bytes.

        A topic whose first message is ``latched`` is played with TRANSIENT_LOCAL durability.
        """
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, type_name, typestore=typestore(),
                offered_qos_profiles=[_LATCHED] if latched else [])
        data = message if isinstance(message, bytes) else (
            typestore().serialize_cdr(message, type_name))
        self._writer.write(self._connections[topic], log_ns, data)

    def __enter__(self) -> BagWriter:
        """Open the files."""
        self._writer.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish the bag, or leave it unfinished after an exception."""
        self._writer.__exit__(kind, error, trace)


@dataclass(frozen=True)
class PresetFit:
    """How well a topic preset fits a bag."""

    preset: str
    cameras: Mapping[str, str]
    """Camera -> topic, of those that the bag has in the right type."""
    missing: Mapping[str, str]
    """Camera -> topic, of those that it has not."""
    odometry_topic: str
    has_odometry: bool

    @property
    def score(self) -> float:
        """Share of what the preset wants that is there: 1.0 fits, 0.0 is another convention."""
        wanted = len(self.cameras) + len(self.missing) + 1
        return (len(self.cameras) + self.has_odometry) / wanted if self.cameras else 0.0


def fit_preset(topics: Mapping[str, Topic], preset: str, settings: Mapping[str, Any]) -> PresetFit:
    """Compare the topics of a bag with those of the settings; ``preset`` is their name."""
    image_type = IMAGE_TYPES[settings['image_transport']]
    wanted = {name[len(CAMERA_TOPIC_PREFIX):]: topic for name, topic in settings.items()
              if name.startswith(CAMERA_TOPIC_PREFIX)}
    found = {camera: topic for camera, topic in wanted.items()
             if topic in topics and topics[topic].type == image_type and topics[topic].count}
    odometry = topics.get(settings['odometry_topic'])
    return PresetFit(
        preset, found, {camera: topic for camera, topic in wanted.items() if camera not in found},
        settings['odometry_topic'], bool(odometry and odometry.type == ODOMETRY_TYPE))


def fit_presets(topics: Mapping[str, Topic]) -> list[PresetFit]:
    """Return every installed preset, the best first."""
    fits = [fit_preset(topics, name, check_settings(read_preset(name))) for name in preset_names()]
    return sorted(fits, key=lambda fit: (-fit.score, fit.preset != DEFAULT_PRESET, fit.preset))


def choose_preset(bag: Bag) -> PresetFit:
    """Return the preset that fits best; raises BagError when none finds a single camera."""
    best = fit_presets(bag.topics)[0]
    if not best.cameras:
        images = [f'{topic.name} ({topic.type})' for topic in bag.topics.values()
                  if topic.type in IMAGE_TYPES.values()]
        raise BagError(
            f'{bag.path} has no camera of any preset ({", ".join(preset_names())}); its image '
            f'topics: {", ".join(images) or "none"}. Name yours in a parameter file: '
            'camera_topics.CAM_FRONT and so on')
    return best
