"""Every code block of the pages is run or checked, and every generated table is compared with the code.

A Python block that begins with the comment of a file name (`# conftest.py`) becomes that file. A Python block with a test becomes a
file of its own. All blocks of a page are written to one directory beside docs/examples/, where pytest runs them in strict mode.
A block below `<!-- from: examples/shop/shop/app.py: read, ready -->` is a copy of these definitions, or of the whole file without names.
scripts/examples runs that file. `python -m tests.test_docs` rewrites the generated tables and the copies.
"""

from __future__ import annotations

import ast
import configparser
import dataclasses
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests import test_floors
from tests.support.backends import unavailable_reason

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "changes" / "README.md",
        *(ROOT / "service").glob("*.md"),
        *(ROOT / "examples").glob("*/*.md"),
    ]
)
FENCE = re.compile(r"^(?P<indent> *)(?P<mark>```+|~~~+) *(?P<language>[\w+-]*)[^\n]*$")
FILE_COMMENT = re.compile(r"# (?P<name>[\w/]+\.py)$")
GENERATED = re.compile(r"(<!-- generated: (?P<name>[\w-]+)[^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
COPY = re.compile(
    r"(<!-- from: (?P<file>examples/[^\s:]+)(?:: (?P<names>[^\n]+?))? -->\n```(?P<language>\w+)\n).*?(```\n<!-- end -->)",
    re.DOTALL,
)

COMPOSE = (ROOT / "examples" / "ci" / "compose.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    copied: bool = False

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    inside: tuple[str, str, str, int] | None = None
    lines: list[str] = []
    text = page.read_text(encoding="utf-8")
    copies = {text.count("\n", 0, copy.end(1)) for copy in COPY.finditer(text)}
    for number, line in enumerate(text.splitlines(), start=1):
        fence = FENCE.match(line)
        if inside is None:
            if fence:
                inside, lines = (fence["indent"], fence["mark"], fence["language"], number), []
        elif fence and fence["mark"].startswith(inside[1]) and not fence["language"]:
            found.append(Block(page, inside[3], inside[2], "\n".join(lines) + "\n", inside[3] in copies))
            inside = None
        else:
            lines.append(line.removeprefix(inside[0]))
    assert inside is None, f"{page}:{inside[3]}: the code block never ends"
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.language == "python" and not block.copied})


def blocks_in(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in languages], ids=str)


# Python


def files_of(page: Path) -> dict[str, str]:
    """Return the files that the Python blocks of a page become, text by name."""
    files: dict[str, str] = {}
    for block in (b for b in BLOCKS if b.page == page and b.language == "python" and not b.copied):
        ast.parse(block.code, filename=str(block))
        name = FILE_COMMENT.match(block.code.partition("\n")[0])
        assert name or "def test_" in block.code, (
            f"{block}: nothing runs this block: name its file in a first comment, or add a test"
        )
        file = name["name"] if name else f"test_line_{block.line}.py"
        assert file not in files, f"{block}: there are two blocks named {file} on this page"
        files[file] = block.code
    return files


# Options that the text of a page sets for its tests.
OPTIONS = {"docs/backends.md": {"PYTEST_RESILIENCE_TLS": "true"}}
# Pages whose tests need Docker. They run with the contract tests of that backend.
OPTIONS |= {
    page: {"PYTEST_RESILIENCE_BACKEND": "docker", "PYTEST_RESILIENCE_PROXY": "ours"}
    for page in ("docs/mysql.md", "docs/rabbitmq.md")
}


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_tests_on_a_page_pass(page, tmp_path):
    files = files_of(page)
    options = OPTIONS.get(page.relative_to(ROOT).as_posix(), {})
    if options.get("PYTEST_RESILIENCE_BACKEND") == "docker" and (reason := unavailable_reason("docker")):
        pytest.skip(reason)
    for example in (ROOT / "docs" / "examples").glob("*.py"):
        shutil.copy(example, tmp_path)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\npythonpath = .\n")
    tests = sum(text.count("def test_") for text in files.values())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTEST_RESILIENCE_PROFILE": "dev"}  # not a minute for each generated test where CI is set
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pytest_resilience", "--resilience-strict", "-p", "anyio", "-rA"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT), "PYTEST_RESILIENCE_BACKEND": "embedded", **options},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= tests, result.stdout


# Commands


@pytest.fixture(scope="module")
def pytest_help(tmp_path_factory):
    command = [sys.executable, "-m", "pytest", "-p", "pytest_resilience", "--help"]
    cwd = tmp_path_factory.mktemp("help")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def commands_of(block: Block) -> list[list[str]]:
    code = block.code
    if block.language == "console":
        code = "\n".join(line.removeprefix("$ ") for line in code.splitlines() if line.startswith("$ "))
        assert code, f"{block}: a console block shows a command, after '$ '"
    checked = subprocess.run(["sh", "-n"], input=code, capture_output=True, text=True, check=False, timeout=10)
    assert checked.returncode == 0, f"{block}: {checked.stderr}"
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def command_problem(words: list[str], help_text: str, extras: set[str]) -> str | None:
    """Return the reason why a command of the pages cannot work, or None."""
    while words and re.match(r"\w+=", words[0]):  # NAME=value command
        words = words[1:]
    if not words:
        return None
    options = [word.partition("=")[0] for word in words if word.startswith("--resilience-")]
    unknown = [option for option in options if option not in help_text]
    if unknown:
        return f"there is no option {', '.join(unknown)}"
    match words:
        case [script, *_] if script.startswith(("scripts/", ".ci/")):
            return None if os.access(ROOT / script, os.X_OK) else f"{script} is not an executable script"
        case ["pip", "install", *arguments]:
            packages = [a for a in arguments if not a.startswith("-")]
            bad = [
                a
                for a in packages
                if not (m := re.fullmatch(r"(pytest-resilience|\.)(\[([\w,]+)\])?", a))
                or not set((m[3] or "").split(",")) <= extras | {""}
            ]
            return f"pip install {' '.join(bad)}" if bad else None
        case ["npm", "ci"]:
            return (
                None if list((ROOT / "examples").glob("*/package-lock.json")) else "no project has a package-lock.json"
            )
        case ["python", "-m", module, *_]:
            return None if importlib.util.find_spec(module) else f"no module {module}"
        case ["docker", "compose", "--file", file, *_]:
            return None if f"# {file}\n" in COMPOSE else f"examples/ci/compose.yaml is not named {file}"
        case ["pytest", *_] | ["cd", _] | ["git", "clone" | "add" | "commit", *_] | ["mkdir" | "cp", *_]:
            return None
    return f"{words[0]}: tests/test_docs.py has no check for this command yet"


@blocks_in("sh", "console")
def test_every_command_on_a_page_exists(block, pytest_help):
    # an example has its own pyproject.toml
    nearest = next(folder for folder in block.page.parents if (folder / "pyproject.toml").exists())
    extras: set[str] = set()
    for project in (ROOT, nearest):
        with (project / "pyproject.toml").open("rb") as file:
            extras |= set(tomllib.load(file)["project"]["optional-dependencies"])
    found = [problem for words in commands_of(block) if (problem := command_problem(words, pytest_help, extras))]
    assert not found, f"{block}: {found}"


# Configuration


def unknown_keys(settings: dict[str, object], help_text: str) -> list[str]:
    return [key for key in settings if key.startswith("resilience") and f"\n  {key} " not in help_text]


@blocks_in("toml")
def test_toml_parses_and_its_options_exist(block, pytest_help):
    data = tomllib.loads(block.code)
    assert not unknown_keys(data.get("tool", {}).get("pytest", {}).get("ini_options", {}), pytest_help), block


@blocks_in("ini")
def test_ini_parses_and_its_options_exist(block, pytest_help):
    parser = configparser.ConfigParser()
    parser.read_string(block.code)
    assert not [key for section in parser.sections() for key in unknown_keys(dict(parser[section]), pytest_help)], block


@blocks_in("yaml")
def test_yaml_parses(block):
    assert yaml.safe_load(block.code) is not None, block


@blocks_in("json")
def test_json_parses(block):
    assert json.loads(block.code) is not None, block


def uploads(workflow: dict) -> list[dict]:
    """Return the inputs of each upload step of a workflow."""
    steps = [step for job in workflow.get("jobs", {}).values() for step in job.get("steps", ())]
    return [step["with"] for step in steps if step.get("uses", "").startswith("actions/upload-artifact@")]


def test_an_upload_of_the_files_of_a_run_includes_hidden_ones():
    """Logs of failed tests and replays are in `.resilience/`, which the action skips as hidden by default."""
    texts = {str(block): block.code for block in BLOCKS if block.language == "yaml"}
    texts |= {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    found = {
        name: each
        for name, text in texts.items()
        for each in uploads(yaml.safe_load(text))
        if ".resilience" in each["path"]
    }
    assert "chaos.yml" in found
    assert any(name.startswith("docs/ci.md") for name in found)
    assert [name for name, each in found.items() if ".resilience/" not in each["path"].split()] == []
    assert [name for name, each in found.items() if each.get("include-hidden-files") is not True] == []


def test_every_block_has_a_language_that_is_checked():
    """`text` is for output and drawings, which cannot be run."""
    known = {"python", "sh", "console", "toml", "ini", "yaml", "json", "text"}
    unknown = [block for block in BLOCKS if block.language not in known and not block.copied]
    assert not [f"{block}: {block.language or 'no language'}" for block in unknown]


# Tables


def fault_table() -> str:
    from pytest_resilience.faults import FAULTS
    from pytest_resilience.systems.mysql.target import MysqlTarget
    from pytest_resilience.systems.rabbitmq.target import RabbitmqTarget
    from pytest_resilience.targets.server import PostgresTarget, RedisTarget
    from pytest_resilience.targets.service import ServiceTarget
    from pytest_resilience.targets.tcp import TcpTarget

    targets = {
        "postgres": PostgresTarget,
        "redis": RedisTarget,
        "service": ServiceTarget,
        "tcp": TcpTarget,
        "mysql": MysqlTarget,
        "rabbitmq": RabbitmqTarget,
    }
    rows = ["| call | on | what it does |", "| --- | --- | --- |"]
    for name, kind in FAULTS.items():
        signature = inspect.signature(getattr(targets[kind.targets[0]], name))
        arguments = ", ".join(str(p.replace(annotation=p.empty)) for p in list(signature.parameters.values())[1:])
        summary = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split()).replace("|", "\\|")
        rows.append(f"| `{name}({arguments})` | {', '.join(kind.targets)} | {summary} |")
    return "\n".join(rows) + "\n"


def overlap_table() -> str:
    """Return one row for each fault that prevents others on its target from striking or healing."""
    from pytest_resilience.faults import FAULTS

    given = {
        "starve": {"connections": 0},
        "on": {"verb": "commit", "act": "lose_answer"},
        "after": {"verb": "commit", "fault": "latency", "settings": {"seconds": 1}},
    }
    faults = [kind(**(given.get(name) or _required(kind))) for name, kind in FAULTS.items()]
    rows = ["| while this lasts | these can't strike | these can't heal yet |", "| --- | --- | --- |"]
    for active in faults:
        others = [each for each in faults if set(each.targets) & set(active.targets)]
        strikes = [each.name for each in others if set(each.strike_needs()) & active.takes().keys()]
        heals = [
            each.name for each in others if each.name != active.name and set(each.heal_needs()) & active.takes().keys()
        ]
        if strikes:
            rows.append(f"| `{active.name}` | {_listed(strikes)} | {_listed(heals) or 'none'} |")
    return "\n".join(rows) + "\n"


def _required(kind):
    """Return a value for each setting without a default."""
    parameters = inspect.signature(kind).parameters.values()
    return {each.name: 1000 for each in parameters if each.default is each.empty}


def _listed(names):
    return ", ".join(f"`{name}`" for name in names)


def option_table() -> str:
    """Return one row for each option."""
    from pytest_resilience.options import TABLE

    rows = ["| option | environment, ini | values (default) | for |", "| --- | --- | --- | --- |"]
    for option in TABLE:
        others = f"`{option.variable}`, `{option.ini}`" if option.kind != "command" else ""
        words = {
            "choice": ", ".join(option.choices),
            "text": option.metavar,
            "hosts": option.metavar,
            "directory": f"{option.metavar} or off",
            "command": "flag",
        }
        values = words.get(option.kind, option.kind)
        if isinstance(option.default, str) or option.default_text:
            values = f"{values} ({option.default_text or option.default})"
        rows.append(f"| `{option.flag}` | {others} | {values} | {option.help} |")
    return "\n".join(rows) + "\n"


def fault_names() -> str:
    """Return the README's table: one row for each family of faults, one column for each kind of target."""
    from pytest_resilience.faults import FAULTS

    files = {
        "process": "process",
        "postgres_server": "server",
        "redis_server": "server",
        "rabbitmq_server": "server",
        "close_connections": "server",
        "resources": "resources",
        "statements": "statements",
    }
    names = {"mysql": "MySQL", "rabbitmq": "RabbitMQ"}
    families: dict[str, dict[str, list[str]]] = {}
    for name, kind in FAULTS.items():
        family = files.get(kind.__module__.rpartition(".")[2], "network")
        servers = [target for target in kind.targets if target in ("postgres", "redis")]
        row = families.setdefault(family, {"servers": [], "service": [], "tcp": [], "systems": []})
        systems = [names[target] for target in kind.targets if target in names]
        if systems:
            row["systems"].append(f"`{name}`" + ("" if len(systems) == 2 else f" ({systems[0]})"))
        if servers:
            row["servers"].append(f"`{name}`" + ("" if len(servers) == 2 else f" ({servers[0].capitalize()})"))
        for target in "service", "tcp":
            if target in kind.targets:
                row[target].append(f"`{name}`")
    rows = [
        "| | on Postgres and Redis | on the service | on a TCP system | on MySQL and RabbitMQ |",
        "| --- | --- | --- | --- | --- |",
    ]
    for family, row in families.items():
        tcp, systems = (
            "all of these" if row[column] and row[column] == row["servers"] else " ".join(row[column])
            for column in ("tcp", "systems")
        )
        rows.append(f"| {family} | {' '.join(row['servers'])} | {' '.join(row['service'])} | {tcp} | {systems} |")
    return "\n".join(rows) + "\n"


def promise_table() -> str:
    """Return one row for each file of chaos/: its promise and the names of its tests."""
    rows = ["| promise | held by the tests |", "| --- | --- |"]
    for path in sorted((ROOT / "chaos").glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [
            node.name.removeprefix("test_").replace("_", " ")
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        ]
        promise = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split()).replace("|", "\\|")
        rows.append(f"| {promise} ([{path.name}](../chaos/{path.name})) | {'; '.join(names)} |")
    return "\n".join(rows) + "\n"


def metric_table() -> str:
    """Return one row for each metric of the bundled service."""
    from service.metrics import METRICS, REQUEST_LABELS, REQUEST_SECONDS, REQUEST_SECONDS_HELP

    rows = [(f"`{each.name}`", each.kind, " ".join(each.labels), each.help) for each in METRICS]
    rows.append((f"`{REQUEST_SECONDS}`", "histogram", " ".join(REQUEST_LABELS), REQUEST_SECONDS_HELP))
    lines = [f"| {' | '.join(row)} |" for row in sorted(rows)]
    return "\n".join(["| metric | kind | labels | value |", "| --- | --- | --- | --- |", *lines]) + "\n"


def plant_table() -> str:
    """Return one row for each plant. Its program imports the folder of the chaos suite, which is no package."""
    program = [sys.executable, "scripts/lib/run_plants.py", "--table"]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout


TABLES = {
    "faults": fault_table,
    "fault-names": fault_names,
    "metrics": metric_table,
    "floors": test_floors.floors_block,
    "options": option_table,
    "overlaps": overlap_table,
    "plants": plant_table,
    "promises": promise_table,
}


def excerpt(file: Path, names: list[str]) -> str:
    """Return a file of an example, or its definitions with these names in the order of the file.

    The name of an assignment is its target, that of a call its function, and that of a table of TOML its header.
    """
    text = file.read_text(encoding="utf-8")
    if not names:
        return text
    if file.suffix == ".toml":
        parts = {part.partition("]")[0]: part for part in re.split(r"^\[", text, flags=re.MULTILINE)}
        found = {name: f"[{parts[name]}".rstrip() for name in names if name in parts}
    else:
        lines = text.splitlines()
        nodes = [(defined, node) for node in ast.parse(text).body for defined in defined_by(node) if defined in names]
        found = {name: "\n".join(lines[first_line(node) - 1 : node.end_lineno]) for name, node in nodes}
    assert not set(names) - found.keys(), f"{file} does not define {', '.join(set(names) - found.keys())}"
    return "\n\n".join(found.values()) + "\n"


def defined_by(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign():
            return [ast.unparse(target) for target in node.targets]
        case ast.Expr(value=ast.Call()):
            return [ast.unparse(node.value.func)]
    return []


def first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])


def copied(match: re.Match[str]) -> str:
    names = [name.strip() for name in (match["names"] or "").split(",") if name.strip()]
    return match[1] + excerpt(ROOT / match["file"], names) + match[5]


def regenerated(text: str) -> str:
    return COPY.sub(copied, GENERATED.sub(lambda m: m[1] + TABLES[m["name"]]() + m[3], text))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if GENERATED.search(p.read_text()) or COPY.search(p.read_text())], ids=lambda p: p.name
)
def test_a_generated_table_or_copy_matches_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert text == regenerated(text), "run python -m tests.test_docs"


def test_an_excerpt_has_the_definitions_with_their_decorators(tmp_path):
    file = tmp_path / "app.py"
    file.write_text(
        "import re\n\napp = App()\napp.update(\n    late=True,  # why\n)\n\n@app.task\ndef one():\n    pass\n\n\ndef two(): ...\n"
    )
    assert (
        excerpt(file, ["one", "app.update"])
        == "app.update(\n    late=True,  # why\n)\n\n@app.task\ndef one():\n    pass\n"
    )
    assert excerpt(file, []) == file.read_text()
    with pytest.raises(AssertionError, match="does not define three"):
        excerpt(file, ["three"])


def test_an_excerpt_of_toml_is_a_table(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\nname = "shop"\n\n[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    assert excerpt(file, ["tool.pytest.ini_options"]) == '[tool.pytest.ini_options]\ntestpaths = ["tests"]\n'


def test_every_mark_of_a_copy_is_followed_by_a_block():
    """A mark that the pattern does not match would never be compared."""
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    assert [
        p.name
        for p, text in texts.items()
        if len(re.findall(r"^<!-- from:", text, re.MULTILINE)) != len(COPY.findall(text))
    ] == []


def test_every_fault_has_a_method_on_each_of_its_targets():
    from pytest_resilience.faults import FAULTS
    from pytest_resilience.systems.mysql.target import MysqlTarget
    from pytest_resilience.systems.rabbitmq.target import RabbitmqTarget
    from pytest_resilience.targets.server import PostgresTarget, RedisTarget
    from pytest_resilience.targets.service import ServiceTarget
    from pytest_resilience.targets.tcp import TcpTarget

    targets = {"postgres": PostgresTarget, "redis": RedisTarget, "service": ServiceTarget, "tcp": TcpTarget}
    targets |= {"mysql": MysqlTarget, "rabbitmq": RabbitmqTarget}
    assert not [f"{t}.{name}" for name, kind in FAULTS.items() for t in kind.targets if not hasattr(targets[t], name)]


def test_the_readme_names_every_option_and_no_other(pytest_help):
    expected = set(re.findall(r"^  (--resilience-[\w-]+)", pytest_help, re.MULTILINE))
    documented = set(re.findall(r"--resilience-[\w-]+", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert documented == expected


def test_the_fixtures_page_names_every_fixture(pytester):
    pytester.makepyfile("def test_nothing():\n    pass")
    output = pytester.runpytest_subprocess("--fixtures", "-p", "pytest_resilience").stdout.str()
    expected = set(re.findall(r"^(resilience\w*)", output, re.MULTILINE))
    documented = set(
        re.findall(r"^## `(\w+)`", (ROOT / "docs" / "fixtures.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert expected, output
    assert documented == expected


def test_the_page_of_drivers_has_each_act_on_each_driver():
    command = [sys.executable, "benchmarks/statement_errors.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


SERVICE_PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")


def test_the_service_page_names_every_setting_with_its_default():
    from service.settings import ServiceSettings

    expected = {
        f.name.upper(): "required"
        if f.default is dataclasses.MISSING
        else f"{f.default:g}"
        if isinstance(f.default, float)
        else f.default
        for f in dataclasses.fields(ServiceSettings)
    }
    documented = dict(re.findall(r"^\| ([A-Z][A-Z_]+) \| (\S*) ?\|", SERVICE_PAGE, re.MULTILINE))
    assert documented == {name: "" if default is None else str(default) for name, default in expected.items()}


def test_the_service_page_names_every_route():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "service").rglob("*.py"))
    expected = {re.sub(r":\w+}", "}", path) for path in re.findall(r"""[Rr]oute\(\s*["'](/[^"']*)["']""", source)}
    documented = set(re.findall(r"^\| (?:GET|POST|PUT|DELETE)[A-Z or]* (/\S*) \|", SERVICE_PAGE, re.MULTILINE))
    assert documented == expected


if __name__ == "__main__":
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = regenerated(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"wrote {page.relative_to(ROOT)}\n")
