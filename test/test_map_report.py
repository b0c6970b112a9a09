"""The report on a node started anew in a map: figures and picture, also where it was not found."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from l2m_ros.geometry import se3
from l2m_ros.mapping.alignment import PoseError
from l2m_ros.workshop.evaluation.map_report import FoundAgain, _of_camera
from l2m_ros.workshop.evaluation.report import Report

POSES = np.stack([se3.exp(np.array([0.1 * i, 0, 0, 0, 0.05 * i, 0])) for i in range(5)])


def found(count):
    errors = [PoseError(0.01 * i, 0.1, 1.0) for i in range(count)]
    xyz = np.random.default_rng(0).normal(size=(200, 3))
    colours = np.full((200, 3), 90, np.uint8)
    first_s = 0.4 if count else None
    return FoundAgain(POSES[:2], xyz, colours, POSES[:count], POSES, errors, first_s)


def test_found_again_in_figures_and_in_a_page(tmp_path):
    again = found(3)
    figures = again.figures()
    assert (figures["localized"], figures["frames"], figures["wrong"]) == (3, 5, 0)
    assert figures["median_m"] == 0.01 and figures["within"]["5cm_5deg"] == 60.0
    assert "0.4 s after" in again.text() and "3 of 5 images" in again.text()
    page = Report("demo", "a drive")
    again.show(page)
    html = page.write(tmp_path / "report.html").read_text()
    assert "found in the map" in html and html.count("<img") == 1


def test_not_found_is_said(tmp_path):
    again = found(0)
    assert again.figures()["median_m"] is None and "no" in again.text().splitlines()[-1]
    page = Report("demo", "a drive")
    again.show(page)
    assert "<img" in page.write(tmp_path / "report.html").read_text()


def test_pose_of_the_base_becomes_the_camera_s():
    base_from_camera = se3.exp(np.array([0.1, 0.2, 0.3, -1.2, 0.4, 0.5]))
    map_from_camera = se3.exp(np.array([1.0, 2, 3, 0.1, 0.2, 0.3]))
    said = base_from_camera @ map_from_camera @ se3.inverse(base_from_camera)
    T, P = _of_camera(said, 1e-4 * np.eye(6), base_from_camera)
    np.testing.assert_allclose(T, map_from_camera, atol=1e-12)
    assert np.linalg.eigvalsh(P)[0] > 0
