"""The records of a history as plain data: operations, and marks of strikes, heals, probes and phases.

All times are seconds since the start of the history.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Outcome = Literal["ok", "fail", "info"]
OUTCOMES = ("ok", "fail", "info")
Phase = Literal["baseline", "run", "heal", "recovery"]
PHASES = ("baseline", "run", "heal", "recovery")


class Operation(NamedTuple):
    """One operation of a client, with its outcome.

    Args:
        index: the position among all operations of the history, in the order in which they began, from 0 on.
        process: the logical process, which performs one operation at a time. After an "info" outcome its client goes on under
            a new number, as in Jepsen.
        f: the kind: "create", "read", "update", "delete", "list", "add", "transfer", "enqueue", "run", or the user's word.
        key: the object that the operation is about, as text; None for none, and for a create with an unknown id.
        value: what was written, or what was read. A list has a mapping from key to value, a read of a missing object None.
        type: "ok" (it happened), "fail" (it did not happen) or "info" (unknown: it may happen or have happened).
        time, end: when it began and ended. An operation that never ended has the end of the history.
        version: the version that an ok write made, or that a read saw; None if there are no versions.
        expected: the version that a conditional write required; None for an unconditional write.
        source: what answered a read, such as "redis", "memory" or "postgres"; None if unknown.
        state: the state of the cached answer, such as "hit", "miss" or "stale"; None if unknown.
        node: the service or server that was asked; None if there is one only.
        error: why it did not succeed, such as "503" or "ReadTimeout"; None for ok.
        episode: the number of the episode, from 1 on.
        phase: "baseline", "run", "heal" or "recovery".
        client: the number of the client, which keeps it when its process gets a new one.
    """

    index: int  # type: ignore[assignment]  # the name of the field in Jepsen; no one needs tuple.index here
    process: int
    f: str
    key: str | None = None
    value: Any = None
    type: Outcome = "ok"
    time: float = 0.0
    end: float = 0.0
    version: int | None = None
    expected: int | None = None
    source: str | None = None
    state: str | None = None
    node: str | None = None
    error: str | None = None
    episode: int = 1
    phase: Phase = "run"
    client: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the operation as a line of a history file has it."""
        return self._asdict()


class FaultMark(NamedTuple):
    """One strike or heal.

    Args:
        mark: "strike" or "heal".
        label: target and fault, such as "redis.refuse".
        time: when it happened.
        strike: the number of the strike in its history, from 0 on; a heal has that of its strike.
        touched: what the fault had affected when it was healed; None for a strike, and where the backend does not count.
        unit: what `touched` counts; "" for a strike.
        episode: the number of the episode.
    """

    mark: Literal["strike", "heal"]
    label: str
    time: float
    strike: int
    touched: int | None = None
    unit: str = ""
    episode: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the mark as a line of a history file has it."""
        line: dict[str, Any] = {"mark": self.mark, "label": self.label, "time": self.time}
        line |= {"strike": self.strike, "episode": self.episode}
        return line if self.mark == "strike" else line | {"touched": self.touched, "unit": self.unit}


class SkipMark(NamedTuple):
    """A step of a schedule that could not strike, or a heal that had to wait.

    Args:
        action: "strike" or "heal".
        label: target and fault.
        reason: why, in one line.
        time: when it was tried.
        episode: the number of the episode.
    """

    action: Literal["strike", "heal"]
    label: str
    reason: str
    time: float
    episode: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the mark as a line of a history file has it."""
        return {"mark": "skip", **self._asdict()}


class ProbeMark(NamedTuple):
    """The answer of one probe of the system, which belongs to no client.

    Args:
        name: what was asked: "ready" (the status of the readiness path), "baseline" (per kind of operation, what its steady
            state was) or "upstream" (requests that the dependencies have received so far).
        answer: the answer as plain data.
        time: when the answer came.
        episode: the number of the episode.
    """

    name: str
    answer: Any
    time: float
    episode: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the mark as a line of a history file has it."""
        return {"mark": "probe", **self._asdict()}


class PhaseMark(NamedTuple):
    """The beginning of a phase of an episode.

    Args:
        phase: "baseline", "run", "heal" or "recovery".
        time: when it began.
        episode: the number of the episode.
    """

    phase: Phase
    time: float
    episode: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the mark as a line of a history file has it."""
        return {"mark": "phase", **self._asdict()}


Mark = FaultMark | SkipMark | ProbeMark | PhaseMark
Record = Operation | Mark


class Verdict(NamedTuple):
    """The judgement of one checker over one history.

    Args:
        checker: the name of the checker, such as "no_lost_writes".
        kind: "ok", "violated" or "unknown".
        why: one sentence: the broken promise, or the reason why the history decides nothing; "" for ok.
        witness: the few operations that prove a violation, in order; empty otherwise.
    """

    checker: str
    kind: Literal["ok", "violated", "unknown"]
    why: str = ""
    witness: tuple[Operation, ...] = ()
