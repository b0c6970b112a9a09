"""Fast DDS and large images: the names under which it takes config/fastdds_large_images.xml."""

# Of a profile's file: the older name and the newer one. A launch file imports this: no rclpy.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
