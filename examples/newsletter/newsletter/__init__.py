"""Letters that are queued in RabbitMQ and sent by a worker. A letter that was accepted is sent at least once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pika
from pika import exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

QUEUE = "letters"
TIMEOUT = 1.0  # seconds for each step of the broker, and for which it may block a publisher
ATTEMPTS = 2  # a second one with a new connection, because the first may have met a connection that has ended
IDLE = 0.3  # seconds without a letter after which the worker pauses

_LOST = (
    exceptions.AMQPError,
    AMQPConnectorException,
    OSError,
)  # the second is no AMQPError, such as a handshake without an answer
_PERSISTENT = pika.BasicProperties(delivery_mode=2)


class NotAccepted(Exception):
    """The broker has not accepted a letter. It may have it all the same if its answer was lost."""


class _Client:
    """A connection to the broker that is opened at the first use, and again after it has ended."""

    def __init__(self, url: str) -> None:
        self._parameters = pika.URLParameters(url)
        self._parameters.socket_timeout = self._parameters.stack_timeout = TIMEOUT
        self._parameters.blocked_connection_timeout = TIMEOUT
        self._connection: Any = None
        self._open_channel: Any = None

    def _channel(self) -> Any:
        if self._open_channel is None:
            self._connection = pika.BlockingConnection(self._parameters)
            self._open_channel = self._connection.channel()
            self._open_channel.queue_declare(QUEUE, durable=True)
            self._open_channel.confirm_delivery()
        return self._open_channel

    def close(self) -> None:
        """Close the connection. The next use opens another one."""
        if self._connection is not None:
            with contextlib.suppress(*_LOST):
                self._connection.close()
        self._connection = self._open_channel = None


class Publisher(_Client):
    """The publisher of letters.

    Args:
        url: the URL of the broker.
    """

    def publish(self, letter: str) -> None:
        """Queue a letter, and return when the broker has it on disk.

        Raises:
            NotAccepted: the broker is down, blocks publishers, or its queue is full.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._channel().basic_publish("", QUEUE, letter.encode(), _PERSISTENT, mandatory=True)
                return
            except (exceptions.NackError, exceptions.ConnectionBlockedTimeout) as refused:
                self.close()
                raise NotAccepted(type(refused).__name__) from refused
            except _LOST as lost:
                self.close()
                if attempt == ATTEMPTS:
                    raise NotAccepted(type(lost).__name__) from lost


class Worker(_Client):
    """The worker that sends letters.

    Args:
        url: the URL of the broker.
        send: sends a letter. It may be called twice for one letter.
    """

    def __init__(self, url: str, send: Callable[[str], None]) -> None:
        super().__init__(url)
        self._send = send

    def run(self) -> int:
        """Send all letters that are queued. Return their number, or that until the broker was lost."""
        sent = 0
        try:
            channel = self._channel()
            for method, _, body in channel.consume(QUEUE, inactivity_timeout=IDLE):
                if method is None:
                    channel.cancel()
                    return sent
                self._send(body.decode())
                channel.basic_ack(method.delivery_tag)
                sent += 1
        except _LOST:
            self.close()
        return sent
