"""Use Redis by redis-py, with RESP2 and RESP3: python redis_py_client.py URL."""

import asyncio
import contextlib
import socket
import sys
import threading
import urllib.parse

import redis
import redis.asyncio


def values(client: redis.Redis) -> None:
    client.set("story:text", "value", ex=60)
    client.set("story:bulk", "x" * 8000)
    assert len(client.get("story:bulk")) == 8000
    client.get("story:none")
    client.hset("story:hash", mapping={"a": 1, "b": 2})
    client.hgetall("story:hash")
    client.zadd("story:scores", {"a": 1.5, "b": 2.0})
    client.zrange("story:scores", 0, -1, withscores=True)
    client.sadd("story:set", "a", "b")
    client.smembers("story:set")
    client.set(b"story:\r\n\x00", b"\r\n$5\r\n*1\r\n")
    client.get(b"story:\r\n\x00")
    client.config_get("max*")
    list(client.scan_iter("story:*", count=3))
    client.command_count()
    with contextlib.suppress(redis.ResponseError):
        client.lpush("story:text", "wrong type")
    with contextlib.suppress(redis.ResponseError):
        client.execute_command("UNKNOWN", "a")


def batches(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(20):
            pipe.set(f"story:{number}", number)
            pipe.get(f"story:{number}")
        pipe.execute()
    with client.pipeline() as pipe:
        pipe.incr("story:counter").get("story:counter").lrange("story:list", 0, -1).hgetall("story:hash")
        pipe.execute()
    with client.pipeline() as pipe:
        pipe.lpush("story:text", "wrong type").get("story:text")
        pipe.execute(raise_on_error=False)
    with contextlib.suppress(redis.RedisError), client.pipeline() as pipe:  # not queued, so EXECABORT
        pipe.execute_command("SET", "story:text")
        pipe.execute()
    with contextlib.suppress(redis.WatchError), client.pipeline() as pipe:
        pipe.watch("story:counter")
        client.incr("story:counter")
        pipe.multi()
        pipe.incr("story:counter")
        pipe.execute()
    script = client.register_script("return {1, redis.call('GET', KEYS[1]), {2, 'three'}, false}")
    script(keys=["story:text"])
    script(keys=["story:text"])


def streams(client: redis.Redis) -> None:
    with client.pubsub() as pubsub:
        pubsub.subscribe("story", "other")
        pubsub.psubscribe("story*")
        client.publish("story", "payload")
        for _ in range(5):
            pubsub.get_message(timeout=5)
        pubsub.ping()
        pubsub.get_message(timeout=5)
        pubsub.unsubscribe()
    threading.Timer(0.1, lambda: client.rpush("story:queue", "job")).start()
    client.blpop(["story:queue"], timeout=10)
    client.xadd("story:stream", {"field": "value"})
    client.xread({"story:stream": "0"}, count=5)
    with client.monitor() as monitor:
        client.get("story:text")
        monitor.next_command()


def tracking(url: str) -> None:
    client = redis.Redis.from_url(url, protocol=3, single_connection_client=True)
    client.execute_command("CLIENT", "TRACKING", "ON")
    client.get("story:text")
    redis.Redis.from_url(url).set("story:text", "other")
    client.get("story:counter")
    client.close()


async def asynchronous(url: str, protocol: int) -> None:
    async with redis.asyncio.Redis.from_url(url, protocol=protocol) as client:
        await client.set("story:text", "value")
        await asyncio.gather(*(client.get("story:text") for _ in range(4)))
        async with client.pipeline(transaction=True) as pipe:
            await pipe.incr("story:counter").get("story:counter").execute()


def raw(url: str) -> None:
    """Send what no driver sends: inline commands, and commands without replies."""
    parts = urllib.parse.urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"PING\r\nSET story:inline 'a value'\r\n\r\nGET story:inline\r\n")
        connection.sendall(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n*1\r\n$4\r\nPING\r\n")
        connection.sendall(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$2\r\nON\r\n*1\r\n$4\r\nQUIT\r\n")
        while connection.recv(4096):
            pass


def main(url: str) -> None:
    for protocol in (2, 3):
        client = redis.Redis.from_url(url, protocol=protocol, client_name=f"story-{protocol}")
        values(client)
        batches(client)
        streams(client)
        client.close()
        asyncio.run(asynchronous(url, protocol))
    tracking(url)
    raw(url)


main(sys.argv[1])
