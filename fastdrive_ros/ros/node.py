# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The planner as a ROS 2 lifecycle node: messages in, messages out, no arithmetic.

    configure   load, build and verify the models off the executor, heartbeat meanwhile
    activate    subscribe, start the worker
    deactivate  stop the worker, unsubscribe
    cleanup     free models and publishers

The executor thread only stores what comes (intake.py). One worker thread owns the models and
publishes. Run it: ``ros2 run fastdrive_ros planner_node`` or ``python -m fastdrive_ros.ros.node``.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.lifecycle import LifecycleState
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

from fastdrive_ros.assemble import Assembly
from fastdrive_ros.assemble import build_pipeline
from fastdrive_ros.assemble import early_pruning_note
from fastdrive_ros.assemble import ego_config
from fastdrive_ros.assemble import pipeline_settings
from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import check_required_cameras
from fastdrive_ros.config import pruning_method
from fastdrive_ros.config import sync_config
from fastdrive_ros.core.decode import decoder_name
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.intake import Intake
from fastdrive_ros.ros.diagnostics import Deadline
from fastdrive_ros.ros.diagnostics import Diagnostics
from fastdrive_ros.ros.inputs import Inputs
from fastdrive_ros.ros.messages import ERROR
from fastdrive_ros.ros.messages import WARN
from fastdrive_ros.ros.messages import kept_by_camera
from fastdrive_ros.ros.messages import make_header
from fastdrive_ros.ros.messages import make_status
from fastdrive_ros.ros.messages import ros_classes
from fastdrive_ros.ros.outputs import Outputs
from fastdrive_ros.ros.parameters import changed_settings
from fastdrive_ros.ros.parameters import declare_parameters
from fastdrive_ros.runtime.engine import EngineError

_HEARTBEAT_S = 0.5
_LOG_EVERY_S = 5.0


class PlannerNode(LifecycleNode):
    """Six camera topics and odometry in, trajectory and diagnostics out."""

    def __init__(self, **kwargs: Any) -> None:
        """Declare the parameters and start the heartbeat; raises ConfigError on a bad one."""
        super().__init__('fastdrive', automatically_declare_parameters_from_overrides=True,
                         **kwargs)
        self.settings = declare_parameters(self)
        self._classes = ros_classes()
        self._hardware_id = f'fastdrive_ros{self.get_fully_qualified_name()}'
        self._diagnostics = Diagnostics(self.settings['diagnostics.window_cycles'],
                                        self._deadline())
        self._assembly: Assembly | None = None
        self._intake: Intake | None = None
        self._inputs: Inputs | None = None
        self._outputs: Outputs | None = None
        self._worker: threading.Thread | None = None
        self._diagnostics_publisher = self.create_publisher(
            self._classes.make('diagnostic_msgs/msg/DiagnosticArray'), '/diagnostics',
            QoSProfile(depth=10))
        self._heartbeat = self.create_timer(self.settings['diagnostics.period_s'],
                                            self.publish_diagnostics, clock=_steady_clock())
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=True), post_callback=self._clock_jumped)
        self.add_on_set_parameters_callback(self._set_parameters)
        self.publish_diagnostics()

    # ---- transitions -------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load off this thread, publish the heartbeat from this one until it is done."""
        loading = _Loading(self.settings)
        loading.start()
        try:
            while not loading.finished.wait(_HEARTBEAT_S):
                if not self.context.ok():
                    return TransitionCallbackReturn.FAILURE
                self._diagnostics.loading(loading.progress)
                self.publish_diagnostics()
            assembly = loading.result()
        except (EngineError, ConfigError) as error:
            self._diagnostics.unloaded(ERROR, str(error))
            self.get_logger().error(str(error))
            self.publish_diagnostics()
            return TransitionCallbackReturn.FAILURE
        self._assembly = assembly
        self._outputs = Outputs(self, assembly.bundle, self.settings['output_frame'],
                                self._hardware_id)
        self._announce(assembly)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start planning."""
        assembly = self._assembly
        assert assembly is not None, 'the lifecycle activates only what is configured'
        assembly.synchronizer.reset()
        assembly.ego.reset()
        self._diagnostics.clear()
        self._intake = Intake(assembly.synchronizer, assembly.ego, self.settings['max_rate_hz'])
        self._reconfigure_intake()
        try:
            self._inputs = Inputs(self, self._intake, assembly.pipeline.prepare,
                                  assembly.bundle.cameras, self.settings)
        except Exception as error:  # rclpy turns it into a silent transition to errorprocessing
            self.get_logger().error(f'cannot subscribe: {error}')
            raise
        self._worker = threading.Thread(target=self._work, args=(self._intake,),
                                        name='planner', daemon=True)
        self._worker.start()
        self.get_logger().info(f'planning; listening to {self._inputs.describe()}')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop planning and unsubscribe; the models stay loaded."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything that configure made."""
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Leave nothing behind, from whichever state."""
        self._stop()
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Fall back to unconfigured; the reason is in the log and in the diagnostics."""
        self._stop()
        self._free()
        self._diagnostics.unloaded(ERROR, f'a transition from {state.label} failed: see the log')
        return TransitionCallbackReturn.SUCCESS

    def autostart(self) -> None:
        """Configure and activate; a failure leaves the node unconfigured and saying why."""
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def destroy_node(self) -> None:
        """Stop the worker and free the models before the handles go."""
        self._stop()
        self._free()
        self._jump_handle.unregister()
        super().destroy_node()

    # ---- one cycle ---------------------------------------------------------------------------

    def _work(self, intake: Intake) -> None:
        while (frame_set := intake.take()) is not None:
            try:
                self._cycle(intake, frame_set)
            except Exception as error:  # the one thread that plans must say so when it dies
                if not self.context.ok():
                    return  # told to stop while it was publishing
                self.get_logger().fatal(f'planning stopped: {type(error).__name__}: {error}')
                self._diagnostics.unloaded(ERROR, f'planning stopped: {error!r}')
                raise

    def _cycle(self, intake: Intake, frame_set: FrameSet) -> None:
        started_ns = time.monotonic_ns()
        result = self._assembly.pipeline.run(frame_set, intake.ego_at, self._now_ns)
        for camera, error in result.frame_errors.items():
            intake.drop_frame(camera, error.reason)
        published_from_ns = time.monotonic_ns()
        self._outputs.publish_plan(result)
        done_ns = time.monotonic_ns()
        stage_ms = {
            'convert': sum(frame.convert_ms for frame in frame_set.frames.values()),
            'sync': (frame_set.ready_ns - frame_set.first_arrival_ns) / 1e6,
            **result.stage_ms,
            'publish': (done_ns - published_from_ns) / 1e6,
            'end_to_end': (done_ns - frame_set.first_arrival_ns) / 1e6}
        processing_ms = (done_ns - started_ns) / 1e6
        bundle = self._assembly.bundle
        self._diagnostics.cycle_done(result, stage_ms, processing_ms)
        # Debug output comes after the plan is out and its latency is taken.
        self._outputs.publish_times(result, stage_ms, processing_ms, {
            'keep_ratio': self.settings['keep_ratio'],
            'spread_ms': frame_set.spread_ms,
            'backend': self._assembly.loaded.backend,
            'superseded': intake.counts().sets.get('superseded', 0),
            **kept_by_camera(result, bundle.cameras, bundle.tokens_per_camera)})
        self._outputs.publish_debug(result)
        if result.refusal:
            self.get_logger().warning(f'no plan: {result.refusal.reason}: {result.refusal.detail}',
                                      throttle_duration_sec=_LOG_EVERY_S)
        elif result.missing:
            self.get_logger().warning(f"planning without {', '.join(result.missing)}",
                                      throttle_duration_sec=_LOG_EVERY_S)

    # ---- heartbeat, clock and parameters -----------------------------------------------------

    def publish_diagnostics(self) -> None:
        """Publish the present state; called by the timer and while configure waits."""
        inputs, intake = self._inputs, self._intake
        if inputs:
            inputs.inspect_graph()
        statuses = self._diagnostics.statuses(
            active=self._worker is not None,
            counts=intake.counts() if intake else None,
            cameras=inputs.cameras if inputs else {},
            odometry=inputs.odometry if inputs else None)
        self._diagnostics_publisher.publish(
            self._classes.make('diagnostic_msgs/msg/DiagnosticArray')(
                header=make_header(self._classes, self._now_ns(), ''),
                status=[make_status(self._classes, f'{self.get_name()}: {name}', level, message,
                                    values, self._hardware_id)
                        for name, level, message, values in statuses]))

    def _clock_jumped(self, jump: Any) -> None:
        if self._intake:
            self._intake.reset()
            self._diagnostics.clear()
            self.get_logger().warning('the clock jumped back: pending frames and odometry dropped')

    def _set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            settings = changed_settings(self.settings, changes,
                                        configured=self._assembly is not None)
            if self._assembly:
                check_required_cameras(settings, self._assembly.bundle.cameras)
                pruning_method(settings, self._assembly.bundle.pruner_method)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.settings = settings
        self._diagnostics.deadline = self._deadline()
        if self._assembly:
            self._assembly.pipeline.settings = pipeline_settings(settings)
        self._reconfigure_intake()
        return SetParametersResult(successful=True)

    def _reconfigure_intake(self) -> None:
        if self._intake:
            self._intake.reconfigure(sync_config(self.settings),
                                     ego_config(self.settings, self._assembly.bundle),
                                     self.settings['max_rate_hz'])

    def _deadline(self) -> Deadline:
        return Deadline(self.settings['diagnostics.max_allowed_processing_time_ms'],
                        self.settings['diagnostics.max_acceptable_consecutive_delay_ms'])

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    # ---- taking down -------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._intake:
            self._intake.close()
        if self._worker:
            self._worker.join()
        if self._inputs:
            self._inputs.destroy()
        self._intake = self._worker = self._inputs = None

    def _free(self) -> None:
        if self._outputs:
            self._outputs.destroy()
        if self._assembly:
            self._assembly.pipeline.close()
            self._diagnostics.unloaded(WARN, 'not configured')
        self._outputs = self._assembly = None

    def _announce(self, assembly: Assembly) -> None:
        bundle, loaded = assembly.bundle, assembly.loaded
        note = early_pruning_note(bundle, self.settings['keep_ratio'])
        self._diagnostics.loaded({
            'bundle': bundle.name, 'bundle_path': bundle.path, 'trained': bundle.trained,
            'backend': loaded.backend, 'backend_reason': loaded.reason, 'device': loaded.device,
            'trouble': lambda: loaded.trouble or 'none',
            'precision': bundle.arithmetic, 'pruner': assembly.method,
            'early_pruning': note or 'none', 'jpeg_decoder': decoder_name()})
        self.get_logger().info(f'bundle {bundle.name} ({bundle.path}), pruner {assembly.method}, '
                               f'on {loaded.backend}: {loaded.reason}')
        if note:
            self.get_logger().info(note)
        if bundle.untrained:
            self.get_logger().warning(f'this bundle is untrained: {bundle.untrained}. Not for '
                                      'driving.')


class _Loading(threading.Thread):
    """build_pipeline on its own thread, because an engine build takes minutes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(name='load', daemon=True)
        self.finished = threading.Event()
        self.progress = 'starting'
        self._settings = dict(settings)
        self._assembly: Assembly | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Load; whatever goes wrong is raised again by ``result``."""
        try:
            self._assembly = build_pipeline(self._settings, self._note)
        except BaseException as error:  # noqa: BLE001 (raised again by result)
            self._error = error
        finally:
            self.finished.set()

    def result(self) -> Assembly:
        """Return what was loaded, or raise what went wrong."""
        if self._error is not None:
            raise self._error
        assert self._assembly is not None, 'result() is for after finished is set'
        return self._assembly

    def _note(self, progress: str) -> None:
        self.progress = progress


def _steady_clock() -> Any:
    # The heartbeat must not stop with /clock.
    from rclpy.clock import Clock
    from rclpy.clock import ClockType
    return Clock(clock_type=ClockType.STEADY_TIME)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop; exit code 2 means that a parameter was refused."""
    rclpy.init(args=args)
    node: PlannerNode | None = None
    try:
        node = PlannerNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.settings['autostart']:
            node.autostart()
        executor.spin()
    except ConfigError as error:
        print(f'fastdrive_ros: {error}', file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
