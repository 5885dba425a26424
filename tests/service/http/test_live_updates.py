"""Live updates, to clients by websocket and by polling."""

import asyncio
import json

import pytest
import redis
import socketio

from pytest_resilience import eventually
from service.jobs.progress_feed import CHANNEL

TIMEOUT = 1.0  # HEADER_TIMEOUT
MOST = 20  # MAX_CONNECTIONS
MOST_CLIENTS = MOST // 2
HANDSHAKE = "/socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="session")
def resilience_service(service_spec):
    return service_spec(header_timeout=TIMEOUT, body_timeout=TIMEOUT, max_connections=MOST)


@pytest.fixture
def publish(resilience):
    """Return a function that publishes changes as another instance does."""
    client = redis.Redis.from_url(resilience.redis.direct_url)

    def publish(*changes, text=None):
        message = json.dumps({"from": "another", "changes": changes, "request": False}) if text is None else text
        eventually(lambda: client.publish(CHANNEL, message) >= 1, within=5)

    with client:
        yield publish


def change(number, **fields):
    return {"id": number, "sent": 1, "total": 2, "status": "sending", **fields}


def run(service, scenario, *, transports=None):
    """Connect a client, run a coroutine function with it and its queue of events, and disconnect."""

    async def main():
        client, events = socketio.AsyncClient(reconnection=False), asyncio.Queue()

        async def on_progress(data):
            await events.put(data)

        client.on("campaign:progress", on_progress)
        await client.connect(service.url, transports=transports)
        try:
            async with asyncio.timeout(10):
                return await scenario(client, events)
        finally:
            await client.disconnect()

    return asyncio.run(main())


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], None])
def test_a_client_receives_the_progress_that_another_instance_announces(service, publish, transports):
    async def scenario(client, events):
        await asyncio.to_thread(publish, change(7), change(8, status="sent"))
        return [await events.get(), await events.get()]

    assert run(service, scenario, transports=transports) == [change(7), change(8, status="sent")]


def test_a_message_of_another_form_is_ignored(service, publish):
    async def scenario(client, events):
        for text in ("", "[]", "{}", '{"from": "x", "request": false, "changes": [{}]}', '{"from": "x", "changes": 5}'):
            await asyncio.to_thread(publish, text=text)
        await asyncio.to_thread(publish, change(7))
        return await events.get()

    assert run(service, scenario) == change(7)


def test_a_client_can_request_the_state_of_a_campaign(service, campaign):
    async def scenario(client, events):
        requests = ({"id": campaign["id"]}, {"id": 2**62}, {"id": "7"}, {"id": True}, {"id": 0}, {}, None, [7], "7")
        return [await client.call("campaign:state", each, timeout=5) for each in requests]

    found, missing, *invalid = run(service, scenario)
    assert (found["id"], found["sent"], found["status"]) == (campaign["id"], 0, "draft")
    assert missing == {"error": "There is no such campaign."}
    assert [list(answer) for answer in invalid] == [["error"]] * 7
