import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine


async def test_a_cancelled_select_leaves_no_session(resilience):
    url = resilience.postgres.url.replace("postgresql:", "postgresql+asyncpg:").replace("sslmode", "ssl")
    engine = create_async_engine(url, pool_size=2, max_overflow=0, pool_timeout=3)

    async def one():
        async with engine.connect() as connection:
            return (await connection.execute(sqlalchemy.text("select 1"))).scalar()

    await resilience.postgres.cancel_everywhere(one, size=2)
    await engine.dispose()
