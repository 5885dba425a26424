"""The limits of another user of this machine on the embedded servers, which listen on loopback (Redis has no password).

Each test sends the commands of such a user to the real server.
"""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.faults.redis_server import Loading
from pytest_resilience.stack import Stack
from tests.support.waiting import until

PAYLOAD = b"#!/bin/sh\necho a visitor was here\n"


@pytest.fixture(scope="module")
def stack():
    started = Stack(EmbeddedBackend(), 1)
    yield started
    started.close()


@pytest.fixture
def server(stack):
    found = stack.backend_for_processes.servers["redis"]
    found.start()
    return found


@pytest.fixture
def visitor(server):
    with redis.Redis(host=server.direct_address.host, port=server.direct_address.port, socket_timeout=5) as client:
        client.response_callbacks.clear()  # raw answers
        yield client


@pytest.mark.parametrize(
    "command",
    [
        "CONFIG SET dir /tmp",
        "CONFIG SET dbfilename authorized_keys",
        "CONFIG SET logfile /tmp/log",
        "CONFIG SET pidfile /tmp/pid",
        "CONFIG SET aclfile /tmp/acl",
        "CONFIG SET unixsocket /tmp/socket",
        "CONFIG SET appendfilename authorized_keys",
        "CONFIG SET appenddirname elsewhere",
        "CONFIG SET cluster-config-file nodes",
        "CONFIG SET enable-debug-command yes",
        "CONFIG SET enable-module-command yes",
        "CONFIG SET enable-protected-configs yes",
        "CONFIG REWRITE",
        "MODULE LOAD /tmp/module.so",
        "MODULE LOADEX /tmp/module.so",
        "ACL SAVE",
        "ACL LOAD",
        "DEBUG SLEEP 0",
        "DEBUG MALLCTL arenas.narenas",
        "DEBUG SET-ACTIVE-EXPIRE 1",
    ],
)
def test_redis_refuses_commands_that_reach_beyond_it(visitor, command):
    with pytest.raises(redis.ResponseError):
        visitor.execute_command(*command.split())


def test_another_user_cannot_read_the_other_name_of_debug(stack, server, visitor):
    """A fault uses the name. The test searches all reports of the server about commands, with its logs set to log all."""
    for name in ("slowlog-log-slower-than", "commandlog-request-larger-than", "commandlog-reply-larger-than"):
        if visitor.execute_command("CONFIG", "GET", name):
            visitor.execute_command("CONFIG", "SET", name, "0")
    watched: list[bytes] = []
    with visitor.monitor() as monitor:
        watching = threading.Thread(target=lambda: watch(monitor, watched), daemon=True)
        watching.start()
        until(lambda: visitor.ping() and watched)
        Loading().strike(stack.redis).heal()
        visitor.execute_command("ECHO", "over")
        watching.join(5)
    reports = [
        ("CONFIG", "GET", "*"),
        ("COMMAND",),
        ("COMMAND", "LIST"),
        ("COMMAND", "DOCS"),
        ("INFO", "everything"),
        ("CLIENT", "LIST"),
        ("SLOWLOG", "GET", "-1"),
        ("LATENCY", "HISTOGRAM"),
        ("ACL", "LOG"),
        ("ACL", "CAT", "dangerous"),
        ("ACL", "LIST"),
    ]
    if visitor.execute_command("CONFIG", "GET", "commandlog-*"):
        reports += [("COMMANDLOG", "GET", "-1", kind) for kind in ("slow", "large-request", "large-reply")]
    answers = {words: repr(visitor.execute_command(*words)) for words in reports}
    secret = server.debug_command
    assert len(secret) > 36
    assert [words for words, answer in answers.items() if secret in answer.lower()] == []
    assert any(b"over" in each for each in watched)
    assert [each for each in watched if secret.encode() in each.lower()] == []
    commands = [Path(f"/proc/{pid}/cmdline") for pid in server.processes()]
    assert [path for path in commands if path.exists() and secret in path.read_text()] == []
    assert stat.S_IMODE((stack.backend_for_processes.directory / "redis" / "settings.conf").stat().st_mode) == 0o600


def watch(monitor, watched):
    while not any(b"over" in each for each in watched):
        watched.append(monitor.connection.read_response())


class Master(threading.Thread):
    """A server of another user, which sends a file of its choice to its replicas."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent = threading.Event()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, self._listener, connection.makefile("rb") as lines:
            for line in lines:
                if b"PSYNC" in line:
                    connection.sendall(b"+FULLRESYNC %s 0\r\n$%d\r\n%s" % (b"f" * 40, len(PAYLOAD), PAYLOAD))
                    self.sent.set()
                elif b"PING" in line:
                    connection.sendall(b"+PONG\r\n")
                elif b"REPLCONF" in line:
                    connection.sendall(b"+OK\r\n")


def test_a_file_of_another_users_master_stays_in_the_servers_directory(stack, server, visitor):
    directory = stack.backend_for_processes.directory / "redis"
    master = Master()
    master.start()
    visitor.execute_command("REPLICAOF", "127.0.0.1", str(master.port))
    try:
        assert master.sent.wait(10)
        until(lambda: PAYLOAD in b"".join(path.read_bytes() for path in directory.iterdir() if path.is_file()))
    finally:
        visitor.execute_command("REPLICAOF", "NO", "ONE")
    assert server.alive()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert Path(f"/proc/{server.processes()[0]}/cwd").resolve() == directory, "where its files go"
    for path in directory.glob("*.rdb"):
        path.unlink()


def test_postgres_demands_a_password_of_all_users_and_has_no_unix_socket(stack):
    rules = (stack.backend_for_processes.directory / "postgres" / "pg_hba.conf").read_text().splitlines()
    methods = {rule.split()[-1] for rule in rules if rule and not rule.startswith("#")}
    assert methods == {"scram-sha-256"}
    settings = (
        stack.postgres.admin.fetch("show unix_socket_directories"),
        stack.postgres.admin.fetch("show listen_addresses"),
    )
    assert [rows[0][0] for rows in settings] == ["", "127.0.0.1"]


@pytest.mark.parametrize("user", ["postgres", "nobody", "resilience"])
def test_postgres_accepts_no_user_without_the_password(stack, user, tmp_path):
    parts = urlsplit(stack.postgres.direct_url)
    for password in ("", "postgres", None):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InterfaceError)):
            asyncio.run(
                asyncpg.connect(
                    host=parts.hostname,
                    port=parts.port,
                    user=user,
                    password=password,
                    database="resilience",
                    passfile=tmp_path / "none",
                )
            )


def test_only_the_user_may_enter_the_directory_of_a_session_and_read_its_files(stack):
    # Where Postgres runs as nobody by setuid, that user may enter the directory, and not list it.
    assert stat.S_IMODE(stack.backend_for_processes.directory.stat().st_mode) in (0o700, 0o711)
    readable = [
        path
        for path in stack.backend_for_processes.directory.rglob("*")
        if not path.is_symlink() and path.lstat().st_mode & 0o007
    ]
    entries = [path.name for path in readable if path.parent == stack.backend_for_processes.directory]
    assert entries in ([], ["binaries"])  # that user runs Postgres from a copy
