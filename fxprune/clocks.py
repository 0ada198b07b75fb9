"""By what is the time of a model measured, and what was found?"""

from dataclasses import asdict, dataclass
from typing import Any

from fxprune.arguments import choice, listed, refusal, whole
from fxprune.errors import InputError

TORCH, ONNX_RUNTIME = "torch", "onnxruntime"


@dataclass(frozen=True, slots=True)
class Clock:
    """How targets on latency are measured: by what, with how many threads, on how many samples.

    >>> Clock("onnxruntime", threads=4)
    Clock(runtime='onnxruntime', threads=4, batch=1, providers=None)

    Args:
        runtime: "torch" (where the weights are) or "onnxruntime"; if missing, torch for modules
            and ONNX Runtime for files. With "onnxruntime" modules are exported to be measured.
        threads: how many threads compute one model.
        batch: the samples of one run; an ONNX file may insist on another number.
        providers: what ONNX Runtime computes with, by its own names; the CPU if missing.

    Raises:
        InputError: an argument does not fit.
    """

    runtime: str | None = None
    threads: int = 1
    batch: int = 1
    providers: Any = None

    def __post_init__(self) -> None:
        if self.runtime is not None:
            choice("runtime", self.runtime, (TORCH, ONNX_RUNTIME))
        whole("threads", self.threads, "a number of threads from 1 on")
        whole("batch", self.batch, "a number of samples from 1 on")
        if self.providers is None:
            return
        wanted = "names of providers, such as ['CUDAExecutionProvider', 'CPUExecutionProvider']"
        given = listed("providers", self.providers, wanted)
        names = [item[0] if _is_pair(item) else item for item in given]
        if not names or not all(isinstance(name, str) for name in names):
            raise refusal("providers", self.providers, wanted)
        if self.runtime == TORCH:
            raise refusal("providers", self.providers, 'them with runtime="onnxruntime" only')


def _is_pair(item: Any) -> bool:
    """Whether a provider comes with options."""
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], dict)


def clock_for(times: Any, clock: Any, instead: str = "") -> Clock | None:
    """The clock by which a target is measured; None where nothing is.

    Args:
        times: what the target asks of time.
        clock: what the user gave, None for the default.
        instead: the argument with which times stay predictions, if it is given.

    Raises:
        InputError: it is no clock, or there is nothing to measure.
    """
    if clock is not None:
        if not isinstance(clock, Clock):
            raise refusal(
                "clock", clock, 'a clock, such as fxprune.Clock("onnxruntime", threads=1)'
            )
        if not times:
            raise InputError(
                'clock= measures targets on time, and there is none: give target={"latency": 0.5}'
            )
        if instead:
            raise InputError(f"clock= does not go with {instead}=: limit macs there")
    return None if instead or not times else clock or Clock()


@dataclass(frozen=True, slots=True)
class Timed:
    """What measuring has found of a model that was to take a share of the time of the whole one.

    `first` is what the model took that was predicted to take the share that was `wanted`, `share`
    what the last one takes, `measured` how often models were, `multiple` what its widths are
    multiples of. `provider` is that of ONNX Runtime, or the device of torch.
    """

    share: float
    wanted: float
    first: float
    whole_ms: float
    runtime: str
    provider: str
    threads: int
    batch: int
    multiple: int
    measured: int

    def __str__(self) -> str:
        name = {TORCH: "torch", ONNX_RUNTIME: "ONNX Runtime"}.get(self.runtime, self.runtime)
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return (
            f"time: {self.share:.1%} of {self.whole_ms:.3g} ms, {self.wanted:.1%} wanted; measured "
            f"by {name} ({self.provider}, {threads}, batch {self.batch}), {self.measured} times"
        )

    def numbers(self) -> dict[str, float]:
        """What of it is a number, as trackers take it."""
        named = {f"time_{name}": value for name, value in asdict(self).items()}
        return {name: value for name, value in named.items() if not isinstance(value, str)}
