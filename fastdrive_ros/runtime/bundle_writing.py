# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A finished export -> the bundle's folder, which appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdrive_ros.runtime.bundle import MANIFEST
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.bundle import entries
from fastdrive_ros.runtime.bundle import file_sha256
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.bundle import mend

PARTIAL_SUFFIX = '.partial'
WORK_FOLDER = '.export'
"""In an unfinished bundle: what only its export needs; it goes when the bundle is finished."""


def write_bundle(
    path: str | os.PathLike[str], manifest_without_files: Mapping[str, Any]
) -> Bundle:
    """
    Finish the export that lies in ``<path>.partial`` and move it to ``path`` in one step.

    Adds ``files`` to the manifest, writes it last, verifies the folder as a reader would, and only
    then replaces an older bundle at ``path``. A folder that is not a bundle is never replaced.
    """
    path = Path(path).expanduser()
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    if path.exists() and not (path / MANIFEST).is_file() and any(entries(path)):
        raise BundleError(
            f'{path} exists and is not a model bundle (no {MANIFEST} in it), so it is not '
            'replaced. Choose another folder for `fastdrive export`, or move that one away.'
        )
    if not partial.is_dir():
        raise BundleError(
            f'expected the exported files in {partial}, found no such folder. ' + mend(path)
        )
    names = sorted(
        file.relative_to(partial).as_posix()
        for file in partial.rglob('*')
        if file.is_file() and file != partial / MANIFEST
        and WORK_FOLDER not in file.relative_to(partial).parts
    )
    files = {
        name: {'sha256': file_sha256(partial / name), 'bytes': (partial / name).stat().st_size}
        for name in names
    }
    manifest = {**manifest_without_files, 'files': files}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + '\n', encoding='utf-8')
    verified = load_bundle(partial)
    _swap(partial, path)
    shutil.rmtree(path / WORK_FOLDER, ignore_errors=True)
    return Bundle(path, verified.manifest)


def _swap(partial: Path, path: Path) -> None:
    """Put ``partial`` at ``path``; a failure leaves the older bundle where it was."""
    old = path.with_name(path.name + '.old')
    if not path.exists():
        os.replace(partial, path)
        return
    shutil.rmtree(old, ignore_errors=True)
    os.replace(path, old)
    try:
        os.replace(partial, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old)
