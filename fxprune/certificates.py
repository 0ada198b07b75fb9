"""What a smaller model says of how it was made, so that anybody can check it later.

The commands `prune`, `fold` and `export` write a certificate into what they write: the metadata of
an ONNX file, the header of safetensors. It holds the keep-set, hashes of the source and of the
result, the errors that were measured, and versions. `fxprune verify SOURCE --certificate RESULT`
checks it.

What it says: this file came, to the byte, from the source of that hash, by leaving out what the
keep-set leaves out; and on random inputs of that seed the smaller model differed from the source
with these positions masked by no more than these errors.

How that is checked. The seal is the SHA-256 of the file with 64 zeros in place of the seal, so
that a byte changed anywhere is noticed without the source, in the keep-set and the errors as well.
It is no signature: who changes a file can seal it again, and nothing says who did. With the source
at hand all is done again, whatever the seal says: the source is hashed, folded under the keep-set,
and compared with the result; the errors are measured again, and the written ones must be of their
size.

What it does not say: that the smaller model is as good as the source with nothing masked; that it
agrees on inputs that were not tried; that another version measures the same digits. Of weights
that were solved anew (`--correct`) it says the sizes only, since the source does not hold them.
"""

import hashlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fxprune.agreement import Comparison, Verdict
from fxprune.errors import CheckpointError, VerificationError

CERTIFICATE = "fxprune_certificate"
"""Its name in the metadata of a file."""

_FORMAT = 1
_LENGTH = 64
_SAME_SIZE = 100
"""Errors of rounding vary with libraries and processors: beyond this factor they are others."""


@dataclass(frozen=True, slots=True)
class Error:
    """The largest relative error of one comparison, in one precision, and what is accepted."""

    what: str
    dtype: str
    error: float
    accepted: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """How a result came from a source.

    `source` is its name and `source_hash` the SHA-256 of its file, or of its weights by name.
    `keep_set` has a text of 0 and 1 by group, none where nothing was removed; `shapes` are those
    of inputs, where they were given. `corrected` says whether weights were solved anew, and
    `random_inputs` whether errors were measured on random inputs alone. `parts` are hashes of
    files beside the result, by name. `seal` is the hash of the result.
    """

    source: str
    source_hash: str
    keep_set: Mapping[str, str]
    errors: tuple[Error, ...]
    versions: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    corrected: bool = False
    random_inputs: bool = True
    parts: Mapping[str, str] = field(default_factory=dict)
    seal: str = ""

    @property
    def flags(self) -> dict[str, tuple[bool, ...]]:
        """The keep-set as flags."""
        return {name: tuple(flag == "1" for flag in text) for name, text in self.keep_set.items()}

    def __str__(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)})


def keep_set_text(flags: Mapping[str, Any]) -> dict[str, str]:
    """A keep-set as a certificate has it.

    >>> keep_set_text({"0": [True, False]})
    {'0': '10'}
    """
    return {name: "".join(str(int(flag)) for flag in each) for name, each in flags.items()}


def errors_of(verdict: Verdict) -> tuple[Error, ...]:
    """The worst of every pair and precision."""
    worst: dict[tuple[str, str], Comparison] = {}
    for item in verdict.comparisons:
        key = item.what, item.dtype
        if key not in worst or item.error > worst[key].error:
            worst[key] = item
    return tuple(Error(*key, item.error, item.tolerance) for key, item in worst.items())


def parsed(path: Path, text: str | None) -> Certificate:
    """The certificate that stands in the metadata of a file.

    Raises:
        CheckpointError: there is none, or nothing that can be read.
    """
    if text is None:
        raise CheckpointError(
            f"{path} has no certificate: fxprune prune, fold and export write them"
        )
    try:
        found = json.loads(text)
        if found.pop("format") != _FORMAT:
            raise CheckpointError(f"{path} has a certificate of another version: update fxprune")
        found["errors"] = tuple(Error(**error) for error in found["errors"])
        found["shapes"] = {name: tuple(shape) for name, shape in found["shapes"].items()}
        return Certificate(**found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the certificate in {path} cannot be read: {error}") from error


def unsealed(certificate: Certificate) -> Certificate:
    """The certificate with something that only it has in the place of the seal."""
    text = str(replace(certificate, seal=""))
    return replace(certificate, seal=hashlib.sha256(text.encode()).hexdigest())


def seal(path: Path, certificate: Certificate) -> None:
    """Write the seal of a file into it, where the unsealed certificate is."""
    with path.open("rb") as file, _mapped(file) as content:
        place = content.find(certificate.seal.encode())
    sealed = hash_of(path, place)
    with path.open("r+b") as draft:
        draft.seek(place)
        draft.write(sealed.encode())


def check_seal(path: Path, certificate: Certificate) -> None:
    """Raise VerificationError if a byte of the file, or of one beside it, is another now."""
    own = certificate.seal.encode()
    with path.open("rb") as file, _mapped(file) as content:
        place = content.find(own)
    if len(own) != _LENGTH or place < 0 or hash_of(path, place) != certificate.seal:
        raise VerificationError(
            f"{path} was changed after its certificate was written: its bytes have another hash"
        )
    for name, expected in certificate.parts.items():
        beside = path.with_name(Path(name).name)
        if not beside.is_file() or hash_of(beside) != expected:
            raise VerificationError(f"{beside} is not the file that the certificate speaks of")


def check_source(certificate: Certificate, name: str, found: str) -> None:
    """Raise VerificationError unless a source is the one that the result was made of."""
    if found != certificate.source_hash:
        raise VerificationError(
            f"{name} is not what this was made of: the certificate speaks of {certificate.source} "
            f"with hash {certificate.source_hash[:12]}..., this one has {found[:12]}..."
        )


def check_errors(certificate: Certificate, verdict: Verdict) -> None:
    """Raise VerificationError if the errors that are written cannot have been measured."""
    again = {(item.what, item.dtype): item.error for item in errors_of(verdict)}
    missing = again.keys() - {(item.what, item.dtype) for item in certificate.errors}
    if missing:
        raise VerificationError(f"the certificate says nothing of {' '.join(min(missing))}")
    for item in certificate.errors:
        measured = again.get((item.what, item.dtype))
        if not item.error <= item.accepted:
            raise VerificationError(f"the certificate has an error above what it accepts: {item}")
        if measured is None or not certificate.random_inputs:
            continue
        least = float(np.finfo(item.dtype).eps) if item.dtype.startswith("float") else 1e-2
        written, measured = max(item.error, least), max(measured, least)
        if max(written, measured) > _SAME_SIZE * min(written, measured):
            raise VerificationError(
                f"the certificate has an error of {item.error:.1e} for {item.what}, {item.dtype}, "
                f"and it is {measured:.1e}"
            )


def check_sizes(
    expected: Mapping[str, tuple[Any, ...]], found: Mapping[str, tuple[Any, ...]]
) -> None:
    """Raise VerificationError unless weights by name have the shapes that the keep-set leaves."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise VerificationError(
                f"{name} has shape {found.get(name)}, and the keep-set of the certificate leaves "
                f"{expected.get(name)}"
            )


def hash_of(path: Path, sealed_at: int | None = None) -> str:
    """The SHA-256 of a file, with zeros for the seal, if it has one."""
    digest = hashlib.sha256()
    if not path.stat().st_size:
        return digest.hexdigest()
    with path.open("rb") as file, _mapped(file) as content, memoryview(content) as view:
        if sealed_at is None:
            digest.update(view)
        else:
            digest.update(view[:sealed_at])
            digest.update(b"0" * _LENGTH)
            digest.update(view[sealed_at + _LENGTH :])
    return digest.hexdigest()


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
