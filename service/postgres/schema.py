"""The form in which a table states its definition and what the statements of the service need of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Column(NamedTuple):
    """A column that statements use.

    Args:
        name: of the column.
        kinds: allowed categories of its type (pg_type.typcategory: N number, S string, E enum, D date or time).
        inserted: True if an INSERT writes the column.
        updated: True if an UPDATE writes the column.
    """

    name: str
    kinds: str
    inserted: bool = False
    updated: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table, which the monitor of Postgres creates and checks.

    Args:
        name: of the table.
        definition: SQL that creates the table if it is missing.
        columns: those that statements use.
        deletes: True if a DELETE removes rows.
        essential: True if the service is not ready without the table.
    """

    name: str
    definition: str
    columns: Sequence[Column]
    deletes: bool = False
    essential: bool = False
