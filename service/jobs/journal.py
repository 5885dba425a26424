"""The journal of jobs that were accepted while Redis could not take them. It survives SIGKILL and a loss of power.

Rules: a job is accepted after its record is in the file and the file is synced. Each process has a file of its own, which
it holds with a lock. A file without a lock belongs to a dead process, and another process adopts it. A file is emptied or
deleted only when all its jobs have left the journal, so after SIGKILL some jobs may be handed back twice. Their ids are
fixed, so Redis takes each of them once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import Unavailable
from ..shortages import lacking
from .job import Job
from .journal_records import decode, encode

log = logging.getLogger("service.journal")

SUFFIX, DAMAGED_SUFFIX = ".jobs", ".damaged"
DIRECTORY_MODE, FILE_MODE = 0o700, 0o600
RETRY_AFTER = 2.0
COMPACTION_FACTOR = 4  # a file with this many times JOURNAL_MAX_JOBS records is written again
RECORD_BYTES = 24  # of a short record

T = TypeVar("T")


class JournalFull(Unavailable):
    """The journal cannot take a job, because it is full or its file cannot be written."""


class _File:
    """A file of the journal that this process has locked."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    @classmethod
    def create(cls, directory: Path) -> _File:
        """Create a file that no process has seen, and lock it."""
        while True:
            path = directory / f"{secrets.token_hex(8)}{SUFFIX}"
            with contextlib.suppress(BlockingIOError):  # another process has taken it for the file of a dead one
                if (created := cls._lock(path, os.O_CREAT | os.O_EXCL)) is not None:
                    _sync_directory(directory)
                    return created

    @classmethod
    def adopt(cls, path: Path) -> _File | None:
        """Lock a file that a dead process has left. None if it is locked or gone."""
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            return cls._lock(path, 0)
        return None

    @classmethod
    def _lock(cls, path: Path, flags: int) -> _File | None:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = cls(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if not locked.is_deleted():  # by another process, before the lock
            return locked
        locked.close()
        return None

    def append(self, data: bytes) -> None:
        """Write and sync all of the data, or nothing."""
        try:
            written = 0
            while written < len(data):
                written += os.write(self.descriptor, data[written:])
            os.fdatasync(self.descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(data)

    def is_deleted(self) -> bool:
        """True if the file has no name any more, so that no later process can find it."""
        return os.fstat(self.descriptor).st_nlink == 0

    def read(self) -> bytes:
        return self.path.read_bytes()

    def empty(self) -> None:
        os.ftruncate(self.descriptor, 0)
        self.size = 0

    def delete(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        """Release the lock."""
        os.close(self.descriptor)


class _Batch:
    """The jobs that one write and one sync take, and the outcome for all of them."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.outcome: OSError | Literal["synced"] | None = None


class Journal:
    """The journal of one process. Files are read and written in a thread of its own.

    Args:
        directory: created when it is missing.
        max_jobs: largest number of jobs. Adopted jobs are kept even above it.
    """

    def __init__(self, directory: Path, *, max_jobs: int) -> None:
        self._directory = directory
        self._max_jobs = max_jobs
        self._jobs: dict[Job, None] = {}  # oldest first
        self._batch = _Batch()
        self._unsynced = 0
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._own: _File | None = None
        self._adopted: list[_File] = []
        self._failure: str | None = None
        self._lacks_descriptor = False

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: Job) -> bool:
        return job in self._jobs

    @property
    def accepts(self) -> bool:
        """True if the journal is expected to take one more job."""
        return self._failure is None and not self._is_full

    @property
    def _is_full(self) -> bool:
        return len(self._jobs) + self._unsynced >= self._max_jobs

    async def append(self, job: Job) -> None:
        """Accept a job. Concurrent calls share one sync.

        Raises:
            JournalFull: the job is not accepted.
        """
        if job in self._jobs:
            return
        if self._is_full:
            raise JournalFull("The journal of jobs is full.", RETRY_AFTER)
        batch = self._batch
        batch.jobs.append(job)
        self._unsynced += 1
        try:
            async with self._lock:
                if batch.outcome is None:
                    await self._sync(batch)
        finally:
            self._unsynced -= 1
        if isinstance(batch.outcome, OSError):
            raise JournalFull("The journal of jobs cannot be written.", RETRY_AFTER) from batch.outcome

    async def _sync(self, batch: _Batch) -> None:
        """Write all jobs of a batch. Jobs from now on are in the next batch."""
        if self._batch is batch:
            self._batch = _Batch()
        try:
            await self._in_thread(self._write, encode(batch.jobs))
        except OSError as error:
            batch.outcome = error
            self._report(error)
        else:
            batch.outcome = "synced"
            self._report(None)
            self._jobs.update(dict.fromkeys(batch.jobs))

    def oldest(self, count: int) -> list[Job]:
        """Return the first jobs in the order of their acceptance."""
        return [job for job, _ in zip(self._jobs, range(count), strict=False)]

    async def remove(self, jobs: Iterable[Job]) -> None:
        """Forget jobs that Redis has taken."""
        for job in jobs:
            self._jobs.pop(job, None)
        async with self._lock:
            try:
                await self._in_thread(self._compact)
            except OSError as error:
                self._report(error)

    async def adopt(self) -> None:
        """Take over the jobs of dead processes, and create the directory. An error is logged once and not raised.

        A lack of descriptors is over when this succeeds. Another failure may be one of writing, so it is over at the next write.
        """
        async with self._lock:
            try:
                found = await self._in_thread(self._adopt_files)
            except OSError as error:
                self._report(error)
                return
        if self._lacks_descriptor:
            self._report(None)
        if found:
            log.info("%d jobs were found in the journal of a process that has ended", len(found))
        self._jobs = dict.fromkeys(found) | self._jobs

    async def close(self) -> None:
        """Release the files. Those with jobs remain for the next process."""
        async with self._lock:
            await self._in_thread(self._close_files)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except RuntimeError as error:  # no memory for the thread
            raise OSError(str(error)) from error

    def _report(self, error: OSError | None) -> None:
        """Log once that the journal cannot be written, and once that it can be."""
        failure = None if error is None else error.strerror or str(error)
        self._lacks_descriptor = error is not None and lacking(error) == "file descriptors"
        if failure is not None and self._failure is None:
            log.error("the journal of jobs in %s cannot be used: %s", self._directory, failure)
        elif failure is None and self._failure is not None:
            log.info("resolved: the journal of jobs can be used again")
        self._failure = failure

    # The methods below run in the thread.

    def _write(self, data: bytes) -> None:
        if self._own is not None and self._own.is_deleted():
            self._own.close()
            self._own, data = None, encode(list(self._jobs)) + data
        if self._own is None:
            self._make_directory()
            self._own = _File.create(self._directory)
        self._own.append(data)

    def _make_directory(self) -> None:
        self._directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)

    def _adopt_files(self) -> list[Job]:
        self._make_directory()
        if not os.access(self._directory, os.W_OK | os.X_OK):
            raise PermissionError(None, "the directory is not writable")
        held = {each.path for each in self._adopted} | ({self._own.path} if self._own else set())
        left = sorted(set(self._directory.glob(f"*{SUFFIX}")) - held, key=_modified)
        return [job for path in left if (file := _File.adopt(path)) is not None for job in self._take_over(file)]

    def _take_over(self, file: _File) -> tuple[Job, ...]:
        """Return the jobs of an adopted file, and set its damaged bytes aside."""
        try:
            contents = decode(file.read())
            if contents.damaged:
                self._set_aside(file.path.with_suffix(DAMAGED_SUFFIX), contents.damaged)
        except BaseException:
            file.close()
            raise
        if contents.jobs:
            self._adopted.append(file)
        else:
            file.delete()
        return contents.jobs

    def _set_aside(self, path: Path, damaged: bytes) -> None:
        path.touch(FILE_MODE)
        path.write_bytes(damaged)
        log.error("%d damaged bytes of the journal of jobs are set aside in %s", len(damaged), path)

    def _compact(self) -> None:
        """Drop the files of jobs that have left the journal."""
        if not self._jobs:
            for file in self._adopted:
                file.delete()
            self._adopted = []
            if self._own is not None and self._own.size:
                self._own.empty()
        elif self._own is not None and self._own.size > COMPACTION_FACTOR * self._max_jobs * RECORD_BYTES:
            self._rewrite(self._own)

    def _rewrite(self, old: _File) -> None:
        """Write the remaining jobs to a new file in place of an old one."""
        new = _File.create(self._directory)
        try:
            new.append(encode(list(self._jobs)))
        except OSError:
            new.delete()
            raise
        self._own = new
        old.delete()

    def _close_files(self) -> None:
        for file in self._adopted:
            file.close()
        if self._own is not None:
            self._own.close() if self._jobs else self._own.delete()
        self._adopted, self._own = [], None


def _sync_directory(directory: Path) -> None:
    """Make a new file survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _modified(path: Path) -> float:
    """Return the time of the last change. 0 if the file is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
