"""Downloads against a local server: whole, broken, resumed, exchanged, disk full."""

import contextlib
import errno
import hashlib
import http.server
import json
import threading
import zipfile
from types import SimpleNamespace

import pytest

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.matching import weights

CONTENT = bytes(range(256)) * 12000  # 3 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, obeys Range and If-Range, breaks off as told."""

    def do_GET(self):
        plan = self.server.plan
        plan.requests.append(dict(self.headers))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("X-Linked-ETag", f'"{plan.announced}"')
            self.send_header("Location", "/file")
            self.end_headers()
            return
        if self.path != "/file":
            self.send_error(404, "not here")
            return
        start, whole = 0, plan.content
        asked = self.headers.get("Range")
        resume = asked and plan.ranges and self.headers.get("If-Range") == plan.etag
        if resume:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if resume and start >= len(whole):
            self.send_response(416)
            if plan.says_size:
                self.send_header("Content-Range", f"bytes */{len(whole)}")
            self.end_headers()
            return
        self.send_response(206 if resume else 200)
        self.send_header("ETag", plan.resumed_etag if resume and plan.resumed_etag else plan.etag)
        self.send_header("Content-Length", plan.length or str(len(whole) - start))
        if resume:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        breaks = plan.breaks.pop(0) if plan.breaks else None
        end = len(whole) if breaks is None else min(start + breaks, len(whole))
        with contextlib.suppress(ConnectionError):  # whoever asked may have had enough
            self.wfile.write(whole[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    plan = SimpleNamespace(
        content=CONTENT,
        etag='"v1"',
        ranges=True,
        breaks=[],
        requests=[],
        announced=SHA256,
        resumed_etag=None,
        length=None,
        says_size=True,
    )
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.plan = plan
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    plan.url = f"http://127.0.0.1:{httpd.server_port}/file"
    yield plan
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def fetch(server, to, **more):
    return weights.download(server.url, to, pause_s=0.0, **more)


def test_a_file_arrives_whole_with_its_progress(server, tmp_path):
    heard = []

    def start(total):
        heard.append(total)
        return heard.append

    to = tmp_path / "new" / "w.pth"
    assert fetch(server, to, sha256=SHA256, advance=start) == SHA256
    assert to.read_bytes() == CONTENT
    assert list(to.parent.iterdir()) == [to]
    assert heard[0] == len(CONTENT) == sum(heard[1:])


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.breaks = [1_500_000, 700_000]
    heard = []
    to = tmp_path / "w.pth"
    assert fetch(server, to, sha256=SHA256, advance=lambda total: heard.append) == SHA256
    assert to.read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [
        None, "bytes=1500000-", "bytes=2200000-",
    ]  # fmt: skip
    assert sum(heard) == len(CONTENT)


def test_a_transfer_that_keeps_breaking_keeps_what_it_has_for_the_next_run(server, tmp_path):
    server.breaks = [100_000] * weights.ATTEMPTS
    to = tmp_path / "w.pth"
    with pytest.raises(ModelError, match="goes on from there") as caught:
        fetch(server, to)
    assert "400000 bytes are kept" in str(caught.value)
    assert not to.exists()
    server.requests.clear()
    assert fetch(server, to, sha256=SHA256) == SHA256
    assert server.requests[0]["Range"] == "bytes=400000-"


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.breaks, server.ranges = [1_000_000], False
    assert fetch(server, tmp_path / "w.pth", sha256=SHA256) == SHA256


def test_a_file_exchanged_between_two_parts_starts_over(server, tmp_path):
    server.breaks = [100_000] * weights.ATTEMPTS
    with pytest.raises(ModelError, match="400000 bytes"):
        fetch(server, tmp_path / "w.pth")
    server.content, server.etag = CONTENT[::-1], '"v2"'
    fetch(server, tmp_path / "w.pth", sha256=hashlib.sha256(CONTENT[::-1]).hexdigest())


@pytest.mark.parametrize("says_size", [True, False])
def test_a_part_that_is_already_whole_is_taken_or_fetched_anew(server, tmp_path, says_size):
    """416 for ever: the last run ended between the last byte and the renaming."""
    server.says_size = says_size
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    (tmp_path / "w.pth.part.etag").write_text('"v1"')
    assert fetch(server, tmp_path / "w.pth", sha256=SHA256) == SHA256
    assert len(server.requests) == (1 if says_size else 2)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_a_part_of_another_file_is_never_mixed_in(server, tmp_path):
    """A server that ignores If-Range and goes on with another version."""
    server.breaks = [100_000]
    server.resumed_etag = '"v2"'
    assert fetch(server, tmp_path / "w.pth") == SHA256
    assert (tmp_path / "w.pth").read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-", None]


@pytest.mark.parametrize("tag", [b"\xff\xfe", b"", b'"v1"\r\nX: y', b'W/"v1"', b"v1"])
def test_a_garbled_tag_starts_over(server, tmp_path, tag):
    (tmp_path / "w.pth.part").write_bytes(b"rubbish")
    (tmp_path / "w.pth.part.etag").write_bytes(tag)
    assert fetch(server, tmp_path / "w.pth", sha256=SHA256) == SHA256
    assert "Range" not in server.requests[0]


@pytest.mark.parametrize("length", ["abc", "-5", "1e3"])
def test_a_length_that_is_no_number_is_not_believed(server, tmp_path, length):
    server.length = length
    handler_closes = "the connection's end is the file's end"
    assert fetch(server, tmp_path / "w.pth", sha256=SHA256) == SHA256, handler_closes


def test_what_came_first_is_recorded_and_held(cache):
    assert weights.remembered("http://x/w") is None
    weights.remember("http://x/w", "a" * 64)
    weights.remember("http://x/w", "b" * 64)  # the first one stays
    assert weights.remembered("http://x/w") == "a" * 64
    (cache / weights.RECORD).write_text("[broken")
    assert weights.remembered("http://x/w") is None


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(ModelError, match="expected: 0000"):
        fetch(server, tmp_path / "w.pth", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_that_the_server_announces_is_held(server, tmp_path):
    server.url = server.url.replace("/file", "/moved")
    assert fetch(server, tmp_path / "w.pth") == SHA256
    server.announced = "1" * 64
    with pytest.raises(ModelError, match="announced by the server"):
        fetch(server, tmp_path / "other.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_what_is_not_there_is_said_at_once(server, tmp_path):
    server.url = server.url.replace("/file", "/none")
    with pytest.raises(ModelError, match="404"):
        fetch(server, tmp_path / "w.pth")
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_no_server_at_all(tmp_path):
    with pytest.raises(ModelError, match="broke off 4 times"):
        weights.download("http://127.0.0.1:9/x", tmp_path / "w.pth", pause_s=0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_is_known_before(server, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match="is full; nothing was kept"):
        fetch(server, tmp_path / "w.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(server, tmp_path, monkeypatch):
    real = weights.Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, block):
            self.file.write(block[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode="r", *args, **more):
        file = real(path, mode, *args, **more)
        return Full(file) if path.suffix == ".part" else file

    monkeypatch.setattr(weights.Path, "open", opened)
    with pytest.raises(ModelError, match="is full; nothing was kept"):
        fetch(server, tmp_path / "w.pth")
    assert list(tmp_path.iterdir()) == []


# --- the verb ---------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "l2m_ros"


def test_get_downloads_converts_and_shows_the_licence(server, tmp_path, cache, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    from l2m_ros.networks.registry import build
    from l2m_ros.networks.shared.named_weights import fill

    state = fill(build("tinyroma"), "served: ").state_dict()
    torch.save({"model": state}, tmp_path / "made.pth")
    server.content = (tmp_path / "made.pth").read_bytes()
    entry = weights.Weights(
        "tinyroma", (weights.Source("t.pth", server.url),), "WTFPL", "somebody", "a test"
    )
    monkeypatch.setitem(weights.WEIGHTS, "tinyroma", entry)
    assert main(["weights", "get", "tinyroma"]) == 0
    out = cache / "models" / "tinyroma.safetensors"
    assert out.is_file()
    assert not (cache / "downloads" / "t.pth").exists()
    printed = capsys.readouterr()
    assert "licence: WTFPL" in printed.out
    assert "t.pth (MB)" in printed.err  # progress
    from l2m_ros.networks.checkpoint import load_files

    network = build("tinyroma")
    load_files(network, [out])
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert main(["weights", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tinyroma"]["here"] is True


def test_get_leaves_what_the_user_had(server, tmp_path, cache, monkeypatch):
    """A checkpoint, or an archive, that was in --dir before is not ours to delete."""
    pytest.importorskip("torch")
    from l2m_ros.networks import checkpoint

    monkeypatch.setattr(checkpoint, "convert", lambda files, out, kind: len(files))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "t.pth").write_bytes(CONTENT)
    with zipfile.ZipFile(mine / "made.zip", "w") as file:
        file.writestr("made.ckpt", b"weights")
    sources = (
        weights.Source("t.pth", server.url),
        weights.Source("made.zip", f"{server.url}/not/asked", member="made.ckpt"),
        weights.Source("new.pth", server.url),
    )
    entry = weights.Weights("tinyroma", sources, "WTFPL", "somebody", "a test")
    monkeypatch.setitem(weights.WEIGHTS, "tinyroma", entry)
    assert main(["weights", "get", "tinyroma", "--dir", str(mine)]) == 0
    assert sorted(path.name for path in mine.iterdir()) == ["made.zip", "t.pth"]


def test_every_published_entry_is_complete(capsys, cache):
    assert main(["weights", "list"]) == 0
    listed = capsys.readouterr().out
    for name, entry in weights.WEIGHTS.items():
        assert name in listed
        assert entry.licence in listed
        assert all(source.url.startswith("https://") for source in entry.sources)


def test_unknown_names_and_checksums(capsys, cache):
    assert main(["weights", "get", "roma_outdor"]) == 2
    assert "did you mean roma_outdoor" in capsys.readouterr().err
    entry = weights.published("tinyroma")
    with pytest.raises(InvalidInput, match="FILE=HEX"):
        weights.stated_checksums(["tiny.pth=12"], entry)
    pair = f"{entry.sources[0].file}={SHA256}"
    assert weights.stated_checksums([pair], entry) == {entry.sources[0].file: SHA256}


def test_a_checkpoint_within_an_archive_is_unpacked(server, tmp_path, cache, monkeypatch, capsys):
    """MicKey's release: a zip of several checkpoints without the ViT, and DINOv2 beside it."""
    torch = pytest.importorskip("torch")
    from l2m_ros.networks import registry
    from l2m_ros.networks.checkpoint import load_files
    from l2m_ros.networks.mickey.network import TINY, build_mickey
    from l2m_ros.networks.shared.named_weights import fill

    monkeypatch.setitem(registry.ARCHITECTURES, "mickey", lambda: build_mickey(**TINY))
    state = fill(build_mickey(**TINY), "zipped: ").state_dict()
    heads = {k: v for k, v in state.items() if "dinov2" not in k}
    start = "compute_matches.extractor.dinov2_vitl14."
    vit = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
    torch.save({"state_dict": heads, "epoch": 3}, tmp_path / "made.ckpt")
    folder = cache / "downloads"
    folder.mkdir(parents=True)
    torch.save(vit, folder / "vit.pth")
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as file:
        file.write(tmp_path / "made.ckpt", "weights/made.ckpt")
        file.writestr("weights/other.ckpt", b"not this one")
    server.content = (tmp_path / "made.zip").read_bytes()
    sources = (
        weights.Source("made.zip", server.url, member="made.ckpt"),
        weights.Source("vit.pth", "https://nowhere.invalid/vit.pth"),
    )
    entry = weights.Weights("mickey", sources, "NON-COMMERCIAL", "somebody", "a test")
    monkeypatch.setitem(weights.WEIGHTS, "mickey", entry)
    assert main(["weights", "get", "mickey"]) == 0
    assert "licence: NON-COMMERCIAL" in capsys.readouterr().out
    assert not list(folder.iterdir())
    network = build_mickey(**TINY)
    load_files(network, [cache / "models" / "mickey.safetensors"])
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def test_archives_that_hold_something_else(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"PK no")
    with pytest.raises(ModelError, match="no whole zip"):
        weights.unpacked(archive, "mickey.ckpt")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", b"")
    with pytest.raises(ModelError, match=r"holds no mickey.ckpt \(it holds readme.txt\)"):
        weights.unpacked(archive, "mickey.ckpt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
