"""Where shards go: a folder, or any address that fsspec knows (s3://, gs://, memory://).

A shard exists under its name only when it is whole: folders by writing beside and renaming,
object stores by their own nature (an object appears when its upload is complete).
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from l2m_ros.errors import BackendUnavailable, InvalidInput
from l2m_ros.files import without_password
from l2m_ros.workshop.lifting.shards import is_whole, remove_leftovers, write_atomically


class Store(Protocol):
    """Named pieces of bytes; picklable, so that workers elsewhere write into it themselves."""

    name: str

    def prepare(self) -> None: ...

    def read(self, name: str) -> bytes | None:
        """None where there is no such piece."""
        ...

    def write(self, name: str, data: bytes) -> None: ...

    def has_shard(self, name: str) -> bool:
        """True where the whole tar is there."""
        ...


class Folder:
    """A folder of this machine, or one that all machines see."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def prepare(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidInput(f"{self.path}: is a file, not a folder to write shards into") from (
                error
            )
        remove_leftovers(self.path)

    def read(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        write_atomically(self.path / name, data)

    def has_shard(self, name: str) -> bool:
        path = self.path / name
        return path.is_file() and is_whole(path)


class Url:
    """A place of fsspec's: s3://bucket/path with s3fs installed, gs:// with gcsfs, ..."""

    def __init__(self, url: str) -> None:
        self.url, self.name = url.rstrip("/"), without_password(url.rstrip("/"))

    def prepare(self) -> None:
        files, root = self._opened()
        try:
            files.makedirs(root, exist_ok=True)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{self.name}: cannot be written to: {error}") from error

    def read(self, name: str) -> bytes | None:
        files, root = self._opened()
        try:
            content: bytes = files.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, data: bytes) -> None:
        files, root = self._opened()
        try:
            files.pipe_file(f"{root}/{name}", data)
        except OSError as error:
            raise InvalidInput(
                f"{self.name}/{name}: could not be written ({error}); run the same command again: "
                "it continues here"
            ) from error

    def has_shard(self, name: str) -> bool:
        files, root = self._opened()
        path = f"{root}/{name}"
        try:
            size = files.size(path)
        except FileNotFoundError:
            return False
        if not size or size % tarfile.RECORDSIZE:
            return False
        return not any(files.cat_file(path, start=size - 2 * tarfile.BLOCKSIZE, end=size))

    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it; opened anew in every process."""
        try:
            import fsspec

            files, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:  # fsspec itself, or the driver that it names
            raise BackendUnavailable(
                f"{self.name}: {error}; pip install 'l2m_ros[scale]', and s3fs for s3://, gcsfs "
                "for gs://"
            ) from error
        except ValueError as error:
            raise InvalidInput(f"{self.name}: {error}") from error
        return files, str(root).rstrip("/")


def store_of(place: Path | str) -> Store:
    """A folder, file:// included, or an address."""
    text = str(place)
    if "://" not in text:
        return Folder(Path(text))
    parts = urlsplit(text)
    if not parts.scheme:
        raise InvalidInput(
            f"{without_password(text)}: name a folder, or an address such as s3://bucket/path"
        )
    if parts.scheme == "file":
        return Folder(Path(url2pathname(parts.path)))
    return Url(text)
