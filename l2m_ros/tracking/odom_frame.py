"""The odom frame as it is published: chains come and go, odom goes on (REP-105)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.tracking.chain import (
    Bridge,
    ChainEvent,
    UnseenMotion,
    anchored,
    bridge,
    locate,
    moved_along,
)
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.motion import SIGMAS, predicted
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.place import Place, Twist
from l2m_ros.tracking.velocity import twist_between
from l2m_ros.types import FloatArray, Frame, MetricPose, RelativePose


@dataclass(frozen=True, eq=False)
class Sighting:
    """When a frame was taken, and what odometry says of that moment."""

    stamp_ns: int
    odometry: OdometrySample | None
    base_from_camera: FloatArray | None
    unseen: UnseenMotion


def sighting_of(frame: Frame, odometry: OdometrySample | None, options: TrackerOptions) -> Sighting:
    gates = options.gates
    unseen = UnseenMotion(gates.max_speed_m_s, gates.max_turn_rad_s)
    return Sighting(frame.stamp_ns, odometry, options.base_from_camera, unseen)


BESIDE = 0  # stands for the chain of a keyframe that belongs to none yet; chains count from 1


class OdomFrame:
    """Remembers the newest place of each chain, and which chains agree with what was published."""

    def __init__(self) -> None:
        self._chains = 0  # begun so far; numbers are never used twice
        self.reset()

    def reset(self) -> None:
        """The next chain begins at the origin, in a new odom."""
        self._places: dict[int, Place] = {}
        self._published: Place | None = None
        self._agree: set[int] = set()
        self._beside: Place | None = None
        self._beside_chain = BESIDE
        self._said: tuple[int, int] | None = None  # chain and keyframe that were last told of

    def newest(self, chain: int) -> Place | None:
        """The newest place of a chain: its last pose, or where it began."""
        return self._places.get(chain)

    def newest_beside(self, chain: int) -> Place | None:
        """The newest place of a chain, or of the keyframe beside it if that is newer."""
        own, beside = self.newest(chain), self._beside
        if beside is None or self._beside_chain != chain:
            return own
        return beside if own is None or own.stamp_ns < beside.stamp_ns else own

    def moving(self, chain: int, gates: GateOptions) -> Place | None:
        """What the next pose is held against: the newest place with the velocity that it had.

        Where nothing was posed yet, with the last known one, and what it may have become since.
        """
        beside = self._beside
        if chain == BESIDE:
            seen = beside and replace(beside, unseen_m=0.0, unseen_rad=0.0)  # from there on
            return self._as_before(seen, gates) if seen and seen.keyframe < 0 else seen
        place = self.newest_beside(chain)
        unknown = place is not None and place.twist is None
        return self._as_before(place, gates) if unknown else place

    def _as_before(self, place: Place | None, gates: GateOptions) -> Place | None:
        """The place with the velocity of what was published last."""
        last = self._published
        if place is None or last is None or last.twist is None or place.stamp_ns < last.stamp_ns:
            return place
        later_s = (place.stamp_ns - last.stamp_ns) * 1e-9
        most = [gates.max_acceleration_m_s2] * 3 + [gates.max_turn_acceleration_rad_s2] * 3
        changed = np.diag((np.array(most) * later_s / SIGMAS) ** 2)
        return replace(place, twist=Twist(last.twist.velocity, last.twist.covariance + changed))

    def begin_beside(self, now: Sighting, chain: int, gates: GateOptions) -> FloatArray:
        """odom_from_camera of a frame that matched nothing, as far as the velocity tells."""
        last = self._places.get(chain)
        expected = predicted(last, now.stamp_ns, gates)
        at = np.eye(4) if expected is None else expected.odom_from_camera
        beside = self._place(BESIDE, now, Bridge(at, np.zeros((6, 6)), "", 0, 0))
        if last is None or expected is None:  # it says nothing of the chain
            self._beside, self._beside_chain = beside, BESIDE
            return at
        self._beside_chain = chain
        self._beside = replace(
            beside,
            twist=last.twist,
            unseen_m=expected.radius_m,
            unseen_rad=expected.radius_rad,
        )
        return at

    def go_on_beside(self, keyframe: Keyframe, pose: MetricPose, now: Sighting) -> None:
        """A frame was posed against the keyframe beside the chain."""
        before = self._beside
        if before is None:
            return
        place = replace(
            self._located(keyframe, pose, now),
            unseen_m=before.unseen_m,
            unseen_rad=before.unseen_rad,
        )
        same = replace(before, keyframe=keyframe.id)
        self._beside = replace(place, twist=twist_between(same, place))

    def begin(
        self, now: Sighting, seen: tuple[Keyframe, RelativePose] | None
    ) -> tuple[int, Bridge]:
        """A new chain's number and where it begins; `seen`: the turn since a keyframe, if known."""
        self._chains += 1
        start = bridge(
            self._published, now.stamp_ns, now.odometry, now.base_from_camera, now.unseen
        )
        if seen is not None:
            start = _rotate_bridge(start, *seen)
        if self._published is None:  # odom is defined by this moment
            self._published = self._place(self._chains, now, start)
        self._agree.add(self._chains)
        return self._chains, start

    def rejoin(self, keyframe: Keyframe, pose: MetricPose, now: Sighting) -> Keyframe:
        """The keyframe where odom goes on, if its chain ended before what was published since."""
        if keyframe.chain in self._agree:
            return keyframe
        start = bridge(
            self._published, now.stamp_ns, now.odometry, now.base_from_camera, now.unseen
        )
        return anchored(keyframe, pose, start)

    def publish(self, keyframe: Keyframe, pose: MetricPose, now: Sighting) -> Place:
        """The place of a posed frame, which is published."""
        place, before = self._located(keyframe, pose, now), self._places.get(keyframe.chain)
        goes_on = keyframe.chain in self._agree
        place = replace(place, twist=twist_between(before, place) if goes_on else None)
        self._places[keyframe.chain] = self._published = place
        self._agree = {keyframe.chain}
        return place

    def _located(self, keyframe: Keyframe, pose: MetricPose, now: Sighting) -> Place:
        located = locate(keyframe, pose)
        return Place(
            now.stamp_ns,
            located.odom_from_camera,
            located.covariance,
            keyframe.chain,
            keyframe.id,
            pose.keyframe_from_camera,
            pose.covariance,
            now.odometry,
        )

    def keep(self, keyframe: Keyframe, odometry: OdometrySample | None) -> None:
        """A new keyframe: what follows is relative to it."""
        if self._said is not None and self._said[0] == keyframe.chain:
            self._said = (keyframe.chain, keyframe.id)
        before = self._places.get(keyframe.chain)
        same = before is not None and before.stamp_ns == keyframe.frame.stamp_ns
        self._places[keyframe.chain] = Place(
            keyframe.frame.stamp_ns,
            keyframe.odom_from_keyframe,
            keyframe.odom_covariance,
            keyframe.chain,
            keyframe.id,
            np.eye(4),
            np.zeros((6, 6)),
            odometry,
            before.twist if before is not None and same else None,
        )

    def forget_all_but(self, chains: Iterable[int]) -> None:
        """Chains without a keyframe that could be found again."""
        kept = set(chains)
        self._places = {chain: place for chain, place in self._places.items() if chain in kept}

    def event(self, keyframe: Keyframe, now: Sighting, why: str) -> ChainEvent | None:
        """A ChainEvent if the keyframe's chain is not the one last reported, else None."""
        before = self._said
        if before is not None and before[0] == keyframe.chain:
            self._said = (keyframe.chain, keyframe.id)
            return None
        self._said = (keyframe.chain, keyframe.id)
        last = self._published
        if before is None and keyframe.chain > 1:
            why = f"{why}; odom begins anew at the origin"
        if before is None or last is None or last.chain == keyframe.chain:
            anew = before is None and keyframe.chain > 1
            return ChainEvent(keyframe.chain, keyframe.id, now.stamp_ns, why, anew=anew)
        seconds = (now.stamp_ns - last.stamp_ns) * 1e-9
        sigma_m, sigma_rad = now.unseen.sigmas(seconds)
        known = now.odometry is not None and last.odometry is not None
        return ChainEvent(
            keyframe.chain,
            keyframe.id,
            now.stamp_ns,
            why,
            *before[::-1],
            "odometry" if known else "nothing",
            sigma_m,
            sigma_rad,
        )

    def _place(self, chain: int, now: Sighting, start: Bridge) -> Place:
        return Place(
            now.stamp_ns,
            start.odom_from_camera,
            start.covariance,
            chain,
            -1,
            np.eye(4),
            np.zeros((6, 6)),
            now.odometry,
        )


def moved_chain(keyframes: Iterable[Keyframe], before: Keyframe, after: Keyframe) -> list[Keyframe]:
    """The keyframes, those of the moved one's chain moved with it."""
    return [
        after
        if kept is before
        else moved_along(kept, before, after)
        if kept.chain == before.chain
        else kept
        for kept in keyframes
    ]


def _rotate_bridge(start: Bridge, keyframe: Keyframe, pose: RelativePose) -> Bridge:
    """The bridge with the rotation that the images show; a direction without length is not used."""
    R_odom = keyframe.odom_from_keyframe[:3, :3]
    P = start.covariance.copy()
    P[3:, 3:] = keyframe.odom_covariance[3:, 3:]
    if pose.covariance is not None:
        P[3:, 3:] += R_odom @ pose.covariance[3:, 3:] @ R_odom.T
    P[:3, 3:] = P[3:, :3] = 0.0
    R = R_odom @ pose.keyframe_from_camera[:3, :3]
    T = se3.compose(se3.transform(R, start.odom_from_camera[:3, 3]))
    return replace(start, odom_from_camera=T, covariance=P)
