"""The interface of a fault, its strike, and the receipt of the strike.

A fault is a frozen dataclass. Its fields are its settings, so that a schedule of faults is plain data. `strike(target)` injects the
fault and returns a `Strike`, a context manager that heals it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from ..clock import SYSTEM, Clock
from ..errors import CannotInject, HealFailed, ProcessEnded, ResilienceError, ServerNotReady, SetupError
from ..history import current
from ..wording import counted, no_attribute


@dataclass(frozen=True)
class Receipt:
    """Proof that a fault affected something, or that it affected nothing.

    Args:
        touched: the number of affected connections (refused or closed), bytes (held, delayed or dropped), commands, keys,
            processes (signalled, or at a limit), statements, or messages (rejected). 0 if the fault affected nothing, None if the backend
            can't count.
        unit: of `touched`: "connections", "bytes", "statements", "commands", "keys", "processes" or "messages".
        first: seconds from the strike to the first of them, or None.
        last: seconds from the strike to the last of them, or None.
        note: a remark that is needed to judge the numbers; "" for none.
        shown: the last affected statements or commands, without literals; empty for other units.
    """

    touched: int | None
    unit: str
    first: float | None = None
    last: float | None = None
    note: str = ""
    shown: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self._numbers()} ({self.note})" if self.note else self._numbers()

    def _numbers(self) -> str:
        if self.touched is None:
            return f"affected an unknown number of {self.unit}"
        if self.touched == 0:
            return f"affected no {self.unit}"
        text = f"affected {counted(self.touched, self.unit)}"
        if self.first is not None and self.last is not None:
            text += f", first after {self.first:.3f} s, last after {self.last:.3f} s"
        if self.shown:
            text += f": {'; '.join(self.shown)}"
        return text


class Undo:
    """The steps that undo a fault, the latest first. A second call continues with the step that failed in the first one."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        """Add a step. It comes before those that were added earlier."""
        self._steps.append(step)

    def __call__(self) -> None:
        """Run the steps that have not succeeded yet."""
        while self._steps:
            self._steps[-1]()
            self._steps.pop()


class Strike:
    """An injected fault. It heals at the end of its `with` block, by `heal()`, or at the end of the test.

    Attributes:
        label: target and fault with its settings, such as "postgres.latency(seconds=0.2)".
        fault: the injected fault.
        note: the note of its receipts.
        is_drawn: True if a schedule has struck it, and not the code of a test.
    """

    # settles_late: the receipt can be read after the heal too, and is complete a few milliseconds later. heal() does not wait for it.
    def __init__(
        self,
        label: str,
        fault: Fault,
        *,
        heal: Callable[[], None],
        read_receipt: Callable[[], Receipt],
        settles_late: bool = False,
        in_force: Callable[[], bool] = lambda: True,
        clock: Clock = SYSTEM,
    ) -> None:
        self.label = label
        self.fault = fault
        self._heal = heal
        self._read_receipt = read_receipt
        self._is_in_force = in_force
        self._overlaps: Callable[[], list[Strike]] = list
        self._everywhere: Callable[[], list[Strike]] = list
        self._settles_late = settles_late
        self._clock = clock
        self._last_receipt: Receipt | None = None
        self.note = ""
        self.is_drawn = False
        self._healed = False
        self._history = current()
        self._mark = self._history.add_strike(label, clock.now())

    @property
    def healed(self) -> bool:
        """True if the fault has been healed."""
        return self._healed

    @property
    def in_force(self) -> bool:
        """True if the fault still has its effect. A restart of the target ends a pause, for example, before its heal."""
        return not self.healed and self._is_in_force()

    def overlap_with(self, overlaps: Callable[[], list[Strike]], everywhere: Callable[[], list[Strike]]) -> None:
        """Set the functions that return the active strikes. Both may include this one.

        Args:
            overlaps: returns those on the same target.
            everywhere: returns those on all targets.
        """
        self._overlaps = overlaps
        self._everywhere = everywhere

    @property
    def receipt(self) -> Receipt:
        """The receipt up to now, or up to the heal if the fault is healed. It is unknown while the target can't be read."""
        if self._last_receipt is None and not self.healed:
            return self._with_note(self._present_receipt())
        if self._last_receipt is None:
            self._last_receipt = self._present_receipt()
        return self._with_note(self._last_receipt)

    def _present_receipt(self) -> Receipt:
        """Read the receipt. Return an unknown one while another strike prevents that, or if the backend has died."""
        if self._obstacle() is not None:
            return self._unknown_receipt()
        try:
            return self._read_receipt()
        except Exception:  # noqa: BLE001  # the check of the backend reports a backend that died
            return self._unknown_receipt()

    def _unknown_receipt(self) -> Receipt:
        return Receipt(None, getattr(self.fault, "unit", "connections"))

    def _obstacle(self) -> Obstacle | None:
        """Return the reason for which another active strike prevents the heal."""
        return find_obstacle(self.fault.heal_needs(), self._others())

    def _others(self) -> list[Strike]:
        return [strike for strike in self._overlaps() if strike is not self]

    def _with_note(self, receipt: Receipt) -> Receipt:
        return replace(receipt, note=self.note) if self.note else receipt

    @property
    def vacuous(self) -> bool:
        """True if the fault is healed and is known to have affected nothing."""
        return self.healed and self.receipt.touched == 0

    def heal(self) -> None:
        """Undo the fault. Do nothing if it is healed already.

        Raises:
            HealFailed: the fault could not be undone. Another call tries again.
        """
        if self.healed:
            return
        if (obstacle := self._obstacle()) is not None:
            raise HealFailed(
                f"{self.label} cannot heal while {obstacle.label} lasts: {obstacle.reason}; heal {obstacle.label} first",
                blocked_by=[obstacle.label],
            )
        receipt_error: Exception | None = None
        if not self._settles_late:
            try:
                self._last_receipt = (
                    self._read_receipt()
                )  # before the heal, because removing a toxic removes its counters
            except Exception as error:  # noqa: BLE001  # the fault must heal without its receipt, too
                self._last_receipt = self._unknown_receipt()
                receipt_error = error
        try:
            self._heal()
        except Exception as error:
            raise self._heal_failed(error) from error
        self._healed = True
        receipt = self._last_receipt
        touched, unit = (receipt.touched, receipt.unit) if receipt is not None else (None, "")
        self._history.add_heal(self._mark, self._clock.now(), touched=touched, unit=unit)
        if receipt_error is not None:
            raise HealFailed(
                f"{self.label} was healed, but its receipt is lost: {type(receipt_error).__name__}: {receipt_error}"
            ) from receipt_error

    def _heal_failed(self, error: Exception) -> HealFailed:
        blocked_by = labels_of_obstacles(self._others())
        if isinstance(error, ServerNotReady):  # a service may need any system for its start
            blocked_by = [strike.label for strike in self._everywhere() if strike is not self and strike.in_force]
        problem = f"{type(error).__name__}: {error}"
        if not blocked_by:
            return HealFailed(f"{self.label} could not be healed: {problem}")
        return HealFailed(
            f"{self.label} could not be healed{_while_last(blocked_by)}: {_first_line(problem)}",
            blocked_by=blocked_by,
        )

    if not TYPE_CHECKING:  # type checkers find wrong names without it

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            raise no_attribute(self, name)

    def __enter__(self) -> Strike:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.heal()
        except HealFailed as failed:
            if error is None:
                raise
            error.add_note(f"and then: {failed}")  # the first failure matters more

    def __repr__(self) -> str:
        return f"<Strike {self.label}, {'healed' if self.healed else 'striking'}>"


SERVER_NEEDS = frozenset({"process", "answers", "session", "connections"})  # see Need
MOST = 10**12  # of any setting, so that its microseconds, or its MiB in bytes, fit into 64 bits


class Obstacle(NamedTuple):
    """An active strike that prevents another strike or heal.

    Args:
        label: the label of the strike.
        reason: what the target lacks because of it, as a sentence without a period.
    """

    label: str
    reason: str


def find_obstacle(needs: Iterable[Need], strikes: Iterable[Strike]) -> Obstacle | None:
    """Return the first of some active strikes that takes one of the needs from the target, or None."""
    for strike in strikes:
        takes = strike.fault.takes()
        reasons = [takes[need] for need in needs if need in takes]
        if reasons and strike.in_force:
            return Obstacle(strike.label, reasons[0].format(target=strike.label.partition(".")[0]))
    return None


def labels_of_obstacles(strikes: Iterable[Strike]) -> list[str]:
    """Return the labels of the strikes that take something from the target which other faults may need."""
    return [strike.label for strike in strikes if not SERVER_NEEDS.isdisjoint(strike.fault.takes()) and strike.in_force]


def _while_last(labels: Sequence[str]) -> str:
    """Return a clause that names active strikes, or nothing without any."""
    if not labels:
        return ""
    names = list(dict.fromkeys(labels))
    return f" while {' and '.join(names)} last{'s' if len(names) == 1 else ''}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


class FaultTarget(Protocol):
    """A target, as far as every fault needs it."""

    @property
    def name(self) -> str:
        """The first half of a label, such as "redis"."""

    def unsupported(self, fault: str) -> str | None:
        """Return the reason why the backend can't inject a fault, or None if it can."""

    def active_strikes(self) -> list[Strike]:
        """Return the strikes on this target that are not healed, those of the session included."""

    def ended(self) -> ProcessEnded | None:
        """Return the error for a strike on processes that have ended, or None if that is unknown or they run."""

    def register(self, strike: Strike) -> Strike:
        """Register a strike, so that it is healed at the end of the test. Return it."""


Need = Literal["process", "answers", "session", "connections", "clients", "tables", "cgroup", "writes"]
"""The things that a fault may need of its target to strike or to heal.

- "process": its processes exist;
- "answers": it answers commands of this package;
- "session": it accepts another connection of this package;
- "connections": enough of its connections are free;
- "clients": clients are connected through the proxy;
- "tables": its tables can be locked;
- "cgroup": its processes can be put into a control group;
- "writes": it executes write commands of this package.
"""


@dataclass(frozen=True)
class Fault(ABC):
    """One kind of damage. Subclasses are frozen dataclasses with the settings as fields.

    Attributes:
        name: the second half of a label, such as "latency".
        targets: the kinds of targets that the fault can strike: "postgres", "redis", "service", "tcp", "mysql", "rabbitmq".
        heals: False for damage that `Strike.heal` can't undo, such as deleted data.
    """

    name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    heals: ClassVar[bool] = True

    def strike_needs(self) -> tuple[Need, ...]:
        """Return what the target must have for the fault to strike."""
        return ()

    def heal_needs(self) -> tuple[Need, ...]:
        """Return what the target must have for the fault to heal, and for its receipt."""
        return ()

    def check_kind(self, kind: str) -> None:  # noqa: B027  # most settings fit every kind
        """Check that the settings fit a kind of target.

        Raises:
            SetupError: a setting does not.
        """

    def takes(self) -> Mapping[Need, str]:
        """Return what the target lacks while the fault lasts, each with a sentence about {target}."""
        return {}

    def cannot_strike(self, target: FaultTarget, need: Need, reason: str) -> SetupError:
        """Return the error of a strike that found something missing. The message names the active strike that took it."""
        purpose = self._purpose(target, need)
        ended = target.ended() if need == "process" else None
        return ended.needed_for(purpose) if ended is not None else SetupError(f"{purpose}{reason}")

    def _purpose(self, target: FaultTarget, need: Need) -> str:
        taken_by = [each.label for each in target.active_strikes() if need in each.fault.takes() and each.in_force]
        return f"{self.label(target)} cannot strike{_while_last(taken_by)}: "

    def __init_subclass__(cls) -> None:
        """Make each `strike` check first that the fault can strike the target now, and raise no errors but ours."""
        super().__init_subclass__()
        if "strike" in vars(cls):
            setattr(cls, "strike", _check_first(vars(cls)["strike"]))  # noqa: B010  # mypy allows no assignment to a method

    @abstractmethod
    def strike(self, target: Any) -> Strike:
        """Inject the fault now. Return the strike, which heals it.

        Raises:
            CannotInject: this backend or platform can't inject the fault.
            SetupError: the fault has nothing to strike, or a setting does not fit the target.
        """

    def heals_on(self, target: Any) -> bool:
        """True if `Strike.heal` undoes the fault on this target. A killed process of the user's, for example, stays dead."""
        return self.heals

    def label(self, target: FaultTarget) -> str:
        """Return target, name and the settings that differ from their defaults, such as "redis.latency(seconds=0.2)"."""
        settings = [f"{name}={value!r}" for name, value in self._settings().items()]
        return f"{target.name}.{self.name}" + (f"({', '.join(settings)})" if settings else "")

    def to_json(self) -> dict[str, Any]:
        """Return the fault as plain data, from which `faults.from_json` creates it again.

        Returns:
            {"fault": name, "settings": the settings that differ from their defaults}.
        """
        settings = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self._settings().items()
        }
        return {"fault": self.name, "settings": settings}

    def _settings(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


def _check_first(strike: Callable[[Any, Any], Strike]) -> Callable[[Any, Any], Strike]:
    @functools.wraps(strike)
    def checked(fault: Fault, target: Any) -> Strike:
        if reason := target.unsupported(fault.name):
            raise CannotInject(reason)
        if obstacle := find_obstacle(fault.strike_needs(), target.active_strikes()):
            raise SetupError(
                f"{fault.label(target)} cannot strike while {obstacle.label} lasts: {obstacle.reason}; heal {obstacle.label} first"
            )
        try:
            return strike(fault, target)
        except ProcessEnded as ended:
            raise fault.cannot_strike(target, "process", str(ended)) from None
        except ResilienceError:
            raise
        except Exception as error:
            raise _cannot_strike(fault, target, error) from error

    return checked


def _cannot_strike(fault: Fault, target: FaultTarget, error: Exception) -> SetupError:
    """Return the error of a strike that another library's error has ended, such as that of a process which ends meanwhile."""
    if "process" in fault.strike_needs() and target.ended() is not None:
        return fault.cannot_strike(target, "process", "")
    others = labels_of_obstacles(target.active_strikes())
    problem = _first_line(f"{type(error).__name__}: {error}")
    return SetupError(f"{fault.label(target)} cannot strike{_while_last(others)}: {problem}")


class Hold(Protocol):
    """Something taken from a tree of processes."""

    def release(self) -> None:
        """Give it back to every process that lives."""

    def receipt(self) -> Receipt:
        """Return what came of it so far, in processes."""


def strike_hold(fault: Fault, target: FaultTarget, hold: Hold) -> Strike:
    """Return the strike of a fault that holds something back from the target's processes."""
    return target.register(Strike(fault.label(target), fault, heal=hold.release, read_receipt=hold.receipt))


def strike_at_once(fault: Fault, target: FaultTarget, number: int) -> Strike:
    """Return the strike of a fault that is over already.

    Args:
        fault: the fault.
        target: its target.
        number: of the connections that it has ended.
    """
    at = 0.0 if number else None
    receipt = Receipt(number, "connections", at, at)
    return target.register(Strike(fault.label(target), fault, heal=lambda: None, read_receipt=lambda: receipt))


def at_least(name: str, value: Any, least: float, unit: str, *, whole: bool = False) -> None:
    """Check a setting.

    Raises:
        SetupError: `value` is no number, below `least` or too large, or no integer and has to be `whole`.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= least or value == float("inf"):
        raise SetupError(f"{name} must be at least {least:g} {unit}, got {value!r}")
    if value > MOST:
        raise SetupError(f"{name} must be at most {MOST:g}, got {value!r}")
    if whole and not isinstance(value, int):
        raise SetupError(f"{name} must be a whole number of {unit}, got {value!r}")
