"""An empty project, and one with a small service, for the tests of the plugin."""

from __future__ import annotations

import pytest

SHOP = '''
"""A shop of forty lines with one counter in Redis and one table in Postgres, over HTTP."""
import os, socketserver, http.server, asyncio, signal, sys
import asyncpg, redis

CACHE = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=0.5, socket_connect_timeout=0.5, retry=None)

async def fetch(query, *arguments):
    connection = await asyncpg.connect(os.environ["DATABASE_URL"], timeout=2, command_timeout=2)
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close(timeout=1)

class Handler(http.server.BaseHTTPRequestHandler):
    visits = 0
    protocol_version = "HTTP/1.1"
    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        type(self).visits += 1
        try:
            if self.path == "/redis":
                self.answer(200, str(CACHE.incr("visits")))
            elif self.path == "/orders":
                rows = asyncio.run(fetch("insert into orders default values returning id"))
                self.answer(200, str(rows[0][0]))
            elif self.path == "/memory":
                self.answer(200, str(self.visits))
            else:
                self.answer(200, "ready")
        except Exception as error:
            print("shop: failed with", type(error).__name__, flush=True)
            self.answer(503, type(error).__name__)
    def log_message(self, *arguments):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

asyncio.run(fetch("create table if not exists orders (id serial primary key)"))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("shop: open", flush=True)
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
'''

CONFTEST = """
import sys
import pytest
from pytest_resilience import Service

@pytest.fixture(scope="session")
def resilience_service(resilience_stack):
    return Service([sys.executable, "shop.py"], port_variable="PORT", ready="/readyz", within=10.0,
                   env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url})
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty project with the plugin."""
    pytester.makeini(
        "[pytest]\naddopts = -p pytest_resilience --strict-markers\nasyncio_default_fixture_loop_scope = function\n"
    )
    return pytester


@pytest.fixture
def shop(project: pytest.Pytester) -> pytest.Pytester:
    """A project with a service."""
    project.makepyfile(shop=SHOP)
    project.makeconftest(CONFTEST)
    return project
