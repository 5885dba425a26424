"""Names, docstrings, messages and pages keep to the glossary and to the rules of prose in CONTRIBUTING.md.

scripts/lib/check_subjects.py checks the subjects of commits.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100

# Words that stood for something else in this project. The glossary has a term of the field for each.
BANNED = {
    "door": "proxy, listener or address",
    "doorman": "admission",
    "grip": "hold",
    "keeper": "supervisor",
    "told": "reported, documented or received",
    "whoever": "the noun",
    "somebody": "the noun",
}
# As a verb `means` is plain English. As a name it stood for the processes and limits of a target.
BANNED_IN_NAMES = BANNED | {"means": "limits, processes or resources"}

# Code is also checked for banned words in strings, because messages and log lines are strings.
CODE = ("pytest_resilience", "service", "chaos", "scripts", "benchmarks", "tests", "examples", "docs/examples")
PAGES = ("*.md", "docs/**/*.md", "changes/*.md", "examples/*/*.md")

# Files that quote banned words, each with its reason.
QUOTES = {
    "tests/test_prose.py": "the rules and their tests",
    "docs/glossary.md": "its last line lists the words that are not used",
    "docs/why/keeper.md": "it explains its address, which links from elsewhere use",
}

VERBS = "is|are|was|were|has|have|had|can|may|must|will|would|does|do|did|comes?|goes|go"
RELATIVE = "that|which|who|whose|if|when|until"

Problem = tuple[int, str]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
parsed = functools.cache(ast.parse)


def files(patterns: Iterable[str]) -> list[Path]:
    """Return the files of some patterns, without caches and builds."""
    found = {path.relative_to(ROOT): path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(
        path for name, path in found.items() if not any(part.startswith(".") or part == "build" for part in name.parts)
    )


def code_files() -> list[Path]:
    return files(["conftest.py", *(f"{folder}/**/*.py" for folder in CODE)])


def pages() -> list[Path]:
    return files(PAGES)


def in_words(text: str) -> Iterator[str]:
    """Yield the banned words of a text, of which plurals count too."""
    for word in re.findall(r"[A-Za-z]+", text):
        if (singular := word.lower().removesuffix("s")) in BANNED:
            yield f"{word!r}: write {BANNED[singular]}"


def in_name(name: str) -> Iterator[str]:
    """Yield the banned words of an identifier in snake_case or CamelCase."""
    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name):
        for form in {word.lower(), word.lower().removesuffix("s")} & BANNED_IN_NAMES.keys():
            yield f"the name {name!r} has {word!r}: use {BANNED_IN_NAMES[form]}"


def without_quotes(text: str) -> str:
    """Return a text without what it quotes: code spans, texts in double quotes, and the targets of links."""
    return re.sub(r"(`+)[^`]+\1|\"[^\"]*\"|(?<=\])\([^)]*\)", "…", text)


def banned_words(source: str) -> Iterator[Problem]:
    """Yield the banned words of a Python source in names, comments and strings, docstrings included."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield from ((token.start[0], problem) for problem in in_name(token.string))
        elif token.type == tokenize.COMMENT:
            yield from ((token.start[0], problem) for problem in in_words(token.string))
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((node.lineno, problem) for problem in in_words(node.value))


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(parsed(source)):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def first_sentence(docstring: str) -> str:
    paragraph = " ".join(without_quotes(docstring).partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) ", paragraph)[0]


def clause_as_subject(source: str) -> Iterator[Problem]:
    """Yield the docstrings that begin with a question word."""
    for line, text in docstrings(source):
        if re.match(r"(what|whether|who|whose|whom|how|where|when|why|which)\b", text, re.IGNORECASE):
            yield line, f"begin with a verb or a noun, such as Return or True if: {text.splitlines()[0]}"


def two_facts(source: str) -> Iterator[Problem]:
    """Yield the docstrings with a first sentence that joins two clauses by a semicolon or a colon.

    A colon before a list of nouns is allowed. Between the colon and the verb of a clause there is neither a comma nor a relative pronoun.
    """
    clause = re.compile(rf": ((?!\b({RELATIVE})\b)[^,])*\b({VERBS})\b")
    for line, text in docstrings(source):
        first = first_sentence(text)
        if ";" in first or clause.search(first):
            yield line, f"write two sentences: {first}"


def prose_lines(page: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page outside code blocks and generated blocks."""
    code = generated = False
    for number, line in enumerate(page.splitlines(), start=1):
        if line.lstrip().startswith(("```", "~~~")):
            code = not code
        elif line.startswith("<!-- generated"):
            generated = True
        elif line.startswith("<!-- end"):
            generated = False
        elif not code and not generated:
            yield number, line


def banned_words_of_page(page: str) -> Iterator[Problem]:
    for number, line in enumerate(page.splitlines(), start=1):
        yield from ((number, problem) for problem in in_words(without_quotes(line)))


def wide_lines(page: str) -> Iterator[Problem]:
    """Yield the lines that are too wide although they could be wrapped.

    Rows of tables, headings, comments and definitions of links stand on one line. A code span or a link is not broken.
    """
    for number, line in prose_lines(page):
        whole = re.match(r"\s*(\||#|<!--|\[[^]]+\]: )", line)
        words = re.sub(r"(`+)[^`]+\1|\[[^]]*\]\([^)]*\)", lambda span: span[0].replace(" ", "_"), line)
        text = re.sub(r"^\s*([-*+>]|\d+[.)])?\s+", lambda marker: "_" * len(marker[0]), words)
        if len(line) > WIDTH and not whole and " " in text[: WIDTH + 1]:
            yield number, f"{len(line)} columns: {line[:60]}…"


def check(rule, paths: list[Path]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {problem}"
        for path in paths
        for line, problem in rule(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


def quoting_nothing(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.relative_to(ROOT).as_posix() not in QUOTES]


def test_code_has_no_banned_words():
    """A private word must be learned before the code can be read, and it hides which standard part is meant."""
    check(banned_words, quoting_nothing(code_files()))


def test_names_of_files_have_no_banned_words():
    """A newcomer looks for the file by its standard name."""
    names = [path.relative_to(ROOT).as_posix() for path in quoting_nothing([*code_files(), *pages()])]
    found = [f"{name}: {problem}" for name in names for problem in in_name(name)]
    assert not found, "\n" + "\n".join(found)


def test_pages_have_no_banned_words():
    """A page uses the glossary's words, so that a reader finds the part in the code by its name."""
    check(banned_words_of_page, quoting_nothing(pages()))


def test_docstrings_do_not_begin_with_a_question_word():
    """A noun clause ("What the proxy has counted") hides whether the function returns, changes or checks something."""
    check(clause_as_subject, code_files())


def test_the_first_sentence_of_a_docstring_states_one_fact():
    """Tools and readers take the first sentence as the summary. A reason or an exception gets its own sentence."""
    check(two_facts, code_files())


def test_pages_are_wrapped():
    """The diff of a wide line does not show which of its words changed."""
    check(wide_lines, pages())


def test_the_files_that_quote_banned_words_exist_and_need_it():
    """An exception that is no longer needed would hide the next offence."""
    for name in QUOTES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert list(banned_words(text) if name.endswith(".py") else banned_words_of_page(text)), name


# The rules find planted offences


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def open_door():\n    pass", 1),
        ("x = 1\nclass Doorman:\n    pass", 2),
        ("def f(*, keepers):\n    pass", 1),
        ("target.means = 1", 1),
        ("call(told=1)", 1),
        ("HEAVY_DOORS = 1", 1),
        ('def f():\n    """Return the grip."""', 2),
        ("x = 1  # Whoever reads this", 1),
        ('raise ValueError(f"{x} is held by somebody")', 1),
    ],
)
def test_a_banned_word_in_code_is_found(source, line):
    assert [number for number, _ in banned_words(source)] == [line]


def test_words_that_contain_a_banned_word_are_allowed():
    assert not list(banned_words("outdoors = bookkeeper = gripped = 1  # outdoors, bookkeeper"))


def test_the_verb_means_is_allowed_outside_names():
    assert not list(banned_words("x = None  # None means no limit"))


@pytest.mark.parametrize("name", ["pytest_resilience/keeper.py", "docs/the-keeper.md", "tests/test_doors.py"])
def test_a_banned_word_in_the_name_of_a_file_is_found(name):
    assert list(in_name(name))


def test_a_banned_word_on_a_page_is_found_and_a_quoted_one_is_allowed():
    page = "See [why](docs/why/keeper.md).\n`proxy_addresses` was `door`.\nThe keeper ends."
    assert [number for number, _ in banned_words_of_page(page)] == [3]


@pytest.mark.parametrize("word", ["What", "Whether", "Who", "Whose", "How", "Where", "When", "Why", "Which"])
def test_a_docstring_that_begins_with_a_question_word_is_found(word):
    source = f'"""Names."""\n\nclass A:\n    async def f(self):\n        """{word} it was."""'
    assert [number for number, _ in clause_as_subject(source)] == [5]


def test_a_docstring_that_begins_with_a_verb_is_allowed():
    assert not list(clause_as_subject('"""Whatever."""\ndef f():\n    """Return what was sent."""'))


def test_a_semicolon_in_a_first_sentence_is_found_also_on_its_second_line():
    source = 'def f():\n    """Return the code\n    of it; None before. More.\n    """'
    assert [number for number, _ in two_facts(source)] == [2]


@pytest.mark.parametrize("text", ["Do nothing: only the owner can.", "One proxy: it has a listener, and an upstream."])
def test_a_clause_behind_a_colon_in_a_first_sentence_is_found(text):
    assert [number for number, _ in two_facts(f'def f():\n    """{text}"""')] == [2]


@pytest.mark.parametrize(
    "text", ["The proxy: a listener, and what is behind it.", "The supervisor: a process that is alone."]
)
def test_a_list_behind_a_colon_in_a_first_sentence_is_allowed(text):
    assert not list(two_facts(f'def f():\n    """{text}"""'))


@pytest.mark.parametrize(
    "text", ["Return a. One; two.", "Return `a; b`.", 'Return \\"; or\\" and more.', "Return a: b."]
)
def test_a_semicolon_behind_the_first_sentence_or_in_a_quote_is_allowed(text):
    assert not list(two_facts(f'def f():\n    """{text}"""'))


WIDE = "word " * 30


@pytest.mark.parametrize("line", [WIDE, f"- {WIDE}", f"{'x' * 90} {'x' * 20}", f"[{'x' * 80}](a b) {WIDE}"])
def test_a_wide_line_is_found(line):
    assert [number for number, _ in wide_lines(f"# Title\n\n{line}\n")] == [3]


@pytest.mark.parametrize(
    "page",
    [
        "x" * 100,
        f"| {WIDE} |",
        f"# {WIDE}",
        f"```text\n{WIDE}\n```",
        f"<!-- generated: options -->\n{WIDE}\n<!-- end -->",
        f"[name]: https://example.org/{'x' * 90}",
        f"- [{WIDE}](https://example.org)",
        f"1. `{WIDE}`",
    ],
)
def test_a_line_that_cannot_be_wrapped_is_allowed(page):
    assert not list(wide_lines(page))
