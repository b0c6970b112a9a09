"""Stands for cuda-python in tests."""
