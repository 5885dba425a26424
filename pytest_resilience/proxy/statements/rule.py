"""The rules of one proxy at work, with their counts and the statements that they hold."""

from __future__ import annotations

from collections import deque
from typing import Any

from ...wire.statement_rule import StatementRule, glob_matcher, part_of_glob
from ..event_counter import EventCounter
from ..tap import Back, Hold, Piece
from ..toxics.toxic import RESET

SHOWN = 5
"""Statements that a rule shows, the last ones."""

MAX_CANDIDATES = 512
"""Statements whose rules are kept."""

MAX_CANDIDATE_CHARS = 4096
"""Characters of a statement whose rules are kept."""

MIN_HOLDS = 256
"""Holds that a rule has before it forgets those that were released."""


class Counts:
    """The counts by which a rule chooses statements: of one connection, or of all."""

    __slots__ = ("chosen", "matched")

    def __init__(self) -> None:
        self.matched = 0
        self.chosen = 0

    def choose(self, settings: StatementRule) -> bool:
        """Count a matching statement. Return True if the counts select the statement."""
        self.matched += 1
        if not settings.selects(self.matched) or (settings.first is not None and self.chosen >= settings.first):
            return False
        self.chosen += 1
        return True


class Rule:
    """One rule of a proxy: its settings, its counts, and what it holds.

    Attributes:
        settings: replaced, never changed, by an update.
        matches_text, matches_key, matches_client: predicates of the settings.
        key_part: bytes that every key has which the rule matches; b"" if there are none.
        matched: statements that have the verb, the text or key, and the client.
        chosen: matching statements that the counts have selected.
        events: statements that were acted on. For the act "none", statements that were chosen.
        shown: the last of these, without literals.
    """

    __slots__ = (
        "_counts",
        "_holds",
        "_per_connection",
        "_prune_at",
        "chosen",
        "events",
        "key_part",
        "matched",
        "matches_client",
        "matches_key",
        "matches_text",
        "settings",
        "shown",
    )

    def __init__(self, settings: StatementRule) -> None:
        self.matched = 0
        self.chosen = 0
        self.events = EventCounter()
        self.shown: deque[str] = deque(maxlen=SHOWN)
        self._counts = Counts()
        self._per_connection: dict[int, Counts] = {}
        self._holds: dict[Hold, None] = {}
        self._prune_at = MIN_HOLDS
        self.change(settings)

    def change(self, settings: StatementRule) -> None:
        """Work with new settings. The counts continue."""
        self.settings = settings
        self.matches_text = settings.text_matcher()
        self.matches_key = glob_matcher(settings.key)
        self.key_part = part_of_glob(settings.key)
        self.matches_client = glob_matcher(settings.client)

    def matches_verb(self, verb: str) -> bool:
        """True if the rule has this verb among its own, or all verbs but "connect"."""
        verbs = self.settings.verbs
        return verb in verbs or ("*" in verbs and verb != "connect")

    def choose(self, connection: int) -> bool:
        """Count a matching statement. Return True if the rule acts on it.

        Args:
            connection: the number of the connection.
        """
        self.matched += 1
        counts = self._counts
        if self.settings.per_connection:
            counts = self._per_connection.setdefault(connection, Counts())
        if not counts.choose(self.settings):
            return False
        self.chosen += 1
        return True

    def record(self, now: float, text: str) -> None:
        """Count an effect on a statement.

        Args:
            now: seconds of the loop's clock.
            text: the statement without literals.
        """
        self.events.add(now)
        self.shown.append(text)

    def hold(self, hold: Hold) -> Hold:
        """Return a hold that the removal of the rule releases."""
        if len(self._holds) >= self._prune_at:
            self._holds = {each: None for each in self._holds if not each.released}
            self._prune_at = 2 * len(self._holds) + MIN_HOLDS
        self._holds[hold] = None
        return hold

    def release(self) -> None:
        """Release everything that the rule holds."""
        holds, self._holds = self._holds, {}
        for hold in holds:
            hold.release()

    def close_pieces(self) -> tuple[Piece, ...]:
        """Return the pieces that close the connection from the server's direction, as the rule says: by a RST or by silence.

        Silence holds both directions until the removal of the rule, and then ends in a RST.
        """
        if self.settings.close == "reset":
            return (RESET,)
        return (self.hold(Hold(then=RESET)), Back(self.hold(Hold(then=RESET))))

    def counters_json(self) -> dict[str, Any]:
        """Return the figures for GET /proxies/{p}/counters."""
        return {
            "matched": self.matched,
            "acted": 0 if self.settings.act == "none" else self.events.count,
            "first": self.events.first,
            "last": self.events.last,
            "shown": list(self.shown),
        }


class Rules:
    """The rules of one proxy, and the counts of its statements.

    Attributes:
        protocol: one of wire.statement_rule.PROTOCOLS.
        active: the rules, in the order of their addition. A new tuple with each change.
        verbs: the number of statements by verb, counted while there are rules.
        unreadable: connections whose bytes can't be read, by reason: "encrypted", or "other" for another protocol.
    """

    __slots__ = ("_candidates", "_candidates_of", "active", "protocol", "unreadable", "verbs")

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.active: tuple[Rule, ...] = ()
        self.verbs: dict[str, int] = {}
        self.unreadable: dict[str, int] = {}
        self._candidates: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self._candidates_of: tuple[Rule, ...] = ()

    def forget_candidates(self) -> None:
        """Take account of a rule with new settings."""
        self._candidates = {}

    def candidates(self, verb: str, text: str) -> tuple[Rule, ...]:
        """Return the rules that a statement's verb and text match. The result is kept until the rules change."""
        if self._candidates_of is not self.active or len(self._candidates) >= MAX_CANDIDATES:
            self._candidates_of = self.active
            self._candidates = {}
        key = verb, text
        found = self._candidates.get(key)
        if found is None:
            found = tuple(rule for rule in self.active if rule.matches_verb(verb) and rule.matches_text(text))
            if len(text) <= MAX_CANDIDATE_CHARS:
                self._candidates[key] = found
        return found

    def count(self, verb: str, number: int = 1) -> None:
        """Count statements of a verb."""
        self.verbs[verb] = self.verbs.get(verb, 0) + number

    def count_unreadable(self, reason: str) -> None:
        """Count a connection that can't be read."""
        self.unreadable[reason] = self.unreadable.get(reason, 0) + 1

    def counters_json(self) -> dict[str, Any]:
        """Return the figures for GET /proxies/{p}/counters."""
        return {"statements": dict(sorted(self.verbs.items())), "unreadable": dict(self.unreadable)}
