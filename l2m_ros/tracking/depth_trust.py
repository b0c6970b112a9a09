"""Is the depth of this scene, of this camera, of this moment? A verdict a frame, and a reputation.

    contradicted   the matches show parallax, and depth leaves most of it unexplained; or the
                   median match lies further off than twice the depth noise allows
    confirmed      they show parallax, and depth explains it
    silent         no parallax: any depth would do, and a pose says little of translation

A stream of depth that was contradicted in several of the last frames is not believed where nothing
checks it, and elsewhere where it fits closely. A camera that is lost is matched with places that it
does not see, and so contradicts a right depth too. Therefore a frame has one vote whatever it was
tried against, matches that do not agree among themselves have none, one keyframe alone does not
ruin a reputation, and what is confirmed closely is believed whatever was before.

What depth leaves over is remembered as well: depth of an unrelated plane fits one frame in four or
five by accident, the geometric mean of many never. (Right depth of an office and of a kitchen is at
0.3 to 0.45, another plane's at 2.6 to 6.) Here noise is what this sensor's own frames showed it to
be (`depth_noise`), not what is claimed: views far apart show more of it.

A common factor on all depths is not seen: translation grows with it and every ratio stays. Only
odometry could tell; `pose.depth_scale_sigma` admits what calibration leaves.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from l2m_ros.tracking.depth_noise import DepthNoiseWatch
from l2m_ros.tracking.trust import EXPLAINED, TrustOptions
from l2m_ros.types import DepthCheck, Lost, LostReason, MetricPose

DEPTH, STEREO = "depth", "stereo"  # the frames' own, of `SCALE_SOURCES`
CLEARED_AFTER = 2  # confirmations in a row at least
CLEARED_SHARE = 0.7  # ... and of the remembered votes against, so many
REMEMBERED = 10  # verdicts of frames that could be checked
PARALLAX = 2.0  # squared, over what noise explains: less shows nothing
# With the right depth a camera that stands leaves over what a rotation does, 1.2 times at most.
WORSE_THAN_NONE, SLACK = 2.0, 0.1
CLOSE_MISFIT = 0.8  # without parallax right depth of real cameras is at 0.7 and less
# Squared ranges over their noise: off by, where they changed by so much. Right depth of a shaken
# camera is at 2 and less of 10 to 170 in half of such frames; of 158 with wrong depth 19 are, and
# their poses are right.
FOLLOWS, CHANGED = 2.0, 10.0
# Of the matches, agreeing on a two-view geometry: real views of one place have 0.8 and more, a view
# that is tried against another place 0.3 to 0.74.
MIN_AGREED = 0.75
# Share of the matches that agree on a pose by depth, and by how much it exceeds that of two views,
# where these are no witness: before flat screens they agree on 0.5 to 0.7 of them, depth on 0.9.
SUPPORTED, BY_MORE = 0.85, 0.15
# Parallax, squared, over what noise explains, and the share of it that may be left, within the
# noise. Of 96 frames with wrong depth that its record spoke against, 10 left no more than noise of
# a parallax of 10 and more, and their poses were right.
LARGE_PARALLAX, LITTLE_LEFT = 25.0, 0.02
RECORD, LEAST_RECORD = 15, 2  # frames whose mean is taken
MOST_LEFT_OVER = 1.0  # geometric mean: what noise explains
# ... of a stereo pair, whose rows and columns a calibration leaves up to a pixel off: a car's is at
# 0.6, with its right image moved by a column at 1.1, with that of the moment before at 13 to 20.
MOST_LEFT_OVER_STEREO = 2.0
SMALLEST = 0.1  # added to each: how little is left over says no more
LARGEST_LOG = 2.5  # one frame is not the whole record
MIN_KEYFRAMES = 2  # contradicted by so many different ones


class DepthVerdict(enum.Enum):
    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    SILENT = "silent"


def judge(
    check: DepthCheck | None,
    options: TrustOptions,
    distrusted: bool = False,
    support: float = 0.0,
) -> DepthVerdict:
    """distrusted: depth was contradicted lately, so that only a close fit confirms it. support: of
    the pose by depth."""
    if check is None or check.rotation_only == 0.0:
        return DepthVerdict.SILENT
    unexplained = options.max_depth_unexplained * check.rotation_only
    left_over_bound = min(
        max(EXPLAINED, unexplained), WORSE_THAN_NONE * check.rotation_only + SLACK
    )
    if (
        check.misfit > _misfit_bound(check, options, distrusted, support)
        or check.left_over > left_over_bound
    ):
        return DepthVerdict.CONTRADICTED
    # Parallax that noise might explain as well as depth does not restore a bad reputation.
    shown = check.rotation_only > PARALLAX and not (distrusted and check.left_over > unexplained)
    return DepthVerdict.CONFIRMED if shown else DepthVerdict.SILENT


def _beyond_doubt(check: DepthCheck | None) -> bool:
    """Whether depth explains so large a parallax so well that it is of this scene and moment."""
    if check is None or check.agreed < MIN_AGREED:
        return False
    large = check.rotation_only > LARGE_PARALLAX
    return large and check.left_over < min(EXPLAINED, LITTLE_LEFT * check.rotation_only)


def _misfit_bound(
    check: DepthCheck, options: TrustOptions, distrusted: bool, support: float
) -> float:
    """Edges and holes misfit by parallax; where there is none, only ranges are left to misfit.

    Two views that agree on fewer matches than depth does measure neither well.
    """
    better = support >= SUPPORTED and support > check.agreed + BY_MORE
    if (check.rotation_only > PARALLAX or better) and not distrusted:
        return options.max_depth_misfit
    return min(options.max_depth_misfit, check.left_over + CLOSE_MISFIT)


def _follows(check: DepthCheck | None) -> bool:
    """Whether the ranges changed with the turn of the matches, as those of this camera do."""
    if check is None or check.ranges is None:
        return False
    off, changed = check.ranges
    return off <= FOLLOWS and changed >= CHANGED


@dataclass(eq=False)
class _Vote:
    """Of one frame."""

    confirmed: bool = False
    contradicted_by: set[int] = field(default_factory=set)  # keyframes

    @property
    def counts(self) -> bool:
        return self.confirmed or bool(self.contradicted_by)

    @property
    def contradicted(self) -> bool:
        return not self.confirmed and bool(self.contradicted_by)


class DepthTrust:
    """Remembers the last votes, until enough confirmations in a row clear them."""

    def __init__(self, most_left_over: float = MOST_LEFT_OVER) -> None:
        self._most_left_over = most_left_over
        self.reset()

    def reset(self) -> None:
        self._votes: deque[_Vote] = deque(maxlen=REMEMBERED)
        self._logs: deque[float] = deque(maxlen=RECORD)  # of what depth left over, one a frame
        self.noise = DepthNoiseWatch()
        self.next_frame()

    def next_frame(self) -> None:
        self._now, self._measured, self._learnt = _Vote(), False, False

    def against(
        self,
        pose: MetricPose,
        options: TrustOptions,
        keyframe: int = 0,
        contradicted: bool = False,
    ) -> Lost | None:
        """Why this pose's depth is not believed, or None. Call it once per pose.

        keyframe: its id; contradicted: by another check, which counts for the reputation.
        """
        distrusted = self._distrusted(options)
        verdict = judge(pose.depth_check, options, distrusted, pose.support)
        verdict = DepthVerdict.CONTRADICTED if contradicted else verdict
        if verdict is not DepthVerdict.SILENT:
            self._remember(verdict, pose.depth_check, keyframe)
        self._measure(pose.depth_check)
        if verdict is DepthVerdict.CONFIRMED:
            self._learn(pose.depth_check)
        if contradicted:
            return None
        against = self.left_over > self._most_left_over and not _beyond_doubt(pose.depth_check)
        if verdict is not DepthVerdict.CONTRADICTED and against:
            return Lost(
                LostReason.CONTRADICTED,
                f"depth record: over the last {len(self._logs)} frames depth leaves "
                f"{self.left_over:.2f} times as much (squared) of where matches lie unexplained "
                f"as noise would ({self._most_left_over:g} is the most{self._words(pose)}; if this "
                "depth is right, it is noisier than pose.depth_noise_m and "
                "pose.depth_noise_per_m, or of a stereo pair pose.stereo_noise, say)",
            )
        if verdict is DepthVerdict.CONFIRMED:
            return None
        if verdict is DepthVerdict.CONTRADICTED:
            assert pose.depth_check is not None
            words = _words(pose.depth_check, options, distrusted, pose.support)
            return Lost(LostReason.CONTRADICTED, words)
        if not distrusted or _follows(pose.depth_check):
            return None
        count = sum(vote.contradicted for vote in self._votes)
        return Lost(
            LostReason.CONTRADICTED,
            f"depth reputation: {count} of the last {len(self._votes)} frames with parallax "
            f"contradicted the depth (tracking.depth_distrusted_after is "
            f"{options.depth_distrusted_after}), and this one shows none to check it by",
        )

    def _measure(self, check: DepthCheck | None) -> None:
        """By the first attempt of a frame whose matches agree among themselves."""
        if self._measured or check is None or check.rotation_only == 0.0:
            return
        if check.agreed >= MIN_AGREED:
            self._measured = True
            learnt = check.left_over_learnt
            log = float(np.log((check.left_over if learnt is None else learnt) + SMALLEST))
            self._logs.append(float(np.clip(log, -LARGEST_LOG, LARGEST_LOG)))

    def _words(self, pose: MetricPose) -> str:
        if pose.depth_check is None or pose.depth_check.left_over_learnt is None:
            return ""
        return f", of {np.sqrt(self.noise.factor):.1f} times the claimed noise, which was learnt"

    def _learn(self, check: DepthCheck | None) -> None:
        """How noisy depth is, by what explains the parallax; whatever the record says."""
        if not self._learnt and check is not None and check.noise is not None:
            self._learnt = True
            self.noise.learn(check.noise)

    @property
    def left_over(self) -> float:
        """Geometric mean over the last frames; 0 where there are too few."""
        return float(np.exp(np.mean(self._logs))) if len(self._logs) >= LEAST_RECORD else 0.0

    def _distrusted(self, options: TrustOptions) -> bool:
        """Whether depth was contradicted in several of the last frames, by several keyframes."""
        against = [vote for vote in self._votes if vote.contradicted]
        keyframes: set[int] = set().union(*(vote.contradicted_by for vote in against))
        return len(against) >= options.depth_distrusted_after and len(keyframes) >= MIN_KEYFRAMES

    def doubted(self, options: TrustOptions) -> bool:
        """... by one keyframe at least: not to be believed where another source gives metres."""
        return sum(vote.contradicted for vote in self._votes) >= options.depth_distrusted_after

    def _remember(self, verdict: DepthVerdict, check: DepthCheck | None, keyframe: int) -> None:
        vote, had = self._now, self._now.counts
        if verdict is DepthVerdict.CONFIRMED:
            vote.confirmed = True
        elif check is not None and check.agreed >= MIN_AGREED:
            vote.contradicted_by.add(keyframe)
        if vote.counts and not had:
            self._votes.append(vote)
        against = sum(vote.contradicted for vote in self._votes)
        needed = max(CLEARED_AFTER, int(np.ceil(CLEARED_SHARE * against)))
        last = list(self._votes)[-needed:]
        if len(last) == needed and all(vote.confirmed for vote in last):
            self._votes.clear()


def _words(check: DepthCheck, options: TrustOptions, distrusted: bool, support: float) -> str:
    bound = _misfit_bound(check, options, distrusted, support)
    if check.misfit > bound:
        return (
            f"depth fit: the median of {check.checked} matches lies {check.misfit:.1f} times as "
            f"far (squared) from where depth puts it as twice its noise allows "
            f"({bound:.1f} is the most, tracking.max_depth_misfit {options.max_depth_misfit:g})"
        )
    return (
        f"depth fit: depth leaves {check.left_over / check.rotation_only:.2f} of the squared "
        f"parallax of {check.checked} matches unexplained (tracking.max_depth_unexplained is "
        f"{options.max_depth_unexplained:g})"
    )
