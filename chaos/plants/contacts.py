"""Plants in the import of contacts."""

from __future__ import annotations

from plants.plant import plant

OUTAGE = "test_contacts.py::test_an_outage_during_an_import_is_a_timely_503_and_the_repeated_import_completes_it"
MEMORY = "test_contacts.py::test_an_import_of_10_mib_takes_bounded_memory_and_delays_no_other_request"
MALFORMED = "test_contacts.py::test_a_malformed_file_is_counted_or_refused_and_never_a_500"
STALLED = "test_contacts.py::test_stalled_uploads_hold_no_connection_of_the_pool"
ROWS = "test_contacts.py::test_each_row_is_judged_alone_and_the_last_one_of_an_address_is_stored"
SIZES = "test_contacts.py::test_a_file_may_have_10_mib_and_100_000_rows_and_not_one_more"
EARLY = "test_contacts.py::test_an_import_that_ends_early_has_imported_the_rows_before"
TOGETHER = "test_contacts.py::test_two_imports_of_the_same_addresses_at_one_time_both_succeed"
QUOTE = "test_contacts.py::test_a_quote_that_is_not_closed_within_4_kib_costs_one_line"

PLANTS = (
    plant(
        "import-reads-the-whole-file",
        "10 MiB are nothing today.",
        ("http/contact_routes.py", "BATCH_ROWS = 500", "BATCH_ROWS = 1_000_000"),
        tests=f"{MEMORY}[valid rows]",
        message="MiB larger",
    ),
    plant(
        "import-keeps-long-lines",
        "A line is as long as it is.",
        ("http/contact_csv.py", "MAX_RECORD_BYTES = 4096", "MAX_RECORD_BYTES = 1 << 30"),
        tests=(f"{MEMORY}[an endless line]", f"{MEMORY}[an endless quote]"),
        message="MiB larger",
    ),
    plant(
        "import-in-one-step",
        "First read it, then parse it.",
        (
            "http/contact_routes.py",
            (
                "            async with aclosing(self._pieces(request)) as pieces:\n"
                "                async for piece in pieces:\n                    await self._add(result, records.feed(piece))\n"
            ),
            (
                '            whole = b"".join([piece async for piece in self._pieces(request)])\n'
                "            await self._add(result, list(records.feed(whole)))\n"
            ),
        ),
        ("http/contact_routes.py", "            if clock() > end:\n", "            if False:\n"),
        ("http/contact_routes.py", "BATCH_ROWS = 500", "BATCH_ROWS = 1_000_000"),
        tests=f"{MEMORY}[valid rows]",
        message="delayed all requests",
    ),
    plant(
        "import-of-another-encoding-is-500",
        "Everybody uses UTF-8.",
        ("http/contact_csv.py", "    except UnicodeDecodeError:", "    except ZeroDivisionError:"),
        tests=MALFORMED,
        message="Latin-1: 500",
    ),
    plant(
        "import-of-wrong-quotes-is-500",
        "The csv module knows CSV.",
        ("http/contact_csv.py", "    except csv.Error:", "    except ZeroDivisionError:"),
        tests=MALFORMED,
        message="500",
    ),
    plant(
        "import-of-nuls-is-503",
        "Postgres checks what it gets.",
        ("postgres/contacts.py", "        if CONTROL.search(self.name):", "        if False:"),
        tests=MALFORMED,
        message="NULs: 503",
    ),
    plant(
        "import-without-a-header-is-empty",
        "No rows is no error.",
        ("http/contact_routes.py", "        if result.columns is None:\n            raise _no_header()\n", ""),
        tests=MALFORMED,
        message="nothing: no row is rejected",
    ),
    plant(
        "import-in-one-transaction",
        "All or nothing.",
        (
            "http/contact_routes.py",
            "        async with aclosing(self._pieces(request)) as pieces:\n",
            "        async with self._contacts._database._checkout(), aclosing(self._pieces(request)) as pieces:  # type: ignore[attr-defined]\n",
        ),
        tests=STALLED,
        message="connections can be used",
    ),
    plant(
        "import-fails-as-500",
        "An import is no ordinary request.",
        (
            "http/contact_routes.py",
            "                await result.write(self._contacts)\n            if",
            "                try:\n                    await result.write(self._contacts)\n                except Exception as error:\n                    raise RuntimeError from error\n            if",
        ),
        tests=f"{OUTAGE}[refusing]",
        message="a dependency fault is 503",
    ),
    plant(
        "import-cannot-be-repeated",
        "An address that is known is an error.",
        (
            "postgres/contacts.py",
            "                    ON CONFLICT (email) DO UPDATE SET name = excluded.name, phone = excluded.phone\n                 WHERE (contacts.name, contacts.phone) IS DISTINCT FROM (excluded.name, excluded.phone)\n",
            "",
        ),
        tests=f"{OUTAGE}[refusing]",
        message="the repetition reports",
    ),
    plant(
        "import-continues-after-an-outage",
        "The other rows are fine.",
        (
            "http/contact_routes.py",
            "            if len(result.batch) >= BATCH_ROWS:\n                await result.write(self._contacts)\n",
            "            if len(result.batch) >= BATCH_ROWS:\n                try:\n                    await result.write(self._contacts)\n                except Exception:\n                    result.rejected += BATCH_ROWS\n",
        ),
        (
            "http/contact_routes.py",
            "            raise _no_header()\n        await result.write(self._contacts)\n",
            "            raise _no_header()\n",
        ),
        tests=f"{OUTAGE}[refusing]",
        message="a dependency fault is 503",
    ),
    plant(
        "contact-formula-of-equals-only",
        "A formula begins with =.",
        ("postgres/contacts.py", 'FORMULA_STARTS = "=+-@', 'FORMULA_STARTS = "='),
        tests=ROWS,
        message="a name that begins with +: 0 rows are rejected",
    ),
    plant(
        "contact-address-as-written",
        "Addresses are case-sensitive by the RFC.",
        ("http/contact_routes.py", "Contact(name, email.lower(), phone)", "Contact(name, email, phone)"),
        tests=ROWS,
        message="three addresses are new",
    ),
    plant(
        "contact-first-row-counts",
        "The address is known by then.",
        (
            "http/contact_routes.py",
            "            self.batch[contact.email] = contact\n",
            "            self.batch.setdefault(contact.email, contact)\n",
        ),
        tests=ROWS,
        message="these contacts are stored",
    ),
    plant(
        "contact-columns-in-order",
        "The header says so.",
        ("http/contact_routes.py", "    return [names.index(name) for name in HEADER]", "    return [0, 1, 2]"),
        tests=ROWS,
        message="three addresses are new",
    ),
    plant(
        "contact-without-phone-rejected",
        "A contact can be called.",
        ("postgres/contacts.py", "        if self.phone and not PHONE", "        if not PHONE"),
        tests=ROWS,
        message="three addresses are new",
    ),
    plant(
        "contact-lines-from-zero",
        "Rows are counted without the header.",
        ("http/contact_routes.py", '{"line": record.line, ', '{"line": record.line - 1, '),
        tests=ROWS,
        message="and the response names line 2",
    ),
    plant(
        "contact-not-updated",
        "A known address is known.",
        (
            "postgres/contacts.py",
            "DO UPDATE SET name = excluded.name, phone = excluded.phone",
            "DO UPDATE SET name = excluded.name",
        ),
        tests=ROWS,
        message="these contacts are stored",
    ),
    plant(
        "contact-names-of-255",
        "It is text in Postgres.",
        ("postgres/contacts.py", "MAX_NAME = 200", "MAX_NAME = 255"),
        tests=ROWS,
        message="a name of 201 characters: 0 rows are rejected",
    ),
    plant(
        "contact-phone-with-letters",
        "1-800-FLOWERS is a number.",
        ("postgres/contacts.py", '[0-9(][0-9 ()./-]{0,30}")', '[0-9(][0-9A-Za-z ()./-]{0,30}")'),
        tests=ROWS,
        message="a phone number with letters: 0 rows are rejected",
    ),
    plant(
        "import-quote-takes-the-rest",
        "The file is malformed.",
        ("http/contact_csv.py", "        return record, lines[1:]\n", "        return record, []\n"),
        tests=ROWS,
        message="the rows before and after it are not imported",
    ),
    plant(
        "import-of-any-type",
        "It is parsed as CSV anyway.",
        ("http/contact_routes.py", "        _check_content_type(request)\n", ""),
        tests=SIZES,
        message="a file of the type application/json gets 200, not 415",
    ),
    plant(
        "import-of-any-number-of-rows",
        "The size is bounded.",
        ("http/contact_routes.py", "MAX_ROWS = 100_000", "MAX_ROWS = 10_000_000"),
        tests=SIZES,
        message="a file of 100,001 rows gets 200",
    ),
    plant(
        "import-counts-valid-rows-only",
        "A rejected row is no row.",
        (
            "http/contact_routes.py",
            "self.imported + self.updated + self.rejected + len(self.batch) >= MAX_ROWS",
            "self.imported + self.updated + len(self.batch) >= MAX_ROWS",
        ),
        tests=SIZES,
        message="a file of 100,001 rows gets 200",
    ),
    plant(
        "import-of-any-size",
        "It takes little memory.",
        ("http/contact_routes.py", "MAX_FILE_BYTES = 10 << 20", "MAX_FILE_BYTES = 100 << 20"),
        tests=SIZES,
        message="a file of 10 MiB and a byte gets 200",
    ),
    plant(
        "import-size-by-content-length",
        "Content-Length is the length.",
        ("http/contact_routes.py", "            if size > MAX_FILE_BYTES:\n                raise too_large\n", ""),
        tests=SIZES,
        message="in chunks gets 200",
    ),
    plant(
        "import-parts-without-a-time-out",
        "A slow upload is an upload.",
        (
            "http/contact_routes.py",
            "asyncio.timeout(min(self._body_timeout, longest - waited))",
            "asyncio.timeout(longest - waited)",
        ),
        tests=EARLY,
        message="an upload stops, and gets its 408",
    ),
    plant(
        "import-without-an-end",
        "A client that sends is alive.",
        (
            "http/contact_routes.py",
            "asyncio.timeout(min(self._body_timeout, longest - waited))",
            "asyncio.timeout(self._body_timeout)",
        ),
        tests=EARLY,
        message="an upload without an end gets",
    ),
    plant(
        "import-late-drops-its-rows",
        "All or nothing.",
        (
            "http/contact_routes.py",
            "            await result.write(self._contacts)\n            raise\n",
            "            raise\n",
        ),
        tests=EARLY,
        message="has not imported the rows before",
    ),
    plant(
        "import-locks-rows-as-they-come",
        "The order of the file is an order.",
        ("postgres/contacts.py", " ORDER BY email\n", "\n"),
        tests=TOGETHER,
        message="two imports have the same addresses, in opposite orders, and get",
    ),
    plant(
        "import-counts-before-it-writes",
        "An address that is not there is new.",
        (
            "postgres/contacts.py",
            '            SELECT count(*) FILTER (WHERE inserted) AS inserted FROM written"""',
            (
                "            SELECT count(*) AS inserted FROM unnest($2::text[]) AS given (email)\n"
                '             WHERE NOT EXISTS (SELECT FROM contacts WHERE contacts.email = given.email)"""'
            ),
        ),
        tests=TOGETHER,
        message="two imports of the same 3 addresses report",
    ),
    plant(
        "contact-quotes-of-8-kib",
        "A quoted text may be long.",
        ("http/contact_csv.py", "MAX_RECORD_BYTES = 4096", "MAX_RECORD_BYTES = 8192"),
        tests=QUOTE,
        message="a quote is closed after 4200 bytes, and (0, 1) rows",
    ),
    plant(
        "contact-quotes-of-2-kib",
        "A contact is short.",
        ("http/contact_csv.py", "MAX_RECORD_BYTES = 4096", "MAX_RECORD_BYTES = 2048"),
        tests=QUOTE,
        message="a quote is closed after 4000 bytes, and (100, 2) rows",
    ),
)
