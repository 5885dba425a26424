"""Requests that fail for lack of a resource of the process, through the middleware in the process of the test."""

import asyncio
import errno
import json

import pytest

from service.health import Lifecycle
from service.http.load_shedding import LoadSheddingMiddleware
from service.memory.guard import MemoryGuard
from service.shortages import Shortages

NO_DESCRIPTOR = OSError(errno.EMFILE, "Too many open files")


class Reserve:
    """A collector whose reserve the test watches."""

    released = False

    def release_reserve(self):
        self.released = True


def serve(error, *, kind="http", begin=()):
    """Return the messages of a request whose application sends some and then fails, and the reserve."""
    messages, reserve = [], Reserve()

    async def app(scope, receive, send):
        for message in begin:
            await send(message)
        raise error

    async def send(message):
        messages.append(message)

    async def run():
        middleware = LoadSheddingMiddleware(
            app, lifecycle=Lifecycle(), guard=MemoryGuard(), collector=reserve, shortages=Shortages()
        )
        await middleware({"type": kind, "path": "/x", "method": "GET", "headers": []}, None, send)

    asyncio.run(run())
    return messages, reserve


@pytest.mark.parametrize(("error", "resource"), [(NO_DESCRIPTOR, "file descriptors"), (MemoryError(), "memory")])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_request_that_lacks_a_resource_is_503(error, resource, kind):
    (start, body), reserve = serve(error, kind=kind)
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert (headers[b"retry-after"], headers[b"content-type"]) == (b"2", b"application/problem+json")
    assert json.loads(body["body"])["detail"] == f"The service is short of {resource}."
    assert reserve.released is (resource == "memory")


def test_a_response_that_has_begun_is_not_begun_again():
    begin = {"type": "http.response.start", "status": 200, "headers": []}
    assert serve(NO_DESCRIPTOR, begin=[begin])[0] == [begin]


def test_a_websocket_that_was_accepted_is_closed():
    begin = {"type": "websocket.accept"}
    messages, _ = serve(NO_DESCRIPTOR, kind="websocket", begin=[begin])
    assert messages == [begin, {"type": "websocket.close", "code": 1013}]


def test_another_error_is_raised():
    with pytest.raises(FileNotFoundError):
        serve(FileNotFoundError(errno.ENOENT, "No such file"))
