"""Placeholders such as `{port}` in the command and the environment of a service."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


def fill(text: str, values: Mapping[str, object]) -> str:
    """Return the text with the values in place of their placeholders. Other braces stay as they are."""
    return PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), text)


def has_placeholder(text: str, names: Collection[str]) -> bool:
    """True if the text has a placeholder with one of these names."""
    return any(name in names for name in PLACEHOLDER.findall(text))
