# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Odometry samples, as they come, -> EgoState at any stamp, with the way the vehicle came.

Recorded odometry comes in bursts (25 messages every half second is normal), so nothing here looks
at arrival times: only header stamps count, and a state beyond the newest sample is extrapolated.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.core.rotation import Quaternion
from fastdrive_ros.core.rotation import Vector
from fastdrive_ros.core.rotation import conjugate
from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.core.rotation import multiply
from fastdrive_ros.core.rotation import normalise
from fastdrive_ros.core.rotation import rotate
from fastdrive_ros.core.rotation import slerp
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.core.types import EgoError
from fastdrive_ros.core.types import EgoState

# Stamps further than this from the newest sample are a glitch, or the clock jumped.
_JUMP_NS = 1_000_000_000
# A set is planned some time after its stamp; samples this much older than needed are kept.
_SPARE_S = 2.0
# No vehicle goes further from one sample to the next.
_NOISE_M, _FASTEST_MPS = 2.0, 70.0
_ACCELERATION_SPAN_NS = 500_000_000
_ACCELERATION_SAMPLES = 25


@dataclass(frozen=True)
class EgoConfig:
    """How old odometry may be, and the history that the planner wants."""

    max_age_ms: float = 600.0
    """Furthest a state is extrapolated from a sample; bursts come up to 0.5 s late."""
    history_steps: int = 4
    history_dt_s: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values that no vehicle could meet."""
        if not (math.isfinite(self.max_age_ms) and self.max_age_ms > 0.0):
            raise ValueError(f'max_age_ms must be a finite number above 0, got {self.max_age_ms}')
        if self.history_steps < 1:
            raise ValueError(f'history_steps must be at least 1, got {self.history_steps}')
        if not (math.isfinite(self.history_dt_s) and self.history_dt_s > 0.0):
            raise ValueError(
                f'history_dt_s must be a finite number above 0, got {self.history_dt_s}')


@dataclass(frozen=True)
class OdometrySample:
    """nav_msgs/Odometry without ROS."""

    stamp_ns: int
    frame_id: str
    """What the pose is expressed in: 'map' or 'odom'."""
    position_m: Vector
    orientation_xyzw: Quaternion
    velocity_x_mps: float
    """Forward, in base_link; negative when reversing."""
    velocity_y_mps: float
    """To the left, in base_link."""
    yaw_rate_radps: float


class EgoBuffer:
    """The last seconds of odometry, sorted by stamp."""

    def __init__(self, config: EgoConfig) -> None:
        """Start empty."""
        self.ignored: Counter[str] = Counter()
        """Samples not kept, by reason: repeated_stamp, stamp_jump, position_jump."""
        self.resets = 0
        """How often a jump of clock or position, or a change of frame, emptied the buffer."""
        self._config = config
        self._samples: list[OdometrySample] = []
        self._suspect_ns: int | None = None

    def push(self, sample: OdometrySample) -> None:
        """
        Keep a sample, wherever its stamp belongs.

        Raises EgoError (odometry_not_finite, odometry_zero_stamp, odometry_bad_quaternion).
        """
        sample = _checked(sample)
        if self._samples and sample.frame_id != self._samples[-1].frame_id:
            self._start_again()
        if self._samples and not self._believes(sample.stamp_ns):
            self.ignored['stamp_jump'] += 1
            return
        i = bisect.bisect_left(self._samples, sample.stamp_ns, key=_stamp)
        if i < len(self._samples) and self._samples[i].stamp_ns == sample.stamp_ns:
            self.ignored['repeated_stamp'] += 1
            return
        if i and i == len(self._samples) and _teleports(self._samples[-1], sample):
            # A localisation that finds itself elsewhere, or another drive: the way up to there is
            # none that the vehicle came, and a planner would take it for one.
            self.ignored['position_jump'] += i
            self._samples.clear()
            self.resets += 1
            i = 0
        self._samples.insert(i, sample)
        self._forget_old()

    def at(self, stamp_ns: int) -> EgoState:
        """
        Return the vehicle at a header stamp, between samples or up to max_age_ms from one.

        Raises EgoError: odometry_absent when nothing ever came, odometry_stale when it is too old.
        """
        if not self._samples:
            raise EgoError('odometry_absent', 'no odometry has come: is the odometry topic right '
                           'and being published?')
        now = self._sample_at(stamp_ns)
        if now is None:
            raise EgoError('odometry_stale', self._stale_sentence(stamp_ns))
        return EgoState(
            stamp_ns=stamp_ns,
            frame_id=now.frame_id,
            position_m=now.position_m,
            orientation_xyzw=now.orientation_xyzw,
            yaw_rad=yaw_of(now.orientation_xyzw),
            speed_mps=now.velocity_x_mps,
            yaw_rate_radps=now.yaw_rate_radps,
            acceleration_mps2=self._acceleration_mps2(stamp_ns),
            history=self._history(now))

    @property
    def empty(self) -> bool:
        """Whether no odometry has come yet."""
        return not self._samples

    def reset(self) -> None:
        """Forget every sample; counters stay."""
        self._samples.clear()
        self._suspect_ns = None

    def reconfigure(self, config: EgoConfig) -> None:
        """Take new limits from now on."""
        self._config = config

    def _believes(self, stamp_ns: int) -> bool:
        """
        Tell whether a stamp fits the ones before; empty the buffer when the clock jumped back.

        One stamp far off is a glitch. Two in a row on the same side are a new time.
        """
        newest_ns = self._samples[-1].stamp_ns
        if abs(stamp_ns - newest_ns) <= _JUMP_NS:
            self._suspect_ns = None
            return True
        suspect_ns, self._suspect_ns = self._suspect_ns, stamp_ns
        if suspect_ns is None or stamp_ns <= suspect_ns:
            return False
        if stamp_ns < newest_ns:
            self._start_again()
            return True
        if suspect_ns > newest_ns:
            self._suspect_ns = None
            return True
        return False

    def _start_again(self) -> None:
        """Empty the buffer and count it."""
        self.reset()
        self.resets += 1

    def _forget_old(self) -> None:
        """Drop samples that no state can need any more."""
        span_s = (self._config.history_steps * self._config.history_dt_s
                  + self._config.max_age_ms / 1e3 + _SPARE_S)
        oldest_ns = self._samples[-1].stamp_ns - int(span_s * 1e9)
        old = bisect.bisect_left(self._samples, oldest_ns, key=_stamp)
        del self._samples[:old]

    def _sample_at(self, stamp_ns: int) -> OdometrySample | None:
        """Return the interpolated or extrapolated sample; None when none is near enough."""
        max_age_ns = self._config.max_age_ms * 1e6
        i = bisect.bisect_left(self._samples, stamp_ns, key=_stamp)
        around = self._samples[max(0, i - 1):i + 1]
        nearest = min(around, key=lambda sample: abs(sample.stamp_ns - stamp_ns))
        if abs(nearest.stamp_ns - stamp_ns) > max_age_ns:
            return None
        # Over a gap this long there is no way between the two: a drive may have ended in it.
        apart = around[-1].stamp_ns - around[0].stamp_ns > _JUMP_NS
        if len(around) == 1 or apart or nearest.stamp_ns == stamp_ns:
            return _moved(nearest, stamp_ns)
        return _between(around[0], around[1], stamp_ns)

    def _stale_sentence(self, stamp_ns: int) -> str:
        """Say how far the nearest sample is, and on which side."""
        newest_ns, oldest_ns = self._samples[-1].stamp_ns, self._samples[0].stamp_ns
        limit = f'allowed are {self._config.max_age_ms:.0f} ms'
        if stamp_ns > newest_ns:
            return (f'the newest odometry is {(stamp_ns - newest_ns) / 1e6:.0f} ms older than the '
                    f'pictures, {limit}: has it stopped, or do its stamps follow another clock?')
        if stamp_ns < oldest_ns:
            return (f'the oldest odometry is {(oldest_ns - stamp_ns) / 1e6:.0f} ms newer than the '
                    f'pictures, {limit}: it has only just begun, or follows another clock')
        return f"odometry has a gap round the pictures' stamp, {limit} to the nearest sample"

    def _acceleration_mps2(self, stamp_ns: int) -> float:
        """
        Return the median slope of the speed over the half second up to ``stamp_ns``.

        The median of all pairwise slopes (Theil-Sen) shrugs off single bad samples.
        """
        end = bisect.bisect_right(self._samples, stamp_ns, key=_stamp)
        end_ns = self._samples[max(0, end - 1)].stamp_ns
        start = bisect.bisect_left(self._samples, end_ns - _ACCELERATION_SPAN_NS, key=_stamp)
        recent = self._samples[start:end]
        recent = recent[::max(1, len(recent) // _ACCELERATION_SAMPLES)]
        if len(recent) < 2:
            return 0.0
        times_s = np.array([(sample.stamp_ns - end_ns) / 1e9 for sample in recent])
        speeds_mps = np.array([sample.velocity_x_mps for sample in recent])
        early, late = np.triu_indices(len(recent), k=1)
        slopes = (speeds_mps[late] - speeds_mps[early]) / (times_s[late] - times_s[early])
        return float(np.median(slopes))

    def _history(self, now: OdometrySample) -> np.ndarray:
        """Return float32 (history_steps, len(EGO_FEATURES)), relative to base_link ``now``."""
        steps = self._config.history_steps
        history = np.zeros((steps, len(EGO_FEATURES)), dtype=np.float32)
        step_ns = round(self._config.history_dt_s * 1e9)
        to_base_link = conjugate(now.orientation_xyzw)
        for row in range(steps - 1):
            stamp_ns = now.stamp_ns - (steps - 1 - row) * step_ns
            then = self._sample_at(stamp_ns) if stamp_ns >= self._samples[0].stamp_ns else None
            if then is not None:
                history[row] = _features(then, now.position_m, to_base_link)
        history[-1] = _features(now, now.position_m, to_base_link)
        return history


def _stamp(sample: OdometrySample) -> int:
    return sample.stamp_ns


def _checked(sample: OdometrySample) -> OdometrySample:
    """Return the sample with a unit quaternion, or raise EgoError."""
    numbers = (*sample.position_m, *sample.orientation_xyzw, sample.velocity_x_mps,
               sample.velocity_y_mps, sample.yaw_rate_radps)
    if not all(math.isfinite(number) for number in numbers):
        raise EgoError('odometry_not_finite', 'an odometry sample holds NaN or infinity: check '
                       'the localisation that publishes it')
    if sample.stamp_ns <= 0:
        raise EgoError('odometry_zero_stamp', 'an odometry sample has no stamp: its publisher '
                       'must fill header.stamp')
    norm = math.hypot(*sample.orientation_xyzw)
    if abs(norm - 1.0) > 0.1:
        raise EgoError('odometry_bad_quaternion', f'an odometry orientation has norm {norm:.3f}, '
                       'expected 1: its publisher must fill pose.orientation')
    return _replaced(sample, sample.stamp_ns, sample.position_m,
                     normalise(sample.orientation_xyzw))


def _replaced(sample: OdometrySample, stamp_ns: int, position_m: Vector,
              orientation_xyzw: Quaternion) -> OdometrySample:
    """Return the sample with another stamp and pose (dataclasses.replace costs ten times this)."""
    return OdometrySample(stamp_ns, sample.frame_id, position_m, orientation_xyzw,
                          sample.velocity_x_mps, sample.velocity_y_mps, sample.yaw_rate_radps)


def _moved(sample: OdometrySample, stamp_ns: int) -> OdometrySample:
    """Return where constant body velocity and turn rate lead from ``sample``, either way."""
    dt_s = (stamp_ns - sample.stamp_ns) / 1e9
    turn_rad = sample.yaw_rate_radps * dt_s
    # On an arc the chord is the velocity turned by half the turn, shortened by sin(a) / a.
    shorter = float(np.sinc(turn_rad / 2.0 / math.pi)) * dt_s
    chord = rotate(from_yaw(turn_rad / 2.0), (sample.velocity_x_mps * shorter,
                                              sample.velocity_y_mps * shorter, 0.0))
    dx, dy, dz = rotate(sample.orientation_xyzw, chord)
    x, y, z = sample.position_m
    return _replaced(sample, stamp_ns, (x + dx, y + dy, z + dz),
                     multiply(sample.orientation_xyzw, from_yaw(turn_rad)))


def _between(a: OdometrySample, b: OdometrySample, stamp_ns: int) -> OdometrySample:
    """Return the state on the way from ``a`` to ``b``."""
    part = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)

    def mix(from_value: float, to_value: float) -> float:
        return from_value + part * (to_value - from_value)

    (ax, ay, az), (bx, by, bz) = a.position_m, b.position_m
    return OdometrySample(
        stamp_ns, a.frame_id, (mix(ax, bx), mix(ay, by), mix(az, bz)),
        slerp(a.orientation_xyzw, b.orientation_xyzw, part),
        mix(a.velocity_x_mps, b.velocity_x_mps), mix(a.velocity_y_mps, b.velocity_y_mps),
        mix(a.yaw_rate_radps, b.yaw_rate_radps))


def _features(then: OdometrySample, origin_m: Vector,
              to_base_link: Quaternion) -> tuple[float, ...]:
    """Return one history row, in the order of EGO_FEATURES."""
    (x, y, z), (ox, oy, oz) = then.position_m, origin_m
    x_m, y_m, _ = rotate(to_base_link, (x - ox, y - oy, z - oz))
    yaw_rad = yaw_of(multiply(to_base_link, then.orientation_xyzw))
    return (x_m, y_m, math.sin(yaw_rad), math.cos(yaw_rad), then.velocity_x_mps,
            then.yaw_rate_radps, 1.0)


def _teleports(before: OdometrySample, after: OdometrySample) -> bool:
    """Tell whether no vehicle can have come from one sample to the next."""
    time_s = (after.stamp_ns - before.stamp_ns) / 1e9
    return math.dist(before.position_m, after.position_m) > _NOISE_M + _FASTEST_MPS * time_s
