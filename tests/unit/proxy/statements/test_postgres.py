"""The tap of Postgres: transparent without a match, and exact in its acts.

The tap gets literal messages of both directions from a fake connection. tests/contract has the same acts before a real server.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_resilience.proxy.statements import Rule, Rules
from pytest_resilience.proxy.statements.postgres import SMALL, PostgresTap
from pytest_resilience.proxy.tap import Back, Hold, Piece, Watcher
from pytest_resilience.proxy.toxics.toxic import CLOSE, RESET
from pytest_resilience.wire import postgres_stream as wire
from pytest_resilience.wire.statement_rule import StatementRule
from tests.support.conversations import drivers, load

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

STARTUP = wire.message(b"", b"\0\3\0\0user\0u\0application_name\0service:7\0\0")
READY = wire.message(b"Z", b"I")
STARTED = wire.message(b"R", b"\0\0\0\0") + wire.message(b"K", b"\0" * 8) + READY
SYNC = wire.message(b"S", b"")
FLUSH = wire.message(b"H", b"")
BOUND = wire.message(b"2", b"")
ROW = wire.message(b"D", b"\0\1\0\0\0\1x")
DONE = wire.message(b"C", b"INSERT 0 1\0")


def query(sql: str) -> bytes:
    return wire.message(b"Q", sql.encode() + b"\0")


def parse(name: str, sql: str) -> bytes:
    return wire.message(b"P", f"{name}\0{sql}\0".encode() + b"\0\0")


def bind(name: str, portal: str = "") -> bytes:
    return wire.message(b"B", f"{portal}\0{name}\0".encode() + b"\0\0\0\1\0\0\0\4S\0\0\0\0\0")


def close(name: str) -> bytes:
    return wire.message(b"C", f"S{name}\0".encode())


EXECUTE = wire.execute("")


class Connection:
    """A connection of a tap, which records all pieces that go on. Holds are in the way until the test releases them."""

    number = 3

    def __init__(self, *rules: Rule) -> None:
        self.rules = Rules("postgres")
        self.rules.active = rules
        self.pieces: dict[bool, list[Any]] = {True: [], False: []}
        self.up: Watcher | None = None
        self.down: Watcher | None = None
        self.tap = PostgresTap(self, self.rules)

    def now(self) -> float:
        return 5.0

    def write(self, pieces: Iterable[Piece], *, upward: bool) -> None:
        for piece in pieces:
            way, item = (not upward, piece.item) if isinstance(piece, Back) else (upward, piece)
            mine = self.pieces[way]
            if isinstance(item, bytes) and mine and isinstance(mine[-1], bytes):
                mine[-1] += item
            elif item != b"":
                mine.append(item)

    def watch(self, up: Watcher | None, down: Watcher | None) -> None:
        self.up, self.down = up, down

    def _pass(self, watcher: Watcher | None, data: bytes, *, upward: bool) -> list[Any]:
        before = {way: list(each) for way, each in self.pieces.items()}
        self.pieces = {True: [], False: []}
        pieces = None if watcher is None else watcher(memoryview(data))
        self.write((data,) if pieces is None else pieces, upward=upward)
        new = self.pieces
        self.pieces = before
        for way, each in new.items():
            self.write(each, upward=way)
        return new[upward] if not new[not upward] else [new[True], new[False]]

    def client(self, data: bytes) -> list[Any]:
        """Send data to the server. Return what goes on there; both directions if something goes back."""
        return self._pass(self.up, data, upward=True)

    def server(self, data: bytes) -> list[Any]:
        """Send data to the client. Return what goes on there."""
        return self._pass(self.down, data, upward=False)

    def start(self) -> Connection:
        self.client(STARTUP)
        self.server(STARTED)
        return self

    def heal(self, *rules: Rule) -> None:
        self.rules.active = tuple(each for each in self.rules.active if each not in rules)
        for rule in rules:
            rule.release()
        self.tap.rules_changed()


def rule(verb: str, act: str, **settings: Any) -> Rule:
    return Rule(StatementRule(verb=verb, act=act, **settings))


# --- transparency ----------------------------------------------------------------------------------------------------

SESSION = [
    STARTUP,
    query("begin"),
    parse("s", "insert into t values ($1)") + wire.message(b"D", b"Ss\0") + FLUSH,
    bind("s") + EXECUTE + SYNC,
    query("select " + "x" * 5000),
    close("s") + SYNC,
    query("commit"),
    wire.message(b"X", b""),
]
ANSWERS = [
    STARTED,
    DONE + READY,
    wire.message(b"1", b""),
    BOUND + DONE + READY,
    ROW * 900 + DONE + READY,
    READY,
    DONE + READY,
]


def pieces_of(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


PLACES = st.lists(st.integers(0, 20000), max_size=12)


@pytest.mark.parametrize("matching", [None, "nothing like it"])
@patient
@given(up=PLACES, down=PLACES, early=st.integers(0, 8))
def test_streams_without_a_match_are_unchanged(
    matching: str | None, up: list[int], down: list[int], early: int
) -> None:
    connection = Connection(*([] if matching is None else [rule("insert", "reset", matching=matching)]))
    client, server = b"".join(SESSION), b"".join(ANSWERS)
    for place, piece in enumerate(pieces_of(client, up)):
        connection.client(piece)
        if place == early:
            connection.heal(*connection.rules.active)
    for piece in pieces_of(server, down):
        connection.server(piece)
    connection.heal(*connection.rules.active)
    assert connection.pieces == {True: [client], False: [server]}


@patient
@given(places=PLACES)
def test_statements_are_counted_alike_for_every_split(places: list[int]) -> None:
    prepared = parse("s", "select 1") + SYNC + (bind("s") + EXECUTE + SYNC) * 3 + query("select 2") * 2
    sent = prepared + bind("s") + EXECUTE + bind("s") + EXECUTE + SYNC + close("s") + bind("s") + EXECUTE + SYNC
    watching = rule("select", "none", nth=7)
    connection = Connection(watching, rule("insert", "reset")).start()
    for piece in pieces_of(sent, places):
        connection.client(piece)
    assert (watching.matched, watching.chosen) == (7, 1)
    assert connection.rules.verbs == {"connect": 1, "select": 7}
    assert connection.pieces[True] == [STARTUP + sent]


@patient
@given(places=PLACES, early=st.integers(0, 12))
def test_a_rule_that_comes_late_finds_its_answer_for_every_split(places: list[int], early: int) -> None:
    groups = [query("select 1"), parse("s", "select 1") + FLUSH, bind("s") + EXECUTE + SYNC, query("select 2")]
    answers = [ROW + DONE + READY, wire.message(b"1", b""), BOUND + ROW * 500 + DONE + READY, ROW + DONE + READY]
    connection = Connection().start()
    losing = rule("insert", "lose_answer")
    for place, (group, answer) in enumerate(zip(groups, answers, strict=True)):
        for piece in pieces_of(group, places):
            connection.client(piece)
        for piece in pieces_of(answer, places):
            connection.server(piece)
        if place == early:
            connection.rules.active = (losing,)
            connection.tap.rules_changed()
    connection.rules.active = (losing,)
    connection.tap.rules_changed()
    connection.client(query("insert into t values (1)"))
    assert connection.server(DONE + READY) == [RESET]


@patient
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=10), st.booleans())
def test_garbage_is_passed_on(pieces: list[bytes], started: bool) -> None:
    connection = Connection(rule("select", "reset"))
    if started:
        connection.start()
    before = b"".join(connection.pieces[True])
    for piece in pieces:
        connection.client(piece)
    connection.heal(*connection.rules.active)
    if RESET not in connection.pieces[True]:
        assert b"".join(connection.pieces[True]) == before + b"".join(pieces)


@patient
@given(places=PLACES)
def test_an_error_is_the_same_for_every_split(places: list[int]) -> None:
    failing = rule("insert", "error", code="40001")
    connection = Connection(failing).start()
    sent = parse("s", "insert into t values ($1)") + bind("s") + EXECUTE + SYNC + query("select 1")
    for piece in pieces_of(sent, places):
        connection.client(piece)
    replaced = sent.replace(EXECUTE, wire.execute("resilience_3_2"))
    assert connection.pieces[True] == [STARTUP + replaced]
    answer = BOUND + wire.error_response("34000", 'portal "resilience_3_2" does not exist') + READY + DONE + READY
    for piece in pieces_of(answer, places):
        connection.server(piece)
    error = wire.error_response("40001", "could not serialize access due to concurrent update")
    assert connection.pieces[False] == [STARTED + BOUND + error + READY + DONE + READY]
    assert (failing.matched, failing.events.count, list(failing.shown)) == (1, 1, ["insert into t values ($1)"])


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_query_is_replaced_by_one_that_raises() -> None:
    connection = Connection(rule("insert", "error", code="40P01", message="it's a deadlock")).start()
    assert connection.client(query("insert into t values (1)")) == [wire.raising_query("40P01", "it's a deadlock")]
    server = wire.message(b"E", b"SERROR\0C40P01\0Mit's a deadlock\0Winline_code_block\0\0")
    assert connection.server(server + READY) == [wire.error_response("40P01", "it's a deadlock") + READY]


def test_the_verb_for_all_leaves_the_settings_of_drivers_out() -> None:
    watching, named = rule("*", "none"), rule("set", "none")
    connection = Connection(watching, named).start()
    connection.client(query("set timezone = 'UTC'") + query("show x") + query("select 1"))
    assert (watching.matched, named.matched) == (1, 1)


def test_another_error_of_the_server_is_left_as_it_is() -> None:
    failing = rule("insert", "error", code="40P01")
    connection = Connection(failing).start()
    connection.client(query("insert into t values (1)"))
    own = wire.error_response("25P02", "current transaction is aborted")
    assert connection.server(own + READY) == [own + READY]
    assert (failing.matched, failing.events.count) == (1, 0)


def test_a_prepared_statement_is_found_by_the_text_of_its_parse() -> None:
    failing = rule("update", "error", code="40001", matching="Campaigns")
    connection = Connection().start()
    connection.client(parse("a", "update campaigns set x = 1") + parse("b", "update other set x = 1") + SYNC)
    connection.server(READY)
    connection.rules.active = (failing,)
    connection.tap.rules_changed()
    assert connection.client(bind("b") + EXECUTE + SYNC) == [bind("b") + EXECUTE + SYNC]
    assert connection.client(bind("a") + EXECUTE + SYNC) == [bind("a") + wire.execute("resilience_3_4") + SYNC]


def test_a_closed_statement_is_forgotten() -> None:
    failing = rule("update", "error", code="40001")
    connection = Connection(failing).start()
    connection.client(parse("a", "update t set x = 1") + close("a") + bind("a") + EXECUTE + SYNC)
    assert failing.matched == 0


def test_parse_and_close_pass_in_a_group_that_fails() -> None:
    connection = Connection(rule("insert", "error", code="40001")).start()
    group = parse("s", "insert into t values (1)") + bind("s") + close("old") + EXECUTE + SYNC
    assert connection.client(group) == [group.replace(EXECUTE, wire.execute("resilience_3_2"))]


def test_a_pipeline_fails_group_by_group() -> None:
    failing = rule("insert", "error", code="40001", nth=2)
    connection = Connection(failing).start()
    group = parse("", "insert into t values (1)") + bind("") + EXECUTE + SYNC
    assert connection.client(group * 3) == [group + group.replace(EXECUTE, wire.execute("resilience_3_3")) + group]
    missing = wire.error_response("34000", 'portal "resilience_3_3" does not exist')
    error = wire.error_response("40001", wire.error_message("40001"))
    assert connection.server(BOUND + DONE + READY + BOUND + missing) == [BOUND + DONE + READY + BOUND + error]
    assert connection.server(READY + BOUND + DONE + READY) == [READY + BOUND + DONE + READY]


def test_statements_behind_the_failed_one_in_its_group_do_not_count() -> None:
    failing = rule("insert", "error", code="40001")
    connection = Connection(failing).start()
    one = parse("", "insert into t values (1)") + bind("") + EXECUTE
    connection.client(one * 3 + SYNC + one)
    assert failing.matched == 2


def test_a_group_that_ends_with_flush_fails_in_the_same_way() -> None:
    connection = Connection(rule("insert", "error", code="40001")).start()
    group = parse("", "insert into t values (1)") + bind("") + EXECUTE + FLUSH
    assert connection.client(group) == [group.replace(EXECUTE, wire.execute("resilience_3_2"))]
    missing = wire.error_response("34000", 'portal "resilience_3_2" does not exist')
    assert connection.server(BOUND + missing) == [BOUND + wire.error_response("40001", wire.error_message("40001"))]
    assert connection.client(SYNC) == [SYNC]
    assert connection.server(READY) == [READY]


def test_a_commit_that_fails_is_a_rollback() -> None:
    connection = Connection(rule("commit", "error", code="40001")).start()
    assert connection.client(query("END")) == [wire.ROLLBACK]
    error = wire.error_response("40001", wire.error_message("40001"))
    assert connection.server(wire.message(b"C", b"ROLLBACK\0") + READY) == [error + READY]


def test_a_prepared_commit_that_fails_leaves_no_transaction() -> None:
    connection = Connection(rule("commit", "error", code="40001")).start()
    group = parse("", "commit") + bind("") + EXECUTE + SYNC
    sent = group.replace(EXECUTE, wire.execute("resilience_3_2")) + wire.ROLLBACK
    assert connection.client(group + query("select 1")) == [sent + query("select 1")]
    missing = wire.error_response("34000", 'portal "resilience_3_2" does not exist')
    failed = wire.message(b"Z", b"E")
    rolled_back = wire.message(b"C", b"ROLLBACK\0") + READY
    error = wire.error_response("40001", wire.error_message("40001"))
    answer = BOUND + missing + failed + rolled_back + ROW + DONE + READY
    assert connection.server(answer) == [BOUND + error + READY + ROW + DONE + READY]


@pytest.mark.parametrize("act", ["error", "fatal"])
def test_a_session_is_refused_with_an_error(act: str) -> None:
    connection = Connection(rule("connect", act, code="53300"))
    refusal = wire.error_response("53300", "sorry, too many clients already", severity="FATAL")
    assert connection.client(STARTUP) == [[], [refusal, CLOSE]]
    assert connection.client(b"anything") == []


def test_fatal_ends_the_session_behind_the_answers_to_earlier_groups() -> None:
    connection = Connection(rule("insert", "fatal", code="57P01")).start()
    assert connection.client(query("select 1") + query("insert into t values (1)") + query("select 2")) == [
        query("select 1")
    ]
    assert connection.server(ROW) == [ROW]
    fatal = wire.error_response("57P01", wire.error_message("57P01"), severity="FATAL")
    assert connection.server(DONE + READY) == [DONE + READY + fatal, CLOSE]


# --- other acts ------------------------------------------------------------------------------------------------------


def test_reset_takes_the_place_of_the_statement() -> None:
    connection = Connection(rule("insert", "reset")).start()
    assert connection.client(query("select 1") + query("insert into t values (1)")) == [query("select 1"), RESET]


@pytest.mark.parametrize(("act", "settings", "seconds"), [("hang", {}, None), ("delay", {"delay_ms": 250}, 0.25)])
def test_a_hold_stands_before_the_statement(act: str, settings: dict[str, int], seconds: float | None) -> None:
    holding = rule("insert", act, **settings)
    connection = Connection(holding).start()
    before, hold, behind = connection.client(query("select 1") + query("insert into t values (1)") + query("select 2"))
    assert (before, behind) == (query("select 1"), query("insert into t values (1)") + query("select 2"))
    assert (hold.seconds, hold.then, hold.released) == (seconds, None, False)
    connection.heal(holding)
    assert hold.released


def test_a_long_statement_is_held_with_its_rest() -> None:
    connection = Connection(rule("insert", "hang")).start()
    long = query("insert into t values ('" + "x" * 2 * wire.MAX_HEAD + "')")
    assert connection.client(long[: wire.MAX_HEAD]) != [long[: wire.MAX_HEAD]]
    assert connection.client(long[wire.MAX_HEAD :]) == [long[wire.MAX_HEAD :]]


def test_a_long_statement_is_replaced_with_its_rest() -> None:
    connection = Connection(rule("insert", "error", code="40001")).start()
    long = query("insert into t values ('" + "x" * 2 * wire.MAX_HEAD + "')")
    raising = wire.raising_query("40001", wire.error_message("40001"))
    assert connection.client(long[:100]) == []
    assert connection.client(long[100 : wire.MAX_HEAD + 9]) == [raising]
    assert connection.client(long[wire.MAX_HEAD + 9 : -5]) == []
    assert connection.client(long[-5:] + query("select 1")) == [query("select 1")]


def test_the_answer_is_lost_when_the_statement_was_done() -> None:
    losing = rule("commit", "lose_answer")
    connection = Connection(losing).start()
    sent = bind("") + EXECUTE + SYNC
    connection.client(parse("", "commit") + sent)
    assert connection.server(BOUND) == []
    assert losing.events.count == 0
    assert connection.server(DONE + READY) == [RESET]
    assert losing.events.count == 1


@pytest.mark.parametrize("prepared", [False, True], ids=["simple", "extended"])
def test_the_answer_to_a_copy_is_lost_when_its_data_has_come(prepared: bool) -> None:
    losing = rule("*", "lose_answer", matching="copy")
    connection = Connection(losing).start()
    sql = "copy t from stdin"
    connection.client(parse("", sql) + bind("") + EXECUTE + SYNC if prepared else query(sql))
    waits = wire.message(b"G", b"\0\0\0")
    before = wire.message(b"1", b"") + BOUND if prepared else b""
    assert connection.server(before + waits) == [before + waits]
    data = wire.message(b"d", b"1\n") + wire.message(b"c", b"") + (SYNC if prepared else b"")
    assert connection.client(data) == [data]
    assert losing.events.count == 0
    assert connection.server(DONE + READY) == [RESET]
    assert losing.events.count == 1


def test_answers_to_earlier_statements_of_the_group_arrive() -> None:
    connection = Connection(rule("insert", "lose_answer")).start()
    connection.client(parse("", "select 1") + bind("") + EXECUTE + parse("", "insert") + bind("") + EXECUTE + SYNC)
    assert connection.server(BOUND + ROW + DONE + BOUND + DONE + READY) == [BOUND + ROW + DONE, RESET]


def test_an_answer_that_a_heal_comes_before_is_not_lost() -> None:
    losing = rule("commit", "lose_answer")
    connection = Connection(losing).start()
    connection.client(query("commit"))
    connection.heal(losing)
    assert connection.server(DONE + READY) == [DONE + READY]
    assert losing.events.count == 0


def test_an_answer_of_which_a_part_is_lost_is_lost_in_spite_of_a_heal() -> None:
    losing = rule("commit", "lose_answer")
    connection = Connection(losing).start()
    connection.client(parse("", "commit") + bind("") + EXECUTE + SYNC)
    assert connection.server(BOUND) == []
    connection.heal(losing)
    assert connection.server(DONE + READY) == [RESET]


def test_silence_holds_both_directions_until_the_heal_resets() -> None:
    losing = rule("commit", "lose_answer", close="silence")
    connection = Connection(losing).start()
    connection.client(query("commit"))
    connection.server(DONE + READY)
    up, down = connection.pieces[True][-1], connection.pieces[False][-1]
    assert isinstance(up, Hold)
    assert isinstance(down, Hold)
    assert (up.then, down.then, up.released or down.released) == (RESET, RESET, False)
    connection.heal(losing)
    assert up.released
    assert down.released


@pytest.mark.parametrize(
    ("settings", "passed"),
    [
        ({"rows": 2}, BOUND + ROW * 2),
        ({"rows": 0}, BOUND),
        ({"rows": 9}, BOUND + ROW * 3),
        ({"bytes": 0}, b""),
        ({"bytes": 11}, (BOUND + ROW)[:11]),
        ({"bytes": 999}, BOUND + ROW * 3 + DONE),
    ],
)
@patient
@given(places=PLACES)
def test_an_answer_is_cut_at_its_place(settings: dict[str, int], passed: bytes, places: list[int]) -> None:
    cutting = rule("select", "cut_answer", **settings)
    connection = Connection(cutting).start()
    connection.client(parse("", "select 1") + bind("") + EXECUTE + SYNC)
    for piece in pieces_of(BOUND + ROW * 3 + DONE + READY, places):
        connection.server(piece)
    arrived = connection.pieces[False]
    assert arrived[0] == STARTED + passed
    assert arrived[1] is RESET
    assert cutting.events.count == 1


def test_a_rule_without_an_act_only_counts() -> None:
    watching = rule("insert", "none")
    connection = Connection(watching).start()
    assert connection.client(query("insert into t values ('secret')")) == [query("insert into t values ('secret')")]
    assert watching.counters_json() == {
        "matched": 1,
        "acted": 0,
        "first": 5.0,
        "last": 5.0,
        "shown": ["insert into t values (?)"],
    }


# --- what is matched -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "matched"),
    [
        ({}, 1),
        ({"client": "service:*"}, 1),
        ({"client": "worker:*"}, 0),
        ({"matching": "VALUES"}, 1),
        ({"matching": r"re:insert\s+into\s+t\b"}, 1),
        ({"matching": "re:^into"}, 0),
    ],
)
def test_a_rule_selects_by_text_and_client(settings: dict[str, str], matched: int) -> None:
    watching = rule("insert", "none", **settings)
    Connection(watching).start().client(query("insert into t values (1)"))
    assert watching.matched == matched


def test_the_name_of_a_client_follows_its_session() -> None:
    watching = rule("insert", "none", client="worker")
    connection = Connection(watching).start()
    connection.server(wire.message(b"S", b"application_name\0worker\0"))
    connection.client(query("insert into t values (1)"))
    assert watching.matched == 1


def test_a_portal_that_is_read_in_parts_is_one_statement() -> None:
    watching = rule("select", "none")
    connection = Connection(watching).start()
    connection.client(parse("", "select 1") + bind("") + EXECUTE + FLUSH + EXECUTE + FLUSH + EXECUTE + SYNC)
    assert watching.matched == 1
    assert connection.rules.verbs == {"connect": 1, "select": 1}


@pytest.mark.parametrize(
    "copy", [query("copy t from stdin"), parse("", "copy t from stdin") + bind("") + EXECUTE + SYNC]
)
def test_a_rule_finds_its_answer_behind_a_copy(copy: bytes) -> None:
    connection = Connection(rule("insert", "lose_answer")).start()
    connection.client(copy)
    connection.server(wire.message(b"G", b"\0\0\0"))
    connection.client(wire.message(b"d", b"1\n") + wire.message(b"c", b"") + (SYNC if copy[:1] == b"P" else b""))
    assert connection.server(DONE + READY) == [DONE + READY]
    connection.client(query("insert into t values (1)"))
    assert connection.server(DONE + READY) == [RESET]


@pytest.mark.parametrize("cut_at", [1, SMALL + 1, SMALL + 7])
def test_a_rule_finds_its_answer_behind_a_long_one_that_was_not_followed(cut_at: int) -> None:
    connection = Connection().start()
    connection.client(query("select 1"))
    long = ROW * SMALL + DONE + READY
    for piece in (long[:-cut_at], long[-cut_at:]):
        connection.server(piece)
    connection.rules.active = (rule("insert", "lose_answer"),)
    connection.tap.rules_changed()
    connection.client(query("insert into t values (1)"))
    expected = [RESET] if cut_at > 5 else [DONE + READY]
    assert connection.server(DONE + READY) == expected


@pytest.mark.parametrize(
    ("before", "late"),
    [
        ([query("select 1")], [ROW + DONE, READY]),
        ([query("select 1")], [ROW + DONE + READY]),
        ([query("select 1"), (ROW + DONE + READY,), query("select 2")], [ROW + DONE + READY]),
        ([parse("i", "insert into t values (1)") + FLUSH], [wire.message(b"1", b"")]),
        ([parse("i", "insert into t values (1)") + FLUSH, (wire.message(b"1", b""),)], []),
        ([query("select 1") * 3, ((ROW + DONE + READY) * 3,)], []),
        ([query("select 1") * 3, (ROW + DONE + READY,), (ROW + DONE + READY,), (ROW + DONE + READY,)], []),
        (
            [query("select 1") * 200, ((DONE + READY) * 100,), ((DONE + READY) * 100,), query("select 2")],
            [DONE + READY],
        ),
    ],
)
def test_a_rule_that_comes_between_request_and_answer_finds_the_right_answer(
    before: list[Any], late: list[bytes]
) -> None:
    connection = Connection().start()
    connection.client(query("set x = 1"))  # from here on, the client is followed later
    connection.server(DONE + READY)
    for each in before:
        connection.server(each[0]) if isinstance(each, tuple) else connection.client(each)
    losing = rule("insert", "lose_answer")
    connection.rules.active = (losing,)
    connection.tap.rules_changed()
    for answer in late:
        assert connection.server(answer) == [answer]
    connection.client(bind("i") + EXECUTE + SYNC if before[0][:1] == b"P" else query("insert into t values (1)"))
    assert connection.server(DONE + READY) == [RESET]
    assert losing.events.count == 1


def test_a_rule_that_changes_answers_waits_until_these_can_be_followed() -> None:
    connection = Connection().start()
    connection.client(query("select 1"))
    connection.server(ROW * SMALL)
    losing, watching, ending = (
        rule("insert", "lose_answer"),
        rule("insert", "none"),
        rule("delete", "fatal", code="57P01"),
    )
    connection.rules.active = (losing, watching, ending)
    connection.tap.rules_changed()
    connection.client(query("insert into t values (1)"))
    assert (losing.matched, watching.matched) == (0, 1)
    fatal = wire.error_response("57P01", wire.error_message("57P01"), severity="FATAL")
    assert connection.client(query("delete from t")) == [[], [fatal, CLOSE]]


@pytest.mark.parametrize(
    ("first", "unreadable"),
    [
        (b"\x16\x03\x01", {"encrypted": 1}),
        (b"hello", {"other": 1}),
        (b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\1\0\0\0\2", {}),
    ],
)
def test_a_connection_that_can_not_be_read_is_counted_once(first: bytes, unreadable: dict[str, int]) -> None:
    connection = Connection(rule("select", "reset"))
    assert connection.client(first) == [first]
    assert connection.client(query("select 1")) == [query("select 1")]
    assert connection.rules.unreadable == unreadable
    assert (connection.up, connection.down) == (None, None)


@pytest.mark.parametrize("driver", drivers("postgres"))
@pytest.mark.parametrize("watched", [True, False])
def test_recorded_sessions_are_unchanged_and_their_statements_counted(driver: str, watched: bool) -> None:
    counted: dict[str, int] = {}
    for recorded in load(driver).connections.values():
        connection = Connection(*([rule("insert", "reset", matching="nothing like it")] if watched else []))
        for direction, data in recorded.pieces:
            connection.client(data) if direction == "up" else connection.server(data)
        connection.heal(*connection.rules.active)
        assert b"".join(connection.pieces[True]) == recorded.stream("up")
        assert b"".join(connection.pieces[False]) == recorded.stream("down")
        assert connection.rules.unreadable == {}
        assert watched or not connection.rules.verbs
        for verb, count in connection.rules.verbs.items():
            counted[verb] = counted.get(verb, 0) + count
    assert not watched or {"connect", "begin", "insert", "select"} <= counted.keys()
