"""How many threads libraries of ours start beside those that we ask for."""

from __future__ import annotations

import os

OPENBLAS = "OPENBLAS_NUM_THREADS"  # numpy's and scipy's library for matrices


def one_thread_for_matrices() -> None:
    """No second thread for numpy's matrices; to be called before numpy is loaded.

    Ours are small, so a second thread makes nothing faster. But it spins for 26 ms after each
    piece of work: tracking one image then took 240 ms of processor instead of 169 ms, and waited
    for that thread wherever another process had its core. Who sets the variable is obeyed.
    """
    os.environ.setdefault(OPENBLAS, "1")
