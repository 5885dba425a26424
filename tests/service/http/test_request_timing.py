"""The counting of requests, with the application and the time in the hand of the test."""

import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from service.http.request_timing import RequestTimingMiddleware
from service.request_counts import RequestCounts

PATH = "/things/{id}"


def request(endpoint, path="/things/7", *outer, method="GET"):
    """Send one request through the middleware. Return what was counted as {(method, route, status): seconds}."""
    counts, clock = RequestCounts(), iter((10.0, 13.0))
    app = Starlette(
        routes=[Route(PATH, endpoint)],
        middleware=[Middleware(RequestTimingMiddleware, counts=counts, clock=lambda: next(clock)), *outer],
    )
    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}

    async def run():
        await app(scope, receive, send)

    async def receive():
        await asyncio.Event().wait()

    async def send(_):
        pass

    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(run())
    return {(kind.method, kind.route, kind.status): times.seconds for kind, times in counts.by_kind.items()}


async def answer(_):
    return PlainTextResponse("x")


async def fail(_):
    return PlainTextResponse(str(1 / 0))


class Refuse:
    def __init__(self, app):
        pass

    async def __call__(self, scope, receive, send):
        await PlainTextResponse("x", 503)(scope, receive, send)


def test_a_request_is_counted_by_the_template_of_its_path():
    assert request(answer) == {("GET", PATH, "2xx"): 3.0}


def test_every_unknown_path_has_one_label():
    assert request(answer, "/things/7/secret") == {("GET", "unmatched", "4xx"): 3.0}


def test_a_request_that_is_refused_before_the_router_has_its_route():
    assert request(answer, "/things/7", Middleware(Refuse)) == {("GET", PATH, "5xx"): 3.0}
    assert request(answer, "/other", Middleware(Refuse)) == {("GET", "unmatched", "5xx"): 3.0}


def test_an_error_that_reaches_the_server_is_a_500():
    assert request(fail) == {("GET", PATH, "5xx"): 3.0}


def test_another_method_is_counted_with_its_route():
    assert request(answer, method="POST") == {("POST", PATH, "4xx"): 3.0}


def test_the_time_ends_with_the_last_byte_of_the_response():
    ends = []

    async def stream(_):
        async def chunks():
            yield b"x"
            ends.append("sent")

        return StreamingResponse(chunks())

    assert request(stream) == {("GET", PATH, "2xx"): 3.0}
    assert ends == ["sent"]
