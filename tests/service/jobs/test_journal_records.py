"""The records of the journal, and the damage that they survive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs.job import Job
from service.jobs.journal_records import Contents, decode, encode

JOBS = [Job(7), Job(19, 3), Job(2**62, 1)]
numbers = st.integers(0, 10**19 - 1)
lists_of_jobs = st.lists(st.builds(Job, numbers, numbers), unique=True, max_size=8)


@given(lists_of_jobs)
def test_jobs_are_read_back_in_their_order(jobs):
    assert decode(encode(jobs)) == Contents(tuple(jobs), b"", b"")


def test_a_job_that_was_written_twice_counts_once():
    assert decode(encode([Job(7), Job(8), Job(7)])).jobs == (Job(7), Job(8))


@pytest.mark.parametrize("length", range(1, len(encode([Job(19, 3)]))))
def test_a_torn_last_record_is_dropped(length):
    begin = encode([Job(7)])
    torn = encode([Job(19, 3)])[:length]
    assert decode(begin + torn) == Contents((Job(7),), b"", torn)


def test_zeros_after_the_last_record_are_a_torn_record():
    assert decode(encode(JOBS) + bytes(4096)) == Contents(tuple(JOBS), b"", bytes(4096))


@given(st.lists(st.builds(Job, numbers, numbers), unique=True, min_size=1, max_size=8), st.data())
def test_any_damaged_byte_loses_only_the_record_that_has_it(jobs, data):
    good = encode(jobs)
    position = data.draw(st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != good[position]))
    lost = len(decode(good[:position]).jobs)
    found = decode(good[:position] + bytes([value]) + good[position + 1 :])
    assert found.jobs == tuple(jobs[:lost] + jobs[lost + 1 :])
    assert found.damaged or found.torn


def test_damaged_bytes_in_the_middle_are_returned():
    first, second, third = (encode([job]) for job in JOBS)
    found = decode(first + b"\xff" + second[1:] + third)
    assert found == Contents((JOBS[0], JOBS[2]), b"\xff" + second[1:], b"")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_journal_hold_no_job_and_are_all_returned(data):
    found = decode(data)
    assert found.jobs == ()
    assert found.damaged + found.torn == data
