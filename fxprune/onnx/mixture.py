"""Channels, ranks or neither in an ONNX file: filled as `fxprune/mixing.py` chooses."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir

from fxprune.layout import layout_of
from fxprune.mixing import Attempt, Candidate, Two, forms_at, scores, settled
from fxprune.onnx.choose import bounds_on, filled
from fxprune.onnx.criteria import observed, weight_of
from fxprune.onnx.factorise import can_be, check_finite, names_of
from fxprune.onnx.frontend.program import OnnxProgram
from fxprune.onnx.pairs import layers_of, pairs_of
from fxprune.onnx.splitting import as_pairs, factorised
from fxprune.passes.analyse import Analysis
from fxprune.passes.factorisation import Form
from fxprune.ranking import completed, group_norm
from fxprune.selectors import Selector
from fxprune.targets import Limits, absolute

Read = Callable[[onnx_ir.Model], tuple[OnnxProgram, Analysis]]
"""A model as a program, and what is known of it, with what is left alone pinned."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """A program some layers of which are two, the facts about it, and what it keeps."""

    program: OnnxProgram
    analysis: Analysis
    keep: dict[str, tuple[bool, ...]]


def mixed(
    program: OnnxProgram,
    analysis: Analysis,
    limits: Limits,
    forms: Iterable[Form],
    read: Read,
    ignored: Collection[Selector],
) -> Mixture:
    """Layers as two where that loses less, and positions closed until a target is met.

    Args:
        program: the model as it is, with its data, if there is some.
        analysis: the facts about it.
        limits: what may remain, of the model as it is.
        forms: the forms that layers may have.
        read: reads a model as this one was read.
        ignored: what the user leaves alone.

    Raises:
        TargetError: the target is not reached.
    """
    feeds = program.feeds
    bounds = bounds_on(analysis, limits)
    able = {form.name: _able(program.model, form, ignored) for form in forms}
    check_finite(program.model, {name for own in able.values() for name in own})
    energies = {form: factorised(program.model, own, feeds)[1] for form, own in able.items()}
    (key, bound), *_ = bounds.items()
    full = _cost(analysis, key)
    chosen = forms_at(analysis, key, min(bound / full, 1.0), _candidates(program, energies))
    halves, _ = factorised(program.model, chosen, feeds)

    def attempt(left: Mapping[str, str]) -> Attempt:
        pairs = as_pairs(program.model, {name: halves[name] for name in left})
        now, known = read(pairs)
        two, own = (
            _two(now.model, left),
            {name: energies[form][name] for name, form in left.items()},
        )
        flow = observed(now, known, feeds) if feeds else None
        found = scores(known, bounds, two, own, weight_of(now), flow)
        by_weights = lambda: group_norm(known, weight_of(now))  # noqa: E731
        rank = completed(known, layout_of(known), found, by_weights)
        keep = filled(known, replace(limits, target=absolute(bounds)), rank)
        kept = {name: sum(flags) for name, flags in keep.items()}
        return Attempt(Mixture(now, known, keep), known, two, kept)

    mixture: Mixture = settled(chosen, attempt).model
    return mixture


def _able(model: onnx_ir.Model, form: Form, ignored: Collection[Selector]) -> dict[str, str]:
    """The layers that may have a form."""
    layers = layers_of(model)
    return {
        name: own
        for name, own in can_be(model, form).items()
        if not any(each.fits_path(path) for each in ignored for path in names_of(layers[name]))
    }


def _cost(analysis: Analysis, key: str) -> float:
    """What is limited, of the model as it is."""
    name, _, inside = key.partition(" of ")
    costs = analysis.costs_inside(inside) if inside else analysis.costs
    return float(costs.polynomials[name](costs.full))


def _candidates(
    program: OnnxProgram, energies: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, Candidate]:
    """The layers that may be two, by name."""
    layers = layers_of(program.model)
    names = dict.fromkeys(name for own in energies.values() for name in own)
    return {
        name: Candidate(
            layers[name].layer,
            name,
            names_of(layers[name])[1],
            {form: own[name] for form, own in energies.items() if name in own},
        )
        for name in names
    }


def _two(model: onnx_ir.Model, chosen: Collection[str]) -> dict[str, Two]:
    """The layers that are two by choice, by name, as passes know them."""
    return {
        name: Two(
            pair.layer,
            pair.form.name,
            pair.first.name,
            pair.second.name,
            inputs=0 if pair.first.transposed else 1,
            outputs=1 if pair.second.transposed else 0,
        )
        for name, pair in pairs_of(model).items()
        if name in chosen
    }
