"""A float32 ONNX model in few bits: a quarter of the size or less, and measured.

In 8 bits without data the weights are quantised and activations at run time (dynamic); with
calibration data both are, per channel of the weights (static, QuantizeLinear and DequantizeLinear
pairs). In 4 bits, or as palettes, the weights alone are (`compact.py`).
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir

from fxprune.agreement import (
    Run,
    accepted_error,
    handed_through,
    precision_of,
    silent_outputs,
    telling,
)
from fxprune.arguments import choice, refusal, whole
from fxprune.arguments import seed as check_seed
from fxprune.arguments import shapes as check_shapes
from fxprune.errors import CheckpointError, InputError, VerificationError
from fxprune.files import ONNX, check_apart, check_output, draft_of
from fxprune.onnx.backend.saving import write_onnx
from fxprune.onnx.compact import in_palettes, in_whole_numbers
from fxprune.onnx.frontend.data import Data, batches
from fxprune.onnx.frontend.loading import Source, load_onnx
from fxprune.onnx.frontend.session import Feeds, random_feeds, session_of
from fxprune.onnx.frontend.sizes import open_axes, shapes_at, stand_ins
from fxprune.onnx.frontend.tensors import data_files
from fxprune.stages import stage, track

Outputs = dict[str, np.ndarray]

_FIRST_OPSET_PER_CHANNEL = 13
_FIRST_OPSET_OF_4_BITS = 21
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_RANDOM_SAMPLES = 32
_LARGEST_ERROR = 0.5
"""Root mean square error over that of the output; zeros instead of outputs would have 1."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """A quantised file beside the float32 one.

    Attributes:
        path: The quantised file.
        scheme: "static" with calibration data, "dynamic" without; "weights" where activations
            stay as they are.
        bytes_before: Size of the float32 model on disk.
        bytes_after: Size of the quantised one.
        samples: How many samples of the first output were compared.
        agreement: The share of samples whose largest output stays the largest.
        error: Root mean square difference of an output over its root mean square, at the worst.
        bits: How many bits a weight takes, or an index into a palette.
        form: "integers" or "palette".
    """

    path: Path
    scheme: str
    bytes_before: int
    bytes_after: int
    samples: int
    agreement: float
    error: float
    bits: int = 8
    form: str = "integers"

    @property
    def size_ratio(self) -> float:
        """Size of the quantised file over that of the float32 one."""
        return self.bytes_after / self.bytes_before

    def __str__(self) -> str:
        return (
            f"{self.path.name}: {self._how()}, {self.bytes_after / 1e6:.2f} MB, "
            f"{self.size_ratio:.2f} of {self.bytes_before / 1e6:.2f} MB; the largest output is "
            f"the same for {self.agreement:.1%} of {self.samples} samples, relative error "
            f"{self.error:.1%}"
        )

    def _how(self) -> str:
        if self.form == "palette":
            return f"palettes of {2**self.bits}"
        return f"{self.scheme} {self.bits}-bit" if self.bits == 8 else f"{self.bits}-bit weights"


def quantize(
    source: Source,
    output: str | Path,
    *,
    bits: int = 8,
    form: str = "integers",
    calibration: Data | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Quantization:
    """Write a quantised copy of a float32 ONNX model; the file appears only if it runs.

    >>> import fxprune, numpy as np
    >>> fxprune.quantize(
    ...     "model.onnx", "model.int8.onnx", calibration="samples.npz"
    ... )  # doctest: +SKIP

    Args:
        source: What to quantise: a file, or what `prune_onnx` returned as `.model`.
        output: The file to write; its folder must exist.
        bits: 8 or 4 bits for a whole number; in 4 bits the weights of convolutions, products and
            lookups are stored, and activations stay as they are. 1 to 8 for palettes.
        form: "integers", or "palette": all weights of a tensor share 2 to the power of `bits`
            values up to a scale per output, which k-means finds (needs scikit-learn).
        calibration: Some hundred typical samples, as for `prune_onnx(data=...)`: an .npz file, a
            folder of images, batches, or a function that returns batches. The model and its
            quantised copy are compared on them; without, on random inputs.
        shapes: Shapes of random inputs by name, where what the file leaves open matters.
        seed: Seeds the random inputs.
        overwrite: Whether a file that is there already may be replaced; never the source.

    Raises:
        InputError: the model is quantised already, or the data does not fit it.
        CheckpointError: the file is damaged.
        VerificationError: the quantised model does not run, or computes something else; or no
            output moves with the inputs, so that nothing is shown.
    """
    shapes = check_shapes(shapes)
    check_seed(seed)
    _check_bits(bits, form)
    output = check_output(
        "output", output, overwrite=overwrite, sources=[source, calibration], suffixes=ONNX
    )
    only_weights = form == "palette" or bits < 8
    model = load_onnx(source)
    check_apart(output, data_files(model))
    _check_can_quantise(model)
    feeds = (
        batches(calibration, model.graph.inputs, name="calibration")
        if calibration is not None
        else _random_batch(model, shapes or {}, seed)
    )
    with (
        tempfile.TemporaryDirectory(prefix="fxprune-") as folder,
        draft_of(output, overwrite=overwrite) as draft,
    ):
        before, after = Path(folder) / "float" / "model.onnx", Path(folder) / "quantised.onnx"
        before.parent.mkdir()
        expected = _outputs(model, feeds)
        _check_that_something_moves(model, expected, feeds, seed)
        opset = _FIRST_OPSET_OF_4_BITS if only_weights else _FIRST_OPSET_PER_CHANNEL
        write_onnx(_at_least(model, opset), before)
        stage("quantising")
        if only_weights:
            write_onnx(_in_few_bits(load_onnx(before), bits, form), draft)
        else:
            with _silence():
                if calibration is None:
                    _quantize_dynamic(before, after)
                else:
                    _quantize_static(before, after, feeds)
            write_onnx(_small(load_onnx(after), load_onnx(before)), draft)
        agreement, error, samples = _compare(expected, load_onnx(draft), feeds)
        return Quantization(
            path=output,
            scheme="weights" if only_weights else "dynamic" if calibration is None else "static",
            bytes_before=_size_of(before.parent),
            bytes_after=_size_of(draft.parent),
            samples=samples,
            agreement=agreement,
            error=error,
            bits=bits,
            form=form,
        )


def _check_bits(bits: int, form: str) -> None:
    if choice("form", form, ("integers", "palette")) == "palette":
        whole("bits", bits, "1 to 8 for a palette of 2 to 256 values", most=8)
    elif whole("bits", bits, "8 or 4") not in (8, 4):
        raise refusal("bits", bits, "8 or 4")


def _in_few_bits(model: onnx_ir.Model, bits: int, form: str) -> onnx_ir.Model:
    """A model with its weights stored so, in place."""
    stored = in_palettes(model, bits) if form == "palette" else in_whole_numbers(model)
    if not stored:
        raise InputError(
            "the model has no weights that would take less: convolutions, products and lookups "
            "with float32 weights of their own are stored so"
        )
    return model


def _check_can_quantise(model: onnx_ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.op_type in _QUANTISED or node.op_type.endswith("Integer"):
            raise InputError(
                f"the model is quantised already: it has {node.op_type} {node.name!r}; quantise "
                "the float32 model that it was made from"
            )


def _at_least(model: onnx_ir.Model, opset: int) -> onnx_ir.Model:
    if model.opset_imports.get("", opset) >= opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(onnx_ir.to_proto(model), opset)
    except Exception as error:
        raise InputError(
            f"the model uses version {model.opset_imports['']} of ONNX's operators, quantising "
            f"needs {opset}, and ONNX cannot convert it ({error}): export it with opset {opset}"
        ) from error
    return load_onnx(converted)


def _quantize_dynamic(before: Path, after: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = onnx.load(before)
    del plain.graph.value_info[:]  # it names shapes of weights that the quantiser transposes
    quantize_dynamic(plain, after, per_channel=True, weight_type=QuantType.QUInt8)


def _quantize_static(before: Path, after: Path, feeds: Sequence[Feeds]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The feeds, one by one, as ONNX Runtime asks for them."""

        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    prepared = after.with_name("prepared.onnx")
    _fold_batch_norms(before, prepared)
    _flatten_biases(prepared)
    quantize_static(prepared, after, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)


def _small(model: onnx_ir.Model, original: onnx_ir.Model) -> onnx_ir.Model:
    """Short names for what the quantiser added, and no shapes that ONNX infers anyway."""
    named = {value.name for value in [*_values(original), *model.graph.outputs]}
    for number, value in enumerate(_values(model)):
        if value.name not in named:
            value.name = f"q{number}"
        if not value.is_graph_input() and not value.is_graph_output():
            value.shape = value.type = None
    for number, node in enumerate(model.graph):
        if node.op_type in _QUANTISED:
            node.name = f"q{number}"
    return model


def _values(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    made = [value for node in model.graph for value in node.outputs if value.name]
    return [*model.graph.inputs, *model.graph.initializers.values(), *made]


def _fold_batch_norms(before: Path, after: Path) -> None:
    """Let ONNX Runtime write the model as its basic optimisations leave it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(after)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(str(before), options, ["CPUExecutionProvider"])


def _flatten_biases(path: Path) -> None:
    """Biases of shape [1, n] become [n]: the quantiser takes their rows for channels."""
    model = onnx_ir.load(path)
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is None or bias.const_value is None or len(bias.uses()) > 1:
            continue
        array = bias.const_value.numpy()
        if array.ndim == 2 and len(array) == 1:
            bias.const_value = onnx_ir.Tensor(array[0], name=bias.name)
            bias.shape = bias.const_value.shape
    onnx_ir.save(model, path)


def _compare(
    expected: Sequence[Outputs], after: onnx_ir.Model, feeds: Sequence[Feeds]
) -> tuple[float, float, int]:
    """The share of samples with the same largest output, the relative error, how many samples.

    Samples are those of the first output, the error is that of the worst.

    Raises:
        VerificationError: the quantised model does not run, or outputs have nothing in common.
    """
    try:
        found = _outputs(after, feeds)
    except InputError as error:
        raise VerificationError(f"the quantised model does not run: {error}") from error
    first, *_ = names = list(expected[0])
    distance = max(
        _distance([(e[n], f[n]) for e, f in zip(expected, found, strict=True)]) for n in names
    )
    same: list[bool] = []
    for left, right in ((e[first], f[first]) for e, f in zip(expected, found, strict=True)):
        rows = [array.reshape(len(array) if array.ndim > 1 else 1, -1) for array in (left, right)]
        same.extend(rows[0].argmax(1) == rows[1].argmax(1) if rows[0].size else [])
    if not distance <= _LARGEST_ERROR:
        raise VerificationError(
            f"the quantised model computes something else: relative error {distance:.0%} (accepted "
            f"{_LARGEST_ERROR:.0%}); give calibration data like what the model will see, or more "
            "bits"
        )
    return float(np.mean(same)) if same else 1.0, distance, len(same)


def _distance(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The root mean square error of an output over its root mean square, for all batches."""
    squares, total = 0.0, 0.0
    for left, right in pairs:
        finite = np.isfinite(left) if left.shape == right.shape else np.zeros((), bool)
        if left.shape != right.shape or not _are_alike(
            left[~finite], right[~finite], right[finite]
        ):
            raise VerificationError(
                f"an output of the quantised model has shape {list(right.shape)} and "
                f"{int((~np.isfinite(right)).sum())} values that are not finite; expected shape "
                f"{list(left.shape)} and {int((~np.isfinite(left)).sum())} such values"
            )
        squares += float(np.square(left[finite] - right[finite], dtype=np.float64).sum())
        total += float(np.square(left[finite], dtype=np.float64).sum())
    return float((squares / total) ** 0.5 if total else squares > 0)


def _are_alike(left: np.ndarray, right: np.ndarray, finite: np.ndarray) -> bool:
    """Whether what is not finite is the same, and what should be finite is."""
    return np.array_equal(left, right, equal_nan=True) and bool(np.isfinite(finite).all())


_FAR = 0xF00D
"""Away from the seeds that calibration data is likely to be drawn with: two alike show nothing."""


def _check_that_something_moves(
    model: onnx_ir.Model, expected: Sequence[Outputs], feeds: Sequence[Feeds], seed: int
) -> None:
    """Raise VerificationError where no output moves with the inputs: any copy would agree."""
    runs = [Run(given, outputs) for given, outputs in zip(feeds, expected, strict=True)]
    shapes = {name: np.shape(feed) for name, feed in feeds[0].items()}
    with contextlib.suppress(InputError):  # random inputs need not be ones that the model takes
        more = [random_feeds(model, shapes, seed + _FAR)]
        runs += [
            Run(given, outputs) for given, outputs in zip(more, _outputs(model, more), strict=True)
        ]
    accepted = {name: accepted_error(precision_of(each)) for name, each in expected[0].items()}
    silent_outputs(list(accepted), telling(runs, accepted), handed_through(runs), "float == 8-bit")


def _outputs(model: onnx_ir.Model, feeds: Sequence[Feeds]) -> list[Outputs]:
    """All outputs that are arrays of real numbers, by name, for every batch."""
    kinds = (onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE, onnx_ir.DataType.FLOAT16)
    arrays = [v for v in model.graph.outputs if isinstance(v.type, onnx_ir.TensorType)]
    names = [str(value.name) for value in arrays if value.dtype in kinds]
    if not names:
        raise InputError("the model has no output of real numbers, so nothing can be compared")
    with session_of(model, optimised=True) as session:
        every = [session.run(feed, names) for feed in track(feeds, "running the model")]
    return [dict(zip(names, found, strict=True)) for found in every]


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """ONNX Runtime's quantiser recommends on the root logger what is done here already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    except (InputError, CheckpointError, VerificationError):
        raise
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot quantise this model: {error}") from error
    finally:
        logging.disable(before)


def _random_batch(
    model: onnx_ir.Model, shapes: Mapping[str, Sequence[int]], seed: int
) -> list[Feeds]:
    """Many samples, at the usual sizes of what else the file leaves open."""
    *_, usual = stand_ins(model)
    sizes = {n: _RANDOM_SAMPLES if k == "batch" else usual[n] for n, k in open_axes(model).items()}
    return [random_feeds(model, shapes_at(model, sizes, shapes), seed)]
