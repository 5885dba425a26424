"""Ports in place of their placeholders."""

from __future__ import annotations

import pytest

from pytest_resilience.targets.placeholders import fill, has_placeholder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--port={port}", "--port=8000"),
        ("http://127.0.0.1:{metrics}/{port}", "http://127.0.0.1:8001/8000"),
        ('{"port": 1}', '{"port": 1}'),
        ("{other} {} {{port}}", "{other} {} {8000}"),
        ("awk '{print}'", "awk '{print}'"),
    ],
)
def test_only_the_names_of_ports_are_replaced(text: str, expected: str) -> None:
    assert fill(text, {"port": 8000, "metrics": 8001}) == expected


def test_a_placeholder_is_found_by_its_name() -> None:
    assert has_placeholder("--port={port}", ["port"])
    assert not has_placeholder("--port={prot} {}", ["port"])
