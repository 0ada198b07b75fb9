"""How many multiply-accumulates does a model make? Counted while it runs."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, inputs: Sequence[Any]) -> int:
    """Multiply-accumulates that torch counts while the model runs.

    Its counter does not know the fused attention of CPUs, so that attention runs as products, nor
    bilinear layers, nor operators of other libraries, nor the products of single positions that an
    einsum may become, so that we count those here.
    """
    uncounted, attention = _Uncounted(), sdpa_kernel(SDPBackend.MATH)
    with attention, FlopCounterMode(display=False) as counter, uncounted:
        model(*copy.deepcopy(tuple(inputs)))  # torch's counter expects gradients to be recorded
    return int(counter.get_total_flops()) // 2 + uncounted.macs


class _Uncounted(TorchFunctionMode):
    """Counts bilinear layers, einsums of two arrays without `...`, and rows times matrices of a
    stack as transformers computes them, as it runs them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch; an einsum as a product of stretched arrays and a sum."""
        if func in (F.bilinear, torch.bilinear):
            self.macs += args[0].numel() * args[1].shape[-1] * args[2].shape[0]
        if getattr(func, "__name__", "") == "grouped_mm_fallback":
            self.macs += args[0].numel() * args[1].shape[-1]
        if func is not torch.einsum or len(args) != 3 or "." in args[0]:
            return func(*args, **(kwargs or {}))
        (left, right), result = args[0].split("->")[0].split(","), args[0].split("->")[1]
        order = result + "".join(sorted({*left, *right} - {*result}))
        product = _stretched(args[1], left, order) * _stretched(args[2], right, order)
        self.macs += product.numel()
        summed = tuple(range(len(result), len(order)))
        return product.sum(summed) if summed else product


def _stretched(array: Tensor, letters: str, order: str) -> Tensor:
    """An array with an axis for every letter of `order`, of one position where it has none."""
    array = array.permute([letters.index(letter) for letter in order if letter in letters])
    return array[tuple(slice(None) if letter in letters else None for letter in order)]
