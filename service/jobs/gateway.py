"""The gateway, which takes the messages of a campaign and delivers them to the recipients.

Without GATEWAY_URL the messages go to the log, as a count. With it, each batch is one POST of JSON. The batch and each
message in it have an id, which is the same whenever they are sent again. So a gateway can drop what it already has.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

import h11

from ..errors import Unavailable
from ..postgres.deliveries import Recipient
from ..shortages import lacking
from .job import GatewayFailed, Job

if TYPE_CHECKING:
    import ssl

    from ..settings import ServiceSettings

log = logging.getLogger("service.gateway")

MAX_RESPONSE_BYTES = 64 << 10  # of the head of a response; its body is not read


@dataclass(frozen=True)
class Batch:
    """Messages for some recipients of a step.

    Args:
        job: the step.
        name: of the campaign.
        message: the text.
        recipients: in the order of their ids, at least one.
    """

    job: Job
    name: str
    message: str
    recipients: Sequence[Recipient]

    @cached_property
    def id(self) -> str:
        """An id that is equal for a batch of the same recipients only."""
        ids = [recipient.id for recipient in self.recipients]
        return f"{self.job.id}-{ids[0]}-{hashlib.sha256(repr(ids).encode()).hexdigest()[:16]}"

    def as_dict(self) -> dict[str, object]:
        """Return the body of the request."""
        return {
            "campaign_id": self.job.campaign_id,
            "step": self.job.step,
            "name": self.name,
            "message": self.message,
            "recipients": [
                {"id": f"{self.job.id}-{each.id}", "name": each.name, "email": each.email, "phone": each.phone}
                for each in self.recipients
            ],
        }


class Gateway(Protocol):
    """The service that delivers messages."""

    async def send(self, batch: Batch) -> None:
        """Send a batch. The caller limits the time. Any exception means that the batch may have been sent or not."""


class LogGateway:
    """A gateway that logs the number of messages, and sends nothing."""

    async def send(self, batch: Batch) -> None:
        log.info("%d messages of %s (no GATEWAY_URL is set)", len(batch.recipients), batch.job.id)


class HttpGateway:
    """A gateway that takes each batch as a POST of JSON, and accepts it with any status from 200 to 299.

    Args:
        url: of the requests. A name and a password in it are sent as Basic credentials.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._uses_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._uses_tls else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = [("Host", parts.netloc.rpartition("@")[2]), ("Content-Type", "application/json")]
        self._headers += [("User-Agent", "service"), ("Connection", "close")]
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers.append(("Authorization", f"Basic {base64.b64encode(credentials).decode()}"))
        self._tls: ssl.SSLContext | None = None

    async def send(self, batch: Batch) -> None:
        body = json.dumps(batch.as_dict(), ensure_ascii=False, separators=(",", ":")).encode()
        headers = [*self._headers, ("Content-Length", str(len(body))), ("Idempotency-Key", batch.id)]
        request = h11.Request(method="POST", target=self._target, headers=headers)
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=await self._tls_context())
        try:
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE_BYTES)
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            status = await _read_status(connection, reader)
        finally:
            writer.transport.abort()  # a close could wait for the gateway
        if not 200 <= status < 300:
            raise GatewayFailed(f"The gateway answered with status {status}.")

    async def _tls_context(self) -> ssl.SSLContext | None:
        """Return the context for TLS, created once in a thread, because that blocks for 50 ms."""
        if self._uses_tls and self._tls is None:
            import ssl

            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls


async def _read_status(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    """Return the status of the response. Its body is not needed."""
    try:
        while not isinstance(event := connection.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(MAX_RESPONSE_BYTES))
    except h11.ProtocolError:
        raise GatewayFailed("The gateway sent no valid HTTP response.") from None
    return int(event.status_code)


def create_gateway(settings: ServiceSettings) -> Gateway:
    """Return the gateway of the settings."""
    return LogGateway() if settings.gateway_url is None else HttpGateway(settings.gateway_url)


class TimedGateway:
    """A gateway whose calls are limited in time, and whose failures are logged once until it works again.

    Args:
        gateway: takes the batches.
        seconds: limit for a call.
    """

    def __init__(self, gateway: Gateway, seconds: float) -> None:
        self._gateway = gateway
        self._seconds = seconds
        self._works = True

    async def send(self, batch: Batch) -> None:
        """Send a batch.

        Raises:
            GatewayFailed: the gateway did not take the batch in time, or failed in any way.
            Unavailable: the gateway cannot be called, because no file descriptor is left.
        """
        try:
            await self._send(batch)
        except GatewayFailed as error:
            if self._works:
                log.warning("The gateway fails: %s", error)
            self._works = False
            raise
        if not self._works:
            log.info("The gateway takes messages again")
        self._works = True

    async def _send(self, batch: Batch) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._gateway.send(batch)
        except GatewayFailed:
            raise
        except TimeoutError:
            raise GatewayFailed(f"The gateway did not answer within {self._seconds:g} s.") from None
        except Exception as error:
            if lacking(error) == "file descriptors":  # the gateway has not failed, so the run counts as no attempt
                raise Unavailable("The service is short of file descriptors.") from error
            raise GatewayFailed(f"The gateway failed ({type(error).__name__}).") from error
