"""This process: what it has open, and where its threads and tasks stand."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from pytest_resilience.leaks import process

ROOT = Path(__file__).parent
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lists descriptors")


def names() -> list[str]:
    return [f"{trace.kind}:{trace.name}" for trace in map(process.descriptor_trace, process.descriptors())]


@linux
def test_files_pipes_and_loops_go_by_what_they_are(tmp_path: Path) -> None:
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
def test_a_socket_goes_by_its_other_end_and_stays_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        host, port = server.getsockname()
        assert names().count(f"socket:{host}:{port}") == 2, "the one that listens, and the one that leads there"
        client.getpeername()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        assert f"socket:unix:{tmp_path / 's'}" in names()


def test_a_descriptor_that_closes_meanwhile_has_no_ends() -> None:
    assert process._ends(10_000_000) == (None, None)
    with Path(__file__).open() as file:
        assert process._ends(file.fileno()) == (None, None), "no socket"


def test_where_the_system_lists_nothing_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DESCRIPTORS", "/nowhere")
    assert process.descriptors() == []


def test_a_thread_is_there_and_stands_in_the_users_code() -> None:
    over = threading.Event()

    def work() -> None:
        over.wait()

    thread = threading.Thread(target=work, name="worker")
    ours = threading.Thread(target=work, name="resilience-flap")
    thread.start()
    ours.start()
    found = {trace.name: trace for trace in process.threads()}
    assert "worker" in found
    assert "resilience-flap" not in found
    stands = process.thread_stands(found["worker"].thing, ROOT)
    over.set()
    thread.join()
    ours.join()
    assert stands.startswith("stands at test_process.py:")
    assert stands.endswith("in work")
    assert process.thread_stands(thread, ROOT) == "", "it has ended"


def test_a_task_stands_at_the_innermost_line_of_the_users_code() -> None:
    async def inner() -> None:
        await asyncio.sleep(3600)

    async def outer() -> None:
        await inner()

    async def main() -> None:
        named, unnamed = asyncio.create_task(outer(), name="poller"), asyncio.create_task(outer())
        await asyncio.sleep(0)
        found = {trace.name: trace for trace in process.tasks()}
        assert found["poller"].thing is named
        assert any(name.endswith("outer") for name in found)
        assert process.task_stands(named, ROOT).endswith("in inner")
        assert not {trace.thing for trace in process.tasks(ours=[asyncio.get_running_loop()])} & {named, unnamed}
        for task in named, unnamed:
            task.cancel()

    asyncio.run(main())
    assert "poller" not in {trace.name for trace in process.tasks()}, "its loop is closed"


def test_what_multiprocessing_keeps_is_none_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    from multiprocessing import resource_tracker

    monkeypatch.setattr(resource_tracker._resource_tracker, "_fd", 4711)
    assert 4711 in process.kept_by_python()


def test_paths_are_shown_from_the_root() -> None:
    assert process.shown("/a/b/c.py", Path("/a")) == "b/c.py"
    assert process.shown("/ab/c.py", Path("/a")) == "/ab/c.py"
    assert process.is_of_users(__file__)
    assert not process.is_of_users(os.__file__)
    assert not process.is_of_users(pytest.__file__)
    assert not process.is_of_users("<frozen x>")
