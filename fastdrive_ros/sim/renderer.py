# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The scene, seen by the whole rig at once: Panda3D nodes -> RGB and class-id mask of each camera.

MetaDrive's own cameras are made for a graphics card: a tone-mapped 16x multisampled float buffer a
camera, shadow cascades, a terrain shader. Without one they need minutes a picture. Here all
cameras share one 8-bit buffer, and one pass gives picture and mask together: colours in RGB, the
class id in alpha. The pass draws 2x2 samples a pixel; RGB is their mean, the mask one of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fastdrive_ros.core.rig import Camera
from fastdrive_ros.sim.assets import SimError
from fastdrive_ros.sim.looks import Look

_SAMPLES = 2
_COLUMNS = 3
_NEAR_M, _FAR_M = 0.2, 900.0
_LIGHT_LEFT = 4.32  # 2 ** -4.32 is the 5 % left at `visibility_m`

_VERTEX = """
#version 150
uniform mat4 p3d_ModelViewProjectionMatrix;
uniform mat4 p3d_ModelViewMatrix;
uniform mat4 p3d_ModelMatrix;
uniform vec4 p3d_ColorScale;
uniform vec3 sun_direction, sun, ambient, gain;
uniform float glow;
in vec4 p3d_Vertex;
in vec3 p3d_Normal;
in vec4 p3d_Color;
in vec2 p3d_MultiTexCoord0;
out vec3 lit;
out vec3 eye;
out vec2 uv;
void main() {
  gl_Position = p3d_ModelViewProjectionMatrix * p3d_Vertex;
  vec3 n = normalize(mat3(p3d_ModelMatrix) * p3d_Normal);
  vec3 light = ambient * (0.75 + 0.25 * n.z) + sun * max(0.0, dot(n, sun_direction));
  lit = p3d_Color.rgb * p3d_ColorScale.rgb * mix(light, vec3(1.0), glow) * gain;
  eye = (p3d_ModelViewMatrix * p3d_Vertex).xyz;
  uv = p3d_MultiTexCoord0;
}
"""
_FRAGMENT = """
#version 150
uniform sampler2D p3d_Texture0;
uniform float class_id;
uniform vec3 fog;
uniform float fog_density;
in vec3 lit;
in vec3 eye;
in vec2 uv;
out vec4 result;
void main() {
  float clear = exp2(-fog_density * length(eye));
  result = vec4(mix(fog, lit * texture(p3d_Texture0, uv).rgb, clear), class_id / 255.0);
}
"""


@dataclass(frozen=True)
class Shot:
    """What one camera sees."""

    rgb: np.ndarray
    """uint8 (H, W, 3)."""
    mask: np.ndarray
    """uint8 (H, W), class ids of core/classes.py."""


class Renderer:
    """One off-screen buffer for the whole rig; one of them a process."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        """Open the buffer; raises SimError where the machine has no EGL."""
        from panda3d.core import NodePath
        from panda3d.core import Shader

        self.cameras = tuple(cameras)
        self.width, self.height = cameras[0].width, cameras[0].height
        self.scene = NodePath('scene')
        self.scene.set_shader(Shader.make(Shader.SL_GLSL, _VERTEX, _FRAGMENT))
        self.scene.set_shader_inputs(class_id=0.0, glow=0.0)
        self._rows = -(-len(cameras) // _COLUMNS)
        self._engine, self._buffer, self._texture = _open_buffer(
            self.width * _SAMPLES * _COLUMNS, self.height * _SAMPLES * self._rows)
        self._rig = self.scene.attach_new_node('rig')
        for index, camera in enumerate(cameras):
            self._add_camera(index, camera)
        self._noise = np.zeros((0, 0, 3), np.int8)
        self._drawn = 0

    def set_look(self, look: Look, rng: np.random.Generator) -> None:
        """Light the scene; ``rng`` draws the sensor noise."""
        self.scene.set_shader_inputs(
            sun_direction=look.sun_direction, sun=look.sun_rgb, ambient=look.ambient_rgb,
            fog=tuple(look.exposure * tint * rgb
                      for tint, rgb in zip(look.tint_rgb, look.horizon_rgb)),
            fog_density=_LIGHT_LEFT / look.visibility_m,
            gain=tuple(look.exposure * tint for tint in look.tint_rgb))
        self._noise = np.clip(rng.normal(0.0, 255.0 * look.noise, (
            2 * self.height, 2 * self.width, 3)), -127, 127).astype(np.int8)
        self._drawn = 0

    def shoot(self, x_m: float, y_m: float, yaw_rad: float) -> dict[str, Shot]:
        """Return what each camera sees with base_link at this place of the map."""
        self._rig.set_pos_hpr(x_m, y_m, 0.0, float(np.degrees(yaw_rad)), 0.0, 0.0)
        self._engine.render_frame()
        raw = memoryview(self._texture.get_ram_image())
        atlas = np.frombuffer(raw, np.uint8).reshape(
            self._rows * self.height * _SAMPLES, -1, 4)[::-1]
        self._drawn += 1
        return {camera.name: self._develop(index, atlas)
                for index, camera in enumerate(self.cameras)}

    def close(self) -> None:
        """Give the buffer back."""
        self._engine.remove_all_windows()

    def _develop(self, index: int, atlas: np.ndarray) -> Shot:
        h, w = self.height * _SAMPLES, self.width * _SAMPLES
        row, column = divmod(index, _COLUMNS)
        cell = atlas[row * h:(row + 1) * h, column * w:(column + 1) * w]
        mean = cv2.resize(np.ascontiguousarray(cell), (self.width, self.height),
                          interpolation=cv2.INTER_AREA)
        # Another part of the same noise for each camera and frame: drawing anew costs more than
        # rendering.
        top = (self._drawn * 37 + index * 101) % self.height
        left = (self._drawn * 53 + index * 71) % self.width
        noise = self._noise[top:top + self.height, left:left + self.width]
        rgb = cv2.add(cv2.cvtColor(mean, cv2.COLOR_BGRA2RGB), noise, dtype=cv2.CV_8U)
        return Shot(rgb, np.ascontiguousarray(cell[::_SAMPLES, ::_SAMPLES, 3]))

    def _add_camera(self, index: int, camera: Camera) -> None:
        from panda3d.core import Camera as PandaCamera
        from panda3d.core import LMatrix4
        from panda3d.core import PerspectiveLens

        lens = PerspectiveLens()
        lens.set_film_size(camera.width, camera.height)
        lens.set_focal_length(float(camera.k[0, 0]))
        lens.set_film_offset(camera.width / 2 - float(camera.k[0, 2]),
                             float(camera.k[1, 2]) - camera.height / 2)
        lens.set_near_far(_NEAR_M, _FAR_M)
        node = self._rig.attach_new_node(PandaCamera(camera.name, lens))
        # Panda3D looks along y with z up; rows are the images of its axes.
        right, down, forward = camera.rotation().T
        node.set_mat(LMatrix4(*right, 0.0, *forward, 0.0, *-down, 0.0, *camera.position_m, 1.0))
        row, column = divmod(index, _COLUMNS)
        top = 1.0 - row / self._rows
        region = self._buffer.make_display_region(
            column / _COLUMNS, (column + 1) / _COLUMNS, top - 1.0 / self._rows, top)
        region.set_camera(node)


def _open_buffer(width: int, height: int) -> tuple[Any, Any, Any]:
    from panda3d.core import FrameBufferProperties
    from panda3d.core import GraphicsEngine
    from panda3d.core import GraphicsOutput
    from panda3d.core import GraphicsPipe
    from panda3d.core import GraphicsPipeSelection
    from panda3d.core import Texture
    from panda3d.core import WindowProperties
    from panda3d.core import load_prc_file_data

    load_prc_file_data('', 'load-display p3headlessgl\nnotify-level-egldisplay error\n'
                           'textures-power-2 none\n')
    properties = FrameBufferProperties()
    properties.set_rgba_bits(8, 8, 8, 8)
    properties.set_depth_bits(24)
    pipe = GraphicsPipeSelection.get_global_ptr().make_module_pipe('p3headlessgl')
    # An engine of its own: MetaDrive's would draw at every step of the simulation.
    engine = GraphicsEngine()
    buffer = pipe and engine.make_output(
        pipe, 'rig', 0, properties, WindowProperties(size=(width, height)),
        GraphicsPipe.BF_refuse_window)
    if not buffer:
        raise SimError(
            'the simulator cannot draw: no EGL display without a screen was found. On Debian and '
            'Ubuntu: sudo apt install libgl1 libegl1 libgl1-mesa-dri; in a container without '
            f'/dev/dri that is enough, too (drawing runs on the processor). DISPLAY is '
            f'{os.environ.get("DISPLAY", "")!r}')
    texture = Texture('atlas')
    buffer.add_render_texture(texture, GraphicsOutput.RTM_copy_ram)
    return engine, buffer, texture


