"""ASGI and WSGI apps run in the test process, and their clients go away at each point."""

from __future__ import annotations

import pytest

APP = '''
import asyncio, contextlib, asyncpg, pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from pytest_resilience import NotCancellationSafe, SetupError

def shop(url, *, careful=True):
    """An app with a pool of two connections."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with asyncpg.create_pool(url, min_size=2, max_size=2) as pool:
            app.state.pool = pool
            yield
            if not careful:
                pool.terminate()

    async def two_statements(request):
        pool = request.app.state.pool
        connection, one = await pool.acquire(), None
        try:
            one = await connection.fetchval("select 1")
            if not careful:
                request.app.state.kept = connection
            two = await connection.fetchval("select 2")
        except BaseException:
            if careful or one is None:
                await pool.release(connection)
            raise
        await pool.release(connection)
        request.app.state.done = getattr(request.app.state, "done", 0) + 1
        return JSONResponse([one, two])

    async def other(request):
        return JSONResponse(await request.app.state.pool.fetchval("select 3"))

    return Starlette(routes=[Route("/two", two_statements), Route("/other", other)], lifespan=lifespan)
'''


@pytest.fixture
def app(project: pytest.Pytester) -> pytest.Pytester:
    """A project with an app."""
    project.makepyfile(shop=APP)
    return project


def test_clients_go_away_at_each_point(app: pytest.Pytester) -> None:
    app.makepyfile(
        """
from shop import *

def test_a_careful_handler(resilience):
    async def body():
        async with resilience.app(shop(resilience.postgres.url)) as app:
            done = await resilience.postgres.cancel_everywhere(
                lambda: app.get("/two"), then=lambda: app.get("/other"), size=2
            )
            assert done.messages == 3, "two statements, and what resets the connection"
    asyncio.run(body())

def test_a_handler_that_keeps_its_connection(resilience):
    async def body():
        async with resilience.app(shop(resilience.postgres.url, careful=False)) as app:
            with pytest.raises(NotCancellationSafe) as raised:
                await resilience.postgres.cancel_everywhere(
                    lambda: app.get("/two"), then=lambda: app.get("/other"), size=2, within=2.0
                )
            message = str(raised.value)
            assert "after message 2 of 3, heal " in message
            assert " the next operation: 1 of 2 connections" in message
            assert "shop.py:" in str(raised.value)
    asyncio.run(body())

def test_a_client_that_disconnects_does_not_end_the_handler(resilience):
    async def body():
        web = shop(resilience.postgres.url)
        async with resilience.app(web, client_gone="disconnect") as app:
            assert (await app.get("/two")).json() == [1, 2]
            before = web.state.done
            await resilience.postgres.cancel(lambda: app.get("/two"))
            await app.ended()
            assert web.state.done == before + 1, "the handler worked on"
    asyncio.run(body())
"""
    )
    result = app.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio", "--resilience-strict")
    result.assert_outcomes(passed=3)


def test_disconnects_lifespans_and_wsgi(app: pytest.Pytester) -> None:
    app.makepyfile(
        """
from shop import *

def in_loop(body):
    def test(resilience):
        asyncio.run(body(resilience))
    return test

@in_loop
async def test_an_app_receives_the_disconnect(resilience):
    received, waiting = [], asyncio.Event()

    async def app(scope, receive, send):
        assert scope["type"] == "http", "no lifespan"
        while (await receive())["more_body"]:
            pass
        waiting.set()
        received.append(await receive())
        received.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async with resilience.app(app, client_gone="disconnect") as running:
        request = asyncio.create_task(running.get("/"))
        await waiting.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await running.ended()
    assert received == [{"type": "http.disconnect"}] * 2

@in_loop
async def test_work_that_does_not_end_is_reported(resilience):
    started = asyncio.Event()

    async def app(scope, receive, send):
        started.set()
        await asyncio.Event().wait()

    running = resilience.app(app, client_gone="disconnect")
    request = asyncio.create_task(running.get("/"))
    await started.wait()
    request.cancel()
    await asyncio.wait({request})
    with pytest.raises(AssertionError, match="the app still works for 1 clients? that ha(s|ve) gone away, 0.05 s later"):
        await running.ended(within=0.05)

@in_loop
async def test_startup_and_shutdown_run_once_and_failures_are_named(resilience):
    seen = []

    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        while True:
            message = await receive()
            seen.append(message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async with resilience.app(app):
        assert seen == ["lifespan.startup"]
    assert seen == ["lifespan.startup", "lifespan.shutdown"]

    async def failing(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(SetupError, match="the startup of the app failed: no database"):
        async with resilience.app(failing):
            pass

    async def raising(scope, receive, send):
        await receive()
        raise OSError("no disk")

    with pytest.raises(SetupError, match="the startup of the app failed: OSError.'no disk'"):
        async with resilience.app(raising):
            pass

def test_wsgi(resilience):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    with resilience.app(app) as running:
        assert running.get("/lamp").text == "/lamp"

def test_what_is_no_app(resilience):
    for wrong in (7, lambda: None):
        with pytest.raises(SetupError, match="an ASGI app takes scope, receive and send"):
            resilience.app(wrong)
    with pytest.raises(SetupError, match="client_gone must be one of cancel, disconnect, got 'rst'"):
        resilience.app(shop(""), client_gone="rst")
"""
    )
    result = app.runpytest_inprocess("-p", "no:asyncio", "-p", "no:anyio", "--resilience-leaks=error")
    result.assert_outcomes(passed=5)
