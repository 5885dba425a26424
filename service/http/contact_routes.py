"""The import of contacts from a CSV file, in bounded memory and in short steps.

Rules: a connection of the pool is used for one batch of rows at a time, never while the service waits for the client.
All imports share one turn of the event loop, so many of them delay other requests no more than one. A row that stands
twice in a file counts as an update. An import that ends early has imported the rows before, and can be repeated.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..postgres.campaigns import ValidationFailed
from ..postgres.contacts import Contact, Contacts
from .contact_csv import CsvRecords, Record
from .routes import announces_more, route

MAX_FILE_BYTES = 10 << 20
MAX_ROWS = 100_000
MAX_ERRORS = 10  # rejected rows that a response names
HEADER = ("name", "email", "phone")
PIECE_BYTES = 8 << 10  # split into lines at once
STEP_SECONDS = 0.003  # after which other requests get their turn
BATCH_ROWS = 500  # rows in one statement
UPLOAD_TIMEOUT_FACTOR = 30  # longest upload, as a multiple of BODY_TIMEOUT


@dataclass
class ContactImport:
    """One import.

    Attributes:
        imported: contacts that are new.
        updated: rows whose address was known, from Postgres or from an earlier row.
        rejected: rows that are no valid contact.
        errors: the first MAX_ERRORS rejected rows.
        batch: rows that are not in Postgres yet, by address.
    """

    imported: int = 0
    updated: int = 0
    rejected: int = 0
    errors: list[dict[str, object]] = field(default_factory=list)
    batch: dict[str, Contact] = field(default_factory=dict)
    columns: list[int] | None = None

    def add(self, record: Record) -> None:
        """Add the next record of the file.

        Raises:
            ValidationFailed: the first record is not the header.
            HTTPException: the file has too many rows (413).
        """
        if self.columns is None:
            self.columns = _columns(record)
            return
        if self.imported + self.updated + self.rejected + len(self.batch) >= MAX_ROWS:
            raise HTTPException(413, f"The file may have {MAX_ROWS} rows.")
        contact = _contact(record, self.columns)
        if isinstance(contact, Contact):
            self.updated += contact.email in self.batch
            self.batch[contact.email] = contact
            return
        self.rejected += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"line": record.line, "reason": contact})

    async def write(self, contacts: Contacts) -> None:
        """Write the batch to Postgres."""
        if self.batch:
            batch, self.batch = self.batch, {}
            inserted = await contacts.import_all(list(batch.values()))
            self.imported += inserted
            self.updated += len(batch) - inserted

    def as_dict(self) -> dict[str, object]:
        return {
            "imported": self.imported,
            "updated": self.updated,
            "rejected": self.rejected,
            "errors": self.errors,
        }


class ContactRoutes:
    """The routes of contacts."""

    def __init__(self, contacts: Contacts, *, body_timeout: float) -> None:
        self._contacts = contacts
        self._body_timeout = body_timeout
        self._turn = asyncio.Lock()

    def routes(self) -> list[Route]:
        return [route("/api/contacts/import", POST=self.import_csv)]

    async def import_csv(self, request: Request) -> Response:
        _check_content_type(request)
        records, result = CsvRecords(), ContactImport()
        try:
            async with aclosing(self._pieces(request)) as pieces:
                async for piece in pieces:
                    await self._add(result, records.feed(piece))
            await self._add(result, records.close())
        except HTTPException:  # too large or late: the rows before are imported
            await result.write(self._contacts)
            raise
        if result.columns is None:
            raise _no_header()
        await result.write(self._contacts)
        return JSONResponse(result.as_dict())

    async def _add(self, result: ContactImport, records: Iterable[Record]) -> None:
        """Add records in short steps, and write full batches."""
        clock = asyncio.get_running_loop().time
        end = clock() + STEP_SECONDS
        for record in records:
            result.add(record)
            if len(result.batch) >= BATCH_ROWS:
                await result.write(self._contacts)
            if clock() > end:
                await self._let_others_run()
                end = clock() + STEP_SECONDS
        await self._let_others_run()

    async def _let_others_run(self) -> None:
        """End a step. The lock lets one import at a time begin the next one."""
        async with self._turn:
            await asyncio.sleep(0)

    async def _pieces(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the body in pieces.

        Raises:
            HTTPException: the body is too large (413) or late (408).
        """
        too_large = HTTPException(413, f"The file may have {MAX_FILE_BYTES} bytes.")
        if announces_more(request, MAX_FILE_BYTES):
            raise too_large
        stream, size = aiter(request.stream()), 0
        waited, longest = 0.0, UPLOAD_TIMEOUT_FACTOR * self._body_timeout
        clock = asyncio.get_running_loop().time
        while True:
            begin = clock()
            try:
                async with asyncio.timeout(min(self._body_timeout, longest - waited)):
                    chunk = await anext(stream, None)
            except TimeoutError:
                raise HTTPException(408, "The body took too long.", {"Connection": "close"}) from None
            if chunk is None:
                return
            waited += clock() - begin
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise too_large
            for start in range(0, len(chunk), PIECE_BYTES):
                yield chunk[start : start + PIECE_BYTES]


def _columns(header: Record) -> list[int]:
    """Return the positions of name, email and phone.

    Raises:
        ValidationFailed: the record is not the header.
    """
    names = [name.strip().lower() for name in header.fields]
    if sorted(names) != sorted(HEADER):
        raise _no_header()
    return [names.index(name) for name in HEADER]


def _no_header() -> ValidationFailed:
    return ValidationFailed({"body": f"must begin with the line {','.join(HEADER)}"})


def _contact(record: Record, columns: Sequence[int]) -> Contact | str:
    """Return the contact of a row, or the reason why the row is none."""
    if record.problem is not None:
        return record.problem
    if len(record.fields) != len(HEADER):
        return f"the line has {len(record.fields)} fields, not {len(HEADER)}"
    name, email, phone = (record.fields[column].strip() for column in columns)
    contact = Contact(name, email.lower(), phone)
    return contact.problem() or contact


def _check_content_type(request: Request) -> None:
    """Refuse a body of another declared type than CSV, because a page of another site can send one without permission."""
    content_types = request.headers.getlist("content-type")
    kind, _, parameters = (content_types or [""])[0].partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]*)", parameters, re.IGNORECASE)
    if (
        len(content_types) != 1
        or kind.strip().lower() != "text/csv"
        or (charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"))
    ):
        raise HTTPException(415, "The body must be text/csv in UTF-8.", {"Accept": "text/csv"})
