"""What of the images is the scene, and neither the robot itself (`own_parts`) nor something that
passes (`movers`). Tracking matches nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.matching.mask import Mask, of_size
from l2m_ros.tracking.movers import Movers, Stillness, View
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.own_parts import OwnParts
from l2m_ros.types import Frame


class Scenery:
    def __init__(self) -> None:
        self._movers, self._own_parts = Movers(), OwnParts()
        self.reset()

    def reset(self) -> None:
        self._own_parts.reset()
        self.forget_places()
        self.used: Mask | None = None  # (H, W) of every image: without the robot's parts; None: all

    def forget_places(self) -> None:
        """Odom's places are others from now on."""
        self._movers.reset()

    def see(
        self, frame: Frame, odometry: OdometrySample | None, mask: Mask | None, *, look: bool
    ) -> None:
        """Every frame. mask: what the user left out; look: whether to look for more."""
        if look:
            self._own_parts.see(frame, odometry)
        else:
            self._own_parts.reset()
        found = self._own_parts.used
        given = None if mask is None else of_size(mask, frame.camera.size)
        self.used = found if given is None else given if found is None else given & found

    @property
    def own_parts(self) -> str | None:
        """What was found of the robot, in words."""
        return self._own_parts.words

    def believe(self, view: View) -> None:
        """Of a posed frame."""
        self._movers.believe(self._of_scene(view))

    def stillness(self, view: View) -> Stillness:
        """Of a new keyframe, which is believed as well where its place is known."""
        return self._movers.stillness(self._of_scene(view))

    def _of_scene(self, view: View) -> View:
        if self.used is None:
            return view
        return replace(view, depth_m=np.where(self.used, view.depth_m, np.nan))
