"""Modules that are imported once. They are found again after sys.modules has lost them, and are otherwise like any module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_resilience import kept_modules
from pytest_resilience.kept_modules import KeptModules


@pytest.fixture
def finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeptModules]:
    """A finder that saves a package `once`, which counts how often its modules are executed."""
    package = tmp_path / "once"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import builtins\nbuiltins.once_runs = getattr(builtins, 'once_runs', 0) + 1\n"
    )
    (package / "part.py").write_text("from . import __name__ as parent\n")
    (package / "broken.py").write_text("raise ImportError('as planned')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("builtins.once_runs", 0, raising=False)
    monkeypatch.setattr(kept_modules, "STORE", "_kept_of_a_unit_test")
    saved, finders = dict(sys.modules), list(sys.meta_path)
    made = KeptModules(frozenset({"once"}))
    made.restore()
    yield made
    sys.modules.clear()
    sys.modules.update(saved)
    sys.meta_path[:] = finders
    delattr(sys, "_kept_of_a_unit_test")


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "once"]:
        del sys.modules[name]


def runs() -> int:
    import builtins

    return builtins.once_runs  # type: ignore[attr-defined, no-any-return]


def test_a_dropped_module_is_found_again_without_executing_it(finder: KeptModules) -> None:
    part = importlib.import_module("once.part")
    once, spec = sys.modules["once"], part.__spec__
    forget()
    assert importlib.import_module("once.part") is part
    assert importlib.import_module("once") is once
    assert part.__spec__ is spec
    assert runs() == 1


def test_the_loader_of_a_saved_module_is_the_real_one(finder: KeptModules) -> None:
    once = importlib.import_module("once")
    assert once.__loader__ is once.__spec__.loader  # type: ignore[union-attr]
    assert type(once.__loader__).__module__ in ("_frozen_importlib_external", "_pytest.assertion.rewrite")
    forget()
    assert importlib.import_module("once").__loader__ is once.__loader__


def test_a_reload_executes_the_module(finder: KeptModules) -> None:
    importlib.reload(importlib.import_module("once"))
    assert runs() == 2


@pytest.mark.parametrize("saved", [False, True])
def test_find_spec_imports_nothing(finder: KeptModules, saved: bool) -> None:
    if saved:
        importlib.import_module("once")
        forget()
    spec = importlib.util.find_spec("once")
    assert spec is not None
    assert spec.origin is not None
    assert spec.origin.endswith("__init__.py")
    assert spec.loader is not None
    assert spec.loader.is_package("once")  # type: ignore[attr-defined]
    assert "once" not in sys.modules
    assert runs() == int(saved)


def test_failed_imports_are_not_saved(finder: KeptModules) -> None:
    for _ in range(2):
        with pytest.raises(ImportError, match="as planned"):
            importlib.import_module("once.broken")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("once.nothing")


def test_a_module_imported_before_the_finder_is_saved(finder: KeptModules) -> None:
    sys.meta_path.remove(finder)
    once = importlib.import_module("once")
    finder.restore()
    forget()
    assert importlib.import_module("once") is once


def test_a_new_finder_finds_the_extensions_of_the_previous_one(finder: KeptModules) -> None:
    once = importlib.import_module("once")
    forget()
    sys.meta_path.remove(finder)
    KeptModules(frozenset({"once"})).restore()
    assert importlib.import_module("once") is once


def test_saved_modules_are_put_back_and_no_others(finder: KeptModules, monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = importlib.import_module("httpx")
    finder.save()
    assert finder.has_saved
    mine = importlib.import_module("once.part")
    finder.save()
    finder.save()
    forget()
    del sys.modules["httpx"]
    finder.restore()
    assert sys.modules["httpx"] is httpx
    assert "once.part" not in sys.modules
    assert mine.__name__ == "once.part"
