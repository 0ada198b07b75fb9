"""Checkpoints that carry a certificate of how they were made, and whether one holds."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fxprune.agreement import Verdict
from fxprune.certificates import (
    CERTIFICATE,
    Certificate,
    check_errors,
    check_seal,
    check_sizes,
    check_source,
    parsed,
    seal,
    unsealed,
)
from fxprune.errors import CheckpointError, InputError, KeepSetError, VerificationError
from fxprune.files import ONNX, draft_of
from fxprune.files import check_source as check_file
from fxprune.onnx.certified import certificate_in_onnx, certify_onnx
from fxprune.torch.exported import compare_onnx
from fxprune.torch.fold import fold
from fxprune.torch.frontend.examples import check_examples, inputs_like
from fxprune.torch.frontend.trace import Arguments
from fxprune.torch.gates.module import PREFIX
from fxprune.torch.keep_sets import set_keep_set
from fxprune.torch.prepare import prepare
from fxprune.torch.record import record_of
from fxprune.torch.shards import WEIGHTS
from fxprune.torch.storage import load
from fxprune.torch.verify import compare_modules, verify

BATCHES = (1, 2, 5)
"""Sizes of the batches on which files and checkpoints are compared."""

_LENGTH = 8  # bytes that say how long the header of safetensors is


def hash_of_weights(model: nn.Module) -> str:
    """The SHA-256 of the parameters and buffers of a model, with names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.split(".")[0] != PREFIX:
            array = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def batches_of(model: nn.Module, examples: Any) -> list[Arguments]:
    """Random inputs of a model to compare it on; one that fxprune made knows its examples."""
    record = record_of(model)
    known = record.examples if record and examples is None else check_examples(model, examples)
    return inputs_like(known, BATCHES, seed=0)


def certify(path: Path, certificate: Certificate) -> None:
    """Write a certificate into an ONNX file or the checkpoint in a folder, both just written."""
    if path.suffix.lower() in ONNX:
        certify_onnx(path, certificate)
        return
    path, draft_certificate = path / WEIGHTS, unsealed(certificate)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(length))
        header["__metadata__"][CERTIFICATE] = str(draft_certificate)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % _LENGTH)  # numbers stay where processors like them
        with draft_of(path, overwrite=True) as draft:
            with draft.open("wb") as written:
                written.write(len(text).to_bytes(_LENGTH, "little") + text)
                shutil.copyfileobj(file, written)
            seal(draft, draft_certificate)


def certificate_in(path: Path) -> Certificate:
    """The certificate in an ONNX file or checkpoint, none of whose bytes has changed since.

    Raises:
        CheckpointError: there is no model, or it has none.
        VerificationError: the file was changed.
    """
    if path.suffix.lower() in ONNX:
        return certificate_in_onnx(path)
    path = check_file("certificate", path / WEIGHTS if path.name != WEIGHTS else path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(CERTIFICATE)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
    certificate = parsed(path, text)
    check_seal(path, certificate)
    return certificate


def check_certified(
    path: Path, certificate: Certificate, name: str, model: nn.Module, examples: Any
) -> Verdict:
    """Make a file or checkpoint anew from its source, and compare: what the certificate says is so.

    Raises:
        VerificationError: it is not.
    """
    check_source(certificate, name, hash_of_weights(model))
    if not certificate.keep_set:
        verdict = compare_onnx(model, path, batches_of(model, examples))
        check_errors(certificate, verdict)
        return verdict
    gated = prepare(model, examples, target=1.0)
    try:
        set_keep_set(gated, certificate.flags)
        folded = fold(gated)
    except KeepSetError as error:
        raise VerificationError(f"its keep-set is that of another model: {error}") from error
    batches = batches_of(gated, None)
    verdict = verify(gated, folded)
    if path.suffix.lower() in ONNX:
        if certificate.corrected:
            raise InputError(
                f"{path} has weights that were solved anew: of an ONNX file of a torch model they "
                "cannot be compared; its seal holds"
            )
        verdict = verdict.joined(compare_onnx(folded, path, batches))
        check_errors(certificate, verdict)
        return verdict
    check_errors(certificate, verdict)
    loaded = load(path.parent if path.name == WEIGHTS else path, model)
    if certificate.corrected:
        check_sizes(_sizes(folded), _sizes(loaded))
        return verdict
    return verdict.joined(compare_modules(folded, loaded, batches, 0))


def _sizes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
