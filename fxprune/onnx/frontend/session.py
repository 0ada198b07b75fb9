"""ONNX models run by ONNX Runtime, and inputs for them."""

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from fxprune.agreement import KINDS, Numbers
from fxprune.arguments import choice, listed, refusal
from fxprune.errors import InputError
from fxprune.extras import naming_extras
from fxprune.timing import Run

_IN_MEMORY_BYTES = 16_000_000
"""Larger models go through a temporary file, whose weights ONNX Runtime maps instead of copying."""

_SECONDS = 600
"""After which a model counts as one that never ends: it may have a loop without end."""

Feeds = dict[str, np.ndarray]

Providers = Sequence[str | tuple[str, dict[str, Any]]] | None
"""What ONNX Runtime computes with, the best first, by its own names, perhaps with options; None is
the CPU. Errors are measured against the same tolerances: on a GPU switch off what rounds more, such
as TF32, by `("CUDAExecutionProvider", {"use_tf32": 0})`."""

_CPU: tuple[Any, ...] = ("CPUExecutionProvider",)
_PROVIDERS: ContextVar[tuple[Any, ...]] = ContextVar("providers", default=_CPU)


@contextmanager
def run_by(providers: Providers) -> Iterator[None]:
    """Sessions are run by these providers, for a while.

    Raises:
        InputError: ONNX Runtime has none of that name here.
    """
    wanted = "names of providers, such as ['CUDAExecutionProvider', 'CPUExecutionProvider']"
    chosen = _PROVIDERS.get() if providers is None else listed("providers", providers, wanted)
    for item in chosen:
        name, options = item if isinstance(item, tuple) and len(item) == 2 else (item, {})
        if not isinstance(options, dict):
            raise refusal("providers", providers, wanted)
        choice("name in providers", name, _runtime().get_available_providers(), "here are")
    if not chosen:
        raise refusal("providers", providers, wanted)
    token = _PROVIDERS.set(chosen)
    try:
        yield
    finally:
        _PROVIDERS.reset(token)


def providers_in_use() -> list[Any]:
    """Those of the `run_by` around, as ONNX Runtime takes them."""
    return list(_PROVIDERS.get())


def _runtime() -> Any:
    """ONNX Runtime, which only what runs models needs."""
    with naming_extras("running ONNX models"):
        import onnxruntime
    return onnxruntime


@dataclass(slots=True)
class Session:
    """A model that ONNX Runtime has loaded, until its `with` block ends."""

    runtime: Any

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str]) -> list[Any]:
        """The values called `wanted`.

        Raises:
            InputError: the model does not accept the inputs, or does not end.
        """
        options = _runtime().RunOptions()
        options.log_severity_level = 4
        watch = threading.Timer(_SECONDS, setattr, (options, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            results: list[Any] = self.runtime.run(list(wanted), dict(feeds), options)
        except Exception as error:
            if options.terminate:
                raise InputError(f"the model did not end within {_SECONDS} seconds") from error
            shapes = ", ".join(f"{name} {list(feed.shape)}" for name, feed in feeds.items())
            raise InputError(
                f"ONNX Runtime does not run the model on {shapes}, so give shapes that it "
                f"accepts: {error}"
            ) from error
        finally:
            watch.cancel()
        return results

    def timed(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str]) -> Run:
        """A run to be timed: no thread is started to watch it.

        Raises:
            InputError: the model does not accept the inputs, or does not end.
        """
        self.run(feeds, wanted)
        return partial(self.runtime.run, list(wanted), dict(feeds))


@contextmanager
def session_of(
    model: onnx_ir.Model,
    wanted: Sequence[str] = (),
    *,
    optimised: bool = False,
    threads: int | None = None,
) -> Iterator[Session]:
    """A session of the providers of `run_by`; `wanted` values are outputs as well.

    Without optimisation ONNX Runtime computes node by node, as the file says. How many `threads`
    compute it is for ONNX Runtime to decide, if missing.

    Raises:
        InputError: ONNX Runtime does not load the model.
    """
    onnxruntime = _runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if not optimised:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory(prefix="fxprune-") as folder, _showing(model, wanted):
        try:
            source = _loadable(model, Path(folder))
            runtime = onnxruntime.InferenceSession(source, options, providers_in_use())
        except Exception as error:
            raise InputError(f"ONNX Runtime does not load the model: {error}") from error
        session = Session(runtime)
        del runtime
        try:
            yield session
        finally:
            session.runtime = None  # frees it, whoever still holds the session


@contextmanager
def _showing(model: onnx_ir.Model, wanted: Sequence[str]) -> Iterator[None]:
    """The model with more outputs, for a while."""
    outputs = list(model.graph.outputs)
    present = {value.name for value in outputs}
    more = [v for node in model.graph for v in node.outputs if v.name in set(wanted) - present]
    model.graph.outputs.extend(more)
    try:
        yield
    finally:
        for _ in more:
            model.graph.outputs.pop()  # tells the value; deleting a slice does not


def _loadable(model: onnx_ir.Model, folder: Path) -> bytes | str:
    """A message with all weights, or the path of a file that names others beside it."""
    tensors = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    elsewhere = any(isinstance(tensor, onnx_ir.ExternalTensor) for tensor in tensors)
    if weight_bytes(model) < _IN_MEMORY_BYTES and not elsewhere:
        message: bytes = onnx_ir.to_proto(model).SerializeToString()
        return message
    onnx_ir.save(model, folder / "model.onnx", external_data="model.onnx.data")
    return str(folder / "model.onnx")


def weight_bytes(model: onnx_ir.Model) -> int:
    """The size of all initialisers, those of subgraphs among them."""
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def random_feeds(
    model: onnx_ir.Model,
    shapes: Mapping[str, Sequence[int]],
    seed: int = 0,
    kind: Numbers = KINDS[0],
) -> Feeds:
    """Inputs of the given shapes: random numbers of a kind, and words of one letter."""
    generator = np.random.default_rng(seed)
    types = {str(value.name): value.dtype for value in model.graph.inputs}
    return {
        name: _random(generator, dtype or onnx_ir.DataType.FLOAT, tuple(shapes[name]), kind)
        for name, dtype in types.items()
    }


def _random(
    generator: np.random.Generator, dtype: onnx_ir.DataType, shape: tuple[int, ...], kind: Numbers
) -> np.ndarray:
    if dtype == onnx_ir.DataType.STRING:
        return generator.choice(list("abcdefgh"), shape).astype(object)
    if not dtype.is_floating_point():
        below = 2 if dtype == onnx_ir.DataType.BOOL else kind.whole_below
        return generator.integers(0, below, shape).astype(dtype.numpy())
    numbers = generator.uniform(size=shape) if kind.positive else generator.standard_normal(shape)
    return (kind.scale * numbers).astype(dtype.numpy())
