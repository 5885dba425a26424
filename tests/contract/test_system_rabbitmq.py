"""RabbitMQ in a container: its faults, and the state in which each test begins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika import exceptions as errors

from pytest_resilience import RabbitmqTarget, Resilience, SetupError, Stack
from pytest_resilience.systems.rabbitmq.control import ControlError
from pytest_resilience.systems.rabbitmq.program import RABBITMQ_IMAGE
from tests.support.systems import assert_one_fails_without_its_password, docker_stack
from tests.support.waiting import until


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    yield from docker_stack(RABBITMQ_IMAGE)


@pytest.fixture
def rabbitmq(resilience: Resilience) -> RabbitmqTarget:
    return resilience.add_rabbitmq("rabbitmq")


Connect = Callable[..., Any]


@pytest.fixture
def connect(rabbitmq: RabbitmqTarget) -> Iterator[Connect]:
    """Open connections of a client through the proxy, each with one channel that has confirms, and return the channel."""
    with contextlib.ExitStack() as opened:

        def connect(blocked_timeout: float = 5.0) -> Any:
            parameters = pika.URLParameters(rabbitmq.url)
            parameters.socket_timeout = parameters.stack_timeout = 5
            parameters.blocked_connection_timeout = blocked_timeout
            connection = pika.BlockingConnection(parameters)
            opened.callback(lambda: connection.is_open and connection.close())
            channel = connection.channel()
            channel.confirm_delivery()
            return channel

        yield connect


def next_test(stack: Stack) -> None:
    stack.prepare_test(None)


# Faults


@pytest.mark.parametrize("alarm", ["memory_alarm", "disk_alarm"])
def test_an_alarm_blocks_who_publishes_and_nobody_else(rabbitmq: RabbitmqTarget, connect: Connect, alarm: str) -> None:
    publisher, consumer = connect(blocked_timeout=0.2), connect()
    publisher.queue_declare("jobs")
    publisher.basic_publish("", "jobs", b"1")
    with getattr(rabbitmq, alarm)() as strike:
        with pytest.raises(errors.ConnectionBlockedTimeout):
            publisher.basic_publish("", "jobs", b"2")
        assert consumer.basic_get("jobs", auto_ack=True)[2] == b"1"
    assert (strike.receipt.touched, strike.receipt.unit) == (1, "connections"), "also after the connection has ended"
    connect().basic_publish("", "jobs", b"3")


def test_an_alarm_without_a_publisher_is_vacuous(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    connect()
    with rabbitmq.memory_alarm() as strike:
        pass
    assert strike.vacuous


def test_an_alarm_lasts_until_the_last_strike_heals(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    publisher = connect(blocked_timeout=0.2)
    first, second = rabbitmq.memory_alarm(), rabbitmq.memory_alarm()
    first.heal()
    with pytest.raises(errors.ConnectionBlockedTimeout):
        publisher.basic_publish("", "", b"1")
    second.heal()
    with pytest.raises(errors.AMQPError):
        connect().basic_publish("", "missing", b"2", mandatory=True)


def test_a_full_queue_rejects_and_counts_messages_and_keeps_what_it_has(
    rabbitmq: RabbitmqTarget, connect: Connect
) -> None:
    channel = connect()
    channel.queue_declare("jobs.[a]")
    channel.queue_declare("jobs.a")
    channel.basic_publish("", "jobs.[a]", b"1")
    with rabbitmq.queue_full("jobs.[a]") as strike:
        for _ in range(2):
            with pytest.raises(errors.NackError):
                channel.basic_publish("", "jobs.[a]", b"2")
        channel.basic_publish("", "jobs.a", b"3")
        assert channel.basic_get("jobs.[a]", auto_ack=True)[2] == b"1"
        with pytest.raises(errors.NackError):
            channel.basic_publish("", "jobs.[a]", b"2")
    assert (strike.receipt.touched, strike.receipt.unit) == (3, "messages")
    channel.basic_publish("", "jobs.[a]", b"4")
    assert channel.basic_get("jobs.[a]", auto_ack=True)[2] == b"4"


def test_a_full_queue_without_a_message_is_vacuous(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    connect().queue_declare("jobs")
    with rabbitmq.queue_full("jobs") as strike:
        pass
    assert strike.vacuous


def test_a_full_queue_keeps_the_policy_that_it_had(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    channel = connect()
    channel.queue_declare("jobs")
    policy = 'ok = rabbit_policy:set(<<"/">>, <<"mine">>, <<"jobs">>, [{<<"message-ttl">>, 60000}], 1, <<"queues">>, <<"me">>), <<>>'
    rabbitmq.admin.evaluate(policy)
    effective = (
        '{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"jobs">>)),'
        'io_lib:format("~p", [proplists:get_value(definition, amqqueue:get_policy(Q))])'
    )
    with rabbitmq.queue_full("jobs"):
        assert "message-ttl" in rabbitmq.admin.evaluate(effective)
    assert "max-length" not in rabbitmq.admin.evaluate(effective)


def test_a_queue_that_is_missing_is_an_error_with_the_others(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    connect().queue_declare("jobs")
    with pytest.raises(
        SetupError, match=r"rabbitmq.queue_full\(queue='job'\): no such queue; the virtual host '/' has: jobs"
    ):
        rabbitmq.queue_full("job")
    with pytest.raises(SetupError, match="the virtual host 'shop' has: none"):
        rabbitmq.queue_full("jobs", vhost="shop")


def test_the_broker_closes_all_connections(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    channels = [connect(), connect()]
    assert rabbitmq.close_connections().receipt.touched == 2
    for channel in channels:
        with pytest.raises(errors.ConnectionClosedByBroker, match="320"):
            channel.queue_declare("jobs")


def test_a_killed_broker_keeps_durable_messages(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    channel = connect()
    channel.queue_declare("jobs", durable=True)
    # RabbitMQ 3 (Mnesia) can lose a queue that was declared just before the kill: 1 in 20 on a busy machine.
    rabbitmq.admin.evaluate("dumped = mnesia:dump_log(), <<>>")
    channel.basic_publish("", "jobs", b"1", pika.BasicProperties(delivery_mode=2))
    with rabbitmq.kill() as strike:
        with pytest.raises(errors.AMQPError):
            channel.basic_get("jobs")
        with pytest.raises(errors.AMQPError):
            connect()
    assert strike.receipt.touched
    assert connect().basic_get("jobs", auto_ack=True)[2] == b"1"


def test_a_paused_broker_goes_on_after_the_heal(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    channel = connect()
    channel.queue_declare("jobs")
    with rabbitmq.pause() as strike:
        pass
    assert strike.receipt.touched
    channel.basic_publish("", "jobs", b"1")


def test_an_alarm_ends_with_a_restart_of_the_broker(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    with rabbitmq.memory_alarm() as strike:
        rabbitmq.restart()
    assert strike.receipt.touched is None, "those that were blocked before are not known any more"
    connect().basic_publish("", "", b"1")


def test_faults_of_the_network_strike_what_comes_through_the_proxy(rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    channel = connect()
    with rabbitmq.reset() as strike, pytest.raises(errors.AMQPError):
        channel.queue_declare("jobs")
    assert (strike.receipt.touched, strike.receipt.unit) == (1, "connections")


# The state in which each test begins


def test_queues_exchanges_bindings_and_virtual_hosts_of_a_test_are_gone(
    stack: Stack, rabbitmq: RabbitmqTarget, connect: Connect
) -> None:
    before = rabbitmq.admin._definitions
    channel = connect()
    channel.queue_declare("jobs", durable=True)
    channel.queue_declare("own", exclusive=True)
    channel.exchange_declare("events", "topic")
    channel.queue_bind("jobs", "events", "#")
    channel.basic_publish("events", "x", b"1")
    rabbitmq.admin.evaluate('rabbit_vhost:add(<<"shop">>, <<"me">>), <<>>')
    rabbitmq.admin.evaluate('rabbit_auth_backend_internal:add_user(<<"guest2">>, <<"x">>, <<"me">>), <<>>')
    next_test(stack)
    for declare in (
        lambda channel: channel.queue_declare("jobs", passive=True),
        lambda channel: channel.exchange_declare("events", passive=True),
    ):
        with pytest.raises(errors.ChannelClosedByBroker, match="404"):
            declare(connect())
    assert rabbitmq.admin.evaluate("integer_to_binary(length(rabbit_amqqueue:list()))") == "0"
    stack._tcp.take_baseline()
    assert rabbitmq.admin._definitions == before


def test_queues_of_the_baseline_come_back_empty(stack: Stack, rabbitmq: RabbitmqTarget, connect: Connect) -> None:
    channel = connect()
    channel.exchange_declare("events", "fanout", durable=True)
    channel.queue_declare("jobs", durable=True)
    channel.queue_bind("jobs", "events")
    rabbitmq.admin.take_baseline()
    try:
        for _ in range(2):
            channel.basic_publish("events", "", b"1")
            assert until(lambda: channel.queue_declare("jobs", passive=True).method.message_count) == 1
            channel.queue_delete("jobs")
            next_test(stack)
            assert channel.queue_declare("jobs", passive=True).method.message_count == 0
    finally:
        channel.queue_delete("jobs")
        channel.exchange_delete("events")
        rabbitmq.admin.take_baseline()


def test_limits_that_a_test_has_left_are_those_of_the_baseline(
    stack: Stack, rabbitmq: RabbitmqTarget, connect: Connect
) -> None:
    rabbitmq.admin.set_limit("memory", "0.0")
    next_test(stack)
    connect(blocked_timeout=0.2).basic_publish("", "", b"1")


def test_a_fault_of_the_session_lasts_in_the_next_test(
    stack: Stack, rabbitmq: RabbitmqTarget, connect: Connect
) -> None:
    with stack.add_rabbitmq("rabbitmq").memory_alarm():
        next_test(stack)
        with pytest.raises(errors.ConnectionBlockedTimeout):
            connect(blocked_timeout=0.2).basic_publish("", "", b"1")


def test_a_broker_that_a_test_has_left_dead_starts_again(
    stack: Stack, rabbitmq: RabbitmqTarget, connect: Connect
) -> None:
    rabbitmq.server.kill()
    next_test(stack)
    connect()


# The control port


def test_an_expression_that_fails_is_an_error_with_its_reason(rabbitmq: RabbitmqTarget) -> None:
    with pytest.raises(ControlError, match="badarith"):
        rabbitmq.admin.evaluate("1 / 0")


def test_the_control_port_demands_the_token(rabbitmq: RabbitmqTarget) -> None:
    from pytest_resilience.systems.rabbitmq.control import Control

    with pytest.raises(ConnectionError, match="without an answer"):
        Control().evaluate(rabbitmq.server.addresses[1], "<<>>")


# In a project


def test_a_project_strikes_it_by_attribute_and_marker(pytester: pytest.Pytester, stack: Stack) -> None:
    pytester.makeconftest(
        """
from pytest_resilience import factories
broker = factories.rabbitmq("broker")
"""
    )
    pytester.makepyfile(
        """
import pika, pytest

def test_attribute(resilience):
    with resilience.broker.disk_alarm():
        pass

@pytest.mark.fault("broker.memory_alarm")
def test_marker(resilience):
    connection = pika.BlockingConnection(pika.URLParameters(resilience.broker.url + "?blocked_connection_timeout=0.2"))
    channel = connection.channel()
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.ConnectionBlockedTimeout):
        channel.basic_publish("", "jobs", b"1")

def test_password(broker):
    assert not broker, broker.url
"""
    )
    assert_one_fails_without_its_password(pytester, "broker", "amqp", "disk_alarm")
