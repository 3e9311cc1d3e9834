# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the node knows about itself, as diagnostic_msgs on /diagnostics, from second zero.

Names and keys follow Autoware (inference_status, processing_time_status) and the camera keys of
NITROS / greenwave monitors, so that the monitors people have work unchanged.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from statistics import median
from typing import Any

from fastdrive_ros.core.latency import LatencyWindow
from fastdrive_ros.core.types import PlanResult
from fastdrive_ros.intake import IntakeCounts
from fastdrive_ros.ros.messages import ERROR
from fastdrive_ros.ros.messages import OK
from fastdrive_ros.ros.messages import STALE
from fastdrive_ros.ros.messages import WARN

Status = tuple[str, int, str, dict[str, Any]]
"""Name, level, message, values of one DiagnosticStatus."""

_RATE_WINDOW = 50            # arrivals that a rate is computed from
_SILENT_AFTER_S = 1.0        # topic_state_monitor's default time-out
_OTHER_CLOCK_MS = 500.0      # beyond this it is not another place in the sweep
_RATE_TOLERANCE = 0.3        # a camera this much slower than the fastest one is a WARN


@dataclass
class TopicMonitor:
    """Rate, age and troubles of one input topic."""

    topic: str
    arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_WINDOW))
    stamps_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_RATE_WINDOW))
    delay_ms: float = 0.0
    wrong_type: str = ''
    """Set while the graph has publishers, and none of the type that we subscribe to."""
    wrong_qos: str = ''
    """Set once a publisher's QoS did not match ours."""

    def arrived(self, stamp_ns: int, now_ns: int) -> None:
        """Note one message: its stamp and the header clock's present."""
        self.arrivals_s.append(time.monotonic())
        self.stamps_ns.append(stamp_ns)
        self.delay_ms = (now_ns - stamp_ns) / 1e6

    @property
    def trouble(self) -> str:
        """Why nothing can come, as far as the graph knows; empty when nothing is wrong."""
        return self.wrong_type or (self.wrong_qos if self.state != 'OK' else '')

    @property
    def state(self) -> str:
        """Return topic_state_monitor's word: NotReceived, Timeout or OK."""
        if not self.arrivals_s:
            return 'NotReceived'
        silent_s = time.monotonic() - self.arrivals_s[-1]
        return 'Timeout' if silent_s > _SILENT_AFTER_S else 'OK'

    @property
    def frame_rate_node_hz(self) -> float:
        """Arrivals a second."""
        return _rate_hz(list(self.arrivals_s), 1.0)

    @property
    def frame_rate_msg_hz(self) -> float:
        """Stamps a second: what the sensor does, whatever the link does."""
        return _rate_hz(list(self.stamps_ns), 1e9)


def _rate_hz(times: list[float] | list[int], per_second: float) -> float:
    if len(times) < 2 or times[-1] <= times[0]:
        return 0.0
    return (len(times) - 1) * per_second / (times[-1] - times[0])


@dataclass(frozen=True)
class Deadline:
    """Autoware's processing-time rule."""

    max_allowed_processing_time_ms: float
    max_acceptable_consecutive_delay_ms: float


class Diagnostics:
    """Collects from every thread; ``statuses()`` is the whole present state."""

    def __init__(self, window_cycles: int, deadline: Deadline) -> None:
        """Start as unconfigured."""
        self.deadline = deadline
        self._lock = threading.Lock()
        self._window = LatencyWindow(window_cycles)
        self._load: tuple[int, str] = (WARN, 'not configured')
        self._model: dict[str, Any] = {'model_loaded': False}
        self.clear()

    def clear(self) -> None:
        """Forget the drive (not the model): at activation and after a clock jump."""
        with self._lock:
            self._window.clear()
            self._outcomes: Counter[str] = Counter()
            self._last: PlanResult | None = None
            self._last_done_s = self._interval_s = 0.0
            self._processing_ms = 0.0
            self._slow_since_s: float | None = None
            self._deadline_misses = 0

    def loading(self, progress: str) -> None:
        """Say that the model is being loaded, and how far it is."""
        with self._lock:
            self._load = (WARN, f'Loading model: {progress}')

    def loaded(self, model: Mapping[str, Any]) -> None:
        """Say what was loaded (backend, reason, bundle ...)."""
        with self._lock:
            self._load = (OK, 'Model loaded')
            self._model = {'model_loaded': True, **model}

    def unloaded(self, level: int, message: str) -> None:
        """Say that there is no model, with the error that stays until the next configure."""
        with self._lock:
            self._load = (level, message)
            self._model = {'model_loaded': False}

    def cycle_done(self, result: PlanResult, stage_ms: Mapping[str, float],
                   processing_ms: float) -> None:
        """Note one cycle, published or refused."""
        now_s = time.monotonic()
        with self._lock:
            self._window.record({**stage_ms, 'frame_age': result.frame_age_ms})
            self._outcomes['published' if result.trajectory else result.refusal.reason] += 1
            if self._last is not None:
                self._interval_s = now_s - self._last_done_s
            self._last, self._last_done_s = result, now_s
            self._processing_ms = processing_ms
            if processing_ms <= self.deadline.max_allowed_processing_time_ms:
                self._slow_since_s = None
            else:
                self._deadline_misses += 1
                if self._slow_since_s is None:
                    self._slow_since_s = now_s

    def statuses(self, active: bool, counts: IntakeCounts | None,
                 cameras: Mapping[str, TopicMonitor],
                 odometry: TopicMonitor | None) -> list[Status]:
        """Return every DiagnosticStatus of this moment."""
        with self._lock:
            level, message = self._load
            model = {key: value() if callable(value) else value
                     for key, value in self._model.items()}
            statuses: list[Status] = [('inference_status', level, message, model)]
            if active:
                statuses += [self._planning(cameras, odometry), self._processing_time(),
                             self._latency()]
        if active and counts and odometry:
            fastest_hz = max((m.frame_rate_msg_hz for m in cameras.values()), default=0.0)
            statuses += [_camera(name, monitor, counts, fastest_hz)
                         for name, monitor in cameras.items()]
            statuses += [_odometry(odometry, counts), _sync(counts)]
        return statuses

    def _planning(self, cameras: Mapping[str, TopicMonitor],
                  odometry: TopicMonitor | None) -> Status:
        values: dict[str, Any] = {'plans_published': self._outcomes['published'],
                                  **{f'refused.{reason}': count
                                     for reason, count in sorted(self._outcomes.items())
                                     if reason != 'published'}}
        last = self._last
        # A slow model or a low max_rate_hz is not silence.
        patience_s = max(_SILENT_AFTER_S, 3 * self._interval_s)
        if last is None or time.monotonic() - self._last_done_s > patience_s:
            return 'planning', ERROR, _why_silent(cameras, odometry), values
        values |= {'pruner': last.kept.method if last.kept else '',
                   'kept_tokens': len(last.kept.indices) if last.kept else 0,
                   'total_tokens': last.num_tokens, 'frame_age_ms': last.frame_age_ms,
                   'missing_cameras': ', '.join(last.missing)}
        if last.refusal:
            return 'planning', ERROR, f'{last.refusal.reason}: {last.refusal.detail}', values
        if last.missing:
            return 'planning', WARN, f"planning without {', '.join(last.missing)}", values
        return 'planning', OK, 'planning', values

    def _processing_time(self) -> Status:
        slow_ms = (0.0 if self._slow_since_s is None
                   else (time.monotonic() - self._slow_since_s) * 1e3)
        in_range = self._slow_since_s is None
        patient = slow_ms <= self.deadline.max_acceptable_consecutive_delay_ms
        level = OK if in_range else WARN if patient else ERROR
        message = 'OK' if in_range else (
            f'processing takes {self._processing_ms:.0f} ms, allowed are '
            f'{self.deadline.max_allowed_processing_time_ms:.0f} ms')
        return 'processing_time_status', level, message, {
            'is_processing_time_ms_in_expected_range': in_range,
            'processing_time_ms': self._processing_ms,
            'is_consecutive_processing_delay_in_range': patient,
            'consecutive_processing_delay_ms': slow_ms,
            'deadline_misses': self._deadline_misses}

    def _latency(self) -> Status:
        values = {f'{stage}_ms.{name}': value
                  for stage, summary in self._window.summary().items()
                  for name, value in summary.items() if name != 'count'}
        return 'latency', OK, 'percentiles of the last cycles', values


def _why_silent(cameras: Mapping[str, TopicMonitor], odometry: TopicMonitor | None) -> str:
    troubled = [monitor.trouble for monitor in cameras.values() if monitor.trouble]
    silent = [f'{name} ({monitor.topic})' for name, monitor in cameras.items()
              if monitor.state != 'OK']
    if troubled:
        return f'no plan: {troubled[0]}'
    if len(silent) == len(cameras):
        return ('no plan: no camera sends anything; expected '
                + ', '.join(monitor.topic for monitor in cameras.values())
                + ' (another naming? see the presets)')
    if silent:
        return f"no plan: no pictures from {', '.join(silent)}"
    if odometry and odometry.state != 'OK':
        return f'no plan: no odometry on {odometry.topic}'
    usual_ms = median(monitor.delay_ms for monitor in cameras.values())
    apart = [f'{name} by {usual_ms - monitor.delay_ms:+.0f} ms'
             for name, monitor in cameras.items()
             if abs(monitor.delay_ms - usual_ms) > _OTHER_CLOCK_MS]
    if apart:
        return (f"no plan: {', '.join(apart)} off the other cameras' stamps: synchronise the "
                'clocks (PTP), or check what the driver stamps')
    return 'no plan: the cameras send, but no sweep was complete enough (see sync)'


def _camera(name: str, monitor: TopicMonitor, counts: IntakeCounts, fastest_hz: float) -> Status:
    state = monitor.state
    slow = monitor.frame_rate_msg_hz < (1 - _RATE_TOLERANCE) * fastest_hz
    level = {'NotReceived': ERROR, 'Timeout': STALE}.get(state, WARN if slow else OK)
    message = monitor.trouble or (
        'slower than the other cameras' if state == 'OK' and slow else state)
    return f'cameras/{name}', ERROR if monitor.trouble else level, message, {
        'topic': monitor.topic,
        'frame_rate_node': monitor.frame_rate_node_hz,
        'frame_rate_msg': monitor.frame_rate_msg_hz,
        'current_delay_from_realtime_ms': monitor.delay_ms,
        'expected_frequency': fastest_hz,
        'tolerance': _RATE_TOLERANCE,
        **{f'dropped.{reason}': count for (camera, reason), count
           in sorted(counts.frame_drops.items()) if camera == name}}


def _odometry(monitor: TopicMonitor, counts: IntakeCounts) -> Status:
    # Recorded odometry comes in bursts: silence of half a second is normal, so no Timeout level
    # below what the gate would refuse anyway.
    state = monitor.state
    level = {'NotReceived': ERROR, 'Timeout': WARN}.get(state, OK)
    return 'odometry', ERROR if monitor.trouble else level, monitor.trouble or state, {
        'topic': monitor.topic, 'frame_rate_node': monitor.frame_rate_node_hz,
        'frame_rate_msg': monitor.frame_rate_msg_hz,
        'current_delay_from_realtime_ms': monitor.delay_ms,
        **{f'dropped.{reason}': count for (source, reason), count
           in sorted(counts.frame_drops.items()) if source == 'odometry'}}


def _sync(counts: IntakeCounts) -> Status:
    return 'sync', OK, 'frame sets so far', dict(counts.sets)
