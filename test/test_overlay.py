# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Kept patches stay bright inside their rim, dropped ones turn dark and grey."""

from __future__ import annotations

import numpy as np
import pytest

from fastdrive_ros.core.overlay import draw_kept

RED = np.tile(np.uint8((200, 0, 0)), (40, 60, 1))


def grid(*kept_cells):
    mask = np.zeros((4, 6), bool)  # patches of 10 x 10 pixels
    for cell in kept_cells:
        mask[cell] = True
    return mask


def test_a_kept_patch_keeps_its_pixels_and_has_a_rim():
    drawn = draw_kept(RED, grid((1, 2)))
    assert drawn.shape == RED.shape
    assert drawn.dtype == np.uint8
    assert (drawn[11:19, 21:29] == RED[0, 0]).all()
    for edge in (drawn[10, 20:30], drawn[19, 20:30], drawn[10:20, 20], drawn[10:20, 29]):
        assert (edge[:, 1] > 150).all()  # the line is green, the picture has none


def test_dropped_patches_are_grey_and_dark():
    """Red 200 is grey 0.299 * 200 = 60, darkened to a third: 20."""
    drawn = draw_kept(RED, grid((1, 2)))
    dropped = np.ones((40, 60), bool)
    dropped[10:20, 20:30] = False
    assert (drawn[dropped] == drawn[0, 0, 0]).all()
    assert 15 <= drawn[0, 0, 0] <= 25


def test_neighbours_share_one_rim_and_a_faint_line_between():
    drawn = draw_kept(RED, grid((1, 2), (1, 3)))
    rim, between, inside = drawn[10, 25], drawn[15, 30], drawn[15, 31]
    assert inside.tolist() == [200, 0, 0]
    assert inside[1] < between[1] < rim[1]


def test_all_kept_and_none_kept():
    whole = draw_kept(RED, np.ones((4, 6), bool))
    assert (whole[1:9, 1:9] == RED[0, 0]).all()
    assert (whole[0, :, 1] > 150).all()
    assert len(np.unique(draw_kept(RED, grid()))) == 1


def test_grids_that_do_not_divide_the_picture_and_scaling():
    image = np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8)
    before = image.copy()
    assert draw_kept(image, grid((3, 5)), scale=3).shape == (135, 201, 3)
    assert np.array_equal(image, before)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r'found shapes \(40, 60, 3\) and \(24,\)'):
        draw_kept(RED, np.ones(24, bool))
