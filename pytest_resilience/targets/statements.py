"""The objects that `on` and `after` return: a selection of statements with acts as methods, and an event that starts faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from ..errors import SetupError
from ..faults import FAULTS
from ..faults.fault import Fault, Strike
from ..faults.statements import ACTS, WATCH, After, On
from ..unused import expect_use
from ..wording import no_attribute
from .server_faults import PostgresFaults, RedisFaults
from .target import NetworkFaults, StrikeRegistry, Target


class Statements:
    """A selection of statements. Each act strikes at once, and returns a `Strike`.

    Args:
        target: the server.
        selection: settings of the fault `on`.

    Raises:
        SetupError: a setting is invalid.
    """

    def __init__(self, target: Target, selection: dict[str, Any]) -> None:
        self._target = target
        self._selection = selection
        self._is_used = False
        label = On(act=WATCH, **selection).label(target)  # an invalid setting is an error of the call that gave it
        problem = f"has no act, so it has injected nothing: add one, such as `.reset()`; {self._acts()}"
        expect_use(label, problem, lambda: self._is_used, may_be_kept=True)

    def first(self, n: int) -> Self:
        """Return this selection, limited to the first `n` matching statements. Each count can be given once."""
        return self._with(first=n)

    def every(self, n: int) -> Self:
        """Return every `n`th statement of this selection."""
        return self._with(every=n)

    def after(self, n: int) -> Self:
        """Return this selection without the first `n` matching statements. Other counts begin behind them."""
        return self._with(after=n)

    def per_connection(self) -> Self:
        """Return this selection with counts of each connection. Otherwise they count over all connections."""
        return self._with(per_connection=True)

    def _with(self, **more: object) -> Self:
        __tracebackhide__ = True
        self._is_used = True
        for name, value in more.items():
            if self._selection.get(name) is not None:
                raise SetupError(f"{name} is {self._selection[name]!r} already, got {value!r}")
        return type(self)(self._target, self._selection | more)

    def _act(self, act: str, **settings: object) -> Strike:
        __tracebackhide__ = True
        self._is_used = True
        return self._target.inject(On(act=act, **self._selection, **settings))  # type: ignore[arg-type]  # On checks them

    def reset(self) -> Strike:
        """Reset the connection (RST) before the server gets the statement."""
        return self._act("reset")

    def hang(self) -> Strike:
        """Hold the statement, and all that follows on its connection, until the heal."""
        return self._act("hang")

    def delay(self, seconds: float) -> Strike:
        """Hold the statement, and all that follows on its connection, for some seconds.

        Args:
            seconds: at least a millisecond.
        """
        return self._act("delay", seconds=seconds)

    def lose_answer(self, close: Literal["reset", "silence"] = "reset") -> Strike:
        """Close the connection when the server has executed the statement, and pass nothing of its answer.

        Args:
            close: "reset" for a RST, or "silence": nothing passes any more until the heal, and then there is a RST.
        """
        return self._act("lose_answer", close=close)

    if not TYPE_CHECKING:  # type checkers detect unknown names without this

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            self.__dict__["_is_used"] = True
            error = no_attribute(self, name)
            if not name.startswith("_"):
                error.args = (f"{error}{self._remedy(name)}",)
            raise error

    def __enter__(self) -> NoReturn:
        self._is_used = True
        raise SetupError(f"{On(act=WATCH, **self._selection).label(self._target)} has no act; {self._acts()}")

    def __exit__(self, *error: object) -> None:
        raise AssertionError("__enter__ has raised")

    def _remedy(self, name: str) -> str:
        """Return the acts, or the call that injects a fault of the server at the first of the statements."""
        if name in FAULTS and hasattr(self._target, name):
            return f"; a fault of the server strikes after a statement: {self._target.name}.after(...).{name}()"
        return f"; {self._acts()}"

    def _acts(self) -> str:
        return f"the acts are: {', '.join(sorted(each for each in ACTS if hasattr(type(self), each)))}"

    def __repr__(self) -> str:
        return f"<{On(act=WATCH, **self._selection).label(self._target)}, without an act>"


class PostgresStatements(Statements):
    """A selection of the statements that clients send to Postgres through the proxy."""

    def error(self, code: str, message: str | None = None) -> Strike:
        """Fail the statement in the server, so that the state of the transaction is the server's own.

        Args:
            code: SQLSTATE, such as "40001".
            message: None for a text of the proxy.
        """
        return self._act("error", code=code, message=message)

    def fatal(self, code: str, message: str | None = None) -> Strike:
        """End the session with a FATAL error in place of the statement's answer.

        Args:
            code: SQLSTATE, such as "57P01".
            message: None for a text of the proxy.
        """
        return self._act("fatal", code=code, message=message)

    def cut_answer(
        self,
        rows: int | None = None,
        bytes: int | None = None,  # noqa: A002  # the name of the setting
        close: Literal["reset", "silence"] = "reset",
    ) -> Strike:
        """Close the connection in the middle of the statement's answer.

        Args:
            rows: the rows that pass before; None to count bytes.
            bytes: the bytes that pass before; None to count rows.
            close: as for `lose_answer`.
        """
        return self._act("cut_answer", rows=rows, bytes=bytes, close=close)


class RedisCommands(Statements):
    """A selection of the commands that clients send to Redis through the proxy."""

    def error(self, text: str) -> Strike:
        """Fail the command in the server. In a transaction, the error comes where Redis reports such an error.

        Args:
            text: a code such as "LOADING", which stands for the text of Redis, or a whole text such as "ERR no such thing".
        """
        return self._act("error", code=text)

    def fatal(self, text: str) -> Strike:
        """Reply with an error, and close the connection.

        Args:
            text: as for `error`, such as "ERR max number of clients reached".
        """
        return self._act("fatal", code=text)

    def cut_answer(
        self,
        bytes: int,  # noqa: A002  # the name of the setting
        close: Literal["reset", "silence"] = "reset",
    ) -> Strike:
        """Close the connection in the middle of the command's reply.

        Args:
            bytes: the bytes that pass before.
            close: as for `lose_answer`.
        """
        return self._act("cut_answer", bytes=bytes, close=close)


class _FaultsAfter(Target):
    """The faults of a server, each of which strikes when a number of statements have been sent."""

    def __init__(self, target: Target, event: dict[str, Any]) -> None:
        super().__init__(target.name, StrikeRegistry())
        self._target = target
        self._event = event
        self._is_used = False
        After(fault="refuse", **event)  # an invalid setting is an error of the call that gave it
        problem = "has no fault, so it has injected nothing: add one, such as `.reset()`"
        expect_use(f"{target.name}.after({event['verb']!r})", problem, lambda: self._is_used, may_be_kept=True)

    if not TYPE_CHECKING:  # type checkers would take each name for one that exists

        def __getattribute__(self, name: str) -> Any:
            __tracebackhide__ = True
            if name in FAULTS:
                self._is_used = True
            return super().__getattribute__(name)

    def inject(self, fault: Fault) -> Strike:
        __tracebackhide__ = True
        data = fault.to_json()
        return self._target.inject(After(fault=data["fault"], settings=data["settings"], **self._event))


class PostgresFaultsAfter(_FaultsAfter, PostgresFaults, NetworkFaults):
    """The faults of a Postgres, each of which strikes when a number of statements have been sent."""


class RedisFaultsAfter(_FaultsAfter, RedisFaults, NetworkFaults):
    """The faults of a Redis, each of which strikes when a number of commands have been sent."""
