"""What does a model take as input, when nobody says so?"""

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxprune.agreement import KINDS, Numbers
from fxprune.errors import InputError, TraceError
from fxprune.torch.frontend.forward import Use, holds_tensor, named_arguments
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.frontend.trace import Arguments, trace

_log = logging.getLogger("fxprune")
_SIZES = (224, 32, 28, 64, 128, 299, 256, 96, 512, 16, 8)


def check_examples(model: nn.Module, example_inputs: Any) -> tuple[Arguments, ...]:
    """Examples, each with one input per argument; a list holds several.

    One is inferred if they are missing, with a log line that says what was assumed.

    Raises:
        InputError: there are none and none can be inferred, or one holds no tensor.
    """
    if example_inputs is None:
        return (infer_example(model),)
    several = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    if not several:
        raise InputError("example_inputs is an empty list: pass at least one example")
    return tuple(one_example(model, each) for each in several)


def one_example(model: nn.Module, given: Any) -> Arguments:
    """An example as one input per argument of forward.

    Raises:
        InputError: it holds no tensor.
    """
    if isinstance(given, Mapping) and holds_tensor(given):
        given = _in_order(model, given)
    example = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not any(map(holds_tensor, example)):
        raise InputError(
            "example_inputs holds no tensor: pass what the model's forward takes, for example "
            "torch.randn(1, 3, 224, 224)"
        )
    return example


def _in_order(model: nn.Module, named: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments by name as a tuple in the order of forward; those between take their defaults."""
    parameters = named_arguments(model)
    names = [p.name for p in parameters]
    if unknown := [name for name in named if name not in names]:
        raise InputError(
            f"{type(model).__name__} takes {', '.join(names)}, not {', '.join(unknown)}: give "
            "example_inputs under these names"
        )
    last = max((names.index(name) for name in named), default=-1)
    if missing := [p.name for p in parameters if p.name not in named and p.default is p.empty]:
        raise InputError(f"example_inputs lack {', '.join(missing)}")
    return tuple(named.get(p.name, p.default) for p in parameters[: last + 1])


def infer_example(model: nn.Module) -> Arguments:
    """An example from a timm configuration, else from the first layer.

    Raises:
        InputError: no candidate runs.
    """
    failure: Exception | None = None
    candidates = [*_configured(model), *_from_first_layer(model)]
    for shape, because in candidates:
        example = torch.empty(shape, device="meta")
        try:
            trace(model, [(example,)], use=Use.LOOK)
        except (InputError, TraceError) as error:
            failure = error
            continue
        _log.warning("no example_inputs given: assumed one tensor of shape %s, %s", shape, because)
        return (example,)
    tried = ", ".join(str(shape) for shape, _ in candidates) or "nothing: no first layer is known"
    raise InputError(
        f"cannot infer what {type(model).__name__} takes as input (tried {tried}): pass "
        "example_inputs, a tensor or a tuple of what its forward takes"
    ) from failure


def _configured(model: nn.Module) -> list[tuple[tuple[int, ...], str]]:
    """timm writes the input size on the model."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if size:
            return [((2, *size), f"as its {name} says")]
    config = getattr(model, "config", None)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if isinstance(size, int) and isinstance(channels, int):
        return [((2, channels, size, size), "as its config says")]
    return []


def _from_first_layer(model: nn.Module) -> list[tuple[tuple[int, ...], str]]:
    for name, module in model.named_modules():
        because = f"because its first layer is {name or 'the model'} ({type(module).__name__})"
        if isinstance(module, nn.Linear):
            return [((2, module.in_features), because)]
        for rank, kind in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), start=1):
            if isinstance(module, kind):
                sizes = _SIZES if rank < 3 else (16, 32, 64, 112)
                return [((2, module.in_channels, *(size,) * rank), because) for size in sizes]
    return []


def inputs_of_part(model: nn.Module, part: nn.Module, example_inputs: Any) -> list[Arguments]:
    """What a part of a model is called with when the model runs on its examples, for each of them.

    The model runs once on each, in evaluation, without gradients.

    Raises:
        InputError: the model does not accept the inputs, or does not call the part.
    """
    seen: list[dict[str, Any]] = []
    signature = inspect.signature(part.forward)

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(dict(signature.bind(*args, **kwargs).arguments))

    inputs: list[Arguments] = []
    handle = part.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with in_evaluation(model), torch.no_grad():
            for example in check_examples(model, example_inputs):
                model(*example)
                inputs += [_in_order(part, given) for given in seen[:1]]
                seen.clear()
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} does not run on the example_inputs: {error}"
        ) from error
    finally:
        handle.remove()
    if not inputs:
        raise InputError(f"scope: the model never calls that {type(part).__name__}")
    return inputs


def random_inputs(
    example: Arguments, batch_sizes: Sequence[int], seed: int, kind: Numbers = KINDS[0]
) -> list[Arguments]:
    """Random inputs like an example; by default standard normal, and zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {value.shape[0] for value in example if isinstance(value, Tensor) and value.dim()}
    batches: list[Arguments] = []
    for size in batch_sizes if len(sizes) == 1 else (0,):
        batches.append(tuple(_random(value, size, generator, kind) for value in example))
    return batches


def inputs_to_compare(example: Arguments, batch_sizes: Sequence[int], seed: int) -> list[Arguments]:
    """Random inputs of every batch size, and of the first one twice: what stays shows nothing."""
    again = random_inputs(example, batch_sizes[:1], seed + 1)
    return [*random_inputs(example, batch_sizes, seed), *again]


def inputs_like(
    examples: Iterable[Arguments], batch_sizes: Sequence[int], seed: int
) -> list[Arguments]:
    """Random inputs to compare, for all of several examples."""
    return [
        batch for example in examples for batch in inputs_to_compare(example, batch_sizes, seed)
    ]


def random_like(batch: Arguments, seed: int) -> Iterator[Arguments]:
    """Inputs of the very same shapes, one of each kind."""
    for number, kind in enumerate(KINDS):
        yield from random_inputs(batch, (0,), seed + number, kind)


def _random(value: Any, batch: int, generator: torch.Generator, kind: Numbers) -> Any:
    if not isinstance(value, Tensor):
        return value
    shape = (batch or value.shape[0], *value.shape[1:]) if value.dim() else ()
    if value.is_floating_point():
        draw = torch.rand if kind.positive else torch.randn
        numbers = draw(shape, generator=generator, dtype=value.dtype)
        return numbers if kind.scale == 1 else kind.scale * numbers
    below = 2 if value.dtype is torch.bool else kind.whole_below
    return torch.randint(0, below, shape, generator=generator).to(value.dtype)
