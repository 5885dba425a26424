"""The keys among the words of a command of Redis.

The places are those of the reply to COMMAND (https://redis.io/docs/latest/commands/command/), for the commands whose only key is not the
first argument. Options that name another key, such as STORE of SORT, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

Words: TypeAlias = Sequence[bytes]

_NONE = (
    "acl auth bgrewriteaof bgsave client cluster command config dbsize debug discard echo exec failover flushall flushdb function "
    "hello info lastsave latency lolwut module monitor multi ping psubscribe psync publish pubsub punsubscribe quit randomkey readonly "
    "readwrite replconf replicaof reset role save scan script select shutdown slaveof slowlog subscribe swapdb sync time unsubscribe "
    "unwatch wait waitaof"
)
_ALL = "del exists mget pfcount pfmerge sdiff sdiffstore sinter sinterstore ssubscribe sunion sunionstore sunsubscribe touch unlink watch"
_TWO = "blmove brpoplpush copy geosearchstore lcs lmove rename renamenx rpoplpush smove zrangestore"
_EVERY_SECOND = "mset msetnx"
_ALL_BUT_LAST = "blpop brpop bzpopmax bzpopmin"
_COUNTED_FIRST = "lmpop sintercard zdiff zinter zintercard zmpop zunion"
_COUNTED_SECOND = "blmpop bzmpop eval eval_ro evalsha evalsha_ro fcall fcall_ro"
_STORED_AND_COUNTED = "zdiffstore zinterstore zunionstore"
_SECOND = "memory object xgroup xinfo"


def keys_of(name: str, words: Words) -> Words:
    """Return the keys of a command.

    Args:
        name: the command in lower case.
        words: its words, the name included.
    """
    return _PLACES.get(name, _first)(words)


def _first(words: Words) -> Words:
    return words[1:2]


def _counted(place: int) -> Callable[[Words], Words]:
    """Return the function for commands that have the number of their keys at a place, and the keys behind it."""

    def counted(words: Words) -> Words:
        count = words[place] if len(words) > place else b""
        return words[place + 1 : place + 1 + int(count)] if count.isdigit() else ()

    return counted


def _after_streams(place: int) -> Callable[[Words], Words]:
    """Return the first half of the words behind STREAMS, which is at `place` or later."""

    def after_streams(words: Words) -> Words:
        upper = [word.upper() for word in words]
        begin = upper.index(b"STREAMS", place) + 1 if b"STREAMS" in upper[place:] else len(words)
        return words[begin : begin + (len(words) - begin) // 2]

    return after_streams


_PLACES: dict[str, Callable[[Words], Words]] = {
    **dict.fromkeys(_NONE.split(), lambda words: words[:0]),
    **dict.fromkeys(_ALL.split(), lambda words: words[1:]),
    **dict.fromkeys(_TWO.split(), lambda words: words[1:3]),
    **dict.fromkeys(_EVERY_SECOND.split(), lambda words: words[1::2]),
    **dict.fromkeys(_ALL_BUT_LAST.split(), lambda words: words[1:-1]),
    **dict.fromkeys(_COUNTED_FIRST.split(), _counted(1)),
    **dict.fromkeys(_COUNTED_SECOND.split(), _counted(2)),
    **dict.fromkeys(_STORED_AND_COUNTED.split(), lambda words: (*words[1:2], *_counted(2)(words))),
    **dict.fromkeys(_SECOND.split(), lambda words: words[2:3]),
    "bitop": lambda words: words[2:],
    "migrate": lambda words: words[3:4],
    "xread": _after_streams(1),
    "xreadgroup": _after_streams(4),  # behind GROUP and the names of the group and the consumer
}
