"""The journal, with real files. Some tests break a system call, which no file system does on demand."""

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import sys

import pytest

from service.jobs.job import Job
from service.jobs.journal import COMPACTION_FACTOR, RECORD_BYTES, Journal, JournalFull
from service.jobs.journal_records import encode


def with_journal(directory, scene, *, max_jobs=1000):
    """Run a scene with a journal that has adopted the files of the directory."""

    async def play():
        async with opened(directory, max_jobs=max_jobs) as journal:
            return await scene(journal)

    return asyncio.run(play())


@contextlib.asynccontextmanager
async def opened(directory, *, max_jobs=1000):
    journal = Journal(directory, max_jobs=max_jobs)
    await journal.adopt()
    try:
        yield journal
    finally:
        await journal.close()


def left_in(directory):
    """Return the jobs that the next process finds."""

    async def scene(journal):
        return journal.oldest(1000)

    return with_journal(directory, scene)


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def test_jobs_outlive_the_process(tmp_path):
    async def scene(journal):
        for number in (3, 1, 2):
            await journal.append(Job(number))

    with_journal(tmp_path, scene)
    assert left_in(tmp_path) == [Job(3), Job(1), Job(2)]


def test_a_job_is_synced_before_it_is_accepted(tmp_path, monkeypatch):
    synced = []

    def fdatasync(descriptor):
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", fdatasync)

    async def scene(journal):
        await journal.append(Job(1))
        assert synced == [len(encode([Job(1)]))]

    with_journal(tmp_path, scene)


def test_jobs_that_arrive_during_a_sync_share_the_next_one(tmp_path, monkeypatch):
    syncs = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)

    async def scene(journal):
        await asyncio.gather(*(journal.append(Job(number)) for number in range(100)))
        assert [job.campaign_id for job in journal.oldest(100)] == list(range(100))
        assert len(syncs) <= 2

    with_journal(tmp_path, scene)


def test_a_job_twice_is_one_job(tmp_path):
    async def scene(journal):
        await asyncio.gather(journal.append(Job(1)), journal.append(Job(1)))
        await journal.append(Job(1))
        assert len(journal) == 1

    with_journal(tmp_path, scene)
    assert left_in(tmp_path) == [Job(1)]


def test_a_full_journal_takes_no_job_and_takes_one_again_when_one_has_left(tmp_path):
    async def scene(journal):
        results = await asyncio.gather(*(journal.append(Job(number)) for number in range(4)), return_exceptions=True)
        assert [type(result) for result in results] == [type(None)] * 3 + [JournalFull]
        assert results[3].retry_after >= 1
        assert not journal.accepts
        await journal.remove([Job(0)])
        assert journal.accepts
        await journal.append(Job(3))

    with_journal(tmp_path, scene, max_jobs=3)


def test_the_files_shrink_to_nothing_when_all_jobs_have_left(tmp_path):
    async def leave(journal):
        await journal.append(Job(1))

    with_journal(tmp_path, leave)

    async def scene(journal):
        await journal.append(Job(2))
        await journal.remove([Job(1)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 0
        await journal.remove([Job(2)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
        assert len(journal) == 0

    with_journal(tmp_path, scene)
    assert files(tmp_path) == []


def test_a_file_that_is_never_empty_stays_small(tmp_path):
    max_jobs = 10

    async def scene(journal):
        await journal.append(Job(10**6))
        for number in range(10 * COMPACTION_FACTOR * max_jobs):
            await journal.append(Job(10**6 + number + 1))
            await journal.remove([Job(10**6 + number)])
        size = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert size < 2 * COMPACTION_FACTOR * max_jobs * RECORD_BYTES
        return journal.oldest(10)

    remaining = with_journal(tmp_path, scene, max_jobs=max_jobs)
    assert left_in(tmp_path)[-1:] == remaining == [Job(10**6 + 10 * COMPACTION_FACTOR * max_jobs)]


def test_two_processes_with_one_directory_keep_to_their_own_files(tmp_path):
    async def scene(first):
        async with opened(tmp_path) as second:
            await first.append(Job(1))
            await second.append(Job(2))
            await first.adopt()
            await second.adopt()
            assert (first.oldest(9), second.oldest(9)) == ([Job(1)], [Job(2)])
            await first.remove([Job(1)])
            assert second.oldest(9) == [Job(2)]
        await first.adopt()
        assert first.oldest(9) == [Job(2)]

    with_journal(tmp_path, scene)


def test_the_jobs_of_a_killed_process_come_before_newer_ones(tmp_path):
    program = (
        "import asyncio, os, pathlib, sys; from service.jobs.journal import Journal; from service.jobs.job import Job\n"
        "async def main():\n"
        "    journal = Journal(pathlib.Path(sys.argv[1]), max_jobs=10)\n"
        "    for number in (1, 2, 3):\n"
        "        await journal.append(Job(number))\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )

    async def scene(journal):
        await journal.append(Job(4))
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program, str(tmp_path)], check=False)
        await journal.adopt()
        assert [job.campaign_id for job in journal.oldest(9)] == [1, 2, 3, 4]
        await journal.remove(journal.oldest(9))

    with_journal(tmp_path, scene)
    assert files(tmp_path) == []


def test_damage_in_the_middle_is_set_aside_with_one_line_and_loses_nothing_else(tmp_path, caplog):
    records = encode([Job(1)]), encode([Job(2)]), encode([Job(3)])
    (tmp_path / "dead.jobs").write_bytes(records[0] + b"X" + records[1][1:] + records[2] + records[2][:5])
    assert left_in(tmp_path) == [Job(1), Job(3)]
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1
    assert str(tmp_path / "dead.damaged") in lines[0]
    assert (tmp_path / "dead.damaged").read_bytes() == b"X" + records[1][1:]


def test_a_torn_last_record_is_dropped_without_a_line(tmp_path, caplog):
    (tmp_path / "dead.jobs").write_bytes(encode([Job(1)]) + encode([Job(2)])[:9])
    assert left_in(tmp_path) == [Job(1)]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_failed_write_accepts_nothing_and_leaves_no_torn_record(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")

    async def scene(journal):
        await journal.append(Job(1))
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", lambda _: fail())
            results = await asyncio.gather(*(journal.append(Job(n)) for n in (2, 3)), return_exceptions=True)
            assert [type(result) for result in results] == [JournalFull] * 2
            assert not journal.accepts
        await journal.append(Job(4))
        assert journal.accepts

    def fail():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with_journal(tmp_path, scene)
    assert left_in(tmp_path) == [Job(1), Job(4)]
    messages = [record.getMessage() for record in caplog.records if record.name == "service.journal"]
    assert len([message for message in messages if "cannot be used: No space left" in message]) == 1
    assert len([message for message in messages if message.startswith("resolved")]) == 1


def test_an_unusable_directory_is_logged_once_and_ends_nothing(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("no directory")

    async def scene(journal):
        assert not journal.accepts
        for number in (1, 2):
            with pytest.raises(JournalFull):
                await journal.append(Job(number))
        blocked.unlink()
        await journal.append(Job(3))
        assert journal.accepts

    with_journal(blocked / "journal", scene)
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_a_lack_of_descriptors_is_over_without_a_write(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")

    async def scene(journal):
        for _ in range(2):
            with monkeypatch.context() as broken:
                broken.setattr(os, "access", lambda *_: fail(errno.EMFILE))
                await journal.adopt()
                await journal.adopt()
            assert not journal.accepts
            await journal.adopt()
            assert journal.accepts
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", lambda _: fail(errno.ENOSPC))
            with pytest.raises(JournalFull):
                await journal.append(Job(1))
        await journal.adopt()
        assert not journal.accepts, "only a write can show that there is space again"

    def fail(number):
        raise OSError(number, os.strerror(number))

    with_journal(tmp_path, scene)
    messages = [record.getMessage() for record in caplog.records if record.name == "service.journal"]
    assert len([message for message in messages if "cannot be used: Too many open files" in message]) == 2
    assert len([message for message in messages if message.startswith("resolved")]) == 2


def test_only_the_user_of_the_service_can_read_the_journal(tmp_path):
    async def scene(journal):
        await journal.append(Job(1))
        modes = [path.stat().st_mode & 0o777 for path in (directory, *directory.iterdir())]
        assert modes == [0o700, 0o600]

    directory = tmp_path / "journal"
    with_journal(directory, scene)


def test_a_journal_whose_directory_was_deleted_is_written_again_with_all_its_jobs(tmp_path):
    directory = tmp_path / "journal"

    async def scene(journal):
        await journal.append(Job(1))
        await journal.append(Job(2))
        shutil.rmtree(directory)
        await journal.append(Job(3))

    with_journal(directory, scene)
    assert left_in(directory) == [Job(1), Job(2), Job(3)]
