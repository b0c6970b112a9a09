"""A page for people: tables and pictures in one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2m_ros.files import write_whole
from l2m_ros.types import ByteArray

STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #2a78d6; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead { margin-top: .3rem; opacity: .75; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { text-align: left; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--line); }
td:not(:first-child) { font-variant-numeric: tabular-nums; }
figure { margin: 1.2rem 0; } img { max-width: 100%; border-radius: 6px; background: #fff; }
figcaption { font-size: .9rem; opacity: .75; }
"""


class Report:
    """`Report("title", "lead").heading(...).table(...).picture(...).write(path)`."""

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{_text(title)}</h1><p class=lead>{_text(lead)}</p>"]

    def heading(self, words: str) -> Report:
        self._parts.append(f"<h2>{_text(words)}</h2>")
        return self

    def table(self, rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> Report:
        head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        head = f"<tr>{head}</tr>" if head else ""
        self._parts.append(f"<table>{head}{body}</table>")
        return self

    def picture(self, rgb: ByteArray, caption: str) -> Report:
        """A photograph-like picture, as JPEG."""
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
        )
        if not done:
            raise OSError("OpenCV could not encode a picture of the report")
        return self._image(np.asarray(data).tobytes(), "jpeg", caption)

    def plot(self, figure: Any, caption: str) -> Report:
        """A matplotlib figure."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return self._image(buffer.getvalue(), "png", caption)

    def _image(self, data: bytes, kind: str, caption: str) -> Report:
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        self._parts.append(
            f'<figure><img src="{source}" alt="{_text(caption)}">'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )
        return self

    def write(self, path: Path) -> Path:
        """Whole or not at all."""
        page = (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(self._title)}</title>"
            f'<meta name=viewport content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style>{''.join(self._parts)}</html>\n"
        )
        write_whole(path, page)
        return path


def _text(value: Any) -> str:
    return html.escape(f"{value:.3g}" if isinstance(value, float) else str(value))
