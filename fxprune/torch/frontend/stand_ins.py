"""Attributes and names that are replaced while a model is recorded, and put back.

Modules that are imported for the first time meanwhile, as torch does with its compiler, would keep
what they find for ever. So everything is put back while they are, and replaced again afterwards.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

_ABSENT = object()


class StandIn(NamedTuple):
    """`new` under `name` of `owner`: the globals of a module, or any object."""

    owner: Any
    name: str
    new: Any


class StandIns:
    """Replaces attributes; `aside` puts everything back for a while."""

    def __init__(
        self,
        stand_ins: Sequence[StandIn],
        shadowed: Sequence[dict[str, Any]] = (),
        shadows: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """In the globals that are `shadowed` each of `shadows` hides what Python has by its name,
        unless they have something themselves."""
        self._stand_ins = tuple(stand_ins)
        self._shadowed, self._shadows = shadowed, shadows
        self._hidden: list[tuple[dict[str, Any], str]] = []
        self._originals: list[tuple[StandIn, Any]] = []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace, and put back whatever happens."""
        try:
            self._put()
            yield
        finally:
            self._put_back()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let everything be as it was; may be nested."""
        was_in_place = bool(self._originals)
        self._put_back()
        try:
            yield
        finally:
            if was_in_place:
                self._put()

    def _put(self) -> None:
        for item in self._stand_ins:
            self._originals.append((item, _own(item.owner, item.name)))
            _set(item.owner, item.name, item.new)
        for name, new in self._shadows.items():
            absent = [owner for owner in self._shadowed if name not in owner]
            for owner in absent:
                owner[name] = new
            self._hidden += [(owner, name) for owner in absent]

    def _put_back(self) -> None:
        while self._hidden:
            owner, name = self._hidden.pop()
            owner.pop(name, None)
        while self._originals:
            item, original = self._originals[-1]
            _set(item.owner, item.name, original)
            self._originals.pop()


def _own(owner: Any, name: str) -> Any:
    """What an owner itself, and no base of it, has under a name."""
    return (owner if isinstance(owner, dict) else vars(owner)).get(name, _ABSENT)


def _set(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        if value is _ABSENT:
            owner.pop(name, None)
        else:
            owner[name] = value
    elif value is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


@contextmanager
def undisturbed_imports(aside: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Run the code of modules that this thread imports for the first time inside of `aside()`."""
    finder = _Finder(aside)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds what the other finders find, with a loader that steps aside."""

    def __init__(self, aside: Callable[[], AbstractContextManager[None]]) -> None:
        self._aside = aside
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if threading.get_ident() != self._thread:
            return None
        with self._aside():
            found = (f.find_spec(fullname, path, target) for f in sys.meta_path if f is not self)
            spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _SteppingAside(spec.loader, self._aside)
        return spec


class _SteppingAside(Loader):
    """Another loader, which is named as the module's own before its code runs."""

    def __init__(self, loader: Any, aside: Callable[[], AbstractContextManager[None]]) -> None:
        self._loader = loader
        self._aside = aside

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        with self._aside():
            module: ModuleType | None = self._loader.create_module(spec)
            return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        with self._aside():
            self._loader.exec_module(module)
