"""ONNX files that carry a certificate of how they were made, and whether it holds."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir

from fxprune.agreement import Verdict
from fxprune.certificates import (
    CERTIFICATE,
    Certificate,
    check_errors,
    check_seal,
    check_sizes,
    check_source,
    hash_of,
    parsed,
    seal,
    unsealed,
)
from fxprune.errors import KeepSetError, VerificationError
from fxprune.files import companion_of, draft_of
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.tensors import data_files
from fxprune.onnx.prune import fold_onnx
from fxprune.onnx.verify import verify_onnx


def certify_onnx(path: Path, certificate: Certificate) -> None:
    """Write a certificate into an ONNX file that was written a moment ago."""
    beside = companion_of(path)
    parts = {beside.name: hash_of(beside)} if beside.exists() else {}
    draft_certificate = unsealed(replace(certificate, parts=parts))
    entry = onnx.StringStringEntryProto(key=CERTIFICATE, value=str(draft_certificate))
    more = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    with draft_of(path, overwrite=True) as draft:
        shutil.copyfile(path, draft)
        with draft.open("ab") as file:
            file.write(more)  # messages one after the other are one message
        seal(draft, draft_certificate)


def certificate_in_onnx(path: Path) -> Certificate:
    """The certificate in a file, none of whose bytes has changed since.

    Raises:
        CheckpointError: the file is no model, or has none.
        VerificationError: the file was changed.
    """
    certificate = parsed(path, load_onnx(path).metadata_props.get(CERTIFICATE))
    check_seal(path, certificate)
    return certificate


def hash_of_onnx(path: Path) -> str:
    """The SHA-256 of a file, and of those that hold its weights, if there are any."""
    beside = sorted(data_files(load_onnx(path)))
    hashes = [hash_of(each) for each in (path, *map(Path, beside))]
    return hashes[0] if not beside else hashlib.sha256("".join(hashes).encode()).hexdigest()


def check_certified_onnx(
    path: Path,
    certificate: Certificate,
    source: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Verdict:
    """Make a file anew from its source, and compare: what the certificate says is so.

    Raises:
        VerificationError: it is not.
    """
    check_source(certificate, source.name, hash_of_onnx(source))
    shapes = shapes or certificate.shapes or None
    try:
        again = fold_onnx(source, certificate.flags, shapes=shapes)
    except KeepSetError as error:
        raise VerificationError(f"its keep-set is that of another model: {error}") from error
    check_errors(certificate, again.verdict)
    if certificate.corrected:
        check_sizes(_sizes(again.model), _sizes(load_onnx(path)))
        return again.verdict
    what = "certified == folded again"
    return again.verdict.joined(verify_onnx(again.model, path, shapes=shapes, what=what))


def _sizes(model: onnx_ir.Model) -> dict[str, tuple[str, ...]]:
    """The shapes of the weights by name."""
    found = model.graph.initializers.items()
    return {name: tuple(map(str, value.shape or ())) for name, value in found}
