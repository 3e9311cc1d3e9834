# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Shapes as arrays: sizes, outward normals, ribbons beside lines, walkers on their lines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastdrive_ros.sim.looks import WEATHERS
from fastdrive_ros.sim.looks import draw_look
from fastdrive_ros.sim.mesh import Mesh
from fastdrive_ros.sim.mesh import box
from fastdrive_ros.sim.mesh import merge
from fastdrive_ros.sim.mesh import parallel
from fastdrive_ros.sim.mesh import resample
from fastdrive_ros.sim.mesh import ribbon
from fastdrive_ros.sim.mesh import tube
from fastdrive_ros.sim.rules import Crossing
from fastdrive_ros.sim.rules import Moving
from fastdrive_ros.sim.walkers import Walker

GREY = (0.5, 0.5, 0.5)


def face_normals(mesh: Mesh) -> np.ndarray:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


@pytest.mark.parametrize('mesh', [
    box((4.0, 2.0, 1.0), GREY, 0.5), tube((1.0, 0.5), (0.5, 2.0), GREY)], ids=['box', 'tube'])
def test_shapes_face_outwards(mesh: Mesh):
    middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    outward = mesh.vertices[mesh.faces].mean(axis=1) - middle
    assert ((face_normals(mesh) * outward).sum(axis=1) > -1e-6).all()
    assert ((face_normals(mesh) * mesh.normals[mesh.faces[:, 0]]).sum(axis=1) > -1e-6).all()


def test_a_box_has_its_size_and_stands_where_it_is_put():
    mesh = box((4.0, 2.0, 1.0), GREY, 0.5).moved(10.0, 0.0, 0.0, math.pi / 2)
    np.testing.assert_allclose(mesh.vertices.min(axis=0), (9.0, -2.0, 0.5), atol=1e-6)
    np.testing.assert_allclose(mesh.vertices.max(axis=0), (11.0, 2.0, 1.5), atol=1e-6)


def test_merged_faces_point_at_their_own_vertices():
    both = merge([box((1, 1, 1), GREY), box((1, 1, 1), GREY).moved(5.0)])
    assert both.faces.max() == len(both.vertices) - 1
    assert (both.vertices[both.faces[-1], 0] > 4.0).all()


def test_a_ribbon_lies_to_the_left_and_looks_up():
    mesh = ribbon(np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]), 2.0, 1.0, GREY)
    np.testing.assert_allclose(sorted(set(mesh.vertices[:, 1].tolist())), (1.5, 2.5))
    assert (face_normals(mesh)[:, 2] > 0).all()


def test_parallel_and_resample_keep_distances():
    line = resample(np.array([[0.0, 0.0], [9.0, 0.0]]), 2.0)
    assert len(line) == 6 and np.allclose(np.diff(line[:, 0]), 1.8)
    np.testing.assert_allclose(parallel(line, -3.0)[:, 1], -3.0)


def test_the_same_draw_gives_the_same_look_and_all_weathers_come():
    assert draw_look(np.random.default_rng(7)) == draw_look(np.random.default_rng(7))
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(60)]
    assert {look.weather for look in looks} == set(WEATHERS)
    assert all(np.isclose(np.linalg.norm(look.sun_direction), 1.0) for look in looks)
    assert max(look.visibility_m for look in looks if look.weather == 'fog') < 250.0


def walker(**changes: object) -> Walker:
    line = np.column_stack([np.arange(0.0, 11.0), np.zeros(11)])
    return Walker(**{'line_m': line, 'speed_mps': 1.0, 'along_m': 5.0, 'forward': True, **changes})


FAR = np.array([500.0, 500.0])


def test_walkers_turn_round_at_the_end_of_their_line():
    one = walker(along_m=9.95)
    for _ in range(20):
        one.step(0.0, 0.1, FAR, [])
    assert not one.forward and one.along_m == pytest.approx(10.0 - 1.9)
    assert one.state().velocity_mps[0] == pytest.approx(-1.0)


def test_walkers_do_not_walk_into_a_car():
    one = walker()
    car = Moving(np.array([9.5, 0.0]), np.zeros(2), 0.0, 4.5)
    for _ in range(60):
        one.step(0.0, 0.1, FAR, [car])
    assert one.along_m < 9.5 - 2.25 and not one.walking
    one.step(0.0, 0.1, FAR, [])
    assert one.walking


def test_walkers_cross_while_the_cars_have_red_for_long_enough():
    road, other = ('a', 'b'), ('c', 'd')
    crossing = Crossing((road, other), 0.0, 10.0)  # red from 12 s to 28 s
    one = walker(along_m=0.0, crossing=crossing, road=road, walking=False)
    for time_s, starts in ((5.0, False), (20.0, False), (12.5, True)):
        one.along_m = 0.0
        one.step(time_s, 0.1, FAR, [])
        assert one.walking == starts


def test_who_crosses_anywhere_starts_when_the_car_comes_and_never_stands_in_the_road():
    one = walker(along_m=0.0, trigger_m=30.0, walking=False)
    one.step(0.0, 0.1, FAR, [])
    assert not one.walking
    one.step(0.1, 0.1, np.array([-20.0, 0.0]), [])
    assert one.walking
    for _ in range(200):
        one.step(0.0, 0.1, FAR, [])
    assert one.along_m >= 10.0 and not one.walking
