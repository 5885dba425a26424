"""The operations of generated tests. Campaigns are created, read, changed, deleted and listed, and the pool is cleaned up."""

from __future__ import annotations

import httpx

from pytest_resilience import Resilience
from pytest_resilience.history import Client
from pytest_resilience.workloads import HttpResource

TIMEOUT = 6.0  # seconds; the service answers sooner under every fault that leaves its process running
CLEANUP_EVERY = 12  # operations


class Campaigns(HttpResource):
    """Clients that race for three campaigns, and clean up the pool once in a while."""

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

    def kind(self, n: int) -> str:
        return "cleanup" if n % CLEANUP_EVERY == CLEANUP_EVERY - 1 else super().kind(n)

    def perform(self, client: Client, kind: str, n: int) -> None:
        if kind == "cleanup":
            self._clean_up(client)
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
