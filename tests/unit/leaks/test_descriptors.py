"""The file descriptors of this process."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from pytest_resilience.leaks import descriptors

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lists descriptors")


def names() -> list[str]:
    return [
        f"{resource.kind}:{resource.name}"
        for resource in map(descriptors.descriptor_resource, descriptors.open_descriptors())
    ]


@linux
def test_files_pipes_and_loops_have_the_names_of_their_kinds(tmp_path: Path) -> None:
    before = names()
    with (tmp_path / "x").open("w"):
        pipe = os.pipe()
        assert f"fd:{tmp_path / 'x'}" in names()
        assert names().count("fd:pipe") == before.count("fd:pipe") + 2
        for end in pipe:
            os.close(end)
    loop = asyncio.new_event_loop()
    assert names().count("fd:eventpoll") == before.count("fd:eventpoll") + 1
    loop.close()
    assert sorted(names()) == sorted(before)


@linux
def test_a_socket_has_the_name_of_its_peer_and_stays_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        host, port = server.getsockname()
        assert names().count(f"socket:{host}:{port}") == 2, "the listener, and the client"
        client.getpeername()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        assert f"socket:unix:{tmp_path / 's'}" in names()


def test_a_closed_descriptor_has_no_addresses() -> None:
    assert descriptors._socket_addresses(10_000_000) == (None, None)
    with Path(__file__).open() as file:
        assert descriptors._socket_addresses(file.fileno()) == (None, None), "no socket"


def test_without_a_list_of_the_system_no_descriptor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "DESCRIPTORS", "/nowhere")
    assert descriptors.open_descriptors() == []


def test_the_descriptors_of_multiprocessing_are_internal(monkeypatch: pytest.MonkeyPatch) -> None:
    from multiprocessing import resource_tracker

    monkeypatch.setattr(resource_tracker._resource_tracker, "_fd", 4711)
    assert 4711 in descriptors.python_internal_descriptors()
