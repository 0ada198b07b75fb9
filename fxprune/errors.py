"""What can go wrong, as one tree. Every message names the place and says what to do.

FxpruneError
├── InputError            the arguments do not describe a job that can be done
│   ├── TargetError       a target out of range, or one that no keep-set reaches
│   └── KeepSetError      a keep-set with a wrong name or size, or one that keeps nothing
├── TraceError            the model could not be turned into a graph
├── NothingToPruneError   every channel is pinned; the message lists the reasons
├── CheckpointError       a file is damaged, foreign, or belongs to another model
├── MissingExtraError     this needs a library that is not installed; also an ImportError
├── SearchError           a score fails on a configuration; has what was found before
├── VerificationError     two models that must agree do not; names the first differing layer
└── InternalError         fxprune broke an invariant of its own: please report it
"""

from typing import Any


class FxpruneError(Exception):
    """Base of every error that fxprune raises on purpose."""


class InputError(FxpruneError):
    """The arguments do not describe a job that can be done."""


class TargetError(InputError):
    """A target is out of range, or no keep-set reaches it."""


class KeepSetError(InputError):
    """A keep-set names an unknown group, has the wrong size, or keeps nothing."""


class TraceError(FxpruneError):
    """The model could not be turned into a graph."""


class NothingToPruneError(FxpruneError):
    """Every channel of the model is pinned."""


class CheckpointError(FxpruneError):
    """A checkpoint or model file is damaged, foreign, or belongs to another model."""


class MissingExtraError(FxpruneError, ImportError):
    """This needs a library that an extra of fxprune installs."""


class SearchError(FxpruneError):
    """A score fails on a configuration; `found` holds the trials that are done."""

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found


class VerificationError(FxpruneError):
    """Two models that must compute the same function do not."""


class InternalError(FxpruneError):
    """An invariant of fxprune does not hold."""
