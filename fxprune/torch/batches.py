"""Data that a user gives, and what goes wrong while a model looks at it."""

import contextlib
from collections.abc import Iterator

from fxprune.errors import FxpruneError, InputError


@contextlib.contextmanager
def running_on(what: str) -> Iterator[None]:
    """What fails inside is the fault of the data, or of the loss that was given with it.

    Raises:
        InputError: the block raised anything else than an error of ours.
    """
    try:
        yield
    except FxpruneError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the model does not run on {what}: {reason[:500]}") from error
