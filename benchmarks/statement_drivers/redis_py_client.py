"""Play scenarios by redis-py with its defaults and a time-out: python redis_py_client.py URL [PROTOCOL]."""

from __future__ import annotations

import sys
import urllib.parse

import redis
from answers import TIMEOUT, Answer, Attempts, no_code, serve

PARTS = urllib.parse.urlsplit(sys.argv[1])
OPTIONS = {"protocol": int(sys.argv[2])} if sys.argv[2:] else {}
attempts = Attempts(no_code)


def transaction(client: redis.Redis) -> None:
    client.pipeline(transaction=True).set("acts:a", 1).incr("acts:b").execute()


def play(scenario: str) -> Answer:
    with redis.Redis(
        host=PARTS.hostname, port=PARTS.port, password=PARTS.password, socket_timeout=TIMEOUT, **OPTIONS
    ) as client:
        if scenario != "connect":
            client.ping()
        scenarios = {
            "set": lambda: client.set("acts:a", 1),
            "get": lambda: client.get("acts:text"),
            "multi": lambda: transaction(client),
            "connect": client.ping,
        }
        return {"raised": attempts.call(scenarios[scenario]), "next": attempts.call(client.ping)}


serve("redis", play)
