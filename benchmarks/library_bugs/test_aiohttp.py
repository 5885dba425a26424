import aiohttp

from pytest_resilience import Answer, factories

stub = factories.http_stub("stub")


async def test_an_idle_connection_has_no_timeout(resilience, stub):
    stub.answer("/", Answer(body="x" * 1000))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=0.5)) as session:

        async def download():
            async with session.get(stub.url) as response:
                return await response.read()

        async with resilience.steady(download):
            await resilience.silence(1)
