"""The texts of SQL statements: the verb, and the text without literals. The functions are pure."""

from __future__ import annotations

import re

MAX_QUERY_CHARS = 80  # characters of a query

# The parts of a query that may be secret, also where the server has cut the query off.
_LITERAL = re.compile(
    r"""
      --[^\n]*                                            # comments
    | /\*(?:[^*/]|\*(?!/)|/(?!\*)|/\*.*?\*/)*(?:\*/|\Z)   # comments, one inside another too
    | "(?:""|[^"])*(?:"|\Z)                               # names in quotes, which stay
    | (?:\b[eE])'(?:\\.|''|[^'\\])*(?:'|\Z)               # strings with escapes
    | (?:\b[uU]&|\b[bBxXnN])?'(?:''|[^'])*(?:'|\Z)        # strings
    | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)              # dollar-quoted ones
    | (?<![\w$])(?:\d[\w.]*|\.\d\w*)                      # numbers
    """,
    re.VERBOSE | re.DOTALL,
)


def without_literals(query: str) -> str:
    """Return the beginning of a query in one line, with `?` for each number and string."""
    line = " ".join(_LITERAL.sub(_replaced, query).split())
    return line if len(line) <= MAX_QUERY_CHARS else line[: MAX_QUERY_CHARS - 3] + "..."


def _replaced(found: re.Match[str]) -> str:
    match found[0][0]:
        case "-" | "/":
            return " "
        case '"':
            return found[0]
    return "?"


_BEFORE_VERB = re.compile(r"(?:[\s(;]|--[^\n]*|/\*(?:[^*/]|\*(?!/)|/(?!\*)|/\*.*?\*/)*\*/)*([A-Za-z]*)", re.DOTALL)
_TOKEN = re.compile(rf"(?:{_LITERAL.pattern})|[()]|[A-Za-z_]\w*", re.VERBOSE | re.DOTALL)
_SYNONYMS = {"start": "begin", "end": "commit", "abort": "rollback"}
_MAIN_VERBS = ("select", "insert", "update", "delete", "merge", "values", "table")


def statement_verb(query: str) -> str:
    """Return the first word of a statement in lower case, behind comments and parentheses.

    Returns:
        begin, commit and rollback for their synonyms, and the verb behind the subqueries of a statement that begins with WITH; an
        empty text for a query without a word.
    """
    found = _BEFORE_VERB.match(query)
    verb = found[1].lower() if found else ""
    return _verb_behind_with(query) if verb == "with" else _SYNONYMS.get(verb, verb)


def _verb_behind_with(query: str) -> str:
    depth = 0
    for found in _TOKEN.finditer(query):
        token = found[0].lower()
        depth += (token == "(") - (token == ")")
        if not depth and token in _MAIN_VERBS:
            return token
    return "with"
