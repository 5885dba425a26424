"""The errors of Redis, by their code: their text, and whether a transaction fails when a command is queued.

Sources: the shared error replies in server.c of Redis 7, and processCommand, which rejects commands before it queues them.
"""

from __future__ import annotations

from .redis import encode_command

_TEXTS = {
    "BUSY": "Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN": "The cluster is down",
    "EXECABORT": "Transaction discarded because of previous errors.",
    "LOADING": "Redis is loading the dataset in memory",
    "MASTERDOWN": "Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MISCONF": "Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data "
    "set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails "
    "(stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.",
    "NOAUTH": "Authentication required.",
    "NOPERM": "this user has no permissions to run this command",
    "NOREPLICAS": "Not enough good replicas to write.",
    "NOSCRIPT": "No matching script. Please use EVAL.",
    "OOM": "command not allowed when used memory > 'maxmemory'.",
    "READONLY": "You can't write against a read only replica.",
    "TRYAGAIN": "Multiple keys request during rehashing of slot",
    "WRONGTYPE": "Operation against a key holding the wrong kind of value",
}
MAX_CLIENTS = "ERR max number of clients reached"

_WHEN_QUEUED = (
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
)

FAIL = encode_command("EVAL")
"""A command that fails in any state. In a transaction it is not queued, and the transaction can only be discarded."""


def error_text(code: str) -> str:
    """Return the whole text of an error.

    Args:
        code: a code such as "LOADING", which stands for the text of Redis, or a whole text.
    """
    text = code.removeprefix("-").strip()
    return f"{text} {_TEXTS[text]}" if text in _TEXTS else text


def fails_when_queued(text: str) -> bool:
    """True if Redis replies with this error before it queues a command in a transaction, so that the EXEC fails too."""
    return text.partition(" ")[0] in _WHEN_QUEUED


def error_of_exec(text: str) -> str:
    """Return the error of an EXEC that fails for the reason of another error."""
    return f"EXECABORT Transaction discarded because of: {text}" if fails_when_queued(text) else text


def failing_command(text: str) -> bytes:
    """Return the command to which a server replies with an error of this text. In a transaction, the error comes with the EXEC."""
    return encode_command("EVAL", "return {err=ARGV[1]}", "0", text)
