# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Frames of V cameras, in any order -> FrameSets of one sweep each, whole or declared partial.

A set is what lies within the stamp window. It leaves when every camera that can still come has
come, or at its deadline after the first arrival. All times are arguments: no clock, no thread, no
ROS. Each frame ends in exactly one place, a set or one count in ``drops``. Reasons:

    unknown_camera   not one of the cameras
    zero_stamp       header.stamp was never filled
    repeated_stamp   the camera's last stamp again
    stamp_back       older than the camera's last frame
    late             its sweep has left
    incomplete_set   its sweep missed too many cameras, or a required one, at the deadline
    time_jump, reset  was waiting when the clock jumped back, when reset() was called
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

from fastdrive_ros.core.phases import SweepPhases
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet

# A stamp that goes back by more is another time (bag loop) or a glitch, not a late frame.
_JUMP_NS = 1_000_000_000
# Sweeps in a row that a camera must miss before nobody waits for it.
_MISSED_UNTIL_DEAD = 5
_MAX_PENDING = 8
# A camera whose stamps are further off than a sweep of a slow rig (2 Hz) has another clock.
_OTHER_TIME_NS = 500_000_000
# After a pause this long the rig has to be seen in step again before a partial sweep is believed.
_PAUSE_NS = 10_000_000_000


@dataclass(frozen=True)
class SyncConfig:
    """The rig's timing; the defaults fit nuScenes (spread 42.6 ms on a 50 ms grid)."""

    window_ms: float = 48.0
    """Largest stamp spread inside one set."""
    deadline_ms: float = 75.0
    """From a set's first arrival until it leaves without the cameras that are missing."""
    max_missing_cameras: int = 2
    required_cameras: tuple[str, ...] = ()
    """Cameras without which a set does not leave at all."""

    def __post_init__(self) -> None:
        """Refuse values that no set could meet."""
        for name in ('window_ms', 'deadline_ms'):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f'{name} must be a finite number above 0, got {value}')
        if self.max_missing_cameras < 0:
            raise ValueError(
                f'max_missing_cameras must be 0 or more, got {self.max_missing_cameras}')

    @property
    def window_ns(self) -> int:
        """The window in the unit of stamps."""
        return round(self.window_ms * 1e6)

    @property
    def deadline_ns(self) -> int:
        """The deadline in the unit of arrivals."""
        return round(self.deadline_ms * 1e6)

    @property
    def phase_tolerance_ns(self) -> int:
        """
        How far from its usual place in the sweep a camera's stamp may lie.

        Three quarters of the window, by simulation (test/sync_scenarios.py): half cuts sweeps of
        a rig with jitter apart, the whole mixes sweeps when the window is above the frame gap.
        """
        return self.window_ns * 3 // 4


@dataclass
class _Camera:
    """What one camera has sent so far."""

    last_ns: int | None = None
    before_last_ns: int | None = None
    suspect_ns: int | None = None
    """A stamp far back that was refused; the next one tells a glitch from a new time."""
    missed: int = 0
    """Sweeps in a row that went without it."""

    @property
    def alive(self) -> bool:
        """False when nobody should wait for it."""
        return self.missed < _MISSED_UNTIL_DEAD

    def judge(self, stamp_ns: int) -> str:
        """Take the next stamp; return '' or the reason to refuse it ('time_jump': start again)."""
        last_ns, before_ns, suspect_ns = self.last_ns, self.before_last_ns, self.suspect_ns
        if stamp_ns == last_ns:
            return 'repeated_stamp'
        if last_ns is None or stamp_ns > last_ns:
            self.before_last_ns, self.last_ns, self.suspect_ns = last_ns, stamp_ns, None
            return ''
        far_back = last_ns - stamp_ns > _JUMP_NS
        if far_back and before_ns is not None and before_ns < stamp_ns:
            self.last_ns = stamp_ns  # the last stamp was the odd one, far in the future
            return ''
        if suspect_ns is not None and suspect_ns < stamp_ns and (
                far_back or stamp_ns - suspect_ns <= _JUMP_NS):
            return 'time_jump'
        if far_back:
            self.suspect_ns = stamp_ns
        return 'stamp_back'


@dataclass
class _Sweep:
    """Frames that wait for the rest of their sweep."""

    first_arrival_ns: int
    frames: dict[str, Frame] = field(default_factory=dict)

    @property
    def stamps(self) -> dict[str, int]:
        """Stamps by camera."""
        return {name: frame.stamp_ns for name, frame in self.frames.items()}

    @property
    def stamp_ns(self) -> int:
        """The earliest stamp, as FrameSet has it."""
        return min(frame.stamp_ns for frame in self.frames.values())


class FrameSynchronizer:
    """Collects frames into sweeps; sets leave in increasing stamp order."""

    def __init__(self, cameras: Sequence[str], config: SyncConfig) -> None:
        """Expect ``cameras`` (the bundle's order); raises ValueError when config names others."""
        if not cameras or len(set(cameras)) != len(cameras):
            raise ValueError(f'the synchroniser needs different cameras, got {list(cameras)}')
        self.cameras = tuple(cameras)
        self.drops: Counter[tuple[str, str]] = Counter()
        """(camera, reason) -> frames that are in no set."""
        self.set_counts: Counter[str] = Counter(whole=0, partial=0, refused=0, resets=0)
        """Sets that left whole or partial, sweeps refused, and jumps of the clock."""
        self.reconfigure(config)
        self._start_again()

    @property
    def next_deadline_ns(self) -> int | None:
        """When ``poll`` has something to do next (monotonic); None while nothing waits."""
        return min((self.deadline_ns(sweep.first_arrival_ns) for sweep in self._pending),
                   default=None)

    def deadline_ns(self, first_arrival_ns: int) -> int:
        """Return until when a sweep that began to arrive then may wait for the rest."""
        return first_arrival_ns + self._config.deadline_ns

    def push(self, frame: Frame) -> list[FrameSet]:
        """Take one frame; return the sets that leave because of it, oldest first."""
        now_ns, name = frame.arrival_ns, frame.camera
        left = self.poll(now_ns)
        reason = self._judge(frame)
        if reason == 'time_jump':
            self._drop_all('time_jump')
            self.set_counts['resets'] += 1
            reason = self._judge(frame)
        if reason:
            self.drops[name, reason] += 1
            return left
        self._seen[name].missed = 0
        if self._has_left(frame):
            self.drops[name, 'late'] += 1
            return left
        self._place(frame)
        if len(self._pending) > _MAX_PENDING:
            left += self._settle(self._pending[0], now_ns)
        return left + self.poll(now_ns)

    def poll(self, now_ns: int) -> list[FrameSet]:
        """Return the sets that are complete, or whose deadline has passed, oldest first."""
        left: list[FrameSet] = []
        for sweep in tuple(self._pending):
            due = now_ns >= self.deadline_ns(sweep.first_arrival_ns) or not self._awaited(sweep)
            # An earlier one of this loop may have settled it already.
            if due and any(sweep is other for other in self._pending):
                left += self._settle(sweep, now_ns)
        return left

    def reset(self) -> None:
        """Forget all sweeps and what was learned; counters stay."""
        self._drop_all('reset')

    def reconfigure(self, config: SyncConfig) -> None:
        """Take new limits from now on, also for what is waiting."""
        unknown = set(config.required_cameras) - set(self.cameras)
        if unknown:
            raise ValueError(f'required_cameras names {sorted(unknown)}, the bundle has '
                             f'{list(self.cameras)}')
        self._config = config

    def _start_again(self) -> None:
        self._seen = {name: _Camera() for name in self.cameras}
        self._phases = SweepPhases()
        self._pending: list[_Sweep] = []  # earliest stamp first
        self._last_left: Mapping[str, int] = {}
        self._in_step = False
        """Whether a sweep with every live camera has left since the start or the last pause."""

    def _drop_all(self, reason: str) -> None:
        for sweep in self._pending:
            self._drop(sweep, reason)
        self._start_again()

    def _drop(self, sweep: _Sweep, reason: str) -> None:
        self.drops.update((name, reason) for name in sweep.frames)

    def _judge(self, frame: Frame) -> str:
        """Return '' or the reason why the frame cannot be in any set."""
        if frame.camera not in self._seen:
            return 'unknown_camera'
        if frame.stamp_ns <= 0:
            return 'zero_stamp'
        return self._seen[frame.camera].judge(frame.stamp_ns)

    def _in_window(self, stamps: Mapping[str, int], frame: Frame) -> bool:
        """Tell whether the frame could join these stamps, its camera's phase not asked."""
        together = (*stamps.values(), frame.stamp_ns)
        spread_ns = max(together) - min(together)
        return frame.camera not in stamps and spread_ns <= self._config.window_ns

    def _misfit_ns(self, stamps: Mapping[str, int], frame: Frame) -> float:
        return self._phases.misfit_ns(stamps, frame.camera, frame.stamp_ns,
                                      self._config.phase_tolerance_ns)

    def _has_left(self, frame: Frame) -> bool:
        """Tell whether the frame's sweep has left; also keeps sets in increasing stamp order."""
        stamps = self._last_left
        return bool(stamps) and (frame.stamp_ns <= min(stamps.values()) or (
            self._in_window(stamps, frame) and self._misfit_ns(stamps, frame) < math.inf))

    def _place(self, frame: Frame) -> None:
        """Put the frame into the sweep that it fits best, the oldest of equals, or a new one."""
        in_window = [sweep for sweep in self._pending if self._in_window(sweep.stamps, frame)]
        misfits_ns = [self._misfit_ns(sweep.stamps, frame) for sweep in in_window]
        best_ns = min(misfits_ns, default=math.inf)
        if best_ns < math.inf:
            sweep = in_window[misfits_ns.index(best_ns)]
        else:
            if in_window:
                self._phases.reject(frame.camera)
            sweep = _Sweep(frame.arrival_ns)
            self._pending.append(sweep)
        sweep.frames[frame.camera] = frame
        # Arrivals may be out of order between cameras.
        sweep.first_arrival_ns = min(sweep.first_arrival_ns, frame.arrival_ns)
        self._pending.sort(key=lambda s: s.stamp_ns)

    def _awaited(self, sweep: _Sweep) -> set[str]:
        """Return the cameras that can still come: alive, and not yet in a later sweep."""
        stamp_ns = sweep.stamp_ns
        passed = {name for later in self._pending for name in later.frames
                  # A stamp far in the future says nothing about this sweep.
                  if stamp_ns < later.stamp_ns <= stamp_ns + _JUMP_NS}
        return {name for name, seen in self._seen.items()
                if seen.alive and name not in sweep.frames} - passed

    def _settle(self, sweep: _Sweep, now_ns: int) -> list[FrameSet]:
        """Let a sweep leave as a set, the older ones before it; or drop its frames."""
        self._pending = [other for other in self._pending if other is not sweep]
        for name in self.cameras:
            if name not in sweep.frames:
                self._seen[name].missed += 1
        if reason := self._reason_to_stay(sweep):
            self._drop(sweep, reason)
            self.set_counts['refused'] += 1
            return []
        if all(name in sweep.frames or not seen.alive for name, seen in self._seen.items()):
            self._phases.learn(sweep.stamps, self._config.phase_tolerance_ns)
            self._in_step = True
        left: list[FrameSet] = []
        while self._pending and self._pending[0].stamp_ns < sweep.stamp_ns:
            left += self._settle(self._pending[0], now_ns)
        self._last_left = sweep.stamps
        frame_set = FrameSet(self.cameras, sweep.frames, now_ns)
        self.set_counts['partial' if frame_set.missing else 'whole'] += 1
        return [*left, frame_set]

    def _reason_to_stay(self, sweep: _Sweep) -> str:
        """Return '' when enough cameras came and their time can be believed, else the reason."""
        missing = set(self.cameras) - set(sweep.frames)
        if len(missing) > self._config.max_missing_cameras or (
                missing & set(self._config.required_cameras)):
            return 'incomplete_set'
        last_left_ns = min(self._last_left.values(), default=None)
        if last_left_ns is not None:
            # Two cameras out of phase can open two sweeps at one stamp: only the first can leave.
            if sweep.stamp_ns <= last_left_ns:
                return 'incomplete_set'
            if sweep.stamp_ns - last_left_ns > _PAUSE_NS:
                self._in_step = False
        others_ns = [seen.last_ns for name, seen in self._seen.items()
                     if name in missing and seen.alive and seen.last_ns is not None]
        # A camera that sends, but never at the time of the others, is not lost: the rig is not
        # synchronised, and that has to be mended rather than driven with.
        if not self._in_step and any(
                abs(stamp_ns - sweep.stamp_ns) > _OTHER_TIME_NS for stamp_ns in others_ns):
            return 'unsynchronised'
        # One camera alone cannot move the clock: every later set would be late.
        if others_ns and len(sweep.frames) == 1 and sweep.stamp_ns - max(others_ns) > _JUMP_NS:
            return 'incomplete_set'
        return ''
