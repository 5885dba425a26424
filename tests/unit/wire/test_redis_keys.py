"""The keys among the words of a command, as the reply to COMMAND GETKEYS has them."""

import pytest

from pytest_resilience.wire.redis_keys import keys_of

CASES = [
    ("GET a", "a"),
    ("SET a 1 EX 5", "a"),
    ("JSON.SET a $ 1", "a"),
    ("MGET a b c", "a b c"),
    ("MSET a 1 b 2", "a b"),
    ("RENAME a b", "a b"),
    ("LMOVE a b LEFT RIGHT", "a b"),
    ("BLPOP a b 0", "a b"),
    ("BITOP AND a b c", "a b c"),
    ("OBJECT ENCODING a", "a"),
    ("MIGRATE host 6379 a 0 5", "a"),
    ("EVALSHA abc 2 a b 3", "a b"),
    ("EVAL x 0", ""),
    ("EVAL x", ""),
    ("EVAL x many a", ""),
    ("ZUNION 2 a b WITHSCORES", "a b"),
    ("ZUNIONSTORE a 2 b c", "a b c"),
    ("BZMPOP 0 1 a MIN", "a"),
    ("XREAD COUNT 2 STREAMS a b 0 0", "a b"),
    ("XREADGROUP GROUP g c streams a >", "a"),
    ("XREADGROUP GROUP streams c NOACK STREAMS a b > >", "a b"),
    ("XREAD COUNT 2", ""),
    ("PUBLISH channel text", ""),
    ("PING", ""),
    ("GET", ""),
]


@pytest.mark.parametrize(("text", "keys"), CASES)
def test_the_keys_are_found(text, keys):
    words = text.encode().split()
    assert list(keys_of(words[0].decode().lower(), words)) == keys.encode().split()
