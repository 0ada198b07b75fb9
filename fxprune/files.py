"""How files get on disk: whole or not at all, and never over what should stay."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fxprune.arguments import flag, refusal
from fxprune.errors import InputError


@contextlib.contextmanager
def draft_of(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A path in a new folder beside `path`; what is written there moves into place at the end.

    If the block fails, nothing moves; nor if something stands in its place by then that may not be
    overwritten.

    Raises:
        InputError: nothing can be written at `path`.
    """
    path = check_output("path", path, overwrite=overwrite)
    with _place_beside(path) as draft:
        yield draft
        files = sorted(draft.parent.iterdir(), key=lambda file: file == draft)
        for file in files:
            _check_free(path.parent / file.name, overwrite)
        for file in files:
            os.replace(file, path.parent / file.name)


@contextlib.contextmanager
def draft_folder_of(path: str | Path) -> Iterator[Path]:
    """A folder that becomes `path` at the end, if nothing fails and nothing stands there.

    Raises:
        InputError: there is something at `path`, or nothing can be written there.
    """
    path = check_new_folder("path", path)
    with _place_beside(path) as draft:
        draft.mkdir()
        yield draft
        _check_free_folder(path)
        os.rename(draft, path)


@contextlib.contextmanager
def _place_beside(path: Path) -> Iterator[Path]:
    """A path of the same name in a new folder beside `path`, which goes at the end."""
    try:
        place = tempfile.TemporaryDirectory(dir=path.parent, prefix=".fxprune-")
    except OSError as error:
        raise InputError(f"cannot write in {path.parent}: {error.strerror}") from error
    with place as folder:
        try:
            yield Path(folder) / path.name
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def check_new_folder(name: str, value: Any) -> Path:
    """The path of a folder that is not there yet, in one that is."""
    path = path_of(name, value)
    with _told(name, path):
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path.name}: there is no folder {path.parent}")
        _check_free_folder(path)
    return path


def _check_free_folder(path: Path) -> None:
    if path.is_dir() or os.path.lexists(path):
        raise InputError(f"cannot write {path}: it is there already; give a folder that is not")


def check_output(
    name: str,
    path: Any,
    *,
    overwrite: bool = False,
    sources: Iterable[Any] = (),
    suffixes: Sequence[str] = (),
) -> Path:
    """The path of a file that can be written, before any work is done for it.

    Args:
        name: what the argument is called.
        path: where to write.
        overwrite: whether what stands there may be replaced.
        sources: what the work reads: paths are never written over, folders protect what is in
            them; anything else is no file.
        suffixes: how its name may end, if that matters.

    Raises:
        InputError: no file can stand there, one does already, or it is one of the sources.
    """
    flag("overwrite", overwrite)
    place = path_of(name, path)
    with _told(name, place):
        if not place.parent.is_dir():
            raise InputError(f"cannot write {place.name}: there is no folder {place.parent}")
        if place.is_dir():
            raise InputError(f"cannot write {place}: it is a folder; name a file in it")
        if suffixes and place.suffix.lower() not in suffixes:
            raise InputError(
                f"cannot write {place}: {name} must end in {' or '.join(suffixes)}, such as "
                f"{place.stem}{suffixes[0]}"
            )
        check_apart(place, sources)
        _check_free(place, overwrite)
    return place


def check_apart(path: Path, sources: Iterable[Any]) -> None:
    """Raise InputError if writing `path` would replace one of the sources, however it is called.

    The file that a large model keeps its weights in, beside its own, counts as well.
    """
    places = [place for place in (path, companion_of(path)) if place.exists()]
    for source in sources:
        if not isinstance(source, str | os.PathLike):
            continue
        for place in places:
            with contextlib.suppress(OSError, ValueError):
                if _is_in(place, Path(source)):
                    raise InputError(
                        f"cannot write {path}: the work reads {source}, and would replace it; "
                        "give another path"
                    )


ONNX, HTML = (".onnx",), (".html", ".htm")
"""How names of files end."""


def companion_of(path: Path) -> Path:
    """Where the weights of a large model stand, beside its file."""
    return path.with_name(f"{path.name}.data")


def path_of(name: str, value: Any) -> Path:
    """A path that is one."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise refusal(name, value, "a path")
    path: Any = os.fspath(value)
    if not isinstance(path, str) or "\0" in path:
        raise refusal(name, value, "a path")
    return Path(path)


def check_source(name: str, value: Any) -> Path:
    """The path of a file that is there."""
    path = path_of(name, value)
    with _told(name, path):
        if path.is_dir():
            raise InputError(f"{name}: {path} is a folder: name the file in it")
        if not path.is_file():
            raise InputError(f"{name}: there is no file {path}")
    return path


def check_folder(name: str, value: Any) -> Path:
    """The path of a folder, which need not be there yet."""
    path = path_of(name, value)
    with _told(name, path):
        if path.exists() and not path.is_dir():
            raise InputError(f"{name}: {path} is a file; give a folder")
    return path


def made_folder(path: Path) -> Path:
    """A folder, made if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror}") from error
    return path


def _check_free(path: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise InputError(
            f"cannot write {path}: it is there already; give another path, or overwrite=True "
            "(--force on the command line)"
        )


def _is_in(path: Path, source: Path) -> bool:
    """Whether a file is a source, or lies in one."""
    if source.is_dir():
        return path.resolve().is_relative_to(source.resolve())
    return os.path.samefile(path, source)


@contextlib.contextmanager
def _told(name: str, path: Path) -> Iterator[None]:
    """What the file system refuses to look at cannot be a place."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: cannot use {path.name[:80]}: {error.strerror}") from error
