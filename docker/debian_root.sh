#!/bin/sh
# sudo docker/debian_root.sh FOLDER: a bare Debian 12 in FOLDER (debootstrap), this checkout in it as a
# colcon workspace: refuses as PEP 668 asks, is set up by workspace.sh, built, and the node started.
# ROS comes as wheels, since Debian has no rclpy. 400 MB, some minutes; again it is quick.
set -eu
root=$1
here=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$root/usr/bin/python3" ] || debootstrap --variant=minbase \
    --include=python3,python3-venv,ca-certificates bookworm "$root"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root/ws/src/l2m_ros"
mkdir -p "$root/ws/src/l2m_ros"
tar -C "$here" --exclude=./.git --exclude=./.venv --exclude=./build --exclude=__pycache__ -c . |
    tar -C "$root/ws/src/l2m_ros" -x
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt sh -e <<'INSIDE'
python3 -c 'import colcon_core, scipy, cv2' 2>/dev/null || {
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        python3-pip python3-numpy python3-scipy python3-opencv python3-yaml python3-colcon-core \
        python3-colcon-ros python3-colcon-package-selection python3-colcon-package-information \
        python3-colcon-python-setup-py python3-colcon-recursive-crawl python3-colcon-output \
        python3-colcon-library-path python3-colcon-bash python3-pkg-resources
}
cd /ws
if pip install poselib >pip.log 2>&1; then echo "pip was not refused"; exit 1; fi
grep -q externally-managed-environment pip.log && echo "PEP 668: refused, as expected"
. src/l2m_ros/docker/workspace.sh
echo "workspace.sh: $(which python3)"
pip install -q 'ros-rclpy[fastrtps]==7.1.6' ros-std-srvs==5.3.6 \
    ros-sensor-msgs==5.3.6 ros-geometry-msgs==5.3.6 ros-nav-msgs==5.3.6 ros-diagnostic-msgs==5.3.6
colcon build --packages-select l2m_ros 2>build.log || { cat build.log; exit 1; }
. install/setup.sh
ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST PYTHONUNBUFFERED=1 \
    install/l2m_ros/lib/l2m_ros/matcher --ros-args -p model:=lite >node.log 2>&1 &
for _ in $(seq 60); do
    grep -q "activate: done" node.log && break
    sleep 1
done
kill -INT $!
code=0
wait $! || code=$?
grep -q "activate: done" node.log || { cat node.log; exit 1; }
echo "the node was active and ended with $code"
exit $code
INSIDE
