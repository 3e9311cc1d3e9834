# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulator's models: from a small wheel made here, whole or not at all; EGL, really asked."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdrive_ros.sim import assets
from fastdrive_ros.sim.assets import SimError
from fastdrive_ros.sim.assets import Source
from fastdrive_ros.sim.assets import assets_dir
from fastdrive_ros.sim.assets import check_assets
from fastdrive_ros.sim.assets import check_egl
from fastdrive_ros.sim.assets import fetch_assets
from fastdrive_ros.tools.cli import main

ROOT = Path(__file__).resolve().parent.parent
CARS = ('130', 'beetle', 'ferra', 'lada', 'truck')
REQUIREMENT = 'tiny-assets==1.0'
FILE_NAME = 'tiny_assets-1.0-py3-none-any.whl'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'fastdrive_ros'


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel that pip takes, with a small file for each model and data that must stay out."""
    path = tmp_path / 'given' / FILE_NAME
    path.parent.mkdir()
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for car in CARS:
            archive.writestr(f'metadrive/assets/models/vehicle/{car}/vehicle.gltf',
                             f'model of {car} ' + os.urandom(500).hex())
        archive.writestr('metadrive/assets/waymo/0.pkl', 'recorded by somebody else')
        archive.writestr('metadrive/assets/real_data/0.pkl', 'recorded by somebody else')
        info = 'tiny_assets-1.0.dist-info'
        archive.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\nName: tiny-assets\n'
                                             'Version: 1.0\n')
        archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nGenerator: test\n'
                                          'Root-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr(f'{info}/RECORD', '')
    return path


def source_of(path: Path) -> Source:
    data = path.read_bytes()
    return Source(REQUIREMENT, FILE_NAME, hashlib.sha256(data).hexdigest(), len(data))


def quiet(line: str) -> None:
    """Take what would be printed."""


@contextlib.contextmanager
def index_of(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve a package index with this wheel to pip, and nothing else; give what was asked for."""
    page = tmp_path / 'index' / 'tiny-assets'
    page.mkdir(parents=True, exist_ok=True)
    (page / wheel.name).write_bytes(wheel.read_bytes())
    (page / 'index.html').write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, text: str, *values: object) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Handler, directory=str(tmp_path / 'index')))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    monkeypatch.setenv('PIP_INDEX_URL', f'http://127.0.0.1:{server.server_port}/')
    for name in ('PIP_EXTRA_INDEX_URL', 'PIP_FIND_LINKS', 'PIP_NO_INDEX'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_given_wheel_is_unpacked_without_the_data_of_others(wheel: Path, cache: Path):
    said: list[str] = []
    folder = fetch_assets(wheel, said.append, source_of(wheel))
    assert folder == assets_dir() == check_assets() == cache / 'metadrive-assets'
    files = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}
    assert files == {'CREDITS.md', 'manifest.json',
                     *(f'models/vehicle/{car}/vehicle.gltf' for car in CARS)}
    assert (folder / 'models/vehicle/lada/vehicle.gltf').read_text().startswith('model of lada')
    credits = (folder / 'CREDITS.md').read_text()
    assert all(f'`{car}`' in credits for car in CARS)
    assert said == [f'{folder}: 5 car models, checked; credits in CREDITS.md']
    assert wheel.exists()  # the user's own file


def test_pip_fetches_once_and_the_second_run_does_nothing(
        wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path):
    pytest.importorskip('pip', reason='this Python has no pip')
    source, said = source_of(wheel), []
    with index_of(wheel, tmp_path, monkeypatch) as asked:
        folder = fetch_assets(None, said.append, source)
        assert sum(path.endswith('.whl') for path in asked) == 1
        asked.clear()
        before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
        assert fetch_assets(None, said.append, source) == folder
        assert asked == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before
    assert said[0].startswith('fetching tiny-assets==1.0 through pip')
    assert said[-1] == f'{folder}: all models are there, nothing to do'
    # A damaged folder is mended from the file that was fetched, without asking the index.
    (folder / 'models/vehicle/130/vehicle.gltf').write_text('altered')
    fetch_assets(None, said.append, source)
    assert check_assets() == folder


def test_a_file_that_changed_on_its_way_is_refused_and_removed(
        wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path):
    pytest.importorskip('pip', reason='this Python has no pip')
    source = source_of(wheel)
    with zipfile.ZipFile(wheel, 'a') as archive:
        archive.writestr('metadrive/more.txt', 'added by somebody')
    with index_of(wheel, tmp_path, monkeypatch), pytest.raises(
            SimError, match=f'is not the file expected: .*expected {source.size:,} bytes with '
                            f'{source.sha256}.*removed, run the same command again'):
        fetch_assets(None, quiet, source)
    assert not (cache / FILE_NAME).exists()
    assert not (cache / 'metadrive-assets').exists()


def test_an_index_without_it_is_said_with_the_way_round(
        wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip('pip', reason='this Python has no pip')
    absent = Source('absent-assets==1.0', 'absent_assets-1.0-py3-none-any.whl')
    with index_of(wheel, tmp_path, monkeypatch), pytest.raises(
            SimError, match='pip could not fetch absent-assets==1.0: No matching distribution.*'
                            '--wheel'):
        fetch_assets(None, quiet, absent)


def test_a_truncated_or_absent_wheel_is_refused(wheel: Path, cache: Path):
    source = source_of(wheel)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:1000])
    with pytest.raises(SimError, match=f'1,000 bytes with sha256 .*expected {len(whole):,} bytes'
                                       '.*fetch tiny-assets==1.0 again'):
        fetch_assets(wheel, quiet, source)
    assert wheel.exists()
    assert not (cache / 'metadrive-assets').exists()
    with pytest.raises(SimError, match='none.whl does not exist: give the file tiny_assets'):
        fetch_assets(Path('none.whl'), quiet, source)


def test_a_cut_off_download_is_fetched_again(
        wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path):
    pytest.importorskip('pip', reason='this Python has no pip')
    cache.mkdir(parents=True)
    (cache / FILE_NAME).write_bytes(wheel.read_bytes()[:1000])
    with index_of(wheel, tmp_path, monkeypatch):
        fetch_assets(None, quiet, source_of(wheel))
    assert check_assets()


def test_a_partial_folder_counts_as_nothing_and_goes(wheel: Path, cache: Path):
    partial = cache / 'metadrive-assets.partial' / 'models'
    partial.mkdir(parents=True)
    (partial / 'half.gltf').write_text('half')
    with pytest.raises(SimError, match='no car models yet .*found nothing.*fastdrive data assets'):
        assets_dir()
    fetch_assets(wheel, quiet, source_of(wheel))
    assert not partial.parent.exists()


def test_a_folder_of_another_version_is_made_anew(wheel: Path):
    manifest = fetch_assets(wheel, quiet, source_of(wheel)) / 'manifest.json'
    whole = manifest.read_text()
    for broken, found in (('{"version": 99}', 'version 99, this fastdrive_ros needs 1'),
                          ('{"vers', 'found nothing'), ('[]', 'found nothing')):
        manifest.write_text(broken)
        with pytest.raises(SimError, match=found):
            assets_dir()
        fetch_assets(wheel, quiet, source_of(wheel))
        assert manifest.read_text() == whole


def test_every_file_is_checked(wheel: Path, capsys: pytest.CaptureFixture[str]):
    folder = fetch_assets(wheel, quiet, source_of(wheel))
    model = folder / 'models/vehicle/truck/vehicle.gltf'
    model.write_bytes(model.read_bytes()[:-1] + b'?')
    assert main(['data', 'assets', '--check']) == 2
    assert 'truck/vehicle.gltf is not as it was unpacked' in capsys.readouterr().err
    model.unlink()
    assert main(['data', 'assets', '--check']) == 2
    assert 'truck/vehicle.gltf is missing: run `fastdrive data assets`' in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_and_says_so(wheel: Path, cache: Path):
    # No file of this process may grow beyond 600 bytes: the models do not fit.
    code = ('import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
            'from pathlib import Path; from fastdrive_ros.sim.assets import Source, _unpack; '
            'resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); '
            '_unpack(Path(sys.argv[1]), Path(sys.argv[2]))')
    cache.mkdir(parents=True)
    run = subprocess.run([sys.executable, '-c', code, wheel, cache / 'metadrive-assets'], cwd=ROOT,
                         capture_output=True, text=True, check=False)
    assert 'File too large' in run.stderr
    assert list(cache.iterdir()) == []


def test_a_machine_without_egl_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> None:
        raise OSError(f'{name}: cannot open shared object file')

    monkeypatch.setattr(ctypes, 'CDLL', absent)
    with pytest.raises(SimError, match='libEGL.so.1: cannot open.*libgl1 libegl1 libgl1-mesa-dri'):
        check_egl()


def test_egl_without_a_driver_is_told_apart():
    try:
        check_egl()
    except SimError as error:
        pytest.skip(f'this machine has no EGL: {error}')
    code = 'from fastdrive_ros.sim.assets import check_egl; check_egl()'
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, '__EGL_VENDOR_LIBRARY_FILENAMES': os.devnull})
    assert 'its library is there, but no driver' in run.stderr
    assert 'apt install libgl1 libegl1 libgl1-mesa-dri' in run.stderr


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assets, '_PACKAGES', ('json', 'no_such_simulator'))
    with pytest.raises(SimError, match=r"needs no_such_simulator: pip install "
                                       r"'fastdrive_ros\[sim\]'"):
        assets.check_installed()
