"""How many random inputs a run tries: 2,000 in `make test`, 200,000 in `make test-slow`.

`L2M_FUZZ=N` sets the number. `bulk(0.1)` is a part of it for the quick generator of test_bulk.py;
`share(0.1)` is a part of at most 20,000 for hypothesis, which costs twenty times as much an input.
Failures are reproduced by their number, or by hypothesis itself (it prints the call); each find is
kept as an `@example` or a test.
"""

import os

from hypothesis import HealthCheck, settings

MOST_DRAWN = 20_000
INPUTS = int(os.environ.get("L2M_FUZZ", "2000"))

settings.register_profile(
    "l2m",
    deadline=None,
    database=None,
    derandomize="L2M_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("l2m")


def share(part: float) -> int:
    """Inputs of a test by hypothesis."""
    return max(1, round(min(INPUTS, MOST_DRAWN) * part))


def bulk(part: float) -> int:
    """Inputs of a test by the quick generator."""
    return max(1, round(INPUTS * part))
