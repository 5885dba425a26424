"""Imports go down the floors of ARCHITECTURE.md, never up and never in a circle. Imports inside functions count too."""

from __future__ import annotations

import ast
import functools
import textwrap
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pytest_resilience

ROOT = Path(__file__).resolve().parent.parent

# One row for each floor: its number, its parts and, behind a bar, a note for ARCHITECTURE.md. Floors with one number have letters.
PACKAGE = """
8   __init__ | the public names
7   plugin options hooks fixtures factories stash generated_items replaying described_services | pytest is imported here and nowhere below
6d  incidents fault_settings drawn_kinds strategies program machine generated replay report plants
6c  resilience
6b  leaks runner workloads in_process
6a  stack
5d  tcp_systems
5c  systems
5b  targets
5a  admin triggers step_faults json_fields schedule backends
4   faults probes
3   proxy_client proxy clients http_stub destroyed_sockets
2   wire checkers | pure: no I/O, no clock, no randomness of their own
1   history history_file history_lines recorded exports
0   errors clock closing_connections profiles operation coroutines processes supervisor fork_server python_command redaction kept_modules wording hosts unused truth
"""
SERVICE = """
5  __init__
4  __main__
3  app
2b http health monitor metrics
2a jobs
1  postgres cache memory
0  settings url_checks errors logging_setup request_counts waiting shortages
"""
LEAKS = """
5  check
4  findings
3  snapshot
2  owners
1  attribution descriptors tasks child_processes event_loops postgres redis socket_inode
0  __init__ compare source_locations
"""
BACKENDS = """
4  registry
3  embedded docker external
2  session
1  managed_server
0  __init__ backend settings server_settings postgres_url
"""
PROXY = """
9  __main__
8b api
8a api_routes metrics
7  proxy_collection api_policy
6  proxy
5  connection
4  link
3  stage runtime api_connection tls_config statements
2  api_response installed_toxic tap tls admission refused_connections upstream peer_user
1  heap listener resolver log tls_records
0  __init__ event_loop address descriptors self_connections event_counter toxics
"""
PACKAGES = {
    "pytest_resilience": PACKAGE,
    "pytest_resilience.leaks": LEAKS,
    "pytest_resilience.backends": BACKENDS,
    "pytest_resilience.proxy": PROXY,
    "service": SERVICE,
}
PURE = {"wire", "checkers"}  # pure: no I/O, no clock, no randomness of their own
IMPURE = {
    "asyncio",
    "os",
    "pathlib",
    "random",
    "select",
    "selectors",
    "socket",
    "subprocess",
    "threading",
    "time",
    "anyio",
    "httpx",
}
# Public modules, beside the names of the package. The package imports the first two nowhere, because they import Hypothesis.
PUBLIC_MODULES = {"strategies", "machine", "checkers", "history", "operation", "schedule", "workloads"}


def rows(table: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield the floor, the parts and the note of each row, the highest floor first."""
    for row in table.strip().splitlines():
        names, _, note = row.partition(" | ")
        floor, *parts = names.split()
        yield floor, parts, note


def floors(table: str) -> dict[str, str]:
    """Return the floor of each part. Floors are one digit and perhaps a letter, so they compare as text."""
    return {part: floor for floor, parts, _ in rows(table) for part in parts}


def floors_block() -> str:
    """Return the block of floors that ARCHITECTURE.md shows."""
    lines: list[str] = []
    for package, table in PACKAGES.items():
        lines += ["", package]
        for floor, parts, note in rows(table):
            text = textwrap.fill(" ".join(parts), 92, initial_indent=f"  {floor:<3} ", subsequent_indent=" " * 6)
            lines.append(f"{text:<52}  {note}" if note else text)
    return "\n".join(["```text", *lines[1:], "```"]) + "\n"


def modules(package: str) -> dict[str, Path]:
    """Return the file of each module of a package, by dotted name. The file of a package itself has the name of the package."""
    files = sorted((ROOT / package.replace(".", "/")).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


@functools.cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def imports(name: str, path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield line, module and imported name of each import. The name is None for `import module`."""
    for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            above = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def for_types_only(path: Path) -> set[int]:
    """Return the numbers of the lines inside `if TYPE_CHECKING:`."""
    blocks = (node for node in ast.walk(parsed(path.read_text(encoding="utf-8"))) if isinstance(node, ast.If))
    return {
        line
        for block in blocks
        if ast.unparse(block.test) == "TYPE_CHECKING"
        for line in range(block.lineno, (block.end_lineno or block.lineno) + 1)
    }


def part(module: str, package: str = "pytest_resilience") -> str:
    """Return the part of a package that a module belongs to: `proxy` for `pytest_resilience.proxy.link`.

    The package itself is its part `__init__`.
    """
    return (*module.split("."), "__init__")[package.count(".") + 1]


def violations(package: str, table: str, known: dict[str, Path]) -> Iterator[str]:
    floor = floors(table)
    for name, path in known.items():
        own = part(name, package)
        if own not in floor:
            yield f"{path.relative_to(ROOT)} has no floor: give {own!r} one in tests/test_floors.py and ARCHITECTURE.md"
            continue
        for line, module, taken in imports(name, path):
            target = f"{module}.{taken}" if f"{module}.{taken}" in known else module
            inside = target == package or target.startswith(f"{package}.")
            if inside and (above := floor.get(part(target, package), "")) > floor[own]:
                yield f"{path.relative_to(ROOT)}:{line} (floor {floor[own]}) imports {target} (floor {above})"


def edges(known: dict[str, Path], *, type_only: bool = False) -> dict[str, set[str]]:
    """Return the modules that each module imports, with those under TYPE_CHECKING if `type_only`."""
    return {
        name: {
            f"{m}.{taken}" if f"{m}.{taken}" in known else m
            for line, m, taken in imports(name, path)
            if type_only or line not in for_types_only(path)
        }
        & known.keys() - {name}
        for name, path in known.items()
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_down(package):
    found = list(violations(package, PACKAGES[package], modules(package)))
    assert not found, "\n" + "\n".join(found)


def test_the_built_in_backends_import_nothing_of_each_other():
    package = "pytest_resilience.backends"
    own = {"embedded", "docker", "external"}
    assert not [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for name, path in modules(package).items()
        for line, module, _ in imports(name, path)
        if module.startswith(f"{package}.") and len({part(name, package), part(module, package)} & own) == 2
    ]


@pytest.mark.parametrize("package", ["pytest_resilience", "service"])
def test_imports_run_in_no_circle(package):
    try:
        TopologicalSorter(edges(modules(package))).prepare()
    except CycleError as error:
        pytest.fail("circle: " + " -> ".join(reversed(error.args[1])))


def test_the_proxy_has_no_circle_of_type_only_imports_either():
    """A type-only import of the owner's class couples a part to its owner too, so parts use a Protocol instead."""
    try:
        TopologicalSorter(edges(modules("pytest_resilience.proxy"), type_only=True)).prepare()
    except CycleError as error:
        pytest.fail("circle: " + " -> ".join(reversed(error.args[1])))


def test_the_proxy_imports_nothing_of_the_package_but_wire_and_itself():
    """The embedded backend runs it with an empty package in place of pytest_resilience, so that it starts fast."""
    assert not [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for name, path in modules("pytest_resilience.proxy").items()
        for line, module, _ in imports(name, path)
        if module.split(".")[0] == "pytest_resilience" and part(module) not in {"proxy", "wire"}
    ]


def test_the_package_and_the_service_import_nothing_of_each_other():
    forbidden = {"pytest_resilience": {"service", "chaos", "tests"}, "service": {"pytest_resilience", "chaos", "tests"}}
    assert not [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for package, banned in forbidden.items()
        for name, path in modules(package).items()
        for line, module, _ in imports(name, path)
        if module.split(".")[0] in banned
    ]


def test_pytest_is_imported_on_the_top_floor_only():
    floor = floors(PACKAGE)
    assert not [
        f"{path.relative_to(ROOT)}:{line}"
        for name, path in modules("pytest_resilience").items()
        for line, module, _ in imports(name, path)
        if module.split(".")[0] in {"pytest", "_pytest"} and floor.get(part(name), "7") < "7"
    ]


def test_wire_and_checkers_are_pure():
    assert not [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for name, path in modules("pytest_resilience").items()
        for line, module, _ in imports(name, path)
        if part(name) in PURE and module.split(".")[0] in IMPURE
    ]


def test_only_the_proxy_client_imports_toxiproxy_python():
    importers = {
        name
        for name, path in modules("pytest_resilience").items()
        for line, module, _ in imports(name, path)
        if module.split(".")[0] == "toxiproxy" and line not in for_types_only(path)
    }
    assert importers <= {"pytest_resilience.proxy_client.client"}


def test_the_supervisor_imports_nothing_of_the_package():
    """It is a process of its own that starts with every session, so it imports the standard library only."""
    path = ROOT / "pytest_resilience" / "supervisor.py"
    assert not [
        module
        for _, module, _ in imports("pytest_resilience.supervisor", path)
        if module.startswith("pytest_resilience")
    ]


def test_chaos_uses_public_names_only():
    public = {*pytest_resilience.__all__, *PUBLIC_MODULES}
    found = [
        f"{path.relative_to(ROOT)}:{line} takes {taken or 'all'} from {module}"
        for name, path in modules("chaos").items()
        for line, module, taken in imports(name, path)
        if module.split(".")[0] == "pytest_resilience"
        and not (module == "pytest_resilience" and (taken is None or taken in public))
        and module.removeprefix("pytest_resilience.") not in PUBLIC_MODULES
    ]
    assert not found, "\n" + "\n".join(found)


def test_a_circle_is_found_and_one_of_type_only_imports_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "egg.py").write_text("def lay():\n    from . import hen")
    (tmp_path / "service" / "hen.py").write_text("if TYPE_CHECKING:\n    from .egg import Egg")
    TopologicalSorter(edges(modules("service"))).prepare()
    (tmp_path / "service" / "hen.py").write_text("from .egg import Egg")
    with pytest.raises(CycleError):
        TopologicalSorter(edges(modules("service"))).prepare()


def test_a_circle_of_type_only_imports_in_the_proxy_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    proxy = tmp_path / "pytest_resilience" / "proxy"
    proxy.mkdir(parents=True)
    (proxy / "connection.py").write_text("from .link import Link")
    (proxy / "link.py").write_text("if TYPE_CHECKING:\n    from .connection import Connection")
    known = modules("pytest_resilience.proxy")
    TopologicalSorter(edges(known)).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter(edges(known, type_only=True)).prepare()
    assert ["link.py:2" in text for text in violations("pytest_resilience.proxy", PROXY, known)] == [True]


def test_a_module_without_a_floor_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "pytest_resilience").mkdir()
    (tmp_path / "pytest_resilience" / "attic.py").write_text("")
    assert [
        "attic.py has no floor" in violation
        for violation in violations("pytest_resilience", PACKAGE, modules("pytest_resilience"))
    ] == [True]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("wire/redis.py", "from ..backends import embedded"),
        ("faults/network.py", "def late():\n    from pytest_resilience.targets import postgres"),
        ("history.py", "from . import proxy"),
        ("stack.py", "from .leaks import check"),
        ("backends/session/ports.py", "from ..embedded import postgres"),
    ],
)
def test_an_import_upwards_is_found(tmp_path, monkeypatch, file, text):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "pytest_resilience" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    upper = tmp_path / "pytest_resilience" / "proxy"
    upper.mkdir(exist_ok=True)
    (upper / "__init__.py").write_text("")
    found = [each for package, table in PACKAGES.items() for each in violations(package, table, modules(package))]
    assert len(found) == 1
