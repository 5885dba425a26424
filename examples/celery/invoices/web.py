"""The HTTP routes: gunicorn invoices.web:app, with DATABASE_URL and REDIS_URL.

A PUT stores an invoice and enqueues its task. If one of these fails, the answer is 503 and the client repeats the PUT, which may enqueue
the task a second time but prints nothing twice.
"""

from __future__ import annotations

import psycopg
from flask import Flask, request
from flask.typing import ResponseReturnValue
from kombu.exceptions import OperationalError

from invoices.database import connect
from invoices.tasks import print_invoice

app = Flask(__name__)


@app.put("/invoices/<int:number>")
def store(number: int) -> ResponseReturnValue:
    """Store an invoice, and enqueue its task after the commit."""
    with connect() as connection:
        values = (number, request.get_json()["customer"])
        connection.execute("insert into invoices values (%s, %s) on conflict do nothing", values)
    print_invoice.apply_async((number,), retry=False)
    return {"number": number}, 202


@app.get("/invoices/<int:number>")
def read(number: int) -> ResponseReturnValue:
    """Return an invoice, and whether it has been printed."""
    query = "select customer, worker is not null from invoices left join prints using (number) where number = %s"
    with connect() as connection:
        row = connection.execute(query, (number,)).fetchone()
    return {"customer": row[0], "printed": row[1]} if row else ({"error": "no such invoice"}, 404)


@app.get("/readyz")
def ready() -> ResponseReturnValue:
    """Report that invoices can be read, for which the process needs no broker."""
    with connect() as connection:
        connection.execute("select 1 from invoices limit 1")
    return {"status": "ready"}


@app.errorhandler(psycopg.OperationalError)
@app.errorhandler(OperationalError)
def unavailable(error: Exception) -> ResponseReturnValue:
    """Answer 503, because Postgres or the broker is away and a later attempt may succeed."""
    app.logger.warning("%s %s: %r", request.method, request.path, error)
    return {"error": "try again later"}, 503, {"Retry-After": "1"}
