# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Both protocols on ways, boxes and roads small enough to count by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fastdrive_ros.metrics.collision import boxes_overlap
from fastdrive_ros.metrics.collision import raster_hits
from fastdrive_ros.metrics.footprint import EGO_MIDDLE_M
from fastdrive_ros.metrics.footprint import central_headings
from fastdrive_ros.metrics.footprint import corners
from fastdrive_ros.metrics.footprint import ego_boxes
from fastdrive_ros.metrics.footprint import inner_points
from fastdrive_ros.metrics.footprint import step_headings
from fastdrive_ros.metrics.judge import FrameTruth
from fastdrive_ros.metrics.judge import judge
from fastdrive_ros.metrics.judge import starts_off_road
from fastdrive_ros.metrics.protocols import FIGURES
from fastdrive_ros.metrics.protocols import RowFacts
from fastdrive_ros.metrics.protocols import SceneFacts
from fastdrive_ros.metrics.protocols import scene_sums

STEPS = 6
CELL_M, CELLS = 0.2, 512
# 4 m/s straight on.
STRAIGHT = np.stack([2.0 * np.arange(1, STEPS + 1), np.zeros(STEPS)], axis=-1)


def box(x_m: float, y_m: float, yaw_deg: float = 0.0, length_m: float = 4.0,
        width_m: float = 2.0) -> np.ndarray:
    return np.array([x_m, y_m, math.radians(yaw_deg), length_m, width_m])


def truth_of(boxes: np.ndarray | None = None, blocked: np.ndarray | None = None,
             vehicles: np.ndarray | None = None) -> FrameTruth:
    return FrameTruth(
        STRAIGHT, np.ones(STEPS, bool),
        np.full((STEPS, 1, 5), np.nan) if boxes is None else boxes, np.ones(STEPS, bool),
        np.zeros((STEPS, CELLS, CELLS), bool) if vehicles is None else vehicles, blocked, CELL_M)


def scene_facts(frames: int = 1, **given: np.ndarray) -> SceneFacts:
    yes, no = np.ones((frames, STEPS), bool), np.zeros((frames, STEPS), bool)
    return SceneFacts(**{
        'known': yes, 'boxes_known': yes, 'box_hits': no, 'cell_hits': no,
        'starts_off_road': no[:, 0], 'road_known': yes[:, 0],
        **dict.fromkeys(('foreground', 'things', 'foreground_tokens'), np.full(frames, np.nan)),
        **given})


def row_facts(frames: int = 1, **given: np.ndarray) -> RowFacts:
    no, zero = np.zeros((frames, STEPS), bool), np.zeros(frames)
    return RowFacts(**{
        'waypoints': np.zeros((frames, STEPS, 3), np.float32),
        'error_m': np.zeros((frames, STEPS), np.float32), 'box_hits': no, 'cell_hits': no,
        'off_road': no, 'num_tokens': np.zeros(frames, np.int64),
        'num_kept': np.zeros(frames, np.int64), 'kept': zero, 'foreground': zero, 'things': zero,
        'foreground_tokens': zero, **given})


def value(sums: dict[str, tuple[float, float, int]], name: str) -> float:
    numerator, denominator, _ = sums[name]
    return numerator / denominator


def test_names_of_figures_are_unique():
    assert len({figure.name for figure in FIGURES}) == len(FIGURES) == 26


def test_displacement_is_averaged_up_to_the_horizon_and_read_at_it():
    # Errors 0.1, 0.2, ... 0.6 m: to 1 s (0.1+0.2)/2, to 2 s 1.0/4, to 3 s 2.1/6.
    sums = scene_sums(scene_facts(), row_facts(
        error_m=np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])))
    found = [value(sums, f'l2_mean_{which}') for which in ('1s', '2s', '3s', 'avg')]
    assert found == pytest.approx([0.15, 0.25, 0.35, 0.25])
    assert [value(sums, f'l2_at_{which}') for which in ('1s', '2s', '3s', 'avg')] == (
        pytest.approx([0.2, 0.4, 0.6, 0.4]))


def test_displacement_is_a_distance_on_the_ground():
    plan = STRAIGHT + [(0.3, 0.4)] * STEPS
    assert judge(truth_of(), plan[None]).error_m[0] == pytest.approx([0.5] * STEPS)


def test_frames_with_an_unknown_step_do_not_count():
    known = np.ones((2, STEPS), bool)
    known[1, 5] = False
    sums = scene_sums(scene_facts(2, known=known), row_facts(
        2, error_m=np.array([[1.0] * STEPS, [9.0] * STEPS])))
    assert sums['l2_mean_avg'] == (pytest.approx(1.0), 1.0, 1)
    assert sums['collision_mean_box_avg'][1] == 1.0
    sums = scene_sums(scene_facts(2, boxes_known=known), row_facts(2))
    assert (sums['l2_mean_avg'][2], sums['collision_any_cell_avg'][2]) == (2, 1)


def test_collision_is_a_share_of_steps_or_any_step():
    # The fourth step hits: 2 s is steps 1 to 4, so 1/4 by steps; 3 s is 1/6.
    hits = np.array([[False, False, False, True, False, False]])
    sums = scene_sums(scene_facts(), row_facts(box_hits=hits, cell_hits=hits))
    assert [value(sums, f'collision_mean_box_{which}') for which in ('1s', '2s', '3s', 'avg')] == (
        pytest.approx([0, 1 / 4, 1 / 6, (1 / 4 + 1 / 6) / 3]))
    assert [value(sums, f'collision_any_cell_{which}') for which in ('1s', '2s', '3s', 'avg')] == (
        pytest.approx([0, 1, 1, 2 / 3]))


def test_steps_in_which_the_recorded_way_collides_are_no_collisions():
    hits = np.array([[False, True, True, False, False, False]])
    there = np.array([[False, True, False, False, False, False]])
    sums = scene_sums(scene_facts(box_hits=there, cell_hits=there),
                      row_facts(box_hits=hits, cell_hits=hits))
    assert value(sums, 'collision_mean_box_3s') == pytest.approx(1 / 6)
    assert [value(sums, f'collision_any_cell_{which}') for which in ('1s', '2s')] == [0, 1]


def test_boundary_needs_a_road_and_a_start_on_it():
    off = np.array([[False] * 5 + [True]] * 3)
    facts = scene_facts(3, starts_off_road=np.array([False, True, False]),
                        road_known=np.array([True, True, False]))
    sums = scene_sums(facts, row_facts(3, off_road=off))
    assert sums['boundary_any_cell_3s'] == (1.0, 2.0, 2)
    assert sums['boundary_any_cell_2s'] == (0.0, 2.0, 2)


def test_boxes_touch_or_not():
    # 4 x 2 m boxes: side by side they touch at 2 m, nose to tail at 4 m.
    here = box(0, 0)
    assert boxes_overlap(here, box(0, 1.99)) and not boxes_overlap(here, box(0, 2.01))
    assert boxes_overlap(here, box(3.99, 0)) and not boxes_overlap(here, box(4.01, 0))
    # A box across the way reaches 1 m to each side along it.
    assert boxes_overlap(here, box(2.99, 0, 90)) and not boxes_overlap(here, box(3.01, 0, 90))
    # On its corner, a square of side 2 reaches sqrt(2); diagonally off the corner it is clear.
    assert boxes_overlap(here, box(2 + 1.41, 0, 45, 2, 2))
    assert not boxes_overlap(here, box(2 + 1.42, 0, 45, 2, 2))
    assert not boxes_overlap(here, box(2 + 0.8, 1 + 0.8, 45, 2, 2))
    assert not boxes_overlap(here, np.full(5, np.nan))


def test_headings_follow_the_way():
    # Straight on for 4 m, then left at a right angle.
    way = np.array([(2.0, 0.0), (4.0, 0.0), (4.0, 2.0), (4.0, 4.0)])
    assert np.rad2deg(step_headings(way)) == pytest.approx([0, 0, 90, 90])
    assert np.rad2deg(central_headings(way)) == pytest.approx([0, 45, 90, 90])


def test_who_stands_keeps_a_heading():
    creeping = np.array([(0.01, 0.0), (0.02, 0.05), (0.03, -0.02)])
    assert central_headings(creeping).tolist() == step_headings(creeping).tolist() == [0, 0, 0]
    stopping = np.array([(0.0, 1.0), (0.05, 1.0), (0.0, 1.02)])
    assert np.rad2deg(step_headings(stopping)) == pytest.approx([90, 90, 90])


def test_the_vehicle_is_ahead_of_its_rear_axle():
    assert ego_boxes(np.zeros(2), np.array(math.pi / 2)) == pytest.approx(
        [0, 1.485793, math.pi / 2, 4.084, 1.85], abs=1e-12)
    assert corners(ego_boxes(np.zeros(2), np.array(0.0)))[0] == pytest.approx(
        (EGO_MIDDLE_M + 2.042, 0.925))
    points = inner_points(ego_boxes(np.zeros(2), np.array(0.0)), CELL_M)
    assert points.min(axis=0) == pytest.approx((EGO_MIDDLE_M - 2.042, -0.925))
    assert points.max(axis=0) == pytest.approx((EGO_MIDDLE_M + 2.042, 0.925))


def test_a_parked_car_is_hit_when_the_way_reaches_it():
    # Our nose is 3.528 m ahead of base_link: at 2, 4, 6 m it is at 5.5, 7.5, 9.5 m. The parked
    # car's tail is at 9 m, so steps 3 (x = 6) to 6 hit; one lane to the left nothing does.
    boxes = np.broadcast_to(box(11.0, 0.0), (STEPS, 1, 5))
    verdict = judge(truth_of(boxes), np.stack([STRAIGHT, STRAIGHT + (0.0, 3.5)]))
    assert verdict.box_hits.tolist() == [[False] * 2 + [True] * 4, [False] * 6]


def test_a_moving_box_is_met_at_its_own_time():
    boxes = np.full((STEPS, 2, 5), np.nan)
    boxes[1, 1] = box(5.0, 0.0)
    assert judge(truth_of(boxes), STRAIGHT[None]).box_hits[0].tolist() == (
        [False, True, False, False, False, False])


def test_cells_are_hit_where_the_body_covers_them():
    # Row 256 - 10 / 0.2 = 206: 10.0 to 10.2 m ahead, column 255: 0 to 0.2 m to the left.
    vehicles = np.zeros((STEPS, CELLS, CELLS), bool)
    vehicles[3, 256 - 51, 255] = True
    verdict = judge(truth_of(vehicles=vehicles), STRAIGHT[None])
    assert verdict.cell_hits[0].tolist() == [False, False, False, True, False, False]
    body = ego_boxes(np.zeros((1, 2)), np.zeros(1))
    left = np.zeros((1, CELLS, CELLS), bool)
    left[:, :, :256 - 5] = True                         # more than 1 m to the left
    assert not raster_hits(body, left, CELL_M) and raster_hits(body + [0, 0.1, 0, 0, 0], left,
                                                               CELL_M)


def test_the_edge_of_the_road_is_crossed():
    # Drivable up to 1.6 m to the left: half a width is 0.925 m, so 0.6 m aside is still on it.
    blocked = np.zeros((1, CELLS, CELLS), bool)
    blocked[:, :, :256 - 8] = True
    plans = np.stack([STRAIGHT + (0.0, aside_m) for aside_m in (0.0, 0.6, 0.75)])
    # The first step goes aside and so turns the body; later ones are straight.
    off_road = judge(truth_of(blocked=blocked), plans).off_road
    assert off_road[:, 1:].any(axis=1).tolist() == [False, False, True]
    assert not starts_off_road(truth_of(blocked=blocked))
    assert starts_off_road(truth_of(blocked=~blocked)) and not starts_off_road(truth_of())


def test_nothing_is_known_outside_of_the_raster():
    blocked = np.ones((1, CELLS, CELLS), bool)
    assert not raster_hits(box(60.0, 0.0)[None], blocked, CELL_M)
    assert raster_hits(box(52.0, 0.0)[None], blocked, CELL_M)  # its tail is inside


def test_shares_of_foreground():
    # Two frames of 8 tokens, 4 kept. Frame 0 has 3 foreground tokens: fits; frame 1 has 5.
    facts = scene_facts(2, foreground=np.array([4.0, 6.0]), things=np.array([1.0, 0.0]),
                        foreground_tokens=np.array([3.0, 5.0]))
    row = row_facts(2, num_kept=np.array([4, 4]), kept=np.array([4.0, 3.0]),
                    foreground=np.array([3.0, 3.0]), things=np.array([0.25, 0.0]),
                    foreground_tokens=np.array([2.0, 3.0]))
    sums = scene_sums(facts, row)
    assert {name: value(sums, name) for name in (
        'foreground_recall', 'foreground_recall_fits', 'fits', 'foreground_token_recall',
        'kept_foreground_share', 'miss_rate')} == pytest.approx({
            'foreground_recall': 6 / 10, 'foreground_recall_fits': 3 / 4, 'fits': 1 / 2,
            'foreground_token_recall': 5 / 8, 'kept_foreground_share': 6 / 7,
            'miss_rate': 0.75})
    assert sums['foreground_recall'][2] == 2 and sums['foreground_recall_fits'][2] == 1


def test_without_masks_or_tokens_there_is_no_foreground_figure():
    sums = scene_sums(scene_facts(), row_facts(num_kept=np.array([4]), kept=np.array([4.0])))
    assert sums['foreground_recall'] == sums['fits'] == (0.0, 0.0, 0)
    masked = dataclasses.replace(scene_facts(), foreground=np.array([2.0]))
    assert scene_sums(masked, row_facts())['foreground_recall'] == (0.0, 0.0, 0)
