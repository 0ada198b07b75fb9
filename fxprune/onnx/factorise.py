"""Layers of ONNX files written as two with the rank between them; and pairs made one again.

The rank is a group of the new file like any other: `prune_onnx` and `fold_onnx` make it smaller.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from fxprune.agreement import Verdict
from fxprune.arguments import shapes as check_shapes
from fxprune.errors import InputError
from fxprune.onnx.backend.saving import check_weights_apart, place_of, save_onnx
from fxprune.onnx.frontend.data import Data
from fxprune.onnx.frontend.names import module_of
from fxprune.onnx.frontend.program import read_onnx
from fxprune.onnx.pairs import Weighed, layers_of, pairs_of, refusal_of
from fxprune.onnx.splitting import as_pairs, factorised, merge_pair
from fxprune.onnx.verify import verify_rounded
from fxprune.passes.factorisation import FORMS, Factorised, Form, form_of
from fxprune.selectors import chosen_layers
from fxprune.stages import stage


@dataclass(frozen=True, slots=True)
class OnnxFactors:
    """An ONNX model some layers of which are two, and what comparing it found.

    `layers` are all that could be two, by the names of their weights: form and rank, or why not.
    """

    model: onnx_ir.Model
    layers: tuple[Factorised, ...]
    verdict: Verdict

    def __str__(self) -> str:
        two = [f"{one.name}: {one.form}, rank {one.rank}" for one in self.layers if one.form]
        whole = [f"{one.name}: whole, {one.reason}" for one in self.layers if not one.form]
        return "\n".join((*two, *whole, str(self.verdict)))


def factorise_onnx(
    source: Any,
    output: str | Path | None = None,
    *,
    layers: Iterable[str] = ("*",),
    form: str = "low_rank",
    data: Data | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    overwrite: bool = False,
) -> OnnxFactors:
    """An ONNX model of which layers are two with their rank between them; it computes the same.

    Nothing is smaller yet: at its full rank a pair costs more than its layer. `fold_onnx` and
    `prune_onnx` close positions of the rank, then `merge_onnx` makes pairs that do not pay one.
    The file appears only once ONNX Runtime has found that it computes what the source does.

    Args:
        source: a path, bytes, a ModelProto or an onnx_ir.Model; it stays as it is.
        output: the file to write; None writes nothing.
        layers: names of weights, of modules as exporters note them, or patterns. By default all
            convolutions, matrix products with stored weights and lookups that can be two.
        form: "low_rank", "separable" or "spatial", see `factorise`.
        data: batches of inputs, as for `prune_onnx`: the positions of a rank are then the
            principal components of what the layer returns on them (Wang et al. 2024).
        shapes: shapes of inputs by name, where what the file leaves open matters.
        overwrite: whether a file that is there already may be replaced; never the source.

    Raises:
        InputError, CheckpointError: an argument does not fit, or the file is no valid model.
        NothingToPruneError: no layer of the model can be two.
        VerificationError: the new model computes something else.
    """
    chosen_form, shapes = form_of(form), check_shapes(shapes)
    place = place_of(output, overwrite, source, data)
    stage("reading")
    program = read_onnx(source, shapes, data)
    model, feeds = program.model, program.feeds
    check_weights_apart(place, model)
    chosen = _chosen(model, layers, chosen_form)
    check_finite(model, chosen)
    halves, _ = factorised(model, dict.fromkeys(chosen, form), feeds)
    pairs = as_pairs(model, halves)
    verdict = verify_rounded(
        model,
        pairs,
        inputs=feeds[:2],
        shapes=shapes,
        batch_sizes=() if feeds else (1, 2, 3),
        what="whole == pairs",
    )
    return _result(pairs, verdict, place, overwrite)


def merge_onnx(
    source: Any,
    output: str | Path | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    overwrite: bool = False,
) -> OnnxFactors:
    """An ONNX model in which every pair that does not do less than its one layer is that layer.

    A pair is any two layers that are one of some form, with nothing between them, whoever wrote
    the file. It appears only once ONNX Runtime has found that it computes what the source does.

    Args:
        source: a path, bytes, a ModelProto or an onnx_ir.Model; it stays as it is.
        output: the file to write; None writes nothing.
        shapes: shapes of inputs by name, where what the file leaves open matters.
        overwrite: whether a file that is there already may be replaced; never the source.

    Raises:
        InputError, CheckpointError: an argument does not fit, or the file is no valid model.
        VerificationError: the new model computes something else.
    """
    shapes = check_shapes(shapes)
    place = place_of(output, overwrite, source)
    stage("reading")
    model = read_onnx(source, shapes).model
    check_weights_apart(place, model)
    merged = model.clone()
    for pair in pairs_of(merged).values():
        if not pair.form.pays(pair.layer, pair.rank):
            merge_pair(merged.graph, pair)
    verdict = verify_rounded(model, merged, shapes=shapes, what="pairs == merged")
    return _result(merged, verdict, place, overwrite)


def _result(
    model: onnx_ir.Model, verdict: Verdict, place: Path | None, overwrite: bool
) -> OnnxFactors:
    if place is not None:
        stage("writing")
        save_onnx(model, place, overwrite=overwrite)
    return OnnxFactors(model, factors_of(model), verdict)


def factors_of(model: onnx_ir.Model) -> tuple[Factorised, ...]:
    """Every layer that could be two: its form and rank if it is, else why it is whole."""
    pairs = pairs_of(model).items()
    found = [Factorised(name, pair.form.name, pair.rank) for name, pair in pairs]
    for name, layer in layers_of(model).items():
        reasons = [refusal_of(layer, form) for form in FORMS.values()]
        found.append(
            Factorised(name, reason="nobody asked for it" if "" in reasons else reasons[0])
        )
    return tuple(found)


def can_be(model: onnx_ir.Model, form: Form) -> dict[str, str]:
    """The layers of a model that can have a form, by name, with its name."""
    layers = layers_of(model)
    return {name: form.name for name, layer in layers.items() if not refusal_of(layer, form)}


def check_finite(model: onnx_ir.Model, names: Iterable[str]) -> None:
    """Raise InputError where weights have no singular values."""
    layers = layers_of(model)
    for name in names:
        if not np.isfinite(layers[name].array).all():
            raise InputError(f"{name} holds NaN or infinite weights, which have no factors")


def names_of(layer: Weighed) -> tuple[str, str]:
    """What users call a layer: its weights, and the module that it is in."""
    own, _, _ = layer.name.rpartition(".")
    return layer.name, own or module_of(layer.node)


def _chosen(model: onnx_ir.Model, wanted: Any, form: Form) -> list[str]:
    """The layers that are meant and can have a form."""
    known = layers_of(model)
    whole = {name: refusal_of(layer, form) for name, layer in known.items()}
    called = {name: names_of(layer) for name, layer in known.items()}
    return chosen_layers(wanted, called, whole, f"be {form.name}")
