"""One thread for each library: on a busy machine its idle threads spin, which took 80 s of 88."""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
