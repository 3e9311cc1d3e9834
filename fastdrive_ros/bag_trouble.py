# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A path that is no usable bag -> the sentence that says what it is and how to mend it."""

from __future__ import annotations

import sqlite3
import struct
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import BinaryIO

STORAGE_SUFFIXES = ('.mcap', '.db3')

_MCAP_MAGIC = b'\x89MCAP0\r\n'
_SQLITE_MAGIC = b'SQLite format 3\x00'
_HEADER, _FOOTER, _SCHEMA, _MESSAGE, _CHUNK = 0x01, 0x02, 0x03, 0x05, 0x06


def explain(path: Path, error: str) -> str:
    """Return why the bag at ``path`` cannot be opened; ``error`` is what the reader said."""
    if not path.exists():
        return f'no bag at {path}: expected a rosbag2 folder, an .mcap or a .db3 file'
    if path.is_dir():
        return _explain_folder(path, error)
    return _explain_file(path) or f'{path} cannot be read: {error}'


def _explain_folder(path: Path, error: str) -> str:
    files = [file for file in sorted(path.iterdir()) if file.suffix in STORAGE_SUFFIXES]
    if not (path / 'metadata.yaml').exists():
        if not files:
            return (f'{path} is not a bag: expected metadata.yaml and .mcap or .db3 files, found '
                    f'{_names(path)}')
        return (f'{path} has no metadata.yaml (was the recording killed?): make it with '
                f'`ros2 bag reindex {path}`, or give the file itself: {files[0]}')
    if 'missing' in error:
        return (f'{path} lacks a storage file that its metadata.yaml lists, found {_names(path)}: '
                'copy the missing file into the folder')
    for file in files:
        trouble = _explain_file(file)
        if trouble:
            return trouble
    return f'{path} cannot be read: {error}'


def _names(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    return ', '.join(names[:5]) + (' ...' if len(names) > 5 else '') or 'nothing'


def _explain_file(file: Path) -> str:
    """Return what is wrong with one storage file, or nothing when it looks whole."""
    with file.open('rb') as stream:
        magic = stream.read(16)
        if magic.startswith(b'#ROSBAG'):
            return (f'{file} is a ROS 1 bag: convert it with `rosbags-convert --src {file} --dst '
                    f'{file.with_suffix("")}`')
        if not magic:
            return f'{file} is empty: the recording or the download did not even start'
        if magic.startswith(_MCAP_MAGIC):
            return _explain_mcap(file, _scan_mcap(stream))
    if magic == _SQLITE_MAGIC:
        return _explain_sqlite(file)
    return (f'{file} is not a bag: expected a rosbag2 folder, an .mcap or a .db3 file, found a '
            f'file that starts with {magic[:8]!r}')


@dataclass
class _McapScan:
    """What the top-level records of an MCAP file say, as far as they are whole."""

    profile: str = ''
    encodings: dict[str, str] = field(default_factory=dict)
    """Schema name -> encoding ('ros2msg', 'protobuf' ...)."""
    log_ns: list[int] = field(default_factory=list)
    """Log times of messages and chunks."""
    readable_bytes: int = 0
    whole: bool = False


def _scan_mcap(stream: BinaryIO) -> _McapScan:
    scan = _McapScan()
    stream.seek(0, 2)
    size = stream.tell()
    stream.seek(len(_MCAP_MAGIC))
    while True:
        scan.readable_bytes = stream.tell()
        head = stream.read(9)
        if len(head) < 9:
            return scan
        opcode, length = struct.unpack('<BQ', head)
        if scan.readable_bytes + 9 + length > size:
            return scan
        body_at = stream.tell()
        _note_record(scan, opcode, stream.read(min(length, 4096)))
        if opcode == _FOOTER:
            scan.whole = stream.read(len(_MCAP_MAGIC)) == _MCAP_MAGIC
            return scan
        stream.seek(body_at + length)


def _note_record(scan: _McapScan, opcode: int, body: bytes) -> None:
    if opcode == _HEADER:
        scan.profile = _strings(body, 1)[0]
    elif opcode == _SCHEMA:
        name, encoding = _strings(body[2:], 2)
        scan.encodings[name] = encoding
    elif opcode == _MESSAGE:
        scan.log_ns.append(struct.unpack_from('<Q', body, 6)[0])
    elif opcode == _CHUNK:
        scan.log_ns += struct.unpack_from('<QQ', body)


def _strings(body: bytes, count: int) -> list[str]:
    strings, at = [], 0
    for _ in range(count):
        (length,) = struct.unpack_from('<I', body, at)
        strings.append(body[at + 4:at + 4 + length].decode('utf-8', 'replace'))
        at += 4 + length
    return strings


def _explain_mcap(file: Path, scan: _McapScan) -> str:
    foreign = {name: encoding for name, encoding in scan.encodings.items()
               if encoding in ('protobuf', 'jsonschema', 'flatbuffer')}
    if foreign:
        name = next((name for name in foreign if 'Image' in name), next(iter(foreign)))
        return (f'{file} is not a ROS 2 bag: schema {name} ({foreign[name]}), as written by '
                'nuscenes2mcap of Foxglove. ROS 2 cannot play it: make the bag from the data set '
                'again with nuscenes_to_ros2bag (WATonomous), which writes sensor_msgs')
    if not scan.whole:
        megabytes = f'{scan.readable_bytes / 1e6:.1f} of {file.stat().st_size / 1e6:.1f} MB'
        seconds = (max(scan.log_ns) - min(scan.log_ns)) / 1e9 if scan.log_ns else 0.0
        return (f'{file} is truncated (a recording that was killed, or a broken copy): whole are '
                f'{megabytes}, {seconds:.1f} s of messages. Save them with `mcap recover {file} '
                f'-o recovered.mcap`')
    if scan.profile != 'ros2':
        return (f"{file} is not a ROS 2 bag: its MCAP profile is '{scan.profile}', expected "
                "'ros2'; record it with ros2 bag, or convert it with rosbags-convert")
    return ''


def _explain_sqlite(file: Path) -> str:
    readable, first_ns, last_ns = 0, 0, 0
    connection = sqlite3.connect(f'file:{file}?mode=ro&immutable=1', uri=True)
    try:
        tables = {name for (name,) in connection.execute('SELECT name FROM sqlite_master')}
        if not {'messages', 'topics'} <= tables:
            return (f'{file} is not a bag: a database without the tables messages and topics, '
                    f'found {", ".join(sorted(tables)) or "no table"}')
        for log_ns, _data in connection.execute(
                'SELECT timestamp, data FROM messages ORDER BY id'):
            first_ns = first_ns or log_ns
            last_ns = max(last_ns, log_ns)
            readable += 1
    except sqlite3.DatabaseError as error:
        return (f'{file} is truncated or damaged ({error}): whole are {readable} messages, '
                f'{(last_ns - first_ns) / 1e9:.1f} s. Save what is left with `sqlite3 {file} '
                '.recover | sqlite3 recovered.db3`')
    finally:
        connection.close()
    return ''
