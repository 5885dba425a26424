"""The promises of the newsletter while RabbitMQ blocks, rejects, closes or is killed."""

from __future__ import annotations

import time

import pytest

from newsletter import QUEUE, TIMEOUT, NotAccepted, Publisher, Worker
from pytest_resilience import RabbitmqTarget, Resilience, eventually

SLACK = 5.0  # seconds for everything but the time-outs, on a busy machine


def test_letters_are_sent(publisher: Publisher, worker: Worker, sent: list[str]) -> None:
    publisher.publish("spring")
    publisher.publish("summer")
    assert worker.run() == 2
    assert sent == ["spring", "summer"]


def test_each_test_begins_without_letters(worker: Worker) -> None:
    assert worker.run() == 0


@pytest.mark.parametrize("alarm", ["memory_alarm", "disk_alarm"])
def test_a_blocked_publisher_gives_up_in_time(
    rabbitmq: RabbitmqTarget, publisher: Publisher, worker: Worker, alarm: str
) -> None:
    publisher.publish("spring")
    begin = time.monotonic()
    with getattr(rabbitmq, alarm)():
        with pytest.raises(NotAccepted, match="ConnectionBlockedTimeout"):
            publisher.publish("summer")
        assert time.monotonic() - begin < 2 * TIMEOUT + SLACK
        assert worker.run() >= 1, "letters are sent meanwhile"
    publisher.publish("autumn")


def test_a_letter_for_a_full_queue_is_not_accepted(
    rabbitmq: RabbitmqTarget, publisher: Publisher, worker: Worker, sent: list[str]
) -> None:
    publisher.publish("spring")
    with rabbitmq.queue_full(QUEUE), pytest.raises(NotAccepted, match="NackError"):
        publisher.publish("summer")
    publisher.publish("autumn")
    assert worker.run() == 2
    assert sent == ["spring", "autumn"]


def test_closed_connections_are_replaced(
    rabbitmq: RabbitmqTarget, publisher: Publisher, worker: Worker, sent: list[str]
) -> None:
    publisher.publish("spring")
    assert worker.run() == 1
    rabbitmq.close_connections()
    publisher.publish("summer")
    eventually(lambda: worker.run() and sent[-1] == "summer", within=10)


def test_accepted_letters_outlive_a_restart_of_the_broker(
    rabbitmq: RabbitmqTarget, publisher: Publisher, worker: Worker, sent: list[str]
) -> None:
    publisher.publish("spring")
    rabbitmq.restart()
    publisher.publish("summer")
    eventually(lambda: worker.run() and sent[-1] == "summer", within=10)
    assert sent[0] == "spring"


def test_a_killed_broker_is_used_again(
    rabbitmq: RabbitmqTarget, publisher: Publisher, worker: Worker, sent: list[str]
) -> None:
    publisher.publish("spring")
    with rabbitmq.kill(), pytest.raises(NotAccepted):
        publisher.publish("summer")
    publisher.publish("autumn")
    eventually(lambda: worker.run() and sent[-1] == "autumn", within=10)


@pytest.mark.fault("rabbitmq.blackhole")
def test_a_silent_broker_costs_the_time_outs_only(resilience: Resilience, publisher: Publisher) -> None:
    begin = time.monotonic()
    with pytest.raises(NotAccepted):
        publisher.publish("spring")
    assert time.monotonic() - begin < 4 * TIMEOUT + SLACK
    resilience.strikes[0].heal()
    publisher.publish("summer")
