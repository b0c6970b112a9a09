"""A small object store that speaks as much of S3 as writing and reading shards takes.

Objects live in memory. Buckets exist once they are created; a signature is not checked, but a
request without one is refused, as a real store refuses it.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class _Store(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.buckets: set[str] = set()
        self.objects: dict[str, bytes] = {}  # by bucket/key
        self.puts: list[str] = []  # in the order of their completion


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Store

    def log_message(self, *_: object) -> None:
        pass

    def _asked(self) -> tuple[str, str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        return bucket, key, parse_qs(parts.query, keep_blank_values=True)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refused(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self._answer(status, body, Content_Type="application/xml")

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole = b""
        while data:  # size[;signature] CR LF bytes CR LF ... 0 CR LF checksums
            line, _, data = data.partition(b"\r\n")
            if not (size := int(line.split(b";")[0], 16)):
                break
            whole, data = whole + data[:size], data[size + 2 :]
        return whole

    def do_PUT(self) -> None:
        bucket, key, _ = self._asked()
        body = self._body()
        if "Authorization" not in self.headers:
            return self._refused(403, "AccessDenied")
        if not key:
            self.server.buckets.add(bucket)
            return self._answer(200, Location=f"/{bucket}")
        if bucket not in self.server.buckets:
            return self._refused(404, "NoSuchBucket")
        self.server.objects[f"{bucket}/{key}"] = body
        self.server.puts.append(key)
        self._answer(200, ETag=_tag(body))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        bucket, key, query = self._asked()
        if "Authorization" not in self.headers:
            return self._refused(403, "AccessDenied")
        if bucket not in self.server.buckets:
            return self._refused(404, "NoSuchBucket")
        if not key:
            return self._listed(bucket, query)
        data = self.server.objects.get(f"{bucket}/{key}")
        if data is None:
            return self._refused(404, "NoSuchKey")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        common = {"ETag": _tag(data), "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if asked is None:
            return self._answer(200, data, **common)
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        where = f"bytes {first}-{last}/{len(data)}"
        self._answer(206, data[first : last + 1], Content_Range=where, **common)

    def _listed(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix, entries = query.get("prefix", [""])[0], ""
        for name, data in sorted(self.server.objects.items()):
            key = name.partition("/")[2]
            if name.startswith(f"{bucket}/{prefix}"):
                entries += (
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
        body = (
            f"<ListBucketResult {NAMESPACE}><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        )
        self._answer(200, body.encode(), Content_Type="application/xml")


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextmanager
def s3_server() -> Iterator[_Store]:
    """A running store; its address is http://127.0.0.1:PORT."""
    server = _Store()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
