"""Things with print on them: posters, pages, books, screens, doors, labels, windows.

Drawn by OpenCV on 8-bit images at twice the canvas's size and reduced, so that strokes
are smooth (no aliasing is baked in), then taken to linear reflectance.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.simulation.canvas import Canvas, Material, encoded, linear, random_colours

LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789"
OVERSAMPLING = 2
LINEAR = linear(np.arange(256) / np.float32(255))  # of an 8-bit value


class _Sheet:
    """An 8-bit image of the canvas, with lengths in shares of its smaller side."""

    def __init__(self, canvas: Canvas, srgb: Sequence[float]) -> None:
        self.canvas, self.rng = canvas, canvas.rng
        self.w, self.h = OVERSAMPLING * canvas.width, OVERSAMPLING * canvas.height
        self.unit = min(self.w, self.h)
        self.image: ByteArray = np.full((self.h, self.w, 3), 0, np.uint8)
        self.image[:] = np.round(255 * np.asarray(srgb)).astype(np.uint8)

    def colour(self, *, vivid: float = 0.65) -> tuple[int, int, int]:
        r, g, b = encoded(random_colours(self.rng, 1, vivid=vivid)[0])
        return int(r), int(g), int(b)

    def point(self) -> tuple[int, int]:
        return int(self.rng.uniform(0, self.w)), int(self.rng.uniform(0, self.h))

    def thick(self, share: float) -> int:
        return max(1, round(share * self.unit))

    def rectangle(
        self, x0: float, y0: float, x1: float, y1: float, colour: Sequence[int], line: int = -1
    ) -> None:
        """Corners in shares of width and height; line -1 fills."""
        corner = (round(x0 * self.w), round(y0 * self.h))
        cv2.rectangle(self.image, corner, (round(x1 * self.w), round(y1 * self.h)), colour, line)

    def text(self, x: float, y: float, height: float, colour: Sequence[int], count: int) -> None:
        """Random letters: baseline at (x, y) in shares, height in shares of the height."""
        word = "".join(self.rng.choice(list(LETTERS), count))
        scale = height * self.h / 21.0
        cv2.putText(
            self.image,
            word,
            (round(x * self.w), round(y * self.h)),
            cv2.FONT_HERSHEY_DUPLEX,
            scale,
            colour,
            max(1, round(1.6 * scale)),
            cv2.LINE_AA,
        )

    def reflectance(self, grain: float = 0.03) -> FloatArray:
        small = cv2.resize(
            self.image, (self.canvas.width, self.canvas.height), interpolation=cv2.INTER_AREA
        )
        fine = 1.0 + grain * self.canvas.noise(0.004, octaves=2)
        return np.clip(cv2.LUT(small, LINEAR) * fine[..., None], 0.01, 0.95)


def poster() -> Material:
    """Random art: blocks, discs, polygons, lines and lettering at many scales."""

    def paint(canvas: Canvas) -> FloatArray:
        ground = encoded(random_colours(canvas.rng, 1, vivid=0.5)[0]) / 255
        sheet = _Sheet(canvas, ground)
        for size in (1.0, 0.6, 0.35, 0.18, 0.1, 0.05, 0.03):
            for _ in range(int(1.8 / size) + 1):
                _shape(sheet, size)
        for _ in range(3):
            x, y = sheet.rng.uniform(0, 0.5), sheet.rng.uniform(0.15, 0.95)
            sheet.text(x, y, sheet.rng.uniform(0.05, 0.14), sheet.colour(), 7)
        border = 0.03 * sheet.unit
        cv2.rectangle(
            sheet.image, (0, 0), (sheet.w - 1, sheet.h - 1), (235, 232, 225), round(2 * border)
        )
        return sheet.reflectance()

    return paint


def _shape(sheet: _Sheet, size: float) -> None:
    centre, radius = np.array(sheet.point()), size * sheet.unit * sheet.rng.uniform(0.5, 1.0)
    kind, colour = sheet.rng.integers(4), sheet.colour()
    if kind == 0:
        cv2.circle(sheet.image, centre.tolist(), max(1, round(radius / 2)), colour, -1, cv2.LINE_AA)
    elif kind == 1:
        angles = np.sort(sheet.rng.uniform(0, 2 * np.pi, sheet.rng.integers(3, 7)))
        ring = centre + radius / 1.5 * np.stack([np.cos(angles), np.sin(angles)], -1)
        cv2.fillPoly(sheet.image, [ring.round().astype(np.int32)], colour, cv2.LINE_AA)
    elif kind == 2:
        end = centre + radius * sheet.rng.uniform(-1, 1, 2)
        cv2.line(
            sheet.image,
            centre.tolist(),
            end.astype(int).tolist(),
            colour,
            sheet.thick(0.15 * size),
            cv2.LINE_AA,
        )
    else:
        far = centre + radius * sheet.rng.uniform(0.4, 1.0, 2)
        cv2.rectangle(sheet.image, centre.tolist(), far.astype(int).tolist(), colour, -1)


def page() -> Material:
    """A printed or hand-written sheet: headline, lines, sometimes a picture."""

    def paint(canvas: Canvas) -> FloatArray:
        sheet = _Sheet(
            canvas, (0.93, 0.92, 0.88) if canvas.rng.random() < 0.7 else (0.9, 0.85, 0.5)
        )
        ink = (40, 42, 60)
        sheet.text(0.08, 0.13, 0.07, sheet.colour(), 6)
        top = 0.2
        if sheet.rng.random() < 0.5:
            sheet.rectangle(0.1, 0.2, 0.9, 0.5, sheet.colour())
            _shape(sheet, 0.2)
            top = 0.55
        for y in np.arange(top, 0.94, 0.045):
            sheet.rectangle(0.08, y, sheet.rng.uniform(0.5, 0.93), y + 0.016, ink)
        return sheet.reflectance()

    return paint


def book_spine() -> Material:
    def paint(canvas: Canvas) -> FloatArray:
        ground = encoded(random_colours(canvas.rng, 1)[0]) / 255
        sheet = _Sheet(canvas, ground)
        ink = sheet.colour() if sheet.rng.random() < 0.5 else (230, 220, 180)
        for y in sheet.rng.uniform(0.04, 0.3, 2):
            sheet.rectangle(0, y, 1, y + sheet.rng.uniform(0.01, 0.03), ink)
        top = sheet.rng.uniform(0.32, 0.4)
        while top < sheet.rng.uniform(0.6, 0.85):
            tall = sheet.rng.uniform(0.02, 0.05)
            sheet.rectangle(0.25, top, 0.75, top + tall, ink)
            top += 1.5 * tall
        sheet.rectangle(0, 0.9, 1, 0.93, ink)
        return sheet.reflectance(0.06)

    return paint


def screen() -> Material:
    """A monitor full of code."""

    def paint(canvas: Canvas) -> FloatArray:
        sheet = _Sheet(canvas, (0.1, 0.11, 0.14))
        sheet.rectangle(0, 0, 1, 0.05, (70, 75, 90))
        for y in np.arange(0.1, 0.95, 0.035):
            x = 0.04 + 0.04 * sheet.rng.integers(0, 5)
            while x < sheet.rng.uniform(0.2, 0.9):
                word = sheet.rng.uniform(0.02, 0.1)
                sheet.rectangle(x, y, x + word, y + 0.016, sheet.colour())
                x += word + 0.012
        return sheet.reflectance(0.0)

    return paint


def keyboard() -> Material:
    def paint(canvas: Canvas) -> FloatArray:
        sheet = _Sheet(canvas, (0.16, 0.16, 0.18))
        for y in np.arange(0.06, 0.9, 0.19):
            for x in np.arange(0.02, 0.97, 0.065):
                sheet.rectangle(x, y, x + 0.052, y + 0.15, (62, 62, 68))
                sheet.rectangle(x + 0.015, y + 0.04, x + 0.03, y + 0.09, (190, 190, 190))
        return sheet.reflectance()

    return paint


def carton() -> Material:
    """Cardboard with tape, a label and stamps."""

    def paint(canvas: Canvas) -> FloatArray:
        sheet = _Sheet(canvas, (0.72, 0.57, 0.4))
        sheet.rectangle(0.44, 0, 0.56, 1, (200, 176, 132))
        x, y = sheet.rng.uniform(0.05, 0.3), sheet.rng.uniform(0.15, 0.45)
        sheet.rectangle(x, y, x + 0.38, y + 0.3, (228, 226, 220))
        for bar in np.arange(0.02, 0.34, 0.016):
            if sheet.rng.random() < 0.6:
                sheet.rectangle(x + bar, y + 0.17, x + bar + 0.008, y + 0.27, (30, 30, 30))
        sheet.text(x + 0.02, y + 0.12, 0.07, (40, 40, 40), 5)
        sheet.text(sheet.rng.uniform(0.4, 0.55), 0.85, 0.11, (120, 50, 40), 5)
        wrinkles = 1.0 + 0.05 * canvas.noise(0.03, octaves=3, stretch=3.0)
        return sheet.reflectance(0.05) * np.clip(wrinkles, 0.7, 1.3)[..., None]

    return paint


def door(srgb: Sequence[float], *, plate: bool = False) -> Material:
    """Panels, a handle, and (plate) a number beside the handle."""

    def paint(canvas: Canvas) -> FloatArray:
        sheet = _Sheet(canvas, srgb)
        base = 255 * np.asarray(srgb)
        dark, light = (0.75 * base).astype(int).tolist(), np.minimum(1.12 * base, 255).tolist()
        for y0, y1 in ((0.06, 0.42), (0.52, 0.94)):
            for x0, x1 in ((0.1, 0.46), (0.54, 0.9)):
                sheet.rectangle(x0, y0, x1, y1, dark, sheet.thick(0.02))
                sheet.rectangle(x0 + 0.05, y0 + 0.025, x1 - 0.05, y1 - 0.025, light, -1)
        cv2.circle(
            sheet.image,
            (round(0.91 * sheet.w), round(0.5 * sheet.h)),
            sheet.thick(0.045),
            (190, 180, 130),
            -1,
            cv2.LINE_AA,
        )
        if plate:
            sheet.rectangle(0.32, 0.19, 0.68, 0.29, (235, 235, 230))
            sheet.text(0.36, 0.265, 0.035, (20, 20, 30), 3)
        return sheet.reflectance(0.04)

    return paint


def window_view(*, bright: float = 0.95) -> Material:
    """Sky, clouds and a skyline behind glazing bars; `bright` below 1 for glass seen by day."""

    def paint(canvas: Canvas) -> FloatArray:
        sheet = _Sheet(canvas, (0.75, 0.85, 0.95))
        ramp = np.linspace(0.8, 1.05, sheet.h)[:, None, None]
        sheet.image[:] = np.clip(sheet.image * ramp, 0, 255).astype(np.uint8)
        x = 0.0
        while x < 1.0:
            wide, top = sheet.rng.uniform(0.06, 0.2), sheet.rng.uniform(0.45, 0.8)
            wall = sheet.colour(vivid=0.3)
            sheet.rectangle(x, top, x + wide, 1.0, wall)
            for wy in np.arange(top + 0.03, 0.97, 0.06):
                for wx in np.arange(x + 0.012, x + wide - 0.02, 0.035):
                    sheet.rectangle(wx, wy, wx + 0.015, wy + 0.03, (70, 80, 100))
            x += wide
        clouds = np.clip(canvas.noise(0.15, octaves=3), 0, 1)[..., None]
        view = sheet.reflectance(0.0) * bright
        height = np.arange(canvas.height)[:, None, None] / canvas.height
        return np.clip(view + 0.25 * clouds * (height < 0.5) * bright, 0.01, 1.0)

    return paint


def facade_window(frame: Sequence[float] = (0.9, 0.89, 0.86)) -> Material:
    """A window from outside: dark glass with a reflection, curtains, bars and frame."""

    def paint(canvas: Canvas) -> FloatArray:
        sheet = _Sheet(canvas, (0.2, 0.26, 0.32))
        for _ in range(5):
            _shape(sheet, 0.5)
        sheet.image //= 3
        sheet.rectangle(0.06, 0.05, 0.22, 0.95, (165, 155, 140))
        sheet.rectangle(0.78, 0.05, 0.94, 0.95, (165, 155, 140))
        bars = (255 * np.asarray(frame)).tolist()
        for x in (0.0, 0.46, 0.92):
            sheet.rectangle(x, 0, x + 0.08, 1, bars)
        for y in (0.0, 0.48, 0.95):
            sheet.rectangle(0, y, 1, y + 0.05, bars)
        return sheet.reflectance()

    return paint
