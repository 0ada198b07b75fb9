"""The numbers of layers that become two: singular values, and what data says of ranks.

A weight is seen as one matrix of rows and columns, or several (`passes/factorisation.py` says
which); each is `second @ first`. All numbers are doubles.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fxprune.passes.factorisation import Form, Layer


@dataclass(frozen=True, slots=True)
class Factors:
    """`first` of shape (matrices, rank, columns), `second` of shape (matrices, rows, rank).

    `energies`, of shape (rank,), says by how much the square norm of what the layer returns changes
    without a position: on white inputs its squared singular value, else as data has it.
    """

    first: np.ndarray
    second: np.ndarray
    energies: np.ndarray


def factors_of(matrices: np.ndarray) -> Factors:
    """The exact factors of matrices, of shape (matrices, rows, columns), the largest first.

    Both factors of a position have one norm, the root of its singular value, so that norms of
    weights rank by singular values.

    >>> found = factors_of(np.array([[[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]]))
    >>> found.energies.tolist(), np.linalg.norm(found.first, axis=2).round(3).tolist()
    ([9.0, 4.0], [[1.732, 1.414]])
    """
    left, values, right = np.linalg.svd(matrices, full_matrices=False)
    roots = np.sqrt(values)
    return Factors(
        roots[:, :, None] * right, left * roots[:, None, :], np.square(values).sum(axis=0)
    )


def turned(factors: Factors, moments: np.ndarray) -> Factors:
    """The same product, of which the positions are the principal components of its results.

    Without the last ones as little is lost as with any so many (SVD-LLM, Wang et al. 2024, section
    3.1, solves the same with a Cholesky factor of the inputs). With second = Q R (Q orthogonal)
    and M the moments of what the first layer returns, R M R' = E L E' has the energies L, and

        second first = (Q E) (E' R first)

    holds exactly, whatever the data.

    Args:
        factors: the factors of a layer.
        moments: mean products of what the first layer returns, of shape (matrices, rank, rank).
    """
    outer, inner = np.linalg.qr(factors.second)
    energies, axes = np.linalg.eigh(inner @ moments @ inner.transpose(0, 2, 1))
    energies, axes = energies[:, ::-1], axes[:, :, ::-1]
    first, second = axes.transpose(0, 2, 1) @ inner @ factors.first, outer @ axes
    norms = np.linalg.norm(first, axis=2)
    roots = np.sqrt(np.where(norms > 0, norms, 1.0))
    return Factors(
        first / roots[:, :, None],
        second * roots[:, None, :],
        np.maximum(energies, 0.0).sum(axis=0),
    )


def matrices_of(weight: np.ndarray, form: Form) -> np.ndarray:
    """Weights of shape (o, i, *kernel) as matrices, of shape (matrices, rows, columns)."""
    outputs, inputs, *kernel = weight.shape
    matrices = inputs if form.by_input else 1
    own = len(form.first_kernel(tuple(kernel))[: form.in_first])
    array = weight.reshape(outputs, matrices, inputs // matrices, *kernel)
    first, second = (tuple(range(3, 3 + own)), tuple(range(3 + own, array.ndim)))
    rows = outputs * int(np.prod(kernel[own:], dtype=int))
    return array.transpose(1, 0, *second, 2, *first).reshape(matrices, rows, -1)


def first_weight(first: np.ndarray, form: Form, kernel: tuple[int, ...]) -> np.ndarray:
    """The weights of the first layer, of shape (matrices * rank, i / matrices, *kernel)."""
    count, rank, _ = first.shape
    return first.reshape(count * rank, -1, *form.first_kernel(kernel))


def second_weight(
    second: np.ndarray, form: Form, outputs: int, kernel: tuple[int, ...]
) -> np.ndarray:
    """The weights of the second layer, of shape (o, matrices * rank, *kernel)."""
    count, _, rank = second.shape
    own = form.second_kernel(kernel)
    array = second.reshape(count, outputs, -1, rank).transpose(1, 0, 3, 2)
    return array.reshape(outputs, count * rank, *own)


def first_matrices(weight: np.ndarray, matrices: int) -> np.ndarray:
    """The weights of a first layer as `Factors` have them."""
    return weight.reshape(matrices, len(weight) // matrices, -1)


def second_matrices(weight: np.ndarray, matrices: int) -> np.ndarray:
    """The weights of a second layer as `Factors` have them."""
    outputs, channels, *_ = weight.shape
    array = weight.reshape(outputs, matrices, channels // matrices, -1).transpose(1, 0, 3, 2)
    return array.reshape(matrices, -1, channels // matrices)


def product(first: np.ndarray, second: np.ndarray, form: Form, layer: Layer) -> np.ndarray:
    """The weights of the one layer, of shape (o, i, *kernel), from those of its two.

    >>> from fxprune.passes.factorisation import form_of
    >>> form, layer = form_of("spatial"), Layer(2, 3, (5, 4))
    >>> weight = np.arange(120.0).reshape(2, 3, 5, 4)
    >>> found = factors_of(matrices_of(weight, form))
    >>> first = first_weight(found.first, form, layer.kernel)
    >>> second = second_weight(found.second, form, layer.outputs, layer.kernel)
    >>> bool(np.allclose(product(first, second, form, layer), weight))
    True
    """
    count = form.matrices(layer)
    found = second_matrices(second, count) @ first_matrices(first, count)
    rows = form.second_kernel(layer.kernel)
    columns = form.first_kernel(layer.kernel)
    array = found.reshape(count, layer.outputs, *rows, layer.inputs // count, *columns)
    size = len(layer.kernel)
    own = len(columns[: form.in_first])
    kept = [2 + size + 1 + axis if axis < own else 2 + axis for axis in range(size)]
    gone = tuple(axis for axis in range(2, array.ndim) if axis not in (2 + size, *kept))
    order = (1, 0, 2 + size, *kept, *gone)
    weight: np.ndarray = array.transpose(order)
    return weight.reshape(layer.outputs, layer.inputs, *layer.kernel)


def moments_of(array: np.ndarray, axis: int, matrices: int) -> tuple[np.ndarray, int]:
    """Sums of the products of positions of an axis, of shape (matrices, rank, rank), and how many.

    Args:
        array: what a first layer returns.
        axis: its channels, those of each matrix together.
        matrices: how many of them there are.
    """
    rows = np.moveaxis(array.astype(np.float64), axis, 0)
    rows = rows.reshape(matrices, len(rows) // matrices, -1)
    return rows @ rows.transpose(0, 2, 1), rows.shape[-1]


def portions(sizes: Mapping[str, int], most: int = 1 << 30) -> Iterator[list[str]]:
    """Names whose bytes together are at most so many, or one that has more.

    >>> list(portions({"a": 2, "b": 2, "c": 9}, 4))
    [['a', 'b'], ['c']]
    """
    some: list[str] = []
    used = 0
    for name, size in sizes.items():
        if some and used + size > most:
            yield some
            some, used = [], 0
        some.append(name)
        used += size
    yield some
