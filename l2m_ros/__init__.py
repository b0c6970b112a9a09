"""Dense visual matching and metric relative pose for ROS 2."""

__version__ = "0.1.0"
