"""Libraries that extras install, and what is said where one is missing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from fxprune.errors import MissingExtraError

EXTRAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "torch": ("torch", "safetensors"),
        "onnx": ("onnx", "onnx_ir", "onnxruntime"),
        "cli": ("typer",),
        "figures": ("matplotlib",),
        "search": ("optuna", "scipy", "pyarrow", "pandas"),
        "environments": ("gymnasium",),
        "integrations": ("lightning", "transformers"),
        "testing": ("hypothesis",),
        "energy": ("codecarbon",),
    }
)
"""By extra the libraries that are imported of what it installs, each under one."""


def extra_of(library: str | None) -> str | None:
    """The extra that installs a library, by the name under which something of it is imported.

    >>> extra_of("onnxruntime.capi")
    'onnx'
    """
    top = str(library).partition(".")[0]
    return next((extra for extra, own in EXTRAS.items() if top in own), None)


@contextmanager
def naming_extras(what: str) -> Iterator[None]:
    """A library that is missing is told with the extra that installs it.

    Raises:
        MissingExtraError: `what` needs a library that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = extra_of(error.name)
        if extra is None:
            raise
        library = str(error.name).partition(".")[0]
        raise MissingExtraError(
            f'{what} needs {library}: pip install "fxprune[{extra}]"', name=error.name
        ) from error
