import anyio
import httpcore

from pytest_resilience import factories

stub = factories.http_stub("stub")


async def test_a_cancelled_request_gives_its_connection_back(stub):
    async with httpcore.AsyncConnectionPool(max_connections=2) as pool:

        async def one():
            return (await pool.request("GET", stub.url, extensions={"timeout": {"pool": 2}})).status

        async def in_a_task_group():  # anyio cancels again at each await
            async with anyio.create_task_group() as group:
                group.start_soon(one)

        await stub.cancel_everywhere(in_a_task_group, then=one, size=2)
