"""A Postgres data directory made once and kept: a session copies it in place of running initdb.

It is kept as one file: a header (JSON, with a checksum of its own) and the contents, equal ones once. One file is published by one
rename, so nobody sees half of it; every piece is checked against its checksum while it is copied, so a damaged one is never used.

A copy has two parts. The first is all that a server needs to start and take connections; the second, the databases that nobody uses
before `start` returns, is copied while the server starts.
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
SKIPPED = {"postmaster.pid", "postmaster.opts", "pg_internal.init"}  # the server makes them, the last one per start
MAX_AGE = 30 * 86400  # seconds; templates that nobody used for so long are removed when another one is made


class TemplateCorrupt(Exception):
    """The file is not what was written."""


class TemplateEntry(NamedTuple):
    """One file of the data directory, and where its content is."""

    name: str
    offset: int
    size: int
    checksum: int


class DataDirTemplate:
    """A template file, open for copying; a context manager.

    Attributes:
        facts: what its maker wrote down, such as the version.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            TemplateCorrupt: it is damaged.
            FileNotFoundError: there is none.
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
        """Let go of the file."""
        self._data.release()
        with contextlib.suppress(
            BufferError
        ):  # an error on its way up still holds a piece; the rest goes when that is gone
            self._map.close()

    def copy_essential(self, to: Path) -> None:
        """Make the directory `to`, with what a server needs to start.

        Raises:
            TemplateCorrupt: the template is damaged.
        """
        to.mkdir(mode=0o700)
        for name in self._directories:
            (to / name).mkdir(mode=0o700)
        self._copy(self._files[: self._essential_count], f"{to}/")

    def copy_remaining(self, to: Path) -> None:
        """Add the rest to a directory that `copy_essential` made.

        Raises:
            TemplateCorrupt: the template is damaged.
        """
        self._copy(self._files[self._essential_count :], f"{to}/")

    def _copy(self, files: list[TemplateEntry], to: str) -> None:
        for name, offset, size, checksum in files:
            content = self._data[self._start + offset : self._start + offset + size]
            if len(content) != size or zlib.crc32(content) != checksum:
                raise TemplateCorrupt(f"{name} is not what was written")
            target = os.open(to + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                while content:
                    content = content[os.write(target, content) :]
            finally:
                os.close(target)


def _check_owner(file: BinaryIO) -> None:
    """The template is code that runs as us, so nobody else may have written it."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise TemplateCorrupt("not a file")
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TemplateCorrupt("somebody else may have written it")


def _header(data: memoryview) -> tuple[dict[str, Any], int]:
    """The header and where the contents begin."""
    sizes = len(MAGIC)
    if data[:sizes] != MAGIC:
        raise TemplateCorrupt("not a template")
    length, checksum = (int.from_bytes(data[at : at + 4], "big") for at in (sizes, sizes + 4))
    text = data[sizes + 8 : sizes + 8 + length]
    if len(text) != length or zlib.crc32(text) != checksum:
        raise TemplateCorrupt("its header is not what was written")
    header: dict[str, Any] = json.loads(bytes(text))
    return header, sizes + 8 + length


def write(data_directory: Path, target: Path, facts: Mapping[str, str], first: Callable[[str], bool]) -> None:
    """Pack a data directory whose server has been shut down; `target` appears complete or not at all.

    Args:
        data_directory: what to pack.
        target: the template file.
        facts: what to write down with it. Only we can read the file.
        first: whether a file, given by its name below the directory, is needed for the server to start.
    """
    directories, names = _walk(data_directory)
    names.sort(key=lambda name: (not first(name), name))
    contents: list[bytes] = []
    known: dict[bytes, int] = {}
    files, end = [], 0
    for name in names:
        content = (data_directory / name).read_bytes()
        if content not in known:
            known[content] = end
            contents.append(content)
            end += len(content)
        files.append(TemplateEntry(name, known[content], len(content), zlib.crc32(content)))
    header = {"facts": dict(facts), "directories": directories, "files": files, "first": sum(map(first, names))}
    text = json.dumps(header).encode()
    descriptor, hidden = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines([MAGIC, len(text).to_bytes(4, "big"), zlib.crc32(text).to_bytes(4, "big"), text, *contents])
            file.flush()
            os.fsync(file.fileno())
        Path(hidden).replace(target)
    except BaseException:
        Path(hidden).unlink(missing_ok=True)
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
    """Hold the lock of this name; the kernel takes it back from those who are killed."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_unused(directory: Path, now: float) -> None:
    """Remove templates that nobody used for a month.

    Args:
        directory: the cache.
        now: wall-clock seconds since 1970, as files carry them.
    """
    for path in directory.glob("*.template"):
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > MAX_AGE:
                path.unlink()
