"""The kinds of steps from which schedules are drawn."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from .errors import CannotInject, SetupError
from .fault_settings import DRAWN, DRAWN_ON, LINUX_ONLY, NOT_DRAWN, ON_REQUEST, Settings
from .faults import FAULTS
from .schedule import CANCEL, TARGET_KINDS, Step
from .wording import did_you_mean

TARGETS = (*TARGET_KINDS, "client")
ADDED = ("tcp", "mysql", "rabbitmq")  # kinds of targets of which each has a name
BUILT_IN = tuple(each for each in TARGETS if each not in ADDED)  # targets that need no name
NAMED_KINDS = ("postgres", "redis", "service", *ADDED)  # of which there may be several, each with a name
_ORDER = list(DRAWN)

_unsupported: dict[str, str] = {}


def set_unsupported(reasons: Mapping[str, str]) -> None:
    """Draw none of these faults from now on, because the backend of the running test can't inject them.

    Strategies are made when a module is imported, before a backend is there. The plugin calls this function for each test.

    Args:
        reasons: the reason for each label, such as "redis.half_open". A label of a kind of server stands for all servers of that kind.
    """
    _unsupported.clear()
    _unsupported.update(reasons)


@dataclass(frozen=True)
class Kind:
    """A kind of step: a fault of one target, or a strategy of the user's.

    Args:
        label: target and fault, such as "redis.refuse"; "" for a strategy of the user's.
        general: the label with the kind of the target instead of its name; it differs for servers with a name of their own.
        settings: the function that returns the settings of a severity; None for a strategy of the user's.
        own: the strategy of the user's; None for a fault.
    """

    label: str = ""
    general: str = ""
    settings: Settings | None = None
    own: st.SearchStrategy[Step] | None = None

    @property
    def unsupported(self) -> str | None:
        """The reason why the fault can't be injected here, or None if it can."""
        if self.label.partition(".")[2] in LINUX_ONLY and sys.platform != "linux":
            return f"{self.label} needs Linux"
        return _unsupported.get(self.label) or _unsupported.get(self.general)


def checked_step(step: object) -> Step:
    """Return what a strategy of the user's has drawn.

    Raises:
        SetupError: it is no step.
    """
    if not isinstance(step, Step):
        raise SetupError(f"faults: a strategy must draw steps, got {step!r}")
    return step


def balanced(kinds: Sequence[Kind]) -> list[Kind]:
    """Return the kinds, repeated so that each target has about an equal share of them, however many faults it has."""
    shares = Counter(kind.label.partition(".")[0] for kind in kinds)
    most = max(shares.values(), default=0)
    more = [kind for kind in kinds for _ in range(most // shares[kind.label.partition(".")[0]] - 1)]
    return [*kinds, *more]


def injectable(kinds: Iterable[Kind]) -> list[Kind]:
    """Return the kinds that can be injected here.

    Raises:
        CannotInject: none can be.
    """
    reasons: dict[str, None] = {}
    found = []
    for kind in kinds:
        reason = kind.unsupported
        if reason is None:
            found.append(kind)
        else:
            reasons[reason] = None
    if not found:
        raise CannotInject(f"none of the faults can be injected here: {'; '.join(reasons)}")
    return found


def choose_kinds(targets: Iterable[str], faults: Iterable[object] | None) -> tuple[Kind, ...]:
    """Return the kinds that targets and faults stand for, the mildest first.

    Args:
        targets: "redis", "postgres", "service", "client", or kind and name of a further server or service, such as
            "postgres:replica", "tcp:payments" and "service:worker".
        faults: names and labels, which limit the faults of the targets, and strategies of steps, which are added. None for all faults.

    Raises:
        SetupError: a name stands for nothing, or nothing is left.
    """
    kind_of = dict(_target(each) for each in targets)
    own, names = _divided(faults)
    default = [name for name in DRAWN if name not in ON_REQUEST]
    found = [kind for each in names or default for kind in _named(each, kind_of, must_exist=bool(names))]
    kinds = (*sorted(dict.fromkeys(found), key=_severity), *(Kind(own=each) for each in own))
    if not kinds:
        raise SetupError(f"schedules need a target ({', '.join(BUILT_IN)}) or faults, such as faults=['redis.refuse']")
    return kinds


def _divided(faults: Iterable[object] | None) -> tuple[list[st.SearchStrategy[Step]], list[str]]:
    """Return the strategies and the names among some faults."""
    if isinstance(faults, str):
        raise SetupError(f"faults must be a list, such as [{faults!r}]")
    own: list[st.SearchStrategy[Step]] = []
    names: list[str] = []
    for each in faults or ():
        if isinstance(each, st.SearchStrategy):
            own.append(each)
        elif isinstance(each, str):
            names.append(each)
        else:
            raise SetupError(f"faults: must be names of faults or strategies of steps, got {each!r}")
    return own, names


def _target(text: object) -> tuple[str, str]:
    """Return the name and the kind of a target."""
    kind, _, name = str(text).partition(":")
    if kind not in TARGETS or (name and kind not in NAMED_KINDS) or (kind in ADDED and not name):
        raise SetupError(
            f"no target {text!r}{did_you_mean(text, BUILT_IN)}; there are {', '.join(BUILT_IN)}, and further servers and services by "
            "kind and name, such as 'postgres:replica', 'tcp:payments' or 'service:worker'"
        )
    return name or kind, kind


def _named(text: str, kind_of: Mapping[str, str], *, must_exist: bool) -> list[Kind]:
    """Return the kinds that a label, or the name of a fault on these targets, stands for."""
    target, dot, name = text.rpartition(".")
    if dot:
        kind = kind_of.get(target) or _target(target)[1]
        if text != CANCEL and name not in _faults_of(kind):
            raise SetupError(f"faults: no fault {text!r}{did_you_mean(name, _faults_of(kind))}")
        return [_kind(name, target, kind)]
    found = [_kind(name, target, kind) for target, kind in kind_of.items() if name in _faults_of(kind)]
    if must_exist and not found:
        known = list(dict.fromkeys(name for kind in kind_of.values() for name in _faults_of(kind)))
        raise SetupError(
            f"faults: no fault {text!r} of {', '.join(kind_of) or 'a target'}{did_you_mean(text, known)}; "
            "name the targets first, or write a label such as 'redis.refuse'"
        )
    return found


def _faults_of(kind: str) -> list[str]:
    """Return the names of the faults that strike a kind of target."""
    if kind == "client":
        return [CANCEL.partition(".")[2]]
    return [name for name, fault in FAULTS.items() if kind in fault.targets]


def _kind(name: str, target: str, kind: str) -> Kind:
    if name in FAULTS and not FAULTS[name].heals:
        raise SetupError(f"faults: {target}.{name} never heals, so no schedule may have it")
    if name in NOT_DRAWN:
        raise SetupError(
            f"faults: {target}.{name} is not drawn, because {NOT_DRAWN[name]}; a strategy of steps can add it"
        )
    settings = DRAWN_ON.get(f"{kind}.{name}", DRAWN[name])
    return Kind(f"{target}.{name}", f"{kind}.{name}", settings)


def _severity(kind: Kind) -> int:
    return _ORDER.index(kind.label.partition(".")[2])
