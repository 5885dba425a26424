"""The text of a failure that has a history: the witness and the timeline, and for a generated test what to do with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import PromiseBroken
from ..history import History
from ..program import Program
from ..redaction import scrubbed
from ..schedule import Schedule
from .timeline import describe, timeline

EXPLAINED = "_resilience_explained"  # the attribute of an error that has its text


class Found(NamedTuple):
    """The circumstances of a failure of a generated test, in words.

    Args:
        arguments: the drawn arguments.
        reproduced: such as "reproduced 9 of 10".
        remarks: further sentences about the search.
        replay: the command or the Python that replays it; None if it can't be replayed.
        found_after: such as "found after 9 schedules, 12.3 s"; None for arguments that were given.
    """

    arguments: Mapping[str, Any]
    reproduced: str
    remarks: tuple[str, ...]
    replay: str | None
    found_after: str | None = None


def explain(
    error: BaseException, history: History | None, found: Found | None = None, *, file: str | None = None
) -> None:
    """Add the text to the notes of an error, once.

    Args:
        error: the failure; a broken promise has its own history.
        history: the history of the failed play, for other errors; None for none.
        found: the circumstances, for a generated test.
        file: the file of the history; None for none.
    """
    if hasattr(error, EXPLAINED):
        return
    setattr(error, EXPLAINED, True)
    lines = [*_history_lines(error, history), *(found_lines(found) if found is not None else [])]
    lines += [f"history: {file}"] if file is not None else []
    if lines:
        error.add_note(scrubbed("\n".join(lines)))


def _history_lines(error: BaseException, history: History | None) -> Iterable[str]:
    verdicts = error.verdicts if isinstance(error, PromiseBroken) else []
    recorded = error.history if isinstance(error, PromiseBroken) else history
    for verdict in verdicts:
        if verdict.witness:
            yield f"witness of {verdict.checker}:"
            yield from (f"  {describe(operation)}" for operation in verdict.witness)
    if isinstance(recorded, History) and recorded.operations:
        witness = [operation for verdict in verdicts for operation in verdict.witness]
        yield f"timeline{' (* marks the witness)' if witness else ''}:"
        yield from timeline(recorded, witness)


def found_lines(found: Found) -> Iterable[str]:
    """Yield the lines about a failure of a generated test."""
    for name, value in found.arguments.items():
        yield f"{name} = {as_python(value)}"
    yield "; ".join([*([found.found_after] if found.found_after else []), found.reproduced, *found.remarks])
    if found.replay is not None:
        yield f"replay it: {found.replay}"


def as_python(value: object) -> str:
    """Return a value as Python, a schedule and a program with one step a line."""
    if isinstance(value, Program):
        return program_as_python(value)
    return schedule_as_python(value) if isinstance(value, Schedule) else repr(value)


def schedule_as_python(schedule: Schedule) -> str:
    """Return a schedule as Python with one step a line."""
    lines = ["Schedule(["]
    for episode in schedule.episodes:
        lines.append("    Episode([")
        lines += [f"        {step!r}," for step in episode.steps]
        lines.append(f"    ], operations={episode.operations}),")
    return "\n".join([*lines, "])"]).replace("Episode([\n    ]", "Episode([]")


def program_as_python(program: Program) -> str:
    """Return a program as Python with one step and one operation a line."""
    lines = ["Program(", *f"{schedule_as_python(program.schedule)},".splitlines(), "["]
    for performed in program.operations:
        lines += ["    [", *(f"        {each!r}," for each in performed), "    ],"]
    lines.append("],")
    return "\n".join([lines[0], *(f"    {line}" for line in lines[1:]), ")"])
