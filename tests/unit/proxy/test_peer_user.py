"""The user at the other end of a loopback connection is found."""

from __future__ import annotations

import _socket
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from pytest_resilience.proxy import peer_user
from pytest_resilience.proxy.log import Log
from pytest_resilience.proxy.peer_user import OwnerOnlyAccess, PeerUserLookup

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture(params=["127.0.0.1", "::1", "::", "0.0.0.0"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        server = socket.create_server((request.param, 0), family=family, dualstack_ipv6=request.param == "::")
    except OSError as error:
        pytest.skip(f"no {request.param} here: {error}")
    with server:
        server.settimeout(5)
        yield server


def dial(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    host, port = listener.getsockname()[:2]
    client = socket.create_connection(({"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(host, host), port), 5)
    return client, listener.accept()[0]


@linux
def test_the_uid_of_a_connected_client_is_found(listener: socket.socket) -> None:
    users = PeerUserLookup(listener)
    client, served = dial(listener)
    with client, served:
        assert users.available
        assert users.uid_of(served) == os.geteuid()
        client.shutdown(socket.SHUT_WR)
        assert users.uid_of(served) == os.geteuid()
    users.close()


@linux
@pytest.mark.parametrize("end", ["closed", "reset"])
def test_a_socket_without_a_process_has_no_user(listener: socket.socket, end: str) -> None:
    """The kernel reports uid 0 for such a socket, which is root's."""
    users = PeerUserLookup(listener)
    client, served = dial(listener)
    with served:
        if end == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert users.uid_of(served) is None
    users.close()


@linux
def test_a_socket_that_listens_at_the_clients_address_is_not_taken_for_it(listener: socket.socket) -> None:
    users = PeerUserLookup(listener)
    host, port = listener.getsockname()[:2]
    near = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(host, host)
    with socket.socket(listener.family) as client, socket.socket(listener.family) as other:
        for each in (client, other):  # so that both may have the port
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((near, 0))
        client.connect((near, port))
        other.bind(client.getsockname()[:2])
        other.listen()
        served, _ = listener.accept()
        with served:
            assert users.uid_of(served) == os.geteuid()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer, own = served.getpeername(), served.getsockname()
            client.close()
            assert users._query(peer, own) is None
    users.close()


@linux
def test_answers_to_earlier_questions_are_passed_over(listener: socket.socket) -> None:
    users = PeerUserLookup(listener)
    client, served = dial(listener)
    with client, served:
        users._query(served.getpeername(), served.getsockname())
        assert users._socket is not None
        users._socket.send(peer_user._HEADER.pack(16, 0, 5, 7777, 0))  # NLM_F_ACK: answered, and not read here
        assert users.uid_of(served) == os.geteuid()
    users.close()


class LogLines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log = Log("", self.lines.append)


@linux
def test_each_other_user_is_refused_and_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogLines()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        owner_only = OwnerOnlyAccess(listener, 1234, log.log)
        client, served = dial(listener)
        with client, served:
            for uid, admitted in ((1234, True), (0, True), (4321, False), (4321, False), (None, False), (None, False)):
                monkeypatch.setattr(owner_only._users, "uid_of", lambda _sock, uid=uid: uid)
                assert owner_only.admits(served) is admitted
            for uid in range(2000, 2100):
                monkeypatch.setattr(owner_only._users, "uid_of", lambda _sock, uid=uid: uid)
                assert not owner_only.admits(served)
        owner_only.close()
    assert [line for line in log.lines if '"uid":"4321"' in line] == log.lines[:1]
    assert '"uid":"unknown"' in log.lines[1]
    assert len(log.lines) == OwnerOnlyAccess.MAX_LOGGED_UIDS


@pytest.mark.parametrize("why", ["no netlink", "no socket", "no answer"])
def test_all_are_served_with_a_log_line_where_the_kernel_reports_no_users(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    log = LogLines()
    if why == "no netlink":
        monkeypatch.delattr(_socket, "AF_NETLINK", raising=False)
    elif why == "no socket":
        monkeypatch.setattr(peer_user, "_NETLINK_SOCK_DIAG", 9999)
    else:
        monkeypatch.setattr(PeerUserLookup, "_query", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        owner_only = OwnerOnlyAccess(listener, 1234, log.log)
        client, served = dial(listener)
        with client, served:
            assert owner_only.admits(served)
            assert why == "no answer" or owner_only._users.uid_of(served) is None
        owner_only.close()
    assert len(log.lines) == 1
    assert "all users of this machine are served" in log.lines[0]
