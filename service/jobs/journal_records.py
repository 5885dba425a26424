"""The records of the journal, as bytes. Nothing here reads or writes a file.

A record is one line: eight hexadecimal digits of the CRC-32 of the job's id, a space and the id. Damage to any one byte
loses at most the record that has the byte, because records are found by their form and not by counting lines.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from .job import Job

RECORD = re.compile(rb"([0-9a-f]{8}) (campaign-[0-9]{1,19}-[0-9]{1,19})\n")


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a journal.

    Args:
        jobs: in the order of their records.
        damaged: bytes between records that are no record.
        torn: bytes of a last record that was not written to its end. Its job was never accepted.
    """

    jobs: tuple[Job, ...]
    damaged: bytes
    torn: bytes


def encode(jobs: Iterable[Job]) -> bytes:
    """Return the records of jobs."""
    return b"".join(b"%08x %s\n" % (zlib.crc32(job.id.encode()), job.id.encode()) for job in jobs)


def decode(data: bytes) -> Contents:
    """Return the jobs in the bytes of a journal, and the bytes that are no record."""
    jobs: dict[Job, None] = {}
    damaged, position = bytearray(), 0
    for record in RECORD.finditer(data):
        job = _checked_job(record)
        if job is None:
            continue
        damaged += data[position : record.start()]
        position = record.end()
        jobs[job] = None
    rest = data[position:]
    complete = rest.rfind(b"\n") + 1
    return Contents(tuple(jobs), bytes(damaged + rest[:complete]), rest[complete:])


def _checked_job(record: re.Match[bytes]) -> Job | None:
    """Return the job of a record, or None if the checksum is not that of the id."""
    return Job.from_id(record[2].decode()) if int(record[1], 16) == zlib.crc32(record[2]) else None
