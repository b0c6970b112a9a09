"""Published weights: where they come from, and a download that leaves no half files.

A file is written under NAME.part, resumed from there after a broken transfer, held to its
checksum, and only then renamed. Nothing is fetched unless somebody asks for it by name.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from l2m_ros.engines.model_card import sha256_of
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.files import cache_folder, full_disk_in_words, read_json, write_whole
from l2m_ros.spelling import nearest

BLOCK_BYTES = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 4  # of one download; each resumes where the last one stopped
RECORD = "downloads.json"  # in the cache: the address and checksum of every download
SHA256 = re.compile(r"[0-9a-f]{64}")
STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')  # a strong ETag: equal tags mean equal bytes

Advance = Callable[[float], None]  # bytes that arrived


@dataclass(frozen=True)
class Source:
    """One file of the authors' release. sha256 None: they publish none."""

    file: str
    url: str
    sha256: str | None = None
    member: str | None = None  # `file` is an archive (zip), of which this one is wanted


@dataclass(frozen=True)
class Weights:
    """What `l2m weights get NAME` fetches and makes one safetensors file of."""

    architecture: str  # a key of network.registry.ARCHITECTURES
    sources: tuple[Source, ...]
    licence: str
    by: str
    about: str


_ROMA = "https://github.com/Parskatt/storage/releases/download/romatch"
_L2M = "https://huggingface.co/datasets/Liangyingping/L2Mpp-checkpoints/resolve/main"
_DINOV2 = Source(
    "dinov2_vitl14_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
)
_ROMA_LICENCE = "MIT (RoMa) and Apache-2.0 (DINOv2); trained on research data sets"

_MICKEY = "https://storage.googleapis.com/niantic-lon-static/research/mickey/assets"
_MICKEY_LICENCE = "Niantic: NON-COMMERCIAL use only, patent pending (MicKey); Apache-2.0 (DINOv2)"

WEIGHTS: dict[str, Weights] = {
    "l2m": Weights(
        "l2m",
        (
            Source("l2m++_560x560.pth", f"{_L2M}/l2m%2B%2B_560x560.pth"),
            Source("dinov2l_distilled.pth", f"{_L2M}/dinov2l_distilled.pth"),
        ),
        "not stated by the authors: ask them before any use beyond research",
        "Sharpiless/L2M (ICCV 2025)",
        "L2M++: the dense matcher learnt from lifted single photographs",
    ),
    "roma_outdoor": Weights(
        "l2m",
        (Source("roma_outdoor.pth", f"{_ROMA}/roma_outdoor.pth"), _DINOV2),
        _ROMA_LICENCE,
        "Parskatt/RoMa (CVPR 2024), facebookresearch/dinov2",
        "RoMa trained on MegaDepth; wants ImageNet-normalised images",
    ),
    "roma_indoor": Weights(
        "l2m",
        (Source("roma_indoor.pth", f"{_ROMA}/roma_indoor.pth"), _DINOV2),
        _ROMA_LICENCE,
        "Parskatt/RoMa (CVPR 2024), facebookresearch/dinov2",
        "RoMa trained on ScanNet too; wants ImageNet-normalised images",
    ),
    "tinyroma": Weights(
        "tinyroma",
        (Source("tiny_roma_v1_outdoor.pth", f"{_ROMA}/tiny_roma_v1_outdoor.pth"),),
        "MIT (RoMa) and Apache-2.0 (XFeat); trained on research data sets",
        "Parskatt/RoMa, verlab/accelerated_features",
        "TinyRoMa v1: RoMa's small sibling on XFeat's backbone",
    ),
    "mickey": Weights(
        "mickey",
        (
            Source("mickey_weights.zip", f"{_MICKEY}/mickey_weights.zip", member="mickey.ckpt"),
            _DINOV2,
        ),
        _MICKEY_LICENCE,
        "nianticlabs/mickey (CVPR 2024), facebookresearch/dinov2",
        "MicKey: keypoints with metres, trained from relative poses (Map-free)",
    ),
}


def published(name: str) -> Weights:
    if name not in WEIGHTS:
        known = ", ".join(WEIGHTS)
        raise InvalidInput(f"no weights named {name!r}{nearest(name, WEIGHTS)} (known: {known})")
    return WEIGHTS[name]


def download_folder() -> Path:
    return cache_folder() / "downloads"


def converted_file(name: str) -> Path:
    """Where model cards look for the weights of that name."""
    return cache_folder() / "models" / f"{name}.safetensors"


# --- one download ---------------------------------------------------------------------------


def download(
    url: str,
    to: Path,
    *,
    sha256: str | None = None,
    advance: Callable[[int | None], Advance] | None = None,
    pause_s: float = 1.0,
) -> str:
    """Fetch a file under its final name, whole and checked; returns its sha256.

    `advance(total_bytes)` is called once and gives the function that hears of arriving bytes.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, to, advance or (lambda total: lambda amount: None))
    try:
        digest, promised = transfer.complete(pause_s)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        transfer.discard()
        raise ModelError(
            f"the disk of {to.parent} is full; nothing was kept. Free some space or name another "
            "folder with --dir"
        ) from error
    for wanted, source in ((sha256, "expected"), (promised, "announced by the server")):
        if wanted is not None and wanted != digest:
            transfer.discard()
            raise ModelError(
                f"{url} arrived with sha256 {digest}, {source}: {wanted}. It was deleted; fetch it "
                "again, and if it stays so, the file was exchanged at its source"
            )
    transfer.partial.replace(to)
    transfer.discard()
    return digest


class _Transfer:
    """A download in parts: `partial` grows, `tag` names the version that it is a part of."""

    def __init__(self, url: str, to: Path, advance: Callable[[int | None], Advance]) -> None:
        self.url, self._start_bar = url, advance
        self.partial = to.with_name(to.name + ".part")
        self.tag = to.with_name(to.name + ".part.etag")
        self._advance: Advance | None = None

    def discard(self) -> None:
        for path in (self.partial, self.tag):
            path.unlink(missing_ok=True)

    def complete(self, pause_s: float) -> tuple[str, str | None]:
        """(sha256, the sha256 that the server announces or None)."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(pause_s * 2 ** (attempt - 1))
            try:
                return self._attempt()
            except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
                cause: Exception = error
            except urllib.error.URLError as error:
                if isinstance(error, urllib.error.HTTPError) and error.code == 416:
                    if self._is_whole(error.headers.get("Content-Range") or ""):
                        return sha256_of(self.partial), None
                    self.discard()  # the partial file is longer than the server's: start over
                elif isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    raise ModelError(f"{self.url}: {error.code} {error.reason}") from error
                cause = error
        done = self.partial.stat().st_size if self.partial.is_file() else 0
        raise ModelError(
            f"{self.url} broke off {ATTEMPTS} times ({cause}); {done} bytes are kept in "
            f"{self.partial.name}: the same command goes on from there"
        ) from cause

    def _is_whole(self, content_range: str) -> bool:
        """The last run ended between the last byte and the renaming."""
        whole = re.fullmatch(r"bytes \*/(\d{1,18})", content_range)
        return whole is not None and int(whole[1]) == self._resumable()

    def _attempt(self) -> tuple[str, str | None]:
        have = self._resumable()
        request = urllib.request.Request(self.url, headers={"User-Agent": "l2m_ros"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", self.tag.read_text())
        redirects = _Redirects()
        with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S) as response:
            if response.status != 206:
                have = 0  # the server sends the whole file, or the file has changed
            elif response.headers.get("ETag") != self.tag.read_text():
                self.discard()
                raise ConnectionError("the server went on with a part of another file")
            total = _total_bytes(response, have)
            self._remember(response.headers.get("ETag"))
            self._make_room(total, have)
            digest = self._receive(response, have, total)
        return digest, redirects.announced or _sha256_in(response.headers.get("ETag"))

    def _resumable(self) -> int:
        try:
            tag = self.tag.read_text()
        except (OSError, UnicodeDecodeError):
            tag = ""
        if not (self.partial.is_file() and STRONG_TAG.fullmatch(tag)):
            self.discard()
            return 0
        return self.partial.stat().st_size

    def _remember(self, etag: str | None) -> None:
        if etag and STRONG_TAG.fullmatch(etag):
            self.tag.write_text(etag)
        else:
            self.tag.unlink(missing_ok=True)

    def _make_room(self, total: int | None, have: int) -> None:
        free = shutil.disk_usage(self.partial.parent).free
        if total is not None and total - have > free:
            raise OSError(errno.ENOSPC, f"{total - have} bytes wanted, {free} free")

    def _receive(self, response: Any, have: int, total: int | None) -> str:
        if self._advance is None:
            self._advance = self._start_bar(total)
            self._advance(have)
        digest, size = hashlib.sha256(), 0
        with self.partial.open("r+b" if have else "wb") as file:
            while size < have and (block := file.read(min(BLOCK_BYTES, have - size))):
                digest.update(block)
                size += len(block)
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                digest.update(block)
                size += len(block)
                self._advance(len(block))
        if total is not None and size != total:
            raise ConnectionError(f"{size} of {total} bytes arrived")
        return digest.hexdigest()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the checksum that Hugging Face announces on the way to its storage."""

    announced: str | None = None

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.announced = _sha256_in(headers.get("X-Linked-ETag")) or self.announced
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"refused to follow to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _sha256_in(etag: str | None) -> str | None:
    tag = (etag or "").strip('"')
    return tag if SHA256.fullmatch(tag) else None


def _total_bytes(response: Any, have: int) -> int | None:
    """The whole file's length; None if the server does not say."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
    if have:
        if span is None or int(span[1]) != have:
            raise http.client.HTTPException(f"asked from byte {have}, got {response.headers}")
        return int(span[2])
    length = response.headers.get("Content-Length")
    return int(length) if length and re.fullmatch(r"\d{1,18}", length) else None


def unpacked(archive: Path, member: str) -> Path:
    """One file of a zip, beside it; found by its name in whatever folder of the archive."""
    to = archive.with_name(member)
    partial = archive.with_name(f".{member}.part")
    try:
        with zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if PurePosixPath(name).name == member]
            if not names:
                listed = ", ".join(file.namelist()[:8])
                raise ModelError(f"{archive} holds no {member} (it holds {listed}): fetch it again")
            with full_disk_in_words(to), file.open(names[0]) as source, partial.open("wb") as out:
                shutil.copyfileobj(source, out, BLOCK_BYTES)
        partial.replace(to)
    except zipfile.BadZipFile as error:
        raise ModelError(f"{archive} is no whole zip file ({error}): fetch it again") from error
    finally:
        partial.unlink(missing_ok=True)
    return to


# --- earlier downloads -----------------------------------------------------


def remembered(url: str) -> str | None:
    """The sha256 that came from this address the first time, where it was fetched before."""
    found = _record().get(url)
    digest = found.get("sha256") if isinstance(found, dict) else None
    return digest if isinstance(digest, str) and SHA256.fullmatch(digest) else None


def remember(url: str, sha256: str) -> None:
    """Record what came: where the authors publish no checksum, the next fetch is held to it."""
    record = _record()
    record.setdefault(url, {"sha256": sha256, "first_seen": time.strftime("%Y-%m-%d")})
    write_whole(cache_folder() / RECORD, json.dumps(record, indent=1, sort_keys=True))


def _record() -> dict[str, Any]:
    try:
        record = read_json(cache_folder() / RECORD)
    except (OSError, InvalidInput):
        return {}
    return record if isinstance(record, dict) else {}


def stated_checksums(pairs: list[str], entry: Weights) -> dict[str, str]:
    """["FILE=HEX", ...] of the command line, for files that this entry has."""
    files = [source.file for source in entry.sources]
    out = {}
    for pair in pairs:
        file, _, digest = pair.partition("=")
        if file not in files or not SHA256.fullmatch(digest):
            raise InvalidInput(
                f"--sha256 takes FILE=HEX with 64 lower-case digits and a file of "
                f"{', '.join(files)}; got {pair!r}{nearest(file, files)}"
            )
        out[file] = digest
    return out


def is_intact(path: Path, sha256: str | None) -> bool:
    """A whole file from an earlier run, of that checksum where one is known."""
    return path.stat().st_size > 0 and (sha256 is None or sha256_of(path) == sha256)
