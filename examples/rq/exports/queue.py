"""The queue, for programs that enqueue exports."""

from __future__ import annotations

from redis import Redis
from rq import Queue, Retry

from exports.jobs import write

NAME = "exports"


class Exports:
    """The queue of exports.

    Args:
        url: of Redis.
    """

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=1.0)
        self._queue = Queue(NAME, connection=self._redis)

    def enqueue(self, number: int) -> None:
        """Enqueue an export. A second call replaces the job, so that a caller without an answer can repeat it.

        Raises:
            redis.RedisError: Redis is away. The job may have been enqueued.
        """
        # Without a retry, the job of a worker that was killed becomes a failed one. Without an interval, ten attempts take no second.
        self._queue.enqueue(write, number, job_id=f"export-{number}", retry=Retry(max=10, interval=1))

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
