"""The workers: python -m exports.worker, with DATABASE_URL and REDIS_URL.

A worker of RQ ends when it loses Redis other than while it waits for a job. The pool starts another one in a second.
"""

from __future__ import annotations

import os
from typing import Any

from redis import Redis
from rq import Worker
from rq.worker_pool import WorkerPool

from exports.queue import NAME


class ExportsWorker(Worker):
    """A worker that gives up a silent connection after 11 s, in place of 415 s, and looks for abandoned jobs each minute."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, worker_ttl=16, maintenance_interval=60, **settings)


if __name__ == "__main__":
    redis = Redis.from_url(os.environ["REDIS_URL"], socket_connect_timeout=0.5)
    WorkerPool([NAME], connection=redis, worker_class=ExportsWorker).start()
