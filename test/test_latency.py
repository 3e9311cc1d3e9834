# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stage times and their percentiles."""

from __future__ import annotations

import pytest

from fastdrive_ros.core.latency import LatencyWindow
from fastdrive_ros.core.latency import StageTimer


def test_percentiles_by_hand() -> None:
    """0..100 ms: linear interpolation puts each percentile on its own number."""
    window = LatencyWindow(101)
    for ms in range(100, -1, -1):
        window.record({'encode': float(ms)})
    assert window.summary() == {
        'encode': {'p50': 50.0, 'p95': 95.0, 'p99': 99.0, 'max': 100.0, 'count': 101}}


def test_old_cycles_fall_out() -> None:
    """Only the last two of three count."""
    window = LatencyWindow(2)
    for ms in (90.0, 1.0, 3.0):
        window.record({'plan': ms})
    assert window.summary()['plan'] == {'p50': 2.0, 'p95': pytest.approx(2.9),
                                        'p99': pytest.approx(2.98), 'max': 3.0, 'count': 2}


def test_stages_come_in_data_flow_order_and_may_be_absent() -> None:
    """Stages of a head that nobody knows here come last, by name."""
    window = LatencyWindow(10)
    window.record({'zoom': 1.0, 'end_to_end': 1.0, 'generate': 1.0, 'decode': 1.0})
    window.record({'convert': 1.0, 'decode': 1.0})
    summary = window.summary()
    assert list(summary) == ['convert', 'decode', 'end_to_end', 'generate', 'zoom']
    assert (summary['decode']['count'], summary['convert']['count']) == (2, 1)


def test_clear_and_empty() -> None:
    """No cycle, no summary."""
    window = LatencyWindow(10)
    window.record({'plan': 1.0})
    window.clear()
    assert window.summary() == {}


def test_window_refuses_no_cycles() -> None:
    """With what was found."""
    with pytest.raises(ValueError, match='at least one cycle, got 0'):
        LatencyWindow(0)


def test_timer_keeps_the_time_of_a_stage_that_raises() -> None:
    """A failing stage is the one whose time matters most."""
    timer = StageTimer()
    with timer('encode'):
        pass
    with pytest.raises(RuntimeError, match='broken'), timer('plan'):
        raise RuntimeError('broken')
    assert list(timer.stage_ms) == ['encode', 'plan']
    assert all(ms >= 0.0 for ms in timer.stage_ms.values())
