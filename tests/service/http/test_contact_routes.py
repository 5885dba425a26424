"""The import of contacts, through the running service."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_resilience import eventually
from service.http.contact_routes import MAX_ERRORS, MAX_FILE_BYTES, MAX_ROWS
from service.postgres.contacts import Contact

from ..support import backends, sql

HEADER = b"name,email,phone\n"
TYPE = {"Content-Type": "text/csv"}


def upload(service, rows, *, header=HEADER, headers=TYPE, **options):
    content = rows if callable(getattr(rows, "__next__", None)) else header + rows
    return service.post("/api/contacts/import", content=content, headers=headers, **options)


def contacts(resilience):
    rows = sql(resilience, "SELECT name, email, phone FROM contacts ORDER BY email")
    return [tuple(row.values()) for row in rows]


def many(count):
    return b"".join(b"Name %d,user%d@example.com,+1 212 555 %04d\n" % (n, n, n % 10_000) for n in range(count))


def test_contacts_are_imported_and_a_repeated_import_changes_nothing(resilience, service):
    reply = upload(service, b"Ada,Ada@Example.com,+1 212 555 0100\nBob,bob@example.com,\n")
    assert reply.status_code == 200, reply.text
    assert reply.json() == {"imported": 2, "updated": 0, "rejected": 0, "errors": []}
    rows = [("Ada", "ada@example.com", "+1 212 555 0100"), ("Bob", "bob@example.com", "")]
    assert contacts(resilience) == rows
    reply = upload(service, b"Ada,Ada@Example.com,+1 212 555 0100\nBob,bob@example.com,\n")
    assert reply.json() == {"imported": 0, "updated": 2, "rejected": 0, "errors": []}
    assert contacts(resilience) == rows


def test_a_known_address_is_updated_and_the_last_row_of_a_file_wins(resilience, service):
    assert upload(service, b"Ada,ada@example.com,1234\n").json()["imported"] == 1
    reply = upload(
        service,
        b"Ada L,ada@example.com,5678\nBob,bob@example.com,one\nBob,bob@example.com,222\nB,BOB@example.com,333\n",
    )
    assert reply.json()["errors"] == [
        {"line": 3, "reason": "phone: must be a number such as +1 212 555 0100, or empty"}
    ]
    assert {name: reply.json()[name] for name in ("imported", "updated", "rejected")} == {
        "imported": 1,
        "updated": 2,
        "rejected": 1,
    }
    assert contacts(resilience) == [("Ada L", "ada@example.com", "5678"), ("B", "bob@example.com", "333")]


def test_columns_may_stand_in_any_order(resilience, service):
    reply = upload(service, b"1234, ada@example.com ,Ada\r\n", header=b"\xef\xbb\xbfPhone,Email,Name\r\n")
    assert reply.json()["imported"] == 1
    assert contacts(resilience) == [("Ada", "ada@example.com", "1234")]


BAD_ROWS = {
    "too few fields": b"Ada,ada@example.com\n",
    "too many fields": b"Ada,ada@example.com,1234,x\n",
    "no name": b",ada@example.com,1234\n",
    "a long name": b"a" * 201 + b",ada@example.com,1234\n",
    "a NUL": b"A\0a,ada@example.com,1234\n",
    "a line break in the name": b'"A\nda",ada@example.com,1234\n',
    "no address": b"Ada,,1234\n",
    "no domain": b"Ada,ada@,1234\n",
    "two addresses": b'Ada,"ada@example.com,bob@example.com",1234\n',
    "a line break in the address": b'Ada,"ada@example.com\nBcc: x@example.com",1234\n',
    "a long address": b"Ada," + b"a" * 60 + b"@" + b"example." * 30 + b"com,1234\n",
    "a formula as name": b'"=HYPERLINK(""http://x"")",ada@example.com,1234\n',
    "a formula with +": b"+1+1,ada@example.com,1234\n",
    "a formula with -": b"-1+1,ada@example.com,1234\n",
    "a formula with @": b"@SUM(A1),ada@example.com,1234\n",
    "a formula as address": b"Ada,=ada@example.com,1234\n",
    "a formula as phone": b"Ada,ada@example.com,=1+1\n",
    "words as phone": b"Ada,ada@example.com,none\n",
    "Latin-1": b"J\xfcrgen,ada@example.com,1234\n",
    "an endless line": b"x" * 100_000 + b"\n",
    "a quote that is not closed": b'"Ada,ada@example.com,1234\n',
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_rejected_alone_and_named_by_its_line(resilience, service, row):
    reply = upload(service, b"First,first@example.com,\n" + BAD_ROWS[row] + b"Last,last@example.com,\n")
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert (body["imported"], body["updated"]) == (2, 0)
    assert body["rejected"] == len(body["errors"]) >= 1
    assert body["errors"][0]["line"] == 3
    assert [name for name, _, _ in contacts(resilience)] == ["First", "Last"]


def test_only_the_first_ten_reasons_are_listed(service):
    body = upload(service, b"x\n" * 50).json()
    assert body["rejected"] == 50
    assert [error["line"] for error in body["errors"]] == list(range(2, 2 + MAX_ERRORS))


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"\n\n",
        b"Ada,ada@example.com,1\n",
        b"name,email\n",
        b"name,email,phone,name\n",
        "name,email,phone\n".encode("utf-16"),
    ],
)
def test_a_file_without_the_header_is_422(service, file):
    reply = upload(service, file, header=b"")
    assert reply.status_code == 422, reply.text
    assert "name,email,phone" in reply.json()["errors"]["body"]


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "text/csv; charset=latin-1", "multipart/form-data; boundary=x", None]
)
def test_another_content_type_is_415(service, kind):
    reply = upload(service, b"Ada,ada@example.com,\n", headers={"Content-Type": kind} if kind else {})
    assert reply.status_code == 415, reply.text


@pytest.mark.parametrize("kind", ["text/csv", 'Text/CSV; charset="UTF-8"', "text/csv; header=present"])
def test_csv_in_utf_8_is_accepted(service, kind):
    assert upload(service, "Jürgen,j@example.com,\n".encode(), headers={"Content-Type": kind}).json()["imported"] == 1


def test_a_file_of_10_mib_is_accepted_and_one_more_byte_is_413(service):
    filler = b"\n" * (MAX_FILE_BYTES - len(HEADER))
    assert upload(service, filler).status_code == 200
    assert upload(service, filler + b"\n").status_code == 413
    pieces = iter([HEADER, *([b"\n" * (1 << 20)] * 10)])
    assert upload(service, pieces).status_code == 413  # without Content-Length


def test_a_file_of_100_000_rows_is_accepted_and_one_more_row_is_413(resilience, service):
    body = upload(service, many(MAX_ROWS), timeout=60).json()
    assert (body["imported"], body["rejected"]) == (MAX_ROWS, 0)
    assert upload(service, b"x\n" * (MAX_ROWS + 1), timeout=60).status_code == 413


def test_an_import_delays_no_other_request(service):
    delays = []
    with ThreadPoolExecutor(4) as threads:
        imports = [threads.submit(upload, service, many(20_000), timeout=60) for _ in range(3)]
        while not all(each.done() for each in imports):
            begin = time.monotonic()
            assert service.get("/livez").status_code == 200
            delays.append(time.monotonic() - begin)
    assert {each.result().status_code for each in imports} == {200}
    assert sorted(delays)[len(delays) // 2] < 0.05, (
        f"the median of {len(delays)} requests took {sorted(delays)[len(delays) // 2]:.3f} s"
    )


def test_a_slow_upload_holds_no_connection_of_the_pool(resilience, service):
    eventually(lambda: backends(resilience) == 0, within=6)
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = (
            b"POST /api/contacts/import HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 1000\r\n\r\n"
        )
        client.sendall(head + HEADER + b"Ada,ada@example.com,\n")
        eventually(lambda: service.get("/livez").status_code == 200, within=2)
        assert backends(resilience) == 0


def test_a_fault_of_postgres_is_a_503_and_the_import_can_be_repeated(resilience, service):
    with resilience.postgres.refuse():
        reply = upload(service, b"Ada,ada@example.com,\n")
        assert reply.status_code == 503
        assert int(reply.headers["Retry-After"]) >= 1
    eventually(lambda: upload(service, b"Ada,ada@example.com,\n").status_code == 200, within=3)
    assert [name for name, _, _ in contacts(resilience)] == ["Ada"]


@pytest.mark.parametrize("phone", ["", "+49 (30) 901820", "030/901820-1", "(212) 555.0100", "112"])
def test_phone_numbers_of_every_country_are_valid(phone):
    assert Contact("Ada", "ada@example.com", phone).problem() is None


@pytest.mark.parametrize("email", ["a@b", "o'neil+tag@mail.example.co.uk", "_x-1@xn--bcher-kva.example"])
def test_addresses_of_every_usual_form_are_valid(email):
    assert Contact("Ada", email, "").problem() is None


def test_two_imports_of_the_same_addresses_at_the_same_time_both_succeed(resilience, service):
    with ThreadPoolExecutor(4) as threads:
        replies = list(threads.map(lambda _: upload(service, many(3_000), timeout=30), range(4)))
    assert {reply.status_code for reply in replies} == {200}
    assert sum(reply.json()["imported"] for reply in replies) == 3_000
    assert sum(reply.json()["updated"] for reply in replies) == 9_000
    assert len(contacts(resilience)) == 3_000
