"""The operations of generated tests.

Campaigns are created, read, changed, deleted and listed, and the pool is cleaned up. A few campaigns are rows that were inserted
around the service. The first read of each needs Postgres, because no layer has a copy.
"""

from __future__ import annotations

from collections import deque

import httpx

from pytest_resilience import Resilience
from pytest_resilience.history import Client
from pytest_resilience.workloads import HttpResource
from workload import sql

TIMEOUT = 6.0  # seconds; the service answers sooner under every fault that leaves its process running
EVERY = 12  # operations, in which
CLEANUP = 11  # is a cleanup
FIRST_READS = (3, 5)  # are reads of a campaign that nothing has read before
INSERTED = 8  # campaigns, two for each of four episodes
INSERT = "INSERT INTO campaigns (name, message) SELECT 'Winter sale', 'row ' || n FROM generate_series(1, $1) n RETURNING id, message"


class Campaigns(HttpResource):
    """Clients that race for three campaigns, read some that no layer has cached, and clean up the pool once in a while."""

    def __init__(self) -> None:
        super().__init__(
            "/api/campaigns",
            create={"name": "Autumn sale", "message": "{value}"},
            change={"message": "{value}"},
            list_path="/api/campaigns?limit=200",
            timeout=TIMEOUT,
        )
        self.kinds = (*self.kinds, "cleanup")

    def begin(self, resilience: Resilience) -> None:
        self._service = resilience.service
        super().begin(resilience)
        client = resilience.history.client()
        rows = sql(resilience, INSERT, INSERTED)
        for row in rows:
            self.add(client, str(row["id"]), row["message"], version=1)
        self._unread = deque(str(row["id"]) for row in rows)

    def kind(self, n: int) -> str:
        return "cleanup" if n % EVERY == CLEANUP else super().kind(n)

    def perform(self, client: Client, kind: str, n: int) -> None:
        if kind == "cleanup":
            self._clean_up(client)
        elif client.history.phase == "run" and n % EVERY in FIRST_READS and self._unread:
            self.read(client, self._unread.popleft())
        else:
            super().perform(client, kind, n)

    def _clean_up(self, client: Client) -> None:
        """Call the cleanup. One that comes too soon after the last is an answer, too."""
        call = client.invoke("cleanup")
        try:
            status = self._service.post("/api/db-cleanup", timeout=TIMEOUT).status_code
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            call.fail(type(error).__name__)
        except httpx.HTTPError as error:
            call.info(type(error).__name__)
        else:
            if status in {200, 429}:
                call.ok()
            else:
                call.fail(status)
