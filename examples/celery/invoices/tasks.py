"""The Celery app and its task. A task runs at least once, and prints an invoice once."""

from __future__ import annotations

import os

import psycopg
from celery import Celery

from invoices.database import connect

app = Celery("invoices", broker=os.environ["REDIS_URL"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,  # a task is acknowledged after it has run, so a worker that is killed loses none
    task_reject_on_worker_lost=True,  # nor does a child of the worker that is killed alone
    worker_lost_wait=1.0,  # seconds for a result of such a child, in place of ten
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": 600,  # seconds until the task of a killed worker returns to the queue; a longer task runs twice
        "unacked_restore_throttle": 1,  # such tasks are looked for each 10 s, in place of 100 s
        "health_check_interval": 1,  # a silent connection is replaced after some 3 s, in place of 51 s
        "socket_connect_timeout": 0.5,
        "socket_timeout": 1.0,
        "max_retries": 0,  # a connection for a publisher is tried once, in place of a hundred times
    },
)


@app.task(autoretry_for=(psycopg.OperationalError,), max_retries=None, retry_backoff=True, retry_backoff_max=30)
def print_invoice(number: int) -> None:
    """Print an invoice, unless it has been printed. The insert stands for the printer."""
    with connect() as connection:
        connection.execute("insert into prints values (%s, %s) on conflict do nothing", (number, os.getpid()))
