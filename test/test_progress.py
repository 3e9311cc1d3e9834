# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Progress in a log: a line now and then with rate and time left, nothing in between."""

from __future__ import annotations

import pytest

from fastdrive_ros.tools import progress
from fastdrive_ros.tools.progress import showing


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch):
    clock = {'now_s': 0.0}
    monkeypatch.setattr(progress.time, 'monotonic', lambda: clock['now_s'])
    with showing('driving', 'frames', total=1000, done=100) as show:
        for clock['now_s'], done in ((10.0, 150), (40.0, 300), (50.0, 310), (80.0, 500)):
            show(done, '2 drives failed')
        show.say('a shard was torn')
    assert capsys.readouterr().err.splitlines() == [
        'driving: 300 of 1000 frames, 5.0 frames/s, 2 min left, 2 drives failed',
        'driving: 500 of 1000 frames, 5.0 frames/s, 2 min left, 2 drives failed',
        'a shard was torn']
