"""The threads and tasks of this process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from pytest_resilience.leaks import tasks

ROOT = Path(__file__).parent


def test_a_thread_is_shown_at_its_line_of_user_code() -> None:
    over = threading.Event()

    def work() -> None:
        over.wait()

    thread = threading.Thread(target=work, name="worker")
    own = threading.Thread(target=work, name="resilience-flap")
    thread.start()
    own.start()
    found = {resource.name: resource for resource in tasks.threads()}
    assert "worker" in found
    assert "resilience-flap" not in found
    location = tasks.thread_location(found["worker"].value, ROOT)
    over.set()
    thread.join()
    own.join()
    assert location.startswith("at test_tasks.py:")
    assert location.endswith("in work")
    assert tasks.thread_location(thread, ROOT) == "", "it has ended"


def test_a_task_is_shown_at_its_innermost_line_of_user_code() -> None:
    async def inner() -> None:
        await asyncio.sleep(3600)

    async def outer() -> None:
        await inner()

    async def main() -> None:
        named, unnamed = asyncio.create_task(outer(), name="poller"), asyncio.create_task(outer())
        await asyncio.sleep(0)
        found = {resource.name: resource for resource in tasks.tasks()}
        assert found["poller"].value is named
        assert any(name.endswith("outer") for name in found)
        assert tasks.task_location(named, ROOT).endswith("in inner")
        assert not {resource.value for resource in tasks.tasks(excluded=[asyncio.get_running_loop()])} & {
            named,
            unnamed,
        }
        for task in named, unnamed:
            task.cancel()

    asyncio.run(main())
    assert "poller" not in {resource.name for resource in tasks.tasks()}, "its loop is closed"
