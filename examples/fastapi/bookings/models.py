"""The tables."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The base class of all tables."""


class Event(Base):
    """An event with its free seats."""

    __tablename__ = "events"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    free: Mapped[int]


class Booking(Base):
    """The booking of one seat."""

    __tablename__ = "bookings"

    key: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    event: Mapped[int] = mapped_column(ForeignKey("events.number"))
