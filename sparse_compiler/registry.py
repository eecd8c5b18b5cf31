"""Name -> class tables that fill themselves from a folder and refuse duplicates.

Adding an op, a format or a target is adding one file to its folder: the first look-up imports
every module of the package, and each module registers its classes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from .errors import RegistryError

T = TypeVar("T")


class Registry(Generic[T]):
    """kind: what the entries are, for messages; package: the dotted folder that fills it."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters what follows under `name`."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise RegistryError(f"two {self.kind}s are named {name!r}")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._entries:
            near = get_close_matches(name, self._entries, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(self)}"
            raise RegistryError(f"no {self.kind} is named {name!r}", fix=hint)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def items(self) -> list[tuple[str, T]]:
        """All entries in the order of their names."""
        return [(name, self[name]) for name in self]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the imports, since a module may look up while it loads
        complete = False
        try:
            package = importlib.import_module(self.package)
            for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
                importlib.import_module(f"{self.package}.{module.name}")
            complete = True
        finally:
            self._loaded = complete
