"""The template of a Postgres data directory. A session copies it instead of running initdb.

A template is one file: a header (JSON, with its own checksum) and the contents of all files, equal contents once. The file is published
by one rename, so it is never seen incomplete. Each piece is compared with its checksum during the copy, so a damaged piece is never used.

A copy has two parts. The essential part has all that a server needs to start and to accept connections. The remaining part, databases
that are not used before `start` returns, is copied while the server starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAGIC = b"pytest-resilience template 1\n"
SKIPPED = {
    "postmaster.pid",
    "postmaster.opts",
    "pg_internal.init",
}  # the server creates them, the last one at each start
MAX_AGE = 30 * 86400  # seconds since the last use, after which the builder of another template removes a template


class TemplateCorrupt(Exception):
    """The file has not the content that was written."""


class TemplateEntry(NamedTuple):
    """A file of the data directory, and the position of its content in the template."""

    name: str
    offset: int
    size: int
    checksum: int


class DataDirTemplate:
    """A template file that is open for copying. A context manager.

    Attributes:
        metadata: the values that its builder wrote, such as the version.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            TemplateCorrupt: the file is damaged.
            FileNotFoundError: the file does not exist.
        """
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            _check_owner(file)
            size = os.fstat(file.fileno()).st_size
            if size < len(MAGIC) + 8:
                raise TemplateCorrupt("cut short")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._data = memoryview(self._map)
        try:
            header, self._start = _header(self._data)
        except BaseException:
            self.close()
            raise
        self.metadata: dict[str, str] = header["facts"]
        self._directories: list[str] = header["directories"]
        self._files = [TemplateEntry(*entry) for entry in header["files"]]
        self._essential_count: int = header["first"]

    def __enter__(self) -> DataDirTemplate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._data.release()
        # The traceback of an error may still refer to a piece. Then the map is closed with that reference.
        with contextlib.suppress(BufferError):
            self._map.close()

    def copy_essential(self, to: Path) -> None:
        """Create the directory `to` with the files that a server needs to start.

        Raises:
            TemplateCorrupt: the template is damaged.
        """
        to.mkdir(mode=0o700)
        for name in self._directories:
            (to / name).mkdir(mode=0o700)
        self._copy(self._files[: self._essential_count], f"{to}/")

    def copy_remaining(self, to: Path) -> None:
        """Add the remaining files to a directory that `copy_essential` created.

        Raises:
            TemplateCorrupt: the template is damaged.
        """
        self._copy(self._files[self._essential_count :], f"{to}/")

    def _copy(self, files: list[TemplateEntry], to: str) -> None:
        for name, offset, size, checksum in files:
            content = self._data[self._start + offset : self._start + offset + size]
            if len(content) != size or zlib.crc32(content) != checksum:
                raise TemplateCorrupt(f"{name} has not the content that was written")
            target = os.open(to + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                while content:
                    content = content[os.write(target, content) :]
            finally:
                os.close(target)


def _check_owner(file: BinaryIO) -> None:
    """Refuse a file that another user may have written, because a template is code that runs as this user."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise TemplateCorrupt("not a file")
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TemplateCorrupt("another user may have written it")


def _header(data: memoryview) -> tuple[dict[str, Any], int]:
    """Return the header, and the position at which the contents begin."""
    sizes = len(MAGIC)
    if data[:sizes] != MAGIC:
        raise TemplateCorrupt("not a template")
    length, checksum = (int.from_bytes(data[at : at + 4], "big") for at in (sizes, sizes + 4))
    text = data[sizes + 8 : sizes + 8 + length]
    if len(text) != length or zlib.crc32(text) != checksum:
        raise TemplateCorrupt("the header has not the content that was written")
    header: dict[str, Any] = json.loads(bytes(text))
    return header, sizes + 8 + length


def write(data_directory: Path, target: Path, metadata: Mapping[str, str], essential: Callable[[str], bool]) -> None:
    """Pack the data directory of a server that has been shut down. `target` appears complete or not at all.

    Args:
        data_directory: the directory to pack.
        target: the template file.
        metadata: values for the header. Only this user can read the file.
        essential: returns True for a file that the server needs to start, by its path in the directory.
    """
    directories, names = _walk(data_directory)
    names.sort(key=lambda name: (not essential(name), name))
    contents: list[bytes] = []
    offsets: dict[bytes, int] = {}
    files, end = [], 0
    for name in names:
        content = (data_directory / name).read_bytes()
        if content not in offsets:
            offsets[content] = end
            contents.append(content)
            end += len(content)
        files.append(TemplateEntry(name, offsets[content], len(content), zlib.crc32(content)))
    header = {"facts": dict(metadata), "directories": directories, "files": files, "first": sum(map(essential, names))}
    text = json.dumps(header).encode()
    descriptor, unpublished = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines([MAGIC, len(text).to_bytes(4, "big"), zlib.crc32(text).to_bytes(4, "big"), text, *contents])
            file.flush()
            os.fsync(file.fileno())
        Path(unpublished).replace(target)
    except BaseException:
        Path(unpublished).unlink(missing_ok=True)
        raise


def _walk(root: Path) -> tuple[list[str], list[str]]:
    directories, files = [], []
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir():
            directories.append(name)
        elif path.name not in SKIPPED:
            files.append(name)
    return directories, files


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock on this file. The kernel releases the lock of a killed process."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_unused(directory: Path, now: float) -> None:
    """Remove templates that no session has used for a month.

    Args:
        directory: the cache directory.
        now: the time in seconds since 1970, as in the status of files.
    """
    for path in directory.glob("*.template"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > MAX_AGE:
                path.unlink()
