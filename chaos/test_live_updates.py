"""Live updates reach the clients of all instances, and no client costs another one or the service anything."""

from __future__ import annotations

import json
import re
import signal
import time
from contextlib import ExitStack, suppress

import pytest

import healthy
from instances import another_instance, describe_service
from live_clients import LiveClient, change, live_client, other_instance, raw_websocket
from pytest_resilience import NeverHappened, Resilience, Service, Stack, eventually
from workload import (
    assert_unavailable,
    create,
    eventually_or_fail,
    postgres_session,
    redis_commands,
    sql,
    timed,
    wait_until_ready,
    wait_until_redis_is,
    wait_until_unready,
)

CONTACTS = 50
BATCH = 10  # recipients, so that a campaign has several events
MAX_CONNECTIONS = 24
MOST_CLIENTS = MAX_CONNECTIONS // 2
MIB = 2**20
PADDING = "x" * 4000  # of the status, so that few events fill the buffers of a client
FLOOD = 2500  # events of 4 KB: 10 MB, where the kernel and the queue of a client hold less than 5
MAX_GROWTH_MIB = 8
MOST_WAITING = 200  # packets that may wait for a client
IN_ONE_MESSAGE = 50  # changes that one instance publishes together; a client gets them before the next ones
POLLED = 15  # events of one poll; the library's client refuses more than 16 packets
HANDSHAKE = "/socket.io/?EIO=4&transport=polling"
NOT_RECEIVED = "messages of other instances are not received:"
RECEIVED_AGAIN = "RESOLVED: messages of other instances are received again"
MAX_MESSAGE = 16 << 10  # bytes to the service
ELSEWHERE = "https://elsewhere.example"  # the origin of a page


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return describe_service(resilience_stack, MAX_CONNECTIONS=str(MAX_CONNECTIONS), SEND_BATCH=str(BATCH))


def add_contacts(resilience: Resilience) -> int:
    """Insert contacts, and return the number of all contacts."""
    query = (
        "insert into contacts (email) select i || '@example.com' from generate_series(1, $1) i on conflict do nothing"
    )
    sql(resilience, query, CONTACTS)
    count: int = sql(resilience, "select count(*) from contacts")[0][0]
    return count


def is_complete(client: LiveClient, number: int) -> bool:
    """True if a client has the event of the end of a campaign."""
    return any(event["status"] == "sent" for event in client.progress(number))


def test_progress_reaches_the_clients_of_all_instances(resilience: Resilience) -> None:
    total = add_contacts(resilience)
    number = create(resilience)["id"]
    with (
        another_instance(resilience, preloaded=False, SEND_BATCH=str(BATCH)) as instance,
        live_client(instance.client.base_url) as there,
        other_instance(resilience) as other,
    ):

        def all_listen(*clients: LiveClient) -> bool:
            other.publish(change(number + 1))
            return all(client.events for client in clients)

        with live_client(resilience.service.url) as here:
            eventually(lambda: all_listen(here, there), within=5.0)
            assert resilience.service.post(f"/api/campaigns/{number}/send").status_code == 202
            for client, place in ((here, "the instance of the request"), (there, "another instance")):
                message = f"a campaign is sent, and a client of {place} does not learn that"
                eventually_or_fail(lambda client=client: is_complete(client, number), within=5.0, message=message)
        last = change(number, sent=total, total=total, status="sent")
        for events in (here.progress(number), there.progress(number)):
            assert events[-1] == last, f"a campaign is sent, and the last event is {events[-1]}"
            wrong = [event for event in events if event["total"] != total]
            assert not wrong, f"a campaign is sent to {total} contacts, and events have another total: {wrong}"
        with suppress(NeverHappened):  # the instance need not stop to listen
            eventually(lambda: other.listeners() == 1, within=2.0)
        with live_client(resilience.service.url) as later:
            message = "all clients of an instance have left, and the next one gets no events of other instances"
            eventually_or_fail(lambda: all_listen(later), within=5.0, message=message)


def test_without_redis_an_instance_serves_its_own_clients_and_the_others_follow_later(resilience: Resilience) -> None:
    total = add_contacts(resilience)
    number = create(resilience)["id"]
    last = change(number, sent=total, total=total, status="sent")
    with live_client(resilience.service.url) as here, other_instance(resilience) as other:
        other.publish(change(number + 1))
        with postgres_session(resilience, "another application", "begin", "lock table deliveries in share mode"):
            assert resilience.service.post(f"/api/campaigns/{number}/send").status_code == 202
            eventually(lambda: here.progress(number), within=5.0)
            redis_away = resilience.redis.refuse()
            wait_until_redis_is(resilience.service, "down")
        message = "Redis is away, and a client does not get the progress of its own instance"
        eventually_or_fail(lambda: last in here.progress(number), within=5.0, message=message)
        other.listen()
        redis_away.heal()
        message = "Redis is back, and other instances do not get the progress that they missed"
        eventually_or_fail(lambda: last in other.received(), within=5.0, message=message)


def test_events_of_other_instances_come_again_after_an_outage_of_redis(resilience: Resilience) -> None:
    missed = create(resilience)["id"]
    sql(resilience, "update campaigns set status = 'sending', version = version + 1 where id = $1", missed)
    with live_client(resilience.service.url) as client, other_instance(resilience) as other:
        other.publish(change(missed))
        eventually(lambda: client.progress(missed), within=5.0)
        with resilience.redis.refuse():
            wait_until_redis_is(resilience.service, "down")
            # Another instance, which has its Redis, ends the campaign. This one does not receive that.
            sql(resilience, "update campaigns set status = 'sent', version = version + 1 where id = $1", missed)

        def receives() -> bool:
            other.publish(change(missed + 1))
            return bool(client.progress(missed + 1))

        message = "Redis is back, and events of other instances do not come"
        eventually_or_fail(receives, within=healthy.REDIS_BACK_WITHIN + healthy.SLACK, message=message)
        message = "a campaign was sent while Redis was away, and afterwards a client does not get its newest progress"
        eventually_or_fail(lambda: is_complete(client, missed), within=healthy.REDIS_BACK_WITHIN, message=message)
        assert NOT_RECEIVED not in resilience.service.log, (
            "Redis was down, and the log reports that it refuses a subscription"
        )


def test_a_refused_subscription_is_logged_once_and_tried_again(resilience: Resilience) -> None:
    """Redis has one user, who loses and gets the right to subscribe."""
    with (
        redis_commands(resilience) as command,
        live_client(resilience.service.url) as client,
        other_instance(resilience) as other,
    ):
        other.publish(change(1))
        eventually(lambda: client.progress(1), within=5.0)

        def lines() -> list[int]:
            """Return the number of lines for begin and end in the log."""
            return [resilience.service.log.count(line) for line in (NOT_RECEIVED, RECEIVED_AGAIN)]

        for episode in (1, 2):
            command("ACL", "SETUSER", "default", "resetchannels")
            command("CLIENT", "KILL", "TYPE", "pubsub")
            message = f"Redis refuses a subscription (episode {episode}), and no line of the log reports that"
            eventually_or_fail(lambda episode=episode: lines()[0] >= episode, within=5.0, message=message)
            command("ACL", "SETUSER", "default", "allchannels")
            message = f"Redis allows a subscription again (episode {episode}), and no line of the log reports that messages are received"
            eventually_or_fail(lambda episode=episode: lines()[1] >= episode, within=5.0, message=message)
            other.publish(change(1 + episode))
            message = "Redis allows a subscription again, and events of other instances do not come"
            eventually_or_fail(lambda episode=episode: client.progress(1 + episode), within=5.0, message=message)
            reason = resilience.service.log.rpartition(NOT_RECEIVED)[2].split("\n")[0]
            assert "NoPermissionError: " in reason, (
                f"Redis refuses a subscription, and the log names the reason {reason!r}"
            )
            assert lines() == [episode, episode], (
                f"a subscription was refused in {episode} episodes, and the log has {lines()} lines for begin and end"
            )


def test_a_client_that_reconnects_gets_the_present_state(resilience: Resilience) -> None:
    total = add_contacts(resilience)
    number = create(resilience)["id"]
    with live_client(resilience.service.url, reconnection=True) as client:
        state, expected = client.state(number), change(number, sent=0, total=total, status="draft")
        assert state == expected, f"the state of a campaign before it is sent is {state}"
        resilience.service.kill().heal()
        wait_until_ready(resilience.service)
        assert resilience.service.post(f"/api/campaigns/{number}/send").status_code == 202
        message = "the service is back, and its client does not connect again"
        eventually_or_fail(lambda: client.connected, within=5.0, message=message)
        sent = change(number, sent=total, total=total, status="sent")
        message = "a campaign was sent while its client was away, and the state has another result"
        eventually_or_fail(lambda: client.state(number) == sent, within=5.0, message=message)
        lines = re.findall(rf"(\d+) messages of campaign-{number}-0", resilience.service.log)
        assert sum(map(int, lines)) == total, (
            f"without GATEWAY_URL {total} messages are counted in the log, not {lines}"
        )
        for wrong in (number + 1000, 0, "1", None):
            answer = client.state(wrong)
            assert list(answer) == ["error"], f"a request for the state of campaign {wrong!r} is answered with {answer}"
        partial = create(resilience)["id"]
        insert = "insert into deliveries (campaign_id, contact_id, step) values ($1, 1, 0), ($1, 2, 0), ($1, 1, 1)"
        sql(resilience, insert, partial)
        state = client.state(partial)["sent"]
        assert state == 1, f"two contacts have the first step and one has the second, and the state has {state} sent"
        unknown = create(resilience)["id"]
        with resilience.postgres.refuse():
            wait_until_unready(resilience.service)
            answer = client.state(unknown)
            assert list(answer) == ["error"], f"Postgres is down, and a request for a state is answered with {answer}"
            answer = client.state(number)
            assert answer == sent, f"Postgres is down, and the last known progress is {answer}, not {sent}"


def test_a_slow_client_costs_other_clients_nothing_and_is_disconnected(resilience: Resilience) -> None:
    url = resilience.service.url
    with live_client(url) as good, raw_websocket(url, receive_buffer=4096) as slow, other_instance(resilience) as other:
        eventually(lambda: good.connected, within=2.0)
        other.publish(change(1))
        eventually(lambda: good.progress(1), within=5.0)
        before = resilience.service.process.memory_info().rss
        message = "a client that reads its events does not get them while another client does not read"
        for number in range(0, FLOOD, 10):
            other.publish(*(change(2, sent=number + each, status=PADDING) for each in range(10)))
            # On a busy machine a client that reads may fall behind too, and with MOST_WAITING packets it is slow.
            behind = number + 10 - MOST_WAITING // 2
            eventually_or_fail(lambda behind=behind: len(good.progress(2)) >= behind, within=10.0, message=message)
        other.publish(change(3))
        eventually_or_fail(lambda: good.progress(3), within=10.0, message=message)
        grown = (resilience.service.process.memory_info().rss - before) / MIB
        received = 0
        with suppress(TimeoutError):  # nothing comes, and the service has not closed the connection
            for _ in slow.read():
                received += 1
    assert len(good.progress(2)) == FLOOD, f"a client that reads gets {len(good.progress(2))} of {FLOOD} events"
    assert grown < MAX_GROWTH_MIB, f"the events for a client that does not read take {grown:.1f} MiB of the service"
    assert slow.closed is not None, f"a client that does not read stays connected, and {received} events wait for it"


def polling_session(resilience: Resilience) -> str:
    """Open a session that polls, with nothing that waits for its client, and return its path."""
    service = resilience.service
    path = f"{HANDSHAKE}&sid={json.loads(service.get(HANDSHAKE).text[1:])['sid']}"
    assert service.post(path, content=b"40").status_code == 200, (
        "a session cannot connect to the namespace of Socket.IO"
    )
    assert service.get(path).text.startswith("40"), "a session that connects gets no acknowledgement"
    return path


def test_200_packets_wait_for_a_client_and_not_one_more(resilience: Resilience) -> None:
    """Two clients do not poll for a while. The one that reads shows how many events the service has handled."""
    with live_client(resilience.service.url, ["websocket"]) as reader, other_instance(resilience) as other:
        other.publish(change(1))
        eventually(lambda: reader.progress(1), within=5.0)
        patient, late = (polling_session(resilience) for _ in range(2))
        for count in (*range(IN_ONE_MESSAGE, MOST_WAITING + 1, IN_ONE_MESSAGE), MOST_WAITING + 1):
            before = len(reader.progress(2))
            other.publish(*[change(2)] * (count - before))
            eventually(lambda count=count: len(reader.progress(2)) == count, within=5.0)
            if count == MOST_WAITING:
                reply = resilience.service.get(patient)
                received = reply.text.count("campaign:progress")
                assert received == count, (
                    f"{count} packets waited for a client, as many as may, and it gets {reply.status_code} with {received}"
                )
        received = resilience.service.get(late).text.count("campaign:progress")
        assert received == 0, f"{count} packets waited for a client, {MOST_WAITING} may, and it gets {received}"
        assert resilience.service.get(patient).text.count("campaign:progress") == 1
        with suppress(NeverHappened):  # no instance listens
            other.publish(change(3))
        message = "one client was disconnected, and another one gets no more events of other instances"
        eventually_or_fail(lambda: reader.progress(3), within=2.0, message=message)


def test_clients_of_live_updates_do_not_take_the_connections_of_requests(resilience: Resilience) -> None:
    with ExitStack() as clients:
        opened = [clients.enter_context(raw_websocket(resilience.service.url)) for _ in range(MAX_CONNECTIONS - 4)]
        accepted = [client for client in opened if client.refused is None]
        assert len(accepted) == MOST_CLIENTS, f"of {MAX_CONNECTIONS} connections live updates get {len(accepted)}"
        refused = {client.refused for client in opened} - {None}
        assert refused == {503}, f"clients too many get {refused}"
        assert_unavailable([timed(lambda: resilience.service.get(HANDSHAKE))])
        create(resilience)
        counted = connected_clients(resilience)
        assert counted == MOST_CLIENTS, f"{MOST_CLIENTS} clients are connected, and the metrics count {counted}"
    message = "all clients have left, and the metrics count some as connected"
    eventually_or_fail(lambda: connected_clients(resilience) == 0, within=2.0, message=message)


def connected_clients(resilience: Resilience) -> int:
    """Return the number of clients that the metrics report."""
    found = re.search(r"^service_live_update_clients (\S+)$", resilience.service.get("/metrics").text, re.MULTILINE)
    assert found is not None, "there is no metric of the clients of live updates"
    return int(float(found[1]))


def test_a_page_of_another_origin_cannot_connect(resilience: Resilience) -> None:
    url = resilience.service.url
    status = resilience.service.get(HANDSHAKE, headers={"Origin": ELSEWHERE}).status_code
    assert status in (400, 403), f"a page of another origin that polls gets {status}"
    with raw_websocket(url, origin=ELSEWHERE) as websocket:
        assert websocket.refused in (400, 403), (
            f"a websocket of a page of another origin gets {websocket.refused or 101}"
        )
    status = resilience.service.get(HANDSHAKE, headers={"Origin": url}).status_code
    assert status == 200, f"a page of the service's own origin that polls gets {status}"
    with raw_websocket(url, origin=url) as websocket:
        assert websocket.refused is None, f"a websocket of a page of the same origin gets {websocket.refused}"


def test_a_message_may_have_16_kib_and_not_a_byte_more(resilience: Resilience) -> None:
    """An event with an acknowledgement, so that an accepted message has an answer."""
    for size in (MAX_MESSAGE, MAX_MESSAGE + 1):
        head, tail = '421["campaign:state",{"id":0,"more":"', '"}]'
        message = head + "x" * (size - len(head) - len(tail)) + tail
        with raw_websocket(resilience.service.url) as websocket:
            websocket.send(message)
            answers = (packet for packet in websocket.read() if packet.startswith("431"))
            accepted = next(answers, None) is not None
            assert accepted == (size <= MAX_MESSAGE), (
                f"a message of {size} bytes to the service is {'accepted' if accepted else 'refused'}: 16 KiB are allowed"
            )
        session = re.search(r'"sid":"([^"]+)"', resilience.service.get(HANDSHAKE).text)
        assert session, "a client that polls gets no session"
        poll = f"{HANDSHAKE}&sid={session[1]}"
        codes = [resilience.service.post(poll, content=packet).status_code for packet in ("40", message)]
        assert codes == [200, 200 if size <= MAX_MESSAGE else 400], (
            f"a client that polls connects and sends a message of {size} bytes, and gets {codes}: 16 KiB are allowed"
        )


def test_no_websocket_is_accepted_while_memory_is_short(resilience: Resilience) -> None:
    with another_instance(resilience, ready=False, MEMORY_LIMIT_MB="10", MEMORY_CHECK_INTERVAL="0.05") as instance:
        line = "[Memory] refusing work that is not essential"
        eventually(lambda: line in instance.log, within=healthy.GUARD_WITHIN)
        with raw_websocket(instance.client.base_url) as websocket:
            assert websocket.refused == 503, f"memory is short, and a websocket gets {websocket.refused or 'accepted'}"
        assert_unavailable([timed(lambda: instance.client.get(HANDSHAKE))])


def test_a_shutdown_closes_websockets_with_1012_and_ends_polls_at_once(resilience: Resilience) -> None:
    with another_instance(resilience) as instance, other_instance(resilience) as other, ExitStack() as clients:
        url = instance.client.base_url
        polling = clients.enter_context(live_client(url, ["polling"]))
        clients.enter_context(raw_websocket(url, receive_buffer=4096))  # does not read

        def polling_receives() -> bool:
            other.publish(change(1))
            return bool(polling.progress(1))

        eventually(polling_receives, within=5.0)
        for batch in range(1, 11):  # 6 MB, more than the kernel keeps for a client
            other.publish(*(change(2, status=10 * PADDING) for _ in range(POLLED)))
            eventually(lambda batch=batch: len(polling.progress(2)) == batch * POLLED, within=5.0)
        websocket = clients.enter_context(raw_websocket(url))
        signalled = time.monotonic()
        instance.process.signal(signal.SIGTERM)
        within = healthy.SHUTDOWN_GRACE / 4 + 1.0  # seconds: the notice to load balancers, and a moment to close
        message = "clients of live updates delay the end of the service"
        eventually_or_fail(instance.has_exited, within=within, message=message)
        took = time.monotonic() - signalled
        for _ in websocket.read():
            pass
    assert websocket.closed == 1012, f"a websocket is closed with {websocket.closed}, not 1012, after {took:.1f} s"
    assert instance.process.exit_code() == 0, f"the service ends with {instance.process.exit_code()}"
