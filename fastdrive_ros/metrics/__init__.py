# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plans and kept tokens -> open-loop figures under both published protocols; numpy only."""
