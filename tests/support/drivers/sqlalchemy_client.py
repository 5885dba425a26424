"""Use Postgres by SQLAlchemy on asyncpg: python sqlalchemy_client.py URL."""

import asyncio
import contextlib
import sys

from sqlalchemy import ForeignKey, func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Campaign(Base):
    __tablename__ = "story_sqlalchemy"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Delivery(Base):
    __tablename__ = "story_sqlalchemy_deliveries"
    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("story_sqlalchemy.id"))


async def session(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add_all([Campaign(id=number, name=f"name {number}") for number in range(1, 30)])
        await session.flush()
        session.add_all([Delivery(campaign_id=1 + number % 20) for number in range(40)])
        await session.commit()
    async with AsyncSession(engine) as session, session.begin():
        campaign = (await session.execute(select(Campaign).where(Campaign.id == 3).with_for_update())).scalar_one()
        campaign.name = "changed"
        await session.execute(update(Campaign).where(Campaign.id > 20).values(name="many"))
    async with AsyncSession(engine) as session:
        session.add(Campaign(id=1, name="twice"))
        with contextlib.suppress(DBAPIError):
            await session.commit()
        await session.rollback()
        await session.scalar(select(func.count()).select_from(Delivery))
        async with session.begin_nested():
            await session.execute(text("SELECT 1"))


async def main(url: str) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), pool_pre_ping=True)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    await session(engine)
    async with engine.connect() as connection:
        async for _ in await connection.stream(text("SELECT n FROM generate_series(1, 120) AS n")):
            pass
    await engine.dispose()


asyncio.run(main(sys.argv[1]))
