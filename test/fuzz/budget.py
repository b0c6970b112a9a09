"""How many random inputs a run tries: 2,000 in `make test`, 200,000 in `make test-slow`.

`L2M_FUZZ=N` sets the number; `share(0.1)` is a test's part of it. Failures are reproduced by
hypothesis itself (it prints the call), and each find is kept as an `@example`.
"""

import os

from hypothesis import HealthCheck, settings

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
    return max(1, round(INPUTS * part))
