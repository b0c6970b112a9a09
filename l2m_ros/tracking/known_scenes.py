"""The depth of keyframes' scenes: measured by odometry's motion, handed on from one to the next.

What such a scene is good for is in `scene_scale.py`, how it is triangulated in `parallax.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from l2m_ros.geometry.scene_depth import SceneDepth
from l2m_ros.tracking import parallax, scene_scale
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.types import MetricPose


class KnownScenes:
    """By keyframe, with the time since odometry has agreed with them."""

    def __init__(self) -> None:
        self._scenes: dict[int, SceneDepth] = {}
        self._sharpest = -1, 0.0  # a keyframe, and the least shape sigma of frames posed by it
        self._agreed_ns = self._learned_ns = 0  # odometry agreed last; a scene became known

    def of(self, keyframe: Keyframe) -> SceneDepth | None:
        return self._scenes.get(keyframe.id)

    def in_metres(self, seen: MatchedFrame) -> SceneDepth | None:
        """Of the keyframe, if odometry has agreed with it for long enough, and not long ago."""
        scene = self.of(seen.keyframe)
        if scene is None:
            return None
        established = self._agreed_ns - self._learned_ns >= scene_scale.ESTABLISHED_NS
        carried_ns = seen.frame.stamp_ns - self._agreed_ns
        return scene if established and carried_ns <= scene_scale.MAX_CARRIED_NS else None

    def agree(self, seen: MatchedFrame) -> None:
        """Odometry agrees with the scene."""
        self._agreed_ns = seen.frame.stamp_ns

    def learn(self, seen: MatchedFrame, pose: MetricPose) -> None:
        """The depth of a keyframe's scene, once a motion that odometry measured shows it."""
        keyframe = seen.keyframe
        if pose.scale_source != parallax.SOURCE or keyframe.id in self._scenes:
            return
        scene = _sure(parallax.learned_scene(keyframe, seen.frame, seen.pairs, pose))
        if scene is not None:
            self._scenes[keyframe.id] = scene
            self._agreed_ns = self._learned_ns = seen.frame.stamp_ns

    def hand_over(self, seen: MatchedFrame, pose: MetricPose, keyframe: Keyframe) -> None:
        """A posed frame became a keyframe: what its own keyframe knew is passed on to it."""
        scene = self._in_query(seen, pose)
        if scene is None:
            return
        self._scenes[keyframe.id] = scene
        if seen.keyframe.id not in self._scenes:
            self._agreed_ns = self._learned_ns = seen.frame.stamp_ns

    def keyframe_due(self, seen: MatchedFrame, pose: MetricPose, wanted: bool) -> bool:
        """Whether to take this frame as a keyframe.

        Where a known scene alone gives the metres: while the frame knows the scene well enough.
        """
        if pose.scale_source != scene_scale.SOURCE or seen.odometry is not None:
            return wanted
        scene = self._in_query(seen, pose)
        keyframe, best = self._sharpest
        if scene is not None:
            new = scene.shape_sigma
            best = min(new, best) if keyframe == seen.keyframe.id else new
            self._sharpest = seen.keyframe.id, best
        return scene_scale.keyframe_due(scene, best, wanted)

    def _in_query(self, seen: MatchedFrame, pose: MetricPose) -> SceneDepth | None:
        """What a posed frame knows of the scene that its keyframe knew."""
        known = self.of(seen.keyframe)
        scene, views = None, (seen.keyframe, seen.frame, seen.pairs, pose)
        if pose.scale_source == parallax.SOURCE:
            scene = parallax.depth_in_query(*views, known)
        elif pose.scale_source == scene_scale.SOURCE:
            scene = parallax.depth_in_query(*views, None)  # its metres are the known scene's own
        scene = _sure(scene)
        if scene is None and known is not None:
            scene = _sure(scene_scale.carried_scene(seen.keyframe, seen.pairs, pose, known))
        return scene

    def forget_all_but(self, keyframes: Iterable[int]) -> None:
        kept = set(keyframes)
        self._scenes = {id: scene for id, scene in self._scenes.items() if id in kept}


def _sure(scene: SceneDepth | None) -> SceneDepth | None:
    """The scene, if its scale is worth remembering."""
    return None if scene is None or scene.sigma > scene_scale.MAX_SIGMA else scene
