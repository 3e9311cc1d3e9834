# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
MetaDrive's environment without its windows, with roads and traffic drawn from one seed.

Only its physics, roads and drivers run; what is seen is drawn by sim/renderer.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from metadrive.component.map.pg_map import PGMap
from metadrive.component.navigation_module.node_network_navigation import NodeNetworkNavigation
from metadrive.component.pgblock.first_block import FirstPGBlock
from metadrive.constants import Decoration
from metadrive.engine.base_engine import BaseEngine
from metadrive.envs.metadrive_env import MetaDriveEnv
from metadrive.manager.pg_map_manager import PGMapManager
from metadrive.manager.traffic_manager import PGTrafficManager

from fastdrive_ros.sim.driver import LawfulPolicy

STEP_S = 0.1
_GAP_M = 14.0
_EGO_GAP_M = 18.0
_SPAWN_M = 5.0
_UNSEEN_M = 90.0
_MOST_VEHICLES = 18

# Nothing is drawn by MetaDrive, so its own download of pictures is never needed.
BaseEngine.try_pull_asset = lambda self: None


class RoadManager(PGMapManager):
    """Makes every map anew from the seed, and keeps none."""

    def __init__(self) -> None:
        """Skip the parent's table with a row for every possible seed."""
        super(PGMapManager, self).__init__()
        self.current_map = None
        self.maps = {}

    def reset(self) -> None:
        """Build the map that the environment's configuration describes."""
        config = self.engine.global_config['map_config']
        self.current_map = self.spawn_object(PGMap, map_config=config.copy(), random_seed=None)


class TrafficManager(PGTrafficManager):
    """Vehicles on every road, both directions, moving from the start; for who leaves one joins."""

    def reset(self) -> None:
        """Fill the lanes to the configured density, from the ego vehicle outwards."""
        self._traffic_vehicles = []
        self.block_triggered_vehicles = []
        self._free_lanes = self._lanes()
        density = self.engine.global_config['traffic_density']
        network = self.engine.current_map.road_network
        first = network.graph[FirstPGBlock.NODE_1][FirstPGBlock.NODE_2][0]
        ego = np.array(first.position(_SPAWN_M, 0.0))  # it is put there only after us
        places = [(float(np.linalg.norm(np.array(lane.position(along, 0.0)) - ego)), lane, along)
                  for lane in self._free_lanes
                  for along in np.arange(6.0, lane.length - 8.0, _GAP_M)]
        wanted = [place for place in places
                  if self.np_random.rand() < density and place[0] > _EGO_GAP_M]
        # The nearest: each costs as much time as a third of a picture.
        for _, lane, along in sorted(wanted, key=lambda place: place[0])[:_MOST_VEHICLES]:
            self._spawn(lane, float(along))

    def before_reset(self) -> None:
        """Forget the vehicles of the last episode."""
        super(PGTrafficManager, self).before_reset()
        self._traffic_vehicles = []
        self.block_triggered_vehicles = []

    def before_step(self) -> dict[str, Any]:
        """Let everybody decide."""
        for vehicle in self._traffic_vehicles:
            vehicle.before_step(self.engine.get_policy(vehicle.name).act())
        return {}

    def after_step(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Remove those who left the road or reached their end."""
        for vehicle in list(self._traffic_vehicles):
            vehicle.after_step()
            if not vehicle.on_lane:
                self._traffic_vehicles.remove(vehicle)
                self.clear_objects([vehicle.id])
                self._join()
        return {}

    @property
    def moving(self) -> Sequence[Any]:
        """The vehicles, in the order in which they were made."""
        return self._traffic_vehicles

    def _join(self) -> None:
        """Let somebody join where nobody sees it and nobody stands; no place, nobody joins."""
        lane = self._free_lanes[self.np_random.randint(len(self._free_lanes))]
        place = np.array(lane.position(lane.length / 2, 0.0))
        others = [np.array(other.position) for other in self._traffic_vehicles]
        ego = np.array(self.engine.agents['default_agent'].position)
        if (np.linalg.norm(place - ego) > _UNSEEN_M
                and all(np.linalg.norm(place - other) > _GAP_M for other in others)):
            self._spawn(lane, float(lane.length / 2))

    def _lanes(self) -> list[Any]:
        """Return the lanes, outside crossings, from which a vehicle can get somewhere."""
        graph = self.engine.current_map.road_network.graph
        self._goals = {node: _ends(graph, node) for node in graph if node != Decoration.start}
        return [lane for start, ends in graph.items() if self._goals.get(start)
                for lanes in ends.values() for lane in lanes
                if lane.metadrive_type == 'LANE_SURFACE_STREET' and lane.length > 20.0]

    def _spawn(self, lane: Any, along_m: float) -> None:
        goals = self._goals[lane.index[0]]
        config = {**self.engine.global_config['traffic_vehicle_config'],
                  'spawn_lane_index': lane.index, 'spawn_longitude': along_m,
                  'destination': goals[self.np_random.randint(len(goals))]}
        vehicle = self.spawn_object(self.random_vehicle_type(), vehicle_config=config)
        self.add_policy(vehicle.id, LawfulPolicy, vehicle, self.generate_seed())
        policy = self.engine.get_policy(vehicle.id)
        policy.NORMAL_SPEED = float(self.np_random.uniform(22.0, 45.0))
        self._traffic_vehicles.append(vehicle)


def _ends(graph: Mapping[str, Mapping[str, Any]], start: str) -> list[str]:
    """Return the nodes that can be reached from one and where the roads end."""
    seen, waiting = {start}, [start]
    while waiting:
        for node in graph.get(waiting.pop(), ()):
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return sorted(node for node in seen - {start} if not graph.get(node))


class QuietEnv(MetaDriveEnv):
    """MetaDriveEnv with our roads, traffic and drivers, and nothing observed."""

    def setup_engine(self) -> None:
        """Register our managers in place of MetaDrive's."""
        super(MetaDriveEnv, self).setup_engine()
        self.engine.register_manager('map_manager', RoadManager())
        self.engine.register_manager('traffic_manager', TrafficManager())

    def restart(self, seed: int, roads: str, lanes: int, lane_width_m: float,
                density: float) -> None:
        """Start the episode of a seed."""
        self.config['map_config'].update({
            'type': 'block_sequence', 'config': roads, 'lane_num': lanes,
            'lane_width': lane_width_m, 'seed': seed})
        self.config['traffic_density'] = density
        self.config['start_seed'] = self.start_index = self.start_seed = seed
        self.reset(seed=seed)


def make_env() -> QuietEnv:
    """Return the environment; one of them a process (MetaDrive's engine is a singleton)."""
    return QuietEnv({
        'use_render': False, 'image_observation': False, 'num_scenarios': 1, 'start_seed': 0,
        'store_map': False, 'force_destroy': True, 'agent_policy': LawfulPolicy,
        'log_level': logging.ERROR,
        'random_spawn_lane_index': True, 'horizon': None, 'on_continuous_line_done': False,
        'vehicle_config': {
            'navigation_module': NodeNetworkNavigation, 'show_navi_mark': False,
            'lidar': {'num_lasers': 0, 'distance': 50, 'num_others': 0, 'gaussian_noise': 0.0,
                      'dropout_prob': 0.0, 'add_others_navi': False}}})


