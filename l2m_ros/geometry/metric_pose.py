"""A pose in metres: from the first scale source that suffices.

depths (any source)     search and refinement, compared with two-view geometry
known scene             the same; most matches must agree, also those without depth
coarse depths           two-view geometry, its length from the depths; as above without parallax
floor                   two-view geometry, its length from the camera's height above the floor
translation prior       two-view geometry, its length from the prior
"""

from __future__ import annotations

from l2m_ros.geometry.pose_by_depths import from_depths
from l2m_ros.geometry.pose_by_length import from_floor, from_prior
from l2m_ros.geometry.pose_problem import PoseProblem
from l2m_ros.geometry.scale import SCALE_SOURCES, Floor, TranslationPrior
from l2m_ros.types import Lost, LostReason, MetricPose


def metric_pose(problem: PoseProblem) -> MetricPose | Lost | None:
    """From the first source that gives a pose; None where none has anything to say.

    A degenerate answer is final, a failed one leaves it to the next source.
    """
    first: Lost | None = None
    for name in problem.options.sources:
        term = SCALE_SOURCES[name](problem.request)
        if term is None:
            continue
        if isinstance(term, TranslationPrior):
            outcome = from_prior(problem, term, name)
        elif isinstance(term, Floor):
            outcome = from_floor(problem, term, name)
        else:
            outcome = from_depths(problem, term, name)
            if isinstance(outcome, Lost) and (term.coarse or term.sparse) and is_final(outcome):
                # Such depths may fail where the matches alone still show a rotation.
                outcome = Lost(LostReason.NO_SCALE, f"{name}: {outcome.detail}")
        if isinstance(outcome, MetricPose) or is_final(outcome):
            return outcome
        first = first or outcome
    return first


def is_final(lost: Lost) -> bool:
    return lost.reason is LostReason.DEGENERATE
