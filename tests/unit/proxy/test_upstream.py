"""An upstream is parsed as Go does."""

from __future__ import annotations

import pytest

from pytest_resilience.proxy.upstream import parse_upstream


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:5", ["127.0.0.1:5"]),
        ("[::1]:5", ["[::1]:5"]),
        (":5", ["127.0.0.1:5"]),
        ("unix:/x", ["unix:/x"]),
        ("some.name:5", None),
    ],
)
def test_upstream_is_read(text: str, found: list[str] | None) -> None:
    addresses = parse_upstream(text)
    assert (addresses if addresses is None else [str(each) for each in addresses]) == found
