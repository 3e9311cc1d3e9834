# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The live planner node as a child process with a bag in front of it, over real DDS.

Shared by replay, demo and bench. The node runs as users run it: its own process, a parameter
file, use_sim_time. Nothing here waits a fixed time: it waits for matched topics, watching that
the node still lives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import yaml

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import fit_preset
from fastdrive_ros.config import check_settings

if TYPE_CHECKING:
    from fastdrive_ros.ros.bag_player import BagPlayer
    from fastdrive_ros.ros.plan_listener import PlanListener

NODE_NAME = '/fastdrive'

_HEARTBEAT_LOST_S = 30.0     # the node speaks twice a second, also while it loads
_STOP_S = 10.0
_QUIET_S = 1.0
_LOG_LINES = 12
_ERROR_LINES = ('[ERROR]', '[FATAL]', 'fastdrive_ros:')


class LiveError(Exception):
    """The live node did not start, or died; the message carries its own words."""


class NodeProcess:
    """`planner_node` as a child process; a context manager."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Prepare; ``settings`` are the parameters that differ from their defaults."""
        self._settings = dict(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> NodeProcess:
        """Start it, in a session of its own: Ctrl-C reaches us first, and we stop it in order."""
        self._folder = tempfile.TemporaryDirectory(prefix='fastdrive_')
        params = Path(self._folder.name) / 'params.yaml'
        params.write_text(yaml.safe_dump({'/**': {'ros__parameters': {
            **self._settings, 'use_sim_time': True}}}))
        self._log = Path(self._folder.name) / 'node.log'
        with self._log.open('wb') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'fastdrive_ros.ros.node',
                 '--ros-args', '--params-file', str(params)],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop it as Ctrl-C would; with force when it does not listen."""
        for number, patience_s in ((signal.SIGINT, _STOP_S), (signal.SIGKILL, _STOP_S)):
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise LiveError when it has ended, with the last words of its log."""
        code = self._process.poll()
        if code is not None:
            raise LiveError(f'the node ended with exit code {code}: {self.last_words()}')

    def last_words(self) -> str:
        """Return the errors in its log, or its end when there is none."""
        lines = self._log.read_text(errors='replace').strip().splitlines()
        errors = [line for line in lines if line.startswith(_ERROR_LINES)]
        return '\n'.join((errors or lines)[-_LOG_LINES:]) or 'it logged nothing'


@dataclass(frozen=True)
class LiveSession:
    """A node that is active, and a player whose topics it listens to."""

    node: NodeProcess
    player: BagPlayer
    listener: PlanListener

    def keep_going(self) -> bool:
        """Return True; raises LiveError when the node has died."""
        self.node.check()
        return True

    def settle(self) -> None:
        """Serve the listener until the node has been quiet for a while."""
        ended_s = time.monotonic()
        while True:
            cycles = self.listener.cycles
            last_s = max(ended_s, cycles[-1].arrival_s if cycles else 0.0)
            gap_s = max((b.arrival_s - a.arrival_s for a, b in zip(cycles, cycles[1:])), default=0)
            if time.monotonic() - last_s > max(_QUIET_S, min(1.5 * gap_s, _HEARTBEAT_LOST_S)):
                return
            self.node.check()
            self.player.idle(0.05)


def use_wheels(private: bool = False) -> None:
    """
    Let ROS 2 find itself when it comes from wheels in this environment (no sourced setup.bash).

    ``private``: a domain of this process only, unless one was chosen, so that two demos on one
    computer, or a vehicle on the network, never hear each other.
    """
    os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
    if private:
        os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))


@contextmanager
def live_session(bag: Bag, given: Mapping[str, Any], overlay_cameras: tuple[str, ...] = (),
                 record: Callable[[str, str, bytes], None] | None = None,
                 on_progress: Callable[[str], None] = lambda text: None) -> Iterator[LiveSession]:
    """
    Start the node and wait until it listens to the bag's topics and we listen to it.

    Raises LiveError when the node refuses to start, in its own words.
    """
    from fastdrive_ros.ros.bag_player import BagPlayer
    from fastdrive_ros.ros.bag_player import playing_node
    from fastdrive_ros.ros.plan_listener import PlanListener

    with playing_node() as (node, executor), NodeProcess(given) as process:
        session = LiveSession(process, BagPlayer(bag, node, executor),
                              PlanListener(node, NODE_NAME, overlay_cameras, record))
        _wait_until_matched(session, _input_topics(bag, given), on_progress)
        yield session


def _input_topics(bag: Bag, given: Mapping[str, Any]) -> tuple[str, ...]:
    fit = fit_preset(bag.topics, '', check_settings(given))
    return (*fit.cameras.values(), *([fit.odometry_topic] if fit.has_odometry else ()))


def _wait_until_matched(session: LiveSession, topics: tuple[str, ...],
                        on_progress: Callable[[str], None]) -> None:
    started_s = time.monotonic()
    said = ''
    listener = session.listener
    while unheard := [*session.player.unheard(topics), *listener.unheard(),
                      *([] if listener.clock_ns == session.player.now_ns else ['/clock'])]:
        session.node.check()
        if listener.error:
            raise LiveError(f'the node does not start: {listener.error}')
        if listener.loading != said:
            said = listener.loading
            on_progress(said)
        silent_s = time.monotonic() - max(started_s, listener.heard_s)
        if silent_s > _HEARTBEAT_LOST_S:
            raise LiveError(f'the node says nothing for {silent_s:.0f} s, not connected: '
                            f'{", ".join(unheard)}; its log: {session.node.last_words()}')
        session.player.idle(0.05)
