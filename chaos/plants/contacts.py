"""Plants in the import of contacts."""

from __future__ import annotations

from plants.plant import plant

OUTAGE = "test_contacts.py::test_an_outage_during_an_import_is_a_timely_503_and_the_repeated_import_completes_it"
MEMORY = "test_contacts.py::test_an_import_of_10_mib_takes_bounded_memory_and_delays_no_other_request"
MALFORMED = "test_contacts.py::test_a_malformed_file_is_counted_or_refused_and_never_a_500"
STALLED = "test_contacts.py::test_stalled_uploads_hold_no_connection_of_the_pool"

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
            "        async with aclosing(self._pieces(request)) as pieces:\n            async for piece in pieces:\n                await self._add(result, records.feed(piece))\n",
            '        whole = b"".join([piece async for piece in self._pieces(request)])\n        await self._add(result, list(records.feed(whole)))\n',
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
)
