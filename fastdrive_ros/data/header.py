# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
DATASET/dataset.json: what the whole dataset is, and with what settings it was made.

    DatasetHeader <-> JSON, written once; whoever continues the dataset must ask for the same
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastdrive_ros import __version__
from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.classes import FOREGROUND
from fastdrive_ros.data.records import DataError

FILE = 'dataset.json'
PARTIAL = '.partial'
FORMAT = 'fastdrive-dataset'
FORMAT_VERSION = 1


@dataclass(frozen=True)
class DatasetHeader:
    """What every drive of a dataset has in common."""

    name: str
    source: str
    """'metadrive', 'nuscenes' or 'bag'."""
    cameras: tuple[str, ...]
    """Names in order; a frame may lack some, it never has others."""
    image_width: int
    image_height: int
    rate_hz: float
    """Of the sweeps, nominally."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able: all that decides what the drives look like. Other settings, another dataset."""
    license: str = ''
    """One sentence for whoever wants to pass the data on."""


def write_header(root: Path, header: DatasetHeader) -> None:
    """
    Begin a dataset, or see that the one that is there was made in the same way.

    Raises DataError for a folder of something else, or one made with other settings.
    """
    if root.exists() and not root.is_dir():
        raise DataError(f'{root} is a file: a dataset is a folder, choose another name')
    if not (root / FILE).exists():
        if root.exists() and any(path.suffix != PARTIAL for path in root.iterdir()):
            raise DataError(f'{root} holds other files and no {FILE}: choose a new or an empty '
                            'folder')
        root.mkdir(parents=True, exist_ok=True)
        _write(root / FILE, _to_json(header))
    _refuse_differences(root, read_header(root), header)


def read_header(root: Path) -> DatasetHeader:
    """Read dataset.json; raises DataError when this is no dataset, or one we cannot read."""
    if not root.is_dir():
        raise DataError(f'no dataset at {root}: the folder does not exist')
    path = root / FILE
    if not path.is_file():
        raise DataError(f'{root} is not a dataset, it has no {FILE}: give the folder that '
                        '`fastdrive data sim`, `data nuscenes` or `bag to-dataset` wrote')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise DataError(f'{path} is not JSON ({error}): take it from a copy of the dataset'
                        ) from error
    return _from_json(path, content)


def _to_json(header: DatasetHeader) -> dict[str, Any]:
    return {'format': FORMAT, 'format_version': FORMAT_VERSION,
            **{item.name: getattr(header, item.name) for item in fields(header)},
            'classes': CLASSES, 'foreground': FOREGROUND, 'fastdrive_ros': __version__}


def _from_json(path: Path, content: Any) -> DatasetHeader:
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise DataError(f"{path} does not say \"format\": \"{FORMAT}\": this is another program's "
                        'file, give a folder that fastdrive wrote')
    if content.get('format_version') != FORMAT_VERSION:
        raise DataError(
            f"{path}: format_version {content.get('format_version')} was written by fastdrive_ros "
            f"{content.get('fastdrive_ros', 'of unknown version')}, this is {__version__} and "
            f'reads {FORMAT_VERSION}: install that version, or make the dataset again')
    if content.get('classes') != list(CLASSES):
        raise DataError(f"{path}: the masks' classes are {content.get('classes')}, expected "
                        f'{list(CLASSES)}: make the dataset again with this version')
    missing = [item.name for item in fields(DatasetHeader) if item.name not in content]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: take it from a copy of the dataset")
    values = {item.name: content[item.name] for item in fields(DatasetHeader)}
    return DatasetHeader(**values | {'cameras': tuple(values['cameras'])})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that is whole whenever it is there, whoever else writes it at the same time."""
    staging = path.with_name(f'{path.name}.{os.getpid()}{PARTIAL}')
    try:
        with staging.open('w', encoding='utf-8') as stream:
            json.dump(content, stream, indent=2, ensure_ascii=False)
            stream.write('\n')
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def _refuse_differences(root: Path, found: DatasetHeader, wanted: DatasetHeader) -> None:
    """Raise DataError where a dataset would be continued with other settings."""
    found_values, wanted_values = _flat(found), _flat(wanted)
    different = [
        f'{name}: {json.dumps(found_values.get(name))}, now {json.dumps(wanted_values.get(name))}'
        for name in sorted(found_values.keys() | wanted_values.keys())
        if found_values.get(name) != wanted_values.get(name)]
    if different:
        raise DataError(f"{root} was begun with other settings ({'; '.join(different)}): ask for "
                        'the same to continue it, or choose another folder')


def _flat(header: DatasetHeader) -> dict[str, Any]:
    """Return {name: value} as JSON gives them back, settings beside the rest."""
    content = json.loads(json.dumps(_to_json(header)))
    settings = content.pop('settings')
    del content['fastdrive_ros']
    return content | {f'settings.{name}': value for name, value in settings.items()}
