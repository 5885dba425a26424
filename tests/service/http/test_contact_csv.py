"""The records of a CSV file, however it is formed and in whatever pieces it arrives."""

import random

import pytest

from service.http.contact_csv import MAX_RECORD_BYTES, CsvRecords


def read(file, size=1 << 20):
    """Return line, fields and problem of each record of a file that arrives in pieces of `size` bytes."""
    records = CsvRecords()
    found = [r for i in range(0, len(file), size) for r in records.feed(file[i : i + size])] + list(records.close())
    return [(each.line, each.problem or each.fields) for each in found]


LONG = b"x" * MAX_RECORD_BYTES
NOT_CLOSED = "a quote is not closed"
WRONG_PLACE = "a quote or a line break stands in a wrong place"
FILES = {
    "plain": (b"a,b\nc,d\n", [(1, ["a", "b"]), (2, ["c", "d"])]),
    "no line break at the end": (b"a,b\nc,d", [(1, ["a", "b"]), (2, ["c", "d"])]),
    "line breaks of Windows": (b"a,b\r\nc,d\r\n", [(1, ["a", "b"]), (2, ["c", "d"])]),
    "a byte order mark": (b"\xef\xbb\xbfa,b\n", [(1, ["a", "b"])]),
    "empty lines": (b"\na\n\r\n \nb\n\n", [(2, ["a"]), (5, ["b"])]),
    "quotes": (b'"a,""b""",c\n', [(1, ['a,"b"', "c"])]),
    "a line break in quotes": (b'"a\n\r\nb",c\nd\n', [(1, ["a\n\r\nb", "c"]), (4, ["d"])]),
    "an open quote": (b'"a\nb\nc\n', [(1, NOT_CLOSED), (2, ["b"]), (3, ["c"])]),
    "text behind a quote": (b'"a"b\nc\n', [(1, WRONG_PLACE), (2, ["c"])]),
    "two quotes in wrong places": (b'a"b\nc\nd"e\nf\n', [(1, WRONG_PLACE), (2, ["c"]), (3, NOT_CLOSED), (4, ["f"])]),
    "another encoding": (b"a\n\xfc\nb\n", [(1, ["a"]), (2, "the line is not in UTF-8"), (3, ["b"])]),
    "a NUL": (b"a\0b\n", [(1, ["a\0b"])]),
    "an endless line": (b"a\n" + LONG * 3 + b"\nb\n", [(1, ["a"]), (2, "the line is too long"), (3, ["b"])]),
    "an endless last line": (b"a\n" + LONG * 3, [(1, ["a"]), (2, "the line is too long")]),
    "an endless line in quotes": (
        b'a\n"b\n' + LONG + b'x"\nc\n',
        [(1, ["a"]), (2, NOT_CLOSED), (3, "the line is too long"), (4, ["c"])],
    ),
    "a quote that is closed too late": (
        b'"a\n' + b"b\n" * MAX_RECORD_BYTES + b'"',
        [(1, NOT_CLOSED), *((n, ["b"]) for n in range(2, MAX_RECORD_BYTES + 2)), (MAX_RECORD_BYTES + 2, NOT_CLOSED)],
    ),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("size", [1 << 20, 8192, 7, 1])
@pytest.mark.parametrize("form", FILES)
def test_records_are_the_same_in_pieces_of_any_size(form, size):
    file, expected = FILES[form]
    assert read(file, size) == expected


def test_no_form_of_a_file_costs_more_than_a_few_records_of_memory():
    """The records that are not complete yet are all that a file can make the service keep."""
    chance = random.Random(7)
    alphabet = [b"a", b",", b'"', b"\n", b"\r\n", b"\xff", b"\0", b"x" * 100]
    for _ in range(50):
        records = CsvRecords()
        for _ in range(50):
            list(records.feed(b"".join(chance.choices(alphabet, k=400))))
            kept = len(records._rest) + sum(map(len, records._open))
            assert kept <= 2 * MAX_RECORD_BYTES + 1
        list(records.close())
        assert not records._open
