"""How files get on disk: whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fxprune.errors import InputError


@contextlib.contextmanager
def draft_of(path: str | Path) -> Iterator[Path]:
    """A path in a new folder beside `path`; what is written there moves into place at the end.

    If the block fails, nothing moves.

    Raises:
        InputError: nothing can be written at `path`.
    """
    path = Path(path)
    check_place(path)
    try:
        place = tempfile.TemporaryDirectory(dir=path.parent, prefix=".fxprune-")
    except OSError as error:
        raise InputError(f"cannot write in {path.parent}: {error.strerror}") from error
    with place as folder:
        draft = Path(folder) / path.name
        try:
            yield draft
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == draft):
                os.replace(file, path.parent / file.name)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def check_place(path: str | Path) -> None:
    """Raise InputError unless a file can stand at `path`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path.name}: there is no folder {path.parent}")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file in it")
