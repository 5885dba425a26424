"""The names of hosts, and the hosts that tests may strike."""

from __future__ import annotations

EXPECTED_HOST = "a host without scheme and port, such as api.test or 10.0.0.7"


def normalized_host(host: object) -> str | None:
    """Return a host in lower case and without the brackets of IPv6, or None if it is a URL, a pattern or an address with a port."""
    text = host.strip().lower() if isinstance(host, str) else ""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return None if not bare or any(each in bare for each in "/@*, ") or bare.count(":") == 1 else bare


def joined(host: str, port: int) -> str:
    """Return "host:port", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
