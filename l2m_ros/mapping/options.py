"""How maps are built and used: every default of this room, and nothing to import but numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.types import FloatArray

OFF, LOCALIZE, BUILD = "off", "localize", "build"
MODES = (OFF, LOCALIZE, BUILD)


@dataclass(frozen=True)
class ViewGates:
    """What a view must pass. Calibrated on half of two real sequences: of 480 pairs of images of
    different places none passes, of the pairs posed within 10 cm and 5 degrees 97 % do."""

    max_matches: int = 1000
    min_inliers: int = 60
    min_share: float = 0.3  # inliers among the matches
    min_coverage: float = 0.16  # of the query's cells, by inliers
    min_confidence: float = 0.38  # mean over the inliers; classical matchers have another scale
    min_likeness: float = 0.07  # see `likeness`; below, no match is worth computing
    # Mean over all matches; below, no pose is worth it. `lite`: right views have 0.61 at least,
    # the most alike ones of elsewhere 0.18 at most.
    alike_confidence: float = 0.19
    max_sigma_m: float = 0.06
    max_sigma_rad: float = 0.05
    agree_m: float = 0.01  # error that two keyframes may share beyond their covariances ...
    agree_rad: float = 0.009
    agree_most_m: float = 0.15  # ... and beyond which two views never agree
    agree_most_rad: float = 0.09


@dataclass(frozen=True)
class RelocalizerOptions:
    """Defaults live here; the node's parameters and the command line refer to them."""

    candidates: int = 10  # nearest descriptors that are looked at, at most
    tries: int = 8  # of them and of their neighbours that are matched, at most
    blind_tries: int = 5  # at most where none of them sees the place
    # Nearest descriptors whose cells are compared where none of the first ones is the place: 1.5 ms
    # each. Of 100 images of the second half of a kitchen's recording, asked of the first, ten had
    # no view among the nearest five; all of these had one among the five most alike of 48.
    compared: int = 60
    # Of `min_likeness`, around a keyframe that has seen the image: views from 0.5 m nearer have
    # 0.05 to 0.09, and half of their matches fit.
    around_likeness: float = 0.5
    promising: float = 0.1  # likeness of the best of those; below, none of them is matched
    turns_deg: tuple[float, ...] = (30.0, -30.0)  # of an image that was not found upright
    # ... and where it is not found so either: with these no roll is farther than 30 from a turn.
    far_turns_deg: tuple[float, ...] = (90.0, -90.0, 180.0, 135.0, -135.0)
    max_roll_deg: float = 180.0  # turns that only a camera rolled by more would need are left out
    borne_roll_deg: float = 20.0  # that matchers and descriptors bear
    closer_tries: int = 4  # keyframes that are looked at twice where one look found nothing, ...
    closer_blind_tries: int = 2  # ... and of these, before one is the place
    # Of the surest view. A table's top, enlarged twice: right poses 0.51 at least, one that was
    # 6 degrees off 0.44.
    closer_confidence: float = 0.5
    # Of the answer. One that was 6 degrees off had 0.026; of 48 right ones one had more than 0.019.
    closer_sigma_rad: float = 0.02
    agreeing: int = 3  # enough; two are the least ...
    strong: float = 0.3  # ... and enough where either has this share of inliers times coverage
    rival_similarity: float = 0.7  # of the best one's: another place this similar is tried too
    rival_m: float = 1.0  # farther apart, views are of two places
    # Share of the picture's detail that must be the map's too (see `appearance`); less is another
    # place that looks alike, or too much has changed. So many times as much may differ as does
    # between the map's own views (a room changes until the next day), and the margin; but never
    # more than leaves `min_detail`. Chosen on twins of a corridor by seeds 1 to 6 (own views 0.99
    # and more, twins 0.91 at most), on a kitchen and an office (0.87, 0.39; images 0.86, 0.46).
    # Where less than that is the same, the steady detail alone is asked (see `steady`), except in
    # maps of look-alikes. Images of a simulated room with other pictures in it have 0.27 to 0.48.
    min_detail: float = 0.5
    hinted_detail: float = 0.4  # enough where a hint says the same
    changes: float = 2.0
    own_detail_margin: float = 0.1
    detail_area: float = 0.005  # of the picture, with detail: on less of it nothing is said
    plain_detail: float = 0.95  # in one keyframe: no other one need be compared
    # Where places in the map were mistaken for each other so often, by keyframe, the margin is
    # smaller, and a picture with less detail than this is no answer: any such place has as much.
    repetitive: float = 0.05
    repetitive_margin: float = 0.05
    repetitive_area: float = 0.008
    clear_detail: float = 0.15  # by which one of two places must be ahead, not to be ambiguous
    hinted_tries: int = 3
    gates: ViewGates = field(default_factory=ViewGates)
    pose: PoseOptions = field(default_factory=PoseOptions)


@dataclass(frozen=True)
class MapperOptions:
    """Defaults live here; the node's parameters and the command line refer to them."""

    max_keyframes: int = 0  # 0 = as many as there are; else the most redundant ones are dropped
    features_mb: float = 60.0  # of stored features; later keyframes are encoded when needed
    depth_scale_m: float = 0.001  # of stored depth
    first_vocabulary: int = 12  # keyframes, before places can be recognised while driving
    last_vocabulary: int = 512  # at each doubling until here a new one is learnt
    loop_candidates: int = 6
    # A loop needs a second witness: the way driven so far, where it is known better than this ...
    way_most_m: float = 0.7
    way_most_rad: float = 0.5
    # ... or the detail of the pictures: this share of it the same from either side, on this share
    # of the picture. In a corridor of the simulator right loops have 0.84 at least; two of 38
    # wrong ones, of doors, have 0.85 and more, the rest 0.79 at most.
    loop_share: float = 0.85
    loop_area: float = 0.01
    recent: int = 2  # keyframes just before, also matched: they stiffen the chain
    gates: ViewGates = field(default_factory=ViewGates)
    pose: PoseOptions = field(default_factory=PoseOptions)

    def __post_init__(self) -> None:
        if self.max_keyframes < 0 or not self.features_mb >= 0:
            raise InvalidInput(
                "a map holds 0 (no bound) or more keyframes and 0 MB of features or more, got "
                f"{self.max_keyframes} and {self.features_mb}"
            )


@dataclass(frozen=True)
class PickerOptions:
    """A new view is one that differs by `every_m` from the keyframes of this drive."""

    every_m: float = 0.12  # metres, a turn counted as `places.VIEW_RAD_PER_M` says

    def __post_init__(self) -> None:
        if not 0 <= self.every_m < math.inf:
            raise InvalidInput(f"keyframes lie 0 metres or more apart, got {self.every_m}")


@dataclass(frozen=True)
class OnlineOptions:
    """Defaults live here; the node's parameters refer to them."""

    path: str = ""
    mode: str = OFF
    period_s: float = 1.0  # between relocalizations
    voxel_m: float = 0.05  # of the points that are shown
    nice: int = 15  # of its process: takes 3 % of a core that tracking wants, too; 10 takes 10 %
    mapper: MapperOptions = field(default_factory=lambda: MapperOptions(max_keyframes=2000))
    picker: PickerOptions = field(default_factory=PickerOptions)
    relocalizer: RelocalizerOptions = field(default_factory=RelocalizerOptions)


@dataclass(frozen=True, eq=False)
class Hint:
    """About where the camera is, and how sure that is."""

    map_from_camera: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, eq=False)
class MapFix:
    """Where odom lies in the map, as one image says."""

    stamp_ns: int
    map_from_odom: FloatArray
    map_from_camera: FloatArray  # at the stamp
    covariance: FloatArray  # of map_from_camera
    chain: int
    words: str

    def covariance_at(self, map_from_camera: FloatArray, of_odom: FloatArray | None) -> FloatArray:
        """6x6 of the camera now, by odometry since the fix. of_odom: of odom_from_camera, about the
        axes of odom; all of it counts, as of the time since nobody knows its share."""
        moved = se3.compose(se3.inverse(self.map_from_camera), map_from_camera)
        P = se3.compose_covariance(self.map_from_camera, self.covariance, moved, np.zeros((6, 6)))
        return P if of_odom is None else P + se3.transport_covariance(of_odom, self.map_from_odom)


MAPPER, PICKER, RELOCALIZER = MapperOptions(), PickerOptions(), RelocalizerOptions()
