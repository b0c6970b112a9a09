# shellcheck shell=sh disable=SC1091,SC2317
# Source it in a colcon workspace: `. src/l2m_ros/docker/workspace.sh`. Makes .venv once, with the
# Python packages that rosdep has no keys for, and activates it. It sees ROS's own packages.
L2M_VENV="${L2M_VENV:-$PWD/.venv}"
if [ ! -x "$L2M_VENV/bin/python3" ]; then
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        echo "python3-venv is missing: sudo apt install python3-venv" >&2
        return 1 2>/dev/null || exit 1
    fi
    python3 -m venv --system-site-packages "$L2M_VENV" || return 1
    touch "$L2M_VENV/COLCON_IGNORE" # colcon would look for packages in it
    # cv_bridge of Humble and Jazzy is built against NumPy 1.
    "$L2M_VENV/bin/pip" install -q "poselib>=2.0.4" "onnxruntime>=1.17" "numpy<2" || return 1
    # Half of a pose's time; without it NumPy does the work.
    "$L2M_VENV/bin/pip" install -q "numba>=0.57" "numpy<2" || echo "no numba here: slower poses"
fi
. "$L2M_VENV/bin/activate"
