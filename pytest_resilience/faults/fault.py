"""The interface of a fault: what it is called, how it strikes, how it heals, and the receipt that it hit.

A fault is a frozen dataclass: its fields are its settings, so a schedule of faults is plain data. `strike(target)` does it
and returns a `Strike`, which is a context manager and knows how to heal.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..clock import SYSTEM, Clock
from ..errors import CannotInject, HealFailed, SetupError
from ..history import current
from ..wording import counted, no_attribute


@dataclass(frozen=True)
class Receipt:
    """Proof that a fault hit, or that it did not.

    Args:
        touched: how many connections were refused or cut, bytes held, delayed or dropped, or processes that were signalled or met
            a limit; 0 when the fault struck and nothing came by; None where the backend can't know.
        unit: what `touched` counts: "connections", "bytes" or "processes".
        first: seconds from the strike to the first of them, or None.
        last: seconds from the strike to the last of them, or None.
        note: what else has to be known to judge the numbers; "" for nothing.
    """

    touched: int | None
    unit: str
    first: float | None = None
    last: float | None = None
    note: str = ""

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
        return text


class Strike:
    """A fault that has struck: heals at the end of its `with` block, by `heal()`, or at the end of the test at the latest.

    Attributes:
        label: target and fault with its settings, such as "postgres.latency(seconds=0.2)".
        fault: the fault that struck.
        note: the note that its receipts carry.
    """

    # `late`: whether `look` can be asked after the heal too, and knows all only a moment later; the heal doesn't wait for that moment.
    def __init__(
        self,
        label: str,
        fault: Fault,
        *,
        heal: Callable[[], None],
        read_receipt: Callable[[], Receipt],
        settles_late: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        self.label = label
        self.fault = fault
        self._heal = heal
        self._read_receipt = read_receipt
        self._settles_late = settles_late
        self._clock = clock
        self._last_receipt: Receipt | None = None
        self.note = ""
        self._healed = False
        self._history = current()
        self._mark = self._history.add_strike(label, clock.now())

    @property
    def healed(self) -> bool:
        """Whether the fault has been taken back."""
        return self._healed

    @property
    def receipt(self) -> Receipt:
        """What the fault has touched: up to now while it lasts, up to the heal afterwards."""
        if self._last_receipt is None and not self.healed:
            return self._with_note(self._read_receipt())
        if self._last_receipt is None:
            try:
                self._last_receipt = self._read_receipt()
            except Exception:  # noqa: BLE001  # the backend died after the heal, which whoever asks for its state is told
                self._last_receipt = Receipt(None, "connections")
        return self._with_note(self._last_receipt)

    def _with_note(self, receipt: Receipt) -> Receipt:
        return replace(receipt, note=self.note) if self.note else receipt

    @property
    def vacuous(self) -> bool:
        """Whether the fault is over and is known to have touched nothing."""
        return self.healed and self.receipt.touched == 0

    def heal(self) -> None:
        """Take the fault back; does nothing when that is done already.

        Raises:
            HealFailed: it could not be taken back; calling again tries again.
        """
        if self.healed:
            return
        lost: Exception | None = None
        if not self._settles_late:
            try:
                self._last_receipt = self._read_receipt()  # first: removing a toxic removes its counters
            except Exception as error:  # noqa: BLE001  # a receipt that can't be had must not keep the fault from healing
                self._last_receipt = Receipt(None, "connections")
                lost = error
        try:
            self._heal()
        except Exception as error:
            raise HealFailed(f"{self.label} could not be healed: {type(error).__name__}: {error}") from error
        self._healed = True
        receipt = self._last_receipt
        touched, unit = (receipt.touched, receipt.unit) if receipt is not None else (None, "")
        self._history.add_heal(self._mark, self._clock.now(), touched=touched, unit=unit)
        if lost is not None:
            raise HealFailed(
                f"{self.label} was healed, but its receipt is lost: {type(lost).__name__}: {lost}"
            ) from lost

    if not TYPE_CHECKING:  # type checkers see wrong names by themselves

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
            error.add_note(f"and then: {failed}")  # the first failure is the story, the second its footnote

    def __repr__(self) -> str:
        return f"<Strike {self.label}, {'healed' if self.healed else 'striking'}>"


class FaultTarget(Protocol):
    """What every fault needs of the thing that it strikes."""

    @property
    def name(self) -> str:
        """Such as "redis"; the first half of a label."""

    def unsupported(self, fault: str) -> str | None:
        """Why its backend can't inject that fault; None when it can."""

    def register(self, strike: Strike) -> Strike:
        """Remember a strike, so that it is healed at the end at the latest; returns it."""


@dataclass(frozen=True)
class Fault(ABC):
    """One kind of damage; subclasses are frozen dataclasses whose fields are the settings."""

    name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        """No kind of fault strikes where its target's backend can't: asked here, once for all of them."""
        super().__init_subclass__()
        if "strike" in vars(cls):
            setattr(cls, "strike", _refuse_unsupported(vars(cls)["strike"]))  # noqa: B010  # no assignment to a method, says mypy

    @abstractmethod
    def strike(self, target: Any) -> Strike:
        """Do it now; returns the strike, which heals it.

        Raises:
            CannotInject: this backend or platform can't.
            SetupError: the settings make no sense.
        """

    def label(self, target: FaultTarget) -> str:
        """FaultTarget, name and the settings that differ from their defaults: "redis.refuse"."""
        said = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{target.name}.{self.name}" + (f"({', '.join(said)})" if said else "")


def _refuse_unsupported(strike: Callable[[Any, Any], Strike]) -> Callable[[Any, Any], Strike]:
    @functools.wraps(strike)
    def checked(fault: Fault, target: Any) -> Strike:
        if reason := target.unsupported(fault.name):
            raise CannotInject(reason)
        return strike(fault, target)

    return checked


class Hold(Protocol):
    """A limit, a lock or a set of connections that a fault keeps until it heals."""

    def release(self) -> None:
        """Give it back. A second call does nothing."""

    def receipt(self) -> Receipt:
        """Return the receipt so far."""


def strike_hold(fault: Fault, target: FaultTarget, hold: Hold) -> Strike:
    """Return the registered strike of a fault that keeps a hold until it heals."""
    return target.register(Strike(fault.label(target), fault, heal=hold.release, read_receipt=hold.receipt))


def at_least(name: str, value: Any, least: float, unit: str) -> None:
    """Check a setting.

    Raises:
        SetupError: `value` is no number or below `least`.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= least or value == float("inf"):
        raise SetupError(f"{name} must be at least {least:g} {unit}, got {value!r}")
