# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The synchroniser's rules one by one, its invariants, and the targets it has to beat."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from sync_scenarios import ARRIVAL_NS
from sync_scenarios import MS
from sync_scenarios import NUSCENES
from sync_scenarios import NUSCENES_PHASES_MS
from sync_scenarios import START_NS
from sync_scenarios import Rig
from sync_scenarios import every
from sync_scenarios import make_frame
from sync_scenarios import nuscenes_sweeps_ms
from sync_scenarios import play
from sync_scenarios import score
from sync_scenarios import uniform_sweeps_ms

from fastdrive_ros.core.sync import FrameSynchronizer
from fastdrive_ros.core.sync import SyncConfig
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet

ABC = ('A', 'B', 'C')
FRAMES = Path(__file__).parents[2] / 'shared' / 'data' / 'nuscenes_frames'


def synchronizer(cameras: tuple[str, ...] = ABC, **config: object) -> FrameSynchronizer:
    """Return one with the default timing."""
    return FrameSynchronizer(cameras, SyncConfig(**config))


def push_sweep(sync: FrameSynchronizer, stamp_ms: float, cameras: str = 'ABC') -> list[FrameSet]:
    """Push frames 10 ms apart, arriving as they are taken."""
    sets = [sync.push(make_frame(camera, stamp_ms + 10 * i)) for i, camera in enumerate(cameras)]
    return list(itertools.chain.from_iterable(sets))


def poll(sync: FrameSynchronizer, now_ms: float) -> list[FrameSet]:
    """Poll at a time after the scenario's start."""
    return sync.poll(ARRIVAL_NS + round(now_ms * MS))


# ---- one rule at a time

def test_complete_set_leaves_at_once() -> None:
    """The last camera's arrival is when the set is ready."""
    sync = synchronizer()
    assert push_sweep(sync, 0, 'AB') == []
    (frame_set,) = sync.push(make_frame('C', 20, arrival_ms=31))
    assert frame_set.missing == ()
    assert frame_set.stamp_ns == START_NS
    assert frame_set.spread_ms == 20
    assert frame_set.first_arrival_ns == ARRIVAL_NS
    assert frame_set.ready_ns == ARRIVAL_NS + 31 * MS
    assert sync.next_deadline_ns is None


@pytest.mark.parametrize('order', itertools.permutations(range(3)))
def test_arrival_order_does_not_matter(order: tuple[int, ...]) -> None:
    """Only stamps decide which frames belong together."""
    sync = synchronizer()
    sets = []
    for arrival, i in enumerate(order):
        sets += sync.push(make_frame(ABC[i], 10 * i, arrival_ms=30 + arrival))
    assert [s.missing for s in sets] == [()]
    assert sets[0].first_arrival_ns == ARRIVAL_NS + 30 * MS


def test_partial_set_leaves_at_the_deadline_and_says_what_is_missing() -> None:
    """75 ms after the first arrival, not a moment earlier."""
    sync = synchronizer()
    push_sweep(sync, 0, 'AB')
    assert sync.next_deadline_ns == ARRIVAL_NS + 75 * MS
    assert poll(sync, 74.9) == []
    (frame_set,) = poll(sync, 75)
    assert frame_set.missing == ('C',)
    assert sync.set_counts['partial'] == 1
    assert not sync.drops


def test_push_settles_deadlines_without_poll() -> None:
    """An offline player needs no timer."""
    sync = synchronizer()
    push_sweep(sync, 0, 'AB')
    (frame_set,) = sync.push(make_frame('A', 100))
    assert frame_set.missing == ('C',)
    assert frame_set.ready_ns == ARRIVAL_NS + 100 * MS


def test_too_few_cameras_are_dropped_and_counted() -> None:
    """A sweep missing more than max_missing_cameras never leaves."""
    sync = synchronizer(max_missing_cameras=1)
    sync.push(make_frame('A', 0))
    assert poll(sync, 80) == []
    assert sync.drops == {('A', 'incomplete_set'): 1}
    assert sync.set_counts['refused'] == 1


def test_required_camera_is_required() -> None:
    """The other two are not enough."""
    sync = synchronizer(required_cameras=('C',))
    push_sweep(sync, 0, 'AB')
    assert poll(sync, 80) == []
    assert sync.drops == {('A', 'incomplete_set'): 1, ('B', 'incomplete_set'): 1}


def test_single_camera_rig() -> None:
    """Each frame is a whole set."""
    sync = synchronizer(('A',))
    assert [len(sync.push(make_frame('A', t))) for t in (0, 33, 66)] == [1, 1, 1]
    assert sync.set_counts['whole'] == 3


def test_window_is_inclusive_and_never_exceeded() -> None:
    """48.0 ms apart is one sweep, a microsecond more is two."""
    sync = synchronizer(('A', 'B'), max_missing_cameras=0)
    assert len([*sync.push(make_frame('A', 0)), *sync.push(make_frame('B', 48))]) == 1
    assert sync.push(make_frame('A', 1000)) == []
    assert sync.push(make_frame('B', 1048.001)) == []
    assert sync.drops == {('A', 'incomplete_set'): 1}


def test_camera_that_has_moved_on_is_not_waited_for() -> None:
    """B's next frame says that its frame of this sweep is lost: no need for the deadline."""
    sync = synchronizer(deadline_ms=500)
    push_sweep(sync, 0)
    push_sweep(sync, 100, 'AC')
    (frame_set,) = sync.push(make_frame('B', 210))
    assert frame_set.missing == ('B',)


def test_older_set_leaves_before_a_newer_one() -> None:
    """Sets leave in increasing stamp order, even when the newer one is complete first."""
    sync = synchronizer(deadline_ms=500)
    push_sweep(sync, 0, 'AB')
    sets = push_sweep(sync, 100)
    assert [(s.stamp_ns - START_NS) // MS for s in sets] == [0, 100]
    assert [s.missing for s in sets] == [('C',), ()]


def test_frame_refusals_are_counted_by_reason() -> None:
    """Nothing is lost silently."""
    sync = synchronizer()
    push_sweep(sync, 100)
    assert sync.push(make_frame('D', 100)) == []
    assert sync.push(Frame('A', 0, ARRIVAL_NS, make_frame('A', 0).image)) == []
    assert sync.push(make_frame('A', 100, arrival_ms=130)) == []
    assert sync.push(make_frame('A', 50, arrival_ms=131)) == []
    assert sync.drops == {('D', 'unknown_camera'): 1, ('A', 'zero_stamp'): 1,
                          ('A', 'repeated_stamp'): 1, ('A', 'stamp_back'): 1}


def test_late_frame_is_dropped_not_mixed_into_the_next_sweep() -> None:
    """C's frame comes after its sweep left, and 8 ms before the next sweep begins."""
    sync = synchronizer()
    push_sweep(sync, 0, 'AB')
    assert len(poll(sync, 75)) == 1
    assert sync.push(make_frame('C', 20, arrival_ms=80)) == []
    assert sync.drops == {('C', 'late'): 1}
    assert len(push_sweep(sync, 100)) == 1


def test_dead_camera_is_not_waited_for_until_it_returns() -> None:
    """Five deadlines, then sets leave when the live cameras came, still declared partial."""
    sync = synchronizer()
    for k in range(5):
        assert push_sweep(sync, 100 * k, 'AB') == []
        assert [s.missing for s in poll(sync, 100 * k + 75)] == [('C',)]
    (frame_set,) = push_sweep(sync, 500, 'AB')
    assert frame_set.missing == ('C',)
    assert frame_set.ready_ns == ARRIVAL_NS + 510 * MS
    (frame_set,) = push_sweep(sync, 600, 'CAB')
    assert frame_set.missing == ()
    assert push_sweep(sync, 700, 'AB') == []


# ---- clocks that jump

def test_bag_loop_starts_again_once() -> None:
    """The second pass of a looped bag gives the same sets, less the one that shows the jump."""
    sync = synchronizer()
    first = [s for k in range(30) for s in push_sweep(sync, 100 * k)]
    again = [sync.push(make_frame(camera, 100 * k + 10 * i, 10_000 + 100 * k + 10 * i))
             for k in range(30) for i, camera in enumerate(ABC)]
    assert len(first) == 30
    assert len(list(itertools.chain.from_iterable(again))) == 29
    assert sync.set_counts['resets'] == 1
    assert sync.drops == {(camera, 'stamp_back'): 1 for camera in ABC}


def test_frames_that_wait_while_the_clock_jumps_are_counted() -> None:
    """They end in 'time_jump'."""
    sync = synchronizer()
    push_sweep(sync, 5000)
    sync.push(make_frame('B', 5110, 5110))
    sync.push(make_frame('A', 0, 5111))
    sync.push(make_frame('A', 100, 5112))
    assert sync.drops == {('A', 'stamp_back'): 1, ('B', 'time_jump'): 1}


def test_single_glitch_back_does_not_start_again() -> None:
    """One old stamp is refused, and everything goes on."""
    sync = synchronizer()
    push_sweep(sync, 5000)
    sync.push(make_frame('A', 10, 5090))
    assert len(push_sweep(sync, 5100)) == 1
    assert sync.set_counts['resets'] == 0
    assert sync.drops == {('A', 'stamp_back'): 1}


@pytest.mark.parametrize('max_missing_cameras', [0, 2])
@pytest.mark.parametrize('first_sweeps', [0, 1, 5])
def test_stamp_far_in_the_future_stalls_nothing(max_missing_cameras: int,
                                                first_sweeps: int) -> None:
    """One glitch of one camera, also when a single camera would be enough for a set."""
    sync = synchronizer(max_missing_cameras=max_missing_cameras)
    for k in range(first_sweeps):
        push_sweep(sync, 100 * k)
    t_ms = 100 * first_sweeps
    sync.push(make_frame('A', 3_600_000, t_ms))
    push_sweep(sync, t_ms + 10, 'BC')
    poll(sync, t_ms + 90)
    sets = [s for k in range(1, 11) for s in push_sweep(sync, t_ms + 100 * k)]
    assert len(sets) >= (10 if first_sweeps > 1 else 8)
    assert sets[-1].missing == ()
    assert max(s.stamp_ns for s in sets) < START_NS + 3_600_000 * MS
    assert sync.set_counts['resets'] == 0 if first_sweeps > 1 else True


def test_clock_that_runs_ahead_mid_drive_leaves_the_others_alone() -> None:
    """Ten seconds ahead from some moment on: its frames are refused, the others go on."""
    sync = synchronizer()
    sets = push_sweep(sync, 0)
    for k in range(1, 20):
        sets += push_sweep(sync, 100 * k, 'AB')
        sets += sync.push(make_frame('C', 100 * k + 10_000, 100 * k + 20))
        sets += poll(sync, 100 * k + 99)
    assert [s.missing for s in sets] == [()] + [('C',)] * 19
    assert sync.drops == {('C', 'incomplete_set'): 19}
    assert sync.set_counts['resets'] == 0


def test_rig_that_never_was_in_step_is_refused_with_its_own_reason() -> None:
    """A camera ten seconds ahead from the start is no lost camera: somebody has to mend it."""
    sync = synchronizer()
    for k in range(20):
        sets = push_sweep(sync, 100 * k, 'AB')
        sets += sync.push(make_frame('C', 100 * k + 10_000, 100 * k + 20))
        assert sets + poll(sync, 100 * k + 99) == []
    assert sync.drops['A', 'unsynchronised'] >= 19


def test_reset_forgets_what_waits() -> None:
    """And counts it; older stamps are welcome afterwards."""
    sync = synchronizer()
    push_sweep(sync, 1000, 'AB')
    sync.reset()
    assert sync.next_deadline_ns is None
    assert sync.drops == {('A', 'reset'): 1, ('B', 'reset'): 1}
    assert len(push_sweep(sync, 0)) == 1


# ---- configuration

def test_reconfigure_holds_for_what_waits() -> None:
    """A shorter deadline is due at once."""
    sync = synchronizer()
    push_sweep(sync, 0, 'AB')
    sync.reconfigure(SyncConfig(deadline_ms=20))
    assert len(poll(sync, 20)) == 1


@pytest.mark.parametrize(('values', 'match'), [
    ({'window_ms': 0.0}, 'window_ms must be a finite number above 0, got 0.0'),
    ({'window_ms': float('nan')}, 'window_ms must be'),
    ({'deadline_ms': -1.0}, 'deadline_ms must be'),
    ({'max_missing_cameras': -1}, 'max_missing_cameras must be 0 or more, got -1'),
])
def test_config_refuses(values: dict[str, float], match: str) -> None:
    """With what was found."""
    with pytest.raises(ValueError, match=match):
        SyncConfig(**values)


def test_refuses_cameras_it_cannot_have() -> None:
    """Doubled, none, or required but unknown."""
    with pytest.raises(ValueError, match='different cameras'):
        synchronizer(('A', 'A'))
    with pytest.raises(ValueError, match='different cameras'):
        synchronizer(())
    with pytest.raises(ValueError, match=r"required_cameras names \['D'\]"):
        synchronizer(required_cameras=('D',))


# ---- invariants

@st.composite
def streams(draw: st.DrawFn) -> list[Frame]:
    """Return frames of a bad rig: lost, late, doubled, glitched and jumping, in any order."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    wild = draw(st.sampled_from((0.0, 0.05, 0.3)))
    period_ms = draw(st.sampled_from((33.0, 50.0, 83.0, 100.0)))
    frames = []
    for k in range(draw(st.integers(1, 40))):
        for i, camera in enumerate(('A', 'B', 'C', 'D')):
            if rng.random() < 0.1:
                continue
            stamp_ms = k * period_ms + 10 * i
            if rng.random() < wild:
                stamp_ms = rng.choice((stamp_ms - 40, stamp_ms - 5000, stamp_ms + 1e5, 0, 900))
            frames.append(make_frame(camera, stamp_ms, k * period_ms + rng.uniform(0, 120)))
    if draw(st.booleans()):
        frames.sort(key=lambda frame: frame.arrival_ns)
    return frames


@settings(max_examples=300, deadline=None)
@given(streams(), st.integers(0, 3), st.sampled_from((5.0, 48.0, 120.0)))
def test_invariants_hold_for_any_stream(frames: list[Frame], max_missing: int,
                                        window_ms: float) -> None:
    """One place for each frame, window kept, memory bounded, stamps increase between resets."""
    sync = synchronizer(('A', 'B', 'C', 'D'), max_missing_cameras=max_missing,
                        window_ms=window_ms)
    left: list[tuple[int, FrameSet]] = []
    waiting = 0
    for frame in frames:
        epoch = sync.set_counts['resets']  # what leaves in a push that resets left before that
        sets = sync.push(frame)
        left += [(epoch, s) for s in sets]
        waiting += 1 - sum(len(s.frames) for s in sets)
        assert waiting - sum(sync.drops.values()) <= 8 * 4
    left += [(sync.set_counts['resets'], s) for s in sync.poll(2**62)]
    assert sync.next_deadline_ns is None
    used = Counter(id(frame) for _, s in left for frame in s.frames.values())
    assert max(used.values(), default=1) == 1
    assert len(used) + sum(sync.drops.values()) == len(frames)
    assert all(s.spread_ms <= window_ms and len(s.missing) <= max_missing for _, s in left)
    for _, group in itertools.groupby(left, key=lambda pair: pair[0]):
        stamps = [s.stamp_ns for _, s in group]
        assert all(a < b for a, b in itertools.pairwise(stamps))
    whole = sum(not s.missing for _, s in left)
    assert (sync.set_counts['whole'], sync.set_counts['partial']) == (whole, len(left) - whole)


@settings(max_examples=100, deadline=None)
@given(st.permutations(NUSCENES), st.integers(0, 2**32))
def test_lossless_rig_gives_whole_sweeps_in_any_arrival_order(cameras: list[str],
                                                              seed: int) -> None:
    """Any order of the cameras in the sweep, any jitter below deadline minus spread."""
    phases = dict(zip(cameras, NUSCENES_PHASES_MS.values()))
    result = score(Rig(nuscenes_sweeps_ms(2.0), phases, seed=seed), SyncConfig())
    assert (result.whole, result.partial, result.mixed_ratio) == (24, 0, 0.0)


# ---- whole rigs, 60 s each

RIGS = {
    'nuscenes': (nuscenes_sweeps_ms(60.0), NUSCENES_PHASES_MS, SyncConfig()),
    '12 Hz': (uniform_sweeps_ms(60.0, 12.0), NUSCENES_PHASES_MS, SyncConfig()),
    '30 Hz': (uniform_sweeps_ms(60.0, 30.0),
              {name: phase / 2.0 for name, phase in NUSCENES_PHASES_MS.items()},
              SyncConfig(window_ms=25.0, deadline_ms=55.0)),
}


@pytest.mark.parametrize('name', RIGS)
def test_no_loss_gives_whole_sweeps_only(name: str) -> None:
    """Every sweep, whole, none mixed."""
    sweeps_ms, phases_ms, config = RIGS[name]
    result = score(Rig(sweeps_ms, phases_ms), config)
    assert (result.whole, result.partial, result.mixed_ratio) == (len(sweeps_ms), 0, 0.0)


@pytest.mark.parametrize('seed', [1, 2, 3])
@pytest.mark.parametrize('name', RIGS)
def test_two_percent_loss_loses_no_sweep(name: str, seed: int) -> None:
    """100 % of sweeps (but for one in 8000 that loses three frames), none mixed."""
    sweeps_ms, phases_ms, config = RIGS[name]
    result = score(Rig(sweeps_ms, phases_ms, loss=0.02, seed=seed), config)
    assert result.sets_per_sweep >= 0.998
    assert result.mixed_ratio == 0.0
    assert result.wait_p99_ms <= config.deadline_ms


@pytest.mark.parametrize('since', [0, 240])
@pytest.mark.parametrize('camera', NUSCENES)
def test_goes_on_with_any_dead_camera(camera: str, since: int) -> None:
    """Dead from the start, or after 20 s: every sweep leaves, and says what it misses."""
    result = score(Rig(nuscenes_sweeps_ms(60.0), NUSCENES_PHASES_MS,
                       lost=every(camera, range(since, 720))), SyncConfig())
    assert (result.whole, result.partial, result.mixed_ratio) == (since, 720 - since, 0.0)
    assert result.wait_p99_ms < 75.0


@pytest.mark.parametrize('camera', NUSCENES)
def test_single_loss_does_not_slip_the_alignment(camera: str) -> None:
    """The stock synchroniser mixes every later sweep after one lost frame."""
    result = score(Rig(nuscenes_sweeps_ms(60.0), NUSCENES_PHASES_MS, lost={(camera, 300)}),
                   SyncConfig())
    assert (result.whole, result.partial, result.mixed_ratio) == (719, 1, 0.0)


def test_stamp_jitter_splits_no_sweep() -> None:
    """Cameras that stray 20 ms from their trigger still make whole sweeps."""
    rig = Rig(uniform_sweeps_ms(60.0, 10.0), dict.fromkeys(NUSCENES, 0.0), stamp_jitter_ms=20.0)
    result = score(rig, SyncConfig(window_ms=50.0))
    assert result.whole >= 0.98 * 600
    assert result.mixed_ratio == 0.0


def test_camera_that_changes_its_phase_is_learned_again() -> None:
    """A camera restarts 41 ms later in the sweep: a few partial sets, then whole ones again."""
    sweeps_ms = uniform_sweeps_ms(10.0, 10.0)
    before = Rig(sweeps_ms[:50], {'A': 0.0, 'B': 2.0, 'C': 4.0})
    after = Rig(sweeps_ms[50:], {'A': 0.0, 'B': 2.0, 'C': 45.0})
    sync = synchronizer()
    sets = play(sync, [*before.frames(), *after.frames()])
    assert 2 <= sum(bool(s.missing) for s in sets) <= 8
    assert not any(s.missing for s in sets[-40:])


# ---- real stamps

@pytest.mark.skipif(not FRAMES.is_dir(), reason='shared/data/nuscenes_frames is not here')
def test_real_frames_join_and_unsynchronised_ones_never_do() -> None:
    """Six pictures of one sweep are one set; six from three neighbouring samples are none."""
    for meta_path in sorted(FRAMES.glob('*/meta.json')):
        meta = json.loads(meta_path.read_text())
        sync = FrameSynchronizer(NUSCENES, SyncConfig())
        frames = [Frame(camera, stamp_us * 1000, ARRIVAL_NS, make_frame(camera, 0).image)
                  for camera, stamp_us in meta['stamps_us'].items()]
        sets = play(sync, frames)
        if 'UNSYNCED' in meta['id']:
            # Four are of one sample, but the other two cameras send, too: nothing is believed.
            assert sets == [] and sync.drops['CAM_BACK', 'unsynchronised'] == 1
        else:
            assert [s.missing for s in sets] == [()]
            assert sets[0].spread_ms == pytest.approx(meta['stamp_spread_ms'], abs=1e-3)
