# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The simulator's car models: fetched once through pip, checked, kept in the user's cache.

MetaDrive's code comes without them; its wheel of 0.3.0.1 has them. Only the models of cars are
taken: roads, people, trees and all else are made by sim/things.py and sim/ground.py.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

VERSION = 1
"""Of the folder's layout; another one is made anew."""
_PREFIX = 'metadrive/assets/'
_WANTED = tuple(f'models/vehicle/{name}/vehicle.gltf'
                for name in ('130', 'beetle', 'ferra', 'lada', 'truck'))
_PACKAGES = ('metadrive', 'panda3d', 'trimesh', 'fast_simplification', 'scipy')
_EGL_SURFACELESS, _EGL_DEVICE = 0x31DD, 0x313F
_EGL_MEND = 'On Debian and Ubuntu: sudo apt install libgl1 libegl1 libgl1-mesa-dri'
_CREDITS = """\
# Credits

The car models in `models/vehicle` come from the wheel of metadrive-simulator 0.3.0.1 (MetaDrive
by metadriverse, Apache-2.0 as a whole). As far as their authors' licences are stated, in that
project's history:

- `beetle`: "Beetle/Fusca (Version 1)" by soujagah (https://sketchfab.com/soujagah), CC-BY-4.0
- `130`: "130" by mononofu (https://sketchfab.com/guest248), CC-BY-4.0
- `ferra`, `lada`, `truck`: no statement of their own, the package's applies

CC-BY-4.0: http://creativecommons.org/licenses/by/4.0/

They are fetched by `fastdrive data assets`, drawn with fewer triangles and other colours, and are
not part of fastdrive_ros. Pictures rendered with them should name MetaDrive and these authors.
"""


class SimError(Exception):
    """The simulator cannot run here; the message says what was found and what mends it."""


@dataclass(frozen=True)
class Source:
    """Where the models come from."""

    requirement: str = 'metadrive-simulator==0.3.0.1'
    file_name: str = 'metadrive_simulator-0.3.0.1-py3-none-any.whl'
    sha256: str = '04f10b014043a56ffa7780eb82239a65c1cec55887cb98010c86fbf98c0460bc'
    size: int = 61_566_390


def cache_dir() -> Path:
    """Return $XDG_CACHE_HOME/fastdrive_ros, by default under ~/.cache."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'fastdrive_ros'


def assets_dir() -> Path:
    """Return the folder of the models; raises SimError where they were not fetched."""
    folder = cache_dir() / 'metadrive-assets'
    try:
        version = json.loads((folder / 'manifest.json').read_text())['version']
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    if version != VERSION:
        found = f'version {version}, this fastdrive_ros needs {VERSION}' if version else 'nothing'
        raise SimError(f'the simulator has no car models yet (looked in {folder}, found {found}): '
                       'run `fastdrive data assets`, once')
    return folder


def fetch_assets(wheel: Path | None, say: Callable[[str], None],
                 source: Source = Source()) -> Path:
    """
    Fetch, check and lay out the models; return their folder. What is there already is kept.

    ``wheel``: a file to take instead of asking pip. Raises SimError.
    """
    folder = cache_dir() / 'metadrive-assets'
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix('.lock')):
        try:
            check_assets()
            say(f'{folder}: all models are there, nothing to do')
            return folder
        except SimError:
            pass
        path = wheel or _download(folder.parent, source, say)
        _check_wheel(path, source, ours=wheel is None)
        _unpack(path, folder)
    say(f'{folder}: {len(_WANTED)} car models, checked; credits in CREDITS.md')
    return folder


def check_assets() -> Path:
    """Return the folder after comparing every file with the manifest; raises SimError."""
    folder = assets_dir()
    for name, digest in json.loads((folder / 'manifest.json').read_text())['files'].items():
        if not (folder / name).is_file():
            raise SimError(f'{folder / name} is missing: run `fastdrive data assets` again')
        if _sha256(folder / name) != digest:
            raise SimError(f'{folder / name} is not as it was unpacked: run `fastdrive data '
                           'assets` again')
    return folder


def check_installed() -> None:
    """Raise SimError where the simulator's Python packages are missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SimError(f"the simulator needs {', '.join(missing)}: pip install "
                       "'fastdrive_ros[sim]' (MetaDrive has files for Python 3.10 and 3.11 only)")


def check_egl() -> None:
    """Raise SimError where the machine has no library, or no driver, to draw with."""
    try:
        egl = ctypes.CDLL('libEGL.so.1')
        ctypes.CDLL('libGL.so.1')
    except OSError as error:
        raise SimError(f'the simulator draws through EGL, and it is not there ({error}). '
                       + _EGL_MEND) from error
    if not any(_opens(egl, display) for display in _displays(egl)):
        raise SimError('the simulator draws through EGL; its library is there, but no driver that '
                       'draws without a screen. ' + _EGL_MEND)


def _displays(egl: ctypes.CDLL) -> Iterator[int | None]:
    """Yield what can be drawn to without a screen: Mesa's surfaceless one, then each device's."""
    pointer = ctypes.c_void_p
    egl.eglGetProcAddress.restype = pointer
    query = egl.eglGetProcAddress(b'eglQueryDevicesEXT')
    get = egl.eglGetProcAddress(b'eglGetPlatformDisplayEXT')
    if not (query and get):
        return
    get_display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(get)
    yield get_display(_EGL_SURFACELESS, None, None)
    devices, count = (pointer * 16)(), ctypes.c_int()
    ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)(query)(
        len(devices), devices, ctypes.byref(count))
    for device in devices[:count.value]:
        yield get_display(_EGL_DEVICE, device, None)


def _opens(egl: ctypes.CDLL, display: int | None) -> bool:
    handle = ctypes.c_void_p(display)
    if not display or not egl.eglInitialize(handle, None, None):
        return False
    egl.eglTerminate(handle)
    return True


def _download(folder: Path, source: Source, say: Callable[[str], None]) -> Path:
    """Ask the pip of this Python, so that the user's own package index is used."""
    path = folder / source.file_name
    if path.exists() and path.stat().st_size == source.size:
        return path
    path.unlink(missing_ok=True)  # pip would stumble over half a file
    say(f'fetching {source.requirement} through pip ({source.size / 1e6:.0f} MB) ...')
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:',
               '--no-input', '--disable-pip-version-check', '--dest', str(folder),
               source.requirement]
    if _pip_resumes():
        command += ['--resume-retries', '10']
    # pip's own progress bar goes to its standard output.
    bar = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdout=bar, stderr=subprocess.PIPE, text=True)
    if done.returncode or not path.exists():
        last = (done.stderr.strip().splitlines() or ['no message'])[-1].removeprefix('ERROR: ')
        raise SimError(
            f'pip could not fetch {source.requirement}: {last.rstrip(".")}. Try again; or, on a '
            f'machine with a network, `pip download --no-deps {source.requirement}`, copy '
            f'{source.file_name} here and give it with --wheel')
    return path


def _pip_resumes() -> bool:
    help_text = subprocess.run([sys.executable, '-m', 'pip', 'download', '--help'],
                               capture_output=True, text=True, check=False).stdout
    return '--resume-retries' in help_text


def _check_wheel(path: Path, source: Source, ours: bool) -> None:
    if not path.is_file():
        raise SimError(f'{path} does not exist: give the file {source.file_name}')
    size, digest = path.stat().st_size, _sha256(path)
    if digest == source.sha256:
        return
    if ours:
        path.unlink()  # or the next run would take it for a whole one
    raise SimError(
        f'{path} is not the file expected: {size:,} bytes with sha256 {digest}, expected '
        f'{source.size:,} bytes with {source.sha256}. It was cut off or changed on its way: '
        + ('removed, run the same command again' if ours else f'fetch {source.requirement} again'))


def _unpack(wheel: Path, folder: Path) -> None:
    """Lay the models out beside ``folder``, then put them in its place: whole, or not at all."""
    staging = folder.with_name(folder.name + '.partial')
    shutil.rmtree(staging, ignore_errors=True)
    try:
        files = {}
        with zipfile.ZipFile(wheel) as archive:
            for name in _WANTED:
                _write(staging / name, archive.read(_PREFIX + name))
                files[name] = _sha256(staging / name)
        _write(staging / 'CREDITS.md', _CREDITS.encode())
        _write(staging / 'manifest.json',
               json.dumps({'version': VERSION, 'files': files}).encode())
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it survives a power cut once the folder has its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('wb') as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
