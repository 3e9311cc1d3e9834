# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names to arrays: the engine protocol, its backends, the model bundle and the engine cache."""
