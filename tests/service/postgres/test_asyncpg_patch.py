"""Cancelled connects, which must leave nothing in the log."""

import asyncio
import gc

import asyncpg
import pytest

import service.postgres.pool  # noqa: F401  (looks after asyncpg's futures)


@pytest.mark.parametrize("answer", [None, b"S", b"N", b"E"], ids=["closes", "sends S", "sends N", "sends E"])
@pytest.mark.parametrize("sslmode", ["prefer", "require", "disable"])
def test_a_connect_cancelled_at_any_step_leaves_no_error_unretrieved(answer, sslmode):
    """The time-out of asyncpg cancels a connect at a step that depends on the load."""
    reported = []

    async def serve(reader, writer):
        if answer is not None:
            await reader.read(8)
            writer.write(answer)
        writer.close()

    async def scene():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for steps in range(40):
            connecting = asyncio.ensure_future(
                asyncpg.connect(f"postgresql://u:p@127.0.0.1:{port}/d?sslmode={sslmode}", timeout=5)
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(scene())
    gc.collect()
    assert [(each["message"], repr(each.get("exception"))) for each in reported] == []
