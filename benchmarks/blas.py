"""One thread for numpy's matrices, as `l2m` and the node have it; to be imported before numpy."""

import refusals  # noqa: F401

from l2m_ros.threads import one_thread_for_matrices

one_thread_for_matrices()
