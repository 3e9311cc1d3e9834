# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle
from tiny_rivals import write_tiny_rivals

from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import load_bundle


@pytest.fixture(scope='session')
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A complete real bundle of tiny graphs (sizes: tiny_bundle.py); do not alter its files."""
    return write_tiny_bundle(tmp_path_factory.mktemp('bundles') / 'tiny')


@pytest.fixture(scope='session')
def rival_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with the graphs of --rivals (tiny_rivals.py); do not alter its files."""
    return write_tiny_rivals(tmp_path_factory.mktemp('bundles') / 'rivals')


@pytest.fixture
def tiny_bundle_copy(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny bundle in a folder of its own, to break."""
    return load_bundle(shutil.copytree(tiny_bundle.path, tmp_path / 'tiny'))
