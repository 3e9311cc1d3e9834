# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The command `fastdrive VERB ...`: finds the verb's file, runs it, and turns errors into sentences.

A verb is a module here with ``add_parser(subparsers)`` and ``run(args) -> exit code``. Only the
verb that was typed is imported, so that help comes at once and needs neither torch nor ROS.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from fastdrive_ros import __version__

VERBS = {
    'export': 'make a model bundle from a Qwen2.5-VL checkpoint',
    'nano': 'make a small untrained checkpoint to try training on',
    'build': "build a bundle's engines for this computer",
    'inspect': 'say what a bag holds and whether it can be planned on',
    'run': 'plan on a bag without ROS, as fast as it goes',
    'replay': 'play a bag through the live node',
    'demo': 'play the sample bag and draw one picture',
    'sim': 'drive the simulated world live: six cameras, odometry, clock',
    'data': 'make, import, label and look at datasets',
    'train': 'train a planner on drives, a pruner on foreground masks',
    'evaluate': 'compare pruning methods open loop: L2, collision, boundary, foreground',
    'visualize': 'draw what each method keeps, its plans, and what is rebuilt',
    'bag': 'turn nuScenes or a dataset into a bag, a bag into a dataset',
    'bench': 'measure preprocessing, the node, its memory, a full-size model',
}

USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143

_DESCRIPTION = """\
FastDriveVLA on a vehicle: six cameras in, a pruned VLA plan out.

Start with `fastdrive demo`; then `fastdrive inspect YOUR_BAG` says how to go on.
"""
_EPILOG = 'Help on one verb, with an example: fastdrive VERB --help'


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the process's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser(arguments).parse_args(arguments)
    # What a Ctrl-C cleans up, a `kill` must clean up, too (the live node is a child process).
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = importlib.import_module(f'fastdrive_ros.tools.{args.verb}').run(args)
        sys.stdout.flush()  # here, where a reader that has gone is no error
        return code
    except KeyboardInterrupt:
        print('fastdrive: interrupted', file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python's own flush at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(f'fastdrive: error: {sentence}', file=sys.stderr)
        return USER_ERROR


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='fastdrive', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', action='version', version=f'fastdrive_ros {__version__}')
    verb = next((word for word in arguments if not word.startswith('-')), '')
    subparsers = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
    for name, summary in VERBS.items():
        if name == verb:
            importlib.import_module(f'fastdrive_ros.tools.{name}').add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


def _sentence(error: Exception) -> str | None:
    """Return what to tell people, or None for an error of ours, which deserves its traceback."""
    from fastdrive_ros.bags import BagError
    from fastdrive_ros.config import ConfigError
    from fastdrive_ros.data.records import DataError
    from fastdrive_ros.runtime.engine import EngineError
    from fastdrive_ros.sim.assets import SimError
    from fastdrive_ros.tools.live import LiveError

    if isinstance(error, (BagError, ConfigError, DataError, EngineError, LiveError, SimError)):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing_module(error.name.partition('.')[0])
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = error.filename or 'what was being written'
        return (f'the disk is full, nothing was kept of {what}: make room or choose another '
                'folder')
    if isinstance(error, OSError) and error.filename:
        return f'{error.strerror}: {error.filename}'
    return None


def _missing_module(name: str) -> str | None:
    installs = {
        'rclpy': 'source a ROS 2 installation, or `make setup` for the wheels from PyPI',
        'torch': "pip install 'fastdrive_ros[train]'",
        'transformers': "pip install 'fastdrive_ros[train]'",
        'matplotlib': "pip install 'fastdrive_ros[viz]'",
        'pyarrow': "pip install 'fastdrive_ros[data]'",
        'metadrive': "pip install 'fastdrive_ros[sim]' (Python 3.10 or 3.11)",
        'panda3d': "pip install 'fastdrive_ros[sim]' (Python 3.10 or 3.11)",
        'nuscenes': "pip install 'fastdrive_ros[nuscenes]', in an environment of its own",
        'ray': "pip install 'fastdrive_ros[label]'",
    }
    if name.endswith('_msgs'):
        name = 'rclpy'
    mend = installs.get(name, f'pip install {name}')
    return None if name == 'fastdrive_ros' else f'this verb needs {name}: {mend}'


def _terminated(signum: int, frame: Any) -> None:
    raise SystemExit(TERMINATED)


if __name__ == '__main__':
    sys.exit(main())
