"""Reading until a message is complete."""

from __future__ import annotations

import socket

from pytest_resilience.clients.receive import receive, receive_all


def line(data: bytes) -> bytes | None:
    return data.split(b"\n")[0] if b"\n" in data else None


def test_a_message_in_pieces_is_received() -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.sendall(b"hel")
        pieces: list[bytes] = []

        def parse(data: bytes) -> bytes | None:
            pieces.append(data)
            if data == b"hel":
                peer.sendall(b"lo\nmore")
            return line(data)

        assert receive(ours, parse) == b"hello"
        assert pieces == [b"", b"hel", b"hello\nmore"]


def test_an_early_end_of_the_connection_gives_none() -> None:
    ours, peer = socket.socketpair()
    with ours:
        with peer:
            peer.sendall(b"hel")
        assert receive(ours, line) is None


def test_all_is_received_until_the_end_of_the_connection() -> None:
    ours, peer = socket.socketpair()
    with ours:
        with peer:
            peer.sendall(b"hello\nmore")
        assert receive_all(ours) == b"hello\nmore"
